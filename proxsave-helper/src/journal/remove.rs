//! Removing a staging directory of a transaction that did not end.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};

/// Why a staging directory was left alone or could not be removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoveError {
    /// Not made by a helper.
    #[error("it is not a directory of root's alone, so no helper made it")]
    Foreign,
    /// The kernel refused.
    #[error("{0}")]
    Failed(#[from] Errno),
}

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Removes a staging directory with all it holds. Follows no link and enters no mount.
///
/// However deep the tree is, three descriptors do: what is below a directory is moved to the top before the
/// directory goes. Stopped half-way, it can be called again.
pub(super) fn remove_stage(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), RemoveError> {
    let stage = match open(parent, name) {
        Ok(stage) => stage,
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(RemoveError::Foreign),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&stage)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
        return Err(RemoveError::Foreign);
    }
    let mut moved = 0u64;
    loop {
        let dirs = empty(&stage)?;
        if dirs.is_empty() {
            break;
        }
        for dir in dirs {
            let below = open(stage.as_fd(), &dir)?;
            for deeper in empty(&below)? {
                lift(&below, &deeper, &stage, &mut moved)?;
            }
            rustix::fs::unlinkat(&stage, &dir, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(parent, name, FLAGS, Mode::empty(), RESOLVE)
}

/// Removes what is no directory; gives the names of what is.
fn empty(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut dirs = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            dirs.push(name.to_owned());
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A file system that does not tell kinds in a listing.
            Err(Errno::ISDIR) => dirs.push(name.to_owned()),
            Err(error) => return Err(error),
        }
    }
    Ok(dirs)
}

/// Moves a directory to the top, under a name that is free there.
fn lift(from: &OwnedFd, name: &CStr, stage: &OwnedFd, moved: &mut u64) -> Result<(), Errno> {
    loop {
        *moved += 1;
        match rustix::fs::renameat_with(from, name, stage, format!("lifted-{moved}"), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            // No flags on this file system: a name that is taken by a full directory, or by a file, is refused too.
            Err(Errno::INVAL) => match rustix::fs::renameat(from, name, stage, format!("lifted-{moved}")) {
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                other => return other,
            },
            other => return other,
        }
    }
}
