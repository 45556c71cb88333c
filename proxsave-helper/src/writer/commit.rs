//! Putting in place: a last look at every target, then one rename for each, by held descriptors.

use super::error::WriterError;
use super::layout::{Place, name};
use super::protocol::{FromWriter, MAX_FAILURES, MAX_TEXT, Outcome, clip};
use super::stage::{StagedName, Staging};
use super::talk::Talk;
use proxsave_proto::CategoryId;
use proxsave_proto::message::Phase;
use proxsave_proto::plan::Entry;
use proxsave_proto::state::{Kind, Present};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, RenameFlags, Statx, StatxFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;

/// Why one entry was not put in place.
#[derive(Debug, thiserror::Error)]
enum NotPut {
    #[error("it changed at the last moment ({0}); what is there was left alone")]
    Changed(&'static str),
    #[error("{0}: {1}")]
    Failed(&'static str, std::io::Error),
}

impl NotPut {
    fn failed(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |error| Self::Failed(what, error.into())
    }
}

/// What happened to the entries.
#[derive(Default)]
struct Tally {
    written: BTreeMap<CategoryId, u64>,
    failed: u64,
}

/// Looks at every target once more. Any difference ends the transaction before the first rename.
pub(super) fn recheck(staging: &Staging<'_>) -> Result<(), WriterError> {
    for (index, entry) in staging.job.plan.entries.iter().enumerate() {
        let dir = |slot: usize| staging.slots.get(slot).map(|slot| slot.dir.as_fd());
        let difference = match staging.layout.place(index) {
            Place::Under(_) => None,
            Place::In(slot) => match dir(slot).map(|dir| look(dir, name(&entry.path))) {
                Some(Ok(found)) => differs(entry.before.as_deref(), found.as_ref(), true),
                Some(Err(error)) => return Err(WriterError::entry(&entry.path, "examine")(error)),
                None => Some("its directory is not open"),
            },
            Place::Existing(slot) => match dir(slot).map(|dir| look(dir, b"")) {
                Some(Ok(found)) => differs_dir(entry.before.as_deref(), found.as_ref()),
                Some(Err(error)) => return Err(WriterError::entry(&entry.path, "examine")(error)),
                None => Some("it is not open"),
            },
        };
        if let Some(difference) = difference {
            return Err(WriterError::Changed(entry.path.clone(), difference));
        }
    }
    Ok(())
}

/// Puts everything in place. From here on nothing stops it: what fails is recorded, the rest goes on.
pub(super) fn commit(staging: &mut Staging<'_>, talk: &mut Talk<'_>) -> Outcome {
    talk.committing();
    let mut tally = Tally::default();
    let entries = &staging.job.plan.entries;
    for (index, entry) in entries.iter().enumerate() {
        let Place::In(slot) = staging.layout.place(index) else { continue };
        // A new directory brings all that is below it.
        let below = entries.get(index + 1..).unwrap_or_default();
        let brought = if entry.node.is_dir() { below.partition_point(|e| e.path.starts_with(&entry.path)) } else { 0 };
        let whole = entries.get(index..=index + brought).unwrap_or_default();
        let result = put(staging, slot, index, entry);
        tally.count(index, whole, result, talk);
    }
    for (index, entry) in entries.iter().enumerate().rev() {
        let Place::Existing(slot) = staging.layout.place(index) else { continue };
        let result = match (staging.job.wanted(entry), staging.slots.get(slot)) {
            (Some(wanted), Some(slot)) => {
                wanted.set_all(slot.dir.as_fd()).map_err(|(what, error)| NotPut::Failed(what, error.into()))
            }
            _ => Err(NotPut::Changed("it is not open")),
        };
        tally.count(index, std::slice::from_ref(entry), result, talk);
    }
    let mut error = staging.sync().err().map(|error| error.to_string());
    if let Err(text) = close(staging) {
        error.get_or_insert(text);
    }
    let phase = if tally.failed == 0 && error.is_none() { Phase::Done } else { Phase::Failed };
    let error = error.map(|text| clip(text, MAX_TEXT));
    Outcome { phase, error, written: tally.written.into_iter().collect(), failed: tally.failed }
}

/// Ends the transaction: removes the staging directories, and with them what was displaced. Directories with an
/// entry of their own get their time again, which that changed.
fn close(staging: &mut Staging<'_>) -> Result<(), String> {
    let mut result = Ok(());
    for (slot, dir) in staging.layout.slots.iter().zip(&mut staging.slots) {
        if let Err(error) = dir.close() {
            let error = std::io::Error::from(error);
            let path = slot.path;
            let text = format!(
                "everything is in place, but a staging directory stays in {path} until the next start: {error}"
            );
            result = result.and(Err(text));
        }
    }
    for (index, entry) in staging.job.plan.entries.iter().enumerate() {
        let Place::Existing(slot) = staging.layout.place(index) else { continue };
        if let (Some(wanted), Some(slot)) = (staging.job.wanted(entry), staging.slots.get(slot))
            && let Err((what, error)) = wanted.set_mtime(slot.dir.as_fd())
        {
            result = result.and(Err(format!("{}: {what}: {}", entry.path, std::io::Error::from(error))));
        }
    }
    result
}

impl Tally {
    fn count(&mut self, index: usize, entries: &[Entry], result: Result<(), NotPut>, talk: &mut Talk<'_>) {
        match result {
            Ok(()) => entries.iter().for_each(|entry| *self.written.entry(entry.category).or_default() += 1),
            Err(why) => {
                for index in index..index + entries.len() {
                    if self.failed < MAX_FAILURES
                        && let Ok(index) = u32::try_from(index)
                    {
                        // A broker that is gone changes nothing about what is to be done.
                        let _ = talk.tell(&FromWriter::EntryFailed { index, why: why.to_string() });
                    }
                    self.failed += 1;
                }
            }
        }
        talk.entries += entries.len() as u64;
        let _ = talk.tick();
    }
}

fn put(staging: &Staging<'_>, slot: usize, index: usize, entry: &Entry) -> Result<(), NotPut> {
    let Some((dir, stage)) = staging.slots.get(slot).and_then(|s| Some((s.dir.as_fd(), s.stage.as_ref()?.as_fd())))
    else {
        return Err(NotPut::Changed("its directory is not open"));
    };
    let staged = StagedName::of(staging.layout, index, entry);
    let target = name(&entry.path);
    let found = look(dir, target).map_err(NotPut::failed("examine"))?;
    // A rename of another name of the same file changed its change time.
    if let Some(difference) = differs(entry.before.as_deref(), found.as_ref(), false) {
        return Err(NotPut::Changed(difference));
    }
    match &entry.before {
        None => appear(stage, staged.bytes(), dir, target),
        Some(before) => replace(stage, staged.bytes(), dir, target, before),
    }
}

/// A name that is not there yet.
fn appear(stage: BorrowedFd<'_>, staged: &[u8], dir: BorrowedFd<'_>, target: &[u8]) -> Result<(), NotPut> {
    match rustix::fs::renameat_with(stage, staged, dir, target, RenameFlags::NOREPLACE) {
        Err(error) if unsupported(error) => {}
        result => return result.map_err(NotPut::failed("put in place")),
    }
    // A link does not replace either; directories cannot be linked, and a plain rename replaces an empty one only.
    match rustix::fs::linkat(stage, staged, dir, target, AtFlags::empty()) {
        Ok(()) => rustix::fs::unlinkat(stage, staged, AtFlags::empty()).map_err(NotPut::failed("put in place")),
        Err(Errno::EXIST) => Err(NotPut::Failed("put in place", Errno::EXIST.into())),
        Err(_) => rustix::fs::renameat_with(stage, staged, dir, target, RenameFlags::empty())
            .map_err(NotPut::failed("put in place")),
    }
}

/// A name that is there: what it was stays in the staging directory.
fn replace(
    stage: BorrowedFd<'_>,
    staged: &[u8],
    dir: BorrowedFd<'_>,
    target: &[u8],
    before: &Present,
) -> Result<(), NotPut> {
    let exchange = || rustix::fs::renameat_with(stage, staged, dir, target, RenameFlags::EXCHANGE);
    match exchange() {
        Ok(()) => {
            let displaced = look(stage, staged).map_err(NotPut::failed("examine what was displaced"))?;
            if displaced.is_some_and(|stat| id(&stat) == (before.dev, before.ino)) {
                return Ok(());
            }
            exchange().map_err(NotPut::failed("put back what was displaced unexpectedly"))?;
            Err(NotPut::Changed("something else was there"))
        }
        Err(error) if unsupported(error) => {
            let kept = [staged, b"-old"].concat();
            match rustix::fs::linkat(dir, target, stage, &*kept, AtFlags::empty()) {
                Ok(()) => {
                    let old = look(stage, &kept).map_err(NotPut::failed("examine what is there"))?;
                    if old.is_none_or(|stat| id(&stat) != (before.dev, before.ino)) {
                        return Err(NotPut::Changed("something else was there"));
                    }
                }
                // No hard links on this file system: nothing is kept.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {}
                Err(error) => return Err(NotPut::failed("keep what is there")(error)),
            }
            rustix::fs::renameat_with(stage, staged, dir, target, RenameFlags::empty())
                .map_err(NotPut::failed("put in place"))
        }
        Err(error) => Err(NotPut::failed("put in place")(error)),
    }
}

/// What a file system says that has no such rename.
fn unsupported(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// What is at a name (of the directory itself, for an empty one); `None` for nothing.
fn look(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Statx>, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    match rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn id(stat: &Statx) -> (u64, u64) {
    (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino)
}

fn differs(before: Option<&Present>, now: Option<&Statx>, change_time: bool) -> Option<&'static str> {
    let (before, now) = match (before, now) {
        (None, None) => return None,
        (None, Some(_)) => return Some("something is there now"),
        (Some(_), None) => return Some("nothing is there any more"),
        (Some(before), Some(now)) => (before, now),
    };
    let is_file = before.kind == Kind::File;
    if id(now) != (before.dev, before.ino) || kind(now) != before.kind {
        Some("something else is there now")
    } else if (is_file && now.stx_size != before.size)
        || (now.stx_mtime.tv_sec, now.stx_mtime.tv_nsec) != (before.mtime.secs, before.mtime.nanos)
    {
        Some("its content changed")
    } else if change_time && (now.stx_ctime.tv_sec, now.stx_ctime.tv_nsec) != (before.ctime.secs, before.ctime.nanos) {
        Some("its change time changed")
    } else {
        None
    }
}

/// A directory's own times change with every name made in it, by the staging itself too.
fn differs_dir(before: Option<&Present>, now: Option<&Statx>) -> Option<&'static str> {
    let (Some(before), Some(now)) = (before, now) else { return Some("nothing is there any more") };
    if id(now) != (before.dev, before.ino) || kind(now) != Kind::Dir {
        Some("something else is there now")
    } else if (now.stx_mode & 0o7777, now.stx_uid, now.stx_gid) != (before.mode, before.uid, before.gid) {
        Some("its owner or mode changed")
    } else {
        None
    }
}

fn kind(stat: &Statx) -> Kind {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Special,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxsave_proto::Digest;
    use proxsave_proto::digest::Timestamp;
    use std::fs::{self, File};

    fn before(stat: &Statx) -> Present {
        let (dev, ino) = id(stat);
        let mtime = Timestamp { secs: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec };
        let ctime = Timestamp { secs: stat.stx_ctime.tv_sec, nanos: stat.stx_ctime.tv_nsec };
        Present {
            kind: kind(stat),
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            mtime,
            ctime,
            dev,
            ino,
            nlink: 1,
            sha256: None,
            link: None,
            xattrs: Digest::of(b""),
        }
    }

    fn place() -> (tempfile::TempDir, File, File) {
        let tmp = tempfile::tempdir().unwrap();
        for dir in ["live", "stage"] {
            fs::create_dir(tmp.path().join(dir)).unwrap();
        }
        fs::write(tmp.path().join("live/name"), "old").unwrap();
        fs::write(tmp.path().join("stage/0"), "new").unwrap();
        let open = |dir| File::open(tmp.path().join(dir)).unwrap();
        let (live, stage) = (open("live"), open("stage"));
        (tmp, live, stage)
    }

    #[test]
    fn what_is_displaced_must_be_what_the_plan_knew() {
        let (tmp, live, stage) = place();
        let read = |name: &str| fs::read_to_string(tmp.path().join(name)).unwrap();
        let stat = look(live.as_fd(), b"name").unwrap().unwrap();
        let mut expected = before(&stat);
        expected.ino += 1;
        assert!(replace(stage.as_fd(), b"0", live.as_fd(), b"name", &expected).is_err());
        assert_eq!((read("live/name"), read("stage/0")), ("old".to_owned(), "new".to_owned()));
        replace(stage.as_fd(), b"0", live.as_fd(), b"name", &before(&stat)).unwrap();
        assert_eq!((read("live/name"), read("stage/0")), ("new".to_owned(), "old".to_owned()));
    }

    #[test]
    fn what_appeared_meanwhile_is_not_replaced() {
        let (tmp, live, stage) = place();
        assert!(appear(stage.as_fd(), b"0", live.as_fd(), b"name").is_err());
        assert_eq!(fs::read_to_string(tmp.path().join("live/name")).unwrap(), "old");
        appear(stage.as_fd(), b"0", live.as_fd(), b"other").unwrap();
        assert_eq!(fs::read_to_string(tmp.path().join("live/other")).unwrap(), "new");
    }

    #[test]
    fn every_difference_is_seen() {
        let (tmp, live, _stage) = place();
        let stat = || look(live.as_fd(), b"name").unwrap();
        let known = before(&stat().unwrap());
        assert_eq!(differs(Some(&known), stat().as_ref(), true), None);
        assert!(differs(None, stat().as_ref(), true).is_some() && differs(Some(&known), None, true).is_some());
        let other = |change: fn(&mut Present)| {
            let mut other = known.clone();
            change(&mut other);
            differs(Some(&other), stat().as_ref(), true)
        };
        let changes: [fn(&mut Present); 6] = [
            |p| p.ino += 1,
            |p| p.dev += 1,
            |p| p.size += 1,
            |p| p.kind = Kind::Symlink,
            |p| p.mtime.nanos ^= 1,
            |p| p.ctime.nanos ^= 1,
        ];
        assert!(changes.into_iter().all(|change| other(change).is_some()));
        // Another name of the same file was put in place a moment ago: its change time says nothing.
        fs::hard_link(tmp.path().join("live/name"), tmp.path().join("live/second")).unwrap();
        assert_eq!(differs(Some(&known), stat().as_ref(), false), None);
    }
}
