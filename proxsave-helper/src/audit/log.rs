//! The writer of the log.

use super::event::{Counts, Event};
use super::journald::{Context, Journald, Record};
use super::tail::{self, TailError};
use super::text::Text;
use super::{BATCH, FILE_NAME, FORMAT, time};
use super::{file, line};
use proxsave_proto::digest::Timestamp;
use proxsave_proto::message::{AuditHead, Refusal};
use proxsave_proto::{Digest, RelPath};
use rustix::fs::Stat;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// What a line has beside the event's own fields, at most.
const LINE_OVERHEAD: usize = 400;

/// Why the log cannot be written. Nothing may be done that is not logged: the session ends.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("the audit log {FILE_NAME} cannot be opened in the state directory: {0}")]
    Open(#[source] io::Error),
    /// It is not a file that only root can write.
    #[error(
        "the audit log {FILE_NAME} is not a regular file of this user alone ({0}); move it away and look who put it there"
    )]
    Foreign(&'static str),
    /// Another helper holds the lock.
    #[error("another helper has kept the audit log locked for {} s; end it and try again", file::LOCK_WAIT.as_secs())]
    Busy,
    /// The end of the log is no end of a chain.
    #[error(
        "the audit log cannot be continued: {0}. Run `proxsave-helper audit verify`, then move {FILE_NAME} away and keep it"
    )]
    Tail(#[from] TailError),
    /// The log got shorter while this helper knew it to be longer.
    #[error("the audit log was cut while in use: {was} bytes before, {is} now")]
    Shrank {
        /// Bytes known to be there.
        was: u64,
        /// Bytes there now.
        is: u64,
    },
    /// Writing or syncing failed.
    #[error("writing the audit log failed: {0}; free space on the file system of the state directory if it is full")]
    Write(#[source] io::Error),
    /// An earlier failure left it unknown what is on disk.
    #[error("the audit log failed earlier in this session")]
    Failed,
    /// An event cannot be expressed.
    #[error("an event cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The log, as one session writes it.
#[derive(Debug)]
pub struct Log {
    dir: OwnedFd,
    journald: Journald,
    context: Context,
    known: Option<Known>,
    pending: Vec<Pending>,
    pending_bytes: usize,
    failed: bool,
}

/// What the log was when this session last looked.
#[derive(Debug, Clone, Copy)]
struct Known {
    dev: u64,
    ino: u64,
    end: u64,
    head: AuditHead,
}

/// A line that is not written yet.
#[derive(Debug)]
struct Pending {
    time: Timestamp,
    fields: Vec<u8>,
    records: Vec<Record>,
}

impl Log {
    /// Opens the log in the state directory: makes it where there is none, and sets aside what a crash left at its
    /// end (see the module's text).
    ///
    /// # Errors
    /// When it cannot be opened, is not ours alone, or is damaged at its end.
    pub fn open(dir: BorrowedFd<'_>, journald: Journald) -> Result<Self, LogError> {
        let dir = dir.try_clone_to_owned().map_err(LogError::Open)?;
        let context = Context { session: random_hex::<8>().map_err(LogError::Open)?, ..Context::default() };
        let mut log =
            Self { dir, journald, context, known: None, pending: Vec::new(), pending_bytes: 0, failed: false };
        log.write_batch()?;
        Ok(log)
    }

    /// Adds an event. It is durable after the next [`Log::commit`], at once if it [is urgent](Event::is_urgent).
    ///
    /// # Errors
    /// When a batch had to be written and was not. What is not yet durable is lost; the session must end.
    pub fn append(&mut self, event: &Event<'_>) -> Result<(), LogError> {
        self.push(event)?;
        if event.is_urgent() { self.commit() } else { Ok(()) }
    }

    /// Logs a refused plan with all reasons, at once.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn plan_refused(&mut self, plan: Digest, dry_run: bool, reasons: &[Refusal]) -> Result<(), LogError> {
        self.push(&Event::PlanRefused { plan, dry_run, reasons: reasons.len() as u64 })?;
        for reason in reasons {
            self.push(&Event::Refusal { plan, path: reason.path.as_ref(), why: Text::of(&reason.why) })?;
        }
        self.commit()
    }

    /// Logs an approved plan with the entries that lose their privileges, at once.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn plan_approved(&mut self, approved: &Approved<'_>) -> Result<(), LogError> {
        let Approved { plan, txid, dry_run, archive, entries, bytes, dropped } = *approved;
        let (entries, count) = (entries.clone(), dropped.len() as u64);
        self.push(&Event::PlanApproved { plan, txid, dry_run, archive, entries, bytes, dropped: count })?;
        for path in dropped {
            self.push(&Event::PrivilegeDropped { txid, path })?;
        }
        self.commit()
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// When it could not be written; the session must end.
    pub fn commit(&mut self) -> Result<(), LogError> {
        if self.pending.is_empty() && !self.failed {
            return Ok(());
        }
        self.write_batch()
    }

    /// The end of the chain as of the last batch this session wrote.
    #[must_use]
    pub fn head(&self) -> AuditHead {
        self.known.map_or(AuditHead { lines: 0, hash: Digest([0; 32]) }, |known| known.head)
    }

    fn push(&mut self, event: &Event<'_>) -> Result<(), LogError> {
        match event {
            Event::Connection { uid, .. } => self.context.caller = Some(*uid),
            Event::PlanApproved { plan, .. } => self.context.plan = Some(*plan),
            _ => {}
        }
        let pending = Pending {
            time: time::now(),
            fields: line::fields(event)?,
            records: self.journald.records(event, &self.context),
        };
        let size = pending.fields.len() + LINE_OVERHEAD;
        if self.pending_bytes + size > BATCH {
            self.commit()?;
        }
        self.pending_bytes += size;
        self.pending.push(pending);
        Ok(())
    }

    fn write_batch(&mut self) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed);
        }
        // Until all of it is known to be on disk, nothing is known.
        self.failed = true;
        let (file, stat) = file::lock_for_writing(self.dir.as_fd())?;
        let mut known = self.look(&file, &stat)?;
        let mut lines = Vec::with_capacity(self.pending_bytes);
        for pending in &self.pending {
            let seq = known.head.lines + 1;
            let hash =
                line::write(&mut lines, seq, known.head.hash, pending.time, &self.context.session, &pending.fields);
            known.head = AuditHead { lines: seq, hash };
        }
        append_durably(&file, known.end, &lines).map_err(LogError::Write)?;
        known.end += lines.len() as u64;
        // Closing the only descriptor gives the lock back.
        drop(file);
        self.known = Some(known);
        self.failed = false;
        self.pending_bytes = 0;
        self.journald.send(self.pending.drain(..).flat_map(|pending| pending.records), known.head);
        Ok(())
    }

    /// Where the chain stands in the locked file. Reads its end unless nobody else wrote since last time; starts a
    /// new log, and sets a torn end aside, with a line for each.
    fn look(&self, file: &File, stat: &Stat) -> Result<Known, LogError> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if let Some(known) = self.known.filter(|known| (known.dev, known.ino) == (stat.st_dev, stat.st_ino)) {
            if size == known.end {
                return Ok(known);
            }
            if size < known.end {
                return Err(LogError::Shrank { was: known.end, is: size });
            }
        }
        let tail = tail::read(file, size)?;
        let mut lines = Vec::new();
        let mut head = match &tail.last {
            Some(last) => AuditHead { lines: last.seq, hash: last.hash },
            None => AuditHead { lines: 0, hash: Digest([0; 32]) },
        };
        let mut write = |event: &Event<'_>| -> Result<(), LogError> {
            let seq = head.lines + 1;
            let hash =
                line::write(&mut lines, seq, head.hash, time::now(), &self.context.session, &line::fields(event)?);
            head = AuditHead { lines: seq, hash };
            Ok(())
        };
        if tail.last.is_none() {
            let log = random_hex::<16>().map_err(LogError::Open)?;
            write(&Event::LogStarted { format: FORMAT, log })?;
        }
        if !tail.torn.is_empty() {
            let (name, sha256) = tail::save(self.dir.as_fd(), &tail.torn).map_err(LogError::Write)?;
            tail::cut(file, tail.end).map_err(LogError::Write)?;
            write(&Event::TailSetAside { bytes: tail.torn.len() as u64, sha256, file: name })?;
        }
        append_durably(file, tail.end, &lines).map_err(LogError::Write)?;
        if tail.last.is_none() {
            rustix::fs::fsync(&self.dir).map_err(|e| LogError::Write(e.into()))?;
        }
        Ok(Known { dev: stat.st_dev, ino: stat.st_ino, end: tail.end + lines.len() as u64, head })
    }
}

/// What [`Log::plan_approved`] writes.
#[derive(Debug, Clone, Copy)]
pub struct Approved<'a> {
    /// Hash of the plan.
    pub plan: Digest,
    /// The transaction.
    pub txid: &'a str,
    /// Whether it is a dry run.
    pub dry_run: bool,
    /// Hash of the backup that the plan says it comes from.
    pub archive: Digest,
    /// Entries of each category.
    pub entries: &'a Counts,
    /// Bytes of content.
    pub bytes: u64,
    /// Entries that lose set-id bits or a file capability.
    pub dropped: &'a [RelPath],
}

/// Appends and syncs. What a failed write left behind `end` is taken back where that is possible.
fn append_durably(mut file: &File, end: u64, lines: &[u8]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    if let Err(error) = file.write_all(lines) {
        // If this fails too, the next helper finds the torn line and sets it aside.
        let _ = file.set_len(end);
        return Err(error);
    }
    file.sync_data()
}

fn random_hex<const N: usize>() -> io::Result<String> {
    let mut bytes = [0u8; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
