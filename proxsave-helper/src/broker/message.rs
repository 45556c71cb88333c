//! What gate and broker say to each other: a closed set, over a `SOCK_SEQPACKET` pair.
//!
//! A message is a postcard encoding, cut into datagrams of at most [`DATAGRAM`] bytes; the first byte of each is 1
//! when more follow and 0 in the last. Descriptors come with the first. The gate's requests are one datagram
//! each and are answered one by one; [`ToGate::News`] comes unasked.

use crate::cage::Enforced;
use proxsave_proto::message::{CallError, ClientHello, HelperHello, ProbeItem, Progress, Report, Submission, Verdict};
use proxsave_proto::rpc::{Fd, FrameError, MAX_FDS, pack, unpack};
use proxsave_proto::state::Target;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// The largest datagram, in bytes, its leading byte included.
pub const DATAGRAM: usize = 128 << 10;
/// The largest message of the broker, in bytes: what fits a frame to the front-end.
pub const MAX_ANSWER: usize = proxsave_proto::rpc::MAX_FRAME - 1024;

/// What the gate asks the broker.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The first message, before any input is read: the cage is closed. It is not answered.
    Ready(Enforced),
    /// Instead of [`Request::Ready`]: the cage could not be closed; the gate ends.
    Uncaged(String),
    /// Open the session.
    Hello(ClientHello),
    /// Look at targets.
    Probe(Vec<ProbeItem>),
    /// Check a plan.
    Submit(Submission, Fd),
    /// Begin to take contents.
    Stream,
    /// Put names in place.
    Commit,
    /// Stop.
    Cancel,
    /// Tell the end.
    Report,
    /// The front-end broke the protocol in a way that the gate saw; the session ends.
    Misuse(Misuse),
}

/// How a front-end can break the protocol before a request reaches the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Misuse {
    /// `progress` before `hello`.
    ProgressBeforeHello,
    /// More paths in one probe than the protocol allows.
    TooManyPaths,
    /// A version text that is too long.
    LongVersion,
    /// A frame that is none: bytes, lengths or descriptors that are not of the protocol.
    BadFrame,
    /// A frame that did not go on.
    Stalled,
    /// No frame for too long.
    Idle,
    /// The preamble did not come, or was not acceptable.
    BadPreamble,
}

impl std::fmt::Display for Misuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Misuse::ProgressBeforeHello => "progress before hello",
            Misuse::TooManyPaths => "a probe with more paths than the protocol allows",
            Misuse::LongVersion => "a version text that is too long",
            Misuse::BadFrame => "bytes that are no frame of the protocol",
            Misuse::Stalled => "a frame that did not go on",
            Misuse::Idle => "no call for too long",
            Misuse::BadPreamble => "no preamble of the protocol",
        })
    }
}

/// What the broker says to the gate.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToGate {
    /// The answer to the request before.
    Reply(Reply),
    /// How far the transaction is; comes by itself.
    News(Progress),
}

/// Answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello(Box<HelperHello>),
    /// To [`Request::Probe`].
    Probe(Vec<Target>),
    /// To [`Request::Submit`].
    Submit(Verdict),
    /// To [`Request::Stream`].
    Stream(Fd),
    /// To [`Request::Commit`] and [`Request::Cancel`].
    Done,
    /// To [`Request::Report`].
    Report(Box<Report>),
    /// To any.
    Error(CallError),
}

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The kernel said no.
    #[error("the channel inside the helper failed: {0}")]
    Io(#[from] io::Error),
    /// The bytes are no message.
    #[error("the channel inside the helper carried a bad message: {0}")]
    Message(#[from] FrameError),
    /// Over the limit.
    #[error("a message inside the helper is over its limit of {0} bytes")]
    TooLarge(usize),
    /// The other process is gone.
    #[error("the other end of the channel inside the helper is gone")]
    Gone,
}

impl ChannelError {
    /// Whether it only means that nothing can be sent or received just now.
    #[must_use]
    pub fn would_block(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Makes a pair of connected ends.
///
/// # Errors
/// When the kernel refuses.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, flags, None)?)
}

/// A message cut into datagrams, and how much of it is sent.
#[derive(Debug)]
pub struct Sending {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<std::sync::Arc<OwnedFd>>,
}

impl Sending {
    /// Encodes a message.
    ///
    /// # Errors
    /// [`ChannelError::TooLarge`] over `limit` bytes, or when it cannot be encoded.
    pub fn new<T: Serialize>(message: &T, limit: usize) -> Result<Self, ChannelError> {
        let packed = pack(message)?;
        if packed.bytes.len() > limit {
            return Err(ChannelError::TooLarge(limit));
        }
        Ok(Self { bytes: packed.bytes, sent: 0, fds: packed.fds })
    }

    /// Sends datagrams until all are gone. What was sent stays sent when this fails with "would block".
    ///
    /// # Errors
    /// [`ChannelError::Gone`], or what the kernel says.
    pub fn send(&mut self, socket: impl AsFd) -> Result<(), ChannelError> {
        loop {
            let rest = self.bytes.get(self.sent..).unwrap_or_default();
            let part = rest.get(..rest.len().min(DATAGRAM - 1)).unwrap_or_default();
            let more = [u8::from(part.len() < rest.len())];
            let fds: Vec<_> = self.fds.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(FrameError::TooManyFds(fds.len()).into());
            }
            let parts = [IoSlice::new(&more), IoSlice::new(part)];
            match rustix::net::sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => {
                    self.sent += part.len();
                    self.fds.clear();
                    if more == [0] {
                        return Ok(());
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Gone),
                Err(errno) => return Err(ChannelError::Io(errno.into())),
            }
        }
    }
}

/// Datagrams put together again.
#[derive(Debug)]
pub struct Receiving {
    limit: usize,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    buffer: Vec<u8>,
}

impl Receiving {
    /// For messages of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, bytes: Vec::new(), fds: Vec::new(), buffer: vec![0; DATAGRAM] }
    }

    /// Receives a message, or says that it would block when there is none yet.
    ///
    /// # Errors
    /// [`ChannelError::Gone`] at the end; a bad, too large or cut message; what the kernel says.
    pub fn receive<T: DeserializeOwned>(&mut self, socket: impl AsFd) -> Result<T, ChannelError> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let message = match rustix::net::recvmsg(&socket, &mut parts, &mut control, flags) {
                Ok(message) => message,
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => return Err(ChannelError::Gone),
                Err(errno) => return Err(ChannelError::Io(errno.into())),
            };
            for item in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = item {
                    self.fds.extend(fds);
                }
            }
            if message.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > MAX_FDS {
                return Err(FrameError::ControlTruncated.into());
            }
            if message.flags.contains(ReturnFlags::TRUNC) {
                return Err(ChannelError::TooLarge(DATAGRAM));
            }
            let Some((more, part)) = self.buffer.get(..message.bytes).and_then(<[u8]>::split_first) else {
                return Err(ChannelError::Gone);
            };
            if self.bytes.len() + part.len() > self.limit {
                return Err(ChannelError::TooLarge(self.limit));
            }
            self.bytes.extend_from_slice(part);
            match more {
                0 => return Ok(unpack(&std::mem::take(&mut self.bytes), std::mem::take(&mut self.fds))?),
                1 if !part.is_empty() => {}
                _ => return Err(FrameError::Empty.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxsave_proto::message::Refusal;
    use proxsave_proto::message::Why;

    #[test]
    fn requests_and_long_answers_arrive_whole_with_their_descriptors() {
        let (near, far) = pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let submission = Submission { nonce: [7; 16], plan_hash: proxsave_proto::Digest::of(b""), dry_run: true };
        Sending::new(&Request::Submit(submission, write.into()), DATAGRAM - 1).unwrap().send(&near).unwrap();
        let mut receiving = Receiving::new(DATAGRAM - 1);
        let Request::Submit(got, fd) = receiving.receive(&far).unwrap() else { panic!("another request") };
        assert_eq!(got.nonce, [7; 16]);
        rustix::io::write(&fd, b"x").unwrap();
        drop(fd);
        let mut seen = [0; 2];
        assert_eq!(rustix::io::read(&read, &mut seen).unwrap(), 1);
        assert_eq!(rustix::io::read(&read, &mut seen).unwrap(), 0);
        assert!(receiving.receive::<Request>(&far).unwrap_err().would_block());

        let refusals = vec![Refusal { path: None, why: Why::Unsupported("x".repeat(1000)) }; 900];
        let answer = ToGate::Reply(Reply::Submit(Verdict::Refused(refusals)));
        let mut sending = Sending::new(&answer, MAX_ANSWER).unwrap();
        let mut receiving = Receiving::new(MAX_ANSWER);
        // More than the kernel queues at once: both sides meet "would block" and go on where they were.
        let mut stops = 0;
        let got: ToGate = loop {
            let sent = sending.send(&far);
            stops += usize::from(matches!(&sent, Err(error) if error.would_block()));
            match receiving.receive(&near) {
                Ok(got) => break got,
                Err(error) => assert!(error.would_block(), "{error}"),
            }
        };
        assert!(stops > 0);
        let ToGate::Reply(Reply::Submit(Verdict::Refused(got))) = got else { panic!("another answer") };
        assert_eq!(got.len(), 900);
        drop(far);
        assert!(matches!(receiving.receive::<ToGate>(&near), Err(ChannelError::Gone)));
    }

    #[test]
    fn bad_messages_are_errors() {
        let bad = |bytes: &[u8]| {
            let (near, far) = pair().unwrap();
            rustix::net::send(&near, bytes, SendFlags::empty()).unwrap();
            Receiving::new(64).receive::<Request>(&far).unwrap_err()
        };
        assert!(matches!(bad(&[0, 99]), ChannelError::Message(_)));
        assert!(matches!(bad(&[0, 5, 0]), ChannelError::Message(FrameError::TrailingBytes { .. })));
        assert!(matches!(bad(&[2, 5]), ChannelError::Message(_)));
        assert!(matches!(bad(&[0; 80]), ChannelError::TooLarge(64)));
        let long = Request::Hello(ClientHello { version: "x".repeat(DATAGRAM) });
        assert!(matches!(Sending::new(&long, DATAGRAM - 1), Err(ChannelError::TooLarge(_))));
    }
}
