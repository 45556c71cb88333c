//! One session at a time for each state directory.

use crate::caller::Caller;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::time::{Duration, SystemTime};

/// The lock's name in the state directory. What is in it says who holds it; whether it is held, the kernel says.
const FILE_NAME: &str = "session.lock";
/// The most bytes of it that are read.
const MAX_HOLDER: usize = 512;

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Somebody has it.
    #[error("another session is running here{0}; wait for its end, or end it")]
    Held(String),
    /// The file cannot be used.
    #[error("the session lock {FILE_NAME} in the state directory cannot be taken: {0}")]
    File(#[from] Errno),
}

/// Held until it is dropped, or the process ends in any way.
#[derive(Debug)]
pub(super) struct SessionLock(#[expect(dead_code, reason = "holding it open is what it is for")] OwnedFd);

impl SessionLock {
    /// Takes the lock, or says who has it and since when.
    pub(super) fn take(state: impl AsFd, caller: &Caller) -> Result<Self, LockError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(state, FILE_NAME, flags, Mode::from_raw_mode(0o600))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held(holder(&file))),
            Err(errno) => return Err(errno.into()),
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let text = format!("{now} {} {caller}\n", std::process::id());
        rustix::fs::ftruncate(&file, 0)?;
        rustix::io::pwrite(&file, text.as_bytes(), 0)?;
        Ok(Self(file))
    }
}

/// Who holds the lock, as words that follow "another session is running here". Nothing when it cannot be told.
fn holder(file: &OwnedFd) -> String {
    let mut buffer = [0u8; MAX_HOLDER];
    let length = rustix::io::pread(file, &mut buffer[..], 0).unwrap_or(0);
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
    let mut parts = text.trim_end().splitn(3, ' ');
    let (Some(since), Some(pid), Some(caller)) = (parts.next(), parts.next(), parts.next()) else {
        return String::new();
    };
    let Some(begin) = since.parse().ok().and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s)))
    else {
        return String::new();
    };
    let age = SystemTime::now().duration_since(begin).unwrap_or_default().as_secs();
    let age = if age < 120 { format!("{age} seconds") } else { format!("{} minutes", age / 60) };
    // Its writer was a helper, which escaped the name already.
    format!(", for {caller}, for {age} (process {pid})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_session_is_told_who_has_the_first() {
        let temp = tempfile::tempdir().unwrap();
        let dir = rustix::fs::open(temp.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let alice = Caller { uid: 1000, pid: None, name: Some("alice".to_owned()) };
        let first = SessionLock::take(&dir, &alice).unwrap();
        let error = SessionLock::take(&dir, &alice).unwrap_err().to_string();
        assert!(error.contains("for user alice (1000), for "), "{error}");
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        SessionLock::take(&dir, &alice).unwrap();
        std::fs::write(temp.path().join(FILE_NAME), [0xff; 600]).unwrap();
        let _second = SessionLock::take(&dir, &alice).unwrap();
    }
}
