//! The checked plan: the plan, the directories it is bound to, and what of its metadata takes effect.

use super::Refusals;
use crate::root::{Dir, DirId, FsKind, OpenError, Root};
use proxsave_proto::digest::Timestamp;
use proxsave_proto::message::Why;
use proxsave_proto::plan::{AnchorBinding, Entry, Meta, Node, Plan, Xattr};
use proxsave_proto::state::Kind;
use proxsave_proto::{Digest, RelPath, ValidPlan};
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::HashMap;

/// Set-user-id and set-group-id.
const SET_ID: u16 = 0o6000;
const SET_GROUP_ID: u16 = 0o2000;
const CAPABILITY: &[u8] = b"security.capability";

/// A plan that this caller may carry out on this tree as it was a moment ago. Only [`super::check`] makes one.
#[derive(Debug)]
pub struct CheckedPlan {
    plan: ValidPlan,
    privileged_bits: bool,
    anchors: Vec<CheckedAnchor>,
    tops: Vec<TopAnchor>,
    dropped: Vec<RelPath>,
    /// When the check began, in seconds since 1970: what changed later than a moment before is looked at again.
    pub(super) began: i64,
}

/// An existing directory in which names are made, as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedAnchor {
    /// Which directory it is.
    pub id: DirId,
    /// The kind of its file system.
    pub kind: FsKind,
    /// The topmost anchor on the same mount that leads to it, as an index into [`CheckedPlan::tops`].
    pub top: usize,
}

/// An anchor that no other anchor on the same mount leads to. Its descriptor is held from the check on.
#[derive(Debug)]
pub struct TopAnchor {
    /// Which anchor, as an index into the plan's.
    pub anchor: usize,
    dir: Dir,
}

/// The metadata that an entry really gets.
#[derive(Debug, Clone, Copy)]
pub struct EffectiveMeta<'p> {
    meta: &'p Meta,
    mode: u16,
    capability: bool,
}

impl AsFd for TopAnchor {
    /// The directory, opened `O_PATH`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl CheckedPlan {
    /// Opens every anchor and compares it with its binding.
    pub(super) fn bind(plan: ValidPlan, privileged_bits: bool, root: &Root, refusals: &mut Refusals) -> Self {
        let began = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let mut checked =
            Self { plan, privileged_bits, anchors: Vec::new(), tops: Vec::new(), dropped: Vec::new(), began };
        // Anchors are sorted, so what leads to one comes before it; the last top of a mount that does is it.
        let mut top_of_mount: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut anchors = Vec::new();
        let mut tops: Vec<TopAnchor> = Vec::new();
        let bindings = &checked.plan.plan().anchors;
        for (index, binding) in bindings.iter().enumerate() {
            let Some(dir) = bound_dir(root, binding, refusals) else { continue };
            let candidates = top_of_mount.entry(dir.id().mount).or_default();
            let known = candidates.iter().copied().rev().find(|top| {
                let above = tops.get(*top).and_then(|top| bindings.get(top.anchor));
                above.is_some_and(|above| binding.path.starts_with(&above.path))
            });
            let top = known.unwrap_or(tops.len());
            anchors.push(CheckedAnchor { id: dir.id(), kind: dir.kind(), top });
            if known.is_none() {
                candidates.push(top);
                tops.push(TopAnchor { anchor: index, dir });
            }
        }
        let dropped = checked.entries().filter(|entry| checked.drops_from(entry)).map(|entry| entry.path.clone());
        checked.dropped = dropped.collect();
        checked.anchors = anchors;
        checked.tops = tops;
        checked
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        self.plan.plan()
    }

    /// The plan with its proof.
    #[must_use]
    pub fn valid(&self) -> &ValidPlan {
        &self.plan
    }

    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> Digest {
        self.plan.hash()
    }

    /// What was found at each of the plan's anchors, in the plan's order.
    #[must_use]
    pub fn anchors(&self) -> &[CheckedAnchor] {
        &self.anchors
    }

    /// The topmost anchors of each mount, with their descriptors.
    #[must_use]
    pub fn tops(&self) -> &[TopAnchor] {
        &self.tops
    }

    /// The nearest anchor on the way to an entry, as an index into the plan's anchors: the directory itself that
    /// the entry is in, or the one in which its topmost missing directory is made.
    #[must_use]
    pub fn anchor_of(&self, path: &RelPath) -> Option<usize> {
        let bindings = &self.plan().anchors;
        path.ancestors().find_map(|dir| bindings.binary_search_by(|binding| binding.path.cmp(&dir)).ok())
    }

    /// The metadata that an entry really gets; `None` for a hard link.
    #[must_use]
    pub fn effective_meta<'p>(&self, entry: &'p Entry) -> Option<EffectiveMeta<'p>> {
        let meta = entry.node.meta()?;
        let mut mode = meta.mode;
        if !self.privileged_bits {
            mode &= !(SET_ID & !kept_bits(entry, meta));
        }
        Some(EffectiveMeta { meta, mode, capability: self.privileged_bits })
    }

    /// The entries whose set-id bits or file capability are dropped, in the plan's order.
    #[must_use]
    pub fn dropped(&self) -> &[RelPath] {
        &self.dropped
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.plan.plan().entries.iter()
    }

    fn drops_from(&self, entry: &Entry) -> bool {
        let Some(effective) = self.effective_meta(entry) else { return false };
        let meta = effective.meta;
        effective.mode != meta.mode || effective.xattrs().count() != meta.xattrs.len()
    }

    /// Hard links must lead to a file on the same mount: the kernel links within one only.
    pub(super) fn check_hard_links(&self, refusals: &mut Refusals) {
        for entry in self.entries() {
            let Node::Hardlink { to } = &entry.node else { continue };
            let mount = |path| self.anchor_of(path).and_then(|index| self.anchors.get(index)).map(|a| a.id.mount);
            if mount(&entry.path) != mount(to) {
                let text = format!("a hard link cannot lead to {to}, which is on another mount");
                refusals.push(Some(&entry.path), Why::Unsupported(text));
            }
        }
    }
}

/// The set-group-id bit of a directory that stands with it and keeps its group: leaving it gives nobody anything.
fn kept_bits(entry: &Entry, meta: &Meta) -> u16 {
    match &entry.before {
        Some(before) if entry.node.is_dir() && before.kind == Kind::Dir && before.gid == meta.gid => {
            before.mode & SET_GROUP_ID
        }
        _ => 0,
    }
}

impl<'p> EffectiveMeta<'p> {
    /// Permission bits, and those set-id bits that are granted.
    #[must_use]
    pub fn mode(&self) -> u16 {
        self.mode
    }

    /// Owner.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.meta.uid
    }

    /// Group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.meta.gid
    }

    /// Modification time; `None` leaves what the writing makes it.
    #[must_use]
    pub fn mtime(&self) -> Option<Timestamp> {
        self.meta.mtime
    }

    /// Extended attributes, without a file capability that is not granted.
    pub fn xattrs(&self) -> impl Iterator<Item = &'p Xattr> + use<'p> {
        let capability = self.capability;
        self.meta.xattrs.iter().filter(move |xattr| capability || xattr.name != CAPABILITY)
    }
}

/// Opens an anchor and compares it with its binding.
pub(super) fn bound_dir(root: &Root, binding: &AnchorBinding, refusals: &mut Refusals) -> Option<Dir> {
    let path = &binding.path;
    let dir = match root.open_dir(path) {
        Ok(dir) => dir,
        Err(OpenError::Absent) => {
            refusals.push(Some(path), Why::Changed("the directory is gone".to_owned()));
            return None;
        }
        Err(OpenError::Blocked(blocked)) => {
            refusals.blocked(path, blocked);
            return None;
        }
        Err(OpenError::Failed(error)) => {
            refusals.failed(&error);
            return None;
        }
    };
    if dir.id() != (DirId { dev: binding.dev, ino: binding.ino, mount: binding.mount }) {
        refusals.push(Some(path), Why::Changed("another directory or mount is there now".to_owned()));
        return None;
    }
    if dir.is_fixed() {
        let text = "the directory is marked immutable or append-only (see lsattr); names in it cannot be replaced";
        refusals.push(Some(path), Why::Unsupported(text.to_owned()));
        return None;
    }
    Some(dir)
}
