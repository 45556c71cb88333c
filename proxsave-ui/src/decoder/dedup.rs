//! Files that the backup replaced by links to an equal one, made files again.

use super::build::find;
use super::error::DecodeError;
use super::index::{IndexEntry, IndexNode};
use proxsave_proto::RelPath;
use proxsave_proto::plan::Meta;
use serde::Deserialize;
use std::collections::HashMap;

/// Where the backup lists them.
pub const LIST: &[u8] = b"var/lib/proxsave-info/dedup_manifest.json";

/// One line of the list. Like every name in an archive it is checked before it is used.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    path: String,
    mode: u32,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// Reads the list.
pub fn parse(json: &[u8]) -> Result<Vec<Item>, DecodeError> {
    serde_json::from_slice(json).map_err(|error| DecodeError::Format {
        name: Some(LIST.to_vec()),
        offset: 0,
        why: format!("the list of deduplicated files is malformed ({error})"),
    })
}

/// Makes each listed link a file with the content of the file it points to. Gives the listed paths that cannot be;
/// their links are taken out, so that no link comes back where the host had a file.
pub fn apply(entries: &mut Vec<IndexEntry>, items: Vec<Item>) -> Vec<(RelPath, String)> {
    let lossy = lossy_links(entries, &items);
    let mut refused = Vec::new();
    let mut remove = Vec::new();
    let mut done = vec![false; entries.len()];
    for item in items {
        let Ok(path) = RelPath::from_archive(item.path.as_bytes()) else {
            let name = RelPath::from_archive(LIST).unwrap_or_default();
            refused.push((name, "it lists a file under a name that is not possible".to_owned()));
            continue;
        };
        let at = match lossy.get(item.path.as_str()).copied().or_else(|| find(entries, &path).ok()) {
            Some(at) => at,
            None => {
                refused.push((path, "it is listed as deduplicated, but the archive does not hold it".to_owned()));
                continue;
            }
        };
        let Some(flag) = done.get_mut(at).filter(|done| !**done) else {
            refused.push((path, "it is listed as deduplicated twice".to_owned()));
            continue;
        };
        *flag = true;
        match rebuilt(entries, at, &item) {
            Ok(node) => {
                if let Some(entry) = entries.get_mut(at) {
                    entry.node = node;
                }
            }
            Err(why) => {
                refused.push((entries.get(at).map_or(path, |entry| entry.path.clone()), why));
                remove.push(at);
            }
        }
    }
    if !remove.is_empty() {
        remove.sort_unstable();
        let mut at = 0;
        entries.retain(|_| {
            at += 1;
            remove.binary_search(&(at - 1)).is_err()
        });
    }
    refused
}

/// The file that the link at a position stands for.
fn rebuilt(entries: &[IndexEntry], at: usize, item: &Item) -> Result<IndexNode, String> {
    let entry = entries.get(at).ok_or("it is not in the archive")?;
    let IndexNode::Symlink { target, meta } = &entry.node else {
        return Err("it is listed as deduplicated, but is no link".to_owned());
    };
    let canonical = resolve(&entry.path, target).ok_or("its link does not stay inside the archive")?;
    let found = find(entries, &canonical).ok().and_then(|at| entries.get(at)).map(|entry| &entry.node);
    let Some(IndexNode::File { ordinal, size, sha256, sparse, dedup: false, .. }) = found else {
        return Err(format!("the file with its content ({canonical}) is not in the archive"));
    };
    let mode = u16::try_from(item.mode).ok().filter(|mode| *mode <= 0o7777).ok_or("its listed mode is not possible")?;
    let (uid, gid) = (item.uid.unwrap_or(meta.uid), item.gid.unwrap_or(meta.gid));
    if uid == u32::MAX || gid == u32::MAX {
        return Err("its listed owner or group is not possible".to_owned());
    }
    Ok(IndexNode::File {
        ordinal: *ordinal,
        size: *size,
        sha256: *sha256,
        sparse: *sparse,
        dedup: true,
        meta: Meta { mode, uid, gid, mtime: meta.mtime, xattrs: meta.xattrs.clone() },
    })
}

/// Where a relative link leads, by its text alone.
fn resolve(link: &RelPath, target: &[u8]) -> Option<RelPath> {
    if target.first() == Some(&b'/') {
        return None;
    }
    let mut at = link.parent()?;
    for part in target.split(|byte| *byte == b'/') {
        at = match part {
            b"" | b"." => at,
            b".." => at.parent()?,
            name => at.join(name).ok()?,
        };
    }
    Some(at)
}

/// Links by the spelling that the list can have: it is JSON, so the backup wrote U+FFFD for each byte of a name that
/// is not UTF-8. A spelling that two links share is not used.
fn lossy_links(entries: &[IndexEntry], items: &[Item]) -> HashMap<String, usize> {
    if !items.iter().any(|item| item.path.contains('\u{fffd}')) {
        return HashMap::new();
    }
    let mut links = HashMap::new();
    for (at, entry) in entries.iter().enumerate() {
        let name = entry.path.as_bytes();
        if matches!(entry.node, IndexNode::Symlink { .. }) && std::str::from_utf8(name).is_err() {
            let mut text = String::new();
            for chunk in name.utf8_chunks() {
                text.push_str(chunk.valid());
                text.extend(chunk.invalid().iter().map(|_| '\u{fffd}'));
            }
            links.entry(text).and_modify(|at| *at = None).or_insert(Some(at));
        }
    }
    links.into_iter().filter_map(|(text, at)| Some((text, at?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxsave_proto::Digest;

    fn path(name: &[u8]) -> RelPath {
        RelPath::from_archive(name).unwrap()
    }

    fn meta() -> Meta {
        Meta { mode: 0o644, uid: 7, gid: 8, mtime: None, xattrs: vec![] }
    }

    fn file(name: &[u8], ordinal: u32) -> IndexEntry {
        let node =
            IndexNode::File { ordinal, size: 1, sha256: Digest::of(b"x"), sparse: false, dedup: false, meta: meta() };
        IndexEntry { path: path(name), node }
    }

    fn link(name: &[u8], target: &[u8]) -> IndexEntry {
        IndexEntry { path: path(name), node: IndexNode::Symlink { target: target.to_vec(), meta: meta() } }
    }

    #[test]
    fn listed_links_become_files_and_what_cannot_is_named() {
        let mut entries = vec![
            file(b"a/one", 5),
            link(b"a/two", b"one"),
            link(b"b/\xff", b"../a/one"),
            link(b"b/climbs", b"../../etc"),
            link(b"b/dangles", b"nothing"),
            link(b"b/plain", b"../a/one"),
        ];
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let json = r#"[{"path":"a/two","mode":416,"uid":1},{"path":"b/\ufffd","mode":420},{"path":"b/climbs","mode":420},
            {"path":"b/dangles","mode":420},{"path":"c","mode":420},{"path":"a/two","mode":420},{"path":"../x","mode":1}]"#;
        let refused = apply(&mut entries, parse(json.as_bytes()).unwrap());
        assert_eq!(refused.len(), 5);
        let names: Vec<_> = entries.iter().map(|entry| entry.path.to_string()).collect();
        assert_eq!(names, ["/a/one", "/a/two", "/b/plain", "/b/\\xff"]);
        let IndexNode::File { ordinal: 5, dedup: true, meta, .. } = &entries[1].node else { panic!("no file") };
        assert_eq!((meta.mode, meta.uid, meta.gid), (0o640, 1, 8));
        assert!(matches!(entries[2].node, IndexNode::Symlink { .. }), "not listed: stays a link");
        assert!(matches!(entries[3].node, IndexNode::File { ordinal: 5, .. }));
    }

    #[test]
    fn a_list_with_unknown_fields_or_junk_is_refused() {
        assert!(parse(br#"[{"path":"a","mode":1,"run":"x"}]"#).is_err());
        assert!(parse(br#"{"path":"a"}"#).is_err());
        assert!(parse(br#"[{"path":"a","mode":-1}]"#).is_err());
    }
}
