//! What broker and writer say to each other: a closed set, one postcard message in each packet of a socket pair
//! (`SOCK_SEQPACKET`). No descriptor travels here: the writer got all of its own when it was forked.

use crate::cage::Enforced;
use proxsave_proto::CategoryId;
use proxsave_proto::message::Phase;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io;

/// The largest message. A socket's buffer takes several.
const MAX_MESSAGE: usize = 32 * 1024;
/// The longest text in a message, in bytes: room for one path of the greatest length, escaped, and a sentence.
pub(super) const MAX_TEXT: usize = 20 * 1024;

/// A text cut to a length, at a character.
pub(super) fn clip(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What the broker tells the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWriter {
    /// Put everything in place. Only after [`FromWriter::Staged`].
    Commit,
    /// Remove what was staged and end. Once names are being put in place it comes too late and is not heard.
    Cancel,
}

/// What the writer tells the broker, in this order: `Ready`, `Progress`*, `Staged`, `Progress`* and
/// `EntryFailed`*, `Over`. `Over` may come at any time and is the last; a writer that ends without it crashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWriter {
    /// The view stands and the cage is closed.
    Ready {
        /// What holds it.
        enforced: Enforced,
        /// How many sensitive names of the view are covered.
        covered: u32,
        /// Sensitive names that could not be covered (as text, escaped), for the log.
        uncovered: Vec<String>,
    },
    /// How far it is; at most about twenty a second.
    Progress {
        /// Staging or committing.
        phase: Phase,
        /// Entries done in this phase.
        entries: u64,
        /// Content bytes done.
        bytes: u64,
    },
    /// All is staged, verified and durable.
    Staged {
        /// Entries staged.
        entries: u64,
        /// Content bytes staged.
        bytes: u64,
    },
    /// One entry could not be put in place; the rest goes on. At most [`MAX_FAILURES`] of these.
    EntryFailed {
        /// Its index in the plan.
        index: u32,
        /// Why.
        why: String,
    },
    /// The end.
    Over(Outcome),
}

/// The most [`FromWriter::EntryFailed`] messages of one transaction; [`Outcome::failed`] counts all.
pub const MAX_FAILURES: u64 = 1000;

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// [`Phase::Done`] (then [`Outcome::failed`] is 0), [`Phase::Failed`] or [`Phase::Cancelled`].
    pub phase: Phase,
    /// What went wrong as a whole.
    pub error: Option<String>,
    /// Entries put in place, by category, in table order; empty when nothing was.
    pub written: Vec<(CategoryId, u64)>,
    /// Entries not put in place although putting in place had begun.
    pub failed: u64,
}

/// One end of the pair.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends: the broker's, which never blocks, and the writer's, which does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((Self(ours), Self(theirs)))
    }

    /// The socket.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends one message.
    ///
    /// # Errors
    /// `BrokenPipe` when the other end is gone; `WouldBlock` (broker's end) when it does not read.
    pub fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
        loop {
            match rustix::net::send(&self.0, &bytes, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }

    /// Takes one message; `None` when the other end is closed.
    ///
    /// # Errors
    /// `WouldBlock` when there is none yet; `InvalidData` when the bytes are no message.
    pub fn receive<T: DeserializeOwned>(&self, flags: RecvFlags) -> io::Result<Option<T>> {
        let mut bytes = vec![0u8; MAX_MESSAGE];
        let length = loop {
            match rustix::net::recv(&self.0, &mut bytes[..], flags | RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                result => break result?.1,
            }
        };
        if length == 0 {
            return Ok(None);
        }
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "not a message of this version");
        let (message, rest) = postcard::take_from_bytes(bytes.get(..length).ok_or_else(bad)?).map_err(|_| bad())?;
        if rest.is_empty() { Ok(Some(message)) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_messages_arrive() {
        let (ours, theirs) = Channel::pair().unwrap();
        let text = clip("\u{e9}".repeat(MAX_TEXT), MAX_TEXT);
        assert!(text.len() <= MAX_TEXT + 3);
        let written = vec![(CategoryId::Network, u64::MAX); 64];
        let outcome = Outcome { phase: Phase::Failed, error: Some(text), written, failed: u64::MAX };
        let message = FromWriter::Over(outcome);
        theirs.send(&message).unwrap();
        assert_eq!(ours.receive::<FromWriter>(RecvFlags::empty()).unwrap(), Some(message));
        assert_eq!(ours.receive::<FromWriter>(RecvFlags::empty()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(theirs);
        assert_eq!(ours.receive::<FromWriter>(RecvFlags::empty()).unwrap(), None);
    }

    #[test]
    fn what_is_no_message_is_told() {
        let (ours, theirs) = Channel::pair().unwrap();
        for bytes in [&[9u8, 9][..], &[0, 0][..], &vec![0; MAX_MESSAGE + 1][..]] {
            rustix::net::send(theirs.fd(), bytes, SendFlags::empty()).unwrap();
            let error = ours.receive::<ToWriter>(RecvFlags::empty()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
