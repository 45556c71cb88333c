//! Descriptors as a whole.
#![allow(unsafe_code, reason = "close_range has no safe wrapper")]

use std::io;

/// Closes every descriptor from `first` up.
///
/// For a process that has just started and owns nothing there yet: an object that owns one of them would close it, or
/// its successor, once more.
///
/// # Errors
/// What the system says.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range takes three plain numbers and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0u32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
