//! What is said between front-end and helper, apart from the plan and the contents.
//!
//! The order of calls is fixed; anything else ends the session:
//!
//! ```text
//! hello -> probe* -> submit -> stream -> progress* -> commit -> progress* -> report
//!                                  cancel is taken at any time after hello
//! ```
//!
//! # The content stream
//!
//! `stream` gives the writing end of a pipe. Into it go records, each of them the index of a plan entry (u32,
//! little endian) and then exactly that file's bytes. Each distinct content (size and SHA-256) that is not empty
//! comes exactly once, named by the lowest index among the entries that have it, in any order; the writer gives
//! it to the others itself. When every content has come, the pipe is closed. A record for another entry, one
//! that comes twice, bytes that do not hash to what the plan says, or an early end fail the transaction.

use crate::category::{CategoryId, Roles};
use crate::digest::Digest;
use crate::path::RelPath;
use crate::plan::Fault;
use crate::state::Target;
use serde::{Deserialize, Serialize};

/// The most paths in one probe.
pub const MAX_PROBE: usize = 2048;
/// The longest a `progress` call waits for news, in milliseconds.
pub const PROGRESS_WAIT_MS: u64 = 10_000;

/// What the front-end says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// Version text of the front-end, for the log.
    pub version: String,
}

/// What the helper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperHello {
    /// Version text of the helper.
    pub version: String,
    /// Goes into [`Submission`]: a plan is submitted once, in this session.
    pub nonce: [u8; 16],
    /// Who the kernel says the caller is.
    pub caller: Caller,
    /// The root directory that targets are relative to, as root gave it; for display.
    pub root: Vec<u8>,
    /// What kind of host the root looks like.
    pub host: HostFacts,
    /// Categories the caller may restore.
    pub granted: Vec<CategoryId>,
    /// Whether set-id bits and file capabilities are restored (else they are dropped and reported).
    pub grants_privileged_bits: bool,
    /// What the sandbox is made of here, for display.
    pub sandbox: String,
}

/// A caller, by the kernel's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Name, where the user database has one.
    pub name: Option<String>,
}

/// What the helper sees of its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The roles.
    pub roles: Roles,
    /// What was seen that makes it so, as sentences.
    pub evidence: Vec<String>,
}

/// One path to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeItem {
    /// The path.
    pub path: RelPath,
    /// Hash the content if it is a regular file of exactly this size (another size is different anyway).
    pub hash_if_size: Option<u64>,
}

/// A submitted plan. The plan itself travels as a sealed memory file beside this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// From [`HelperHello`].
    pub nonce: [u8; 16],
    /// The hash the operator was shown; the helper recomputes it.
    pub plan_hash: Digest,
    /// Check everything, write nothing.
    pub dry_run: bool,
}

/// The answer to a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It can be carried out.
    Approved(Approval),
    /// It cannot; nothing was written. Every reason found.
    Refused(Vec<Refusal>),
}

/// What an approved plan will do that the plan itself does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Hash of the plan, computed by the helper.
    pub plan_hash: Digest,
    /// Identifies the transaction in the audit log and in temporary names.
    pub txid: String,
    /// Entries whose set-id bits or file capability are dropped.
    pub dropped_privileges: Vec<RelPath>,
}

/// One reason against a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {why}", path.as_ref().map_or_else(|| "plan".to_owned(), ToString::to_string))]
pub struct Refusal {
    /// The entry, or `None` for the plan as a whole.
    pub path: Option<RelPath>,
    /// The reason.
    pub why: Why,
}

/// Reasons against a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Why {
    /// The plan contradicts itself.
    #[error("{}", .0.reason)]
    Fault(Fault),
    /// Another hash than the operator was shown.
    #[error("its hash is not the one that was announced")]
    Hash,
    /// The nonce is not this session's, or was used.
    #[error("it was not made for this session, or was submitted before")]
    Nonce,
    /// The memory file is not sealed, or too large.
    #[error("the plan was not handed over as a sealed memory file")]
    NotSealed,
    /// No right.
    #[error("the caller has no right to restore category {0}")]
    NotGranted(CategoryId),
    /// The target is not what the plan says.
    #[error("it changed since the plan was made ({0})")]
    Changed(String),
    /// The way to it is not safe.
    #[error("it cannot be reached safely ({0})")]
    Unreachable(String),
    /// It does not fit.
    #[error("not enough room: {needed} bytes or inodes needed, {available} available")]
    NoSpace {
        /// Needed.
        needed: u64,
        /// Available.
        available: u64,
    },
    /// Something the plan asks for that cannot be done here.
    #[error("{0}")]
    Unsupported(String),
}

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No plan yet.
    Idle,
    /// Checked; waiting for `stream`.
    Approved,
    /// Contents are arriving and being staged.
    Staging,
    /// All is staged, verified and durable; waiting for `commit`.
    Staged,
    /// Names are being put in place.
    Committing,
    /// Over: all was written (or, on a dry run, all was checked).
    Done,
    /// Over: failed; [`Progress::error`] says why.
    Failed,
    /// Over: cancelled.
    Cancelled,
}

impl Phase {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Done | Phase::Failed | Phase::Cancelled)
    }
}

/// How far a transaction is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Grows with every change; give it to the next call to wait for a newer one.
    pub seq: u64,
    /// The phase.
    pub phase: Phase,
    /// Entries done in this phase.
    pub entries: u64,
    /// Content bytes done.
    pub bytes: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Hash of the plan.
    pub plan_hash: Digest,
    /// The transaction.
    pub txid: String,
    /// Done, failed or cancelled.
    pub phase: Phase,
    /// Whether it was a dry run.
    pub dry_run: bool,
    /// How many entries of each category were put in place.
    pub written: Vec<(CategoryId, u64)>,
    /// Entries that were not, with the reason (at most 1,000).
    pub failed: Vec<(RelPath, String)>,
    /// How many were not.
    pub failed_count: u64,
    /// What went wrong as a whole, if anything.
    pub error: Option<String>,
    /// The audit log's line count and head hash when this was answered.
    pub audit: AuditHead,
}

/// The end of the audit log's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Lines in the log.
    pub lines: u64,
    /// Hash of the last line.
    pub hash: Digest,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CallError {
    /// A call out of order. The session is over.
    #[error("the helper got a call out of order and ended the session")]
    OutOfOrder,
    /// More paths than [`MAX_PROBE`], or another bound of the protocol broken. The session is over.
    #[error("the helper got a call over the protocol's limits and ended the session")]
    OverLimit,
    /// The helper cannot go on.
    #[error("the helper failed: {0}")]
    Failed(String),
}

/// What `probe` answers: one [`Target`] for each item, in order.
pub type ProbeAnswer = Result<Vec<Target>, CallError>;
