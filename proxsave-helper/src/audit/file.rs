//! The log's file: opened by name in the state directory, locked, and nobody else's.

use super::FILE_NAME;
use super::log::LogError;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How long to wait for a helper that is writing a batch.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Opens the log for writing, makes it where there is none, locks it and checks that it is ours. The lock goes with
/// the returned file.
pub(super) fn lock_for_writing(dir: BorrowedFd<'_>) -> Result<(File, Stat), LogError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let file = open(dir, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE).map_err(LogError::Open)?;
        if !lock(&file, FlockOperation::NonBlockingLockExclusive, deadline).map_err(LogError::Open)? {
            return Err(LogError::Busy);
        }
        let stat = rustix::fs::fstat(&file).map_err(|errno| LogError::Open(errno.into()))?;
        ours(&stat).map_err(LogError::Foreign)?;
        // The log may have been moved away between opening and locking; then the name is another file's.
        match rustix::fs::statat(dir, FILE_NAME, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (stat.st_dev, stat.st_ino) => return Ok((file, stat)),
            Ok(_) | Err(Errno::NOENT) if Instant::now() < deadline => {}
            Ok(_) => return Err(LogError::Foreign("it is being replaced all the time")),
            Err(errno) => return Err(LogError::Open(errno.into())),
        }
    }
}

/// Opens the log for reading and gives its size at a moment when no helper was writing.
pub(super) fn open_for_reading(dir: BorrowedFd<'_>) -> io::Result<(File, u64)> {
    let file = open(dir, OFlags::RDONLY)?;
    if !lock(&file, FlockOperation::NonBlockingLockShared, Instant::now() + LOCK_WAIT)? {
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "a helper keeps it locked"));
    }
    let stat = rustix::fs::fstat(&file)?;
    rustix::fs::flock(&file, FlockOperation::Unlock)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, u64::try_from(stat.st_size).unwrap_or(0)))
}

/// Non-blocking, so that a FIFO of that name does not hang us.
fn open(dir: BorrowedFd<'_>, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::openat(dir, FILE_NAME, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Tries until a deadline. A batch takes milliseconds, so it looks often.
fn lock(file: &File, operation: FlockOperation, deadline: Instant) -> io::Result<bool> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Only a file that nobody but this user could have written is continued.
fn ours(stat: &Stat) -> Result<(), &'static str> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("not a regular file");
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err("it has another owner");
    }
    if stat.st_mode & 0o077 != 0 {
        return Err("others have rights on it");
    }
    if stat.st_nlink != 1 {
        return Err("it has a second name");
    }
    Ok(())
}
