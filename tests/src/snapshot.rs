//! A whole tree as values, and what differs between two.

use proxsave_proto::Digest;
use proxsave_proto::escape::escape;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// What is at one name. Two are equal when nothing that a restore could change differs; the inode number is
/// apart, as a file that is replaced by an equal one is a change that only it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// `file`, `dir`, `symlink`, `fifo`, `socket`, `char` or `block`.
    pub kind: &'static str,
    /// All twelve bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes (0 for directories, whose sizes mean nothing).
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Of a regular file's content.
    pub sha256: Option<Digest>,
    /// Of a symbolic link.
    pub link: Option<Vec<u8>>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Names of the inode (1 for directories, where it depends on the file system).
    pub nlink: u64,
    /// Inode number.
    pub ino: u64,
}

/// A tree: paths relative to its top (which is the empty path), as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot(pub BTreeMap<Vec<u8>, Item>);

/// One difference.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: Vec<u8>,
    /// What: `made`, `gone`, or the names of the fields that differ.
    pub what: Vec<&'static str>,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}: {}", escape(&self.path), self.what.join("+"))
    }
}

impl Snapshot {
    /// Looks at a tree, following nothing.
    ///
    /// # Panics
    /// When the tree cannot be read or changes meanwhile in a way that leaves no answer.
    #[must_use]
    pub fn of(top: &Path) -> Self {
        let mut snapshot = Self::default();
        let mut todo = vec![Vec::new()];
        while let Some(rel) = todo.pop() {
            let path = if rel.is_empty() { top.to_path_buf() } else { top.join(OsStr::from_bytes(&rel)) };
            let item = Item::of(&path);
            if item.kind == "dir" {
                for child in std::fs::read_dir(&path).expect("a readable folder") {
                    let mut name = rel.clone();
                    if !name.is_empty() {
                        name.push(b'/');
                    }
                    name.extend_from_slice(child.expect("a folder's entry").file_name().as_bytes());
                    todo.push(name);
                }
            }
            snapshot.0.insert(rel, item);
        }
        snapshot
    }

    /// What is at a path.
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<&Item> {
        self.0.get(path)
    }

    /// All that differs in `after`, inode numbers included.
    #[must_use]
    pub fn changes(&self, after: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (path, old) in &self.0 {
            match after.0.get(path) {
                None => changes.push(Change { path: path.clone(), what: vec!["gone"] }),
                Some(new) => {
                    let what = old.differs(new);
                    if !what.is_empty() {
                        changes.push(Change { path: path.clone(), what });
                    }
                }
            }
        }
        let made = after.0.keys().filter(|path| !self.0.contains_key(*path));
        changes.extend(made.map(|path| Change { path: path.clone(), what: vec!["made"] }));
        changes
    }

    /// The names that a transaction left behind.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let is_ours = |path: &&Vec<u8>| path.split(|b| *b == b'/').any(|name| name.starts_with(b".pxs-"));
        self.0.keys().filter(is_ours).map(|path| escape(path)).collect()
    }
}

impl Item {
    /// What is at a path.
    ///
    /// # Panics
    /// When nothing is there or it cannot be read.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let meta = path.symlink_metadata().unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        let kind = meta.file_type();
        let kind = if kind.is_file() {
            "file"
        } else if kind.is_dir() {
            "dir"
        } else if kind.is_symlink() {
            "symlink"
        } else if kind.is_fifo() {
            "fifo"
        } else if kind.is_socket() {
            "socket"
        } else if kind.is_char_device() {
            "char"
        } else {
            "block"
        };
        let is_dir = kind == "dir";
        Self {
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            size: if is_dir { 0 } else { meta.size() },
            mtime: (meta.mtime(), meta.mtime_nsec()),
            sha256: (kind == "file").then(|| Digest::of(&std::fs::read(path).expect("a readable file"))),
            link: (kind == "symlink")
                .then(|| std::fs::read_link(path).expect("a readable link").as_os_str().as_bytes().to_vec()),
            xattrs: xattrs(path),
            nlink: if is_dir { 1 } else { meta.nlink() },
            ino: meta.ino(),
        }
    }

    /// The fields in which another differs.
    #[must_use]
    pub fn differs(&self, other: &Self) -> Vec<&'static str> {
        [
            ("kind", self.kind != other.kind),
            ("mode", self.mode != other.mode),
            ("uid", self.uid != other.uid),
            ("gid", self.gid != other.gid),
            ("size", self.size != other.size),
            ("mtime", self.mtime != other.mtime),
            ("sha256", self.sha256 != other.sha256),
            ("link", self.link != other.link),
            ("xattrs", self.xattrs != other.xattrs),
            ("nlink", self.nlink != other.nlink),
            ("ino", self.ino != other.ino),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0u8; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    names.truncate(length);
    let mut found = BTreeMap::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 65536];
        if let Ok(length) = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]) {
            value.truncate(length);
            found.insert(name.to_vec(), value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn every_kind_of_change_shows() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("same"), "x").unwrap();
        std::fs::write(at("mode"), "x").unwrap();
        std::fs::write(at("gone"), "x").unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        let before = Snapshot::of(dir.path());
        assert_eq!(before.changes(&Snapshot::of(dir.path())), []);
        std::fs::set_permissions(at("mode"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::remove_file(at("gone")).unwrap();
        std::fs::write(at("dir/new"), "y").unwrap();
        std::fs::write(at(".pxs-1-0"), "z").unwrap();
        let after = Snapshot::of(dir.path());
        let text = format!("{:?}", before.changes(&after));
        for part in ["/mode: mode", "/gone: gone", "/dir/new: made", "/dir: mtime"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("/same"), "{text}");
        assert_eq!(after.leftovers(), [".pxs-1-0"]);
    }
}
