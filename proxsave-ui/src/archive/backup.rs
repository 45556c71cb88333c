//! A backup as it is shown in a list and chosen.

use super::codec::Encryption;
use super::describe::Description;
use proxsave_proto::Roles;
use proxsave_proto::digest::Timestamp;
use std::path::PathBuf;

/// Where the time of a backup comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSource {
    /// The manifest.
    Manifest,
    /// The file's own modification time.
    File,
}

/// A backup that was found and described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The bundle or the archive.
    pub path: PathBuf,
    /// Label of the place where it was found ("local", "secondary"), or empty when it was named.
    pub source: String,
    /// Size of that file in bytes.
    pub size: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Where that time comes from.
    pub time_source: TimeSource,
    /// What parsing it told.
    pub description: Description,
}

impl Backup {
    /// The host that was backed up, untrusted text: escape before printing.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        self.description.hostname()
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.description.encryption() == Encryption::Age
    }

    /// The roles of the host that was backed up; unknown without a manifest.
    #[must_use]
    pub fn roles(&self) -> Roles {
        self.description.manifest.as_ref().map(|manifest| manifest.roles()).unwrap_or_default()
    }

    /// Whether it may be restored, as far as its files tell.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.description.fatal().next().is_none()
    }
}
