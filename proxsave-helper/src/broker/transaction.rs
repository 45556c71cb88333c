//! A transaction: from an approved plan to its end.

use super::session::State;
use super::{Broker, Fatal, events, message};
use crate::audit::{Counts, Event, Text};
use crate::check::{self, CheckedPlan};
use crate::journal::{self, OpenTx, Record, TxId};
use crate::writer::{self, FromWriter, Job, Outcome, ToWriter, WriterHandle};
use proxsave_proto::RelPath;
use proxsave_proto::message::{Phase, Report};
use proxsave_proto::rpc::Fd;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a writer may take to remove what it staged after a cancel. One that takes longer is killed, and the
/// sweep goes on where it was.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of failed entries in a report, so that it fits an answer.
const FAILURES_FIT: usize = message::MAX_ANSWER / 2;

/// One transaction of a session. There is never a second one: the nonce is used up.
pub(super) struct Transaction {
    checked: CheckedPlan,
    txid: TxId,
    dry_run: bool,
    writer: Option<WriterHandle>,
    /// The record for the next helper's sweep, once something may be staged.
    record: Option<OpenTx>,
    /// Whether the intents were logged: each then gets its outcome.
    intended: bool,
    failures: BTreeMap<u32, String>,
    outcome: Option<Outcome>,
}

impl Transaction {
    pub(super) fn new(checked: CheckedPlan, txid: TxId, dry_run: bool) -> Self {
        Self {
            checked,
            txid,
            dry_run,
            writer: None,
            record: None,
            intended: false,
            failures: BTreeMap::new(),
            outcome: None,
        }
    }

    pub(super) fn writer(&self) -> Option<&WriterHandle> {
        self.writer.as_ref()
    }

    pub(super) fn txid(&self) -> &str {
        self.txid.as_str()
    }

    /// What the log says about an entry after names began to be put in place.
    fn outcome_of(&self, index: usize, outcome: &Outcome) -> Option<Text> {
        let named = u32::try_from(index).ok().and_then(|index| self.failures.get(&index));
        match named {
            Some(why) => Some(Text::from(why.as_str())),
            None if outcome.phase == Phase::Done => None,
            None if outcome.written.is_empty() && outcome.failed == 0 => Some("nothing was put in place".into()),
            None if outcome.failed > self.failures.len() as u64 => Some("not known: the writer did not say".into()),
            None => None,
        }
    }
}

impl Broker<'_> {
    /// Begins to stage. Gives the writing end of the pipe for the contents.
    pub(super) fn start_writer(&mut self) -> Result<Result<Fd, String>, Fatal> {
        let Some(transaction) = &mut self.transaction else { return Ok(Err("there is no plan".to_owned())) };
        let record = Record::of(&transaction.checked, self.caller.uid);
        let opened = journal::begin(self.state_dir, transaction.txid.clone(), &record).map_err(|e| e.to_string());
        let started = opened.and_then(|open| {
            transaction.record = Some(open);
            let (content, theirs) = writer::content_pipe().map_err(|e| format!("no pipe for the contents: {e}"))?;
            let job = Job::new(&transaction.checked, transaction.txid.as_str()).layers(self.layers);
            let writer = writer::spawn(&job, content).map_err(|e| format!("the writer could not be started: {e}"))?;
            transaction.writer = Some(writer);
            Ok(Fd::from(theirs))
        });
        match started {
            Ok(fd) => {
                self.state = State::Staging;
                self.enter(Phase::Staging, Counts::default(), 0, None)?;
                Ok(Ok(fd))
            }
            Err(why) => {
                self.finish(Outcome::of(Phase::Failed, Some(why.clone())))?;
                Ok(Err(why))
            }
        }
    }

    /// Takes what the writer says, until there is nothing more just now.
    pub(super) fn hear_writer(&mut self) -> Result<(), Fatal> {
        while let Some(writer) = self.transaction.as_ref().and_then(Transaction::writer) {
            match writer.receive() {
                Ok(Some(message)) => self.take(message)?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Ok(None) => self.writer_is_gone(None)?,
                Err(error) => self.writer_is_gone(Some(error.to_string()))?,
            }
        }
        Ok(())
    }

    fn take(&mut self, message: FromWriter) -> Result<(), Fatal> {
        match message {
            FromWriter::Ready { enforced, covered, uncovered } => {
                let txid = self.transaction.as_ref().map(|transaction| transaction.txid.as_str());
                let mut text = format!("{enforced}; {covered} sensitive names covered");
                for name in uncovered {
                    text.push_str(&format!("; not covered: {name}"));
                }
                self.log.append(&Event::Sandbox { txid, process: "writer".into(), enforced: Text::of(text) })?;
                self.log_intents()?;
            }
            FromWriter::Progress { phase, entries, bytes } => {
                // The writer does not decide the phase, it only tells how far it is.
                if phase == self.progress.phase {
                    self.news(|progress| (progress.entries, progress.bytes) = (entries, bytes));
                }
            }
            FromWriter::Staged { entries, bytes } if self.state == State::Staging => {
                self.state = State::Staged;
                self.news(|progress| (progress.entries, progress.bytes) = (entries, bytes));
                let counts = self.transaction.as_ref().map(|t| events::counts(t.checked.plan())).unwrap_or_default();
                self.enter(Phase::Staged, counts, bytes, None)?;
            }
            FromWriter::EntryFailed { index, why } if self.state == State::Committing => {
                if let Some(transaction) = &mut self.transaction
                    && (transaction.failures.len() as u64) < writer::MAX_FAILURES
                {
                    transaction.failures.insert(index, why);
                }
            }
            FromWriter::Over(outcome) => {
                // A writer cannot be done with what it was not told to do.
                let outcome = match (outcome.phase, self.state) {
                    (Phase::Done, State::Committing) | (Phase::Failed | Phase::Cancelled, _) => outcome,
                    (phase, _) => Outcome::of(Phase::Failed, Some(format!("the writer said {phase:?} out of turn"))),
                };
                self.finish(outcome)?;
            }
            FromWriter::Staged { .. } | FromWriter::EntryFailed { .. } => {
                self.finish(Outcome::of(Phase::Failed, Some("the writer spoke out of turn".to_owned())))?;
            }
        }
        Ok(())
    }

    /// Logs what will be done, while the writer stages and there is nothing else to do. A transaction that comes to
    /// nothing says so in an outcome for each.
    fn log_intents(&mut self) -> Result<(), Fatal> {
        let Some(transaction) = self.transaction.as_mut().filter(|transaction| !transaction.intended) else {
            return Ok(());
        };
        transaction.intended = true;
        let txid = transaction.txid.as_str();
        for entry in &transaction.checked.plan().entries {
            self.log.append(&Event::Intent { txid, path: &entry.path, action: events::action(entry) })?;
        }
        Ok(())
    }

    /// The writer ended without its last message.
    fn writer_is_gone(&mut self, nonsense: Option<String>) -> Result<(), Fatal> {
        let Some(writer) = self.transaction.as_mut().and_then(|transaction| transaction.writer.take()) else {
            return Ok(());
        };
        writer.kill();
        let how = match (writer.wait(), nonsense) {
            (_, Some(what)) => format!("the writer sent nonsense ({what})"),
            (Ok(exit), None) => format!("the writer ended by {exit}"),
            (Err(error), None) => format!("the writer ended, nobody knows how ({error})"),
        };
        let mut outcome = Outcome::of(Phase::Failed, Some(how));
        if self.state == State::Committing
            && let Some(transaction) = &self.transaction
        {
            // Some names may be in place, and nobody is left to say which.
            outcome.error =
                outcome.error.map(|error| format!("{error} while names were put in place; some may be in place"));
            outcome.failed = transaction.checked.plan().entries.len() as u64;
        }
        self.finish(outcome)
    }

    /// Looks once more, makes the log durable, and gives the word.
    pub(super) fn commit(&mut self) -> Result<(), Fatal> {
        let (Some(transaction), Some(prober)) = (&mut self.transaction, &mut self.prober) else { return Ok(()) };
        let rechecked = check::recheck(&transaction.checked, self.root, &mut prober.contents(self.root));
        if let Err(refusals) = rechecked {
            let first: Vec<_> = refusals.iter().take(3).map(ToString::to_string).collect();
            let more = if refusals.len() > first.len() { " and more" } else { "" };
            self.log.plan_refused(transaction.checked.hash(), false, &refusals)?;
            let why = format!(
                "the tree changed while contents were staged, so nothing was put in place: {}{more}",
                first.join("; ")
            );
            return self.stop(Phase::Failed, Some(why));
        }
        if !transaction.intended {
            return self.stop(Phase::Failed, Some("the writer never said that it was ready".to_owned()));
        }
        // The intents are durable before the first rename.
        self.log.commit()?;
        let told = transaction.writer.as_ref().map(|writer| writer.send(ToWriter::Commit));
        self.state = State::Committing;
        self.enter(Phase::Committing, Counts::default(), 0, None)?;
        match told {
            Some(Ok(())) => Ok(()),
            // Its end is told by the next receive.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Some(Err(error)) => self.writer_is_gone(Some(error.to_string())),
            None => self.finish(Outcome::of(Phase::Failed, Some("there is no writer".to_owned()))),
        }
    }

    /// Stops what can be stopped: removes all that is staged, and ends the transaction in this phase.
    pub(super) fn stop(&mut self, phase: Phase, error: Option<String>) -> Result<(), Fatal> {
        if let Some(writer) = self.transaction.as_mut().and_then(|transaction| transaction.writer.take()) {
            // A writer that cannot hear it is killed below.
            let _ = writer.send(ToWriter::Cancel);
            let deadline = Instant::now() + CANCEL_PATIENCE;
            while !ended(&writer, deadline) && Instant::now() < deadline {}
            writer.kill();
            // Whatever it left is swept.
            let _ = writer.wait();
        }
        self.finish(Outcome::of(phase, error))
    }

    /// Ends the transaction: the writer is gone or goes, nothing staged is left, all is logged.
    fn finish(&mut self, outcome: Outcome) -> Result<(), Fatal> {
        self.state = State::Over;
        let Some(transaction) = &mut self.transaction else {
            self.news(|progress| {
                progress.phase = outcome.phase;
                progress.error = outcome.error;
            });
            return Ok(());
        };
        if let Some(writer) = transaction.writer.take() {
            // After its last message it only has to exit.
            if !ended(&writer, Instant::now() + CANCEL_PATIENCE) {
                writer.kill();
            }
            let _ = writer.wait();
        }
        if transaction.intended {
            let txid = transaction.txid.as_str();
            for (index, entry) in transaction.checked.plan().entries.iter().enumerate() {
                let error = transaction.outcome_of(index, &outcome);
                self.log.append(&Event::Outcome { txid, path: &entry.path, error })?;
            }
        }
        let record = transaction.record.take();
        transaction.outcome = Some(outcome.clone());
        self.close_record(record, outcome.phase)?;
        let written = Counts(outcome.written.clone());
        let bytes = self.progress.bytes;
        self.enter(outcome.phase, written, bytes, outcome.error)?;
        self.log.commit()?;
        Ok(())
    }

    /// Takes the journal's record away, and with it whatever may be left staged.
    fn close_record(&mut self, record: Option<OpenTx>, phase: Phase) -> Result<(), Fatal> {
        let Some(record) = record else { return Ok(()) };
        if phase == Phase::Done {
            if let Err(error) = record.close() {
                // The next helper finds nothing left but the record, and removes it.
                crate::cli::tell(&error.to_string());
            }
            return Ok(());
        }
        // Unlocked, the record is one of a transaction that did not end.
        drop(record);
        self.sweep()
    }

    /// Removes what transactions left that did not end, and logs it.
    pub(super) fn sweep(&mut self) -> Result<(), Fatal> {
        match journal::sweep(self.root, self.state_dir) {
            Ok(sweep) => {
                for swept in sweep.swept {
                    for problem in &swept.problems {
                        crate::cli::tell(&format!("leftovers of transaction {}: {problem}", swept.txid));
                    }
                    let left = swept.problems.len() as u64;
                    self.log.append(&Event::Swept { txid: Text::of(&swept.txid), removed: swept.removed, left })?;
                }
            }
            // The records stay, so the next helper tries again.
            Err(error) => crate::cli::tell(&error.to_string()),
        }
        Ok(())
    }

    /// What the session's end does to a transaction that is not over.
    pub(super) fn abandon(&mut self) -> Result<(), Fatal> {
        match self.state {
            State::Approved | State::Staging | State::Staged => {
                let txid = self.transaction.as_ref().map(|transaction| transaction.txid.as_str());
                // The log may be what failed; what is staged goes in any case.
                let logged = self.log.append(&Event::Cancelled { txid });
                self.stop(Phase::Cancelled, None)?;
                Ok(logged?)
            }
            // Only when the broker itself failed: the writer is not stopped half-way through its renames.
            State::Committing => {
                while let Some(writer) = self.transaction.as_ref().and_then(Transaction::writer) {
                    let _ = ended(writer, Instant::now() + CANCEL_PATIENCE);
                    self.hear_writer()?;
                }
                Ok(())
            }
            State::Connected | State::Greeted | State::Over => Ok(()),
        }
    }

    fn enter(&mut self, phase: Phase, entries: Counts, bytes: u64, error: Option<String>) -> Result<(), Fatal> {
        self.news(|progress| {
            // A phase counts from nothing, but what stands at its end stays.
            if matches!(phase, Phase::Staging | Phase::Committing) {
                (progress.entries, progress.bytes) = (0, 0);
            }
            progress.phase = phase;
            progress.error.clone_from(&error);
        });
        if let Some(transaction) = &self.transaction {
            let txid = transaction.txid.as_str();
            self.log.append(&Event::Phase { txid, phase, entries, bytes, error: error.as_deref().map(Text::from) })?;
        }
        Ok(())
    }

    /// A dry run is over once it is approved.
    pub(super) fn finish_dry_run(&mut self) -> Result<(), Fatal> {
        self.finish(Outcome::of(Phase::Done, None))
    }

    /// Marks that no transaction came about.
    pub(super) fn finish_without(&mut self, why: String) -> Result<(), Fatal> {
        self.finish(Outcome::of(Phase::Failed, Some(why)))
    }

    /// The end of it.
    pub(super) fn report(&mut self) -> Option<Report> {
        let transaction = self.transaction.as_ref()?;
        let outcome = transaction.outcome.as_ref()?;
        let mut room = FAILURES_FIT;
        let named = transaction.failures.iter().map_while(|(index, why)| {
            let entry = transaction.checked.plan().entries.get(usize::try_from(*index).ok()?)?;
            room = room.checked_sub(entry.path.as_bytes().len() + why.len() + 16)?;
            Some((entry.path.clone(), why.clone()))
        });
        let failed: Vec<(RelPath, String)> = named.collect();
        Some(Report {
            plan_hash: transaction.checked.hash(),
            txid: transaction.txid.to_string(),
            phase: outcome.phase,
            dry_run: transaction.dry_run,
            written: outcome.written.clone(),
            failed,
            failed_count: outcome.failed,
            error: outcome.error.clone(),
            audit: self.log.head(),
        })
    }
}

impl Outcome {
    /// Nothing was put in place.
    fn of(phase: Phase, error: Option<String>) -> Self {
        Self { phase, error, written: Vec::new(), failed: 0 }
    }
}

/// Whether the writer ended before the deadline.
fn ended(writer: &WriterHandle, deadline: Instant) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let left = deadline.saturating_duration_since(Instant::now());
    let Ok(left) = Timespec::try_from(left) else { return false };
    poll(&mut [PollFd::from_borrowed_fd(writer.pidfd(), PollFlags::IN)], Some(&left)).is_ok_and(|count| count > 0)
}
