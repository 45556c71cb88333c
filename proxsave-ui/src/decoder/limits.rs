//! Bounds on what an archive may cost.

use serde::{Deserialize, Serialize};

/// Bounds on what one archive may cost. Each one that is passed is an error with the figure and the way to raise it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Entries in the archive, refused ones included.
    pub entries: u32,
    /// Bytes of one path or link target.
    pub path_bytes: u32,
    /// Bytes of the decompressed archive and, counted apart, of all file contents with holes filled in. The caller
    /// sets this to what is free where the contents are to go.
    pub plain_bytes: u64,
    /// Bytes of one extension header (PAX records, GNU long names).
    pub header_bytes: u32,
    /// Bytes of one companion: manifest, metadata or checksum file.
    pub manifest_bytes: u32,
    /// Bytes of the deduplication list inside the archive.
    pub dedup_bytes: u32,
    /// Decompressed bytes for each stored byte, beyond the first [`Limits::RATIO_FREE`] bytes.
    pub ratio: u32,
    /// Bytes of memory that a codec's window or dictionary may need.
    pub window_bytes: u64,
    /// Decompressed bytes up to which the child keeps the archive in memory, so that it is not decoded twice.
    pub keep_bytes: u64,
}

impl Limits {
    /// Decompressed bytes before the ratio counts: small, very regular archives are ordinary.
    pub const RATIO_FREE: u64 = 64 << 20;

    /// The most decompressed bytes that so many stored bytes may stand for.
    #[must_use]
    pub fn ratio_bytes(&self, stored: u64) -> u64 {
        stored.saturating_mul(self.ratio.into()).saturating_add(Self::RATIO_FREE)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            path_bytes: 4095,
            plain_bytes: u64::MAX,
            header_bytes: 1 << 20,
            manifest_bytes: 256 << 10,
            dedup_bytes: 16 << 20,
            ratio: 1000,
            window_bytes: 1 << 27,
            keep_bytes: 24 << 20,
        }
    }
}
