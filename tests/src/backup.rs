//! Packages any bytes as a backup of the public tool: archive, checksum and manifest, loose or bundled.

use crate::tarball::Tar;
use proxsave_proto::Digest;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// How the bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// zstd.
    Zstd,
}

/// A backup to be written.
pub struct Backup {
    /// Host name.
    pub host: &'static str,
    /// `pve`, `pbs`, `dual`, `unknown`.
    pub kind: &'static str,
    /// Compression.
    pub codec: Codec,
    /// An age recipient (`age1...`), or none for a plain backup.
    pub recipient: Option<String>,
    /// Which companions lie beside it.
    pub layout: Layout,
    /// Goes into the archive's name and the manifest; two backups in a folder need two.
    pub second: u8,
}

/// Which files make up a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Archive, `.metadata`, `.manifest.json`, `.sha256`.
    Raw,
    /// Archive and `.manifest.json` only.
    ManifestOnly,
    /// Archive, `.sha256` and a `.metadata` of `KEY=VALUE` lines, as the shell predecessor wrote.
    Legacy,
    /// The archive alone.
    Bare,
    /// One bundle.
    Bundle,
    /// One bundle with the archive first.
    BundleOldOrder,
}

impl Default for Backup {
    fn default() -> Self {
        Self { host: "lab", kind: "pve", codec: Codec::Zstd, recipient: None, layout: Layout::Raw, second: 0 }
    }
}

impl Backup {
    /// Writes a backup of a tar stream into a folder; gives the path an operator would name.
    #[must_use]
    pub fn write(&self, dir: &Path, tar: &[u8]) -> PathBuf {
        let packed = match self.codec {
            Codec::None => tar.to_vec(),
            Codec::Zstd => zstd::encode_all(tar, 3).expect("compression in memory"),
        };
        self.write_packed(dir, &packed)
    }

    /// As [`Backup::write`], for a stream that is already compressed.
    #[must_use]
    pub fn write_packed(&self, dir: &Path, packed: &[u8]) -> PathBuf {
        let bytes = match &self.recipient {
            None => packed.to_vec(),
            Some(recipient) => encrypt(packed, recipient),
        };
        self.write_stored(dir, &bytes)
    }

    /// As [`Backup::write`], for the very bytes of the archive file.
    #[must_use]
    pub fn write_stored(&self, dir: &Path, bytes: &[u8]) -> PathBuf {
        let name = self.archive_name();
        let hash = Digest::of(bytes).to_string();
        let checksum = format!("{hash}  {name}\n");
        let manifest = self.manifest(&name, bytes.len(), &hash);
        let put = |suffix: &str, content: &[u8]| {
            let path = dir.join(format!("{name}{suffix}"));
            std::fs::write(&path, content).expect("a writable scratch folder");
            path
        };
        match self.layout {
            Layout::Raw => {
                put(".metadata", manifest.as_bytes());
                put(".manifest.json", manifest.as_bytes());
                put(".sha256", checksum.as_bytes());
                put("", bytes)
            }
            Layout::ManifestOnly => {
                put(".manifest.json", manifest.as_bytes());
                put("", bytes)
            }
            Layout::Legacy => {
                put(".metadata", self.legacy_metadata().as_bytes());
                put(".sha256", checksum.as_bytes());
                put("", bytes)
            }
            Layout::Bare => put("", bytes),
            Layout::Bundle | Layout::BundleOldOrder => {
                let mut tar = Tar::new();
                let members = [(".metadata", manifest.as_bytes()), (".sha256", checksum.as_bytes()), ("", bytes)];
                let order: &[usize] = if self.layout == Layout::Bundle { &[0, 1, 2] } else { &[2, 1, 0] };
                for index in order {
                    let (suffix, content) = members[*index];
                    tar.file(format!("{name}{suffix}"), content);
                }
                put(".bundle.tar", &tar.finish())
            }
        }
    }

    /// The archive's base name.
    #[must_use]
    pub fn archive_name(&self) -> String {
        let codec = match self.codec {
            Codec::None => "",
            Codec::Zstd => ".zst",
        };
        let age = if self.recipient.is_some() { ".age" } else { "" };
        format!("{}-backup-20260101-0000{:02}.tar{codec}{age}", self.host, self.second)
    }

    fn manifest(&self, name: &str, size: usize, hash: &str) -> String {
        let value = serde_json::json!({
            "archive_path": format!("/opt/proxsave/backup/{name}"),
            "archive_size": size,
            "sha256": hash,
            "created_at": format!("2026-01-01T00:00:{:02}.5Z", self.second),
            "compression_type": match self.codec { Codec::None => "none", Codec::Zstd => "zst" },
            "compression_level": 3,
            "proxmox_type": self.kind,
            "proxmox_targets": if self.kind == "dual" { vec!["pve", "pbs"] } else { vec![self.kind] },
            "hostname": self.host,
            "script_version": "0.30.0-beta7",
            "encryption_mode": if self.recipient.is_some() { "age" } else { "none" },
        });
        serde_json::to_string_pretty(&value).expect("plain JSON")
    }

    fn legacy_metadata(&self) -> String {
        format!(
            "# backup metadata\nCOMPRESSION_TYPE={}\nCOMPRESSION_LEVEL=3\nPROXMOX_TYPE={}\nHOSTNAME={}\n\
             SCRIPT_VERSION=3.2\nENCRYPTION_MODE={}\n",
            if self.codec == Codec::None { "none" } else { "zst" },
            self.kind,
            self.host,
            if self.recipient.is_some() { "age" } else { "plain" },
        )
    }
}

fn encrypt(bytes: &[u8], recipient: &str) -> Vec<u8> {
    let recipient: age::x25519::Recipient = recipient.parse().expect("an age recipient");
    let list: [&dyn age::Recipient; 1] = [&recipient];
    let encryptor = age::Encryptor::with_recipients(list.into_iter()).expect("one recipient");
    let mut out = Vec::new();
    let mut writer = encryptor.wrap_output(&mut out).expect("encryption in memory");
    writer.write_all(bytes).expect("encryption in memory");
    writer.finish().expect("encryption in memory");
    out
}
