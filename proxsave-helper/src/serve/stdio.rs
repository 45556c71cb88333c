//! `--stdio`: descriptor 0 is one end of a socket pair that the front-end made before it started us.
//!
//! Who called is who made the pair, by the kernel's word. Only the plain case is taken: root's own front-end started
//! this process directly. With `--for-user` it is that user's session: root's front-end becomes that user for good. A
//! process between the two (sudo, pkexec) has rules of its own, and doubt never yields
//! root.

use super::{Opened, ServeError, Settings, session};
use crate::broker::Via;
use crate::caller::Caller;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::io;
use std::os::unix::net::{SocketAddr, UnixStream};

/// Serves the front-end at descriptor 0. Gives the exit status of its session.
///
/// # Errors
/// When descriptor 0 is no such socket, or whoever made it did not start us directly as root.
pub fn stdio(settings: &Settings) -> Result<i32, ServeError> {
    // The connection moves away from the number that libraries take for the standard input.
    let moved = |error: rustix::io::Errno| ServeError::System("move descriptor 0", error.into());
    let front_end = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).map_err(moved)?);
    check_socket(&front_end)?;
    let caller = Caller::of(&front_end).map_err(|error| ServeError::System("ask who is at descriptor 0", error))?;
    check_launcher(&caller)?;
    // Root named the user that its front-end becomes: the session is that user's, not root's.
    let (caller, via) = match settings.for_user {
        Some(uid) if uid != caller.uid => (caller.on_behalf_of(uid), Via::StartedByRoot),
        _ => (caller, Via::Stdio),
    };
    let opened = Opened::open(settings, via)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(moved)?;
    rustix::stdio::dup2_stdin(&null).map_err(moved)?;
    drop(null);
    Ok(session(front_end, caller, via, &opened, settings))
}

fn check_socket(socket: &UnixStream) -> Result<(), ServeError> {
    let is_stream = sockopt::socket_domain(socket).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && sockopt::socket_type(socket).is_ok_and(|kind| kind == SocketType::STREAM);
    // A socket with a name leads to some daemon, and it would be that daemon's user that the kernel tells.
    let unnamed = |address: io::Result<SocketAddr>| address.is_ok_and(|address| address.is_unnamed());
    if is_stream && unnamed(socket.local_addr()) && unnamed(socket.peer_addr()) {
        return Ok(());
    }
    Err(ServeError::Stranger(
        "--stdio needs descriptor 0 to be one end of a socket pair that the front-end made: let proxsave-ui start the \
         helper, or use --listen"
            .to_owned(),
    ))
}

fn check_launcher(caller: &Caller) -> Result<(), ServeError> {
    let between = ["SUDO_UID", "PKEXEC_UID"].into_iter().find(|name| std::env::var_os(name).is_some());
    if let Some(name) = between {
        return Err(ServeError::Stranger(format!(
            "--stdio under sudo or pkexec ({name} is set) is not supported by this version: start `proxsave-helper serve \
             --listen SOCKET --for-user USER` as root and give the front-end --socket SOCKET"
        )));
    }
    let parent = rustix::process::getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    if caller.uid != 0 || caller.pid.is_none() || caller.pid != parent {
        return Err(ServeError::Stranger(format!(
            "--stdio answers only to a front-end that root started and that started the helper itself; this socket was \
             made by {caller}. Use --listen"
        )));
    }
    Ok(())
}
