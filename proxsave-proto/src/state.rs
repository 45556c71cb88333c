//! What is at a target now, as the helper saw it: never contents, enough to tell whether it changed.

use crate::digest::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

/// The kinds of things in a directory that this project tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket: never written, never replaced.
    Special,
}

/// Something that exists at a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits (12 bits).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes; 0 for what is not a regular file.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Change time: the kernel sets it at every change, so an equal one means unchanged.
    pub ctime: Timestamp,
    /// Device number of its file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Number of names; 1 for what is not a regular file.
    pub nlink: u32,
    /// Hash of a regular file's content, where the probe asked for it.
    pub sha256: Option<Digest>,
    /// Target of a symbolic link.
    pub link: Option<Vec<u8>>,
    /// Hash over the extended attributes that a restore can set (see [`crate::plan::Xattr::digest`]).
    pub xattrs: Digest,
}

/// The deepest directory that exists on the way to a target, and where it is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// How many of the target's components lead to it (0 = the root itself).
    pub depth: u16,
    /// Device number of its file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// The kernel's mount id (`STATX_MNT_ID`), valid until the next reboot or remount.
    pub mount: u64,
}

/// Why a target cannot be reached safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Blocked {
    /// A directory on the way is a symbolic link; links are never followed.
    #[error("a directory on the way is a symbolic link")]
    SymlinkOnTheWay,
    /// Something on the way is not a directory.
    #[error("something on the way is not a directory")]
    NotADirectory,
    /// The way leads into a file system that is not written to (pmxcfs, FUSE, proc, a network mount, ...).
    #[error("it is on a kind of file system that is not written to")]
    ForeignFileSystem,
    /// The path is guarded, or leads to something that is: no plan can name it.
    #[error("it is guarded, or leads to a directory that is")]
    Guarded,
    /// The path is in no category that the caller may look at.
    #[error("it is in no category that the caller may restore")]
    NotGranted,
    /// A file is mounted over it, so that it can be neither replaced nor seen.
    #[error("a file is mounted over it")]
    MountPoint,
    /// It could not be examined: an error of the file system, or no answer in time.
    #[error("it could not be examined")]
    Unreadable,
}

/// What the helper found at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Nothing is there.
    Absent(Anchor),
    /// This is there. The anchor is its parent directory.
    Present(Anchor, Box<Present>),
    /// It cannot be reached.
    Blocked(Blocked),
}

impl Target {
    /// The thing that is there, if any.
    #[must_use]
    pub fn present(&self) -> Option<&Present> {
        match self {
            Target::Present(_, present) => Some(present),
            Target::Absent(_) | Target::Blocked(_) => None,
        }
    }

    /// The deepest existing directory on the way, when the target can be reached.
    #[must_use]
    pub fn anchor(&self) -> Option<Anchor> {
        match self {
            Target::Present(anchor, _) | Target::Absent(anchor) => Some(*anchor),
            Target::Blocked(_) => None,
        }
    }
}
