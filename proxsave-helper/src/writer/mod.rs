//! The writer: stages, verifies and puts in place what a checked plan says.
//!
//! A process of its own, forked from the broker for one plan, in a view of the file system made for that plan
//! (`view`), caged ([`crate::cage`]). It takes the contents from a pipe (`content`), stages everything
//! beside its target (`stage`), waits for the word, and renames (`commit`).

mod protocol;

pub use protocol::{Channel, FromWriter, MAX_FAILURES, Outcome, ToWriter};

use crate::cage::Layers;
use crate::sys::{Child, Exit};
use proxsave_proto::Plan;
use rustix::fd::BorrowedFd;
use rustix::net::RecvFlags;
use std::io;
use std::time::Duration;

/// How long the content stream may be silent before the transaction fails.
pub const IDLE: Duration = Duration::from_secs(60);

/// What one writer carries out.
#[derive(Debug)]
pub struct Job<'a> {
    plan: &'a Plan,
    anchors: Vec<BorrowedFd<'a>>,
    dropped: &'a [usize],
    txid: &'a str,
    layers: Layers,
    idle: Duration,
}

impl<'a> Job<'a> {
    /// A job without the check that belongs before it, for tests that show what the cage alone holds.
    ///
    /// `anchors` are the plan's anchor directories, in its order; `dropped` the indexes, ascending, of entries
    /// that lose their set-id bits and file capability.
    #[doc(hidden)]
    #[must_use]
    pub fn unchecked(plan: &'a Plan, anchors: Vec<BorrowedFd<'a>>, dropped: &'a [usize], txid: &'a str) -> Self {
        Self { plan, anchors, dropped, txid, layers: Layers::ALL, idle: IDLE }
    }

    /// With other layers than all (see [`Layers`]).
    #[must_use]
    pub fn layers(self, layers: Layers) -> Self {
        Self { layers, ..self }
    }

    /// With another deadline for the silence of the content stream.
    #[must_use]
    pub fn idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }
}

/// The broker's hold on a writer. Dropping it ends the writer.
#[derive(Debug)]
pub struct WriterHandle {
    child: Child,
    channel: Channel,
}

impl WriterHandle {
    /// To poll for messages.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    /// To poll for its end.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    /// Tells it something.
    ///
    /// # Errors
    /// When it is gone.
    pub fn send(&self, message: ToWriter) -> io::Result<()> {
        self.channel.send(&message)
    }

    /// Takes its next message; `None` when there will be no more.
    ///
    /// # Errors
    /// `WouldBlock` when there is none yet.
    pub fn receive(&self) -> io::Result<Option<FromWriter>> {
        self.channel.receive(RecvFlags::empty())
    }

    /// Ends it at once. What it staged stays for the sweep.
    pub fn kill(&self) {
        self.child.kill();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(mut self) -> io::Result<Exit> {
        self.child.wait()
    }
}
