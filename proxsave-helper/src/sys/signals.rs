//! Signals that ask for an end, as something to poll.

use rustix::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::io;

/// Holds back SIGTERM, SIGINT and SIGHUP from this process and tells of them. Forked workers inherit the holding
/// back: the broker ends them, nobody else.
#[derive(Debug)]
pub struct EndSignals(OwnedFd);

impl EndSignals {
    /// Starts to hold them back.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hold() -> io::Result<Self> {
        // SAFETY: the set lives on this stack and is initialised by sigemptyset before it is read; the calls take
        // pointers to it only for their own duration, and null for the old mask that nobody wants.
        unsafe {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            if failed != 0 {
                return Err(io::Error::from_raw_os_error(failed));
            }
            match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    /// Whether one came since the last call.
    #[must_use]
    pub fn came(&self) -> bool {
        let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>() * 3];
        rustix::io::read(&self.0, &mut buffer).is_ok_and(|got| got > 0)
    }
}

impl AsFd for EndSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Exit, fork};
    use super::*;

    #[test]
    fn a_signal_becomes_something_to_poll() {
        let status = fork(|| {
            let Ok(signals) = EndSignals::hold() else { return 1 };
            if signals.came() {
                return 2;
            }
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
            if signals.came() && !signals.came() { 0 } else { 3 }
        });
        assert_eq!(status.unwrap().wait().unwrap(), Exit::Code(0));
    }
}
