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
    let ended = run(&cli);
    match ended {
        Ok(exit) => exit,
        // Whatever it led to, the operator's Ctrl-C is the reason.
        Err(_) if interrupt::raised() => {
            eprintln!("proxsave-ui: stopped by the operator; nothing was written to the root");
            Exit::Stopped
        }
        Err(failure) if failure.exit == Exit::Stopped => {
            eprintln!("proxsave-ui: stopped by the operator; nothing was written to the root");
            Exit::Stopped
        }
        Err(failure) => {
            eprintln!("proxsave-ui: {failure}");
            failure.exit
        }
    }
}

fn run(cli: &Cli) -> Result<Exit, Failure> {
    let context = |no_input: bool| Context::new(cli.log_level, no_input);
    match &cli.command {
        Command::List(args) => look::list(&mut context(true), args),
        Command::Show(args) => look::show(&mut context(args.open.no_input), args),
        Command::Verify(args) => look::verify(&mut context(args.open.no_input), args),
        Command::Decrypt(args) => decrypt::decrypt(&mut context(args.open.no_input), args),
        Command::Plan(args) => {
            let reach = plan::reach(args)?;
            plan::plan(&mut context(args.open.no_input), args, reach)
        }
        Command::Restore(args) => {
            // First of all: this is where root's rights are given up.
            let reach = launch::settle(&args.helper)?;
            restore::restore(&mut context(args.open.no_input), args, reach)
        }
    }
}
