//! Removing what transactions left that did not end.

use super::record::{Found, Place, Record, TxId, UNFINISHED, take};
use super::remove::remove_stage;
use super::{JournalError, StateDir, TX_DIR};
use crate::root::{Dir, OpenError, Root};
use proxsave_proto::escape::Escaped;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;

/// What a sweep did. The broker writes it to the audit log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// By transaction.
    pub swept: Vec<Swept>,
    /// Records whose helper is alive; they were left alone.
    pub live: u64,
}

/// What was done about one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Which.
    pub txid: TxId,
    /// Whose it was, and the hash of its plan; `None` when the record is damaged.
    pub record: Option<Record>,
    /// How many staging directories were removed.
    pub removed: u64,
    /// What could not be cleaned and why. While there is any, the record stays and the next helper tries again.
    pub problems: Vec<String>,
}

/// Removes the staging directories of all transactions that did not end, then their records. Can be stopped at any
/// moment and run again.
///
/// # Errors
/// When the records cannot be listed or one cannot be removed. What is wrong with a single transaction is told in
/// [`Swept::problems`].
pub fn sweep(root: &Root, state: &StateDir) -> Result<Sweep, JournalError> {
    let failed = |source: std::io::Error| JournalError::new("list its records", source);
    let dir = state.subdir(TX_DIR).map_err(|error| failed(error.into()))?;
    let mut done = Sweep::default();
    for name in names(&dir, b"").map_err(|error| failed(error.into()))? {
        let Ok(text) = name.to_str() else { continue };
        let id = text.strip_suffix(UNFINISHED).unwrap_or(text);
        let Some(txid) = TxId::parse(id.as_bytes()) else { continue };
        let (lock, record) = match take(&dir, text)
            .map_err(|error| JournalError::new(format!("read the record of transaction {txid}"), error))?
        {
            Found::Live => {
                done.live += 1;
                continue;
            }
            Found::Gone => continue,
            Found::Dead(lock, record) => (lock, record),
        };
        let clean = if text.ends_with(UNFINISHED) {
            // Its helper died before it staged anything.
            true
        } else {
            let swept = sweep_one(root, txid.clone(), record);
            let clean = swept.problems.is_empty();
            done.swept.push(swept);
            clean
        };
        if clean {
            let removed = rustix::fs::unlinkat(&dir, text, AtFlags::empty()).and_then(|()| rustix::fs::fsync(&dir));
            removed.map_err(|error| JournalError::new(format!("remove the record of transaction {txid}"), error))?;
        }
        drop(lock);
    }
    Ok(done)
}

fn sweep_one(root: &Root, txid: TxId, record: Option<Record>) -> Swept {
    let prefix = txid.stage_prefix();
    let mut swept = Swept { txid, record, removed: 0, problems: Vec::new() };
    let Some(record) = &swept.record else {
        let text = "its record is damaged; look for directories whose name begins with";
        swept.problems.push(format!("{text} {prefix} and remove them and the record"));
        return swept;
    };
    for place in &record.places {
        let problem = match root.open_dir(&place.path) {
            // With the directory, all that was in it is gone.
            Err(OpenError::Absent) => None,
            Err(other) => Some(other.to_string()),
            Ok(dir) => sweep_place(&dir, place, &prefix, &mut swept.removed).err(),
        };
        swept.problems.extend(problem.map(|problem| format!("{}: {problem}", place.path)));
    }
    swept
}

fn sweep_place(dir: &Dir, place: &Place, prefix: &str, removed: &mut u64) -> Result<(), String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let unlisted = |error: Errno| format!("it cannot be listed: {error}");
    let list = rustix::fs::openat(dir, c".", flags, Mode::empty()).map_err(unlisted)?;
    let stages = names(&list, prefix.as_bytes()).map_err(unlisted)?;
    if stages.is_empty() && dir.id().ino != place.ino {
        return Err("another directory is there now; what the transaction left may be in the old one".to_owned());
    }
    let mut first = Ok(());
    for stage in stages {
        match remove_stage(list.as_fd(), &stage) {
            Ok(()) => *removed += 1,
            Err(error) => first = first.and(Err(format!("{}: {error}", Escaped(stage.to_bytes())))),
        }
    }
    first
}

/// The names in a directory that begin with a prefix, but for `.` and `..`.
fn names(dir: &OwnedFd, prefix: &[u8]) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(prefix) && name != b"." && name != b".." {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}
