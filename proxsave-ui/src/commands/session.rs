//! A session with the root helper, one call at a time, that Ctrl-C interrupts.

use super::Failure;
use super::launch::Reach;
use crate::cli::Exit;
use crate::sys::interrupt;
use proxsave_proto::ValidPlan;
use proxsave_proto::escape::escape;
use proxsave_proto::message::{
    CallError, ClientHello, HelperHello, MAX_PROBE, ProbeItem, Progress, Report, Submission, Verdict,
};
use proxsave_proto::rpc::{Fd, HelperClient, Limits, Transport, exchange_preamble};
use proxsave_proto::state::Target;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};
use tarpc::client::RpcError;
use tarpc::context::Context as Call;

/// How long both sides may take to say who they are.
const PREAMBLE: Duration = Duration::from_secs(10);
/// How long an ordinary call may take.
const SHORT: Duration = Duration::from_secs(60);
/// How long a call that looks at many files may take: hashing them takes its time.
const LONG: Duration = Duration::from_secs(1800);

/// A connection after `hello`.
#[derive(Debug)]
pub struct Session {
    runtime: tokio::runtime::Runtime,
    client: HelperClient,
    child: Option<Child>,
    /// What the helper said of itself and its root.
    pub hello: HelperHello,
}

impl Session {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When the helper cannot be reached, or is another program or version.
    pub fn open(reach: Reach) -> Result<Self, Failure> {
        let (socket, child) = match reach {
            Reach::Started(socket, child) => (socket, Some(child)),
            Reach::Socket(path) => {
                let socket = UnixStream::connect(&path).map_err(|error| {
                    let path = super::text::path(&path);
                    Failure::new(
                        Exit::NoHelper,
                        format!("the helper's socket {path} cannot be reached: {error}; is it running, and may you use it? See --socket"),
                    )
                })?;
                (socket, None)
            }
        };
        let unreachable =
            |text: String| Failure::new(Exit::NoHelper, format!("the helper cannot be talked to: {text}"));
        exchange_preamble(&socket, PREAMBLE).map_err(|error| unreachable(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = {
            let _inside = runtime.enter();
            let transport = Transport::new(socket, Limits::default())?;
            HelperClient::new(tarpc::client::Config::default(), transport).spawn()
        };
        let hello = ClientHello { version: env!("CARGO_PKG_VERSION").to_owned() };
        let asked = runtime.block_on(interruptible(client.hello(call(SHORT), hello)))?;
        let hello = answered(asked).map_err(|failure| Failure { exit: Exit::NoHelper, ..failure })?;
        Ok(Self { runtime, client, child, hello })
    }

    /// Looks at targets, in bunches. `seen` hears how many are done.
    ///
    /// # Errors
    /// When the session ends.
    pub fn probe(
        &self,
        items: impl Iterator<Item = ProbeItem>,
        mut seen: impl FnMut(u64),
    ) -> Result<Vec<Target>, Failure> {
        let mut items = items.peekable();
        let mut targets = Vec::new();
        while items.peek().is_some() {
            let mut bunch: Vec<ProbeItem> = Vec::new();
            let (mut paths, mut content) = (0, 0u64);
            // A bunch is bounded by what a frame and a call's time can hold.
            while bunch.len() < MAX_PROBE / 4 && paths < 256 * 1024 && content < 1 << 30 {
                let Some(item) = items.next() else { break };
                paths += item.path.as_bytes().len() + 16;
                content = content.saturating_add(item.hash_if_size.unwrap_or(0));
                bunch.push(item);
            }
            let asked = bunch.len();
            let answer = self.wait(self.client.probe(call(LONG), bunch))?;
            let found = answered(answer)?;
            if found.len() != asked {
                return Err(Failure::new(
                    Exit::Failed,
                    "the helper answered another number of questions than were asked",
                ));
            }
            targets.extend(found);
            seen(targets.len() as u64);
        }
        Ok(targets)
    }

    /// Hands the plan over.
    ///
    /// # Errors
    /// When the session ends.
    pub fn submit(&self, plan: &ValidPlan, dry_run: bool) -> Result<Verdict, Failure> {
        let bytes = plan.plan().encode().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let memory = memfd_create("proxsave-plan", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(std::io::Error::from)?;
        let mut memory = File::from(memory);
        memory.write_all(&bytes)?;
        drop(bytes);
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals).map_err(std::io::Error::from)?;
        let submission = Submission { nonce: self.hello.nonce, plan_hash: plan.hash(), dry_run };
        answered(self.wait(self.client.submit(call(LONG), submission, Fd::from(OwnedFd::from(memory))))?)
    }

    /// Starts staging: the pipe for the contents.
    ///
    /// # Errors
    /// When the session ends.
    pub fn stream(&self) -> Result<OwnedFd, Failure> {
        let fd = answered(self.wait(self.client.stream(call(SHORT)))?)?;
        fd.into_owned().ok_or_else(|| Failure::new(Exit::Failed, "the helper's pipe is in use elsewhere"))
    }

    /// Waits for news. Comes back at once when the operator stops.
    ///
    /// # Errors
    /// When the session ends or the operator stops.
    pub fn progress(&self, since: u64) -> Result<Progress, Failure> {
        answered(self.wait(self.client.progress(call(SHORT), since))?)
    }

    /// Puts everything in place.
    ///
    /// # Errors
    /// When the session ends. The operator cannot stop this call itself: it is answered at once.
    pub fn commit(&self) -> Result<(), Failure> {
        answered(self.runtime.block_on(self.client.commit(call(SHORT))))
    }

    /// Asks to stop, waits until that is done, and gives the report.
    ///
    /// # Errors
    /// When the session ends.
    pub fn cancel(&self) -> Result<Report, Failure> {
        answered(self.runtime.block_on(self.client.cancel(call(SHORT))))?;
        self.settle()
    }

    /// Waits until nothing more happens, whatever the operator does, and gives the report.
    ///
    /// # Errors
    /// When the session ends.
    pub fn settle(&self) -> Result<Report, Failure> {
        let mut seq = 0;
        loop {
            let news = answered(self.runtime.block_on(self.client.progress(call(SHORT), seq)))?;
            if news.phase.is_over() {
                return self.report();
            }
            seq = news.seq;
        }
    }

    /// The end of it.
    ///
    /// # Errors
    /// When the session ends.
    pub fn report(&self) -> Result<Report, Failure> {
        answered(self.runtime.block_on(self.client.report(call(SHORT))))
    }

    fn wait<T>(&self, asked: impl Future<Output = T>) -> Result<T, Failure> {
        self.runtime.block_on(interruptible(asked))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A helper that was started for this session ends when its connection does.
        let Some(mut child) = self.child.take() else { return };
        let closed = std::mem::replace(&mut self.client, unconnected(&self.runtime));
        drop(closed);
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A client of nothing, to take the place of one that is to be dropped.
fn unconnected(runtime: &tokio::runtime::Runtime) -> HelperClient {
    let _inside = runtime.enter();
    let (ours, _) = tarpc::transport::channel::unbounded();
    HelperClient::new(tarpc::client::Config::default(), ours).spawn()
}

fn call(limit: Duration) -> Call {
    let mut call = tarpc::context::current();
    call.deadline = Instant::now() + limit;
    call
}

/// Waits, looking several times a second whether the operator wants to stop.
async fn interruptible<T>(asked: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::pin!(asked);
    loop {
        tokio::select! {
            answer = &mut asked => return Ok(answer),
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                if interrupt::raised() {
                    return Err(Failure::stopped());
                }
            }
        }
    }
}

fn answered<T>(answer: Result<Result<T, CallError>, RpcError>) -> Result<T, Failure> {
    match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let text = escape(error.to_string().as_bytes());
            Err(Failure::new(Exit::Failed, text))
        }
        Err(error) => {
            let text = escape(error.to_string().as_bytes());
            Err(Failure::new(Exit::NoHelper, format!("the connection to the helper ended: {text}")))
        }
    }
}
