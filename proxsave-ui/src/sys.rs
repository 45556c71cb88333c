//! System calls that need `unsafe`, each documented.

pub mod inherited;
pub mod interrupt;
