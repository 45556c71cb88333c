//! From a backup's index, a selection and the live state to a plan.
//!
//! [`Draft::new`] routes every entry of the index and says what has to be looked at; [`Draft::finish`] takes the
//! answers and gives a [`Planned`]: the plan for the helper and what a person reads before saying yes. Both come
//! from the same decisions, so what is shown is what is done. The same inputs give the same plan, byte for byte.
//!
//! The rules:
//!
//! * What is already as the backup has it is left out.
//! * An existing directory takes the metadata of a true entry, its time included when something in it is written;
//!   an entry that the backup's staging made never changes one.
//! * A directory that the root lacks is made with a true entry's metadata, else 0755 root.
//! * A file is never put over a directory, nor a directory over anything; devices and sockets stay.
//! * Names of one file stay names of one file: if one of them has to be written, all are. A name whose file is
//!   outside the selection becomes a file of its own; the selection is never widened for it.
//! * Links on the way are not followed. The merged-/usr aliases are the exception: they are translated here.

mod alias;
mod build;
mod content;
mod diff;
pub mod file;
mod links;
pub mod local;
pub mod view;

pub use content::{Content, contents};
pub use diff::{Aspect, Aspects};

use crate::decoder::{Index, IndexEntry, IndexNode};
use crate::selection::{Route, Selection, content_len};
use proxsave_proto::message::ProbeItem;
use proxsave_proto::plan::{Fault, MAX_LINK, MAX_XATTR, Meta, Xattr, guarded};
use proxsave_proto::state::{Blocked, Kind};
use proxsave_proto::{CategoryId, RelPath, ValidPlan};

/// What becomes of one selected entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The root lacks it.
    New,
    /// It is there and differs.
    Changed(Aspects),
    /// It is there just so.
    Same,
    /// It cannot be restored here.
    Refused(RefusedWhy),
    /// Without a helper it could not be looked at.
    Unknown,
}

/// Why an entry is not in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedWhy {
    /// No plan may name it.
    #[error("the path is guarded: no restore ever writes there")]
    Guarded,
    /// The caller may not.
    #[error("the helper's policy does not let you restore this category")]
    NotGranted,
    /// A directory and something else.
    #[error("{} is there now; a directory never replaces it nor is replaced", kind_name(*.0))]
    KindOverKind(Kind),
    /// A device, FIFO or socket is there.
    #[error("a device, FIFO or socket is there now; it is never replaced")]
    OverSpecial,
    /// The way to it is not safe.
    #[error("{}", blocked_text(*.0))]
    Unreachable(Blocked),
    /// The backup puts it below a file.
    #[error("the backup puts it below something that is not a directory")]
    BelowNonDirectory,
    /// The backup has it twice, under an alias of `/usr` too.
    #[error("the backup has this path twice, once under an alias of /usr")]
    Twice,
    /// Numbers or texts that cannot be set.
    #[error("its {0} cannot be set")]
    Metadata(&'static str),
}

/// Why no plan can be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Two answers contradict each other.
    #[error("{0} changed while it was being looked at; nothing was written; run it again")]
    Moved(RelPath),
    /// Fewer or more answers than questions.
    #[error("the helper answered {got} of {asked} questions about the live files; nothing was written")]
    Answers {
        /// Questions.
        asked: usize,
        /// Answers.
        got: usize,
    },
    /// The plan does not pass its own check.
    #[error("the plan made from this backup is not valid; nothing was written; please report it: {}", first(.0))]
    Invalid(Vec<Fault>),
    /// More entries than an index of 32 bits counts.
    #[error("the backup has too many entries for one plan")]
    TooMany,
}

/// A selected entry that is to be written.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where, aliases translated.
    pub path: RelPath,
    /// The entry, by its place in [`Index::entries`].
    pub entry: u32,
    /// For files and hard links: the entry that holds the content.
    file: Option<u32>,
    /// The category that brings it.
    pub category: CategoryId,
    /// Refused before looking, or the outcome.
    pub outcome: Outcome,
}

/// A selected entry that is exported and not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// The entry, by its place in [`Index::entries`].
    pub entry: u32,
    /// The category that brings it.
    pub category: CategoryId,
}

/// The routed selection, before the live state is known.
#[derive(Debug)]
pub struct Draft<'a> {
    index: &'a Index,
    selection: &'a Selection,
    wanted: Vec<Wanted>,
    exports: Vec<Exported>,
    privileged_bits: bool,
}

/// A finished plan and what led to it.
#[derive(Debug)]
pub struct Planned {
    /// The plan for the helper; `None` when something could not be looked at, so that it cannot be submitted.
    pub plan: Option<ValidPlan>,
    /// Every selected entry that is written, with its outcome, sorted by path.
    pub wanted: Vec<Wanted>,
    /// Every selected entry that is exported.
    pub exports: Vec<Exported>,
    /// Directories that are made on the way (not entries of the selection).
    pub parents: Vec<(RelPath, CategoryId)>,
    /// Hard links that become files of their own, because their file is outside the selection or refused.
    pub copies: Vec<RelPath>,
}

impl<'a> Draft<'a> {
    /// Routes the index. `granted` holds the categories the caller may restore, where that is known.
    ///
    /// # Errors
    /// [`PlanError::TooMany`].
    pub fn new(index: &'a Index, selection: &'a Selection, granted: Option<&[CategoryId]>) -> Result<Self, PlanError> {
        let (mut wanted, mut exports) = (Vec::new(), Vec::new());
        for (at, entry) in index.entries.iter().enumerate() {
            let at = u32::try_from(at).map_err(|_| PlanError::TooMany)?;
            let real = alias::real(&entry.path);
            let path = real.as_ref().unwrap_or(&entry.path);
            match selection.route(path) {
                None => {}
                Some(Route::Export(category)) => exports.push(Exported { entry: at, category }),
                // What staging made is never restored for its own sake, only as a way to something.
                Some(Route::Write(_)) if matches!(entry.node, IndexNode::Dir { true_entry: false, .. }) => {}
                Some(Route::Write(category)) => {
                    let file = file_of(index, at, entry)?;
                    let outcome = refused_unseen(index, entry, path, file).map_or_else(
                        || match granted {
                            Some(granted) if !granted.contains(&category) => Outcome::Refused(RefusedWhy::NotGranted),
                            _ => Outcome::Unknown,
                        },
                        Outcome::Refused,
                    );
                    wanted.push(Wanted { path: path.clone(), entry: at, file, category, outcome });
                }
            }
        }
        // Only translated aliases are out of order. The true spelling comes first and wins.
        wanted.sort_by(|a, b| a.path.cmp(&b.path).then_with(|| is_alias(index, a).cmp(&is_alias(index, b))));
        let mut below: Option<RelPath> = None;
        let mut last: Option<RelPath> = None;
        for want in &mut wanted {
            if last.as_ref() == Some(&want.path) {
                want.outcome = Outcome::Refused(RefusedWhy::Twice);
                continue;
            }
            last = Some(want.path.clone());
            if below.as_ref().is_some_and(|file| want.path.starts_with(file)) {
                want.outcome = Outcome::Refused(RefusedWhy::BelowNonDirectory);
            } else if !matches!(node(index, want.entry), Some(IndexNode::Dir { .. })) {
                below = Some(want.path.clone());
            }
        }
        Ok(Self { index, selection, wanted, exports, privileged_bits: true })
    }

    /// Says whether set-id bits and file capabilities are restored for the caller; they are unless told otherwise.
    #[must_use]
    pub fn with_privileged_bits(self, privileged_bits: bool) -> Self {
        Self { privileged_bits, ..self }
    }

    /// What has to be looked at, in the order in which [`Draft::finish`] wants the answers.
    pub fn questions(&self) -> impl Iterator<Item = ProbeItem> + '_ {
        self.asked().map(|want| ProbeItem {
            path: want.path.clone(),
            hash_if_size: want.file.and_then(|at| self.index.entries.get(at as usize)).map(content_len),
        })
    }

    /// How many questions there are.
    #[must_use]
    pub fn question_count(&self) -> usize {
        self.asked().count()
    }

    /// What is exported, when nothing else is wanted of it.
    #[must_use]
    pub fn into_exports(self) -> Vec<Exported> {
        self.exports
    }

    fn asked(&self) -> impl Iterator<Item = &Wanted> + '_ {
        self.wanted.iter().filter(|want| want.outcome == Outcome::Unknown)
    }
}

fn is_alias(index: &Index, want: &Wanted) -> bool {
    index.entries.get(want.entry as usize).is_some_and(|entry| entry.path != want.path)
}

fn node(index: &Index, at: u32) -> Option<&IndexNode> {
    index.entries.get(at as usize).map(|entry| &entry.node)
}

/// The entry that holds the content of a file or of a hard link.
fn file_of(index: &Index, at: u32, entry: &IndexEntry) -> Result<Option<u32>, PlanError> {
    match &entry.node {
        IndexNode::File { .. } => Ok(Some(at)),
        IndexNode::Hardlink { to } => {
            let found = index.entries.binary_search_by(|entry| entry.path.cmp(to)).ok();
            found.map(|at| u32::try_from(at).map_err(|_| PlanError::TooMany)).transpose()
        }
        _ => Ok(None),
    }
}

/// What can be refused without looking at the root.
fn refused_unseen(index: &Index, entry: &IndexEntry, path: &RelPath, file: Option<u32>) -> Option<RefusedWhy> {
    if guarded(path) {
        return Some(RefusedWhy::Guarded);
    }
    let node = match (&entry.node, file) {
        (IndexNode::Hardlink { .. }, Some(at)) => index.entries.get(at as usize).map(|entry| &entry.node)?,
        (IndexNode::Hardlink { .. }, None) => return Some(RefusedWhy::Metadata("hard link's file")),
        (node, _) => node,
    };
    if let IndexNode::Symlink { target, .. } = node
        && (target.is_empty() || target.len() > MAX_LINK || target.contains(&0))
    {
        return Some(RefusedWhy::Metadata("link text"));
    }
    node.meta().and_then(unsettable).map(RefusedWhy::Metadata)
}

fn unsettable(meta: &Meta) -> Option<&'static str> {
    let good = |xattr: &Xattr| Xattr::is_restorable(&xattr.name) && xattr.value.len() <= MAX_XATTR;
    match () {
        () if meta.mode > 0o7777 => Some("mode"),
        () if meta.uid == u32::MAX || meta.gid == u32::MAX => Some("owner"),
        () if meta.mtime.is_some_and(|time| time.nanos >= 1_000_000_000) => Some("time"),
        () if !meta.xattrs.is_sorted_by(|a, b| a.name < b.name) || !meta.xattrs.iter().all(good) => {
            Some("extended attributes")
        }
        () => None,
    }
}

/// What a kind is called in sentences.
#[must_use]
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "a file",
        Kind::Dir => "a directory",
        Kind::Symlink => "a symbolic link",
        Kind::Special => "a device, FIFO or socket",
    }
}

fn blocked_text(blocked: Blocked) -> &'static str {
    match blocked {
        Blocked::SymlinkOnTheWay => "a directory on the way is a symbolic link; links are not followed",
        Blocked::NotADirectory => "something on the way is not a directory",
        Blocked::ForeignFileSystem => "it lies on a file system that is not written to",
        Blocked::Guarded => "the path is guarded: no restore ever writes there",
        Blocked::NotGranted => "the helper's policy does not let you look at it",
        Blocked::MountPoint => "a file is mounted over it, so it cannot be replaced",
        Blocked::Unreadable => "the helper could not examine it: an error of the file system, or no answer in time",
    }
}

fn first(faults: &[Fault]) -> String {
    let more = faults.len().saturating_sub(1);
    let first = faults.first().map(ToString::to_string).unwrap_or_default();
    if more == 0 { first } else { format!("{first} (and {more} more)") }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
