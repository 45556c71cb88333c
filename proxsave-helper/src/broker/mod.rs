//! The broker: root, single-threaded; owns the session, policy, checked plans, workers and the log.

pub mod message;
pub mod session;
