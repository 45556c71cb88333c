//! The plan: everything a restore will do, as data, before anything happens.
//!
//! A front-end builds a [`Plan`]; [`Plan::validate`] makes it a [`ValidPlan`] (policy-free: order, conflicts,
//! categories, guards); the helper makes of that, with policy and the live tree, what it can carry out. A valid
//! plan has exactly one encoding (postcard of [`Plan`]) and one hash over it, which the operator sees and both
//! sides log.

mod check;
mod guard;

pub use check::{Fault, FaultReason, ValidPlan};
pub use guard::{GUARDED, SENSITIVE, guarded};

use crate::category::{CategoryId, Mode, Roles};
use crate::digest::{Digest, Timestamp};
use crate::path::RelPath;
use crate::state::Present;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::Digest as _;
use std::fmt;
use std::marker::PhantomData;

/// The most entries a plan may have.
pub const MAX_ENTRIES: usize = 2_000_000;
/// The largest encoded plan, in bytes.
pub const MAX_PLAN_BYTES: u64 = 1 << 30;
/// The longest target of a symbolic link, in bytes (`PATH_MAX` less the final NUL).
pub const MAX_LINK: usize = 4095;
/// The most extended attributes of one entry; file systems that keep all of an inode's in one block hold fewer.
pub const MAX_XATTRS: usize = 128;
/// The most exports: one for each category.
const MAX_EXPORTS: usize = crate::category::CATEGORIES.len();
/// The largest value of an extended attribute (`XATTR_SIZE_MAX`).
pub const MAX_XATTR: usize = 65536;

/// A whole restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The backup it comes from.
    pub archive: ArchiveRef,
    /// How the selection was made.
    pub mode: Mode,
    /// The host's roles that the selection was filtered by.
    pub host: Roles,
    /// The existing directories in which names will be made or replaced, sorted by path.
    #[serde(deserialize_with = "at_most::<MAX_ENTRIES, _, _>")]
    pub anchors: Vec<AnchorBinding>,
    /// What will be written, sorted by path (depth first).
    #[serde(deserialize_with = "at_most::<MAX_ENTRIES, _, _>")]
    pub entries: Vec<Entry>,
    /// What the front-end exports instead, by category.
    #[serde(deserialize_with = "at_most::<MAX_EXPORTS, _, _>")]
    pub exports: Vec<Export>,
    /// Units to stop and start. No step exists yet, so this list is empty on the wire.
    pub services: Vec<ServiceStep>,
    /// Mounts and guards. No step exists yet.
    pub mounts: Vec<MountStep>,
    /// Typed host and Proxmox operations. None exists yet.
    pub applies: Vec<ApplyStep>,
}

/// Names the backup a plan was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRef {
    /// Hash of the archive file as stored (encrypted if it is).
    pub sha256: Digest,
    /// Base name of the archive file.
    pub name: Vec<u8>,
    /// Host name that the manifest gives.
    pub hostname: Vec<u8>,
    /// Creation time that the manifest gives, as text.
    pub created_at: String,
}

/// Binds an existing directory to what the operator was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorBinding {
    /// The directory.
    pub path: RelPath,
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Mount id.
    pub mount: u64,
}

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where.
    pub path: RelPath,
    /// The category that brings it (for a path in several chosen ones: the first in table order).
    pub category: CategoryId,
    /// Whether the archive has it, or it is made because the root lacks it.
    pub origin: Origin,
    /// What to write.
    pub node: Node,
    /// What is there now, as the operator was shown it; `None` for nothing.
    pub before: Option<Box<Present>>,
}

/// Where an entry comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// An entry of the archive.
    Archive,
    /// A directory on the way to an entry of the archive that the root lacks, and in the category of the first such entry.
    /// Outside that category's own paths it has no other metadata than [`Meta::for_parent`] leaves.
    Parent,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Node {
    /// A regular file. Its content comes over the content stream (see [`crate::message`]).
    File {
        /// Bytes.
        size: u64,
        /// Hash of the content.
        sha256: Digest,
        /// Leave runs of zeros as holes.
        sparse: bool,
        /// Its metadata.
        meta: Meta,
    },
    /// A directory: made when absent, else given this metadata.
    Dir {
        /// Its metadata.
        meta: Meta,
    },
    /// A symbolic link. The mode of its metadata is 0777.
    Symlink {
        /// The text of the link; data, never followed.
        target: Vec<u8>,
        /// Its metadata.
        meta: Meta,
    },
    /// Another name for a file of this plan. It has no metadata of its own.
    Hardlink {
        /// The file, which must be an [`Node::File`] entry of this plan.
        to: RelPath,
    },
}

/// Metadata to set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Permission, set-id and sticky bits (12 bits).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time; `None` leaves what the writing makes it.
    pub mtime: Option<Timestamp>,
    /// Extended attributes, sorted by name.
    #[serde(deserialize_with = "at_most::<MAX_XATTRS, _, _>")]
    pub xattrs: Vec<Xattr>,
}

/// One extended attribute. Allowed names: `user.*`, `security.capability`, `system.posix_acl_access`,
/// `system.posix_acl_default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Xattr {
    /// The name.
    pub name: Vec<u8>,
    /// The value, as the kernel takes it.
    pub value: Vec<u8>,
}

/// Entries of a category that are exported and not applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The category.
    pub category: CategoryId,
    /// How many entries.
    pub entries: u64,
    /// How many bytes of content.
    pub bytes: u64,
}

/// A step on a unit. Uninhabited until services are part of a plan: a plan that names one does not parse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceStep {}
/// A mount or guard. Uninhabited for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountStep {}
/// A typed host operation. Uninhabited for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApplyStep {}

/// Reads a list and stops at the first element too many. Counted only once it is all in memory, a plan of a few
/// bytes for each element could be made to take many times its size.
fn at_most<'de, const MOST: usize, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct List<const MOST: usize, T>(PhantomData<T>);
    impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for List<MOST, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = from.next_element()? {
                if list.len() == MOST {
                    return Err(A::Error::custom("the list is too long"));
                }
                list.push(element);
            }
            Ok(list)
        }
    }
    from.deserialize_seq(List::<MOST, T>(PhantomData))
}

/// The last user and group id that Debian itself gives out, the same on every host (Policy 9.2.2): those of daemons.
const LAST_STATIC_ID: u32 = 99;

impl Meta {
    /// What is left of it for a directory that is made only because something below it is restored, and that is in
    /// no category itself: nobody but root and a system's own daemon may come to own it, and nobody else to write
    /// in it. Else a plan could hand out what its categories do not hold.
    #[must_use]
    pub fn for_parent(mut self) -> Self {
        if self.uid > LAST_STATIC_ID {
            self.uid = 0;
        }
        if self.gid > LAST_STATIC_ID {
            self.gid = 0;
        }
        self.mode &= !0o022;
        self.xattrs.retain(|xattr| xattr.name.starts_with(b"user."));
        self
    }
}

impl Xattr {
    /// Whether a restore may set an attribute of this name.
    #[must_use]
    pub fn is_restorable(name: &[u8]) -> bool {
        matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
            || (name.starts_with(b"user.") && name.len() > 5 && name.len() <= 255 && !name.contains(&0))
    }

    /// Hash over a sorted list of attributes: each name and value with its length (u64, little endian) in front.
    #[must_use]
    pub fn digest(sorted: &[Xattr]) -> Digest {
        let mut hash = sha2::Sha256::new();
        for xattr in sorted {
            for part in [&xattr.name, &xattr.value] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        Digest(hash.finalize().into())
    }
}

impl Node {
    /// The metadata to set; a hard link has none.
    #[must_use]
    pub fn meta(&self) -> Option<&Meta> {
        match self {
            Node::File { meta, .. } | Node::Dir { meta } | Node::Symlink { meta, .. } => Some(meta),
            Node::Hardlink { .. } => None,
        }
    }

    /// How many bytes of content the stream carries for it.
    #[must_use]
    pub fn content_len(&self) -> u64 {
        match self {
            Node::File { size, .. } => *size,
            _ => 0,
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self, Node::Dir { .. })
    }
}
