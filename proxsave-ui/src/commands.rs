//! One module for each command, and what they share.

mod context;
mod decrypt;
mod failure;
pub mod launch;
mod look;
mod plan;
mod prepare;
pub mod pump;
mod report;
mod restore;
mod session;
mod text;

pub use context::{Context, Reading, go_on};
pub use failure::Failure;
pub use session::Session;

use crate::cli::{Cli, Command, Exit, modern};
use crate::sys::interrupt;
use clap::Parser as _;
use std::ffi::OsString;

/// Runs the program: reads the command line, does what it says, tells what went wrong, gives the exit code.
#[must_use]
pub fn main(words: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(modern(words)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for; everything else is a wrong command line.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            let _ = error.print();
            return exit;
        }
    };
    if let Err(error) = interrupt::install() {
        eprintln!("proxsave-ui: signals cannot be caught: {error}");
        return Exit::Failed;
    }
    let mut context = Context::new(cli.log_level, cli.command.no_input());
    let failure = match run(&cli.command, &mut context) {
        Ok(exit) => return exit,
        // Whatever it led to, the operator's Ctrl-C is the reason.
        Err(failure) if interrupt::raised() || failure.exit == Exit::Stopped => {
            Failure::new(Exit::Stopped, "stopped by the operator; nothing was written to the root")
        }
        Err(failure) => failure,
    };
    eprintln!("proxsave-ui: {failure}");
    if cli.command.json() && !context.has_printed() {
        let document = serde_json::json!({"error": failure.text, "exit_code": failure.exit.code()});
        // What cannot be told on standard output was told on standard error.
        let _ = context.print(format!("{document:#}"));
    }
    failure.exit
}

fn run(command: &Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::List(args) => look::list(context, args),
        Command::Show(args) => look::show(context, args),
        Command::Verify(args) => look::verify(context, args),
        Command::Decrypt(args) => decrypt::decrypt(context, args),
        Command::Plan(args) => plan::plan(context, args, plan::reach(args)?),
        // First of all, before anything is read: this is where root's rights are given up.
        Command::Restore(args) => {
            let reach = launch::settle(&args.helper)?;
            restore::restore(context, args, reach)
        }
    }
}
