//! From the walked entries to the index: order, conflicts, links, directories, deduplication.

use super::dedup;
use super::error::DecodeError;
use super::index::{IndexEntry, IndexNode, Refused};
use super::tar::{Kind, Member};
use proxsave_proto::RelPath;
use proxsave_proto::digest::{Digest, Timestamp};
use proxsave_proto::plan::Meta;

/// Bytes of names and attributes that one index may hold, on either side of the socket.
pub const MAX_INDEX_BYTES: u64 = 1 << 30;
/// Notes (refused entries, left out attributes) that are kept.
const MAX_NOTES: usize = 100_000;
/// The file that the backup makes first: what is older was on the host before.
const MARKER: &[u8] = b".proxsave-marker";
/// Folders that the backup makes and fills itself; their metadata says nothing about the host.
const MADE_BY_BACKUP: [&[u8]; 2] = [b"var/lib/proxsave-info", b"var/lib/pve-cluster/info"];

/// Collects entries.
#[derive(Default)]
pub struct Builder {
    entries: Vec<IndexEntry>,
    /// Paths of refused entries: they conflict with others too.
    taken: Vec<RelPath>,
    refused: Vec<Refused>,
    left_out: Vec<Refused>,
    dedup: Option<Vec<dedup::Item>>,
    bytes: u64,
}

/// What the builder gives.
pub struct Built {
    /// Sorted by path.
    pub entries: Vec<IndexEntry>,
    /// In the archive's order.
    pub refused: Vec<Refused>,
    /// In the archive's order.
    pub left_out: Vec<Refused>,
}

impl Builder {
    /// Takes one entry; `sha256` is its content's, of a file.
    pub fn add(&mut self, member: Member, sha256: Digest) -> Result<(), DecodeError> {
        let attributes = member.attributes;
        let attribute_bytes: usize = attributes.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
        self.bytes += (member.name.len() + attribute_bytes) as u64 + 64;
        if self.bytes > MAX_INDEX_BYTES {
            return Err(too_large());
        }
        for attribute in &member.left_out {
            let why = format!("its attribute {} is not restored", proxsave_proto::escape::escape(attribute));
            note(&mut self.left_out, &member.name, why)?;
        }
        if let Some(why) = member.refused {
            note(&mut self.refused, &member.name, why)?;
            self.taken.push(member.path);
            return Ok(());
        }
        let meta = Meta {
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: Some(attributes.mtime),
            xattrs: attributes.xattrs,
        };
        let node = match member.kind {
            Kind::File { sparse } => {
                IndexNode::File { ordinal: member.ordinal, size: member.size, sha256, sparse, dedup: false, meta }
            }
            Kind::Dir => IndexNode::Dir { meta, true_entry: true },
            Kind::Symlink(target) => IndexNode::Symlink { target, meta },
            Kind::Hardlink(to) => IndexNode::Hardlink { to },
            Kind::Special => return Ok(()),
        };
        self.entries.push(IndexEntry { path: member.path, node });
        Ok(())
    }

    /// Takes the deduplication list.
    pub fn set_dedup(&mut self, items: Vec<dedup::Item>) {
        self.dedup = Some(items);
    }

    /// Checks entries against each other and works out what they stand for.
    pub fn finish(mut self) -> Result<Built, DecodeError> {
        // Equal paths are refused below, so their order does not matter; a stable sort would want room.
        self.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        self.check_conflicts()?;
        judge_directories(&mut self.entries);
        if let Some(items) = self.dedup.take() {
            for (path, why) in dedup::apply(&mut self.entries, items) {
                note(&mut self.refused, path.as_bytes(), why)?;
            }
        }
        self.resolve_hard_links()?;
        Ok(Built { entries: self.entries, refused: self.refused, left_out: self.left_out })
    }

    /// No path twice, nothing below what is not a directory.
    fn check_conflicts(&mut self) -> Result<(), DecodeError> {
        for pair in self.entries.windows(2) {
            let [first, second] = pair else { continue };
            if first.path == second.path {
                return Err(conflict(&first.path, "the archive holds this path twice"));
            }
            if !matches!(first.node, IndexNode::Dir { .. }) && second.path.starts_with(&first.path) {
                return Err(conflict(&second.path, "the archive holds something below a file or link"));
            }
        }
        let find = |path: &RelPath| find(&self.entries, path).ok().and_then(|at| self.entries.get(at));
        self.taken.sort();
        for (at, path) in self.taken.iter().enumerate() {
            let next = self.taken.get(at + 1);
            // What follows a refused path in order would be below it.
            let below = match find_or_next(&self.entries, path) {
                Some(entry) => entry.path.starts_with(path),
                None => false,
            };
            if below || next.is_some_and(|next| next.starts_with(path)) {
                return Err(conflict(path, "the archive holds this path twice, or something below it"));
            }
            let not_dir = |entry: &IndexEntry| !matches!(entry.node, IndexNode::Dir { .. });
            if path.ancestors().any(|above| find(&above).is_some_and(not_dir)) {
                return Err(conflict(path, "the archive holds something below a file or link"));
            }
        }
        Ok(())
    }

    /// Points each hard link at a file of the index; refuses those that point elsewhere.
    fn resolve_hard_links(&mut self) -> Result<(), DecodeError> {
        let mut wrong = Vec::new();
        for entry in &self.entries {
            if let IndexNode::Hardlink { to } = &entry.node {
                let target = find(&self.entries, to).ok().and_then(|at| self.entries.get(at));
                if !matches!(target.map(|target| &target.node), Some(IndexNode::File { .. })) {
                    wrong.push(entry.path.clone());
                }
            }
        }
        for path in &wrong {
            note(
                &mut self.refused,
                path.as_bytes(),
                "it is a hard link to something that is no file of the archive".into(),
            )?;
        }
        if !wrong.is_empty() {
            self.entries.retain(|entry| wrong.binary_search(&entry.path).is_err());
        }
        Ok(())
    }
}

/// Where a path is, or would be.
pub fn find(entries: &[IndexEntry], path: &RelPath) -> Result<usize, usize> {
    entries.binary_search_by(|entry| entry.path.cmp(path))
}

fn find_or_next<'a>(entries: &'a [IndexEntry], path: &RelPath) -> Option<&'a IndexEntry> {
    match find(entries, path) {
        Ok(at) | Err(at) => entries.get(at),
    }
}

/// Decides which directories carry the source host's metadata.
///
/// The public tool gives a directory its source's owner and mode only when it walked the directory itself or copied
/// something directly into it. Every other level is made on the way to something deeper, and stays 0750 root:root.
/// So, measured on its archives against the hosts they were made of, a directory is such a by-product when it
/// * is 0750 root:root, and
/// * holds no file or link directly, and
/// * is not older than the marker that each backup writes first (a walked empty directory keeps its time);
///
/// and so are the folders that the tool fills with its own reports. A real 0750 root:root directory that holds only
/// directories looks the same; taking it for a by-product is the safe side, since existing directories are then
/// left alone.
fn judge_directories(entries: &mut [IndexEntry]) {
    let marker = RelPath::from_archive(MARKER).ok().and_then(|path| find(entries, &path).ok());
    let began = marker.and_then(|at| entries.get(at)).and_then(|entry| entry.node.meta()).and_then(|meta| meta.mtime);
    // Directories that lead to the entry at hand, by position.
    let mut open: Vec<usize> = Vec::new();
    let mut holds_something = vec![false; entries.len()];
    for (at, entry) in entries.iter().enumerate() {
        while open.last().and_then(|dir| entries.get(*dir)).is_some_and(|dir| !entry.path.starts_with(&dir.path)) {
            open.pop();
        }
        if matches!(entry.node, IndexNode::Dir { .. }) {
            open.push(at);
        } else if let Some(dir) = open.last()
            && entries.get(*dir).map(|dir| dir.path.as_bytes()) == entry.path.parent().as_ref().map(RelPath::as_bytes)
            && let Some(flag) = holds_something.get_mut(*dir)
        {
            *flag = true;
        }
    }
    for (entry, holds) in entries.iter_mut().zip(holds_something) {
        let made_by_backup = MADE_BY_BACKUP
            .iter()
            .filter_map(|dir| RelPath::from_archive(dir).ok())
            .any(|dir| entry.path.starts_with(&dir));
        if let IndexNode::Dir { meta, true_entry } = &mut entry.node {
            *true_entry = !made_by_backup && (holds || !looks_made(meta) || is_older(meta.mtime, began));
        }
    }
}

fn looks_made(meta: &Meta) -> bool {
    meta.mode == 0o750 && meta.uid == 0 && meta.gid == 0
}

fn is_older(mtime: Option<Timestamp>, began: Option<Timestamp>) -> bool {
    matches!((mtime, began), (Some(mtime), Some(began)) if mtime < began)
}

fn note(list: &mut Vec<Refused>, name: &[u8], why: String) -> Result<(), DecodeError> {
    if list.len() >= MAX_NOTES {
        return Err(DecodeError::Format {
            name: Some(name.to_vec()),
            offset: 0,
            why: format!("more than {MAX_NOTES} entries or attributes cannot be restored"),
        });
    }
    list.push(Refused { name: name.to_vec(), why });
    Ok(())
}

fn conflict(path: &RelPath, why: &str) -> DecodeError {
    DecodeError::Format { name: Some(path.as_bytes().to_vec()), offset: 0, why: why.to_owned() }
}

/// The error for an index that is too large to hold.
pub fn too_large() -> DecodeError {
    DecodeError::Limit {
        what: "bytes of names and attributes".to_owned(),
        limit: MAX_INDEX_BYTES,
        option: "nothing: this limit is fixed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::from_archive(text.as_bytes()).unwrap()
    }

    fn dir(name: &str, mode: u16, gid: u32, secs: i64) -> IndexEntry {
        let meta = Meta { mode, uid: 0, gid, mtime: Timestamp::new(secs, 0), xattrs: vec![] };
        IndexEntry { path: path(name), node: IndexNode::Dir { meta, true_entry: true } }
    }

    fn link(name: &str, secs: i64) -> IndexEntry {
        let meta = Meta { mode: 0o777, uid: 0, gid: 0, mtime: Timestamp::new(secs, 0), xattrs: vec![] };
        IndexEntry { path: path(name), node: IndexNode::Symlink { target: b"x".to_vec(), meta } }
    }

    #[test]
    fn directories_made_on_the_way_are_told_from_real_ones() {
        let mut entries = [
            link(".proxsave-marker", 100),
            dir("a", 0o750, 0, 200),
            dir("a/b", 0o750, 0, 200),
            link("a/b/file", 1),
            dir("a/c", 0o750, 33, 200),
            dir("a/old", 0o750, 0, 50),
            dir("a/z", 0o750, 0, 200),
            dir("var/lib/proxsave-info/x", 0o755, 0, 200),
        ];
        judge_directories(&mut entries);
        let made: Vec<_> = entries
            .iter()
            .filter(|entry| matches!(entry.node, IndexNode::Dir { true_entry: false, .. }))
            .map(|entry| entry.path.to_string())
            .collect();
        assert_eq!(made, ["/a", "/a/z", "/var/lib/proxsave-info/x"]);
    }
}
