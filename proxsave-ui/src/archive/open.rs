//! Opening one backup: the file that a user names, and the descriptor that is then held to the end.
//!
//! A user may name a bundle, an archive, or one of an archive's companions. The main process opens the files and reads
//! nothing of them; the decoder describes them.

use super::backup::{Backup, TimeSource};
use super::describe::{Describe, DescribeError, DescribeInput};
use super::name::{CompanionKind, FileKind};
use super::problem::Problem;
use proxsave_proto::digest::Timestamp;
use proxsave_proto::escape::Escaped;
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A backup with its file, held open: every later reading goes through this descriptor, so that the file cannot be
/// replaced by another of the same name.
#[derive(Debug)]
pub struct Opened {
    /// What it is.
    pub backup: Backup,
    /// The bundle or the archive.
    pub file: File,
}

/// Why a backup could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system says no.
    #[error("the backup {path} cannot be opened: {error}")]
    Io {
        /// Safe to print.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// No right to read it.
    #[error(
        "the backup {path} may not be read by this user (ProxSave makes backups for root's group only): \
        let a user that may read it run this, or copy it and give the copy to this user"
    )]
    Denied {
        /// Safe to print.
        path: String,
    },
    /// Its bundle is there instead.
    #[error("{path} is not there, but its bundle is: name {path}.bundle.tar")]
    OnlyBundle {
        /// Safe to print.
        path: String,
    },
    /// Not a regular file.
    #[error("{path} is not a regular file; to see the backups in a directory, use: proxsave-ui list DIR")]
    NotFile {
        /// Safe to print.
        path: String,
    },
    /// Not whole yet.
    #[error("{path} is still being written, or its writing was interrupted")]
    Partial {
        /// Safe to print.
        path: String,
    },
    /// It cannot be described.
    #[error("the backup {path} cannot be used: {error}")]
    Describe {
        /// Safe to print.
        path: String,
        /// Why.
        error: DescribeError,
    },
}

/// Opens and describes the backup that a user names.
///
/// # Errors
/// See [`OpenError`].
pub fn open(path: &Path, describe: &mut dyn Describe) -> Result<Opened, OpenError> {
    // The real name counts: a link called "latest" says nothing about codec and encryption.
    let real = std::fs::canonicalize(path).map_err(|error| not_there(path, error))?;
    let (Some(directory), Some(name)) = (real.parent(), real.file_name()) else {
        return Err(OpenError::NotFile { path: shown(path) });
    };
    let main = match FileKind::of(name.as_bytes()) {
        FileKind::Partial => return Err(OpenError::Partial { path: shown(path) }),
        FileKind::Companion { of, .. } => of,
        FileKind::Bundle | FileKind::Archive(_) | FileKind::Other => name.as_bytes().to_vec(),
    };
    let directory_fd = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty())
        .map_err(|error| OpenError::Io { path: shown(directory), error: error.into() })?;
    open_at(directory_fd.as_fd(), directory, &main, String::new(), describe)
}

/// Opens and describes the bundle or archive `name` in a directory, with what lies beside it.
pub(super) fn open_at(
    directory: BorrowedFd<'_>,
    directory_path: &Path,
    name: &[u8],
    source: String,
    describe: &mut dyn Describe,
) -> Result<Opened, OpenError> {
    let path = directory_path.join(OsStr::from_bytes(name));
    let file = open_regular(directory, name).map_err(|error| not_there(&path, error))?;
    let Some(file) = file else { return Err(OpenError::NotFile { path: shown(&path) }) };
    let mut companions = Vec::new();
    let mut problems = Vec::new();
    if FileKind::of(name) != FileKind::Bundle {
        for kind in CompanionKind::ALL {
            let companion = [name, kind.suffix().as_bytes()].concat();
            match open_regular(directory, &companion) {
                Ok(Some(file)) => companions.push((kind, file)),
                Ok(None) => {
                    problems.push(Problem::BadCompanion { companion: kind, reason: "it is not a regular file".into() });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => problems.push(Problem::BadCompanion { companion: kind, reason: error.to_string() }),
            }
        }
    }
    let input = DescribeInput {
        name,
        archive: file.as_fd(),
        companions: companions.iter().map(|(kind, file)| (*kind, file.as_fd())).collect(),
    };
    let mut description =
        describe.describe(input).map_err(|error| OpenError::Describe { path: shown(&path), error })?;
    description.problems.append(&mut problems);
    let status = file.metadata().map_err(|error| OpenError::Io { path: shown(&path), error })?;
    let stated = description.manifest.as_ref().and_then(|manifest| manifest.created_at);
    let modified = Timestamp { secs: status.mtime(), nanos: u32::try_from(status.mtime_nsec()).unwrap_or_default() };
    let (created_at, time_source) =
        stated.map_or((modified, TimeSource::File), |stated| (stated, TimeSource::Manifest));
    Ok(Opened { backup: Backup { path, source, size: status.size(), created_at, time_source, description }, file })
}

/// Opens a file of a directory for reading, without waiting (a FIFO would) and without following a link. `None` when
/// it is no regular file.
fn open_regular(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => {
            let file = File::from(fd);
            Ok(file.metadata()?.is_file().then_some(file))
        }
        // A link, a socket, a device without driver.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO | rustix::io::Errno::NODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The error for a file that cannot be opened: with a hint where there is one.
pub(super) fn not_there(path: &Path, error: io::Error) -> OpenError {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return OpenError::Denied { path: shown(path) };
    }
    if error.kind() == io::ErrorKind::NotFound {
        let mut bundle = PathBuf::from(path).into_os_string();
        bundle.push(".bundle.tar");
        if rustix::fs::statat(CWD, Path::new(&bundle), rustix::fs::AtFlags::empty()).is_ok() {
            return OpenError::OnlyBundle { path: shown(path) };
        }
    }
    OpenError::Io { path: shown(path), error }
}

pub(super) fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_bytes()).to_string()
}
