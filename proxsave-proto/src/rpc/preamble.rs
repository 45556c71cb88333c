//! The exchange of preambles, before any frame.

use super::FrameError;
use crate::preamble::{self, LEN};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Sends this side's preamble, reads the peer's, and gives the protocol version to use. Reads not one byte
/// further. Works on blocking and non-blocking sockets alike and leaves their mode as it is.
///
/// # Errors
/// [`FrameError::Stalled`] when the whole exchange takes longer than `timeout`, [`FrameError::Cut`] when the peer
/// closes before its preamble is whole, [`FrameError::Preamble`] when it is not acceptable.
pub fn exchange_preamble(socket: &UnixStream, timeout: Duration) -> Result<u16, FrameError> {
    let begin = Instant::now();
    let wait = |flags| -> Result<(), FrameError> {
        loop {
            let left = timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(FrameError::Stalled(timeout));
            }
            let left = Timespec::try_from(left).map_err(|_| FrameError::Stalled(timeout))?;
            match rustix::event::poll(&mut [PollFd::new(socket, flags)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(FrameError::Io(errno.into())),
            }
        }
    };
    let ours = preamble::ours();
    let mut unsent = ours.as_slice();
    while !unsent.is_empty() {
        wait(PollFlags::OUT)?;
        match rustix::net::send(socket, unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => unsent = unsent.get(sent..).unwrap_or_default(),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(FrameError::Io(errno.into())),
        }
    }
    let mut theirs = [0u8; LEN];
    let mut unread = theirs.as_mut_slice();
    while !unread.is_empty() {
        wait(PollFlags::IN)?;
        match rustix::net::recv(socket, &mut *unread, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(FrameError::Cut),
            Ok((_, got)) => unread = unread.get_mut(got..).unwrap_or_default(),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(FrameError::Io(errno.into())),
        }
    }
    Ok(preamble::agree(&theirs)?)
}
