//! Reading the log back and naming the first line that is not as it was written.

use super::file;
use super::line::{self, LineError, MAX_LINE};
use proxsave_proto::Digest;
use proxsave_proto::message::AuditHead;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read as _};
use std::os::fd::BorrowedFd;
use std::str::FromStr;

/// A log that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its head: number and hash of its last line.
    pub head: AuditHead,
    /// How often a crash's leftovers were set aside (`tail-set-aside` lines).
    pub set_aside: u64,
}

/// A head kept elsewhere, as `LINES:HASH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedHead(pub AuditHead);

/// Why a log is not whole.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be opened.
    #[error("the audit log cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// It cannot be read.
    #[error("the audit log cannot be read on after line {line}: {error}")]
    Read {
        /// The last line that was read.
        line: u64,
        /// The error.
        #[source]
        error: io::Error,
    },
    /// A line is not as it was written, or not where it was written.
    #[error("line {line} of the audit log is bad: {why}")]
    Bad {
        /// The first such line, counted from 1.
        line: u64,
        /// What is wrong with it.
        why: Place,
    },
    /// Lines are missing at the end.
    #[error("the audit log was cut: it has {found} lines, but line {expected} was attested")]
    Cut {
        /// Lines attested.
        expected: u64,
        /// Lines found.
        found: u64,
    },
    /// Whole in itself, but not the log that was attested.
    #[error("line {line} of the audit log has hash {found}, but {expected} was attested: the log was rewritten")]
    Rewritten {
        /// The attested line.
        line: u64,
        /// Its attested hash.
        expected: Digest,
        /// The hash it has.
        found: Digest,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Place {
    /// The line itself.
    #[error("{0}")]
    Line(#[from] LineError),
    /// A later line stands here.
    #[error("it was written as line {found}: what stood here is missing or was moved")]
    Missing {
        /// The number it has.
        found: u64,
    },
    /// An earlier line stands here.
    #[error("it was written as line {found}: it was repeated or moved")]
    Repeated {
        /// The number it has.
        found: u64,
    },
    /// The line before is not the one it was written after.
    #[error("it was written after another line than the one before it: lines were replaced")]
    Chain,
    /// It has no end.
    #[error(
        "it has no end: a crash or a full file system cut it, or it was cut by hand (the next helper sets it aside)"
    )]
    Unfinished,
    /// Another file's beginning.
    #[error("a log begins with the event log-started, this one with {0}")]
    Start(String),
}

/// Checks a whole log: every line's own hash, the chain, the numbers, and the expected head where one is given. What
/// helpers append meanwhile is not looked at. Memory: one line.
///
/// # Errors
/// The first fault found.
pub fn verify(state_dir: BorrowedFd<'_>, expected: Option<ExpectedHead>) -> Result<Verified, VerifyError> {
    let (file, size) = file::open_for_reading(state_dir).map_err(VerifyError::Open)?;
    verify_bytes(BufReader::with_capacity(256 * 1024, file.take(size)), expected)
}

fn verify_bytes(mut log: impl BufRead, expected: Option<ExpectedHead>) -> Result<Verified, VerifyError> {
    let mut head = AuditHead { lines: 0, hash: Digest([0; 32]) };
    let mut set_aside = 0;
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        // One byte for the newline, and one by which a line that is too long shows.
        let mut bounded = log.by_ref().take(MAX_LINE as u64 + 2);
        let read = bounded.read_until(b'\n', &mut buffer);
        if read.map_err(|error| VerifyError::Read { line: head.lines, error })? == 0 {
            break;
        }
        let line = head.lines + 1;
        let next = check(&buffer, head).map_err(|why| VerifyError::Bad { line, why })?;
        set_aside += u64::from(next.event == "tail-set-aside");
        head = AuditHead { lines: line, hash: next.hash };
        if let Some(ExpectedHead(attested)) = expected
            && attested.lines == line
            && attested.hash != head.hash
        {
            return Err(VerifyError::Rewritten { line, expected: attested.hash, found: head.hash });
        }
    }
    match expected {
        Some(ExpectedHead(attested)) if attested.lines > head.lines => {
            Err(VerifyError::Cut { expected: attested.lines, found: head.lines })
        }
        _ => Ok(Verified { head, set_aside }),
    }
}

/// Checks one line, with its newline, against the head of those before it.
fn check(bytes: &[u8], before: AuditHead) -> Result<line::Head, Place> {
    let Some(text) = bytes.strip_suffix(b"\n") else {
        return Err(if bytes.len() > MAX_LINE { LineError::TooLong.into() } else { Place::Unfinished });
    };
    let head = line::read(text)?;
    match head.seq.cmp(&(before.lines + 1)) {
        std::cmp::Ordering::Greater => return Err(Place::Missing { found: head.seq }),
        std::cmp::Ordering::Less => return Err(Place::Repeated { found: head.seq }),
        std::cmp::Ordering::Equal => {}
    }
    if head.prev != before.hash {
        return Err(Place::Chain);
    }
    if head.seq == 1 && head.event != "log-started" {
        return Err(Place::Start(proxsave_proto::escape::escape(head.event.as_bytes())));
    }
    Ok(head)
}

impl FromStr for ExpectedHead {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "a head is LINES:HASH, as a restore's report and `audit verify` give it";
        let (lines, hash) = text.split_once(':').ok_or(WHAT)?;
        let lines = lines.parse().ok().filter(|lines| *lines > 0).ok_or(WHAT)?;
        Ok(Self(AuditHead { lines, hash: Digest::from_hex(hash).ok_or(WHAT)? }))
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AuditHead { lines, hash } = self.head;
        write!(f, "The audit log is whole: {lines} lines, head {lines}:{hash}")?;
        if self.set_aside > 0 {
            write!(f, "\nLeftovers of a crash were set aside {} times (audit.torn-* beside the log).", self.set_aside)?;
        }
        Ok(())
    }
}

/// The result as JSON: `ok`, then `lines`, `head` and `set_aside`, or `error` with `line` where there is one.
#[must_use]
pub fn to_json(result: &Result<Verified, VerifyError>) -> serde_json::Value {
    match result {
        Ok(verified) => serde_json::json!({
            "ok": true,
            "lines": verified.head.lines,
            "head": format!("{}:{}", verified.head.lines, verified.head.hash),
            "set_aside": verified.set_aside,
        }),
        Err(error) => serde_json::json!({ "ok": false, "line": error.line(), "error": error.to_string() }),
    }
}

impl VerifyError {
    /// The first bad or missing line, where the fault is one of a line.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        match self {
            VerifyError::Open(_) | VerifyError::Read { .. } => None,
            VerifyError::Bad { line, .. } | VerifyError::Rewritten { line, .. } => Some(*line),
            VerifyError::Cut { found, .. } => Some(found + 1),
        }
    }
}
