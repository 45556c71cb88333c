//! Received bytes and descriptors, cut into frames.

use super::{FrameError, HEADER, MAX_FRAME};
use crate::rpc::MAX_FDS;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// Bytes asked for at once.
const CHUNK: usize = 64 << 10;

/// A whole frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// What has come and is not a whole frame yet. Holds at most one frame and a chunk, and the descriptors of at most
/// two frames: the kernel never reads past data that carries descriptors.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Where the first frame that was not given out begins.
    start: usize,
    fds: VecDeque<OwnedFd>,
}

impl Inbox {
    fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Whether a frame has begun and is not whole.
    pub(super) fn has_begun(&self) -> bool {
        !self.unread().is_empty()
    }

    #[cfg(test)]
    pub(super) fn bytes_held(&self) -> usize {
        self.bytes.capacity()
    }

    /// The next whole frame, if there is one; checks what is known of the one after it.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let unread = self.unread();
        let Some((header, rest)) = unread.split_first_chunk::<HEADER>() else {
            // Descriptors come with the first byte of their frame, never ahead of it.
            let count = self.fds.len();
            if count > MAX_FDS {
                return Err(FrameError::TooManyFds(count));
            }
            return if unread.is_empty() && count > 0 { Err(FrameError::UnusedFds { count }) } else { Ok(None) };
        };
        let [a, b, c, d, announced] = *header;
        let announced = usize::from(announced);
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge(length));
        }
        if announced > MAX_FDS {
            return Err(FrameError::TooManyFds(announced));
        }
        if announced > self.fds.len() {
            return Err(FrameError::MissingFds { announced, came: self.fds.len() });
        }
        let Some(payload) = rest.get(..length) else {
            let count = self.fds.len() - announced;
            return if count > 0 { Err(FrameError::UnusedFds { count }) } else { Ok(None) };
        };
        let frame = Frame { payload: payload.to_vec(), fds: self.fds.drain(..announced).collect() };
        self.start += HEADER + length;
        if !self.has_begun() {
            self.bytes.clear();
            self.start = 0;
        }
        Ok(Some(frame))
    }

    /// Receives once. Gives the number of bytes, 0 at the end.
    pub(super) fn receive(&mut self, socket: impl AsFd) -> Result<usize, FrameError> {
        self.bytes.drain(..self.start);
        self.start = 0;
        let before = self.bytes.len();
        self.bytes.resize(before + CHUNK, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let room = self.bytes.get_mut(before..).unwrap_or_default();
        let result = rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(room)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        let got = result.as_ref().map_or(0, |message| message.bytes);
        self.bytes.truncate(before + got);
        let message = result.map_err(|errno| FrameError::Io(errno.into()))?;
        let mut came = 0;
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = item {
                self.fds.extend(fds.inspect(|_| came += 1));
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(FrameError::ControlTruncated);
        }
        if came > MAX_FDS {
            return Err(FrameError::TooManyFds(came));
        }
        Ok(got)
    }
}
