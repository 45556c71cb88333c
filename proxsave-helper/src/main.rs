//! The helper's program: everything is in the library.
fn main() {}
