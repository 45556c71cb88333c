//! File names of backups and of what lies beside them.
//!
//! An archive is `HOST-backup-YYYYMMDD-HHMMSS.tar[.CODEC][.age]`, time in the host's own zone; very old ones are
//! `proxmox-backup-*.tar.*`. Companions append `.metadata`, `.manifest.json`, `.sha256` or `.metadata.sha256` to
//! that, a bundle `.bundle.tar`; a file still being written ends in `.partial`.

use super::codec::{Codec, Encryption};
use serde::{Deserialize, Serialize};

/// What the name of an archive says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveName {
    /// The host, when the name has the usual form.
    pub host: Option<String>,
    /// `YYYYMMDD-HHMMSS` in the host's zone, when the name has the usual form.
    pub stamp: Option<String>,
    /// The compression that the suffix promises.
    pub codec: Codec,
    /// Whether it ends in `.age`.
    pub encryption: Encryption,
    /// Whether it is named as backups are, not just any tar.
    pub usual: bool,
}

/// A file beside an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompanionKind {
    /// `.manifest.json`: the authoritative manifest.
    ManifestJson,
    /// `.metadata`: a copy of the manifest, or the older `KEY=VALUE` form.
    Metadata,
    /// `.sha256`: the archive's checksum.
    Checksum,
    /// `.metadata.sha256`: the checksum of `.metadata`.
    MetadataChecksum,
}

/// What a file in a backup directory is, by its name alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A bundle.
    Bundle,
    /// An archive.
    Archive(ArchiveName),
    /// Something that belongs to the archive or bundle of the name in `of`.
    Companion {
        /// Which.
        kind: CompanionKind,
        /// Base name of the file that it belongs to.
        of: Vec<u8>,
    },
    /// A file whose writing has not ended.
    Partial,
    /// Not a backup.
    Other,
}

const BUNDLE: &[u8] = b".bundle.tar";
const AGE: &[u8] = b".age";
const CODECS: [(&[u8], Codec); 8] = [
    (b".tar.gz", Codec::Gzip),
    (b".tgz", Codec::Gzip),
    (b".tar.xz", Codec::Xz),
    (b".tar.zst", Codec::Zstd),
    (b".tar.zstd", Codec::Zstd),
    (b".tar.bz2", Codec::Bzip2),
    (b".tar.lzma", Codec::Lzma),
    (b".tar", Codec::None),
];

impl CompanionKind {
    /// All of them, the longest suffix first.
    pub const ALL: [Self; 4] = [Self::MetadataChecksum, Self::ManifestJson, Self::Metadata, Self::Checksum];

    /// What is appended to the archive's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::ManifestJson => ".manifest.json",
            Self::Metadata => ".metadata",
            Self::Checksum => ".sha256",
            Self::MetadataChecksum => ".metadata.sha256",
        }
    }
}

impl ArchiveName {
    /// Reads the base name of an archive. `None` when it does not end as archives do.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let (plain, encryption) = match name.strip_suffix(AGE) {
            Some(plain) => (plain, Encryption::Age),
            None => (name, Encryption::None),
        };
        let (stem, codec) = CODECS.iter().find_map(|(suffix, codec)| Some((plain.strip_suffix(*suffix)?, *codec)))?;
        if stem.is_empty() {
            return None;
        }
        let (host, stamp) = split_stem(stem).map_or((None, None), |(host, stamp)| (Some(host), Some(stamp)));
        let usual = host.is_some() || stem.starts_with(b"proxmox-backup-");
        Some(Self { host, stamp, codec, encryption, usual })
    }
}

/// Splits `HOST-backup-YYYYMMDD-HHMMSS`.
fn split_stem(stem: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(stem).ok()?;
    let (host, stamp) = text.rsplit_once("-backup-")?;
    let (day, time) = stamp.split_once('-')?;
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    (!host.is_empty() && digits(day, 8) && digits(time, 6)).then(|| (host.to_owned(), stamp.to_owned()))
}

impl FileKind {
    /// Says what a file is by its base name.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        if name.ends_with(b".partial") {
            return if is_main(name.strip_suffix(b".partial").unwrap_or(name)) { Self::Partial } else { Self::Other };
        }
        for kind in CompanionKind::ALL {
            if let Some(of) = name.strip_suffix(kind.suffix().as_bytes()) {
                return if is_main(of) { Self::Companion { kind, of: of.to_vec() } } else { Self::Other };
            }
        }
        if is_bundle(name) {
            return Self::Bundle;
        }
        ArchiveName::parse(name).map_or(Self::Other, Self::Archive)
    }
}

fn is_bundle(name: &[u8]) -> bool {
    name.strip_suffix(BUNDLE).is_some_and(|stem| !stem.is_empty())
}

/// Whether a name can be that of an archive or a bundle.
fn is_main(name: &[u8]) -> bool {
    is_bundle(name) || ArchiveName::parse(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn usual_names_are_taken_apart() {
        let name = ArchiveName::parse(b"pve1.lan-backup-20260720-031500.tar.xz.age").unwrap();
        assert_eq!(name.host.as_deref(), Some("pve1.lan"));
        assert_eq!(name.stamp.as_deref(), Some("20260720-031500"));
        assert_eq!((name.codec, name.encryption, name.usual), (Codec::Xz, Encryption::Age, true));
        let name = ArchiveName::parse(b"a-backup-b-backup-20260720-031500.tar").unwrap();
        assert_eq!(name.host.as_deref(), Some("a-backup-b"));
    }

    #[test]
    fn every_suffix_has_its_codec() {
        for (suffix, codec) in [
            ("tar", Codec::None),
            ("tar.gz", Codec::Gzip),
            ("tgz", Codec::Gzip),
            ("tar.xz", Codec::Xz),
            ("tar.lzma", Codec::Lzma),
            ("tar.bz2", Codec::Bzip2),
            ("tar.zst", Codec::Zstd),
            ("tar.zstd", Codec::Zstd),
        ] {
            let plain = format!("h-backup-20260720-031500.{suffix}");
            assert_eq!(ArchiveName::parse(plain.as_bytes()).unwrap().codec, codec, "{suffix}");
            let age = format!("{plain}.age");
            assert_eq!(ArchiveName::parse(age.as_bytes()).unwrap().encryption, Encryption::Age);
        }
        assert_eq!(ArchiveName::parse(b"h-backup-20260720-031500.zip"), None);
        assert_eq!(ArchiveName::parse(b".tar"), None);
    }

    #[test]
    fn unusual_archives_are_archives_still() {
        let vzdump = ArchiveName::parse(b"vzdump-lxc-100.tar.zst").unwrap();
        assert!(!vzdump.usual && vzdump.host.is_none());
        assert!(ArchiveName::parse(b"proxmox-backup-20200101.tar.gz").unwrap().usual);
        assert!(!ArchiveName::parse(b"h-backup-2026072x-031500.tar").unwrap().usual);
    }

    #[test]
    fn files_in_a_directory_are_told_apart() {
        let base = "h-backup-20260720-031500.tar.xz";
        let of = |suffix: &str| FileKind::of(format!("{base}{suffix}").as_bytes());
        assert!(matches!(of(""), FileKind::Archive(_)));
        assert_eq!(of(".bundle.tar"), FileKind::Bundle);
        assert_eq!(of(".decrypted.bundle.tar"), FileKind::Bundle);
        assert_eq!(of(".partial"), FileKind::Partial);
        assert_eq!(of(".bundle.tar.partial"), FileKind::Partial);
        for kind in CompanionKind::ALL {
            assert_eq!(of(kind.suffix()), FileKind::Companion { kind, of: base.as_bytes().to_vec() });
        }
        assert_eq!(of(".listing.json"), FileKind::Other);
        assert_eq!(FileKind::of(b"notes.metadata"), FileKind::Other);
        assert_eq!(FileKind::of(b"backup.env"), FileKind::Other);
        assert_eq!(FileKind::of(b".bundle.tar"), FileKind::Archive(ArchiveName::parse(b".bundle.tar").unwrap()));
    }

    proptest! {
        #[test]
        fn any_name_is_classified(name in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = FileKind::of(&name);
        }
    }
}
