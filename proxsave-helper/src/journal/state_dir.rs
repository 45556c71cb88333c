//! The state directory: root's alone.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// The state directory, opened once: the audit log and the records of open transactions are in it.
#[derive(Debug)]
pub struct StateDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Why a directory cannot be the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or opened.
    #[error("the state directory {} cannot be used: {source}; make its parent, or name another with --state", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is somebody else's, or open to others.
    #[error(
        "the state directory {} belongs to uid {uid} with mode {mode:04o}; it must be uid {wanted}'s with mode 0700. \
         Look who changed it, then run chown and chmod 0700",
        path.display()
    )]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
        /// Who should own it.
        wanted: u32,
    },
}

impl StateDir {
    /// Opens the directory, making it (0700) when its parent lacks it. The last name of the path is not followed
    /// if it is a symbolic link.
    ///
    /// # Errors
    /// When it cannot be opened, is not the helper's own user's, or others may enter it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source: Errno| StateError::Open { path: path.to_owned(), source: source.into() };
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        let fd = rustix::fs::open(path, DIR, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let wanted = rustix::process::geteuid().as_raw();
        let mode = stat.st_mode & 0o7777;
        if stat.st_uid != wanted || mode & 0o077 != 0 {
            return Err(StateError::Foreign { path: path.to_owned(), uid: stat.st_uid, mode, wanted });
        }
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Where it is; for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory in it, making it (0700) when it is not there.
    pub(super) fn subdir(&self, name: &str) -> Result<OwnedFd, Errno> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) => rustix::fs::fsync(&self.fd)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        rustix::fs::openat(&self.fd, name, DIR, Mode::empty())
    }
}

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl AsFd for StateDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_made_private_and_refused_when_open_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        StateDir::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        for mode in [0o701, 0o750, 0o755, 0o1777] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(StateDir::open(&path), Err(StateError::Foreign { .. })), "{mode:o}");
        }
        assert!(StateDir::open(&dir.path().join("no/parent")).is_err());
    }

    #[test]
    fn a_link_or_anothers_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        StateDir::open(&path).unwrap();
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert!(matches!(StateDir::open(&dir.path().join("link")), Err(StateError::Open { .. })));
        std::os::unix::fs::chown(&path, Some(1234), None).expect("this test runs as root");
        assert!(matches!(StateDir::open(&path), Err(StateError::Foreign { uid: 1234, .. })));
    }
}
