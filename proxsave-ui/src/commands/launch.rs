//! Who this program runs as, and starting the helper when root starts it.
//!
//! With `--launch direct`, root starts this program. It makes a pair of connected sockets, starts the helper on one
//! of them, and then becomes an ordinary user for good, before it reads any input. In every other case it must not
//! be root when it restores: everything that reads a backup runs without privilege.

use super::Failure;
use crate::cli::{DEFAULT_HELPER, Exit, HelperArgs};
use crate::sys::users;
use proxsave_proto::escape::escape;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How the helper is reached.
#[derive(Debug)]
pub enum Reach {
    /// It was started, and this is the connection to it.
    Started(UnixStream, Child),
    /// It listens here.
    Socket(PathBuf),
}

/// Starts the helper and drops root's rights, if that is asked for; else makes sure that there are none.
///
/// # Errors
/// When this program is root and may not be, or is not and should be, or any step fails.
pub fn settle(args: &HelperArgs) -> Result<Reach, Failure> {
    let root = rustix::process::geteuid().is_root() || rustix::process::getuid().is_root();
    let usage = |text: &str| Failure::new(Exit::Usage, text);
    match (&args.launch, &args.run_as) {
        (None, _) if root => Err(usage(
            "a restore is never read and planned as root. Run it as an ordinary user, who reaches the helper through \
             its socket; or let root start it with --launch direct --run-as USER, which starts the helper and then \
             becomes USER for good",
        )),
        (None, _) => Ok(Reach::Socket(args.socket.clone().unwrap_or_else(|| crate::cli::DEFAULT_SOCKET.into()))),
        (Some(_), None) => Err(usage("--launch direct needs --run-as USER")),
        (Some(_), Some(_)) if !root => Err(usage("--launch direct is for root; without root's rights use --socket")),
        (Some(_), Some(name)) => direct(args, name),
    }
}

fn direct(args: &HelperArgs, name: &str) -> Result<Reach, Failure> {
    let shown = escape(name.as_bytes());
    let user = CString::new(name)
        .ok()
        .map(|name| users::by_name(&name))
        .transpose()?
        .flatten()
        .ok_or_else(|| Failure::new(Exit::Usage, format!("--run-as {shown}: there is no such user")))?;
    if user.uid == 0 {
        return Err(Failure::new(Exit::Usage, "--run-as must name an ordinary user, not root"));
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(std::io::Error::from)?;
    let helper = args.helper.as_deref().unwrap_or(Path::new(DEFAULT_HELPER));
    let mut command = Command::new(helper);
    command.arg("serve").arg("--stdio").arg("--for-user").arg(user.uid.to_string());
    for (flag, value) in [("--root", &args.root), ("--state", &args.state)] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    let child = command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| {
            let path = escape(helper.as_os_str().as_bytes());
            Failure::new(Exit::NoHelper, format!("the helper {path} cannot be started: {error}; see --helper"))
        })?;
    users::become_for_good(&user).map_err(|error| Failure::from(error).context(format_args!("becoming {shown}")))?;
    Ok(Reach::Started(UnixStream::from(ours), child))
}
