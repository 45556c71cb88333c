//! Descriptors as fields of messages, and messages as bytes plus descriptors.
//!
//! A [`Fd`] cannot be turned into bytes, so its serde implementations move it through a queue that exists only
//! while one message is packed or unpacked on this thread; in the bytes stands its index among the message's
//! descriptors. Outside [`pack`] and [`unpack`] both implementations fail.

use super::FrameError;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The most descriptors in one message.
pub const MAX_FDS: usize = 4;

/// A descriptor inside a message. Clones share it; it is closed with the last of them.
#[derive(Debug, Clone)]
pub struct Fd(pub Arc<OwnedFd>);

/// A message as it travels.
#[derive(Debug, Default)]
pub struct Packed {
    /// The postcard encoding.
    pub bytes: Vec<u8>,
    /// Its descriptors, in the order of their indexes.
    pub fds: Vec<Arc<OwnedFd>>,
}

thread_local! {
    static LEAVING: RefCell<Option<Vec<Arc<OwnedFd>>>> = const { RefCell::new(None) };
    static ARRIVED: RefCell<Option<Arrived>> = const { RefCell::new(None) };
}

struct Arrived {
    taken: usize,
    left: VecDeque<OwnedFd>,
}

impl Fd {
    /// Takes the descriptor out, when no clone is left.
    #[must_use]
    pub fn into_owned(self) -> Option<OwnedFd> {
        Arc::into_inner(self.0)
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Serialize for Fd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let index = LEAVING.with_borrow_mut(|queue| {
            let queue = queue.as_mut().ok_or("a descriptor cannot be encoded outside a frame")?;
            if queue.len() >= MAX_FDS {
                return Err("too many descriptors in one frame");
            }
            queue.push(Arc::clone(&self.0));
            u8::try_from(queue.len() - 1).map_err(|_| "too many descriptors in one frame")
        });
        index.map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = usize::from(u8::deserialize(deserializer)?);
        let fd = ARRIVED.with_borrow_mut(|queue| {
            let queue = queue.as_mut().ok_or("a descriptor cannot be decoded outside a frame")?;
            if queue.taken != index {
                return Err("descriptors are named out of order");
            }
            queue.taken += 1;
            queue.left.pop_front().ok_or("the frame names a descriptor that did not come")
        });
        fd.map(Self::from).map_err(D::Error::custom)
    }
}

/// Turns a message into bytes and descriptors.
///
/// # Errors
/// [`FrameError::Encode`] when it holds more than [`MAX_FDS`] descriptors or cannot be encoded.
pub fn pack<T: Serialize + ?Sized>(message: &T) -> Result<Packed, FrameError> {
    let outer = LEAVING.replace(Some(Vec::new()));
    let bytes = postcard::to_stdvec(message);
    let fds = LEAVING.replace(outer).unwrap_or_default();
    Ok(Packed { bytes: bytes.map_err(FrameError::Encode)?, fds })
}

/// Turns bytes and descriptors back into a message: all of both, or nothing.
///
/// # Errors
/// [`FrameError::Decode`] when the bytes are no such message, [`FrameError::TrailingBytes`] and
/// [`FrameError::UnusedFds`] when something is left. Descriptors that came are closed then.
pub fn unpack<T: DeserializeOwned>(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<T, FrameError> {
    let outer = ARRIVED.replace(Some(Arrived { taken: 0, left: fds.into() }));
    let message = postcard::take_from_bytes::<T>(bytes);
    let left = ARRIVED.replace(outer).map_or(0, |arrived| arrived.left.len());
    let (message, rest) = message.map_err(FrameError::Decode)?;
    match (rest.len(), left) {
        (0, 0) => Ok(message),
        (0, count) => Err(FrameError::UnusedFds { count }),
        (count, _) => Err(FrameError::TrailingBytes { count }),
    }
}
