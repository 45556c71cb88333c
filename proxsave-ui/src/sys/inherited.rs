//! Descriptors that the parent process handed down.
#![allow(unsafe_code, reason = "the one module of this crate where it is allowed; every block says why it is sound")]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Takes over a descriptor that the parent process handed down by number (as `--identity-fd 3`), so that it is
/// closed after use and no child inherits it.
///
/// Call it before anything else in the program opens descriptors: only then does the number still mean what the
/// parent meant. 0, 1 and 2 are refused; they belong to the standard library.
///
/// # Errors
/// `InvalidInput` for a number below 3, else what the system says (`EBADF` when nothing was handed down).
pub fn take_inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is not negative, and the borrow ends before this function does; whether it is open is what
    // the call finds out.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(borrowed)?;
    if flags.contains(rustix::io::FdFlags::CLOEXEC) {
        // Everything this program opens itself is close-on-exec; what was handed down through exec is not. Such a
        // number belongs to somebody here.
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: it is open (just asked), and nobody in this process owns it: it came through exec, see above.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC)?;
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd as _, IntoRawFd as _};

    #[test]
    fn only_what_was_handed_down_is_taken() {
        let file = tempfile::tempfile().unwrap();
        let number = file.as_raw_fd();
        assert!(take_inherited_fd(number).is_err(), "opened here, close-on-exec");
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        let number = OwnedFd::from(file).into_raw_fd();
        let taken = take_inherited_fd(number).unwrap();
        assert!(rustix::io::fcntl_getfd(&taken).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        drop(taken);
        assert!(take_inherited_fd(number + 500).is_err());
        assert!(take_inherited_fd(1).is_err() && take_inherited_fd(-1).is_err());
    }
}
