//! What the unprivileged front-end (`proxsave-ui`) and the root helper (`proxsave-helper`) share.
//!
//! This crate promises:
//!
//! * **Checked things have types that only a check can make.** A [`RelPath`] cannot climb, be absolute or
//!   hold NUL; a [`ValidPlan`] is in canonical order, free of conflicts, and has one encoding and one hash.
//! * **No policy.** Who may do what is decided by the helper alone; what is here is true for everybody.
//! * **No I/O and no `unsafe`**, but for one thing both ends must agree on to the byte: the transport that
//!   carries frames and descriptors over a Unix socket (feature `rpc`).
//! * **Names are bytes.** Nothing here prints one without [`escape`].
#![forbid(unsafe_code)]

pub mod category;
pub mod digest;
pub mod escape;
pub mod message;
pub mod path;
pub mod plan;
pub mod preamble;
#[cfg(feature = "rpc")]
pub mod rpc;
pub mod state;

pub use category::{CategoryId, Mode, Role, Roles, Tier};
pub use digest::Digest;
pub use path::{PathError, RelPath};
pub use plan::{Plan, ValidPlan};
