//! The broker's hold on the gate.

use super::message::{ChannelError, DATAGRAM, MAX_ANSWER, Receiving, Reply, Request, Sending, ToGate, pair};
use crate::cage::{Enforced, Layers};
use crate::gate;
use crate::sys::{self, Child};
use proxsave_proto::message::Progress;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long the gate may take to close its cage, and to take an answer. It does nothing else meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateError {
    /// No process.
    #[error("the process that reads the front-end's calls could not be started: {0}")]
    Start(#[from] io::Error),
    /// No cage.
    #[error("the process that reads the front-end's calls could not be confined: {0}")]
    Cage(String),
    /// It ended or spoke nonsense before it began.
    #[error("the process that reads the front-end's calls failed: {0}")]
    Channel(#[from] ChannelError),
}

/// The gate, as the broker holds it.
pub(super) struct Gatekeeper {
    socket: OwnedFd,
    receiving: Receiving,
    child: Child,
    /// The number of the last news that it was told.
    told: Option<u64>,
    /// Whether there are newer ones that it had no room for.
    waiting: bool,
}

impl Gatekeeper {
    /// Forks the gate and waits until its cage is closed. The connection is its alone from then on.
    pub(super) fn start(front_end: UnixStream, layers: Layers) -> Result<(Self, Enforced), GateError> {
        let (socket, theirs) = pair()?;
        let who = gate::identity();
        let child = sys::fork(|| gate::run(front_end, theirs, who, layers))?;
        let mut this = Self { socket, receiving: Receiving::new(DATAGRAM - 1), child, told: None, waiting: false };
        match this.wait_for_request(PATIENCE)? {
            Request::Ready(enforced) => Ok((this, enforced)),
            Request::Uncaged(why) => Err(GateError::Cage(why)),
            _ => Err(GateError::Cage("it spoke out of turn".to_owned())),
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What to poll its socket for.
    pub(super) fn wants(&self) -> PollFlags {
        if self.waiting { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }

    /// Takes its next request.
    pub(super) fn receive(&mut self) -> Result<Request, ChannelError> {
        self.receiving.receive(&self.socket)
    }

    /// Waits for its next request.
    pub(super) fn wait_for_request(&mut self, patience: Duration) -> Result<Request, ChannelError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.receive() {
                Err(error) if error.would_block() => self.wait(PollFlags::IN, deadline)?,
                result => return result,
            }
        }
    }

    /// Answers its request.
    pub(super) fn reply(&mut self, reply: &Reply) -> Result<(), ChannelError> {
        #[derive(serde::Serialize)]
        enum Borrowed<'a> {
            Reply(&'a Reply),
        }
        // The same encoding as `ToGate::Reply`, which is its first variant.
        let mut sending = Sending::new(&Borrowed::Reply(reply), MAX_ANSWER)?;
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = sending.send(&self.socket) {
            if !error.would_block() {
                return Err(error);
            }
            self.wait(PollFlags::OUT, deadline)?;
        }
        Ok(())
    }

    /// Tells it the news, when they are new and there is room; else later. What it misses in between is old.
    pub(super) fn tell_news(&mut self, progress: &Progress) {
        // Before the session is open there are none, and the gate refuses to give any.
        if self.told == Some(progress.seq) || progress.seq == 0 {
            self.waiting = false;
            return;
        }
        let sent = Sending::new(&ToGate::News(progress.clone()), MAX_ANSWER).and_then(|mut s| s.send(&self.socket));
        self.waiting = sent.is_err_and(|error| error.would_block());
        if !self.waiting {
            // Were it gone, the next receive would say so.
            self.told = Some(progress.seq);
        }
    }

    /// Closes the channel and waits until the last answer has left, for a while.
    pub(super) fn end(self) {
        let Self { socket, child, .. } = self;
        drop(socket);
        // The gate gives its last answers a fixed time and ends by itself; what does not is killed with `child`.
        let _ = wait_on(child.pidfd(), PollFlags::IN, Instant::now() + PATIENCE);
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> Result<(), ChannelError> {
        wait_on(self.socket.as_fd(), flags, deadline)
    }
}

fn wait_on(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Instant) -> Result<(), ChannelError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(|_| ChannelError::Io(io::ErrorKind::InvalidInput.into()))?;
    match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&timeout)) {
        Ok(0) => Err(ChannelError::Io(io::ErrorKind::TimedOut.into())),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(ChannelError::Io(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxsave_proto::message::{CallError, Phase};

    #[test]
    fn a_reply_is_encoded_as_the_gate_expects() {
        let (near, far) = pair().unwrap();
        let child = sys::fork(|| 0).unwrap();
        let receiving = Receiving::new(DATAGRAM - 1);
        let mut keeper = Gatekeeper { socket: near, receiving, child, told: None, waiting: false };
        keeper.reply(&Reply::Error(CallError::OutOfOrder)).unwrap();
        let mut receiving = Receiving::new(MAX_ANSWER);
        let got: ToGate = receiving.receive(&far).unwrap();
        assert!(matches!(got, ToGate::Reply(Reply::Error(CallError::OutOfOrder))));

        // News that are not taken do not block; the newest is told as soon as there is room.
        let news = |seq| Progress { seq, phase: Phase::Staging, entries: seq, bytes: 0, error: Some("x".repeat(9000)) };
        let mut seq = 0;
        while !keeper.waiting {
            seq += 1;
            keeper.tell_news(&news(seq));
            assert!(seq < 10_000);
        }
        let mut last = 0;
        while let Ok(ToGate::News(progress)) = receiving.receive(&far) {
            last = progress.seq;
        }
        assert!(last < seq);
        keeper.tell_news(&news(seq + 1));
        assert!(!keeper.waiting);
        assert!(matches!(receiving.receive(&far).unwrap(), ToGate::News(progress) if progress.seq == seq + 1));
    }
}
