//! How a connection arrives.
