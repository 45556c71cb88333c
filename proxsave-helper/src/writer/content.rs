//! The content stream, read without ever blocking for longer than its deadline.

use super::error::WriterError;
use super::talk::Talk;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::io;
use std::time::{Duration, Instant};

/// One buffer for everything that comes and goes.
const BUFFER: usize = 256 * 1024;
/// What the pipe holds, so that front-end and writer work side by side.
const PIPE: usize = 1024 * 1024;

/// The pipe that carries the contents: reading and writing end, both close-on-exec, the reading end non-blocking.
///
/// # Errors
/// When descriptors run out. A smaller pipe than wished for is no error.
pub fn content_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    // Over the user's limit for pipes the default size has to do.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE);
    Ok((read, write))
}

/// The reading end.
pub(super) struct Content {
    pipe: OwnedFd,
    idle: Duration,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    over: bool,
}

impl Content {
    pub(super) fn new(pipe: OwnedFd, idle: Duration) -> Self {
        Self { pipe, idle, buffer: vec![0; BUFFER].into(), start: 0, end: 0, over: false }
    }

    /// The entry index that opens the next record; `None` at the end of the stream.
    pub(super) fn record(&mut self, talk: &mut Talk<'_>) -> Result<Option<usize>, WriterError> {
        self.gather(4, talk)?;
        match self.ready() {
            [] => Ok(None),
            [a, b, c, d, ..] => {
                let index = u32::from_le_bytes([*a, *b, *c, *d]);
                self.start += 4;
                Ok(Some(index as usize))
            }
            _ => Err(WriterError::Stream("it ends inside a record's head")),
        }
    }

    /// The next bytes of a record of which `left` are still to come: at least one, and a multiple of `unit`
    /// unless they are the last.
    pub(super) fn chunk(&mut self, left: u64, unit: usize, talk: &mut Talk<'_>) -> Result<&[u8], WriterError> {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let least = unit.min(left);
        self.gather(least, talk)?;
        let ready = self.end - self.start;
        if ready < least {
            return Err(WriterError::Stream("it ends inside a file"));
        }
        let length = if ready >= left { left } else { ready - ready % unit };
        let from = self.start;
        self.start += length;
        self.buffer.get(from..self.start).ok_or(WriterError::Stream("it is inconsistent"))
    }

    fn ready(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads until `least` bytes are there, or the stream is over.
    fn gather(&mut self, least: usize, talk: &mut Talk<'_>) -> Result<(), WriterError> {
        if self.end - self.start >= least {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let mut deadline = None;
        while self.end < least && !self.over {
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            match rustix::io::read(&self.pipe, room) {
                Ok(0) => self.over = true,
                Ok(n) => {
                    self.end += n;
                    deadline = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + self.idle);
                    self.wait(until, talk)?;
                }
                Err(error) => return Err(WriterError::Read(error.into())),
            }
        }
        Ok(())
    }

    fn wait(&self, until: Instant, talk: &mut Talk<'_>) -> Result<(), WriterError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(WriterError::Stalled(self.idle));
        }
        let timeout = Timespec::try_from(left).map_err(|_| WriterError::Stalled(self.idle))?;
        let heard = {
            let socket = talk.socket();
            let mut polled = [
                PollFd::from_borrowed_fd(self.pipe.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(socket, PollFlags::IN),
            ];
            match poll(&mut polled, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(WriterError::Read(error.into())),
            }
            let [_, socket] = polled;
            !socket.revents().is_empty()
        };
        if heard { talk.hear() } else { Ok(()) }
    }
}
