//! The contents on their way: from the decoder's pipe into the helper's, into the export directory, or both.
//!
//! The decoder writes the records of the content stream. When nothing is exported, the kernel moves them from pipe
//! to pipe, as many bytes as the plan says and not one more. Else each record's number says where it goes, and
//! only its content is moved.

use crate::export::{ExportError, Exporter};
use crate::planner::Content;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// How much is moved at once.
const PIECE: u64 = 1 << 20;

/// Where the records of one pass over the archive go.
#[derive(Debug, Default)]
pub struct Routes {
    by_record: BTreeMap<u32, Route>,
}

#[derive(Debug, Clone, Copy)]
struct Route {
    ordinal: u32,
    size: u64,
    helper: bool,
    export: bool,
}

/// Why the contents did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The helper does not take more; its own report says why.
    #[error("the helper stopped taking contents")]
    HelperClosed,
    /// The decoder sent something that was not asked for.
    #[error("the decoder sent something that was not asked for; the archive may be hostile")]
    Unexpected,
    /// The decoder ended early; its own error says why.
    #[error("the contents of the archive ended early")]
    Short,
    /// A pipe failed.
    #[error("moving contents failed: {0}")]
    Io(#[from] io::Error),
    /// Exporting failed.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// What has passed; read by another thread that shows it.
#[derive(Debug, Default)]
pub struct Passed {
    /// Content bytes.
    pub bytes: AtomicU64,
    /// Contents.
    pub files: AtomicU64,
}

impl Routes {
    /// Joins what the plan and the export need. A content that both need comes once.
    #[must_use]
    pub fn new(plan: &[Content], plan_entries: usize, exporter: Option<&Exporter<'_>>) -> Self {
        let mut by_ordinal: BTreeMap<u32, (u32, Route)> = BTreeMap::new();
        let mut more = Vec::new();
        for content in plan {
            let route = Route { ordinal: content.ordinal, size: content.size, helper: true, export: false };
            // Equal contents have one ordinal at least; two records of one ordinal cannot be (see `contents`).
            by_ordinal.insert(content.ordinal, (content.record, route));
        }
        for (at, content) in exporter.map(Exporter::contents).unwrap_or_default().into_iter().enumerate() {
            match by_ordinal.get_mut(&content.ordinal) {
                Some((_, route)) => route.export = true,
                None => {
                    let record = u32::try_from(plan_entries.saturating_add(at)).unwrap_or(u32::MAX);
                    let route = Route { ordinal: content.ordinal, size: content.size, helper: false, export: true };
                    more.push((record, route));
                }
            }
        }
        Self { by_record: by_ordinal.into_values().chain(more).collect() }
    }

    /// What to ask of the decoder: ordinals and record numbers, in the archive's order.
    #[must_use]
    pub fn wanted(&self) -> Vec<(u32, u32)> {
        let mut wanted: Vec<(u32, u32)> =
            self.by_record.iter().map(|(record, route)| (route.ordinal, *record)).collect();
        wanted.sort_unstable();
        wanted
    }

    /// Content bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.by_record.values().map(|route| route.size).sum()
    }

    /// Whether nothing is to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_record.is_empty()
    }

    /// Moves everything from the decoder's pipe to where it goes, and closes the helper's pipe. Blocks; ends early
    /// when either pipe is closed by its other side.
    ///
    /// # Errors
    /// See [`PumpError`].
    pub fn run(
        mut self,
        from: OwnedFd,
        to: Option<OwnedFd>,
        mut exporter: Option<&mut Exporter<'_>>,
        passed: &Passed,
    ) -> Result<(), PumpError> {
        let mut from = File::from(from);
        let mut to = to.map(File::from);
        if let Some(to) = &to
            && self.by_record.values().all(|route| route.helper && !route.export)
        {
            let total: u64 = self.by_record.values().map(|route| route.size + 4).sum();
            let count = self.by_record.len() as u64;
            let share = |done: u64| u64::try_from(u128::from(count) * u128::from(done) / u128::from(total.max(1)));
            let mut done = 0;
            move_bytes(&from, to, total, |bytes| {
                done += bytes;
                passed.bytes.fetch_add(bytes, Ordering::Relaxed);
                passed.files.store(share(done).unwrap_or(count), Ordering::Relaxed);
            })?;
            return at_end(&mut from);
        }
        while let Some(record) = next_record(&mut from)? {
            let route = self.by_record.remove(&record).ok_or(PumpError::Unexpected)?;
            if route.helper {
                let to = to.as_mut().ok_or(PumpError::Unexpected)?;
                to.write_all(&record.to_le_bytes()).map_err(closed)?;
                if !route.export {
                    let note = |bytes| {
                        passed.bytes.fetch_add(bytes, Ordering::Relaxed);
                    };
                    move_bytes(&from, to, route.size, note)?;
                    passed.files.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
            let both = if route.helper { to.as_mut() } else { None };
            let exporter = exporter.as_deref_mut().ok_or(PumpError::Unexpected)?;
            let mut tee = Tee { from: &mut from, to: both, broken: None };
            let taken = exporter.take(route.ordinal, &mut tee);
            if let Some(error) = tee.broken {
                return Err(closed(error));
            }
            taken?;
            passed.bytes.fetch_add(route.size, Ordering::Relaxed);
            passed.files.fetch_add(1, Ordering::Relaxed);
        }
        if self.by_record.is_empty() { Ok(()) } else { Err(PumpError::Short) }
    }
}

/// Gives what it reads to a second taker as well.
struct Tee<'a> {
    from: &'a mut File,
    to: Option<&'a mut File>,
    broken: Option<io::Error>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        if let Some(to) = &mut self.to
            && let Err(error) = to.write_all(buffer.get(..count).unwrap_or_default())
        {
            let kind = error.kind();
            self.broken = Some(error);
            return Err(kind.into());
        }
        Ok(count)
    }
}

fn closed(error: io::Error) -> PumpError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => PumpError::HelperClosed,
        _ => PumpError::Io(error),
    }
}

/// The next record's number; `None` at the end, which may only be between records.
fn next_record(from: &mut File) -> Result<Option<u32>, PumpError> {
    let mut number = [0; 4];
    let mut done = 0;
    while done < number.len() {
        match from.read(number.get_mut(done..).unwrap_or_default()) {
            Ok(0) if done == 0 => return Ok(None),
            Ok(0) => return Err(PumpError::Short),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(u32::from_le_bytes(number)))
}

fn at_end(from: &mut File) -> Result<(), PumpError> {
    match next_record(from)? {
        None => Ok(()),
        Some(_) => Err(PumpError::Unexpected),
    }
}

/// Moves exactly so many bytes from pipe to pipe.
fn move_bytes(from: &File, to: &File, mut left: u64, mut note: impl FnMut(u64)) -> Result<(), PumpError> {
    while left > 0 {
        let piece = usize::try_from(left.min(PIECE)).unwrap_or(usize::MAX);
        match splice(from.as_fd(), None, to.as_fd(), None, piece, SpliceFlags::MOVE) {
            Ok(0) => return Err(PumpError::Short),
            Ok(count) => {
                left -= count as u64;
                note(count as u64);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(closed(error.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::ExportDir;
    use crate::planner::Exported;
    use crate::planner::testing::{file, index};
    use proxsave_proto::CategoryId;
    use rustix::pipe::pipe;

    fn stream(records: &[(u32, &[u8])]) -> OwnedFd {
        let (reader, writer) = pipe().unwrap();
        let mut writer = File::from(writer);
        for (record, content) in records {
            writer.write_all(&record.to_le_bytes()).unwrap();
            writer.write_all(content).unwrap();
        }
        reader
    }

    fn content(record: u32, ordinal: u32, size: u64) -> Content {
        Content { record, ordinal, size }
    }

    fn drain(reader: OwnedFd) -> Vec<u8> {
        let mut all = Vec::new();
        File::from(reader).read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn without_exports_the_stream_passes_whole_and_exact() {
        let plan = [content(3, 10, 2), content(0, 11, 1)];
        let good = [(3, &b"ab"[..]), (0, b"c")];
        let routes = Routes::new(&plan, 5, None);
        assert_eq!(routes.wanted(), [(10, 3), (11, 0)]);
        assert_eq!(routes.bytes(), 3);
        let (reader, writer) = pipe().unwrap();
        routes.run(stream(&good), Some(writer), None, &Passed::default()).unwrap();
        assert_eq!(drain(reader), b"\x03\0\0\0ab\0\0\0\0c");
        let long = Routes::new(&plan, 5, None);
        let (_reader, writer) = pipe().unwrap();
        let more = stream(&[good[0], good[1], (9, b"x")]);
        assert!(matches!(long.run(more, Some(writer), None, &Passed::default()), Err(PumpError::Unexpected)));
        let short = Routes::new(&plan, 5, None);
        let (_reader, writer) = pipe().unwrap();
        assert!(matches!(short.run(stream(&good[..1]), Some(writer), None, &Passed::default()), Err(PumpError::Short)));
    }

    #[test]
    fn a_helper_that_closes_is_told_apart() {
        crate::sys::interrupt::install().unwrap();
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let routes = Routes::new(&[content(0, 1, 1)], 1, None);
        let ended = routes.run(stream(&[(0, b"x")]), Some(writer), None, &Passed::default());
        assert!(matches!(ended, Err(PumpError::HelperClosed)));
    }

    #[test]
    fn records_go_to_helper_export_or_both() {
        let index = index(vec![file("etc/pve/a", b"abc"), file("etc/pve/longer", b"de")]);
        let outer = tempfile::tempdir().unwrap();
        let place = ExportDir::create(&outer.path().join("x"), "s", b"/nowhere", None).unwrap();
        let exports: Vec<Exported> =
            [0, 1].map(|entry| Exported { entry, category: CategoryId::PveConfigExport }).to_vec();
        let mut exporter = Exporter::begin(place, &index, &exports).unwrap();
        let ordinals: Vec<u32> = exporter.contents().iter().map(|content| content.ordinal).collect();
        let routes = Routes::new(&[content(0, ordinals[0], 3), content(1, 1, 1)], 2, Some(&exporter));
        assert_eq!(routes.wanted(), [(1, 1), (ordinals[0], 0), (ordinals[1], 3)]);
        let (reader, writer) = pipe().unwrap();
        let from = stream(&[(1, b"z"), (0, b"abc"), (3, b"de")]);
        routes.run(from, Some(writer), Some(&mut exporter), &Passed::default()).unwrap();
        assert_eq!(drain(reader), b"\x01\0\0\0z\0\0\0\0abc");
        let (dir, _) = exporter.finish().unwrap();
        assert_eq!(std::fs::read(dir.join("etc/pve/a")).unwrap(), b"abc");
        assert_eq!(std::fs::read(dir.join("etc/pve/longer")).unwrap(), b"de");
    }
}
