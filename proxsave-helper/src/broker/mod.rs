//! The broker: root, single-threaded; owns the session, policy, checked plans, workers and the log.
//!
//! One broker serves one connection. It never reads a byte of the front-end itself but the sealed plan: the gate
//! ([`crate::gate`]) turns calls into [`message::Request`]s, and [`session`] says which is allowed when. It waits in
//! one `poll` for the gate, the writer and the signals that ask for the end:
//!
//! * a request out of order, or one the gate reports as a breach of the protocol, ends the session and is logged;
//! * when the front-end goes, the gate goes, or a signal comes, a transaction is cancelled, unless its commit has
//!   begun: then it is finished first;
//! * a writer that ends without its last message has crashed: that fails the transaction, and what it staged is
//!   swept.

mod calls;
mod events;
mod gatekeeper;
mod lock;
pub mod message;
mod plan;
pub mod session;
mod transaction;

use crate::audit::{Event, Journald, Log, LogError, Text};
use crate::cage::Layers;
use crate::caller::Caller;
use crate::check::Grants;
use crate::cli::{self, tell};
use crate::journal::StateDir;
use crate::policy::Policy;
use crate::probe::Prober;
use crate::root::Root;
use crate::sys::EndSignals;
use gatekeeper::{GateError, Gatekeeper};
use lock::SessionLock;
use message::{ChannelError, Reply, Request};
use proxsave_proto::message::{CallError, Phase, Progress};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd as _;
use session::State;
use std::fmt;
use std::os::unix::net::UnixStream;
use transaction::Transaction;

/// How a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Over a socket that this program listens on.
    Listen,
    /// Over descriptor 0.
    Stdio,
    /// Over descriptor 0, from a front-end that root started for the caller and that becomes the caller.
    StartedByRoot,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Via::Listen => "listen",
            Via::Stdio => "stdio",
            Via::StartedByRoot => "stdio, started by root",
        })
    }
}

/// What one session begins with.
#[derive(Debug)]
pub struct Session<'a> {
    /// The connection; it goes to the gate unread.
    pub front_end: UnixStream,
    /// Who is there.
    pub caller: Caller,
    /// How the connection came.
    pub via: Via,
    /// The root to restore below.
    pub root: &'a Root,
    /// The state directory.
    pub state: &'a StateDir,
    /// Signals that ask for the end.
    pub signals: &'a EndSignals,
    /// Who may do what.
    pub policy: &'a Policy,
    /// The layers of the sandbox.
    pub layers: Layers,
}

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    /// What is not logged is not done.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The gate cannot be made, or stopped making sense.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The kernel refuses to wait.
    #[error("waiting for the session's processes failed: {0}")]
    Poll(rustix::io::Errno),
}

/// Serves one session to its end. Gives the exit status (see [`crate::cli`]).
#[must_use]
pub fn run(session: Session<'_>) -> i32 {
    let log = match Log::open(session.state.as_fd(), Journald::host()) {
        Ok(log) => log,
        Err(error) => {
            tell(&error.to_string());
            turn_away(session, &error.to_string());
            return cli::EXIT_FAILED;
        }
    };
    match begin(session, log) {
        Ok(status) => status,
        Err(error) => {
            tell(&error.to_string());
            match error {
                Fatal::Gate(GateError::Cage(_)) => cli::EXIT_NO_SANDBOX,
                _ => cli::EXIT_FAILED,
            }
        }
    }
}

fn begin(session: Session<'_>, mut log: Log) -> Result<i32, Fatal> {
    events::arrival(&mut log, &session)?;
    if !session.policy.admits(&session.caller) {
        let why = format!("{} has no right to restore here: no rule lets that user in", session.caller);
        log.append(&Event::CallerRefused { uid: Some(session.caller.uid), why: Text::of(&why) })?;
        cli::tell_refused(&session.caller);
        turn_away(session, &why);
        return Ok(cli::EXIT_REFUSED);
    }
    let (gate, enforced) = match Gatekeeper::start(session.front_end, session.layers) {
        Ok(started) => started,
        Err(error) => {
            log.append(&Event::SessionEnd { why: Text::of(&error) })?;
            return Err(error.into());
        }
    };
    log.append(&Event::Sandbox { txid: None, process: "gate".into(), enforced: Text::of(&enforced) })?;
    let grants = Grants {
        categories: session.policy.granted(&session.caller),
        privileged_bits: session.policy.grants_privileged_bits(&session.caller),
    };
    let mut broker = Broker {
        caller: session.caller,
        root: session.root,
        state_dir: session.state,
        signals: session.signals,
        layers: session.layers,
        grants,
        sandbox: vec![format!("gate: {enforced}")],
        log,
        gate: Some(gate),
        state: State::Connected,
        nonce: None,
        lock: None,
        prober: None,
        transaction: None,
        progress: Progress { seq: 0, phase: Phase::Idle, entries: 0, bytes: 0, error: None },
        ending: None,
    };
    let served = broker.serve();
    broker.end(served)
}

/// Tells a front-end, by way of a gate, why there is no session. Failing to is no loss: the connection closes.
fn turn_away(session: Session<'_>, why: &str) {
    let Ok((mut gate, _)) = Gatekeeper::start(session.front_end, session.layers) else { return };
    if let Ok(Request::Hello(_)) = gate.wait_for_request(crate::gate::FIRST_CALL_DEADLINE) {
        let _ = gate.reply(&Reply::Error(CallError::Failed(why.to_owned())));
    }
    gate.end();
}

/// Why a session is over.
#[derive(Debug)]
enum Ending {
    /// The front-end went away.
    FrontEndGone,
    /// The protocol was broken, by what.
    Breach(String),
    /// A signal asked for it.
    Signal,
    /// It could not be opened.
    NotOpened(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::FrontEndGone => f.write_str("the front-end disconnected"),
            Ending::Breach(what) => write!(f, "the front-end broke the protocol: {what}"),
            Ending::Signal => f.write_str("the helper was asked to end"),
            Ending::NotOpened(why) => write!(f, "it could not be opened: {why}"),
        }
    }
}

/// One session.
struct Broker<'a> {
    caller: Caller,
    root: &'a Root,
    state_dir: &'a StateDir,
    signals: &'a EndSignals,
    layers: Layers,
    grants: Grants,
    /// What each process is held by, for display.
    sandbox: Vec<String>,
    log: Log,
    /// `None` once the front-end is gone.
    gate: Option<Gatekeeper>,
    state: State,
    /// Until a plan is submitted.
    nonce: Option<[u8; 16]>,
    lock: Option<SessionLock>,
    prober: Option<Prober>,
    transaction: Option<Transaction>,
    progress: Progress,
    ending: Option<Ending>,
}

/// What `poll` found.
struct Ready {
    gate: bool,
    writer: bool,
    signal: bool,
}

impl Broker<'_> {
    /// Works until the session is over.
    fn serve(&mut self) -> Result<(), Fatal> {
        loop {
            if let Some(ending) = &self.ending {
                // Only a commit that has begun is waited for.
                if !self.state.outlives_front_end() {
                    return Ok(());
                }
                // A front-end that did nothing wrong is told how it goes on.
                if !matches!(ending, Ending::Signal)
                    && let Some(gate) = self.gate.take()
                {
                    gate.end();
                }
            }
            let ready = self.wait()?;
            if ready.signal && self.signals.came() && self.ending.is_none() {
                self.ending = Some(Ending::Signal);
            }
            if ready.writer {
                self.hear_writer()?;
            }
            if ready.gate {
                self.hear_gate()?;
            }
            if let Some(gate) = &mut self.gate {
                gate.tell_news(&self.progress);
            }
        }
    }

    fn wait(&mut self) -> Result<Ready, Fatal> {
        let writer = self.transaction.as_ref().and_then(Transaction::writer);
        let mut fds = vec![PollFd::new(self.signals, PollFlags::IN)];
        if let Some(writer) = writer {
            fds.push(PollFd::from_borrowed_fd(writer.socket(), PollFlags::IN));
            fds.push(PollFd::from_borrowed_fd(writer.pidfd(), PollFlags::IN));
        }
        let gate = self.gate.as_ref().map(|gate| (gate.socket(), gate.wants()));
        if let Some((socket, wants)) = gate {
            fds.push(PollFd::from_borrowed_fd(socket, wants));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Fatal::Poll(errno)),
        }
        let mut found = fds.iter().map(|fd| !fd.revents().is_empty());
        let signal = found.next() == Some(true);
        let writer = writer.is_some() && (found.next() == Some(true)) | (found.next() == Some(true));
        Ok(Ready { signal, writer, gate: gate.is_some() && found.next() == Some(true) })
    }

    /// Takes one request, if there is one.
    fn hear_gate(&mut self) -> Result<(), Fatal> {
        let Some(gate) = &mut self.gate else { return Ok(()) };
        let request = match gate.receive() {
            Ok(request) => request,
            Err(error) if error.would_block() => return Ok(()),
            Err(ChannelError::Gone) => {
                self.front_end_is_gone();
                return Ok(());
            }
            Err(error) => return self.breach(format!("the gate sent a bad message ({error})")),
        };
        let reply = self.answer(request)?;
        // Nothing is answered that is not on disk.
        self.log.commit()?;
        let Some(gate) = &mut self.gate else { return Ok(()) };
        // News first: who is answered and then asks how far it is must not hear something older.
        gate.tell_news(&self.progress);
        if gate.reply(&reply).is_err() {
            self.front_end_is_gone();
        }
        Ok(())
    }

    /// Lets go of the gate, whose socket would be readable for ever.
    fn front_end_is_gone(&mut self) {
        self.ending.get_or_insert(Ending::FrontEndGone);
        if let Some(gate) = self.gate.take() {
            gate.end();
        }
    }

    /// Ends the session because of what the front-end did.
    fn breach(&mut self, what: String) -> Result<(), Fatal> {
        self.log.append(&Event::OutOfOrder { what: Text::of(&what) })?;
        self.ending.get_or_insert(Ending::Breach(what));
        Ok(())
    }

    /// Notes a change that the front-end waits for.
    fn news(&mut self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress);
        self.progress.seq += 1;
    }

    /// Ends what is left of the session, in the order in which it must be gone.
    fn end(mut self, served: Result<(), Fatal>) -> Result<i32, Fatal> {
        // Even when the log failed: nothing may be left staged.
        let closed = self.abandon();
        if let Some(gate) = self.gate.take() {
            gate.end();
        }
        let why = match (&served, &self.ending) {
            (Err(error), _) => error.to_string(),
            (Ok(()), Some(ending)) => ending.to_string(),
            (Ok(()), None) => "done".to_owned(),
        };
        let logged = self.log.append(&Event::SessionEnd { why: Text::of(why) });
        served?;
        closed?;
        logged?;
        let failed = matches!(self.ending, Some(Ending::Breach(_) | Ending::NotOpened(_)))
            || self.progress.phase == Phase::Failed;
        Ok(if failed { cli::EXIT_SESSION_FAILED } else { cli::EXIT_OK })
    }
}
