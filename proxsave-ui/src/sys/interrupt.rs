//! Stopping on Ctrl-C: signals set a flag, and everything that takes time looks at it.
#![allow(unsafe_code, reason = "sigaction has no safe form")]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static RAISED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    RAISED.store(true, Ordering::SeqCst);
}

/// Makes SIGINT, SIGTERM and SIGHUP set the flag, and SIGPIPE nothing (a write then fails with its error). System
/// calls that wait are interrupted.
///
/// # Errors
/// What the kernel says.
pub fn install() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        set(signal, note as extern "C" fn(libc::c_int) as libc::sighandler_t)?;
    }
    set(libc::SIGPIPE, libc::SIG_IGN)
}

fn set(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value: no flags, an empty mask, SIG_DFL.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: `action` is fully initialised and outlives the call; the handler only stores to an atomic, which is
    // safe in a signal handler; no old action is asked for.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether the operator wants to stop.
#[must_use]
pub fn raised() -> bool {
    RAISED.load(Ordering::SeqCst)
}
