//! Names of one file: which are written, and which of them carries the content.

use super::diff::{Aspect, Aspects};
use super::{Outcome, Wanted};
use crate::decoder::{Index, IndexNode};
use proxsave_proto::state::Target;
use std::collections::HashMap;

/// Decides for every file that has several names. Gives the entries that are written as another name for one of the
/// others (places in the list), and the hard links that become files of their own.
pub(super) fn settle(
    index: &Index,
    wanted: &mut [Wanted],
    targets: &[Option<Target>],
) -> (HashMap<usize, usize>, Vec<usize>) {
    let is_link = |want: &Wanted| {
        matches!(index.entries.get(want.entry as usize).map(|entry| &entry.node), Some(IndexNode::Hardlink { .. }))
    };
    // Files that have a second name in the selection, and all their names in it.
    let mut groups: HashMap<u32, Vec<usize>> = HashMap::new();
    for want in wanted.iter().filter(|want| is_link(want)) {
        groups.extend(want.file.map(|file| (file, Vec::new())));
    }
    for (at, want) in wanted.iter().enumerate() {
        let open = !matches!(want.outcome, Outcome::Refused(_) | Outcome::Unknown);
        if open && let Some(names) = want.file.and_then(|file| groups.get_mut(&file)) {
            names.push(at);
        }
    }
    let (mut writings, mut copies) = (HashMap::new(), Vec::new());
    for names in groups.values() {
        let own = names.iter().copied().find(|at| wanted.get(*at).is_some_and(|want| !is_link(want)));
        let Some(main) = own.or_else(|| names.first().copied()) else { continue };
        if own.is_none() {
            copies.push(main);
        }
        let inode = |at: usize| {
            targets.get(at).and_then(|target| target.as_ref()?.present()).map(|there| (there.dev, there.ino))
        };
        let joined = names.iter().all(|at| inode(*at).is_some() && inode(*at) == inode(main));
        let same = names.iter().all(|at| wanted.get(*at).is_some_and(|want| want.outcome == Outcome::Same));
        for &at in names {
            if at != main {
                writings.insert(at, main);
            }
            let Some(want) = wanted.get_mut(at) else { continue };
            want.outcome = match want.outcome {
                Outcome::Same if joined && same => Outcome::Same,
                Outcome::Same => Outcome::Changed(Aspects::default().with(Aspect::Names)),
                Outcome::Changed(how) if !joined => Outcome::Changed(how.with(Aspect::Names)),
                other => other,
            };
        }
    }
    copies.sort_unstable();
    (writings, copies)
}
