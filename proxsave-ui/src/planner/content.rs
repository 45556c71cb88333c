//! Which contents of the backup a plan needs.

use crate::decoder::{Index, IndexNode};
use proxsave_proto::plan::Node;
use proxsave_proto::{Digest, Plan, RelPath};
use std::collections::HashMap;

/// One content that goes into the helper's content stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The record's number in the stream: the lowest index among the plan's entries with this content.
    pub record: u32,
    /// Which content of the archive.
    pub ordinal: u32,
    /// Its bytes.
    pub size: u64,
}

/// The contents that a plan needs, each distinct one that is not empty once, sorted by the archive's order so that
/// one pass yields them.
///
/// # Errors
/// The first path whose content the backup does not hold: the plan was made from another one.
pub fn contents(plan: &Plan, index: &Index) -> Result<Vec<Content>, RelPath> {
    let mut needed: HashMap<(u64, Digest), Content> = HashMap::new();
    for (at, entry) in plan.entries.iter().enumerate() {
        if let Node::File { size, sha256, .. } = &entry.node
            && *size > 0
        {
            let record = u32::try_from(at).map_err(|_| entry.path.clone())?;
            needed.entry((*size, *sha256)).or_insert(Content { record, ordinal: u32::MAX, size: *size });
        }
    }
    for entry in &index.entries {
        if let IndexNode::File { ordinal, size, sha256, .. } = &entry.node
            && let Some(content) = needed.get_mut(&(*size, *sha256))
        {
            content.ordinal = content.ordinal.min(*ordinal);
        }
    }
    let mut found: Vec<Content> = needed.into_values().collect();
    found.sort_unstable_by_key(|content| (content.ordinal, content.record));
    match found.iter().find(|content| content.ordinal == u32::MAX) {
        Some(missing) => {
            Err(plan.entries.get(missing.record as usize).map_or_else(RelPath::root, |entry| entry.path.clone()))
        }
        None => Ok(found),
    }
}
