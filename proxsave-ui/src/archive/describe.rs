//! Describing a backup: the question the main process asks, the answer the caged decoder gives, and the pure
//! function that makes the answer from bytes.

mod assemble;

pub use assemble::{describe, describe_within};

use super::bundle::BundleError;
use super::codec::{Codec, Content, Encryption};
use super::manifest::Manifest;
use super::name::{ArchiveName, CompanionKind};
use super::problem::Problem;
use proxsave_proto::Digest;
use serde::{Deserialize, Serialize};
use std::os::fd::BorrowedFd;

/// How the files of a backup lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One tar with metadata, checksum and archive inside.
    Bundle,
    /// A loose archive with these companions beside it (at least one).
    Raw {
        /// In the order of [`CompanionKind`].
        companions: Vec<CompanionKind>,
    },
    /// A loose archive with nothing beside it.
    Bare,
}

/// A run of bytes in the described file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// What a backup file is, as found by parsing it. Everything in it is untrusted text, though typed and bounded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// How its files lie.
    pub layout: Layout,
    /// Base name of the archive itself: the member's in a bundle, else the file's.
    pub archive_name: Vec<u8>,
    /// What that name says, when it ends as archives do.
    pub name: Option<ArchiveName>,
    /// Where the archive's bytes are in the file.
    pub span: Span,
    /// What the archive's first bytes show.
    pub content: Content,
    /// The manifest or metadata.
    pub manifest: Option<Manifest>,
    /// The SHA-256 that the archive must have: of the manifest and the checksum file, which agree (else there is
    /// a fatal problem, and this is the manifest's).
    pub sha256: Option<Digest>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl Description {
    /// How it is encrypted: as its content shows.
    #[must_use]
    pub fn encryption(&self) -> Encryption {
        if self.content == Content::Age { Encryption::Age } else { Encryption::None }
    }

    /// The compression to expect below the encryption: what the name promises, else the manifest, else (of an
    /// archive that is not encrypted) the content. `None`: only the decrypted content will tell.
    #[must_use]
    pub fn codec(&self) -> Option<Codec> {
        let content = match self.content {
            Content::Packed(codec) => Some(codec),
            _ => None,
        };
        let named = self.name.as_ref().map(|name| name.codec);
        named.or_else(|| self.manifest.as_ref()?.codec()).or(content)
    }

    /// The host that was backed up.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        let manifest = self.manifest.as_ref().and_then(|manifest| manifest.hostname.as_deref());
        manifest.or_else(|| self.name.as_ref()?.host.as_deref())
    }

    /// The problems that forbid a restore.
    pub fn fatal(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.is_fatal())
    }

    /// The problems that an operator can accept.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| !problem.is_fatal())
    }
}

/// A file that could not be described at all. Holds no text of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MalformedBackup {
    /// The bundle's structure.
    #[error("it is not a readable bundle: {0}")]
    Bundle(BundleError),
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Neither by name nor by content a backup.
    #[error("it is no backup: neither its name nor its content is that of an archive")]
    NotBackup,
    /// Reading failed.
    #[error("it cannot be read: {0}")]
    Read(String),
}

/// What is to be described: descriptors open for reading, and the name the file has.
#[derive(Debug)]
pub struct DescribeInput<'a> {
    /// Base name of the file.
    pub name: &'a [u8],
    /// The bundle or the archive.
    pub archive: BorrowedFd<'a>,
    /// What lies beside it.
    pub companions: Vec<(CompanionKind, BorrowedFd<'a>)>,
}

/// Why a description was not given.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// The file is to blame.
    #[error(transparent)]
    Malformed(#[from] MalformedBackup),
    /// The decoder is: it could not be started, or ended.
    #[error("the decoder that reads untrusted files failed: {0}")]
    Decoder(String),
}

/// Whoever can describe a backup: the caged decoder child, by its handle in the main process.
pub trait Describe {
    /// Parses the file that the descriptors hold.
    ///
    /// # Errors
    /// [`DescribeError::Malformed`] for a file that is no backup, [`DescribeError::Decoder`] when the decoder fails.
    fn describe(&mut self, input: DescribeInput<'_>) -> Result<Description, DescribeError>;
}
