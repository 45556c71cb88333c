//! Why an archive could not be decoded.

use proxsave_proto::digest::Digest;
use proxsave_proto::escape::escape;
use serde::{Deserialize, Serialize};

/// Why an archive could not be decoded. Made by the child for the most part, so it can be sent; the texts are safe
/// to print.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum DecodeError {
    /// The operator gave up.
    #[error("cancelled")]
    Cancelled,
    /// The stored bytes are not those that the checksum names.
    #[error(
        "the archive is damaged or was changed: its SHA-256 is {found}, but {expected} is expected. Nothing of it \
         was used. Copy it again from where it was stored, or take another backup"
    )]
    WrongHash {
        /// What the manifest or checksum file says.
        expected: Digest,
        /// What the bytes hash to.
        found: Digest,
    },
    /// The bytes changed between two passes.
    #[error(
        "the archive changed while it was being used (its SHA-256 was {first}, then {second}); make sure that \
         nothing writes to it and start again"
    )]
    Changed {
        /// In the first pass.
        first: Digest,
        /// In the second.
        second: Digest,
    },
    /// It is encrypted and no identity was offered.
    #[error("the archive is encrypted with age; give an identity or a passphrase")]
    NeedsIdentity,
    /// No identity or passphrase fits.
    #[error("none of the identities and passphrases given opens this archive")]
    WrongIdentity,
    /// The identity side failed.
    #[error("the archive could not be opened: {}", escape(.0.as_bytes()))]
    Identity(String),
    /// The encryption's container is damaged.
    #[error("the encrypted container is damaged: {}", escape(.0.as_bytes()))]
    Encryption(String),
    /// The compression is damaged or not known.
    #[error("the {} compression is damaged or incomplete: {}", escape(.codec.as_bytes()), escape(.why.as_bytes()))]
    Compression {
        /// Which.
        codec: String,
        /// What its library says.
        why: String,
    },
    /// The tar stream breaks the profile (see [`super::tar`]).
    #[error("the archive is not one that is restored ({}at byte {offset} of the tar stream): {}", named(.name), escape(.why.as_bytes()))]
    Format {
        /// The entry, where one is known.
        name: Option<Vec<u8>>,
        /// Where in the decompressed stream.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A bound was passed.
    #[error("the archive has more {} than the limit of {limit}; if you trust it, raise {}", escape(.what.as_bytes()), escape(.option.as_bytes()))]
    Limit {
        /// What there is too much of, in the plural.
        what: String,
        /// The bound.
        limit: u64,
        /// The command-line option that raises it.
        option: String,
    },
    /// Reading the stored bytes failed.
    #[error("the archive could not be read: {}", escape(.0.as_bytes()))]
    Read(String),
    /// Writing decoded bytes failed.
    #[error("decoded data could not be passed on: {}", escape(.0.as_bytes()))]
    Write(String),
    /// The caller asked for something that the index does not have.
    #[error("a content was asked for that the archive does not hold (number {0})")]
    NoSuchContent(u32),
    /// A content or the decrypted archive was asked for before the first pass.
    #[error("the archive was not read yet")]
    NotIndexed,
    /// No sandbox is possible here.
    #[error("the decoder cannot be sandboxed on this system: {}", escape(.0.as_bytes()))]
    Sandbox(String),
    /// The child broke the protocol, or died.
    #[error("the decoder stopped unexpectedly ({}); the archive may be hostile. Nothing of it was used", escape(.0.as_bytes()))]
    Child(String),
}

fn named(name: &Option<Vec<u8>>) -> String {
    name.as_ref().map(|name| format!("{}, ", escape(name))).unwrap_or_default()
}
