//! What parent and child say to each other: postcard values in frames over their socket.

use super::Codec;
use super::error::DecodeError;
use super::index::{BackupInfo, IndexEntry, Refused, RoleEvidence};
use super::limits::Limits;
use crate::archive::{CompanionKind, Description, MalformedBackup};
use proxsave_proto::Digest;
use serde::{Deserialize, Serialize};

/// How far a pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DecodeProgress {
    /// Stored bytes read.
    pub stored_bytes: u64,
    /// Stored bytes in all.
    pub stored_total: u64,
    /// Decompressed bytes.
    pub plain_bytes: u64,
    /// Entries seen.
    pub entries: u64,
    /// Bytes written out (when extracting or decrypting).
    pub content_bytes: u64,
}

/// From the parent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First: what the cage is to allow.
    Setup { limits: Limits, allow_unsandboxed: bool },
    /// With the file and its companions as descriptors, in this order.
    Describe { name: Vec<u8>, size: u64, companions: Vec<CompanionKind> },
    /// With the file as descriptor.
    Index { offset: u64, length: u64, expected: Option<Digest>, limits: Limits, has_identity: bool },
    /// The answer to [`Reply::Stanzas`].
    FileKey(Answer),
    /// With the pipe as descriptor; then so many [`Request::Wanted`].
    Extract { batches: u32 },
    /// Ordinals and record numbers.
    Wanted(Vec<(u32, u32)>),
    /// With the output as descriptor.
    Decrypt,
}

/// The identities' answer.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The file key.
    Key([u8; 16]),
    /// None fits.
    NoMatch,
    /// It failed; the parent knows why.
    Failed,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(..)",
            Self::NoMatch => "NoMatch",
            Self::Failed => "Failed",
        })
    }
}

/// A stanza of an age header.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireStanza {
    /// Its type.
    pub tag: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The wrapped key.
    pub body: Vec<u8>,
}

/// From the child.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The cage is closed; what it is made of.
    Ready(String),
    /// The answer to [`Request::Describe`].
    Described(Result<Box<Description>, MalformedBackup>),
    /// The header's stanzas, to be unwrapped.
    Stanzas(Vec<WireStanza>),
    /// News.
    Progress(DecodeProgress),
    /// Entries, in order.
    Entries(Vec<IndexEntry>),
    /// Refused entries, in order.
    Refused(Vec<Refused>),
    /// Left out attributes, in order.
    LeftOut(Vec<Refused>),
    /// After all entries.
    Indexed(Box<Summary>),
    /// Contents are written.
    Extracted { bytes: u64 },
    /// The compressed stream is written.
    Decrypted { sha256: Digest, bytes: u64 },
    /// The request failed.
    Failed(DecodeError),
}

/// An index without its entries.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// See [`super::Index`].
    pub sha256: Digest,
    /// See [`super::Index`].
    pub encrypted: bool,
    /// See [`super::Index`].
    pub codec: Codec,
    /// See [`super::Index`].
    pub plain_bytes: u64,
    /// See [`super::Index`].
    pub roles: RoleEvidence,
    /// See [`super::Index`].
    pub info: BackupInfo,
}
