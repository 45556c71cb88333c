//! Where each entry of a plan goes, worked out once: which existing directories must be open, which of them
//! need a mount of their own in the view, and what is staged inside what.

use proxsave_proto::plan::{Entry, Node, Plan, SENSITIVE};
use proxsave_proto::{Digest, RelPath};

/// The directory an entry is staged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the staging directory of an existing directory: a direct target, staged under its index.
    In(usize),
    /// In a new directory, which is that entry of the plan: staged under its own name.
    Under(usize),
    /// Nowhere: an existing directory, which only gets metadata. The slot is its own.
    Existing(usize),
}

/// An existing directory that the writer holds open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot<'p> {
    /// Its path.
    pub path: &'p RelPath,
    /// Where its descriptor comes from.
    pub from: From,
    /// Whether names are made in it, so that it gets a staging directory.
    pub stages: bool,
}

/// Where the descriptor of a slot comes from, before the view is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// The anchor of that index.
    Anchor(usize),
    /// The name of that entry, in the anchor of that index.
    Entry {
        /// The anchor.
        anchor: usize,
        /// The entry.
        entry: usize,
    },
}

/// The whole of it.
#[derive(Debug)]
pub(super) struct Layout<'p> {
    plan: &'p Plan,
    /// Sorted by path.
    pub slots: Vec<Slot<'p>>,
    places: Vec<u32>,
    /// Files with content, sorted by content and then index: the first of equals is the one that the stream
    /// carries.
    by_content: Vec<u32>,
}

/// Why a plan that passed its check has no layout: it did not pass it.
#[derive(Debug, thiserror::Error)]
#[error("the plan does not bind the directory of {0}")]
pub(super) struct Unbound(pub RelPath);

const IN: u32 = 1 << 30;
const EXISTING: u32 = 1 << 31;

impl<'p> Layout<'p> {
    pub(super) fn new(plan: &'p Plan) -> Result<Self, Unbound> {
        // Slots are first numbered as anchors (0..n) and then as existing directories that are no anchor.
        let mut stages = vec![false; plan.anchors.len()];
        let mut used = vec![false; plan.anchors.len()];
        let mut extra: Vec<Slot<'p>> = Vec::new();
        let mut raw: Vec<Place> = Vec::with_capacity(plan.entries.len());
        let mut open: Vec<usize> = Vec::new();
        let mut last: Option<(&RelPath, usize)> = None;
        for (index, entry) in plan.entries.iter().enumerate() {
            while open
                .last()
                .is_some_and(|dir| !plan.entries.get(*dir).is_some_and(|d| entry.path.starts_with(&d.path)))
            {
                open.pop();
            }
            let unbound = || Unbound(entry.path.clone());
            let new_parent = open.last().copied().filter(|dir| {
                plan.entries.get(*dir).is_some_and(|d| d.before.is_none() && is_parent(&d.path, &entry.path))
            });
            let place = if let Some(dir) = new_parent {
                Place::Under(dir)
            } else {
                // Neighbours share their directory: looked up once for all of them.
                let known =
                    last.filter(|(path, _)| dir_bytes(path) == dir_bytes(&entry.path)).map(|(_, anchor)| anchor);
                let found = known.or_else(|| find_anchor(plan, &entry.path.parent()?));
                let anchor = found.ok_or_else(unbound)?;
                last = Some((&entry.path, anchor));
                if entry.node.is_dir() && entry.before.is_some() {
                    match find_anchor(plan, &entry.path) {
                        Some(own) => {
                            set(&mut used, own);
                            Place::Existing(own)
                        }
                        None => {
                            let from = From::Entry { anchor, entry: index };
                            extra.push(Slot { path: &entry.path, from, stages: false });
                            Place::Existing(plan.anchors.len() + extra.len() - 1)
                        }
                    }
                } else {
                    set(&mut used, anchor);
                    set(&mut stages, anchor);
                    Place::In(anchor)
                }
            };
            raw.push(place);
            if entry.node.is_dir() {
                open.push(index);
            }
        }
        let anchors = plan.anchors.iter().enumerate().map(|(index, anchor)| Slot {
            path: &anchor.path,
            from: From::Anchor(index),
            stages: stages.get(index).copied().unwrap_or_default(),
        });
        let mut all: Vec<(usize, Slot<'p>)> = anchors.chain(extra).enumerate().collect();
        all.retain(|(number, _)| used.get(*number).copied().unwrap_or(true));
        all.sort_by(|a, b| a.1.path.cmp(b.1.path));
        let mut renumber = vec![0usize; plan.anchors.len() + raw.len()];
        for (new, (old, _)) in all.iter().enumerate() {
            if let Some(slot) = renumber.get_mut(*old) {
                *slot = new;
            }
        }
        let at = |old: usize| renumber.get(old).map_or(0, |new| *new as u32);
        let places = raw
            .into_iter()
            .map(|place| match place {
                Place::In(old) => IN | at(old),
                Place::Existing(old) => EXISTING | at(old),
                Place::Under(dir) => dir as u32,
            })
            .collect();
        let slots = all.into_iter().map(|(_, slot)| slot).collect();
        Ok(Self { plan, slots, places, by_content: by_content(plan) })
    }

    pub(super) fn place(&self, index: usize) -> Place {
        let raw = self.places.get(index).copied().unwrap_or(IN);
        let number = (raw & !(IN | EXISTING)) as usize;
        match raw {
            raw if raw & EXISTING != 0 => Place::Existing(number),
            raw if raw & IN != 0 => Place::In(number),
            _ => Place::Under(number),
        }
    }

    /// The slot whose staging directory an entry ends up below.
    pub(super) fn slot(&self, mut index: usize) -> usize {
        loop {
            match self.place(index) {
                Place::In(slot) | Place::Existing(slot) => return slot,
                Place::Under(dir) => index = dir,
            }
        }
    }

    /// The entry whose content the stream carries for this file: the lowest with the same content.
    pub(super) fn leader(&self, index: usize) -> Option<usize> {
        let key = content(self.plan.entries.get(index)?)?;
        let first = self.by_content.partition_point(|other| {
            self.plan.entries.get(*other as usize).and_then(content).is_some_and(|other| other < key)
        });
        self.by_content.get(first).map(|leader| *leader as usize)
    }

    /// The slots in which names are made, without those that another of them leads to on the same mount.
    pub(super) fn topmost_staging(&self, top_of: &[usize]) -> Vec<usize> {
        let mut found: Vec<usize> = Vec::new();
        // Those on the way to the current one, of whatever mount.
        let mut way: Vec<(&RelPath, usize)> = Vec::new();
        for (index, (slot, top)) in self.slots.iter().zip(top_of).enumerate().filter(|(_, (slot, _))| slot.stages) {
            while way.last().is_some_and(|(path, _)| !slot.path.starts_with(path)) {
                way.pop();
            }
            if !way.iter().any(|(_, other)| other == top) {
                way.push((slot.path, *top));
                found.push(index);
            }
        }
        found
    }

    /// How many contents the stream carries.
    pub(super) fn contents(&self) -> usize {
        let key = |index: &u32| self.plan.entries.get(*index as usize).and_then(content);
        self.by_content.chunk_by(|a, b| key(a) == key(b)).count()
    }
}

/// Sensitive names below a directory of the view which the plan does not hold, relative to that directory.
pub(super) fn sensitive<'a>(plan: &'a Plan, top: &'a RelPath) -> impl Iterator<Item = &'static [u8]> + 'a {
    SENSITIVE.iter().filter_map(move |text| {
        let path = RelPath::from_canonical(text.as_bytes()).ok()?;
        let next = plan.entries.partition_point(|entry| entry.path < path);
        let held = plan.entries.get(next).is_some_and(|entry| entry.path.starts_with(&path));
        (!held && path != *top && path.starts_with(top)).then(|| relative(top, text.as_bytes()))
    })
}

/// The rest of a path below a directory that it starts with.
pub(super) fn relative<'b>(dir: &RelPath, path: &'b [u8]) -> &'b [u8] {
    let skip = if dir.is_root() { 0 } else { dir.as_bytes().len() + 1 };
    path.get(skip..).unwrap_or_default()
}

/// The name of an entry in its directory.
pub(super) fn name(path: &RelPath) -> &[u8] {
    let bytes = path.as_bytes();
    bytes.iter().rposition(|b| *b == b'/').and_then(|slash| bytes.get(slash + 1..)).unwrap_or(bytes)
}

fn dir_bytes(path: &RelPath) -> &[u8] {
    let bytes = path.as_bytes();
    bytes.iter().rposition(|b| *b == b'/').and_then(|slash| bytes.get(..slash)).unwrap_or_default()
}

fn is_parent(dir: &RelPath, path: &RelPath) -> bool {
    dir_bytes(path) == dir.as_bytes()
}

fn find_anchor(plan: &Plan, path: &RelPath) -> Option<usize> {
    plan.anchors.binary_search_by(|anchor| anchor.path.cmp(path)).ok()
}

fn set(flags: &mut [bool], index: usize) {
    if let Some(flag) = flags.get_mut(index) {
        *flag = true;
    }
}

fn content(entry: &Entry) -> Option<(Digest, u64)> {
    match &entry.node {
        Node::File { size, sha256, .. } if *size > 0 => Some((*sha256, *size)),
        _ => None,
    }
}

fn by_content(plan: &Plan) -> Vec<u32> {
    let mut files: Vec<u32> =
        (0u32..).zip(&plan.entries).filter(|(_, e)| content(e).is_some()).map(|(i, _)| i).collect();
    files.sort_unstable_by_key(|index| (plan.entries.get(*index as usize).and_then(content), *index));
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxsave_proto::plan::{AnchorBinding, ArchiveRef, Meta, Origin};
    use proxsave_proto::state::{Kind, Present};
    use proxsave_proto::{CategoryId, Mode, Roles};

    fn path(text: &str) -> RelPath {
        RelPath::from_canonical(text.as_bytes()).unwrap()
    }

    fn meta() -> Meta {
        Meta { mode: 0o755, uid: 0, gid: 0, mtime: None, xattrs: Vec::new() }
    }

    fn standing() -> Box<Present> {
        let time = proxsave_proto::digest::Timestamp::new(0, 0).unwrap();
        let (sha256, link, xattrs) = (None, None, Digest::of(b""));
        let (kind, mode, uid, gid, size) = (Kind::Dir, 0o755, 0, 0, 0);
        Box::new(Present {
            kind,
            mode,
            uid,
            gid,
            size,
            mtime: time,
            ctime: time,
            dev: 1,
            ino: 1,
            nlink: 1,
            sha256,
            link,
            xattrs,
        })
    }

    /// Entries by spelling: `x/` a new directory, `x+/` one that stands, `x=c` a file with content c.
    fn plan(anchors: &[&str], entries: &[&str]) -> Plan {
        let entry = |text: &&str| {
            let (name, node, before) = match (text.strip_suffix("+/"), text.strip_suffix('/'), text.split_once('=')) {
                (Some(name), _, _) => (name, Node::Dir { meta: meta() }, Some(standing())),
                (_, Some(name), _) => (name, Node::Dir { meta: meta() }, None),
                (_, _, Some((name, content))) => {
                    let (size, sha256) = (content.len() as u64, Digest::of(content.as_bytes()));
                    (name, Node::File { size, sha256, sparse: false, meta: meta() }, None)
                }
                _ => panic!("{text}"),
            };
            Entry { path: path(name), category: CategoryId::Network, origin: Origin::Archive, node, before }
        };
        let anchor = |text: &&str| AnchorBinding { path: path(text), dev: 1, ino: 1, mount: 1 };
        Plan {
            archive: ArchiveRef { sha256: Digest::of(b""), name: vec![], hostname: vec![], created_at: String::new() },
            mode: Mode::Full,
            host: Roles::default(),
            anchors: anchors.iter().map(anchor).collect(),
            entries: entries.iter().map(entry).collect(),
            exports: vec![],
            services: vec![],
            mounts: vec![],
            applies: vec![],
        }
    }

    #[test]
    fn each_entry_has_its_place() {
        let plan = plan(
            &["", "a", "a/b", "z"],
            &["a+/", "a/b+/", "a/b/f=1", "a/b-x=2", "a/n/", "a/n/m/", "a/n/m/f=3", "a/o+/", "z/g=4"],
        );
        let layout = Layout::new(&plan).unwrap();
        let slots: Vec<_> = layout.slots.iter().map(|slot| (slot.path.to_string(), slot.stages)).collect();
        // The root is only the way to directories that stand: it is not opened at all.
        let expected = [("/a", true), ("/a/b", true), ("/a/o", false), ("/z", true)];
        assert_eq!(slots, expected.map(|(path, stages)| (path.to_owned(), stages)));
        let places: Vec<_> = (0..plan.entries.len()).map(|index| layout.place(index)).collect();
        use Place::{Existing, In, Under};
        let expected = [Existing(0), Existing(1), In(1), In(0), In(0), Under(4), Under(5), Existing(2), In(3)];
        assert_eq!(places, expected);
        assert_eq!((layout.slot(6), layout.slot(8)), (0, 3));
        assert_eq!(layout.topmost_staging(&[0, 0, 0, 1]), [0, 3]);
        assert_eq!(layout.topmost_staging(&[0, 1, 0, 2]), [0, 1, 3], "another mount is not led to");
    }

    #[test]
    fn only_where_names_are_made_is_a_place_to_make_names() {
        let plan = plan(&["", "etc/net"], &["etc+/", "etc/net/f=1"]);
        let layout = Layout::new(&plan).unwrap();
        assert_eq!(layout.slots.len(), 2);
        assert_eq!(layout.topmost_staging(&[0, 0]), [1], "metadata of /etc alone opens nothing in it");
    }

    #[test]
    fn an_unbound_directory_is_told() {
        let plan = plan(&["a"], &["a/f=1", "b/f=1"]);
        assert_eq!(Layout::new(&plan).unwrap_err().0, path("b/f"));
    }

    #[test]
    fn the_lowest_of_equal_contents_leads() {
        let plan = plan(&[""], &["a=x", "b=", "c=y", "d=x", "e=x", "f=y"]);
        let layout = Layout::new(&plan).unwrap();
        let leaders: Vec<_> = (0..6).map(|index| layout.leader(index)).collect();
        assert_eq!(leaders, [Some(0), None, Some(2), Some(0), Some(0), Some(2)]);
        assert_eq!(layout.contents(), 2);
    }

    #[test]
    fn sensitive_names_are_covered_unless_the_plan_holds_them() {
        let plan = plan(&["", "etc"], &["etc/cron.d/", "etc/cron.d/x=1", "etc/hosts=1"]);
        let names: Vec<&[u8]> = sensitive(&plan, &plan.anchors[1].path).collect();
        assert!(names.contains(&&b"shadow"[..]) && names.contains(&&b"sudoers.d"[..]));
        for run_by_root in ["logrotate.d", "rc.local", "anacrontab", "alternatives", "zfs", "update-motd.d"] {
            assert!(names.contains(&run_by_root.as_bytes()), "{run_by_root}");
        }
        assert!(!names.contains(&&b"cron.d"[..]), "the plan writes in it");
        assert!(!names.iter().any(|name| name.starts_with(b"usr")));
        let root: Vec<&[u8]> = sensitive(&plan, &plan.anchors[0].path).collect();
        assert!(root.contains(&&b"usr/bin"[..]) && root.contains(&&b"etc/shadow"[..]));
        let inside = path("etc/pam.d/x");
        assert_eq!(sensitive(&plan, &inside).count(), 0);
    }
}
