//! The audit log: what the helper was asked, what it decided and what it did, so that a change to it shows.
//!
//! `audit.jsonl` in the state directory, 0600 root, written by the broker alone and only ever appended to. One
//! JSON object a line:
//!
//! ```text
//! {"seq":N,"time":"…Z","prev":"HASH","session":"…","event":"NAME", …fields… ,"hash":"HASH"}
//! ```
//!
//! `hash` is SHA-256 over `"proxsave audit 1\0"` and the line's bytes up to, not including, `,"hash":"`. `prev` is
//! the `hash` of the line before; the first line (`log-started`, with a random id) has 64 zeros there. `seq` counts
//! from 1. So no line can be changed, removed, repeated or moved without [`verify()`] naming the place, except at the
//! end: there the log's *head* (number and hash of its last line), kept elsewhere, gives a missing tail away. The
//! head stands in the report of every restore and in the journal.
//!
//! **What it does not stop**: root can rewrite the whole log with fresh hashes. Only a head kept elsewhere shows it.
//!
//! **Durability.** [`Log::append`] collects, [`Log::commit`] writes and syncs; verdicts, refusals and session ends
//! do so at once. At most [`BATCH`] bytes are ever unsynced.
//!
//! **After a crash** the end of the file can hold part of a line, or a block that never reached the disk and reads
//! as NUL bytes. The next helper moves everything from the first such line on into `audit.torn-HASH` beside the log
//! and records `tail-set-aside` with its size and hash. Any other damage is left where it is, for [`verify()`] to
//! name; a log whose last line is not intact is not written to at all.
//!
//! **Several helpers** may run; each takes the file's lock (`flock`) for a batch, and a session's lines carry its
//! `session` id.
//!
//! **journald** gets one record for each event that is not about a single file, after the line is durable. Where
//! there is no journald, or its socket is full, that is silently left out: the file is the log.

mod event;
mod file;
mod journald;
mod line;
mod log;
mod tail;
mod text;
mod time;
mod verify;

pub use event::{Action, Counts, Event};
pub use journald::Journald;
pub use line::{LineError, MAX_LINE};
pub use log::{Approved, Log, LogError};
pub use tail::TailError;
pub use text::{MAX_TEXT, Text};
pub use verify::{ExpectedHead, Place, Verified, VerifyError, to_json, verify};

/// The log's name in the state directory.
pub const FILE_NAME: &str = "audit.jsonl";
/// Version of the line format; stands in the first line.
pub const FORMAT: u32 = 1;
/// The most bytes that are written before they are synced.
pub const BATCH: usize = 1 << 20;

#[cfg(test)]
mod tests;
