//! Small backups and small hosts for tests.

use crate::decoder::{BackupInfo, Codec, Index, IndexEntry, IndexNode, RoleEvidence};
use proxsave_proto::digest::Timestamp;
use proxsave_proto::plan::{ArchiveRef, Meta, Xattr};
use proxsave_proto::state::{Anchor, Kind, Present, Target};
use proxsave_proto::{Digest, RelPath, Roles};
use std::collections::BTreeMap;

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::from_archive(text.as_bytes()).unwrap()
}

pub(crate) const TIME: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 5 };

pub(crate) fn meta(mode: u16) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: Some(TIME), xattrs: vec![] }
}

pub(crate) fn index(mut entries: Vec<IndexEntry>) -> Index {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Index {
        sha256: Digest::of(b"archive"),
        stored_bytes: 7,
        encrypted: false,
        codec: Codec::None,
        plain_bytes: 1024,
        entries,
        refused: vec![],
        left_out: vec![],
        roles: RoleEvidence { roles: Roles::DUAL, why: vec![] },
        info: BackupInfo::default(),
    }
}

pub(crate) fn archive() -> ArchiveRef {
    ArchiveRef {
        sha256: Digest::of(b"archive"),
        name: b"a.tar".to_vec(),
        hostname: b"pve1".to_vec(),
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    }
}

pub(crate) fn file_with(text: &str, content: &[u8], meta: Meta) -> IndexEntry {
    let ordinal = u32::try_from(text.len()).unwrap();
    let (size, sha256) = (content.len() as u64, Digest::of(content));
    IndexEntry { path: path(text), node: IndexNode::File { ordinal, size, sha256, sparse: false, dedup: false, meta } }
}

pub(crate) fn file(text: &str, content: &[u8]) -> IndexEntry {
    file_with(text, content, meta(0o644))
}

pub(crate) fn dir(text: &str, mode: u16) -> IndexEntry {
    IndexEntry { path: path(text), node: IndexNode::Dir { meta: meta(mode), true_entry: true } }
}

pub(crate) fn staged_dir(text: &str) -> IndexEntry {
    IndexEntry { path: path(text), node: IndexNode::Dir { meta: meta(0o750), true_entry: false } }
}

pub(crate) fn link(text: &str, target: &str) -> IndexEntry {
    IndexEntry { path: path(text), node: IndexNode::Symlink { target: target.into(), meta: meta(0o777) } }
}

pub(crate) fn hardlink(text: &str, to: &str) -> IndexEntry {
    IndexEntry { path: path(text), node: IndexNode::Hardlink { to: path(to) } }
}

/// A make-believe root that answers probes as the helper does.
#[derive(Default, Clone)]
pub(crate) struct Host(pub(crate) BTreeMap<RelPath, Present>);

impl Host {
    pub(crate) fn with(mut self, text: &str, there: Present) -> Self {
        let whole = path(text);
        let ino = 100 + self.0.len() as u64;
        for dir in whole.ancestors().filter(|dir| !dir.is_root()) {
            let ino = 1000 + self.0.len() as u64;
            self.0.entry(dir).or_insert(Present { ino, ..present(Kind::Dir, 0o755, b"") });
        }
        let ino = if there.ino == 0 { ino } else { there.ino };
        self.0.insert(whole, Present { ino, ..there });
        self
    }

    pub(crate) fn dir(self, text: &str, mode: u16) -> Self {
        self.with(text, present(Kind::Dir, mode, b""))
    }

    pub(crate) fn file(self, text: &str, content: &[u8]) -> Self {
        self.with(text, present(Kind::File, 0o644, content))
    }

    pub(crate) fn probe(&self, path: &RelPath) -> Target {
        use proxsave_proto::state::Blocked;
        let mut anchor = Anchor { depth: 0, dev: 1, ino: 2, mount: 3 };
        let mut way = RelPath::root();
        let names: Vec<&[u8]> = path.components().collect();
        for (depth, name) in names.iter().enumerate() {
            way = way.join(name).unwrap();
            let Some(there) = self.0.get(&way) else { return Target::Absent(anchor) };
            if depth + 1 == names.len() {
                return Target::Present(anchor, Box::new(there.clone()));
            }
            match there.kind {
                Kind::Dir => {}
                Kind::Symlink => return Target::Blocked(Blocked::SymlinkOnTheWay),
                _ => return Target::Blocked(Blocked::NotADirectory),
            }
            anchor = Anchor { depth: u16::try_from(depth + 1).unwrap(), ino: there.ino, ..anchor };
        }
        Target::Absent(anchor)
    }
}

/// Something that is as [`file`], [`dir`] or [`link`] make it.
pub(crate) fn present(kind: Kind, mode: u16, content: &[u8]) -> Present {
    Present {
        kind,
        mode,
        uid: 0,
        gid: 0,
        size: if kind == Kind::File { content.len() as u64 } else { 0 },
        mtime: TIME,
        ctime: TIME,
        dev: 1,
        ino: 0,
        nlink: 1,
        sha256: (kind == Kind::File).then(|| Digest::of(content)),
        link: (kind == Kind::Symlink).then(|| content.to_vec()),
        xattrs: Xattr::digest(&[]),
    }
}
