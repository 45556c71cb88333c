//! The end of the log file: where the chain stands, and what a crash left behind it.

use super::BATCH;
use super::line::{self, Head, LineError, MAX_LINE};
use proxsave_proto::Digest;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;

/// How much of the end is looked at: all that can be unsynced, and the line before it.
const WINDOW: usize = BATCH + 4 * MAX_LINE;

/// What the end of the file is.
#[derive(Debug)]
pub(super) struct Tail {
    /// Where the last intact line ends.
    pub(super) end: u64,
    /// That line, if there is one.
    pub(super) last: Option<Head>,
    /// What lies behind it; empty for a log that was closed in order.
    pub(super) torn: Vec<u8>,
}

/// Why the end of the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// Reading failed.
    #[error("reading its end failed: {0}")]
    Io(#[from] io::Error),
    /// The last line was changed, or never was one.
    #[error("its last line is damaged: {0}")]
    LastLine(#[from] LineError),
    /// No line begins in the last megabyte.
    #[error("its end holds no line of the log")]
    NoLine,
}

/// Reads the end of a log of `size` bytes.
pub(super) fn read(file: &File, size: u64) -> Result<Tail, TailError> {
    let start = size.saturating_sub(WINDOW as u64);
    let mut window = vec![0; usize::try_from(size - start).unwrap_or(WINDOW)];
    file.read_exact_at(&mut window, start)?;

    // No line holds NUL: it is a block that was allocated and never written.
    let cut = match window.iter().position(|byte| *byte == 0) {
        Some(nul) => start_of_line(&window, nul, start)?,
        None => start_of_line(&window, window.len(), start)?,
    };
    let torn = window.split_off(cut);
    let last = match window.strip_suffix(b"\n") {
        Some(lines) => {
            let begin = start_of_line(lines, lines.len(), start)?;
            Some(line::read(lines.get(begin..).unwrap_or_default())?)
        }
        // Only when nothing is left: the cut is behind a newline or at the file's first byte.
        None => None,
    };
    Ok(Tail { end: start + cut as u64, last, torn })
}

/// Where the line that holds `at` begins.
fn start_of_line(window: &[u8], at: usize, window_start: u64) -> Result<usize, TailError> {
    match window.get(..at).and_then(|before| before.iter().rposition(|byte| *byte == b'\n')) {
        Some(newline) => Ok(newline + 1),
        None if window_start == 0 => Ok(0),
        None => Err(TailError::NoLine),
    }
}

/// Saves a torn end beside the log, durably, and gives the file's name. Doing it twice for the same bytes, as after
/// a crash in between, makes one file.
pub(super) fn save(dir: BorrowedFd<'_>, torn: &[u8]) -> io::Result<(String, Digest)> {
    let hash = Digest::of(torn);
    let name = format!("audit.torn-{:.16}", hash.to_string());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, &name, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(torn)?;
    file.sync_all()?;
    rustix::fs::fsync(dir)?;
    Ok((name, hash))
}

/// Cuts the log behind its last intact line, durably.
pub(super) fn cut(file: &File, end: u64) -> io::Result<()> {
    file.set_len(end)?;
    file.sync_all()
}
