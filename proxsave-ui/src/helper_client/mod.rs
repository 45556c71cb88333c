//! Talking to the helper: the calls of the service as blocking methods, each with its deadline.
//!
//! ```text
//! HelperClient::connect(socket) -> probe* -> submit -> stream -> watch until staged -> commit -> watch until over -> report
//!                                                     cancel at any time
//! ```
//!
//! Every wait looks at a stop flag (Ctrl-C) several times a second. When it is raised, a waiting call gives
//! [`ClientError::Stopped`]; [`HelperClient::watch`] cancels the transaction by itself, unless its commit has begun:
//! then it waits for the end, since stopping would only lose the report.
//!
//! The helper ends a session after any call out of order, so a client that got an error other than `Stopped`, `Late`
//! or [`ClientError::Plan`] is of no more use.

mod error;
mod plan;

pub use error::ClientError;

use crate::sys::interrupt;
use proxsave_proto::ValidPlan;
use proxsave_proto::message::{
    CallError, ClientHello, HelperHello, PROGRESS_WAIT_MS, Phase, ProbeItem, Progress, Report, Submission, Verdict,
};
use proxsave_proto::rpc::{self, Limits, Transport, exchange_preamble};
use proxsave_proto::state::Target;
use rustix::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tarpc::client::RpcError;
use tarpc::context::Context;
use tokio::runtime::Runtime;

/// How long the helper may take to answer the preamble.
const PREAMBLE: Duration = Duration::from_secs(10);
/// Short calls: the broker only notes something, but may be busy with another session's leftovers.
const SHORT: Duration = Duration::from_secs(60);
/// Calls in which the helper looks at the tree: hashing a batch is bounded there, hung file systems are given up.
const LOOKING: Duration = Duration::from_secs(300);
/// Calls in which it looks at all of a plan's targets.
const CHECKING: Duration = Duration::from_secs(3000);
/// How often a wait looks at the stop flag.
const TICK: Duration = Duration::from_millis(100);
/// Paths in one probe call: so many answers fit a frame, even with the longest links.
const BATCH_ITEMS: usize = 200;
/// Bytes of paths in one probe call.
const BATCH_BYTES: usize = 256 << 10;

/// A session with a helper.
#[derive(Debug)]
pub struct HelperClient {
    runtime: Runtime,
    client: rpc::HelperClient,
    hello: HelperHello,
    stop: fn() -> bool,
}

impl HelperClient {
    /// Connects to a listening helper and opens the session.
    ///
    /// # Errors
    /// With what to do: when nobody listens, the user may not connect, or the helper refuses the session.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|source| ClientError::connect(socket, source))?;
        Self::from_stream(stream)
    }

    /// Opens the session over a connection that stands (a socket pair whose other end a helper has).
    ///
    /// # Errors
    /// When the helper is not there, not of this version, or refuses the session.
    pub fn from_stream(stream: UnixStream) -> Result<Self, ClientError> {
        Self::open(stream, interrupt::raised)
    }

    fn open(stream: UnixStream, stop: fn() -> bool) -> Result<Self, ClientError> {
        exchange_preamble(&stream, PREAMBLE).map_err(ClientError::Preamble)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(ClientError::Runtime)?;
        let client = {
            let _inside = runtime.enter();
            let transport = Transport::new(stream, Limits::default()).map_err(ClientError::Runtime)?;
            rpc::HelperClient::new(tarpc::client::Config::default(), transport).spawn()
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let hello =
            call(&runtime, Some(stop), "hello", SHORT, |context| client.hello(context, ClientHello { version }))?;
        Ok(Self { runtime, client, hello, stop })
    }

    /// What the helper said of itself, the caller and its root.
    #[must_use]
    pub fn hello(&self) -> &HelperHello {
        &self.hello
    }

    /// Looks at targets; one answer for each item, in order.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn probe(&self, items: &[ProbeItem]) -> Result<Vec<Target>, ClientError> {
        self.probe_each(items, &mut |_| ())
    }

    /// Like [`HelperClient::probe`]; tells after each batch how many are answered.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn probe_each(&self, items: &[ProbeItem], seen: &mut dyn FnMut(usize)) -> Result<Vec<Target>, ClientError> {
        let mut targets = Vec::with_capacity(items.len());
        let mut rest = items;
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(batch_len(rest));
            let answer = self.call("probe", LOOKING, |context| self.client.probe(context, batch.to_vec()))?;
            if answer.len() != batch.len() {
                return Err(ClientError::Nonsense("another number of answers than paths"));
            }
            targets.extend(answer);
            seen(targets.len());
            rest = after;
        }
        Ok(targets)
    }

    /// Hands over a plan to be checked: once in a session.
    ///
    /// # Errors
    /// See [`ClientError`]. A refusal is no error but a [`Verdict`].
    pub fn submit(&self, plan: &ValidPlan, dry_run: bool) -> Result<Verdict, ClientError> {
        let file = plan::sealed(plan).map_err(ClientError::Plan)?;
        let submission = Submission { nonce: self.hello.nonce, plan_hash: plan.hash(), dry_run };
        let verdict = self.call("submit", CHECKING, |context| self.client.submit(context, submission, file.into()))?;
        match &verdict {
            Verdict::Approved(approval) if approval.plan_hash != plan.hash() => {
                Err(ClientError::Nonsense("approval of another plan"))
            }
            _ => Ok(verdict),
        }
    }

    /// Starts the staging. Gives the writing end of the pipe for the contents (see [`proxsave_proto::message`]);
    /// closing it says that all have come.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stream(&self) -> Result<OwnedFd, ClientError> {
        let fd = self.call("stream", SHORT, |context| self.client.stream(context))?;
        fd.into_owned().ok_or(ClientError::Nonsense("a descriptor that is still in use"))
    }

    /// Waits for news after `since`, for about ten seconds at most; then gives the old ones.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn progress(&self, since: u64) -> Result<Progress, ClientError> {
        self.call("progress", PROGRESS + SHORT, |context| self.client.progress(context, since))
    }

    /// Shows the progress until a phase is reached or the transaction is over. Cancels when the stop flag is
    /// raised, unless the commit has begun; what comes of that is in the phase that is given back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn watch(
        &self,
        reached: impl Fn(Phase) -> bool,
        show: &mut dyn FnMut(&Progress),
    ) -> Result<Progress, ClientError> {
        let mut since = 0;
        let mut stop = Some(self.stop);
        let mut committing = false;
        loop {
            let heard = call(&self.runtime, stop.filter(|_| !committing), "progress", PROGRESS + SHORT, |context| {
                self.client.progress(context, since)
            });
            match heard {
                Ok(progress) => {
                    since = progress.seq;
                    committing = progress.phase == Phase::Committing;
                    show(&progress);
                    if progress.phase.is_over() || (reached(progress.phase) && stop.is_some()) {
                        return Ok(progress);
                    }
                }
                Err(ClientError::Stopped) => {
                    // From here on it only waits for the helper to say how it ended.
                    stop = None;
                    self.cancel()?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts everything in place; [`HelperClient::watch`] tells the rest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn commit(&self) -> Result<(), ClientError> {
        // Not stopped by the flag: whether names are being changed must be known.
        call(&self.runtime, None, "commit", CHECKING, |context| self.client.commit(context))
    }

    /// Stops the transaction. Everything staged is gone when this returns; a commit that has begun goes on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn cancel(&self) -> Result<(), ClientError> {
        call(&self.runtime, None, "cancel", LOOKING, |context| self.client.cancel(context))
    }

    /// The end of it, once the phase is over.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn report(&self) -> Result<Report, ClientError> {
        call(&self.runtime, None, "report", SHORT, |context| self.client.report(context))
    }

    fn call<T, F>(&self, name: &'static str, limit: Duration, make: impl FnOnce(Context) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Result<T, CallError>, RpcError>>,
    {
        call(&self.runtime, Some(self.stop), name, limit, make)
    }
}

/// How long a long poll takes by itself.
const PROGRESS: Duration = Duration::from_millis(PROGRESS_WAIT_MS);

/// Makes a call and waits for its answer, looking at the stop flag meanwhile.
fn call<T, F>(
    runtime: &Runtime,
    stop: Option<fn() -> bool>,
    name: &'static str,
    limit: Duration,
    make: impl FnOnce(Context) -> F,
) -> Result<T, ClientError>
where
    F: Future<Output = Result<Result<T, CallError>, RpcError>>,
{
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + limit;
    runtime.block_on(async {
        let mut answer = std::pin::pin!(make(context));
        loop {
            if stop.is_some_and(|stop| stop()) {
                return Err(ClientError::Stopped);
            }
            if let Ok(answer) = tokio::time::timeout(TICK, &mut answer).await {
                return answer.map_err(|error| ClientError::rpc(name, limit, error))?.map_err(ClientError::Call);
            }
        }
    })
}

/// How many items go into the next call; at least one.
fn batch_len(items: &[ProbeItem]) -> usize {
    let mut bytes = 0;
    let fits = items.iter().take(BATCH_ITEMS).take_while(|item| {
        bytes += item.path.as_bytes().len();
        bytes <= BATCH_BYTES
    });
    fits.count().max(1).min(items.len())
}

#[cfg(test)]
mod tests;
