//! Who the caller is, by the kernel's word.
