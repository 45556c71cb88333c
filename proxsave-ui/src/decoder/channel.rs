//! Frames over the socket between parent and child: a length (u32, little endian), then that many bytes of postcard.
//! Descriptors come with the length.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The largest frame.
pub const MAX_FRAME: usize = 8 << 20;
/// The most descriptors in a frame.
pub const MAX_FDS: usize = 8;

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Takes a connected stream socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The socket, to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0)
    }

    /// Sends a value, with descriptors.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidInput`] for a value or a number of descriptors over the bounds.
    pub fn send(&self, value: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = zeroize::Zeroizing::new(postcard::to_stdvec(value).map_err(io::Error::other)?);
        if body.len() > MAX_FRAME || fds.len() > MAX_FDS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut parts: [&[u8]; 2] = [&length, &body];
        while let Some(at) = parts.iter().position(|part| !part.is_empty()) {
            let slices = parts.map(IoSlice::new);
            let sent = match sendmsg(&self.0, slices.get(at..).unwrap_or_default(), &mut ancillary, SendFlags::NOSIGNAL)
            {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            ancillary.clear();
            let mut left = sent;
            for part in &mut parts {
                let now = left.min(part.len());
                *part = part.get(now..).unwrap_or_default();
                left -= now;
            }
        }
        Ok(())
    }

    /// Receives a value and the descriptors with it. `None` when the other end is closed.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidData`] for what is no frame of `T`.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut fds = Vec::new();
        let mut length = [0; 4];
        if !self.fill(&mut length, &mut fds, true)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame over the limit"));
        }
        let mut body = zeroize::Zeroizing::new(vec![0; length]);
        self.fill(&mut body, &mut fds, false)?;
        let (value, rest) = postcard::take_from_bytes(&body).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("no frame of this protocol ({error})"))
        })?;
        if !rest.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame with bytes left over"));
        }
        Ok(Some((value, fds)))
    }

    /// `Ok(false)` when the stream ended before the first byte and that is allowed.
    fn fill(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>, may_end: bool) -> io::Result<bool> {
        let mut done = 0;
        while done < buffer.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let rest = buffer.get_mut(done..).unwrap_or_default();
            let message = match recvmsg(&self.0, &mut [IoSliceMut::new(rest)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    fds.extend(more);
                }
            }
            if fds.len() > MAX_FDS {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
            }
            match message.bytes {
                0 if done == 0 && may_end => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    fn pair() -> (Channel, Channel) {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        (Channel::new(a), Channel::new(b))
    }

    #[test]
    fn large_values_and_descriptors_arrive() {
        let (a, b) = pair();
        let value: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let sent = value.clone();
        let sender = std::thread::spawn(move || {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"hello").unwrap();
            a.send(&sent, &[file.as_fd(), file.as_fd()]).unwrap();
            a.send(&7u8, &[]).unwrap();
        });
        let (got, fds) = b.receive::<Vec<u8>>().unwrap().unwrap();
        assert!(got == value);
        assert_eq!(fds.len(), 2);
        let mut file = std::fs::File::from(fds.into_iter().next().unwrap());
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(b.receive::<u8>().unwrap().unwrap().0, 7);
        sender.join().unwrap();
        assert!(b.receive::<u8>().unwrap().is_none());
    }

    #[test]
    fn bad_frames_are_errors() {
        for bytes in [&b"\xff\xff\xff\xff"[..], b"\x02\0\0\0\x07\x07", b"\x04\0\0\0\x01", b"\x04\0"] {
            let (a, b) = pair();
            rustix::io::write(a.socket(), bytes).unwrap();
            drop(a);
            assert!(b.receive::<u8>().is_err(), "{bytes:?}");
        }
    }
}
