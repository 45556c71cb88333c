//! How the program ends.

/// The exit codes. They are part of the interface: scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// It failed for a reason without a code of its own.
    Failed,
    /// The command line is wrong, or `--no-input` met a question without an answer.
    Usage,
    /// No backup was found, or nothing of it is selected.
    Nothing,
    /// No identity or passphrase opens the backup.
    WrongSecret,
    /// The backup is damaged, hostile or over a limit.
    BadBackup,
    /// The helper or its policy refused; nothing was written.
    Refused,
    /// The helper cannot be reached or speaks another protocol.
    NoHelper,
    /// The restore ended, but some entries were not written.
    Partly,
    /// Stopped by the operator.
    Stopped,
}

/// The text below every help page.
pub const HELP: &str = "\
Exit codes:
    0  done
    1  failed
    2  wrong command line, or a question that --no-input forbids
    3  no backup found, or nothing selected
    4  no identity or passphrase opens the backup
    5  the backup is damaged, hostile or over a limit
    6  refused by the helper or its policy; nothing was written
    7  the helper cannot be reached
    8  finished, but some entries were not written
  130  stopped by the operator (Ctrl-C or cancel)

With --json, standard output holds one document: the result, or when there is none
{\"error\": TEXT, \"exit_code\": CODE}. A wrong command line prints none.

The public tool's spellings --restore and --decrypt mean the commands of that name.";

impl Exit {
    /// All of them.
    pub const ALL: [Exit; 10] = [
        Exit::Ok,
        Exit::Failed,
        Exit::Usage,
        Exit::Nothing,
        Exit::WrongSecret,
        Exit::BadBackup,
        Exit::Refused,
        Exit::NoHelper,
        Exit::Partly,
        Exit::Stopped,
    ];

    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Nothing => 3,
            Exit::WrongSecret => 4,
            Exit::BadBackup => 5,
            Exit::Refused => 6,
            Exit::NoHelper => 7,
            Exit::Partly => 8,
            Exit::Stopped => 130,
        }
    }

    /// What it says, as in the help.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "done",
            Exit::Failed => "failed",
            Exit::Usage => "wrong command line, or a question that --no-input forbids",
            Exit::Nothing => "no backup found, or nothing selected",
            Exit::WrongSecret => "no identity or passphrase opens the backup",
            Exit::BadBackup => "the backup is damaged, hostile or over a limit",
            Exit::Refused => "refused by the helper or its policy; nothing was written",
            Exit::NoHelper => "the helper cannot be reached",
            Exit::Partly => "finished, but some entries were not written",
            Exit::Stopped => "stopped by the operator (Ctrl-C or cancel)",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
