//! What of a thing differs from what is there.

use crate::decoder::IndexNode;
use proxsave_proto::Digest;
use proxsave_proto::plan::{Meta, Node, Xattr};
use proxsave_proto::state::{Kind, Present};

const SET_ID: u16 = 0o6000;
const CAPABILITY: &[u8] = b"security.capability";

/// A way in which something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Aspect {
    /// Another kind of thing.
    Kind = 1,
    /// Another content.
    Content = 2,
    /// Other permission bits.
    Mode = 4,
    /// Another owner or group.
    Owner = 8,
    /// Another modification time (or one that is put back after writing in a directory).
    Time = 16,
    /// Another text of a symbolic link.
    Link = 32,
    /// Other extended attributes or access lists.
    Xattrs = 64,
    /// Not the same file under all its names.
    Names = 128,
}

/// A set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aspects(u8);

impl Aspect {
    const ALL: [Aspect; 8] = [
        Aspect::Kind,
        Aspect::Content,
        Aspect::Link,
        Aspect::Mode,
        Aspect::Owner,
        Aspect::Time,
        Aspect::Xattrs,
        Aspect::Names,
    ];

    /// The word for people and scripts.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Aspect::Kind => "type",
            Aspect::Content => "content",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Time => "time",
            Aspect::Link => "link",
            Aspect::Xattrs => "xattrs",
            Aspect::Names => "hard-links",
        }
    }
}

impl Aspects {
    /// The set with one more.
    #[must_use]
    pub fn with(self, aspect: Aspect) -> Self {
        Self(self.0 | aspect as u8)
    }

    /// Adds one when something holds.
    fn note(&mut self, differs: bool, aspect: Aspect) {
        if differs {
            *self = self.with(aspect);
        }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it holds one.
    #[must_use]
    pub fn has(self, aspect: Aspect) -> bool {
        self.0 & aspect as u8 != 0
    }

    /// The words, most telling first.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        Aspect::ALL.into_iter().filter(move |aspect| self.has(*aspect)).map(Aspect::key)
    }
}

/// What something is to become, whoever says so.
#[derive(Clone, Copy)]
pub(super) struct Goal<'a> {
    pub(super) kind: Kind,
    meta: &'a Meta,
    content: Option<(u64, Digest)>,
    link: Option<&'a [u8]>,
}

impl<'a> Goal<'a> {
    /// From the backup; `None` for a hard link, which has nothing of its own.
    pub(super) fn of_index(node: &'a IndexNode) -> Option<Self> {
        Some(match node {
            IndexNode::File { size, sha256, meta, .. } => {
                Self { kind: Kind::File, meta, content: Some((*size, *sha256)), link: None }
            }
            IndexNode::Dir { meta, .. } => Self { kind: Kind::Dir, meta, content: None, link: None },
            IndexNode::Symlink { target, meta } => {
                Self { kind: Kind::Symlink, meta, content: None, link: Some(target) }
            }
            IndexNode::Hardlink { .. } => return None,
        })
    }

    /// From a plan; `None` for a hard link.
    pub(super) fn of_plan(node: &'a Node) -> Option<Self> {
        Some(match node {
            Node::File { size, sha256, meta, .. } => {
                Self { kind: Kind::File, meta, content: Some((*size, *sha256)), link: None }
            }
            Node::Dir { meta } => Self { kind: Kind::Dir, meta, content: None, link: None },
            Node::Symlink { target, meta } => Self { kind: Kind::Symlink, meta, content: None, link: Some(target) },
            Node::Hardlink { .. } => return None,
        })
    }

    /// What of it differs from what is there. Without `privileged_bits` the helper drops set-id bits and file
    /// capabilities, so that they lack there is no difference: it would be one again after every restore.
    pub(super) fn differs(&self, there: &Present, privileged_bits: bool) -> Aspects {
        let mut found = Aspects::default();
        if self.kind != there.kind {
            return found.with(Aspect::Kind);
        }
        if let Some((size, sha256)) = self.content {
            // A probe without a hash says nothing about content: then it counts as different.
            found.note(size != there.size || there.sha256 != Some(sha256), Aspect::Content);
        }
        found.note(self.link.is_some() && self.link != there.link.as_deref(), Aspect::Link);
        // The mode of a symbolic link means nothing and cannot be set, nor can it carry these attributes.
        if self.kind != Kind::Symlink {
            let lacking = self.meta.mode & !there.mode;
            let other = if privileged_bits { self.meta.mode } else { self.meta.mode & !(lacking & SET_ID) };
            found.note(other != there.mode, Aspect::Mode);
            found.note(!self.has_xattrs(there, privileged_bits), Aspect::Xattrs);
        }
        found.note((self.meta.uid, self.meta.gid) != (there.uid, there.gid), Aspect::Owner);
        found.note(self.meta.mtime.is_some_and(|time| time != there.mtime), Aspect::Time);
        found
    }

    fn has_xattrs(&self, there: &Present, privileged_bits: bool) -> bool {
        let all = &self.meta.xattrs;
        if Xattr::digest(all) == there.xattrs {
            return true;
        }
        if privileged_bits || !all.iter().any(|xattr| xattr.name == CAPABILITY) {
            return false;
        }
        let kept: Vec<Xattr> = all.iter().filter(|xattr| xattr.name != CAPABILITY).cloned().collect();
        Xattr::digest(&kept) == there.xattrs
    }

    /// Whether it asks for a time.
    pub(super) fn has_time(&self) -> bool {
        self.meta.mtime.is_some()
    }
}
