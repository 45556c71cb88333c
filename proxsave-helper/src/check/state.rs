//! Whether the tree is as the plan says: every anchor, every target.

use super::checked::bound_dir;
use super::{CheckedPlan, Contents, Refusals};
use crate::probe::SETTLED_SECS;
use crate::root::{Detail, DirId, Root, Seen, Walk};
use proxsave_proto::RelPath;
use proxsave_proto::digest::Timestamp;
use proxsave_proto::message::{ProbeItem, Refusal, Why};
use proxsave_proto::plan::Entry;
use proxsave_proto::state::{Blocked, Present, Target};

/// Looks at every target whose directory stands.
pub(super) fn check_entries(checked: &CheckedPlan, root: &Root, contents: &mut dyn Contents, refusals: &mut Refusals) {
    // Also of what is made below what the plan makes, which no walk reaches yet.
    for entry in &checked.plan().entries {
        let anchor = checked.anchor_of(&entry.path).and_then(|index| checked.anchors().get(index));
        if anchor.is_some_and(|anchor| root.is_guarded_on(&entry.path, anchor.id().mount)) {
            refusals.blocked(&entry.path, Blocked::Guarded);
        }
    }
    let mut unhashed = Vec::new();
    let mut walk = Walk::new(root);
    for entry in standing_entries(checked) {
        let known = entry.before.as_ref().is_some_and(|before| contents.knows(before));
        let (detail, scope) = if known { (Detail::Stat, Scope::Stat) } else { (FULL, Scope::Full) };
        let seen = match walk.look(&entry.path, detail, &mut |_| true) {
            Ok(seen) => seen,
            Err(error) => {
                refusals.failed(&error);
                continue;
            }
        };
        let same = compare(checked, entry, &seen, scope, refusals);
        if same && !known && entry.before.as_ref().is_some_and(|before| before.sha256.is_some()) {
            unhashed.push(entry);
        }
    }
    check_hashes(&unhashed, contents, refusals);
}

/// Looks once more, just before names are put in place: every anchor is still the same directory on the same
/// mount, and every target is unchanged. Names that staging made in anchors do not count as a change of those.
///
/// # Errors
/// Every difference found.
pub fn recheck(checked: &CheckedPlan, root: &Root, contents: &mut dyn Contents) -> Result<(), Vec<Refusal>> {
    let mut refusals = Refusals::default();
    if let Err(error) = root.refresh() {
        refusals.push(None, Why::Unreachable(format!("the mount table cannot be read: {error}")));
        return Err(refusals.0);
    }
    for binding in &checked.plan().anchors {
        // Dropped at once: only the comparison counts, the writer holds its own.
        drop(bound_dir(root, binding, &mut refusals));
    }
    let mut unhashed = Vec::new();
    let mut walk = Walk::new(root);
    for entry in standing_entries(checked) {
        let staged_in = is_anchor(checked, &entry.path);
        let (detail, scope) = match &entry.before {
            // Staging changed its times, so they prove nothing.
            Some(_) if staged_in => (FULL, Scope::StagedIn),
            Some(before) if is_settled(before.ctime, checked.began) => (Detail::Stat, Scope::Stat),
            _ => (FULL, Scope::Full),
        };
        let seen = match walk.look(&entry.path, detail, &mut |_| true) {
            Ok(seen) => seen,
            Err(error) => {
                refusals.failed(&error);
                continue;
            }
        };
        let same = compare(checked, entry, &seen, scope, &mut refusals);
        let hashed = entry.before.as_ref().is_some_and(|before| before.sha256.is_some());
        if same && hashed && scope == Scope::Full {
            unhashed.push(entry);
        }
    }
    check_hashes(&unhashed, contents, &mut refusals);
    if refusals.0.is_empty() { Ok(()) } else { Err(refusals.0) }
}

/// All but the content.
const FULL: Detail = Detail::Full { hash_if_size: None };

/// How much of a state is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// All but the content's hash, which is compared apart.
    Full,
    /// What `stat` tells; an old change time stands for attributes and content.
    Stat,
    /// A directory in which names were staged meanwhile: all but its times.
    StagedIn,
}

/// Whether a change time is so old that any later change shows in it, coarse clocks of file systems included.
fn is_settled(ctime: Timestamp, began: i64) -> bool {
    ctime.secs < began.saturating_sub(SETTLED_SECS)
}

/// The entries whose directory is there, rather than made by the plan: below what is absent nothing can be.
fn standing_entries(checked: &CheckedPlan) -> impl Iterator<Item = &Entry> {
    let made = |dir: &RelPath| checked.valid().entry(dir).is_some_and(|dir| dir.before.is_none());
    checked.plan().entries.iter().filter(move |entry| !entry.path.parent().is_some_and(|dir| made(&dir)))
}

fn is_anchor(checked: &CheckedPlan, path: &RelPath) -> bool {
    checked.plan().anchors.binary_search_by(|binding| binding.path.cmp(path)).is_ok()
}

/// Compares what was seen with what the plan says.
fn compare(checked: &CheckedPlan, entry: &Entry, seen: &Seen, scope: Scope, refusals: &mut Refusals) -> bool {
    let path = &entry.path;
    let changed = |refusals: &mut Refusals, text: String| {
        refusals.push(Some(path), Why::Changed(text));
        false
    };
    let anchor = match &seen.target {
        Target::Blocked(blocked) => {
            refusals.blocked(path, *blocked);
            return false;
        }
        Target::Absent(anchor) | Target::Present(anchor, _) => *anchor,
    };
    let parent = path.parent().unwrap_or_default();
    let index = checked.plan().anchors.binary_search_by(|binding| binding.path.cmp(&parent)).ok();
    let bound = index.and_then(|index| checked.plan().anchors.get(index));
    if bound.is_none_or(|b| DirId { dev: b.dev, ino: b.ino, mount: b.mount } != DirId::from(anchor)) {
        return changed(refusals, "its directory is another one now".to_owned());
    }
    match (&entry.before, seen.target.present()) {
        (None, None) => return true,
        (None, Some(_)) => return changed(refusals, "nothing was there, something is now".to_owned()),
        (Some(_), None) => return changed(refusals, "it is gone".to_owned()),
        (Some(before), Some(present)) => {
            let differences = differences(before, present, scope);
            if !differences.is_empty() {
                return changed(refusals, format!("different now: {}", differences.join(", ")));
            }
        }
    }
    if seen.mount != anchor.mount && !is_anchor(checked, path) {
        let text = "a file system is mounted on it; its metadata cannot be set without writing in it".to_owned();
        refusals.push(Some(path), Why::Unsupported(text));
        return false;
    }
    if seen.fixed {
        let text = "it is marked immutable or append-only (see lsattr)".to_owned();
        refusals.push(Some(path), Why::Unsupported(text));
        return false;
    }
    true
}

/// Names of the fields in which two states differ.
fn differences(before: &Present, now: &Present, scope: Scope) -> Vec<&'static str> {
    let times = scope != Scope::StagedIn;
    let attributes = scope != Scope::Stat;
    // Taken apart, so that a field that is added must be thought of here.
    let Present { kind, mode, uid, gid, size, mtime, ctime, dev, ino, nlink, sha256: _, link, xattrs } = before;
    [
        (*kind != now.kind, "kind"),
        (*mode != now.mode, "mode"),
        (*uid != now.uid, "owner"),
        (*gid != now.gid, "group"),
        (*size != now.size, "size"),
        (times && *mtime != now.mtime, "modification time"),
        (times && *ctime != now.ctime, "change time"),
        ((*dev, *ino) != (now.dev, now.ino), "inode"),
        (*nlink != now.nlink, "number of names"),
        (*link != now.link, "link target"),
        (attributes && *xattrs != now.xattrs, "extended attributes"),
    ]
    .into_iter()
    .filter_map(|(differs, name)| differs.then_some(name))
    .collect()
}

/// Hashes what this session does not know yet and compares all of it.
fn check_hashes(entries: &[&Entry], contents: &mut dyn Contents, refusals: &mut Refusals) {
    let item = |entry: &&Entry| ProbeItem {
        path: entry.path.clone(),
        hash_if_size: entry.before.as_ref().map(|before| before.size),
    };
    for batch in entries.chunks(proxsave_proto::message::MAX_PROBE) {
        let items: Vec<_> = batch.iter().map(item).collect();
        let targets = contents.look(&items);
        for (index, entry) in batch.iter().enumerate() {
            let path = Some(&entry.path);
            match targets.get(index) {
                Some(Target::Present(_, now)) if entry.before.as_ref() == Some(now) => {}
                Some(Target::Present(_, now)) if now.sha256.is_none() => {
                    refusals.push(path, Why::Changed("its content could not be verified in time".to_owned()));
                }
                Some(Target::Present(..)) => refusals.push(path, Why::Changed("different now: content".to_owned())),
                Some(Target::Absent(_)) => refusals.push(path, Why::Changed("it is gone".to_owned())),
                Some(Target::Blocked(blocked)) => refusals.blocked(&entry.path, *blocked),
                None => refusals.push(path, Why::Unreachable("it could not be examined".to_owned())),
            }
        }
    }
}
