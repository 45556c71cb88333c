//! Staging: everything is made, complete and verified, where nobody sees it.
//!
//! In each directory that gets names there is one staging directory, `.pxs-<txid>-<k>`, 0700 and root's. A direct
//! target is staged in it under its index; what goes into a directory that the plan makes is staged in that
//! directory straight away, under its own name. So putting in place is one rename for each direct target.

use super::Job;
use super::content::Content;
use super::cursor::Cursor;
use super::error::WriterError;
use super::layout::{Layout, Place, name};
use super::meta::{Failed, set_mtime};
use super::talk::Talk;
use super::tree::{empty_tree, is_empty};
use super::view::View;
use crate::sys;
use proxsave_proto::RelPath;
use proxsave_proto::digest::Timestamp;
use proxsave_proto::plan::{Entry, Node};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, StatxFlags, Uid};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::io;

/// What a file system allocates at least; a run of zeros that covers one block at its place is left as a hole.
const BLOCK: usize = 4096;

/// Of a file larger than this, so much at a time is given to the disk while more comes, so that the final sync has
/// little left to wait for. Smaller files are written better all at once.
const WRITE_BACK: u64 = 8 << 20;

/// A directory of the view, and its staging directory.
pub(super) struct SlotDir {
    pub dir: OwnedFd,
    pub stage: Option<OwnedFd>,
    pub stage_name: String,
    /// Its modification time before, and as the making of the staging directory left it.
    times: Option<(Timestamp, Timestamp)>,
}

/// Everything that is open while a job is carried out.
pub(super) struct Staging<'j> {
    pub job: &'j Job<'j>,
    pub layout: &'j Layout<'j>,
    pub slots: Vec<SlotDir>,
    pub top_of: Vec<usize>,
    cursor: Cursor,
    sources: Cursor,
}

impl<'j> Staging<'j> {
    /// Makes the staging directories. On failure those made are removed.
    pub(super) fn begin(job: &'j Job<'j>, layout: &'j Layout<'j>, view: View) -> Result<Self, WriterError> {
        let slots =
            view.dirs.into_iter().map(|dir| SlotDir { dir, stage: None, stage_name: String::new(), times: None });
        let mut staging = Self {
            job,
            layout,
            slots: slots.collect(),
            top_of: view.top_of,
            cursor: Cursor::default(),
            sources: Cursor::default(),
        };
        for (number, (slot, dir)) in layout.slots.iter().zip(&mut staging.slots).enumerate() {
            if slot.stages
                && let Err(error) = dir.make_stage(job.txid, number)
            {
                let (what, error) = error;
                let error = WriterError::entry(slot.path, what)(error);
                staging.discard();
                return Err(error);
            }
        }
        Ok(staging)
    }

    /// Stages everything.
    pub(super) fn run(&mut self, content: &mut Content, talk: &mut Talk<'_>) -> Result<(), WriterError> {
        self.check_links()?;
        self.make_dirs(talk)?;
        self.receive(content, talk)?;
        self.make_rest(talk)?;
        self.finish_dirs(talk)?;
        self.sync()
    }

    /// Removes what was staged, and lets the directories have their times back where nobody else changed them
    /// meanwhile. Gives the first failure; the next helper's sweep removes what stays.
    pub(super) fn discard(&mut self) -> Option<(RelPath, Errno)> {
        self.cursor = Cursor::default();
        self.sources = Cursor::default();
        let mut first = None;
        for (slot, dir) in self.layout.slots.iter().zip(&mut self.slots) {
            if let Err(error) = dir.discard() {
                first.get_or_insert_with(|| (slot.path.clone(), error));
            }
        }
        first
    }

    pub(super) fn entry(&self, index: usize) -> Result<&'j Entry, WriterError> {
        self.job.plan.entries.get(index).ok_or(WriterError::Stream("it names an entry that the plan does not have"))
    }

    /// Across mounts the kernel makes no hard link; found out before anything is made.
    fn check_links(&self) -> Result<(), WriterError> {
        for (index, entry) in self.job.plan.entries.iter().enumerate() {
            if let Node::Hardlink { to } = &entry.node {
                let top = |index: usize| self.top_of.get(self.layout.slot(index)).copied();
                if self.find(to).is_none_or(|target| top(target) != top(index)) {
                    return Err(WriterError::LinkAcross(entry.path.clone(), to.clone()));
                }
            }
        }
        Ok(())
    }

    fn find(&self, path: &RelPath) -> Option<usize> {
        self.job.plan.entries.binary_search_by(|entry| entry.path.cmp(path)).ok()
    }

    fn make_dirs(&mut self, talk: &mut Talk<'_>) -> Result<(), WriterError> {
        for (index, entry) in self.job.plan.entries.iter().enumerate() {
            if !entry.node.is_dir() || matches!(self.layout.place(index), Place::Existing(_)) {
                continue;
            }
            let staged = StagedName::of(self.layout, index, entry);
            let dir = self.cursor.dir(self.layout, &self.slots, self.job.plan, index)?;
            rustix::fs::mkdirat(dir, staged.bytes(), Mode::RWXU).map_err(WriterError::entry(&entry.path, "make"))?;
            talk.entries += 1;
            talk.tick()?;
        }
        Ok(())
    }

    fn receive(&mut self, content: &mut Content, talk: &mut Talk<'_>) -> Result<(), WriterError> {
        let mut left = self.layout.contents();
        let mut seen = vec![0u64; self.job.plan.entries.len() / 64 + 1];
        while let Some(index) = content.record(talk)? {
            let entry = self.entry(index)?;
            let Node::File { size, sha256, sparse, .. } = &entry.node else {
                return Err(WriterError::Stream("it has content for an entry that is no file"));
            };
            if self.layout.leader(index) != Some(index) {
                return Err(WriterError::Stream("it has content that it should not carry"));
            }
            let (word, bit) = (index / 64, 1u64 << (index % 64));
            match seen.get_mut(word) {
                Some(bits) if *bits & bit == 0 => *bits |= bit,
                _ => return Err(WriterError::Stream("it has a content twice")),
            }
            let file = self.create(index, entry)?;
            let mut out = Output { file: file.as_fd(), sparse: *sparse, at: 0, end: 0, sent: 0 };
            let mut hash = Sha256::new();
            let unit = if *sparse { BLOCK } else { 1 };
            while out.at < *size {
                let chunk = content.chunk(*size - out.at, unit, talk)?;
                hash.update(chunk);
                out.put(chunk).map_err(WriterError::entry(&entry.path, "write"))?;
                talk.bytes += chunk.len() as u64;
                talk.tick()?;
            }
            out.finish().map_err(WriterError::entry(&entry.path, "write"))?;
            if hash.finalize().as_slice() != sha256.0 {
                return Err(WriterError::Content(entry.path.clone()));
            }
            self.finish_file(entry, file.as_fd())?;
            left = left.checked_sub(1).ok_or(WriterError::Stream("it has more contents than the plan"))?;
            talk.entries += 1;
        }
        if left > 0 { Err(WriterError::Stream("it ended before every content had come")) } else { Ok(()) }
    }

    /// What has no content of its own in the stream: empty files, copies, symbolic links, then hard links.
    fn make_rest(&mut self, talk: &mut Talk<'_>) -> Result<(), WriterError> {
        let entries = &self.job.plan.entries;
        for (index, entry) in entries.iter().enumerate() {
            match &entry.node {
                Node::File { size: 0, sha256, .. } => {
                    if *sha256 != proxsave_proto::Digest::of(b"") {
                        return Err(WriterError::Content(entry.path.clone()));
                    }
                    let file = self.create(index, entry)?;
                    self.finish_file(entry, file.as_fd())?;
                }
                Node::File { sparse, .. } => match self.layout.leader(index) {
                    Some(leader) if leader != index => self.copy(leader, index, entry, *sparse, talk)?,
                    _ => continue,
                },
                Node::Symlink { target, .. } => self.symlink(index, entry, target)?,
                Node::Dir { .. } | Node::Hardlink { .. } => continue,
            }
            talk.entries += 1;
            talk.tick()?;
        }
        for (index, entry) in entries.iter().enumerate() {
            if let Node::Hardlink { to } = &entry.node {
                self.hardlink(index, entry, to)?;
                talk.entries += 1;
                talk.tick()?;
            }
        }
        Ok(())
    }

    fn create(&mut self, index: usize, entry: &'j Entry) -> Result<OwnedFd, WriterError> {
        let staged = StagedName::of(self.layout, index, entry);
        let mode = self.job.wanted(entry).map_or(Mode::RUSR, |wanted| wanted.creation());
        let dir = self.cursor.dir(self.layout, &self.slots, self.job.plan, index)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir, staged.bytes(), flags, mode).map_err(WriterError::entry(&entry.path, "make"))
    }

    fn finish_file(&self, entry: &'j Entry, file: BorrowedFd<'_>) -> Result<(), WriterError> {
        let done = self.job.wanted(entry).map_or(Ok(()), |wanted| wanted.finish_new_file(file));
        done.map_err(|(what, error)| WriterError::entry(&entry.path, what)(error))
    }

    fn copy(
        &mut self,
        leader: usize,
        index: usize,
        entry: &'j Entry,
        sparse: bool,
        talk: &mut Talk<'_>,
    ) -> Result<(), WriterError> {
        let from = self.entry(leader)?;
        let staged = StagedName::of(self.layout, leader, from);
        let dir = self.sources.dir(self.layout, &self.slots, self.job.plan, leader)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = rustix::fs::openat(dir, staged.bytes(), flags, Mode::empty())
            .map_err(WriterError::entry(&from.path, "read"))?;
        let file = self.create(index, entry)?;
        let mut out = Output { file: file.as_fd(), sparse, at: 0, end: 0, sent: 0 };
        let size = usize::try_from(entry.node.content_len()).unwrap_or(usize::MAX);
        let mut buffer = vec![0u8; size.clamp(1, 64 * 1024)];
        loop {
            let read = rustix::io::retry_on_intr(|| rustix::io::pread(&source, &mut buffer[..], out.at))
                .map_err(WriterError::entry(&from.path, "read"))?;
            match buffer.get(..read) {
                None | Some([]) => break,
                Some(bytes) => out.put(bytes).map_err(WriterError::entry(&entry.path, "write"))?,
            }
            talk.tick()?;
        }
        out.finish().map_err(WriterError::entry(&entry.path, "write"))?;
        self.finish_file(entry, file.as_fd())
    }

    fn symlink(&mut self, index: usize, entry: &'j Entry, target: &[u8]) -> Result<(), WriterError> {
        let staged = StagedName::of(self.layout, index, entry);
        let wanted = self.job.wanted(entry);
        let dir = self.cursor.dir(self.layout, &self.slots, self.job.plan, index)?;
        rustix::fs::symlinkat(target, dir, staged.bytes()).map_err(WriterError::entry(&entry.path, "make"))?;
        let done = wanted.map_or(Ok(()), |wanted| wanted.set_link(dir, staged.bytes()));
        done.map_err(|(what, error)| WriterError::entry(&entry.path, what)(error))
    }

    fn hardlink(&mut self, index: usize, entry: &'j Entry, to: &RelPath) -> Result<(), WriterError> {
        let target = self.find(to).ok_or_else(|| WriterError::LinkAcross(entry.path.clone(), to.clone()))?;
        let from_name = StagedName::of(self.layout, target, self.entry(target)?);
        let staged = StagedName::of(self.layout, index, entry);
        let from = self.sources.dir(self.layout, &self.slots, self.job.plan, target)?;
        let dir = self.cursor.dir(self.layout, &self.slots, self.job.plan, index)?;
        rustix::fs::linkat(from, from_name.bytes(), dir, staged.bytes(), AtFlags::empty())
            .map_err(WriterError::entry(&entry.path, "link"))
    }

    /// New directories' metadata, deepest first, now that nothing more is made in them.
    fn finish_dirs(&mut self, talk: &mut Talk<'_>) -> Result<(), WriterError> {
        for (index, entry) in self.job.plan.entries.iter().enumerate().rev() {
            let Node::Dir { .. } = &entry.node else { continue };
            let Some(wanted) = self.job.wanted(entry) else { continue };
            if matches!(self.layout.place(index), Place::Existing(_)) {
                continue;
            }
            let dir = self.cursor.new_dir(self.layout, &self.slots, self.job.plan, index)?;
            wanted.set_all(dir).map_err(|(what, error)| WriterError::entry(&entry.path, what)(error))?;
            talk.tick()?;
        }
        // The renames need none of these open, and a directory without names to make in it can be freed.
        self.cursor = Cursor::default();
        self.sources = Cursor::default();
        Ok(())
    }

    /// Makes everything durable: one `syncfs` for each file system.
    pub(super) fn sync(&self) -> Result<(), WriterError> {
        let mut done: Vec<u64> = Vec::new();
        for (slot, dir) in self.layout.slots.iter().zip(&self.slots) {
            let fail = WriterError::entry(slot.path, "examine");
            let stat = rustix::fs::statx(&dir.dir, c"", AtFlags::EMPTY_PATH, StatxFlags::INO).map_err(fail)?;
            let dev = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
            if !done.contains(&dev) {
                // The directory was opened before the first byte was written, so that an error since is told.
                rustix::fs::syncfs(&dir.dir)
                    .map_err(|error| WriterError::Sync { path: slot.path.clone(), source: error.into() })?;
                done.push(dev);
            }
        }
        Ok(())
    }
}

impl SlotDir {
    fn make_stage(&mut self, txid: &str, number: usize) -> Result<(), Failed> {
        let failed = |error| ("make a staging directory", error);
        let before = mtime(&self.dir).map_err(failed)?;
        let name = format!(".pxs-{txid}-{number}");
        rustix::fs::mkdirat(&self.dir, &name, Mode::RWXU).map_err(failed)?;
        self.stage_name = name;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stage = rustix::fs::openat(&self.dir, &self.stage_name, flags, Mode::empty()).map_err(failed)?;
        if !is_new(&stage).map_err(failed)? {
            return Err(("make a staging directory (somebody exchanged it for another)", Errno::EXIST));
        }
        seclude(&stage).map_err(failed)?;
        self.times = Some((before, mtime(&self.dir).map_err(failed)?));
        self.stage = Some(stage);
        Ok(())
    }

    fn discard(&mut self) -> Result<(), Errno> {
        if self.stage_name.is_empty() {
            return Ok(());
        }
        let untouched = self.times.filter(|(_, after)| mtime(&self.dir).is_ok_and(|now| now == *after));
        self.close()?;
        untouched.map_or(Ok(()), |(before, _)| set_mtime(&self.dir, before))
    }

    /// Removes the staging directory, and with it what was displaced: the end of a transaction.
    ///
    /// It is emptied by descriptor: whoever owns the directory it is in can give its name to something else at any
    /// time, of which nothing but an empty directory may go.
    pub(super) fn close(&mut self) -> Result<(), Errno> {
        if let Some(stage) = self.stage.take() {
            empty_tree(stage)?;
        }
        match std::mem::take(&mut self.stage_name) {
            name if name.is_empty() => Ok(()),
            name => match rustix::fs::unlinkat(&self.dir, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(error),
            },
        }
    }
}

/// Whether a directory can be the one that was made a moment ago under a name that others may have exchanged since:
/// root's alone, and nothing in it.
fn is_new(stage: &OwnedFd) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(stage)?;
    Ok(stat.st_uid == 0 && stat.st_mode & 0o077 == 0 && is_empty(stage)?)
}

/// A set-group-id directory or a default ACL would otherwise pass on to everything staged.
fn seclude(stage: &OwnedFd) -> Result<(), Errno> {
    for acl in ["system.posix_acl_default", "system.posix_acl_access"] {
        match rustix::fs::fremovexattr(stage, acl) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::fs::fchown(stage, Some(Uid::ROOT), Some(Gid::ROOT))?;
    rustix::fs::fchmod(stage, Mode::RWXU)
}

fn mtime(dir: &OwnedFd) -> Result<Timestamp, Errno> {
    let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::MTIME)?;
    Ok(Timestamp { secs: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec })
}

/// The name an entry is staged under.
pub(super) enum StagedName<'p> {
    Own(&'p [u8]),
    Index([u8; 20], usize),
}

impl<'p> StagedName<'p> {
    pub(super) fn of(layout: &Layout<'_>, index: usize, entry: &'p Entry) -> Self {
        if let Place::Under(_) = layout.place(index) {
            return Self::Own(name(&entry.path));
        }
        let mut text = [0u8; 20];
        let mut rest: &mut [u8] = &mut text;
        // Twenty digits hold every number.
        let _ = io::Write::write_fmt(&mut rest, format_args!("{index}"));
        let length = 20 - rest.len();
        Self::Index(text, length)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(name) => name,
            Self::Index(text, length) => text.get(..*length).unwrap_or_default(),
        }
    }
}

/// A file being written from its start.
struct Output<'f> {
    file: BorrowedFd<'f>,
    sparse: bool,
    /// Bytes taken.
    at: u64,
    /// Where the last byte written ends.
    end: u64,
    /// What lies before this is on its way to the disk.
    sent: u64,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if !self.sparse {
            return self.write(bytes);
        }
        // Runs of blocks that are all zero, and runs of others.
        let holes = |block: &[u8]| block.len() == BLOCK && block.iter().all(|byte| *byte == 0);
        let mut rest = bytes;
        while let Some(first) = rest.chunks(BLOCK).next() {
            let hole = holes(first);
            let length = rest.chunks(BLOCK).take_while(|block| holes(block) == hole).map(<[u8]>::len).sum();
            let Some((run, after)) = rest.split_at_checked(length) else { break };
            if hole {
                self.at += run.len() as u64;
            } else {
                self.write(run)?;
            }
            rest = after;
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let written = if self.end == self.at && !self.sparse {
                rustix::io::write(self.file, bytes)
            } else {
                rustix::io::pwrite(self.file, bytes, self.at)
            };
            match written {
                Ok(0) => return Err(Errno::IO),
                Ok(n) => {
                    self.at += n as u64;
                    self.end = self.at;
                    bytes = bytes.get(n..).unwrap_or_default();
                    self.write_back();
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_back(&mut self) {
        if self.at - self.sent >= WRITE_BACK {
            // Only a hint: what the final sync finds wrong is told by it.
            let _ = sys::start_writing_back(self.file, self.sent, self.at - self.sent);
            self.sent = self.at;
        }
    }

    /// Gives a file that ends in a hole its size.
    fn finish(&self) -> Result<(), Errno> {
        if self.end < self.at { rustix::fs::ftruncate(self.file, self.at) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn only_an_empty_directory_of_roots_alone_is_a_new_one() {
        let tmp = tempfile::tempdir().unwrap();
        let new = || {
            let dir = rustix::fs::open(tmp.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            is_new(&dir).unwrap()
        };
        std::fs::set_permissions(tmp.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert!(new());
        std::fs::write(tmp.path().join("file"), "x").unwrap();
        assert!(!new(), "something is in it");
        std::fs::remove_file(tmp.path().join("file")).unwrap();
        std::fs::set_permissions(tmp.path(), PermissionsExt::from_mode(0o750)).unwrap();
        assert!(!new(), "others may enter it");
        std::fs::set_permissions(tmp.path(), PermissionsExt::from_mode(0o700)).unwrap();
        chown(tmp.path(), Some(1234), None).unwrap();
        assert!(!new(), "it is somebody else's");
    }
}
