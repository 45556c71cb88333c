//! The service, and the transport that carries it: length-delimited postcard frames with descriptors inside.

mod transport;

pub use transport::{Fd, MAX_FDS, MAX_FRAME};

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
    /// Starts staging: gives the writing end of the pipe that takes the contents, back to back in plan order.
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
