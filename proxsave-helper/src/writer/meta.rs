//! Metadata, by descriptor, in the one order that works: owner, mode, attributes, times. Changing the owner
//! clears set-id bits and file capabilities; changing anything sets the change time.

use super::Job;
use proxsave_proto::digest::Timestamp;
use proxsave_proto::plan::{Entry, Meta};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

const CAPABILITY: &[u8] = b"security.capability";
/// The bits that `open` and `mkdir` may not set for certain.
const SPECIAL: u16 = 0o7000;

/// What an entry's metadata becomes, after what is not granted was dropped.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'p> {
    meta: &'p Meta,
    /// Permission bits and granted set-id bits.
    pub mode: u16,
    capability: bool,
}

/// A step that failed.
pub(super) type Failed = (&'static str, Errno);

impl<'p> Wanted<'p> {
    /// The permission bits that creation sets by itself (the umask is 0).
    pub(super) fn creation(&self) -> Mode {
        Mode::from_raw_mode((self.mode & 0o777).into())
    }

    fn xattrs(&self) -> impl Iterator<Item = &'p proxsave_proto::plan::Xattr> + use<'p> {
        let capability = self.capability;
        self.meta.xattrs.iter().filter(move |xattr| capability || xattr.name != CAPABILITY)
    }

    /// For a file just created by root with [`Wanted::creation`] in a directory without default attributes:
    /// only what differs from that is set.
    pub(super) fn finish_new_file(&self, file: BorrowedFd<'_>) -> Result<(), Failed> {
        let owned = self.own(file)?;
        if owned || self.mode & SPECIAL != 0 {
            self.permit(file)?;
        }
        self.finish(file)
    }

    /// For a directory: everything is set.
    pub(super) fn set_all(&self, dir: BorrowedFd<'_>) -> Result<(), Failed> {
        let ids = (Some(Uid::from_raw(self.meta.uid)), Some(Gid::from_raw(self.meta.gid)));
        rustix::fs::fchown(dir, ids.0, ids.1).map_err(|error| ("set its owner", error))?;
        self.permit(dir)?;
        self.finish(dir)
    }

    fn own(&self, file: BorrowedFd<'_>) -> Result<bool, Failed> {
        let needed = (self.meta.uid, self.meta.gid) != (0, 0);
        if needed {
            let ids = (Some(Uid::from_raw(self.meta.uid)), Some(Gid::from_raw(self.meta.gid)));
            rustix::fs::fchown(file, ids.0, ids.1).map_err(|error| ("set its owner", error))?;
        }
        // Only an executable file's bits are touched by the kernel then, and only the set-id ones.
        Ok(needed && self.mode & SPECIAL != 0)
    }

    fn permit(&self, file: BorrowedFd<'_>) -> Result<(), Failed> {
        let mode = Mode::from_bits_retain(self.mode.into());
        rustix::fs::fchmod(file, mode).map_err(|error| ("set its mode", error))
    }

    fn finish(&self, file: BorrowedFd<'_>) -> Result<(), Failed> {
        for xattr in self.xattrs() {
            rustix::fs::fsetxattr(file, &*xattr.name, &xattr.value, XattrFlags::empty())
                .map_err(|error| ("set an extended attribute", error))?;
        }
        self.set_mtime(file)
    }

    /// The modification time, where the plan has one.
    pub(super) fn set_mtime(&self, file: BorrowedFd<'_>) -> Result<(), Failed> {
        match self.meta.mtime {
            Some(mtime) => set_mtime(file, mtime).map_err(|error| ("set its time", error)),
            None => Ok(()),
        }
    }

    /// Owner and time of a symbolic link, by its name in a directory that nobody else reaches.
    pub(super) fn set_link(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Failed> {
        let ids = (Some(Uid::from_raw(self.meta.uid)), Some(Gid::from_raw(self.meta.gid)));
        if (self.meta.uid, self.meta.gid) != (0, 0) {
            rustix::fs::chownat(dir, name, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| ("set its owner", error))?;
        }
        match self.meta.mtime {
            Some(mtime) => rustix::fs::utimensat(dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| ("set its time", error)),
            None => Ok(()),
        }
    }
}

fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

/// Sets the modification time and nothing else.
pub(super) fn set_mtime(file: impl AsFd, mtime: Timestamp) -> Result<(), Errno> {
    rustix::fs::futimens(file, &times(mtime))
}

impl<'a> Job<'a> {
    /// What an entry's metadata becomes; `None` for a hard link.
    pub(super) fn wanted(&self, entry: &'a Entry) -> Option<Wanted<'a>> {
        let meta = entry.node.meta()?;
        let Some(checked) = self.checked else { return Some(Wanted { meta, mode: meta.mode, capability: true }) };
        let granted = checked.effective_meta(entry)?;
        let capability = granted.xattrs().count() == meta.xattrs.len();
        Some(Wanted { meta, mode: granted.mode(), capability })
    }
}
