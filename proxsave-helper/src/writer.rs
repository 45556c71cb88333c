//! The writer: stages, verifies and puts in place what a checked plan says.
