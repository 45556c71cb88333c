//! What the end-to-end tests, fuzz drivers and benchmarks share: a lab to restore in, snapshots to compare,
//! archives (real, hostile and generated), and a client that can lie.
//!
//! Nothing here knows how the pair does its work: it starts the two programs as an administrator and an
//! operator would, and looks at the trees, the exit codes, the reports and `/proc`.

pub mod backup;
pub mod bins;
pub mod expect;
pub mod fixtures;
pub mod fuzz;
pub mod lab;
pub mod mutate;
pub mod procs;
pub mod rogue;
pub mod snapshot;
pub mod tarball;
pub mod terminal;
