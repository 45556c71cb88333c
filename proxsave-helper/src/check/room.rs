//! Whether what a plan stages fits.

use super::{CheckedPlan, Refusals};
use crate::root::Dir;
use proxsave_proto::RelPath;
use proxsave_proto::message::Why;
use proxsave_proto::plan::{AnchorBinding, Node};
use proxsave_proto::state::Kind;
use rustix::fs::StatVfsMountFlags;
use std::collections::BTreeMap;

/// What an entry takes besides its content, and what content is rounded up to: one block of the common size.
const BLOCK: u64 = 4096;

#[derive(Debug, Default, Clone, Copy)]
struct Need {
    bytes: u64,
    inodes: u64,
}

/// Everything is staged beside what it replaces before any of that goes, so nothing is counted as freed. Sparse
/// files count in full: how many holes they have is only the front-end's word.
pub(super) fn check_room(checked: &CheckedPlan, refusals: &mut Refusals) {
    let mut needs: BTreeMap<u64, Need> = BTreeMap::new();
    for anchor in checked.anchors() {
        // Its staging directory.
        needs.entry(anchor.id().dev).or_default().add(BLOCK, 1);
    }
    // The topmost new directory on the way: all below it is made where it is made. So a deep path costs no more.
    let mut made: Option<(&RelPath, usize)> = None;
    for entry in &checked.plan().entries {
        made = made.filter(|(dir, _)| entry.path.starts_with(dir));
        let index = made.map(|(_, anchor)| anchor).or_else(|| checked.anchor_of(&entry.path));
        if made.is_none() && entry.node.is_dir() && entry.before.is_none() {
            made = index.map(|anchor| (&entry.path, anchor));
        }
        let stands = entry.node.is_dir() && entry.before.as_ref().is_some_and(|before| before.kind == Kind::Dir);
        let Some(anchor) = index.and_then(|index| checked.anchors().get(index)) else { continue };
        let need = needs.entry(anchor.id().dev).or_default();
        let content = entry.node.content_len().checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        let xattrs: u64 = entry.node.meta().map_or(0, |meta| meta.xattrs.iter().map(|x| x.value.len() as u64).sum());
        let link = matches!(entry.node, Node::Hardlink { .. });
        need.add(
            content.saturating_add(xattrs).saturating_add(if stands { 0 } else { BLOCK }),
            u64::from(!stands && !link),
        );
    }
    let mut told = Vec::new();
    let mut mounts = Vec::new();
    for (dir, binding) in checked.anchors().iter().zip(&checked.plan().anchors) {
        if !mounts.contains(&dir.id().mount) {
            mounts.push(dir.id().mount);
            let need = needs.get(&binding.dev).copied().unwrap_or_default();
            check_mount(dir, binding, need, &mut told, refusals);
        }
    }
}

fn check_mount(dir: &Dir, binding: &AnchorBinding, need: Need, told: &mut Vec<u64>, refusals: &mut Refusals) {
    let room = match rustix::fs::fstatvfs(dir) {
        Ok(room) => room,
        Err(error) => {
            let text = format!("the free space there cannot be found out: {error}");
            refusals.push(Some(&binding.path), Why::Unreachable(text));
            return;
        }
    };
    if room.f_flag.contains(StatVfsMountFlags::RDONLY) {
        refusals.push(Some(&binding.path), Why::Unsupported("it is mounted read-only".to_owned()));
    }
    if told.contains(&binding.dev) {
        return;
    }
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    // No total number of inodes: the file system makes them as needed (btrfs).
    let short = if need.bytes > free {
        Some((need.bytes, free))
    } else {
        (room.f_files > 0 && need.inodes > room.f_favail).then_some((need.inodes, room.f_favail))
    };
    if let Some((needed, available)) = short {
        told.push(binding.dev);
        refusals.push(Some(&binding.path), Why::NoSpace { needed, available });
    }
}

impl Need {
    fn add(&mut self, bytes: u64, inodes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.inodes = self.inodes.saturating_add(inodes);
    }
}
