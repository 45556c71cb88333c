//! The root directory: every walk from it, by descriptor.
