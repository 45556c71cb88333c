//! The decoder: a caged child that decrypts, decompresses and parses.
//!
//! The main process of the front-end holds the operator's keys and the connection to the root helper, so it
//! never reads a byte that somebody else chose. [`Decoder::spawn`] starts this same program again with a hidden
//! word; the child cages itself (no capabilities, an empty Landlock domain, a short list of system
//! calls without `open`, `socket` or `exec`) and works on descriptors that it is handed over its socket:
//!
//! * [`Decoder::index`] reads the archive once: SHA-256 of the stored bytes, age, codec, tar, SHA-256 of each
//!   file. The [`Index`] is handed over only at the end, after the stored hash is the expected one.
//! * [`Decoder::extract`] reads it again (or serves it from memory when it was small), hashes it again, and
//!   writes the wanted contents as the records of the content stream (see [`proxsave_proto::message`]).
//! * [`Decoder::decrypt`] writes the compressed stream without the encryption.
//!
//! Keys stay with the parent: the child sends the header's stanzas, the parent answers with the file key.
//! The parent does not trust the child either: lengths and counts from it are checked against the [`Limits`].
//!
//! What an archive may hold is written down in [`tar`].

mod believed;
mod blocks;
mod build;
mod cage;
mod channel;
pub mod child;
mod codec;
mod dedup;
mod error;
mod index;
mod info;
mod limits;
mod opened;
mod parent;
mod passes;
mod plain;
mod protocol;
mod stored;
pub mod tar;
mod unpacked;

pub use crate::archive::Codec;
pub use error::DecodeError;
pub use index::{BackupInfo, Index, IndexEntry, IndexNode, Refused, RoleEvidence};
pub use limits::Limits;
pub use parent::{Decoder, Identities, OnProgress, Options, Source};
pub use protocol::DecodeProgress;
