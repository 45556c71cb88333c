//! What can be written into the audit log: a closed set of events, each with its fields.

use super::text::Text;
use proxsave_proto::{CategoryId, Digest, RelPath};
use serde::{Serialize, Serializer};

/// One thing that happened.
///
/// Its JSON is the variant's name in kebab case under `event`, then the fields below under their own names. All
/// free text is [`Text`], so nothing reaches the log unescaped or without a bound on its length.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event<'a> {
    /// First line of every log.
    LogStarted {
        /// Version of the line format, [`super::FORMAT`].
        format: u32,
        /// Random: two logs differ from their first line on.
        log: String,
    },
    /// What a crash left at the log's end was moved into a file of its own. Written by the log itself.
    TailSetAside {
        /// How many bytes.
        bytes: u64,
        /// Hash of those bytes.
        sha256: Digest,
        /// Name of the file in the state directory that holds them now.
        file: String,
    },
    /// A helper came up.
    HelperStarted {
        /// Its version.
        version: Text,
        /// Its process id.
        pid: u32,
        /// The directory that targets are relative to.
        root: Text,
        /// What the kernel offers of Landlock, as text ("ABI 7", "absent").
        landlock: Text,
        /// Whether root allowed running without Landlock (`--without-landlock`).
        without_landlock: bool,
    },
    /// Somebody connected.
    Connection {
        /// User id, by the kernel's word.
        uid: u32,
        /// User name, where the user database has one.
        name: Option<Text>,
        /// Process id at the time of connecting.
        pid: Option<u32>,
        /// How the connection came: "listen", "stdio", ...
        via: Text,
    },
    /// A caller was turned away before anything was said.
    CallerRefused {
        /// User id, where the kernel gave one.
        uid: Option<u32>,
        /// Why.
        why: Text,
    },
    /// A session was opened.
    Hello {
        /// What the front-end says its version is.
        client: Text,
    },
    /// Targets were looked at.
    Probe {
        /// How many paths.
        paths: u64,
        /// How many of these were withheld because the caller has no right to look there.
        withheld: u64,
    },
    /// A plan was refused, whole; one [`Event::Refusal`] follows for each reason.
    PlanRefused {
        /// Hash of the plan, or what was announced as its hash when it could not be read.
        plan: Digest,
        /// Whether it was for a dry run.
        dry_run: bool,
        /// How many reasons.
        reasons: u64,
    },
    /// One reason against a plan.
    Refusal {
        /// Hash of the plan.
        plan: Digest,
        /// The entry, or nothing for the plan as a whole.
        path: Option<&'a RelPath>,
        /// The reason.
        why: Text,
    },
    /// A plan was approved.
    PlanApproved {
        /// Hash of the plan.
        plan: Digest,
        /// The transaction.
        txid: &'a str,
        /// Whether it is a dry run: everything is checked, nothing is written.
        dry_run: bool,
        /// Hash of the backup that the plan says it comes from.
        archive: Digest,
        /// How many entries of each category.
        entries: Counts,
        /// Bytes of content.
        bytes: u64,
        /// How many entries lose set-id bits or a file capability; one [`Event::PrivilegeDropped`] for each.
        dropped: u64,
    },
    /// An entry will be written without its set-id bits or file capability.
    PrivilegeDropped {
        /// The transaction.
        txid: &'a str,
        /// The entry.
        path: &'a RelPath,
    },
    /// A worker was caged.
    Sandbox {
        /// The transaction, for a worker of one.
        txid: Option<&'a str>,
        /// Which process.
        process: Text,
        /// What the kernel enforces on it.
        enforced: Text,
    },
    /// An entry is about to be put in place.
    Intent {
        /// The transaction.
        txid: &'a str,
        /// The entry.
        path: &'a RelPath,
        /// What will be done.
        action: Action,
    },
    /// What came of an intent.
    Outcome {
        /// The transaction.
        txid: &'a str,
        /// The entry.
        path: &'a RelPath,
        /// Nothing when it is in place; else why it is not.
        error: Option<Text>,
    },
    /// A transaction entered a phase.
    Phase {
        /// The transaction.
        txid: &'a str,
        /// The phase.
        phase: proxsave_proto::message::Phase,
        /// How many entries of each category this phase dealt with.
        entries: Counts,
        /// Bytes of content it dealt with.
        bytes: u64,
        /// Why it failed, for a phase that is a failure.
        error: Option<Text>,
    },
    /// The caller cancelled.
    Cancelled {
        /// The transaction, once there is one.
        txid: Option<&'a str>,
    },
    /// A message came that the protocol does not allow there; the session ends.
    OutOfOrder {
        /// What came, or what is wrong with it.
        what: Text,
    },
    /// Leftovers of a transaction that did not end were removed.
    Swept {
        /// The transaction.
        txid: Text,
        /// How many stage directories were removed.
        removed: u64,
        /// How many could not be.
        left: u64,
    },
    /// A session ended.
    SessionEnd {
        /// How.
        why: Text,
    },
}

/// What is done to an entry's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The name is new.
    Create,
    /// What is there is replaced.
    Replace,
    /// What is there stays and gets other metadata (directories).
    Adjust,
}

/// Numbers by category; in JSON an object with the categories' keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub Vec<(CategoryId, u64)>);

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(category, count)| (category.row().key, count)))
    }
}

impl Event<'_> {
    /// Whether the line must be durable before anything else happens: verdicts, refusals, the ends of sessions.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        matches!(
            self,
            Event::CallerRefused { .. }
                | Event::PlanRefused { .. }
                | Event::PlanApproved { .. }
                | Event::OutOfOrder { .. }
                | Event::SessionEnd { .. }
        )
    }
}
