//! The real backups and what independent tools say is in them.

use proxsave_proto::{Digest, RelPath, Roles};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// One backup of the set.
#[derive(Debug, Clone, Deserialize)]
pub struct Fixture {
    /// Short name (`s01`).
    pub id: String,
    /// Its folder.
    pub dir: String,
    /// The file an operator names.
    pub archive: String,
    /// In words; see [`Fixture::secret`].
    pub encryption: String,
    /// `bundle` or `raw`.
    pub layout: String,
    /// The set's folder.
    #[serde(skip)]
    pub base: PathBuf,
}

/// What opens a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// Not encrypted.
    None,
    /// An identity file of the set (below `keys/`).
    Identity(&'static str),
    /// A passphrase.
    Passphrase(&'static str),
}

/// What an archive holds.
#[derive(Debug, Clone, Deserialize)]
pub struct Listing {
    /// Everything in it, in order.
    pub entries: Vec<Listed>,
    /// The manifest as parsed.
    pub metadata: serde_json::Value,
}

/// One entry.
#[derive(Debug, Clone, Deserialize)]
pub struct Listed {
    path: String,
    path_hex: Option<String>,
    link: Option<String>,
    link_hex: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    mtime: String,
    /// Bytes of a file.
    #[serde(default)]
    pub size: u64,
    sha256: Option<String>,
    /// The file that a deduplication link stands for.
    pub dedup: Option<Dedup>,
}

/// The file that a deduplication link stands for.
#[derive(Debug, Clone, Deserialize)]
pub struct Dedup {
    mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    sha256: String,
}

/// The set that ships with the project.
#[must_use]
pub fn shipped() -> Vec<Fixture> {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"))
}

/// The larger set, where `PROXSAVE_FIXTURES` names one.
#[must_use]
pub fn larger() -> Option<Vec<Fixture>> {
    std::env::var_os("PROXSAVE_FIXTURES").map(|dir| load(Path::new(&dir)))
}

/// The shipped backup of that short name.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn shipped_one(id: &str) -> Fixture {
    shipped().into_iter().find(|fixture| fixture.id == id).unwrap_or_else(|| panic!("no fixture {id}"))
}

fn load(base: &Path) -> Vec<Fixture> {
    let index = base.join("index.json");
    let text = std::fs::read(&index).unwrap_or_else(|why| panic!("{}: {why}", index.display()));
    let mut set: Vec<Fixture> = serde_json::from_slice(&text).expect("the set's index");
    for fixture in &mut set {
        fixture.base = base.to_path_buf();
    }
    set
}

impl Fixture {
    /// The folder's path.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.base.join(&self.dir)
    }

    /// What opens it.
    ///
    /// # Panics
    /// When the set's index says something new.
    #[must_use]
    pub fn secret(&self) -> Secret {
        match self.encryption.as_str() {
            "not encrypted" => Secret::None,
            text if text.contains("older passphrase") => Secret::Passphrase("Older.Phrase-2019"),
            text if text.contains("three recipients") || text.contains("X25519") => Secret::Identity("x25519.txt"),
            text if text.contains("ssh-ed25519") => Secret::Identity("ssh_ed25519"),
            text if text.contains("derived from the passphrase") => Secret::Passphrase("Staple-Battery-2026!"),
            other => panic!("no key known for {other}"),
        }
    }

    /// The listing.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn listing(&self) -> Listing {
        let path = self.folder().join(format!("{}.listing.json", self.archive));
        let text = std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        serde_json::from_slice(&text).expect("a listing")
    }
}

impl Listing {
    /// The host's roles as the backup's manifest gives them.
    #[must_use]
    pub fn roles(&self) -> Roles {
        Roles::from_key(self.metadata["proxmox_type"].as_str().unwrap_or("unknown")).unwrap_or(Roles::UNKNOWN)
    }

    /// Whether a directory entry may be one that the backup program made up: 0750 root:root and no file in it.
    #[must_use]
    pub fn may_be_artefact(&self, dir: &Listed) -> bool {
        let path = dir.rel();
        let has_file = || self.entries.iter().any(|e| e.kind() != "dir" && e.rel().parent().as_ref() == Some(&path));
        dir.kind() == "dir" && dir.mode() == 0o750 && (dir.uid, dir.gid) == (0, 0) && !has_file()
    }
}

impl Listed {
    /// The path as one of ours.
    ///
    /// # Panics
    /// When the listing is damaged.
    #[must_use]
    pub fn rel(&self) -> RelPath {
        let bytes = self.path_hex.as_deref().map_or_else(|| self.path.clone().into_bytes(), unhex);
        RelPath::from_archive(&bytes).expect("a listed path is relative")
    }

    /// `file`, `dir` or `symlink` (a deduplication link is a `file`).
    #[must_use]
    pub fn kind(&self) -> &str {
        if self.dedup.is_some() { "file" } else { &self.kind }
    }

    /// All twelve bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        let text = self.dedup.as_ref().map_or(&self.mode, |dedup| &dedup.mode);
        u32::from_str_radix(text, 8).expect("a listed mode is octal")
    }

    /// User and group.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        self.dedup.as_ref().map_or((self.uid, self.gid), |dedup| (dedup.uid, dedup.gid))
    }

    /// Hash of a file's content.
    ///
    /// # Panics
    /// When the listing is damaged.
    #[must_use]
    pub fn sha256(&self) -> Option<Digest> {
        let text = self.dedup.as_ref().map(|dedup| dedup.sha256.as_str()).or(self.sha256.as_deref())?;
        Some(Digest::from_hex(text).expect("a listed hash"))
    }

    /// A symbolic link's target.
    #[must_use]
    pub fn link(&self) -> Option<Vec<u8>> {
        match &self.link_hex {
            Some(hex) => Some(unhex(hex)),
            None => self.link.clone().map(String::into_bytes),
        }
    }

    /// Seconds, rounded down, and nanoseconds.
    ///
    /// # Panics
    /// When the listing is damaged.
    #[must_use]
    pub fn mtime(&self) -> (i64, i64) {
        let (negative, text) = match self.mtime.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, self.mtime.as_str()),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let secs: i64 = whole.parse().expect("listed seconds");
        let nanos: i64 = format!("{fraction:0<9}").parse().expect("listed nanoseconds");
        match (negative, nanos) {
            (false, _) => (secs, nanos),
            (true, 0) => (-secs, 0),
            (true, _) => (-secs - 1, 1_000_000_000 - nanos),
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).expect("hex") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_shipped_set_covers_every_form_and_is_small() {
        let set = shipped();
        assert_eq!(set.len(), 14);
        let names: String = set.iter().map(|f| f.archive.as_str()).collect();
        for part in [".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2", ".tar.lzma", ".tar.bundle.tar"] {
            assert!(names.contains(part), "{part}");
        }
        let words: BTreeSet<String> = set.iter().map(|f| format!("{:?}", f.secret())).collect();
        assert_eq!(words.len(), 5, "{words:?}");
        assert!(set.iter().any(|f| f.layout == "raw") && set.iter().any(|f| f.layout == "bundle"));
        let mut total = 0;
        let mut todo = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
            } else {
                total += path.metadata().unwrap().len();
            }
        }
        assert!(total <= 4 << 20, "{total} bytes of fixtures");
    }

    #[test]
    fn times_before_1970_round_down() {
        let mut listed = shipped_one("s26").listing().entries.remove(0);
        listed.mtime = "-1.25".into();
        assert_eq!(listed.mtime(), (-2, 750_000_000));
        listed.mtime = "12.5".into();
        assert_eq!(listed.mtime(), (12, 500_000_000));
    }
}
