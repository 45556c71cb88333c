//! `--listen`: a socket of our own, and a process for each connection.

use super::{Opened, ServeError, Settings, session};
use crate::broker::Via;
use crate::caller::{Caller, group_id};
use crate::cli::{self, tell};
use crate::sys::{self, Child, Exit};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd as _;
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The group whose members may connect, where the host has it.
pub const GROUP: &str = "proxsave";
/// Connections that are served at the same time; further ones wait. Only one of them can restore.
const MAX_SESSIONS: usize = 16;

/// Listens at a path and serves what connects, until a signal asks for the end or, with [`Settings::once`], the
/// first session is over. Gives the exit status.
///
/// # Errors
/// When the socket cannot be made, or the kernel refuses something on the way.
pub fn listen(path: &Path, settings: &Settings) -> Result<i32, ServeError> {
    let opened = Opened::open(settings, Via::Listen)?;
    let socket = Socket::bind(path, settings.for_user)?;
    tell(&format!("listening on {}", proxsave_proto::escape::escape(path.as_os_str().as_encoded_bytes())));
    let mut sessions: Vec<Child> = Vec::new();
    loop {
        let taking = sessions.len() < if settings.once { 1 } else { MAX_SESSIONS };
        let ready = wait(&socket, taking, &opened, &sessions)?;
        if ready.end {
            // Sessions are told, and end in their own time: a commit that has begun is finished.
            for session in &sessions {
                let _ = pidfd_send_signal(session.pidfd(), Signal::TERM);
            }
            drop(socket);
            for mut session in sessions {
                session.wait().map_err(|error| ServeError::System("wait for a session", error))?;
            }
            return Ok(cli::EXIT_OK);
        }
        for index in ready.ended.into_iter().rev() {
            let exit = sessions.swap_remove(index).wait();
            let exit = exit.map_err(|error| ServeError::System("wait for a session", error))?;
            let status = match exit {
                Exit::Code(status) => status,
                Exit::Signal(_) => {
                    tell(&format!("a session ended by {exit}"));
                    cli::EXIT_SESSION_FAILED
                }
            };
            // Somebody without a right must not use up the one connection.
            if settings.once && status != cli::EXIT_REFUSED {
                return Ok(status);
            }
        }
        if ready.connection
            && let Some(child) = accept(&socket, &opened, settings)
        {
            sessions.push(child);
        }
    }
}

/// What there is to do.
struct Ready {
    end: bool,
    connection: bool,
    ended: Vec<usize>,
}

fn wait(socket: &Socket, taking: bool, opened: &Opened, sessions: &[Child]) -> Result<Ready, ServeError> {
    let listening = if taking { PollFlags::IN } else { PollFlags::empty() };
    let mut fds = vec![PollFd::new(&opened.signals, PollFlags::IN), PollFd::new(&socket.listener, listening)];
    let pidfds: Vec<_> = sessions.iter().map(Child::pidfd).collect();
    fds.extend(pidfds.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(ServeError::System("wait for connections", errno.into())),
    }
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let (signal, connection) = (ready.next() == Some(true), ready.next() == Some(true));
    let ended = ready.enumerate().filter_map(|(index, ended)| ended.then_some(index)).collect();
    Ok(Ready { end: signal && opened.signals.came(), connection: connection && taking, ended })
}

/// Takes one connection and forks its session. A connection that cannot be served is closed, with a word to root;
/// the next one is.
fn accept(socket: &Socket, opened: &Opened, settings: &Settings) -> Option<Child> {
    let front_end = match socket.listener.accept() {
        Ok((front_end, _)) => front_end,
        // It went away before it was taken.
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {
            return None;
        }
        Err(error) => {
            tell(&format!("a connection could not be taken: {error}"));
            // Out of descriptors, most likely; trying again at once would only spin.
            std::thread::sleep(std::time::Duration::from_millis(100));
            return None;
        }
    };
    let caller = match Caller::of(&front_end) {
        Ok(caller) => caller,
        Err(error) => {
            tell(&format!("a connection was refused: the kernel does not say whose it is ({error})"));
            return None;
        }
    };
    let forked = sys::fork(|| in_session(front_end, caller, opened, settings));
    forked.map_err(|error| tell(&format!("a connection could not be served: {error}"))).ok()
}

/// The forked process: keeps what a session needs and serves it.
fn in_session(front_end: UnixStream, caller: Caller, opened: &Opened, settings: &Settings) -> i32 {
    let [root, mounts] = opened.root.descriptors();
    let keep = [front_end.as_fd(), opened.state.as_fd(), opened.signals.as_fd(), root, mounts];
    let keep: Vec<_> = [0, 1, 2].into_iter().chain(keep.iter().map(rustix::fd::AsRawFd::as_raw_fd)).collect();
    if let Err(error) = sys::close_all_but(&keep) {
        tell(&format!("a connection could not be served: {error}"));
        return cli::EXIT_FAILED;
    }
    // A listener that is killed must not take a half-done commit with it.
    if let Err(error) = rustix::process::set_parent_process_death_signal(None) {
        tell(&format!("a connection could not be served: {error}"));
        return cli::EXIT_FAILED;
    }
    session(front_end, caller, Via::Listen, opened, settings)
}

/// The listening socket; its name goes with it.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl Socket {
    fn bind(path: &Path, for_user: Option<u32>) -> Result<Self, ServeError> {
        let failed = |why: &dyn std::fmt::Display| ServeError::path("--listen", path, why);
        check_directory(path)?;
        remove_stale(path)?;
        // The umask makes it 0600 of root from the first moment on.
        let listener = UnixListener::bind(path).map_err(|error| failed(&error))?;
        listener.set_nonblocking(true).map_err(|error| failed(&error))?;
        let (uid, gid, mode) = match (group_id(GROUP), for_user) {
            (Some(gid), _) => (0, gid, 0o660),
            (None, Some(uid)) => (uid, 0, 0o600),
            (None, None) => (0, 0, 0o600),
        };
        let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(|errno| failed(&errno))?;
        rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed(&errno))?;
        let stat = path.symlink_metadata().map_err(|error| failed(&error))?;
        Ok(Self { listener, path: path.to_owned(), inode: (stat.dev(), stat.ino()) })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Only our own: somebody may have put another in its place.
        if self.path.symlink_metadata().is_ok_and(|stat| (stat.dev(), stat.ino()) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// In a directory where others can rename, the name could be made to lead elsewhere between two steps.
fn check_directory(path: &Path) -> Result<(), ServeError> {
    let failed = |why: &dyn std::fmt::Display| ServeError::path("--listen", path, why);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stat = std::fs::metadata(directory).map_err(|error| failed(&format!("its directory: {error}")))?;
    let (writable, sticky) = (stat.mode() & 0o022 != 0, stat.mode() & 0o1000 != 0);
    if stat.uid() != 0 || writable && !sticky {
        return Err(failed(&"its directory is not root's alone; choose one that only root can write, such as /run"));
    }
    Ok(())
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path) -> Result<(), ServeError> {
    let failed = |why: &dyn std::fmt::Display| ServeError::path("--listen", path, why);
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(&error)),
        Ok(stat) if !stat.file_type().is_socket() => Err(failed(&"something else has that name")),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|error| failed(&error))
            }
            _ => Err(failed(&"another helper listens there; end it or choose another path")),
        },
    }
}
