//! Staged directories, held open: an archive's order may go to and fro between them, and a deep path is walked once.

use super::error::WriterError;
use super::layout::{Layout, Place};
use super::stage::{SlotDir, StagedName};
use proxsave_proto::Plan;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;

/// The most directories that are held: every directory of the deepest path fits.
pub(super) const HELD: usize = 2048;

/// New directories that are open, by entry index.
#[derive(Default)]
pub(super) struct Cursor {
    open: HashMap<usize, OwnedFd>,
}

impl Cursor {
    /// The directory that an entry is staged in.
    pub(super) fn dir<'a>(
        &'a mut self,
        layout: &Layout<'_>,
        slots: &'a [SlotDir],
        plan: &Plan,
        index: usize,
    ) -> Result<BorrowedFd<'a>, WriterError> {
        match layout.place(index) {
            Place::Under(dir) => self.new_dir(layout, slots, plan, dir),
            Place::In(slot) | Place::Existing(slot) => stage_of(slots, slot, plan, index),
        }
    }

    /// A new directory itself, staged.
    pub(super) fn new_dir<'a>(
        &'a mut self,
        layout: &Layout<'_>,
        slots: &'a [SlotDir],
        plan: &Plan,
        dir: usize,
    ) -> Result<BorrowedFd<'a>, WriterError> {
        let mut missing = Vec::new();
        let mut at = dir;
        let slot = loop {
            if self.open.contains_key(&at) {
                break None;
            }
            missing.push(at);
            match layout.place(at) {
                Place::Under(above) => at = above,
                Place::In(found) | Place::Existing(found) => break Some(found),
            }
        };
        if self.open.len() + missing.len() > HELD {
            let nearest = self.open.remove_entry(&at);
            self.open.clear();
            self.open.extend(nearest);
        }
        for index in missing.into_iter().rev() {
            let entry = plan.entries.get(index).ok_or(WriterError::Stream("it is inconsistent"))?;
            let above = match (self.open.get(&at), slot) {
                (Some(dir), _) => dir.as_fd(),
                (None, Some(slot)) => stage_of(slots, slot, plan, index)?,
                (None, None) => return Err(WriterError::entry(&entry.path, "open")(Errno::NOENT)),
            };
            let staged = StagedName::of(layout, index, entry);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(above, staged.bytes(), flags, Mode::empty())
                .map_err(WriterError::entry(&entry.path, "open"))?;
            self.open.insert(index, opened);
            at = index;
        }
        match self.open.get(&dir) {
            Some(dir) => Ok(dir.as_fd()),
            None => Err(WriterError::Stream("it is inconsistent")),
        }
    }
}

fn stage_of<'a>(slots: &'a [SlotDir], slot: usize, plan: &Plan, index: usize) -> Result<BorrowedFd<'a>, WriterError> {
    match slots.get(slot).and_then(|slot| slot.stage.as_ref()) {
        Some(stage) => Ok(stage.as_fd()),
        None => {
            let path = plan.entries.get(index).map(|entry| entry.path.clone()).unwrap_or_default();
            Err(WriterError::entry(&path, "find its staging directory")(Errno::NOENT))
        }
    }
}
