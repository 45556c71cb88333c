//! The command line.

use crate::audit::{self, ExpectedHead};
use crate::cage::Layers;
use crate::caller::{Caller, user_id};
use crate::policy::Policy;
use crate::serve::{self, Settings};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use rustix::fd::AsFd as _;
use rustix::fs::{Mode, OFlags};
use std::io::Write as _;
use std::path::PathBuf;

/// Ended as asked: a served session that was finished or cancelled, an audit log that is whole.
pub const EXIT_OK: i32 = 0;
/// Something the helper needs failed; the message says what.
pub const EXIT_FAILED: i32 = 1;
/// The command line is wrong.
pub const EXIT_USAGE: i32 = 2;
/// Refused: not root, or a caller without a right.
pub const EXIT_REFUSED: i32 = 3;
/// The audit log is damaged.
pub const EXIT_AUDIT_DAMAGED: i32 = 4;
/// A session ended badly: a restore failed, or the front-end broke the protocol.
pub const EXIT_SESSION_FAILED: i32 = 5;
/// The sandbox cannot be built here (no Landlock, say), and root did not allow to go on without.
pub const EXIT_NO_SANDBOX: i32 = 6;

const EXIT_HELP: &str = "\
Exit codes:
  0  ended as asked
  1  something the helper needs failed
  2  wrong usage
  3  refused: not root, or a caller without a right
  4  the audit log is damaged
  5  a session ended badly (--stdio, --once): a restore failed, or the front-end broke the protocol
  6  the sandbox cannot be built here";

const DEFAULT_ROOT: &str = "/";
const DEFAULT_STATE: &str = "/var/lib/proxsave";

fn command() -> Command {
    let path = |id: &'static str, name: &'static str| {
        Arg::new(id).long(id).value_name(name).value_parser(value_parser!(PathBuf))
    };
    let flag = |id: &'static str| Arg::new(id).long(id).action(ArgAction::SetTrue);
    let state =
        || path("state", "DIR").default_value(DEFAULT_STATE).help("Where the audit log and open transactions are kept");
    let serve = Command::new("serve")
        .about("Serves front-ends: checks their plans and carries them out")
        .arg(
            path("listen", "SOCKET")
                .help("Listen on a Unix socket made here")
                .conflicts_with("stdio")
                .required_unless_present("stdio"),
        )
        .arg(flag("stdio").help("Serve the one front-end that descriptor 0 (a Unix socket) leads to"))
        .arg(path("root", "DIR").default_value(DEFAULT_ROOT).help("Restore below this directory"))
        .arg(state())
        .arg(flag("once").help("End after one connection"))
        .arg(
            Arg::new("for-user")
                .long("for-user")
                .value_name("USER|UID")
                .help("Let this user in besides root, for every category that a restore writes"),
        )
        .arg(flag("grant-privileged-bits").help("Restore set-id bits and file capabilities instead of dropping them"))
        .arg(
            flag("without-landlock").help(
                "Go on with the other layers of the sandbox on a kernel without Landlock; the audit log records it",
            ),
        )
        .after_help(EXIT_HELP);
    let verify = Command::new("verify")
        .about("Checks the audit log and names the first bad line")
        .arg(state())
        .arg(
            Arg::new("head")
                .long("expect-head")
                .value_name("LINES:HASH")
                .help("The head of the log as attested elsewhere (in a restore's report): shows a missing end"),
        )
        .arg(flag("json").help("Print the result as JSON"))
        .after_help(EXIT_HELP);
    Command::new("proxsave-helper")
        .about("The root side of ProxSave: carries out checked plans inside a sandbox")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve)
        .subcommand(
            Command::new("audit")
                .about("The audit log")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(verify),
        )
        .after_help(EXIT_HELP)
}

/// Runs the program. Gives the exit status.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> i32 {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Nothing can be done about a closed standard error.
            let _ = error.print();
            return if error.use_stderr() { EXIT_USAGE } else { EXIT_OK };
        }
    };
    match matches.subcommand() {
        Some(("serve", matches)) => run_serve(matches),
        Some(("audit", matches)) => match matches.subcommand() {
            Some(("verify", matches)) => run_verify(matches),
            _ => EXIT_USAGE,
        },
        _ => EXIT_USAGE,
    }
}

fn run_serve(matches: &ArgMatches) -> i32 {
    let for_user = match matches.get_one::<String>("for-user").map(|text| (text, parse_user(text))) {
        None => None,
        Some((_, Some(uid))) => Some(uid),
        Some((text, None)) => {
            tell(&format!(
                "--for-user: there is no user {} in /etc/passwd; give a name or a number",
                proxsave_proto::escape::escape(text.as_bytes())
            ));
            return EXIT_USAGE;
        }
    };
    let directory = |id| matches.get_one::<PathBuf>(id).cloned().unwrap_or_default();
    let settings = Settings {
        root: directory("root"),
        state: directory("state"),
        for_user,
        policy: Policy::from_arguments(for_user, matches.get_flag("grant-privileged-bits")),
        layers: if matches.get_flag("without-landlock") { Layers::WITHOUT_LANDLOCK } else { Layers::ALL },
        once: matches.get_flag("once"),
    };
    let served = match matches.get_one::<PathBuf>("listen") {
        Some(path) => serve::listen(path, &settings),
        None => serve::stdio(&settings),
    };
    served.unwrap_or_else(|error| {
        tell(&error.to_string());
        error.exit_code()
    })
}

fn run_verify(matches: &ArgMatches) -> i32 {
    let expected = match matches.get_one::<String>("head").map(|text| text.parse::<ExpectedHead>()) {
        None => None,
        Some(Ok(head)) => Some(head),
        Some(Err(_)) => {
            tell("--expect-head: give the number of lines and the hash, as LINES:HASH");
            return EXIT_USAGE;
        }
    };
    let state = matches.get_one::<PathBuf>("state").cloned().unwrap_or_default();
    // Not as the helper opens it: nothing is made here, and a copy of the directory can be checked by anybody.
    let dir = rustix::fs::open(&state, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let result = dir
        .map_err(|errno| audit::VerifyError::Open(errno.into()))
        .and_then(|dir| audit::verify(dir.as_fd(), expected));
    let text = match &result {
        _ if matches.get_flag("json") => audit::to_json(&result).to_string(),
        Ok(verified) => verified.to_string(),
        Err(error) => error.to_string(),
    };
    let printed = writeln!(std::io::stdout(), "{text}");
    match (result, printed) {
        (_, Err(_)) | (Err(audit::VerifyError::Open(_) | audit::VerifyError::Read { .. }), _) => EXIT_FAILED,
        (Ok(_), Ok(())) => EXIT_OK,
        (Err(_), Ok(())) => EXIT_AUDIT_DAMAGED,
    }
}

/// A user by number or by name in `/etc/passwd`.
fn parse_user(text: &str) -> Option<u32> {
    // 2^32-1 means "no user" to the kernel.
    text.parse().ok().filter(|uid| *uid != u32::MAX).or_else(|| user_id(text))
}

/// One line on standard error, where root reads it.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "proxsave-helper: {text}");
}

/// How a connection is announced on standard error.
pub(crate) fn tell_refused(caller: &Caller) {
    tell(&format!("refused {caller}: no rule lets that user in (see --for-user)"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(arguments: &[&str]) -> i32 {
        run(["proxsave-helper"].iter().chain(arguments).map(Into::into))
    }

    #[test]
    fn the_command_line_is_consistent_and_wrong_use_says_so() {
        command().debug_assert();
        assert_eq!(status(&["--help"]), EXIT_OK);
        assert_eq!(status(&[]), EXIT_USAGE);
        assert_eq!(status(&["serve"]), EXIT_USAGE);
        assert_eq!(status(&["serve", "--stdio", "--listen", "/x"]), EXIT_USAGE);
        assert_eq!(status(&["serve", "--listen", "/x", "--policy", "/y"]), EXIT_USAGE);
        assert_eq!(status(&["serve", "--stdio", "--for-user", "no such user"]), EXIT_USAGE);
        assert_eq!(status(&["audit", "verify", "--expect-head", "x"]), EXIT_USAGE);
    }

    #[test]
    fn users_are_names_or_numbers() {
        assert_eq!(parse_user("root"), Some(0));
        assert_eq!(parse_user("1234"), Some(1234));
        assert_eq!(parse_user("4294967295"), None);
        assert_eq!(parse_user("-1"), None);
    }
}
