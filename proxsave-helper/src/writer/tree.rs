//! Removing a staging directory with all that is in it.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;

/// Removes `name` in `parent`, whatever it is, and everything below it. Follows nothing, and stays on the file
/// system: what is mounted below makes it fail. What is gone already is no error.
///
/// Needs descriptors for as many levels as the tree has.
///
/// # Errors
/// The first error; what was removed until then stays removed.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    empty(Level::open(parent, name)?)?;
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes everything in a directory, as [`remove_tree`] does.
///
/// # Errors
/// As [`remove_tree`].
pub(super) fn empty_tree(dir: OwnedFd) -> Result<(), Errno> {
    empty(Level::of(dir)?)
}

/// Whether nothing is in a directory.
pub(super) fn is_empty(dir: &OwnedFd) -> Result<bool, Errno> {
    for entry in Dir::read_from(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn empty(mut top: Level) -> Result<(), Errno> {
    // Directories that are being emptied, from the top down: each with its name in the one before.
    let mut open: Vec<(CString, Level)> = Vec::new();
    loop {
        let level = open.last_mut().map_or(&mut top, |(_, level)| level);
        match level.next_dir()? {
            Some(name) => {
                let below = Level::open(level.dir.as_fd(), name.as_bytes())?;
                open.push((name, below));
            }
            None => {
                let Some((name, _)) = open.pop() else { return Ok(()) };
                let above = open.last().map_or(&top, |(_, level)| level);
                match rustix::fs::unlinkat(&above.dir, &name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

struct Level {
    dir: OwnedFd,
    entries: Dir,
}

impl Level {
    fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::of(rustix::fs::openat(parent, name, flags, Mode::empty())?)
    }

    fn of(dir: OwnedFd) -> Result<Self, Errno> {
        let entries = Dir::read_from(&dir)?;
        Ok(Self { dir, entries })
    }

    /// Removes what is no directory, up to the next one.
    fn next_dir(&mut self) -> Result<Option<CString>, Errno> {
        while let Some(entry) = self.entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                return Ok(Some(name.to_owned()));
            }
            match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                // A file system that does not say what its entries are.
                Err(Errno::ISDIR) => return Ok(Some(name.to_owned())),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_goes_and_nothing_beside_it() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        fs::create_dir_all(root.join("kept/inner")).unwrap();
        fs::write(root.join("kept/inner/file"), "kept").unwrap();
        fs::create_dir_all(root.join("gone/a/b/c")).unwrap();
        fs::create_dir_all(root.join(format!("gone/deep/{}", "d/".repeat(300)))).unwrap();
        fs::write(root.join("gone/a/file"), "x").unwrap();
        symlink("../kept", root.join("gone/link")).unwrap();
        symlink("/", root.join("gone/a/b/root")).unwrap();
        let dir = File::open(root).unwrap();
        remove_tree(dir.as_fd(), b"gone").unwrap();
        remove_tree(dir.as_fd(), b"gone").unwrap();
        assert!(!root.join("gone").exists());
        assert_eq!(fs::read(root.join("kept/inner/file")).unwrap(), b"kept");
        symlink("kept", root.join("link")).unwrap();
        remove_tree(dir.as_fd(), b"link").unwrap();
        assert!(fs::symlink_metadata(root.join("link")).is_err() && root.join("kept/inner").exists());
    }
}
