//! Records for journald, in its native datagram protocol (systemd's "Native Journal Protocol").
//!
//! Fields: `MESSAGE`, `MESSAGE_ID` (one for each kind of event, never changed), `PRIORITY`, `SYSLOG_IDENTIFIER`,
//! and as far as they apply `PROXSAVE_SESSION`, `PROXSAVE_CALLER_UID`, `PROXSAVE_TXID`, `PROXSAVE_PLAN`,
//! `PROXSAVE_PHASE`, `PROXSAVE_CATEGORY`, `PROXSAVE_ENTRIES` and `PROXSAVE_CHAIN_HEAD` (`LINES:HASH` after the
//! batch that holds the event).

use super::event::Event;
use proxsave_proto::Digest;
use proxsave_proto::message::{AuditHead, Phase};
use std::fmt::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The way to journald. It holds no descriptor, so that no process forked later inherits a way to write there.
#[derive(Debug, Clone, Default)]
pub struct Journald {
    path: Option<PathBuf>,
}

/// What a session's records have in common.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) session: String,
    pub(super) caller: Option<u32>,
    pub(super) plan: Option<Digest>,
}

/// One record, but for the chain's head.
#[derive(Debug)]
pub(super) struct Record(String);

/// syslog(3) priorities.
#[derive(Debug, Clone, Copy)]
enum Priority {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
}

impl Journald {
    /// The host's own.
    #[must_use]
    pub fn host() -> Self {
        Self::at(Path::new(SOCKET))
    }

    /// No journald.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The one that listens at a path.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: Some(path.to_owned()) }
    }

    /// The records an event makes: none for one about a single file, and for a phase one for each category.
    pub(super) fn records(&self, event: &Event<'_>, context: &Context) -> Vec<Record> {
        let Some(kind) = self.path.as_ref().and_then(|_| Kind::of(event)) else { return Vec::new() };
        match event {
            Event::Phase { entries, .. } if !entries.0.is_empty() => entries
                .0
                .iter()
                .map(|(category, count)| {
                    let mut record = kind.record(format_args!("{}: {count} of {category}", kind.message), context);
                    record.field("PROXSAVE_CATEGORY", category);
                    record.field("PROXSAVE_ENTRIES", count);
                    record
                })
                .collect(),
            _ => vec![kind.record(format_args!("{}", kind.message), context)],
        }
    }

    /// Sends records. Never waits: what does not go out at once is left out, for the file is the log.
    pub(super) fn send(&self, records: impl Iterator<Item = Record>, head: AuditHead) {
        let mut records = records.peekable();
        let (Some(path), true) = (&self.path, records.peek().is_some()) else { return };
        let Ok(socket) = UnixDatagram::unbound() else { return };
        if socket.set_nonblocking(true).is_err() || socket.connect(path).is_err() {
            return;
        }
        for mut record in records {
            record.field("PROXSAVE_CHAIN_HEAD", format_args!("{}:{}", head.lines, head.hash));
            // A full or vanished socket; see above.
            let _ = socket.send(record.0.as_bytes());
        }
    }
}

impl Record {
    /// Adds a field. No value here holds a newline: texts are escaped, the rest are numbers and hashes.
    fn field(&mut self, name: &str, value: impl fmt::Display) {
        let _ = writeln!(self.0, "{name}={value}");
    }
}

/// How a kind of event looks in the journal.
struct Kind<'a> {
    id: &'static str,
    priority: Priority,
    message: String,
    txid: Option<&'a str>,
    plan: Option<Digest>,
    phase: Option<Phase>,
    /// For what comes before a caller is known to the session.
    caller: Option<u32>,
}

impl<'a> Kind<'a> {
    fn of(event: &'a Event<'_>) -> Option<Self> {
        use Priority::{Error, Info, Notice, Warning};
        let kind =
            |id, priority, message| Kind { id, priority, message, txid: None, plan: None, phase: None, caller: None };
        Some(match event {
            Event::LogStarted { .. }
            | Event::Refusal { .. }
            | Event::PrivilegeDropped { .. }
            | Event::Intent { .. }
            | Event::Outcome { .. } => return None,
            Event::TailSetAside { bytes, file, .. } => kind(
                "18f5f4eac419470faa977007a6db27b9",
                Warning,
                format!("A crash left {bytes} bytes at the audit log's end; they are now in {file}"),
            ),
            Event::HelperStarted { version, root, without_landlock, .. } => kind(
                "d8de170626b64c8e94f216d0c35f7a54",
                if *without_landlock { Warning } else { Info },
                format!(
                    "Helper {version} started for root {root}{}",
                    if *without_landlock { ", allowed to run without Landlock" } else { "" }
                ),
            ),
            Event::Connection { uid, .. } => {
                kind("603392e15a6c4d2e9ec5f04e2b2fdd72", Info, format!("User {uid} connected"))
            }
            Event::CallerRefused { uid, why } => Kind {
                caller: *uid,
                ..kind("bd095be7086e44ee8461480e3d9d9922", Warning, format!("Caller refused: {why}"))
            },
            Event::Hello { client } => {
                kind("c9c2fb06c5654d76a7a43385af6ddebd", Info, format!("Session opened by front-end {client}"))
            }
            Event::Probe { paths, .. } => {
                kind("670ca75d83064dc3b34e0a97851eb5d8", Info, format!("{paths} targets looked at"))
            }
            Event::PlanRefused { plan, reasons, .. } => Kind {
                plan: Some(*plan),
                ..kind(
                    "22ebeeb36a854033b8e6a181dddd5d3b",
                    Warning,
                    format!("Plan refused for {reasons} reasons; nothing was written"),
                )
            },
            Event::PlanApproved { plan, txid, dry_run, entries, .. } => {
                let count: u64 = entries.0.iter().map(|(_, count)| count).sum();
                let dry = if *dry_run { " as a dry run" } else { "" };
                Kind {
                    plan: Some(*plan),
                    txid: Some(txid),
                    ..kind("3b8acecbbeae4f8da8960c83ecf71d66", Notice, format!("Plan of {count} entries approved{dry}"))
                }
            }
            Event::Sandbox { txid, process, enforced } => Kind {
                txid: *txid,
                ..kind("d588cdf2571c400b8dbf65c3b10f3eaa", Info, format!("{process} caged: {enforced}"))
            },
            Event::Phase { txid, phase, error, .. } => {
                let priority = match phase {
                    Phase::Failed => Error,
                    Phase::Done | Phase::Cancelled => Notice,
                    _ => Info,
                };
                let why = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                Kind {
                    txid: Some(txid),
                    phase: Some(*phase),
                    ..kind("e0f642a44d6a40ce8f68018526ba5efa", priority, format!("Restore {}{why}", phase_name(*phase)))
                }
            }
            Event::Cancelled { txid } => Kind {
                txid: *txid,
                ..kind("6a9253dea9c34560aec8d1d34a2366e2", Notice, "Cancelled by the caller".to_owned())
            },
            Event::OutOfOrder { what } => kind(
                "e1c7bf9a99454f25bdcd522f99e4fbbe",
                Warning,
                format!("The caller broke the protocol ({what}); session ended"),
            ),
            Event::Swept { txid, removed, left } => kind(
                "8a2773dab7e649d1ad6868041e10d48c",
                if *left == 0 { Notice } else { Error },
                format!("Leftovers of transaction {txid}: {removed} removed, {left} left"),
            ),
            Event::SessionEnd { why } => {
                kind("047943027394442bac47ef3798f514ec", Info, format!("Session ended: {why}"))
            }
        })
    }

    fn record(&self, message: fmt::Arguments<'_>, context: &Context) -> Record {
        let mut record = Record(String::new());
        record.field("MESSAGE", message);
        record.field("MESSAGE_ID", self.id);
        record.field("PRIORITY", self.priority as u8);
        record.field("SYSLOG_IDENTIFIER", "proxsave-helper");
        record.field("PROXSAVE_SESSION", &context.session);
        let mut optional = |name: &str, value: Option<&dyn fmt::Display>| {
            if let Some(value) = value {
                record.field(name, value);
            }
        };
        let caller = self.caller.or(context.caller);
        let plan = self.plan.or(context.plan.filter(|_| self.txid.is_some()));
        let phase = self.phase.map(phase_name);
        optional("PROXSAVE_CALLER_UID", caller.as_ref().map(|v| v as _));
        optional("PROXSAVE_TXID", self.txid.as_ref().map(|v| v as _));
        optional("PROXSAVE_PLAN", plan.as_ref().map(|v| v as _));
        optional("PROXSAVE_PHASE", phase.as_ref().map(|v| v as _));
        record
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Approved => "approved",
        Phase::Staging => "staging",
        Phase::Staged => "staged",
        Phase::Committing => "committing",
        Phase::Done => "done",
        Phase::Failed => "failed",
        Phase::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Counts, Text};
    use proxsave_proto::CategoryId;

    fn context() -> Context {
        Context { session: "00ff".to_owned(), caller: Some(1000), plan: Some(Digest([7; 32])) }
    }

    fn texts(event: &Event<'_>) -> Vec<String> {
        Journald::host().records(event, &context()).into_iter().map(|record| record.0).collect()
    }

    #[test]
    fn a_phase_makes_one_record_for_each_category() {
        let entries = Counts(vec![(CategoryId::Network, 3), (CategoryId::Ssh, 20_000)]);
        let done = Event::Phase { txid: "t1", phase: Phase::Done, entries, bytes: 9, error: None };
        let plan = Digest([7; 32]);
        assert_eq!(
            texts(&done),
            [("network", 3), ("ssh", 20_000)].map(|(key, count)| format!(
                "MESSAGE=Restore done: {count} of {key}\nMESSAGE_ID=e0f642a44d6a40ce8f68018526ba5efa\nPRIORITY=5\n\
                 SYSLOG_IDENTIFIER=proxsave-helper\nPROXSAVE_SESSION=00ff\nPROXSAVE_CALLER_UID=1000\n\
                 PROXSAVE_TXID=t1\nPROXSAVE_PLAN={plan}\nPROXSAVE_PHASE=done\nPROXSAVE_CATEGORY={key}\n\
                 PROXSAVE_ENTRIES={count}\n"
            ))
        );
    }

    #[test]
    fn single_files_and_a_missing_journald_make_none() {
        let path = proxsave_proto::RelPath::from_canonical(b"etc/hosts").unwrap();
        assert!(texts(&Event::Outcome { txid: "t", path: &path, error: None }).is_empty());
        let end = Event::SessionEnd { why: Text::from("x") };
        assert!(Journald::none().records(&end, &context()).is_empty());
        let gone = Journald::at(Path::new("/nonexistent/journal"));
        gone.send(gone.records(&end, &context()).into_iter(), AuditHead { lines: 1, hash: Digest([0; 32]) });
    }

    #[test]
    fn hostile_text_cannot_add_a_field() {
        let records = texts(&Event::OutOfOrder { what: Text::from("x\nPRIORITY=0\n_UID=0") });
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].lines().filter(|line| line.starts_with("PRIORITY=")).collect::<Vec<_>>(), ["PRIORITY=4"]);
        assert!(!records[0].lines().any(|line| line.starts_with("_UID")));
    }

    #[test]
    fn a_full_socket_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let journald = Journald::at(&path);
        let end = Event::SessionEnd { why: Text::from("x") };
        let head = AuditHead { lines: 3, hash: Digest([1; 32]) };
        // More than any default queue (net.unix.max_dgram_qlen) takes.
        journald.send((0..5000).flat_map(|_| journald.records(&end, &context())), head);
        let mut buffer = [0; 4096];
        let length = receiver.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        assert!(text.starts_with("MESSAGE=Session ended: x\n"), "{text}");
        assert!(text.ends_with(&format!("PROXSAVE_CHAIN_HEAD=3:{}\n", "01".repeat(32))), "{text}");
    }
}
