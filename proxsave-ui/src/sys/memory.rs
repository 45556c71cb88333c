//! The allocator.
#![allow(unsafe_code, reason = "malloc_trim has no safe wrapper")]

/// Gives memory that was freed back to the system, where the C library would keep it for later.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time from any thread; it only releases memory that nobody owns.
    unsafe {
        libc::malloc_trim(0);
    }
}
