//! What the walker makes of a header and all that stands in front of it.

use proxsave_proto::RelPath;
use proxsave_proto::digest::Timestamp;
use proxsave_proto::plan::Xattr;

/// One effective entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number among the entries, from 0.
    pub ordinal: u32,
    /// Its name as stored.
    pub name: Vec<u8>,
    /// The same as a path; never the root.
    pub path: RelPath,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content, holes included.
    pub size: u64,
    /// Its metadata.
    pub attributes: Attributes,
    /// Attributes that are left out, by name.
    pub left_out: Vec<Vec<u8>>,
    /// Why this entry, and it alone, cannot be restored.
    pub refused: Option<String>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Stored with holes.
        sparse: bool,
    },
    /// A directory.
    Dir,
    /// A symbolic link with this text.
    Symlink(Vec<u8>),
    /// Another name for this path.
    Hardlink(RelPath),
    /// A device or FIFO; `refused` is set.
    Special,
}

/// Metadata of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Permission, set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Attributes to set, sorted by name.
    pub xattrs: Vec<Xattr>,
}

impl Member {
    /// Moves attributes that this kind of thing cannot have to those left out.
    pub(super) fn leave_out_impossible(&mut self) {
        let kind = self.kind.clone();
        let possible = |xattr: &Xattr| match (&kind, xattr.name.as_slice()) {
            (Kind::File { .. }, b"system.posix_acl_default") => false,
            (Kind::Dir, b"security.capability") => false,
            (Kind::File { .. } | Kind::Dir, _) => true,
            _ => false,
        };
        let (kept, out): (Vec<_>, Vec<_>) = std::mem::take(&mut self.attributes.xattrs).into_iter().partition(possible);
        self.attributes.xattrs = kept;
        self.left_out.extend(out.into_iter().map(|xattr| xattr.name));
    }
}
