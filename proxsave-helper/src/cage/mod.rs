//! Cages: what a worker gives up before it looks at anything untrusted.
//!
//! A [`Cage`] says, as a value, what is left; [`enter`] gives up the rest, for good, in the one order in which
//! each step can still be taken:
//!
//! ```text
//! descriptors -> namespaces and mounts   (the worker's own business, see `writer::view`)
//! limits, no_new_privs, no dumps -> ids and capabilities -> Landlock -> seccomp
//! ```
//!
//! What each layer must refuse to a worker, by itself, with the others off (`tests/cage.rs` shows each cell):
//!
//! | act outside the plan            | mount namespace | Landlock | seccomp | capabilities |
//! |---------------------------------|-----------------|----------|---------|--------------|
//! | create, rename                  | x               | x        |         |              |
//! | chmod, chown, utimes, setxattr  | x               |          |         |              |
//! | connect, exec, mount, fork      |                 |          | x       |              |
//! | mknod of a device, setuid       |                 |          | x       | x            |

mod landlock;
mod seccomp;

pub use seccomp::Profile;

use crate::sys;
use rustix::fd::BorrowedFd;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use std::io;

/// What the writer keeps.
///
/// CAP_MKNOD is not among them: devices, FIFOs and sockets are never restored, so nothing needs it.
pub const WRITER_CAPS: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);

/// What the prober keeps: it reads everything and owns nothing.
pub const PROBER_CAPS: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// A worker's cage.
#[derive(Debug)]
pub struct Cage<'a> {
    /// Who it runs as.
    pub who: Who,
    /// The capabilities it keeps, permitted and effective; none is inheritable and the bounding set is empty.
    pub keep: CapabilitySet,
    /// What it reaches in the file system by opening.
    pub files: Files<'a>,
    /// The system calls it keeps.
    pub profile: Profile,
    /// The most descriptors it can have open; `None` leaves the limit.
    pub open_files: Option<u64>,
}

/// Who a worker runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Root: only where a file's owner must be root, or ownership be changed.
    Root,
    /// Another user, for good, without supplementary groups.
    User {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

/// What a worker reaches in the file system (a Landlock domain).
#[derive(Debug)]
pub enum Files<'a> {
    /// Nothing: it has its descriptors and opens no other.
    Nothing,
    /// What is beneath these directories.
    Beneath(Vec<Rule<'a>>),
}

/// A directory, by descriptor, and what may be done beneath it.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// The directory.
    pub dir: BorrowedFd<'a>,
    /// What may be done.
    pub access: Access,
}

/// What may be done beneath a directory. Nothing is ever executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Files and directories can be read.
    Read,
    /// Files, directories and symbolic links can be read, made, written, renamed between directories, removed.
    Write,
}

/// Which layers are put up: all of them, but for an administrator's `--without-landlock`. Tests take single ones
/// to show that each holds alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers(u8);

impl Layers {
    /// Every layer.
    pub const ALL: Self = Self(0b1111);
    /// For a kernel without Landlock, when root said so.
    pub const WITHOUT_LANDLOCK: Self = Self(0b1101);
    /// For tests: the mount namespace.
    #[doc(hidden)]
    pub const ONLY_NAMESPACE: Self = Self(0b0001);
    /// For tests: Landlock.
    #[doc(hidden)]
    pub const ONLY_LANDLOCK: Self = Self(0b0010);
    /// For tests: seccomp.
    #[doc(hidden)]
    pub const ONLY_SECCOMP: Self = Self(0b0100);
    /// For tests: ids and capabilities.
    #[doc(hidden)]
    pub const ONLY_CAPABILITIES: Self = Self(0b1000);
    /// For tests: no layer at all.
    #[doc(hidden)]
    pub const NONE: Self = Self(0);

    /// Whether every layer of `other` is among these.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What was enforced, for the log and for display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// The Landlock ABI in force; `None` when it was left out.
    pub landlock_abi: Option<u8>,
    /// Whether a seccomp filter is in force.
    pub seccomp: bool,
    /// The capabilities left, as a bit set (bit n is capability n of linux/capability.h).
    pub capabilities: u64,
}

impl std::fmt::Display for Enforced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.landlock_abi {
            Some(abi) => write!(f, "Landlock ABI {abi}")?,
            None => f.write_str("no Landlock")?,
        }
        f.write_str(if self.seccomp { ", seccomp" } else { ", no seccomp" })?;
        write!(f, ", capabilities {:#x}", self.capabilities)
    }
}

/// Why a cage could not be built. The worker must end: it is half caged.
#[derive(Debug, thiserror::Error)]
pub enum CageError {
    /// The kernel has no Landlock, or an older one than is safe.
    #[error(
        "this kernel does not offer Landlock ABI 2 or newer ({0}); it needs Linux 5.19 with \"landlock\" in the lsm= \
         list. Root can start the helper with --without-landlock to go on with the other layers"
    )]
    NoLandlock(String),
    /// Landlock is there but refused.
    #[error("Landlock could not be enforced: {0}")]
    Landlock(String),
    /// The seccomp filter was refused.
    #[error("the seccomp filter could not be enforced: {0}")]
    Seccomp(String),
    /// Another step.
    #[error("{step}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn step<T, E: Into<io::Error>>(step: &'static str, result: Result<T, E>) -> Result<T, CageError> {
    result.map_err(|error| CageError::Step { step, source: error.into() })
}

/// Enters a cage, for good.
///
/// # Errors
/// When any step fails; the caller must end the process then.
pub fn enter(cage: &Cage<'_>, layers: Layers) -> Result<Enforced, CageError> {
    if let Some(most) = cage.open_files {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        step("limit open files", setrlimit(Resource::Nofile, limit))?;
    }
    step("forbid core files", setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }))?;
    step("forbid new privileges", rustix::thread::set_no_new_privs(true))?;
    step("forbid dumps", sys::undumpable())?;
    if layers.has(Layers::ONLY_CAPABILITIES) {
        drop_rights(cage)?;
    }
    let landlock_abi = if layers.has(Layers::ONLY_LANDLOCK) { Some(landlock::enforce(&cage.files)?) } else { None };
    let capabilities = step("read capabilities", rustix::thread::capabilities(None))?.permitted.bits();
    // Changing ids reset it.
    step("die with the parent", sys::die_with_parent())?;
    let seccomp = layers.has(Layers::ONLY_SECCOMP);
    if seccomp {
        seccomp::enforce(cage.profile)?;
    }
    Ok(Enforced { landlock_abi, seccomp, capabilities })
}

fn drop_rights(cage: &Cage<'_>) -> Result<(), CageError> {
    for bit in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            // The first number the kernel does not know ends the list.
            Err(rustix::io::Errno::INVAL) => break,
            result => step("empty the bounding set", result)?,
        }
    }
    if let Who::User { uid, gid } = cage.who {
        step("keep capabilities over the change of user", rustix::thread::set_keep_capabilities(true))?;
        step("become another user", sys::become_user(uid, gid))?;
    } else {
        step("become root's ids alone", sys::become_user(0, 0))?;
    }
    step("clear the ambient set", rustix::thread::clear_ambient_capability_set())?;
    let sets = CapabilitySets { effective: cage.keep, permitted: cage.keep, inheritable: CapabilitySet::empty() };
    step("drop capabilities", rustix::thread::set_capabilities(None, sets))?;
    // The dumpable flag went back with the change of ids.
    step("forbid dumps", sys::undumpable())
}
