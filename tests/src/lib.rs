//! What the end-to-end tests, fuzz drivers and benchmarks share.
