//! What a full restore of a listed backup has to leave behind, worked out from the listing and the category
//! table alone.

use crate::fixtures::{Listed, Listing};
use crate::snapshot::{Item, Snapshot};
use proxsave_proto::{CategoryId, RelPath, Roles};
use std::collections::{BTreeMap, BTreeSet};

/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// What the categories make of one entry on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Written below the root.
    Written,
    /// Exported.
    Exported,
    /// In no category that fits.
    Left,
}

/// The fate of a path in mode `full`.
#[must_use]
pub fn fate(path: &RelPath, host: Roles) -> Fate {
    let mut fate = Fate::Left;
    for category in CategoryId::of(path).filter(|category| category.fits(host)) {
        if category.is_written() {
            return Fate::Written;
        }
        fate = Fate::Exported;
    }
    fate
}

/// Everything that is not as it has to be in the root.
#[must_use]
pub fn faults_in_root(listing: &Listing, host: Roles, before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut faults = Vec::new();
    let listed: BTreeMap<RelPath, &Listed> = listing.entries.iter().map(|entry| (entry.rel(), entry)).collect();
    let mut named_in = BTreeSet::new();
    let mut ancestors = BTreeSet::new();
    for (path, entry) in &listed {
        if fate(path, host) != Fate::Written {
            continue;
        }
        ancestors.extend(path.ancestors());
        match after.get(path.as_bytes()) {
            None => faults.push(format!("{path}: not written")),
            Some(item) => {
                if before.get(path.as_bytes()).is_none_or(|old| old.kind != "dir") {
                    named_in.extend(path.parent());
                }
                let made_up = listing.may_be_artefact(entry);
                let what = match (made_up, before.get(path.as_bytes())) {
                    // Never a change to a directory that was there; else a plain one.
                    (true, Some(old)) => old.differs(item).into_iter().filter(|what| *what != "mtime").collect(),
                    (true, None) => plain_dir(item),
                    (false, _) => differs(entry, item),
                };
                if !what.is_empty() {
                    faults.push(format!("{path}: {} is not as in the archive: {item:?}", what.join(", ")));
                }
            }
        }
    }
    for change in before.changes(after) {
        let path = RelPath::from_archive(&change.path).expect("a path of the root");
        if listed.contains_key(&path) && fate(&path, host) == Fate::Written {
            continue;
        }
        let made = change.what == ["made"];
        if made && ancestors.contains(&path) {
            named_in.extend(path.parent());
            let item = after.get(path.as_bytes()).expect("it was made");
            let what = match listed.get(&path).filter(|entry| !listing.may_be_artefact(entry)) {
                Some(entry) => differs(entry, item).into_iter().filter(|what| *what != "mtime").collect(),
                None => plain_dir(item),
            };
            if !what.is_empty() {
                faults.push(format!("{path}: {} of a made parent is wrong: {item:?}", what.join(", ")));
            }
        } else if !(change.what == ["mtime"] && ancestors.contains(&path)) {
            faults.push(format!("{change:?}, which the restore had no business with"));
        }
    }
    faults.extend(after.leftovers().into_iter().map(|path| format!("left behind: {path}")));
    faults
}

/// Everything of the exported categories that is not below the export directory with its content.
#[must_use]
pub fn faults_in_export(listing: &Listing, host: Roles, export: &Snapshot) -> Vec<String> {
    let mut faults = Vec::new();
    for entry in &listing.entries {
        let path = entry.rel();
        if entry.kind() == "dir" || fate(&path, host) != Fate::Exported {
            continue;
        }
        let tail = [b"/", path.as_bytes()].concat();
        let found = export.0.iter().find(|(at, _)| at.as_slice() == path.as_bytes() || at.ends_with(&tail));
        match found {
            None => faults.push(format!("{path}: not exported")),
            Some((_, item)) if entry.kind() == "file" && item.sha256 != entry.sha256() => {
                faults.push(format!("{path}: exported with another content"));
            }
            Some((_, item)) if entry.kind() == "symlink" && item.kind == "symlink" && item.link != entry.link() => {
                faults.push(format!("{path}: exported with another link"));
            }
            Some(_) => {}
        }
    }
    faults
}

/// The fields in which an item is not as its entry says; set-id bits are dropped without a grant.
fn differs(entry: &Listed, item: &Item) -> Vec<&'static str> {
    if item.kind != entry.kind() {
        return vec!["kind"];
    }
    let is_file = item.kind == "file";
    let is_link = item.kind == "symlink";
    let mode = entry.mode() & !SET_ID;
    let wrong_mode = if is_file { item.mode != mode } else { item.mode & !SET_ID != mode };
    [
        ("mode", !is_link && wrong_mode),
        ("owner", (item.uid, item.gid) != entry.owner()),
        ("mtime", entry.dedup.is_none() && item.mtime != entry.mtime()),
        ("content", is_file && item.sha256 != entry.sha256()),
        ("link", is_link && item.link != entry.link()),
        ("nlink", item.nlink != 1),
    ]
    .into_iter()
    .filter_map(|(name, wrong)| wrong.then_some(name))
    .collect()
}

/// What is wrong with a directory that the restore made up itself.
fn plain_dir(item: &Item) -> Vec<&'static str> {
    let good = item.kind == "dir" && item.mode == 0o755 && (item.uid, item.gid) == (0, 0);
    if good { vec![] } else { vec!["kind, mode or owner"] }
}
