//! System calls that need `unsafe`, each documented.

pub mod descriptors;
pub mod inherited;
pub mod interrupt;
pub mod memory;
pub mod users;
