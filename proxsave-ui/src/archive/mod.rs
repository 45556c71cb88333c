//! Backups as files: their names, their companions, what they say about themselves, and finding them.
//!
//! Two halves that never mix:
//!
//! * **Parsers** ([`name`], [`codec`], [`manifest`], [`checksum`], [`bundle`], [`describe`]) are pure functions
//!   of bytes, bounded in memory. They run inside the caged decoder child, because those bytes are untrusted.
//! * **[`mod@discover`] and [`mod@open`]** run in the main process. They look at directory listings and file names only, hand
//!   descriptors to whoever implements [`Describe`], and get a typed [`Description`] back.
//!
//! A backup is a *bundle* (one tar with metadata, checksum and archive inside), a *raw* archive with companion
//! files beside it, or a *bare* archive with none.

pub mod backup;
pub mod bundle;
pub mod checksum;
pub mod codec;
pub mod describe;
pub mod discover;
pub mod manifest;
pub mod name;
pub mod open;
mod problem;
mod read_at;
pub(crate) mod tar_header;

pub use backup::{Backup, TimeSource};
pub use codec::{Codec, Content, Encryption};
pub use describe::{Describe, DescribeError, DescribeInput, Description, Layout, MalformedBackup, Span};
pub use discover::{Bad, Found, Note, NoteKind, Place, SearchLimits, discover};
pub use manifest::{Manifest, ManifestForm};
pub use name::{ArchiveName, CompanionKind, FileKind};
pub use open::{OpenError, Opened, open};
pub use problem::Problem;
pub use read_at::ReadAt;

#[cfg(test)]
mod tests;
