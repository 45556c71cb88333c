//! How a command fails: what went wrong, on what, and the exit code that says so to scripts.

use crate::archive::open::OpenError;
use crate::cli::Exit;
use crate::decoder::DecodeError;
use crate::dialogue::NoAnswer;
use crate::export::ExportError;
use crate::planner::PlanError;
use crate::planner::file::PlanFileError;
use crate::selection::{GlobError, SelectionError};
use std::fmt;

/// Why a command ended early.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What to tell the operator; safe to print.
    pub text: String,
}

impl Failure {
    /// A failure with a text that is safe to print.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// With more said in front: what was being done.
    #[must_use]
    pub fn context(self, doing: impl fmt::Display) -> Self {
        Self { text: format!("{doing}: {}", self.text), ..self }
    }

    /// The operator stopped.
    #[must_use]
    pub fn stopped() -> Self {
        NoAnswer::Stopped.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

macro_rules! failures {
    ($($error:ty => $exit:expr),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let exit: fn(&$error) -> Exit = $exit;
                Self { exit: exit(&error), text: error.to_string() }
            }
        })*
    };
}

failures! {
    NoAnswer => |error| match error {
        NoAnswer::Stopped => Exit::Stopped,
        NoAnswer::NeedsFlag { .. } => Exit::Usage,
        NoAnswer::Terminal(_) => Exit::Failed,
    },
    OpenError => |error| match error {
        OpenError::Io { .. } | OpenError::OnlyBundle { .. } | OpenError::NotFile { .. } => Exit::Failed,
        _ => Exit::BadBackup,
    },
    DecodeError => |error| match error {
        DecodeError::Cancelled => Exit::Stopped,
        DecodeError::NeedsIdentity | DecodeError::WrongIdentity => Exit::WrongSecret,
        DecodeError::Read(_) | DecodeError::Write(_) | DecodeError::Sandbox(_) => Exit::Failed,
        _ => Exit::BadBackup,
    },
    SelectionError => |error| match error {
        SelectionError::Nothing { .. } | SelectionError::NotInBackup(_) => Exit::Nothing,
        _ => Exit::Usage,
    },
    GlobError => |_| Exit::Usage,
    PlanError => |_| Exit::Failed,
    PlanFileError => |_| Exit::Failed,
    ExportError => |error| match error {
        ExportError::Place { .. } => Exit::Usage,
        ExportError::Content { .. } => Exit::BadBackup,
        _ => Exit::Failed,
    },
    std::io::Error => |_| Exit::Failed,
}
