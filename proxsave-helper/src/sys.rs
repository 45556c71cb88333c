//! The few system calls that need `unsafe`, each documented, and small safe wrappers that belong beside them.
//!
//! Every helper process is single-threaded (the gate's runtime is a current-thread one and starts after its
//! fork), so what the kernel keeps for each thread (ids, capabilities, seccomp, Landlock) is kept here for the
//! whole process.
#![allow(unsafe_code, reason = "this module is where the crate's unsafe system calls live")]

mod signals;

pub use signals::EndSignals;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, pidfd_open};
use rustix::thread::UnshareFlags;
use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

/// The process that forked this one, so that [`die_with_parent`] can tell whether it is still there.
static PARENT: AtomicI32 = AtomicI32::new(0);

/// A forked process, held by descriptor so that its number cannot be confused after reuse.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself with this status.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl Child {
    /// Its process id, for messages.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The descriptor to poll: readable once it ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Ends it now (SIGKILL). Harmless when it already ended.
    pub fn kill(&self) {
        // The only failure is that it is gone, which is what was asked for.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it was waited for before, or the kernel refuses.
    pub fn wait(&mut self) -> io::Result<Exit> {
        loop {
            match rustix::process::waitpid(Some(self.pid), WaitOptions::empty()) {
                Err(Errno::INTR) | Ok(None) => {}
                Err(error) => return Err(error.into()),
                Ok(Some((_, status))) => {
                    self.reaped = true;
                    return Ok(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Exit::Code(code),
                        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
                    });
                }
            }
        }
    }
}

impl Drop for Child {
    /// A worker never outlives the value that stands for it.
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.wait();
        }
    }
}

/// Forks; the child runs `body` and ends with the status it gives, without unwinding into or dropping anything
/// of the caller's. The child dies with its parent.
///
/// Call it from a single-threaded process only (see [`require_single_thread`]): another thread's locks would stay
/// locked in the child.
///
/// # Errors
/// When the kernel has no room for another process.
pub fn fork(body: impl FnOnce() -> i32) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    // SAFETY: fork has no memory preconditions; the child continues on a copy of this, its only, thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            PARENT.store(parent.as_raw_nonzero().get(), Ordering::Relaxed);
            let status = match die_with_parent() {
                Ok(()) => std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101),
                Err(_) => 102,
            };
            exit_now(status)
        }
        raw => {
            let pid = Pid::from_raw(raw).ok_or_else(|| io::Error::other("fork gave a bad process id"))?;
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => Ok(Child { pid, pidfd, reaped: false }),
                Err(error) => {
                    // Not yet waited for, so the number is still its own.
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                    Err(error.into())
                }
            }
        }
    }
}

/// Ends the process at once: no destructors, no exit handlers.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes a plain number and does not return.
    unsafe { libc::_exit(status) }
}

/// Fails unless the calling process has exactly one thread.
///
/// # Errors
/// When there are more, or `/proc` cannot say.
pub fn require_single_thread() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        n => Err(io::Error::other(format!("{n} threads run where one must: workers could not be forked safely"))),
    }
}

/// Makes the kernel kill this process when its parent ends. A change of ids or capabilities clears it, so it is
/// called again after one.
///
/// # Errors
/// When the parent is gone already.
pub fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let expected = PARENT.load(Ordering::Relaxed);
    let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if expected != 0 && now != expected {
        return Err(io::Error::other("the parent process is gone"));
    }
    Ok(())
}

/// Forbids core dumps and, for others of the same uid, tracing and `/proc` access.
///
/// # Errors
/// The kernel's.
pub fn undumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Sets all user and group ids and empties the supplementary groups.
///
/// # Errors
/// Without CAP_SETUID and CAP_SETGID.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    use rustix::process::{Gid, Uid};
    rustix::thread::set_thread_groups(&[])?;
    let gid = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Closes every descriptor but those listed.
///
/// For a freshly forked child that never returns to the code that owned the others: an owner that is dropped
/// later would close a number that then means something else.
///
/// # Errors
/// On a kernel without `close_range` (before 5.9).
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 0u32;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd.saturating_add(1));
    }
    close_range(first, u32::MAX)
}

/// Points standard input, output and error at `/dev/null`, so that no later descriptor gets one of their numbers
/// and no message ends up in it.
///
/// # Errors
/// When there is no `/dev/null`.
pub fn silence_stdio() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    for number in 0..=2 {
        // SAFETY: dup2 takes two numbers; the standard library never owns these three.
        if unsafe { libc::dup2(null.as_raw_fd(), number) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: plain numbers. The descriptors closed are, by this function's contract, used by nobody any more.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the caller's mount namespace for a copy of it.
///
/// # Errors
/// Without CAP_SYS_ADMIN.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: only the mount namespace is unshared, which no memory of this process depends on; the
    // descriptor table stays as it is.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// What `mount_setattr` changes (`struct mount_attr` of linux/mount.h).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Attributes of a mount (`MOUNT_ATTR_*` of linux/mount.h).
pub mod mount_attr {
    /// Nothing on it can be changed through this mount.
    pub const RDONLY: u64 = 0x1;
    /// Set-id bits have no effect.
    pub const NOSUID: u64 = 0x2;
    /// Devices have no effect.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Sets attributes of the mount that `fd` stands in (its root), and makes it private: nothing mounted elsewhere
/// appears below it, and the reverse. `recursive` includes every mount below.
///
/// # Errors
/// The kernel's; ENOSYS before Linux 5.12.
pub fn set_mount(fd: impl AsFd, set: u64, recursive: bool) -> io::Result<()> {
    let attr = MountAttr { attr_set: set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let empty: &CStr = c"";
    // SAFETY: the path is a C string, the structure is of the size given and lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            empty.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Who is at the other end of a connected Unix socket, as the kernel recorded it when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id then; another process may have it now.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Lets the kernel begin to write a part of a file to its disk (`sync_file_range`); waits for nothing and promises
/// nothing.
///
/// # Errors
/// When the file system cannot, or what it began failed.
pub fn start_writing_back(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let range = i64::try_from(offset).ok().zip(i64::try_from(length).ok());
    let (offset, length) = range.ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: it takes numbers only, and the descriptor is open for as long as it is borrowed.
    let done = unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The peer of a Unix socket (`SO_PEERCRED`).
///
/// # Errors
/// When it is not a connected Unix socket, or the peer is outside this process's namespaces.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let cred = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(Peer { pid: cred.pid.as_raw_nonzero().get(), uid: cred.uid.as_raw(), gid: cred.gid.as_raw() })
}

/// Whether a descriptor is a memory file that nobody can write, shrink, grow or unseal any more.
///
/// # Errors
/// When it is not a memory file at all.
pub fn is_sealed(fd: impl AsFd) -> io::Result<bool> {
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    Ok(fcntl_get_seals(fd)?.contains(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_runs_its_body_and_nothing_else() {
        assert_eq!(fork(|| 7).unwrap().wait().unwrap(), Exit::Code(7));
        let mut child = fork(|| {
            loop {
                std::thread::sleep(std::time::Duration::from_secs(9))
            }
        })
        .unwrap();
        child.kill();
        assert_eq!(child.wait().unwrap(), Exit::Signal(9));
    }

    #[test]
    fn only_listed_descriptors_stay() {
        let (keep, gone) = rustix::pipe::pipe().unwrap();
        let (keep, gone) = (keep.as_raw_fd(), gone.as_raw_fd());
        let open = |fd: RawFd| {
            // SAFETY: F_GETFD reads a flag of a number, open or not.
            unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
        };
        let status = fork(|| match close_all_but(&[keep]) {
            Ok(()) => i32::from(open(keep)) | i32::from(open(gone)) << 1 | i32::from(open(0)) << 2,
            Err(_) => 99,
        });
        assert_eq!(status.unwrap().wait().unwrap(), Exit::Code(1));
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let child = fork(|| {
            loop {
                std::thread::sleep(std::time::Duration::from_secs(9))
            }
        })
        .unwrap();
        let pid = child.pid();
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn seals_are_read() {
        let file = rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(!is_sealed(&file).unwrap());
        let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, all).unwrap();
        assert!(is_sealed(&file).unwrap());
        assert!(is_sealed(rustix::pipe::pipe().unwrap().0).is_err());
    }
}
