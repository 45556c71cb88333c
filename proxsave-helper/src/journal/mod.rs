//! Open transactions on disk, and what a later helper sweeps.
//!
//! Before the first name is staged, a record of where staging directories will be is made durable below the state
//! directory (`tx/<txid>`). [`OpenTx::close`] removes it. What a record that was left behind names is removed by
//! [`sweep()`], at the start of the next helper. A record is locked as long as its helper lives, so that helpers
//! that run at the same time leave each other's alone.

mod record;
mod remove;
mod state_dir;
mod sweep;
#[cfg(test)]
mod tests;

pub use record::{OpenTx, Place, Record, TxId, begin};
pub use state_dir::{StateDir, StateError};
pub use sweep::{Sweep, Swept, sweep};

/// The directory of records, in the state directory.
const TX_DIR: &str = "tx";

/// Why a record cannot be written, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("the journal cannot {what}: {source}")]
pub struct JournalError {
    /// What was tried, on which record.
    pub what: String,
    /// Why it failed.
    #[source]
    pub source: std::io::Error,
}

impl JournalError {
    fn new(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}
