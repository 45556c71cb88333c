//! The writer's side of the conversation with the broker.

use super::error::WriterError;
use super::protocol::{Channel, FromWriter, ToWriter};
use proxsave_proto::message::Phase;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use rustix::net::RecvFlags;
use std::time::{Duration, Instant};

/// Between two progress messages.
const PERIOD: Duration = Duration::from_millis(50);

/// Counts, tells and listens.
pub(super) struct Talk<'c> {
    channel: &'c Channel,
    phase: Phase,
    next: Instant,
    deaf: bool,
    /// Entries done in this phase.
    pub entries: u64,
    /// Content bytes done.
    pub bytes: u64,
}

impl<'c> Talk<'c> {
    pub(super) fn new(channel: &'c Channel) -> Self {
        Self { channel, phase: Phase::Staging, next: Instant::now(), deaf: false, entries: 0, bytes: 0 }
    }

    /// Enters the phase that cannot be cancelled.
    pub(super) fn committing(&mut self) {
        self.phase = Phase::Committing;
        self.entries = 0;
        self.deaf = true;
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    pub(super) fn tell(&self, message: &FromWriter) -> Result<(), WriterError> {
        self.channel.send(message).map_err(WriterError::Channel)
    }

    /// Tells how far it is, if that was a while ago, and hears whether to stop.
    pub(super) fn tick(&mut self) -> Result<(), WriterError> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + PERIOD;
        let told = self.tell(&FromWriter::Progress { phase: self.phase, entries: self.entries, bytes: self.bytes });
        // Once names are being put in place it goes on to the end even if nobody listens.
        if self.deaf { Ok(()) } else { told.and_then(|()| self.hear()) }
    }

    /// Hears whether to stop, without waiting.
    pub(super) fn hear(&self) -> Result<(), WriterError> {
        match self.channel.receive(RecvFlags::DONTWAIT) {
            Ok(None | Some(ToWriter::Cancel)) => Err(WriterError::Cancelled),
            Ok(Some(ToWriter::Commit)) => Err(WriterError::Stream("it was to be put in place before it was staged")),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(WriterError::Channel(error)),
        }
    }

    /// Waits for the word.
    pub(super) fn wait_for_commit(&self) -> Result<(), WriterError> {
        loop {
            let mut polled = [PollFd::from_borrowed_fd(self.channel.fd(), PollFlags::IN)];
            match poll(&mut polled, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(WriterError::Channel(error.into())),
            }
            match self.channel.receive(RecvFlags::DONTWAIT) {
                Ok(Some(ToWriter::Commit)) => return Ok(()),
                Ok(None | Some(ToWriter::Cancel)) => return Err(WriterError::Cancelled),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(WriterError::Channel(error)),
            }
        }
    }
}
