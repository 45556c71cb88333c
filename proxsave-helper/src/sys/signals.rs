//! Signals that ask for an end, as something to poll.

use rustix::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::io;

/// Holds back SIGTERM, SIGINT and SIGHUP from this process and tells of those that ask it to end. Forked workers
/// inherit the holding back: the broker ends them, nobody else.
#[derive(Debug)]
pub struct EndSignals(OwnedFd);

impl EndSignals {
    /// Starts to hold them back. `terminal` says whether what a terminal sends (SIGINT, SIGHUP) asks for the end
    /// too. It does not where a front-end of the same terminal gets it as well: that one decides, and says so.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hold(terminal: bool) -> io::Result<Self> {
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
            if !terminal {
                libc::sigdelset(&raw mut set, libc::SIGINT);
                libc::sigdelset(&raw mut set, libc::SIGHUP);
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
        use rustix::process::Signal;
        for (terminal, signal, expected) in
            [(true, Signal::TERM, 0), (true, Signal::INT, 0), (false, Signal::TERM, 0), (false, Signal::INT, 3)]
        {
            let status = fork(|| {
                let Ok(signals) = EndSignals::hold(terminal) else { return 1 };
                if signals.came() {
                    return 2;
                }
                let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
                if signals.came() && !signals.came() { 0 } else { 3 }
            });
            assert_eq!(status.unwrap().wait().unwrap(), Exit::Code(expected));
        }
    }
}
