//! The prober: looks at targets in a process that can read everything and change nothing.
//!
//! The broker asks [`Prober::look`]; what is guarded or not granted never reaches the worker. The worker answers
//! item by item; one that does not answer in time is killed, the item it hung on is told as unreadable, and a new
//! worker goes on with the rest. Only states and hashes come back, never contents.

mod known;
#[cfg(test)]
mod tests;
mod worker;

pub use known::{Known, SETTLED_SECS};

use crate::broker::message::{ChannelError, MAX_ANSWER, Receiving, Sending, pair};
use crate::cage::{Enforced, Layers};
use crate::check::{Contents, Grants};
use crate::root::Root;
use crate::sys;
use proxsave_proto::message::ProbeItem;
use proxsave_proto::plan::guarded;
use proxsave_proto::state::{Blocked, Present, Target};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use std::io;
use std::time::{Duration, Instant};
use worker::{Batch, Said};

/// How long a prober works.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A worker that says nothing for so long hangs. It says something at least for every 8 MiB it hashes.
    pub stall: Duration,
    /// After so long no more content of a batch is hashed; the states are still told, without hashes.
    pub hashing: Duration,
    /// So many workers may hang in a session; then everything further is unreadable.
    pub restarts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { stall: Duration::from_secs(10), hashing: Duration::from_secs(60), restarts: 8 }
    }
}

/// How long a killed worker is waited for.
const REAP: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Why the prober cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The process could not be made.
    #[error("the process that looks at targets could not be started: {0}")]
    Start(#[source] io::Error),
    /// It could not be caged, so it ended.
    #[error("the process that looks at targets could not be confined: {0}")]
    Cage(String),
    /// It ended, or spoke nonsense.
    #[error("the process that looks at targets failed: {0}")]
    Channel(#[from] ChannelError),
}

/// The prober, as the broker holds it.
#[derive(Debug)]
pub struct Prober {
    layers: Layers,
    limits: Limits,
    known: Known,
    worker: Option<Worker>,
    restarts: u32,
}

#[derive(Debug)]
struct Worker {
    socket: OwnedFd,
    receiving: Receiving,
    /// There until it is dropped.
    child: Option<sys::Child>,
}

impl Prober {
    /// Starts the worker and tells what its cage is made of. From a single-threaded process only.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub fn start(root: &Root, layers: Layers, limits: Limits) -> Result<(Self, Enforced), ProbeError> {
        let known = Known::new().map_err(ProbeError::Start)?;
        let (worker, enforced) = Worker::start(root, layers, limits.stall)?;
        Ok((Self { layers, limits, known, worker: Some(worker), restarts: 0 }, enforced))
    }

    /// Looks at paths for a caller; one answer for each, in order.
    pub fn look(&mut self, root: &Root, grants: &Grants, items: &[ProbeItem]) -> Vec<Target> {
        let refuse = |item: &ProbeItem| match () {
            () if guarded(&item.path) => Some(Target::Blocked(Blocked::Guarded)),
            () if !grants.covers(&item.path) => Some(Target::Blocked(Blocked::NotGranted)),
            () => None,
        };
        let refused: Vec<_> = items.iter().map(refuse).collect();
        let asked: Vec<_> =
            items.iter().zip(&refused).filter(|(_, refused)| refused.is_none()).map(|(item, _)| item.clone()).collect();
        let mut answers = self.look_all(root, &asked).into_iter();
        let unreadable = || Target::Blocked(Blocked::Unreadable);
        refused.into_iter().map(|refused| refused.or_else(|| answers.next()).unwrap_or_else(unreadable)).collect()
    }

    /// The prober as [`crate::check`] uses it: for paths of a plan that policy already allowed.
    pub fn contents<'a>(&'a mut self, root: &'a Root) -> impl Contents + 'a {
        Probing { prober: self, root }
    }

    fn look_all(&mut self, root: &Root, items: &[ProbeItem]) -> Vec<Target> {
        let looked = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let until = Instant::now() + self.limits.hashing;
        let mut answers: Vec<Target> = Vec::with_capacity(items.len());
        // Answers come in bundles; after a worker failed, one by one, so that the item it fails on is known.
        let mut bundled = true;
        while let Some(rest) = items.get(answers.len()..).filter(|rest| !rest.is_empty()) {
            if self.worker.is_none() {
                if self.restarts >= self.limits.restarts {
                    break;
                }
                self.restarts += 1;
                self.worker = Worker::start(root, self.layers, self.limits.stall).ok().map(|(worker, _)| worker);
            }
            let Some(worker) = &mut self.worker else { break };
            let hashing = until.saturating_duration_since(Instant::now());
            let batch = Batch { items: rest.to_vec(), hashing_ms: millis(hashing), bundled };
            if worker.batch(batch, self.limits.stall, &mut answers).is_err() {
                // It hung or died on the first item it did not answer.
                self.worker = None;
                if !bundled {
                    answers.push(Target::Blocked(Blocked::Unreadable));
                }
                bundled = false;
            }
        }
        answers.resize_with(items.len(), || Target::Blocked(Blocked::Unreadable));
        for answer in &answers {
            self.known.remember(answer, looked);
        }
        answers
    }
}

struct Probing<'a> {
    prober: &'a mut Prober,
    root: &'a Root,
}

impl Contents for Probing<'_> {
    fn knows(&self, present: &Present) -> bool {
        self.prober.known.holds(present)
    }

    fn look(&mut self, items: &[ProbeItem]) -> Vec<Target> {
        self.prober.look_all(self.root, items)
    }
}

impl Worker {
    fn start(root: &Root, layers: Layers, stall: Duration) -> Result<(Self, Enforced), ProbeError> {
        let (socket, theirs) = pair().map_err(ProbeError::Start)?;
        let child = sys::fork(|| worker::run(&theirs, root, layers)).map_err(ProbeError::Start)?;
        drop(theirs);
        let mut worker = Self { socket, receiving: Receiving::new(MAX_ANSWER), child: Some(child) };
        match worker.hear(Instant::now() + stall)? {
            Said::Ready(enforced) => Ok((worker, enforced)),
            Said::Uncaged(why) => Err(ProbeError::Cage(why)),
            Said::Found(_) | Said::Alive => Err(ProbeError::Cage("it spoke out of turn".to_owned())),
        }
    }

    /// Asks for a batch and gathers the answers as they come.
    fn batch(&mut self, batch: Batch, stall: Duration, answers: &mut Vec<Target>) -> Result<(), ProbeError> {
        let all = answers.len() + batch.items.len();
        let mut sending = Sending::new(&batch, MAX_ANSWER)?;
        let deadline = Instant::now() + stall;
        while let Err(error) = sending.send(&self.socket) {
            if !error.would_block() {
                return Err(error.into());
            }
            wait_for(&self.socket, PollFlags::OUT, deadline)?;
        }
        while answers.len() < all {
            match self.hear(Instant::now() + stall)? {
                Said::Found(targets) => answers.extend(targets.into_iter().take(all - answers.len())),
                Said::Alive => {}
                Said::Ready(_) | Said::Uncaged(_) => return Err(ChannelError::Gone.into()),
            }
        }
        Ok(())
    }

    fn hear(&mut self, deadline: Instant) -> Result<Said, ProbeError> {
        loop {
            match self.receiving.receive(&self.socket) {
                Err(error) if error.would_block() => wait_for(&self.socket, PollFlags::IN, deadline)?,
                other => return Ok(other?),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        child.kill();
        let mut fds = [PollFd::from_borrowed_fd(child.pidfd(), PollFlags::IN)];
        if !matches!(rustix::event::poll(&mut fds, Some(&REAP)), Ok(1)) {
            // The kernel holds it in an uninterruptible wait (a dead disk). Waiting for it would hang the broker
            // too; it is collected when the broker ends. There are at most `Limits::restarts` of these.
            std::mem::forget(child);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until a socket is ready, or fails at the deadline.
fn wait_for(socket: &OwnedFd, flags: PollFlags, deadline: Instant) -> Result<(), ChannelError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout =
        Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), flags)];
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(0) => Err(ChannelError::Io(io::ErrorKind::TimedOut.into())),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(ChannelError::Io(error.into())),
    }
}
