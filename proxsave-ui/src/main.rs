//! The front-end's program: everything is in the library.
fn main() {}
