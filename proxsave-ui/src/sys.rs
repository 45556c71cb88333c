//! System calls that need `unsafe`, each documented.

pub mod interrupt;
