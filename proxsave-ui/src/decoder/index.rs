//! What an archive holds, as values that passed every check of the profile.

use crate::archive::Codec;
use proxsave_proto::digest::Digest;
use proxsave_proto::plan::Meta;
use proxsave_proto::{RelPath, Roles};
use serde::{Deserialize, Serialize};

/// Everything known about an archive after the first pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Hash of the archive as stored (encrypted if it is).
    pub sha256: Digest,
    /// Its size in bytes as stored.
    pub stored_bytes: u64,
    /// Whether it is encrypted with age.
    pub encrypted: bool,
    /// The compression found in it.
    pub codec: Codec,
    /// Bytes of the decompressed tar stream.
    pub plain_bytes: u64,
    /// The entries, sorted by path; no path twice. Deduplicated files are files again.
    pub entries: Vec<IndexEntry>,
    /// Entries that cannot be restored, with the reason, in the archive's order.
    pub refused: Vec<Refused>,
    /// Attributes that are left out because a restore never sets them; the entries themselves are restored.
    pub left_out: Vec<Refused>,
    /// What kind of host the backup is of, and what shows it.
    pub roles: RoleEvidence,
    /// What the backup says of itself inside.
    pub info: BackupInfo,
}

/// One restorable thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// Where, below the root; never the root itself.
    pub path: RelPath,
    /// What.
    pub node: IndexNode,
}

/// What an entry is. Numbers and names are those of the archive; whether the host may get them is policy's affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexNode {
    /// A regular file.
    File {
        /// Where its content is: the number to give to `Decoder::extract`. Deduplicated
        /// files have the number of the file that holds the bytes.
        ordinal: u32,
        /// Bytes, holes filled in.
        size: u64,
        /// Hash of the content.
        sha256: Digest,
        /// Stored with holes: leave runs of zeros as holes.
        sparse: bool,
        /// Stored as a link to an equal file by the backup's deduplication.
        dedup: bool,
        /// Its metadata.
        meta: Meta,
    },
    /// A directory.
    Dir {
        /// Its metadata.
        meta: Meta,
        /// Whether the metadata is the source host's. If not, the backup made the directory on the way to
        /// something else: it must never change an existing directory, and a missing one is made 0755 root.
        true_entry: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Its text; data, never followed.
        target: Vec<u8>,
        /// Its metadata; the mode is 0777.
        meta: Meta,
    },
    /// Another name for a file of the archive. `to` is a [`IndexNode::File`] of this index.
    Hardlink {
        /// The file.
        to: RelPath,
    },
}

/// An entry that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The name as the archive has it (not checked: print it escaped).
    pub name: Vec<u8>,
    /// Why, as a sentence without the name.
    pub why: String,
}

/// What kind of host a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleEvidence {
    /// The roles.
    pub roles: Roles,
    /// What shows it, as sentences.
    pub why: Vec<String>,
}

/// What `backup_metadata.txt` inside the archive says. Untrusted text: print it escaped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BackupInfo {
    /// Its `KEY=VALUE` lines in order, keys upper-case letters, digits and underscores.
    pub values: Vec<(String, String)>,
    /// The entries of `BACKUP_FEATURES`.
    pub features: Vec<String>,
}

impl IndexNode {
    /// The metadata; a hard link has none of its own.
    #[must_use]
    pub fn meta(&self) -> Option<&Meta> {
        match self {
            Self::File { meta, .. } | Self::Dir { meta, .. } | Self::Symlink { meta, .. } => Some(meta),
            Self::Hardlink { .. } => None,
        }
    }
}

impl Index {
    /// The entry at a path.
    #[must_use]
    pub fn get(&self, path: &RelPath) -> Option<&IndexEntry> {
        self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok().and_then(|at| self.entries.get(at))
    }
}
