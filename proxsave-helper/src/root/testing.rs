//! Trees, mounts and plans for the tests of this crate. They run as root, like the helper.

use super::{Detail, Root, Seen, Walk};
use crate::check::Contents;
use proxsave_proto::category::{Mode, Roles};
use proxsave_proto::message::ProbeItem;
use proxsave_proto::plan::{AnchorBinding, ArchiveRef, Entry, Meta, Node, Origin, Plan, Xattr};
use proxsave_proto::state::{Blocked, Kind, Present, Target};
use proxsave_proto::{CategoryId, Digest, RelPath};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::from_archive(text.as_bytes()).unwrap()
}

/// A directory that goes with this value, as a root.
pub(crate) struct Tree {
    pub dir: tempfile::TempDir,
}

impl Tree {
    /// Makes directories (names that end in `/`) and files that hold their own name.
    pub fn new(names: &[&str]) -> Self {
        let tree = Self { dir: tempfile::tempdir().unwrap() };
        names.iter().for_each(|name| tree.add(name));
        tree
    }

    pub fn add(&self, name: &str) {
        let at = self.at(name);
        if name.ends_with('/') {
            std::fs::create_dir_all(at).unwrap();
        } else {
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, name).unwrap();
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn of(&self, path: &RelPath) -> PathBuf {
        self.dir.path().join(std::ffi::OsStr::from_bytes(path.as_bytes()))
    }

    pub fn link(&self, target: &str, name: &str) {
        std::os::unix::fs::symlink(target, self.at(name)).unwrap();
    }

    pub fn root(&self) -> Root {
        Root::open(self.dir.path()).unwrap()
    }

    /// Mounts a file system of a kind on a directory. Call [`own_mounts`] first.
    pub fn mount(&self, kind: &str, name: &str) {
        std::fs::create_dir_all(self.at(name)).unwrap();
        mount("none", self.at(name), kind, MountFlags::empty(), None).unwrap();
    }

    pub fn bind(&self, from: &str, to: &str) {
        mount_bind(self.at(from), self.at(to)).unwrap();
    }
}

/// Gives this test's thread a mount table of its own, which goes with the thread.
pub(crate) fn own_mounts() {
    crate::sys::unshare_mounts().expect("the tests of the helper run as root");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

pub(crate) fn full(hash_if_size: Option<u64>) -> Detail {
    Detail::Full { hash_if_size }
}

pub(crate) fn look(root: &Root, path: &RelPath, hash_if_size: Option<u64>) -> Seen {
    Walk::new(root).look(path, full(hash_if_size), &mut |_| true).unwrap()
}

pub(crate) fn blocked(root: &Root, name: &str) -> Option<Blocked> {
    match look(root, &path(name), None).target {
        Target::Blocked(blocked) => Some(blocked),
        _ => None,
    }
}

/// Reads files right here: what the prober does, without its process.
#[derive(Default)]
pub(crate) struct Here<'r> {
    pub root: Option<&'r Root>,
    pub looked: usize,
}

impl Contents for Here<'_> {
    fn knows(&self, _: &Present) -> bool {
        false
    }

    fn look(&mut self, items: &[ProbeItem]) -> Vec<Target> {
        self.looked += items.len();
        let root = self.root.unwrap();
        items.iter().map(|item| look(root, &item.path, item.hash_if_size).target).collect()
    }
}

pub(crate) fn meta(mode: u16, xattrs: &[&str]) -> Meta {
    let xattrs = xattrs.iter().map(|name| Xattr { name: name.as_bytes().to_vec(), value: b"v".to_vec() }).collect();
    Meta { mode, uid: 0, gid: 0, mtime: None, xattrs }
}

pub(crate) fn file(content: &[u8]) -> Node {
    let (size, sha256) = (content.len() as u64, Digest::of(content));
    Node::File { size, sha256, sparse: false, meta: meta(0o644, &[]) }
}

/// A plan for some targets, bound to the tree as it is, with the missing directories on the way made.
pub(crate) fn plan_for(root: &Root, targets: Vec<(RelPath, Node)>) -> Plan {
    let mut entries: Vec<Entry> = Vec::new();
    let mut anchors: Vec<AnchorBinding> = Vec::new();
    for (path, node) in targets {
        let category = CategoryId::of(&path).find(|id| id.is_written()).unwrap();
        let hash_if_size = match look(root, &path, None).target.present() {
            Some(present) if present.kind == Kind::File => Some(present.size),
            _ => None,
        };
        let target = look(root, &path, hash_if_size).target;
        let anchor = target.anchor().unwrap();
        let mut above: Vec<_> = path.ancestors().collect();
        above.reverse();
        let (standing, missing) = above.split_at(usize::from(anchor.depth) + 1);
        let binding = AnchorBinding {
            path: standing.last().unwrap().clone(),
            dev: anchor.dev,
            ino: anchor.ino,
            mount: anchor.mount,
        };
        anchors.push(binding);
        for dir in missing {
            let node = Node::Dir { meta: meta(0o755, &[]) };
            entries.push(Entry { path: dir.clone(), category, origin: Origin::Parent, node, before: None });
        }
        let before = target.present().cloned().map(Box::new);
        entries.push(Entry { path, category, origin: Origin::Archive, node, before });
    }
    anchors.sort_by(|a, b| a.path.cmp(&b.path));
    anchors.dedup();
    // Of an entry that is both made on the way and in the archive, the archive's.
    entries.sort_by(|a, b| a.path.cmp(&b.path).then((a.origin == Origin::Parent).cmp(&(b.origin == Origin::Parent))));
    entries.dedup_by(|later, first| later.path == first.path);
    let archive = ArchiveRef {
        sha256: Digest::of(b"archive"),
        name: b"a.tar".to_vec(),
        hostname: b"pve1".to_vec(),
        created_at: String::new(),
    };
    Plan {
        archive,
        mode: Mode::Custom,
        host: Roles::UNKNOWN,
        anchors,
        entries,
        exports: Vec::new(),
        services: Vec::new(),
        mounts: Vec::new(),
        applies: Vec::new(),
    }
}
