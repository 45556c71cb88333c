//! What can be wrong with a connection.

use crate::preamble::PreambleError;

/// Why a connection cannot go on. After any of these it is closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The kernel said no.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The peer is not ours, or of another time.
    #[error(transparent)]
    Preamble(#[from] PreambleError),
    /// The peer closed in the middle of a preamble or a frame.
    #[error("the peer closed the connection in the middle of a message")]
    Cut,
    /// The peer began a message, or should take one, and does not go on.
    #[error("the peer did not go on with a message for {0:?}")]
    Stalled(std::time::Duration),
    /// Nothing came for longer than this side waits.
    #[error("nothing came from the peer for {0:?}")]
    Idle(std::time::Duration),
    /// Larger than [`super::MAX_FRAME`].
    #[error("a frame of {0} bytes is over the limit of {max}", max = super::MAX_FRAME)]
    TooLarge(usize),
    /// No message is empty.
    #[error("an empty frame came")]
    Empty,
    /// More than [`super::MAX_FDS`].
    #[error("{0} descriptors in one frame are over the limit of {max}", max = super::MAX_FDS)]
    TooManyFds(usize),
    /// The kernel dropped descriptors, for there were more than there was room for.
    #[error("the peer sent more descriptors than a frame may hold")]
    ControlTruncated,
    /// A frame announces descriptors that did not come with it.
    #[error("a frame announces {announced} descriptors, {came} came")]
    MissingFds {
        /// In the header.
        announced: usize,
        /// Arrived.
        came: usize,
    },
    /// Descriptors came that no message uses.
    #[error("{count} descriptors came that no message uses")]
    UnusedFds {
        /// How many.
        count: usize,
    },
    /// The bytes are not a message of this protocol.
    #[error("a frame does not decode: {0}")]
    Decode(postcard::Error),
    /// More bytes than the message needs.
    #[error("{count} bytes follow the message in its frame")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// One of our own messages cannot be sent.
    #[error("a message cannot be encoded: {0}")]
    Encode(postcard::Error),
    /// A call asks for a deadline further away than a call may take.
    #[error("a call's deadline of {0} seconds is over the limit of {max}", max = super::MAX_DEADLINE_SECS)]
    Deadline(u64),
}
