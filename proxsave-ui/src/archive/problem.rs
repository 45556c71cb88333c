//! What is wrong with a backup that could be described all the same.

use super::codec::{Codec, ContentMismatch, Encryption};
use super::name::CompanionKind;
use proxsave_proto::Digest;
use proxsave_proto::escape::Escaped;
use serde::{Deserialize, Serialize};

/// Something wrong with a backup. All are shown in lists; [`Problem::is_fatal`] says which forbid a restore.
///
/// Every companion that is there must be readable and agree with the others and with the archive. Disagreement is
/// fatal; a companion that is missing, malformed or under another name needs the operator's consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are what the messages say")]
pub enum Problem {
    /// No checksum anywhere.
    #[error("there is no checksum, neither in a manifest nor in a .sha256 file: damage cannot be noticed")]
    NoChecksum,
    /// No manifest and no metadata.
    #[error("there is no manifest: host and time are guessed from the file, the kind of host is not known")]
    NoManifest,
    /// Two checksums.
    #[error("the checksum file says {checksum}, the manifest {manifest}: one of them, or the archive, was replaced")]
    ChecksumsDisagree { checksum: Digest, manifest: Digest },
    /// The checksum file names another file.
    #[error("the checksum file is for \"{name}\"")]
    ChecksumForOther {
        /// Escaped, for it need not be UTF-8.
        name: String,
    },
    /// A companion that cannot be used.
    #[error("its {} cannot be used: {reason}", companion.suffix())]
    BadCompanion { companion: CompanionKind, reason: String },
    /// `.metadata` does not have the hash that `.metadata.sha256` says.
    #[error("the metadata does not have the checksum that .metadata.sha256 says")]
    MetadataChecksum,
    /// `.metadata` and `.manifest.json` say different things.
    #[error(".metadata and .manifest.json say different things of the same archive: one of them was changed")]
    ManifestsDiffer,
    /// Different archives.
    #[error(".metadata and .manifest.json are for different archives")]
    ManifestsForDifferentArchives,
    /// Size.
    #[error("the archive has {found} bytes, the manifest says {manifest}: it is cut short, or another file")]
    Size { found: u64, manifest: u64 },
    /// Name and manifest about encryption.
    #[error("its name says {name}, the manifest {manifest}")]
    EncryptionDisagrees { name: Encryption, manifest: Encryption },
    /// An encryption that is not known.
    #[error("the manifest names an encryption that is not known: \"{}\"", Escaped(mode.as_bytes()))]
    UnknownEncryption { mode: String },
    /// Content.
    #[error("the archive is not what it should be: {0}")]
    Content(ContentMismatch),
    /// Name and manifest about compression; the name's suffix is what counts.
    #[error("its name says {name}, the manifest {manifest}")]
    CodecDisagrees { name: Codec, manifest: Codec },
    /// A compression that is not known.
    #[error("the manifest names a compression that is not known: \"{}\"", Escaped(compression.as_bytes()))]
    UnknownCodec { compression: String },
    /// Host.
    #[error("its name says host \"{}\", the manifest \"{}\"", Escaped(name.as_bytes()), Escaped(manifest.as_bytes()))]
    HostDisagrees { name: String, manifest: String },
    /// It was renamed.
    #[error("it was called \"{}\" when it was made", Escaped(was.as_bytes()))]
    Renamed { was: String },
    /// No time.
    #[error("the manifest has no time; the file's own is shown")]
    NoTime,
    /// A bundle without its end mark.
    #[error("the bundle lacks the end mark of a tar: it may be cut short")]
    NoEndMark,
    /// Metadata of the shell predecessor.
    #[error("it has metadata of the older KEY=VALUE form, which has no time: the file's own is shown")]
    LegacyMetadata,
}

impl Problem {
    /// Whether a backup with this problem must not be restored, whatever the operator answers.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::ChecksumsDisagree { .. }
                | Self::MetadataChecksum
                | Self::ManifestsDiffer
                | Self::ManifestsForDifferentArchives
                | Self::Size { .. }
                | Self::EncryptionDisagrees { .. }
                | Self::UnknownEncryption { .. }
                | Self::Content(_)
        )
    }
}
