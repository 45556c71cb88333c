//! The checked plan: the plan, the directories it is bound to, and what of its metadata takes effect.

use super::Refusals;
use crate::root::{Dir, DirId, OpenError, Root};
use proxsave_proto::digest::Timestamp;
use proxsave_proto::message::Why;
use proxsave_proto::plan::{AnchorBinding, Entry, Meta, Node, Plan, Xattr};
use proxsave_proto::state::Kind;
use proxsave_proto::{Digest, RelPath, ValidPlan};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// Set-user-id and set-group-id.
const SET_ID: u16 = 0o6000;
const SET_GROUP_ID: u16 = 0o2000;
const CAPABILITY: &[u8] = b"security.capability";

/// A plan that this caller may carry out on this tree as it was a moment ago. Only [`super::check`] makes one.
#[derive(Debug)]
pub struct CheckedPlan {
    plan: ValidPlan,
    privileged_bits: bool,
    anchors: Vec<Dir>,
    dropped: Vec<usize>,
    /// When the check began, in seconds since 1970: what changed later than a moment before is looked at again.
    pub(super) began: i64,
}

/// The metadata that an entry really gets.
#[derive(Debug, Clone, Copy)]
pub struct EffectiveMeta<'p> {
    meta: &'p Meta,
    mode: u16,
    capability: bool,
}

impl CheckedPlan {
    /// Opens every anchor and compares it with its binding.
    pub(super) fn bind(plan: ValidPlan, privileged_bits: bool, root: &Root, refusals: &mut Refusals) -> Self {
        let began = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let bindings = &plan.plan().anchors;
        let mut anchors = Vec::with_capacity(bindings.len());
        if let Err(error) = allow_open_files(bindings.len()) {
            let text = format!("{} directories cannot be held open at once: {error}", bindings.len());
            refusals.push(None, Why::Unsupported(text));
        } else {
            anchors.extend(bindings.iter().filter_map(|binding| bound_dir(root, binding, refusals)));
        }
        let mut checked = Self { plan, privileged_bits, anchors, dropped: Vec::new(), began };
        let drops = checked.entries().enumerate().filter(|(_, entry)| checked.drops_from(entry));
        checked.dropped = drops.map(|(index, _)| index).collect();
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

    /// The plan's anchors, in its order, each held open (`O_PATH`) since it was compared with its binding.
    #[must_use]
    pub fn anchors(&self) -> &[Dir] {
        &self.anchors
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

    /// The entries that lose set-id bits or a file capability, as indexes into the plan's, ascending.
    #[must_use]
    pub fn dropped(&self) -> &[usize] {
        &self.dropped
    }

    /// The paths of [`CheckedPlan::dropped`].
    pub fn dropped_paths(&self) -> impl Iterator<Item = &RelPath> {
        self.dropped.iter().filter_map(|index| self.plan().entries.get(*index)).map(|entry| &entry.path)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.plan.plan().entries.iter()
    }

    fn drops_from(&self, entry: &Entry) -> bool {
        let Some(effective) = self.effective_meta(entry) else { return false };
        let meta = effective.meta;
        effective.mode != meta.mode || effective.xattrs().count() != meta.xattrs.len()
    }

    /// Hard links must lead to a file on the same mount and device: the kernel links within one only (and btrfs
    /// within one subvolume, which has a device number of its own).
    pub(super) fn check_hard_links(&self, refusals: &mut Refusals) {
        let place = |path| {
            let id = self.anchor_of(path).and_then(|index| self.anchors.get(index))?.id();
            Some((id.mount, id.dev))
        };
        for entry in self.entries() {
            let Node::Hardlink { to } = &entry.node else { continue };
            if place(&entry.path) != place(to) {
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

/// Descriptors that the broker needs besides the anchors.
const SPARE_FILES: u64 = 64;

/// Raises this process's limit of open files when so many more would not fit.
fn allow_open_files(more: usize) -> io::Result<()> {
    let wanted = (more as u64).saturating_add(SPARE_FILES);
    let limit = getrlimit(Resource::Nofile);
    match limit.current {
        Some(current) if current < wanted => {
            Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })?)
        }
        _ => Ok(()),
    }
}
