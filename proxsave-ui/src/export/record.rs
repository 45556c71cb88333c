//! The record of an export: what the backup says of each entry that the files themselves do not carry.

use crate::decoder::{Index, IndexNode};
use crate::planner::Exported;
use proxsave_proto::escape::escape;
use proxsave_proto::plan::Meta;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};

/// Writes the record: one JSON object, its entries one a line.
pub(super) fn write(file: File, index: &Index, entries: &[Exported]) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    let head = json!({
        "archive_sha256": index.sha256.to_string(),
        "note": "Exported for reading and for applying by hand. Nothing of this was applied to the host.",
    });
    // The object's entries are streamed, so its closing brace is taken off the head.
    let head = head.to_string();
    write!(out, "{},\"entries\":[", head.trim_end_matches('}'))?;
    for (at, export) in entries.iter().enumerate() {
        let Some(entry) = index.entries.get(export.entry as usize) else { continue };
        let (kind, meta, more) = match &entry.node {
            IndexNode::File { size, sha256, meta, .. } => {
                ("file", Some(meta), json!({"size": size, "sha256": sha256.to_string()}))
            }
            IndexNode::Dir { meta, true_entry } => ("directory", true_entry.then_some(meta), json!({})),
            IndexNode::Symlink { target, meta } => ("symlink", Some(meta), json!({"target": escape(target)})),
            IndexNode::Hardlink { to } => ("hard-link", None, json!({"to": escape(to.as_bytes())})),
        };
        let mut object = json!({
            "path": escape(entry.path.as_bytes()),
            "category": export.category.row().key,
            "type": kind,
        });
        if let Some(object) = object.as_object_mut() {
            for part in [more, meta.map(metadata).unwrap_or_default()] {
                object.extend(part.as_object().cloned().unwrap_or_default());
            }
        }
        write!(out, "{}\n{object}", if at == 0 { "" } else { "," })?;
    }
    out.write_all(b"\n]}\n")?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn metadata(meta: &Meta) -> Value {
    let xattrs: Vec<Value> =
        meta.xattrs.iter().map(|xattr| json!({"name": escape(&xattr.name), "value": escape(&xattr.value)})).collect();
    let mut object = json!({
        "mode": format!("{:04o}", meta.mode),
        "uid": meta.uid,
        "gid": meta.gid,
        "mtime": meta.mtime.map(|time| format!("{}.{:09}", time.secs, time.nanos)),
    });
    if !xattrs.is_empty()
        && let Some(object) = object.as_object_mut()
    {
        object.insert("xattrs".to_owned(), xattrs.into());
    }
    object
}
