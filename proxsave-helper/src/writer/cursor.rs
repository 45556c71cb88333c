//! The staged directory that was worked in last, and those that lead to it, held open: neighbours cost nothing,
//! and a deep path is walked once.

use super::error::WriterError;
use super::layout::{Layout, Place};
use super::stage::{SlotDir, StagedName};
use proxsave_proto::Plan;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// New directories that are open, each in the one before, by entry index (which grows downwards).
#[derive(Default)]
pub(super) struct Cursor {
    open: Vec<(usize, OwnedFd)>,
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
        let mut slot = None;
        loop {
            // What is numbered higher does not lead to it.
            while self.open.last().is_some_and(|(open, _)| *open > at) {
                self.open.pop();
            }
            if self.open.last().is_some_and(|(open, _)| *open == at) {
                break;
            }
            missing.push(at);
            match layout.place(at) {
                Place::Under(above) => at = above,
                Place::In(found) | Place::Existing(found) => {
                    self.open.clear();
                    slot = Some(found);
                    break;
                }
            }
        }
        for index in missing.into_iter().rev() {
            let entry = plan.entries.get(index).ok_or(WriterError::Stream("it is inconsistent"))?;
            let above = match (self.open.last(), slot) {
                (Some((_, dir)), _) => dir.as_fd(),
                (None, Some(slot)) => stage_of(slots, slot, plan, index)?,
                (None, None) => return Err(WriterError::entry(&entry.path, "open")(Errno::NOENT)),
            };
            let staged = StagedName::of(layout, index, entry);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(above, staged.bytes(), flags, Mode::empty())
                .map_err(WriterError::entry(&entry.path, "open"))?;
            self.open.push((index, opened));
        }
        match self.open.last() {
            Some((_, dir)) => Ok(dir.as_fd()),
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
