//! The gate: tokio and tarpc in a process with no rights, between the front-end and the broker.
//!
//! It is forked before anything of the front-end is read, closes every descriptor but the front-end's socket and
//! its channel to the broker, becomes a user of its own, and is caged: no capability, an empty Landlock domain, a
//! seccomp list without files, processes and new sockets. Only then it reads its first byte. What it understands
//! becomes one of the closed [`Request`]s; what it does not ends the connection. Who takes it over can send the
//! broker any such request in any order, which is what the broker expects anyway.

mod link;
mod service;

use crate::broker::message::{Misuse, Request};
use crate::cage::{self, Cage, Enforced, Files, Layers, Profile, Who};
use crate::sys;
use futures::StreamExt as _;
use link::Link;
use proxsave_proto::rpc::{FrameError, Helper as _, HelperRequest, Limits, Transport, exchange_preamble, screen_call};
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;
use service::Service;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tarpc::server::{BaseChannel, Channel as _};

/// The system user that the gate runs as, where the host has it.
pub const USER: &str = "proxsave-gate";
/// The user and group id that it takes otherwise: in the range that Debian leaves to local use (Policy 9.2.2:
/// 60000 to 64999 are allocated globally on demand, 60999 is not), so that no other process runs under it.
pub const FALLBACK_ID: u32 = 60_999;

/// How long a front-end may take for its preamble, for the rest of a frame it has begun, and to take an answer.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(10);
/// How long after its preamble a front-end may take until its first call.
pub const FIRST_CALL_DEADLINE: Duration = Duration::from_secs(30);
/// How long a front-end may be silent between calls: a person reads the plan in that time.
pub const IDLE_DEADLINE: Duration = Duration::from_secs(3600);

/// Calls that are answered at the same time; a front-end needs one, and a second to cancel.
const CONCURRENT: usize = 4;
/// How long answers may take to get out once the session is over.
const FAREWELL: Duration = Duration::from_millis(500);
/// The most descriptors: two sockets, what the runtime needs, and what frames carry.
const OPEN_FILES: u64 = 48;

/// Who the gate runs as on this host.
#[must_use]
pub fn identity() -> Who {
    let uid = crate::caller::user_id(USER).filter(|uid| *uid != 0).unwrap_or(FALLBACK_ID);
    let gid = crate::caller::group_id(USER).filter(|gid| *gid != 0).unwrap_or(FALLBACK_ID);
    Who::User { uid, gid }
}

/// Runs as the gate, in a forked process, until the session is over. Gives the exit status.
pub fn run(front_end: UnixStream, channel: OwnedFd, who: Who, layers: Layers) -> i32 {
    match enclose(&front_end, &channel, who, layers) {
        Ok(enforced) => {
            if link::send_once(&channel, &Request::Ready(enforced)).is_err() {
                return 1;
            }
        }
        Err(error) => {
            // The broker is waiting for one of the two; when even this fails it sees the gate end.
            let _ = link::send_once(&channel, &Request::Uncaged(error.to_string()));
            return 1;
        }
    }
    if exchange_preamble(&front_end, FRAME_DEADLINE).is_err() {
        let _ = link::send_once(&channel, &Request::Misuse(Misuse::BadPreamble));
        return 1;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let served = runtime.and_then(|runtime| runtime.block_on(serve(front_end, channel)));
    i32::from(served.is_err())
}

/// Gives up everything but the two sockets.
fn enclose(
    front_end: &UnixStream,
    channel: &OwnedFd,
    who: Who,
    layers: Layers,
) -> Result<Enforced, Box<dyn std::error::Error>> {
    // The numbers 0 to 2 must be taken by something harmless: libraries write to them when things go wrong.
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for socket in [front_end.as_raw_fd(), channel.as_raw_fd()] {
        if socket <= 2 {
            return Err(format!("descriptor {socket} is a socket of the session").into());
        }
    }
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    sys::close_all_but(&[0, 1, 2, front_end.as_raw_fd(), channel.as_raw_fd()])?;
    // It is closed already; its number must not be closed again under another meaning.
    std::mem::forget(null);
    let cage = Cage {
        who,
        keep: CapabilitySet::empty(),
        files: Files::Nothing,
        profile: Profile::Gate,
        open_files: Some(OPEN_FILES),
    };
    Ok(cage::enter(&cage, layers)?)
}

async fn serve(front_end: UnixStream, channel: OwnedFd) -> io::Result<()> {
    let limits = Limits { frame: FRAME_DEADLINE, idle: Some(IDLE_DEADLINE) };
    let transport: Transport<tarpc::ClientMessage<HelperRequest>, _> = Transport::new(front_end, limits)?;
    let link = Arc::new(Link::new(channel)?);
    let calls = answer(BaseChannel::with_defaults(transport.with_screen(screen_call)), Arc::clone(&link));
    let mut calls = std::pin::pin!(calls);
    tokio::select! {
        misuse = &mut calls => {
            if let Some(misuse) = misuse {
                link.report(misuse).await;
            }
        }
        () = link.listen() => {
            // The broker ended the session. What it said last still has to reach the front-end.
            let _ = tokio::time::timeout(FAREWELL, calls).await;
        }
    }
    Ok(())
}

/// Answers calls until the front-end goes, or breaks the protocol.
async fn answer<T>(
    channel: BaseChannel<HelperRequest, proxsave_proto::rpc::HelperResponse, T>,
    link: Arc<Link>,
) -> Option<Misuse>
where
    T: tarpc::Transport<
            tarpc::Response<proxsave_proto::rpc::HelperResponse>,
            tarpc::ClientMessage<HelperRequest>,
            TransportError = FrameError,
        >,
{
    let requests = channel.max_concurrent_requests(CONCURRENT).requests();
    let mut requests = std::pin::pin!(requests);
    let mut first = true;
    loop {
        let next = if std::mem::take(&mut first) {
            match tokio::time::timeout(FIRST_CALL_DEADLINE, requests.next()).await {
                Ok(next) => next,
                Err(_) => return Some(Misuse::Idle),
            }
        } else {
            requests.next().await
        };
        match next {
            Some(Ok(request)) => {
                tokio::spawn(request.execute(Service::new(Arc::clone(&link)).serve()));
            }
            Some(Err(tarpc::ChannelError::Read(error))) => return misuse(&error),
            // Answers cannot be delivered: the front-end is gone or does not read.
            Some(Err(_)) | None => return None,
        }
    }
}

/// What a broken connection says about the front-end; nothing when it only went away.
fn misuse(error: &FrameError) -> Option<Misuse> {
    match error {
        FrameError::Io(_) | FrameError::Cut => None,
        FrameError::Stalled(_) => Some(Misuse::Stalled),
        FrameError::Idle(_) => Some(Misuse::Idle),
        _ => Some(Misuse::BadFrame),
    }
}
