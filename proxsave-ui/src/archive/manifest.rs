//! What a backup says about itself: the JSON manifest, and the older `KEY=VALUE` metadata.
//!
//! Nothing here is signed, so nothing here is trusted: it helps to find and open a backup. Unknown fields are
//! ignored; a known field of the wrong type, or given twice, is an error that names it.

mod json;
mod legacy;

use super::codec::{Codec, Encryption};
use proxsave_proto::digest::Timestamp;
use proxsave_proto::{Digest, Roles};
use serde::{Deserialize, Serialize};

/// The largest manifest or metadata file that is read, in bytes. Real ones are below 1 KiB.
pub const MAX_MANIFEST: usize = 256 * 1024;
/// The longest text that a field may hold, in bytes.
const MAX_TEXT: usize = 4096;
/// The most items in a list.
const MAX_TARGETS: usize = 32;

/// What the manifest (or metadata) of a backup says. A field that it lacks is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// In which form it was written.
    pub form: ManifestForm,
    /// Absolute path of the archive when it was made.
    pub archive_path: Option<String>,
    /// Size of the archive in bytes.
    pub archive_size: Option<u64>,
    /// SHA-256 of the archive (of the encrypted one, if it is).
    pub sha256: Option<Digest>,
    /// When the backup was made.
    pub created_at: Option<Timestamp>,
    /// The compression as written.
    pub compression_type: Option<String>,
    /// Its level.
    pub compression_level: Option<i64>,
    /// `fast`, `standard`, `maximum`, `ultra`.
    pub compression_mode: Option<String>,
    /// `pve`, `pbs`, `dual`, `unknown`, as written.
    pub proxmox_type: Option<String>,
    /// The products that were backed up.
    pub proxmox_targets: Vec<String>,
    /// Version of the product.
    pub proxmox_version: Option<String>,
    /// Version of Proxmox VE.
    pub pve_version: Option<String>,
    /// Version of Proxmox Backup Server.
    pub pbs_version: Option<String>,
    /// The host's name.
    pub hostname: Option<String>,
    /// Version of the program that made the backup.
    pub script_version: Option<String>,
    /// The encryption as written (`age`; `none`, `plain` or nothing: not encrypted).
    pub encryption_mode: Option<String>,
    /// `cluster` or `standalone`.
    pub cluster_mode: Option<String>,
    /// The salt from which a passphrase's identity is derived, prefix included.
    pub passphrase_salt: Option<String>,
}

/// The form of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ManifestForm {
    /// JSON.
    Json,
    /// `KEY=VALUE` lines of the shell predecessor.
    Legacy,
}

/// Why a manifest could not be read. The reasons are one line, without the manifest's own text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not an object of the right fields and types.
    #[error("it is not a manifest in JSON (line {line}, column {column}: {reason})")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// A field whose value makes no sense.
    #[error("its field {field} {reason}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// Neither JSON nor `KEY=VALUE` lines with a known key.
    #[error("it is neither JSON nor lines of KEY=VALUE with a known key")]
    Unknown,
}

impl Manifest {
    /// Reads a `.manifest.json`, or the metadata in a bundle: JSON only. Its size is bounded where it is read.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse_json(data: &[u8]) -> Result<Self, ManifestError> {
        json::parse(data)
    }

    /// Reads a `.metadata` file: JSON, else `KEY=VALUE` lines.
    ///
    /// # Errors
    /// See [`ManifestError`]. What begins like a JSON object gets the JSON error.
    pub fn parse_metadata(data: &[u8]) -> Result<Self, ManifestError> {
        if data.trim_ascii_start().first() == Some(&b'{') { json::parse(data) } else { legacy::parse(data) }
    }

    /// The compression it names. `None` when it names none, or one that is not known.
    #[must_use]
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_compression_type(self.compression_type.as_deref()?)
    }

    /// The encryption it names. A JSON manifest without one means "not encrypted"; in legacy metadata the suffix
    /// decides, so nothing is said. `None` also for a spelling that is not known.
    #[must_use]
    pub fn encryption(&self) -> Option<Encryption> {
        match (self.encryption_mode.as_deref().map(str::trim), self.form) {
            (None | Some(""), ManifestForm::Legacy) => None,
            (None | Some(""), ManifestForm::Json) => Some(Encryption::None),
            (Some(mode), _) if mode.eq_ignore_ascii_case("age") => Some(Encryption::Age),
            (Some(mode), _) if mode.eq_ignore_ascii_case("none") || mode.eq_ignore_ascii_case("plain") => {
                Some(Encryption::None)
            }
            _ => None,
        }
    }

    /// The roles of the host that was backed up: the targets, else the type.
    #[must_use]
    pub fn roles(&self) -> Roles {
        let has = |role: &str| self.proxmox_targets.iter().any(|target| target.eq_ignore_ascii_case(role));
        let targets = Roles { pve: has("pve") || has("dual"), pbs: has("pbs") || has("dual") };
        if !targets.is_unknown() {
            return targets;
        }
        let key = self.proxmox_type.as_deref().unwrap_or_default().trim().to_ascii_lowercase();
        Roles::from_key(&key).unwrap_or_default()
    }

    /// The base name of the archive when it was made.
    #[must_use]
    pub fn archive_name(&self) -> Option<&str> {
        self.archive_path.as_deref()?.rsplit('/').next().filter(|name| !name.is_empty())
    }
}
