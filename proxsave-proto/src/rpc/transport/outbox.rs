//! The frame that is being sent.

use super::{FrameError, HEADER, MAX_FRAME};
use crate::rpc::{MAX_FDS, Packed};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Frames that wait to be sent; each `sendmsg` takes bytes of one frame only.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// Not sent yet; they go with the frame's first byte.
    fds: Vec<Arc<OwnedFd>>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Takes a message. The one before must be gone.
    pub(super) fn put(&mut self, message: Packed) -> Result<(), FrameError> {
        let length = message.bytes.len();
        let count = message.fds.len();
        if count > MAX_FDS {
            return Err(FrameError::TooManyFds(count));
        }
        if !self.is_empty() {
            // Only a caller that ignores `poll_ready` gets here.
            return Err(FrameError::Io(io::ErrorKind::WouldBlock.into()));
        }
        let (Ok(wire_length), Ok(wire_count), true) = (u32::try_from(length), u8::try_from(count), length <= MAX_FRAME)
        else {
            return Err(FrameError::TooLarge(length));
        };
        self.bytes.clear();
        self.bytes.reserve(HEADER + length);
        self.bytes.extend(wire_length.to_le_bytes());
        self.bytes.push(wire_count);
        self.bytes.extend(message.bytes);
        self.sent = 0;
        self.fds = message.fds;
        Ok(())
    }

    /// Sends once.
    pub(super) fn send(&mut self, socket: impl AsFd) -> io::Result<()> {
        let fds: Vec<_> = self.fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let rest = self.bytes.get(self.sent..).unwrap_or_default();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::net::sendmsg(socket, &[IoSlice::new(rest)], &mut control, flags)?;
        self.sent += sent;
        if sent > 0 {
            self.fds.clear();
        }
        Ok(())
    }
}
