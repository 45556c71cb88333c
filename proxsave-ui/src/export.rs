//! The export directory.
