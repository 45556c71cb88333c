//! The record of one open transaction.

use super::{JournalError, StateDir, TX_DIR};
use crate::check::CheckedPlan;
use proxsave_proto::{Digest, RelPath};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::fmt;
use std::io;

/// The first bytes of a record; another version would have others.
const MAGIC: &[u8] = b"proxsave tx 1\n";
/// A record larger than this is not read: a plan has at most 2,000,000 anchors, each with a path.
const MAX_RECORD: u64 = 1 << 30;
/// A record is written under its name with this behind it, and then renamed.
pub(super) const UNFINISHED: &str = ".new";
/// How often a record is begun again when a sweep took the unfinished file away.
const ATTEMPTS: usize = 3;

/// Names a transaction: 16 hex digits, from the kernel's random numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct TxId(String);

/// What a later helper must know to clean up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Hash of the plan.
    pub plan: Digest,
    /// Whose it was.
    pub caller: u32,
    /// The directories that may hold staging directories.
    pub places: Vec<Place>,
}

/// A directory that may hold staging directories, whose names all begin with [`TxId::stage_prefix`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where.
    pub path: RelPath,
    /// Inode number: with another one there, it is not known whether anything was left.
    pub ino: u64,
}

/// A transaction whose record is on disk, locked. Dropping it leaves the record to the next sweep.
#[derive(Debug)]
pub struct OpenTx {
    id: TxId,
    dir: OwnedFd,
    /// Holds the lock.
    file: OwnedFd,
}

impl Drop for OpenTx {
    /// Unlocks: closing alone would not, were the descriptor still open in a process that was just forked.
    fn drop(&mut self) {
        // The only failure is a lock that is gone, which is what is wanted.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

impl TxId {
    /// A new one.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0u8; 8];
        getrandom(&mut bytes[..], GetRandomFlags::empty())?;
        Ok(Self(format!("{:016x}", u64::from_be_bytes(bytes))))
    }

    /// Reads the 16 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 16 && text.iter().all(hex)).then(|| Self(String::from_utf8_lossy(text).into_owned()))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How the names of its staging directories begin; a number follows.
    #[must_use]
    pub fn stage_prefix(&self) -> String {
        format!(".pxs-{}-", self.0)
    }
}

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Record {
    /// The record of a plan about to be carried out.
    #[must_use]
    pub fn of(checked: &CheckedPlan, caller: u32) -> Self {
        let places = checked.plan().anchors.iter().map(|anchor| Place { path: anchor.path.clone(), ino: anchor.ino });
        Self { plan: checked.hash(), caller, places: places.collect() }
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = postcard::to_extend(self, MAGIC.to_vec()).map_err(io::Error::other)?;
        let sum: [u8; 32] = sha2::Sha256::digest(&bytes).into();
        bytes.extend_from_slice(&sum);
        Ok(bytes)
    }

    /// Reads what [`begin`] wrote. `None` for anything else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<32>()?;
        if <[u8; 32]>::from(sha2::Sha256::digest(body)) != *sum {
            return None;
        }
        let (record, rest) = postcard::take_from_bytes(body.strip_prefix(MAGIC)?).ok()?;
        rest.is_empty().then_some(record)
    }
}

/// Makes the record of a transaction durable. Before this returns, nothing may be staged.
///
/// # Errors
/// When it cannot be written; nothing is left then.
pub fn begin(state: &StateDir, id: TxId, record: &Record) -> Result<OpenTx, JournalError> {
    let failed =
        |what: &str, source: io::Error| JournalError::new(format!("{what} the record of transaction {id}"), source);
    let bytes = record.encode().map_err(|error| failed("encode", error))?;
    let dir = state.subdir(TX_DIR).map_err(|error| failed("open the directory to make", error.into()))?;
    let mut last = Errno::NOENT;
    for _ in 0..ATTEMPTS {
        match write(&dir, &id, &bytes) {
            Ok(file) => return Ok(OpenTx { id, dir, file }),
            // A sweep took the file for a dead helper's before it was locked.
            Err(Errno::NOENT | Errno::AGAIN) => last = Errno::AGAIN,
            Err(error) => {
                last = error;
                break;
            }
        }
    }
    Err(failed("write", last.into()))
}

fn write(dir: &OwnedFd, id: &TxId, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let unfinished = format!("{id}{UNFINISHED}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, &unfinished, flags, Mode::RUSR | Mode::WUSR)?;
    let written = fill(dir, &file, &unfinished, id, bytes);
    if written.is_err() {
        // Best done now; if it fails as well, a sweep does it.
        let _ = rustix::fs::unlinkat(dir, &unfinished, AtFlags::empty());
    }
    written.map(|()| file)
}

fn fill(dir: &OwnedFd, file: &OwnedFd, unfinished: &str, id: &TxId, bytes: &[u8]) -> Result<(), Errno> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(file, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::fs::fsync(file)?;
    rustix::fs::renameat_with(dir, unfinished, dir, id.as_str(), rustix::fs::RenameFlags::NOREPLACE)?;
    rustix::fs::fsync(dir)
}

impl OpenTx {
    /// Which transaction.
    #[must_use]
    pub fn id(&self) -> &TxId {
        &self.id
    }

    /// Ends it: every staging directory is gone. The record goes, durably.
    ///
    /// # Errors
    /// When it cannot be removed; the next sweep finds nothing to do then and removes it.
    pub fn close(self) -> Result<(), JournalError> {
        let failed = |source: Errno| JournalError::new(format!("remove the record of transaction {}", self.id), source);
        rustix::fs::unlinkat(&self.dir, self.id.as_str(), AtFlags::empty()).map_err(failed)?;
        rustix::fs::fsync(&self.dir).map_err(failed)
    }
}

/// Locks a record and reads it.
pub(super) enum Found {
    /// Its helper lives.
    Live,
    /// It went away meanwhile.
    Gone,
    /// Nobody holds it; the descriptor keeps it locked.
    Dead(OwnedFd, Option<Record>),
}

pub(super) fn take(dir: &OwnedFd, name: &str) -> io::Result<Found> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Found::Gone),
        other => other?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN) => return Ok(Found::Live),
        other => other?,
    }
    let stat = rustix::fs::fstat(&file)?;
    if stat.st_nlink == 0 {
        return Ok(Found::Gone);
    }
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > MAX_RECORD {
        return Ok(Found::Dead(file, None));
    }
    let mut bytes = vec![0u8; usize::try_from(size).unwrap_or(0)];
    let mut filled = 0usize;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(&file, rest, filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(filled);
    let record = Record::decode(&bytes);
    Ok(Found::Dead(file, record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_sixteen_digits() {
        let id = TxId::random().unwrap();
        assert_eq!(TxId::parse(id.as_str().as_bytes()), Some(id));
        for bad in ["", "0123", "0123456789abcdeF", "0123456789abcde/", "0123456789abcdef0"] {
            assert_eq!(TxId::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_record_is_not_believed(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
            let path = RelPath::from_archive(b"etc/\xff\n").unwrap();
            let record = Record { plan: Digest::of(b"x"), caller: 7, places: vec![Place { path, ino: 3 }] };
            let mut bytes = record.encode().unwrap();
            prop_assert_eq!(Record::decode(&bytes), Some(record));
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            prop_assert_eq!(Record::decode(&bytes), None);
        }
    }
}
