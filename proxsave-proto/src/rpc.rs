//! The service, and the transport that carries it: frames of postcard with descriptors inside, over a Unix
//! stream socket.
//!
//! # The wire
//!
//! 1. Each side sends the preamble of [`crate::preamble`] (16 bytes) and reads the other's:
//!
//!    ```text
//!    50524f58 53415645 0100 0100 00000000      "PROXSAVE", lowest 1, highest 1, reserved
//!    ```
//!
//! 2. Then frames, both ways: payload length (u32, little endian, 1 to [`MAX_FRAME`]), number of descriptors (u8,
//!    at most [`MAX_FDS`]), payload. The descriptors come by `SCM_RIGHTS` with the first byte of their frame's
//!    header; one `sendmsg` never reaches over the beginning of a frame that has descriptors. A frame with more
//!    or fewer descriptors than its header says, or than its message uses, ends the connection.
//! 3. The payload is one tarpc message in [postcard](https://postcard.jamesmunns.com/wire-format): client to
//!    helper `ClientMessage<HelperRequest>`, helper to client `Response<HelperResponse>`. Nothing may follow it.
//!    A descriptor stands in it as its index (u8) among the frame's descriptors, in order.
//!
//! A `hello` from a client of version "1" with a deadline of 5 seconds, without a trace, as request 7:
//!
//! ```text
//! 19000000 00                               25 bytes, no descriptor
//! 00                                        ClientMessage::Request
//! 05 00                                     deadline: 5 s, 0 ns from now
//! 00000000000000000000000000000000          trace id
//! 00                                        span id
//! 01                                        not sampled
//! 07                                        request id
//! 00                                        HelperRequest::Hello
//! 01 31                                     ClientHello { version: "1" }
//! ```
//!
//! Its answer when the call came out of order (request 7, a message, `Hello`, `Err`, `OutOfOrder`):
//!
//! ```text
//! 05000000 00  07 00 00 01 00
//! ```
//!
//! A `submit` with its plan: the frame has one descriptor, and its payload ends in the index `00`.

mod error;
mod fd;
mod preamble;
mod transport;

pub use error::FrameError;
pub use fd::{Fd, MAX_FDS, Packed, pack, unpack};
pub use preamble::exchange_preamble;
pub use transport::{Limits, MAX_DEADLINE_SECS, MAX_FRAME, Transport, screen_call};

use crate::message::{
    CallError, ClientHello, HelperHello, ProbeAnswer, ProbeItem, Progress, Report, Submission, Verdict,
};

/// What a front-end can ask of a helper. See [`crate::message`] for the order.
#[tarpc::service]
pub trait Helper {
    /// Opens the session.
    async fn hello(client: ClientHello) -> Result<HelperHello, CallError>;
    /// Looks at targets.
    async fn probe(items: Vec<ProbeItem>) -> ProbeAnswer;
    /// Hands over the plan: a memory file sealed against writing, shrinking, growing and unsealing.
    async fn submit(submission: Submission, plan: Fd) -> Result<Verdict, CallError>;
    /// Starts staging: gives the writing end of the pipe that takes the contents.
    async fn stream() -> Result<Fd, CallError>;
    /// Waits until there is news after `since` (at most [`crate::message::PROGRESS_WAIT_MS`]).
    async fn progress(since: u64) -> Result<Progress, CallError>;
    /// Puts everything in place. Answered at once; `progress` tells the rest.
    async fn commit() -> Result<(), CallError>;
    /// Stops as soon as nothing is left half done.
    async fn cancel() -> Result<(), CallError>;
    /// The end of it, once the phase is over.
    async fn report() -> Result<Report, CallError>;
}
