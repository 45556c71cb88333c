//! The connection to the root helper.
