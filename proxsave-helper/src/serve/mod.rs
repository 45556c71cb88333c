//! How a connection arrives.
//!
//! * [`listen()`]: a socket of our own; each connection gets a forked process for itself, which becomes its broker.
//! * [`stdio()`]: descriptor 0 is the connection, made by the process that started us.

mod listen;
mod stdio;

pub use listen::listen;
pub use stdio::stdio;

use crate::broker::{self, Session, Via};
use crate::cage::Layers;
use crate::caller::Caller;
use crate::cli;
use crate::journal::{StateDir, StateError};
use crate::policy::Policy;
use crate::root::Root;
use crate::sys::EndSignals;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// What `serve` was asked for.
#[derive(Debug)]
pub struct Settings {
    /// The directory to restore below.
    pub root: PathBuf,
    /// The directory for the audit log and open transactions.
    pub state: PathBuf,
    /// The user let in besides root, for the socket's owner.
    pub for_user: Option<u32>,
    /// Who may do what.
    pub policy: Policy,
    /// The layers of the sandbox.
    pub layers: Layers,
    /// End after one connection.
    pub once: bool,
}

/// Why serving cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Only root can do it.
    #[error("only root can serve: the helper puts owners and modes in place. Start it as root")]
    NotRoot,
    /// The process that started us is not one we answer to.
    #[error("{0}")]
    Stranger(String),
    /// A directory or socket is not usable.
    #[error("{what} {path}: {why}")]
    Path {
        /// What it is for.
        what: &'static str,
        /// The path, escaped.
        path: String,
        /// Why not, and what to do.
        why: String,
    },
    /// The state directory is not usable.
    #[error(transparent)]
    State(#[from] StateError),
    /// The kernel said no.
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
}

impl ServeError {
    pub(crate) fn path(what: &'static str, path: &std::path::Path, why: impl ToString) -> Self {
        let path = proxsave_proto::escape::escape(path.as_os_str().as_encoded_bytes());
        Self::Path { what, path, why: why.to_string() }
    }

    /// See [`crate::cli`].
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::NotRoot | Self::Stranger(_) => cli::EXIT_REFUSED,
            Self::Path { .. } | Self::State(_) | Self::System(..) => cli::EXIT_FAILED,
        }
    }
}

/// What every session needs, opened once.
struct Opened {
    root: Root,
    state: StateDir,
    signals: EndSignals,
}

impl Opened {
    fn open(settings: &Settings, via: Via) -> Result<Self, ServeError> {
        if !rustix::process::geteuid().is_root() || !rustix::process::getuid().is_root() {
            return Err(ServeError::NotRoot);
        }
        // A child forked from one of several threads could find locks held for ever.
        crate::sys::require_single_thread().map_err(|error| ServeError::System("check threads", error))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let state = StateDir::open(&settings.state)?;
        let mut root = Root::open(&settings.root).map_err(|error| ServeError::path("--root", &settings.root, error))?;
        root.guard(rustix::fd::AsFd::as_fd(&state))
            .map_err(|error| ServeError::path("--state", &settings.state, error))?;
        // Wherever it was installed, no plan replaces it.
        let own = |error| ServeError::System("find this program's own file", error);
        let program = std::fs::File::open("/proc/self/exe").map_err(own)?;
        root.guard(rustix::fd::AsFd::as_fd(&program)).map_err(own)?;
        drop(program);
        let signals =
            EndSignals::hold(via == Via::Listen).map_err(|error| ServeError::System("hold back signals", error))?;
        Ok(Self { root, state, signals })
    }
}

/// Serves one connection in this process, to its end. Gives the exit status.
fn session(front_end: UnixStream, caller: Caller, via: Via, opened: &Opened, settings: &Settings) -> i32 {
    broker::run(Session {
        front_end,
        caller,
        via,
        root: &opened.root,
        state: &opened.state,
        signals: &opened.signals,
        policy: &settings.policy,
        layers: settings.layers,
    })
}
