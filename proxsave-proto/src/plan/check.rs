//! The policy-free check of a plan.

use super::{
    Entry, MAX_ENTRIES, MAX_LINK, MAX_PLAN_BYTES, MAX_XATTR, MAX_XATTRS, Meta, Node, Origin, Plan, Xattr, guarded,
};
use crate::digest::Digest;
use crate::path::RelPath;
use crate::state::Kind;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// Put in front of the encoded plan when it is hashed, so that the hash of a plan is the hash of nothing else.
const HASH_DOMAIN: &[u8] = b"proxsave plan 1\0";
/// Reasons kept of a refused plan; more say nothing new.
const MAX_FAULTS: usize = 1000;

/// A plan that passed every check that needs neither policy nor the live tree.
///
/// It proves: entries and anchors are sorted and unique; every entry is in a category that a restore writes (or
/// is a directory on the way to one) and is not guarded; nothing lies below something that is not a directory;
/// every entry's directory is either bound as an anchor or made by the plan; hard links lead to files of the
/// plan; numbers are in range. It does NOT prove that the tree looks as the plan says, nor that anybody may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidPlan {
    plan: Plan,
    hash: Digest,
}

/// One thing wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {reason}", path.as_ref().map_or_else(|| "plan".to_owned(), ToString::to_string))]
pub struct Fault {
    /// The entry, or `None` for the plan as a whole.
    pub path: Option<RelPath>,
    /// What is wrong.
    pub reason: FaultReason,
}

/// Why a plan, or an entry of it, cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum FaultReason {
    /// The bytes are no plan.
    #[error("the bytes do not decode as a plan")]
    Malformed,
    /// The bytes decode, but are not the one encoding of what they decode to.
    #[error("the plan is not in its canonical encoding")]
    NotCanonical,
    /// Too large.
    #[error("the plan is larger than this version accepts")]
    TooLarge,
    /// Entries or anchors out of order or repeated.
    #[error("paths are repeated or out of order")]
    Order,
    /// The root itself.
    #[error("an entry cannot be the root itself")]
    Root,
    /// Not in the category it claims, or that category is not written by a restore.
    #[error("the path is not in a category that a restore writes")]
    Category,
    /// See [`guarded`].
    #[error("the path is guarded: no restore writes there")]
    Guarded,
    /// Something that is not a directory is on the way.
    #[error("the plan puts it below something that is not a directory")]
    BelowNonDirectory,
    /// Neither bound as existing nor made by the plan.
    #[error("its directory is neither bound as existing nor made by the plan")]
    UnboundParent,
    /// An anchor that nothing needs.
    #[error("an anchor is bound that no entry needs")]
    IdleAnchor,
    /// A parent that nothing needs.
    #[error("a directory is made that no entry needs")]
    IdleParent,
    /// See [`Meta::for_parent`].
    #[error(
        "a directory outside the chosen categories is only made root's or a system daemon's, writable by its owner alone"
    )]
    ParentMeta,
    /// A directory that stands would be replaced, or a directory put over something else.
    #[error("a directory is never replaced by something else, nor something else by a directory's entry")]
    KindOverKind,
    /// Devices, FIFOs, sockets stay.
    #[error("a device, FIFO or socket is there; it is never replaced")]
    OverSpecial,
    /// Mode above 07777.
    #[error("the mode has bits above 07777")]
    Mode,
    /// `chown` reads 2^32-1 as "leave".
    #[error("the owner or group 4294967295 cannot be set")]
    Owner,
    /// Nanoseconds out of range.
    #[error("the time has nanoseconds out of range")]
    Time,
    /// Empty, too long, or with NUL.
    #[error("the link's target is empty, too long or holds NUL")]
    LinkTarget,
    /// A hard link that does not lead to a file of the plan.
    #[error("a hard link must lead to a file that is itself written by the plan")]
    HardlinkTarget,
    /// Out of order, repeated, too large, or of a name that is not restored.
    #[error("an extended attribute is repeated, too large or of a kind that is not restored")]
    Xattr,
    /// More bytes than a 64-bit count.
    #[error("the sizes do not add up to a 64-bit number")]
    Size,
}

impl Plan {
    /// Checks everything that needs neither policy nor the live tree; see [`ValidPlan`] for what it proves.
    ///
    /// # Errors
    /// Every fault found (at most 1,000), never just the first.
    pub fn validate(self) -> Result<ValidPlan, Vec<Fault>> {
        let mut faults = Faults::default();
        if self.entries.len() > MAX_ENTRIES || self.anchors.len() > MAX_ENTRIES {
            faults.push(None, FaultReason::TooLarge);
            return Err(faults.0);
        }
        if !self.entries.is_sorted_by(|a, b| a.path < b.path) || !self.anchors.is_sorted_by(|a, b| a.path < b.path) {
            faults.push(None, FaultReason::Order);
            return Err(faults.0);
        }
        if self.entries.iter().try_fold(0u64, |sum, e| sum.checked_add(e.node.content_len())).is_none() {
            faults.push(None, FaultReason::Size);
        }
        for (index, entry) in self.entries.iter().enumerate() {
            self.check_entry(index, entry, &mut faults);
        }
        self.check_anchors(&mut faults);
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        let hash = self.hash();
        Ok(ValidPlan { plan: self, hash })
    }

    /// The one encoding: postcard.
    ///
    /// # Errors
    /// Never in practice: every part of a plan can be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }

    fn hash(&self) -> Digest {
        let mut hash = sha2::Sha256::new();
        hash.update(HASH_DOMAIN);
        // Encoding straight into the hash keeps a large plan from being held twice.
        let mut sink = HashSink(hash);
        let _ = postcard::to_io(self, &mut sink);
        Digest(sink.0.finalize().into())
    }

    fn find(&self, path: &RelPath) -> Option<&Entry> {
        self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok().and_then(|index| self.entries.get(index))
    }

    fn check_entry(&self, index: usize, entry: &Entry, faults: &mut Faults) {
        let mut fault = |reason| faults.push(Some(&entry.path), reason);
        let Some(parent) = entry.path.parent() else {
            fault(FaultReason::Root);
            return;
        };
        if guarded(&entry.path) {
            fault(FaultReason::Guarded);
        }
        let claimed = match entry.origin {
            Origin::Archive => entry.category.matches(&entry.path),
            Origin::Parent => true,
        };
        if !entry.category.is_written() || !claimed {
            fault(FaultReason::Category);
        }
        if entry.origin == Origin::Parent {
            // Sorted depth first: what is below follows at once.
            let next = self.entries.get(index + 1).filter(|next| next.path.starts_with(&entry.path));
            if next.is_none() || !entry.node.is_dir() || entry.before.is_some() {
                fault(FaultReason::IdleParent);
            }
            // Parents in a row end at an entry of the archive, which is in that category by itself.
            if next.is_some_and(|next| next.category != entry.category) {
                fault(FaultReason::Category);
            }
            if let Node::Dir { meta } = &entry.node
                && !entry.category.matches(&entry.path)
                && meta.clone().for_parent() != *meta
            {
                fault(FaultReason::ParentMeta);
            }
        }
        match self.find(&parent) {
            Some(dir) if !dir.node.is_dir() => fault(FaultReason::BelowNonDirectory),
            Some(dir) if dir.before.is_none() => {
                if entry.before.is_some() {
                    fault(FaultReason::UnboundParent);
                }
            }
            _ if self.has_anchor(&parent) => {}
            _ => fault(FaultReason::UnboundParent),
        }
        if let Some(before) = &entry.before {
            match (entry.node.is_dir(), before.kind) {
                (_, Kind::Special) => fault(FaultReason::OverSpecial),
                (is_dir, kind) if is_dir != (kind == Kind::Dir) => fault(FaultReason::KindOverKind),
                _ => {}
            }
        }
        match &entry.node {
            Node::Symlink { target, .. } if target.is_empty() || target.len() > MAX_LINK || target.contains(&0) => {
                fault(FaultReason::LinkTarget);
            }
            Node::Hardlink { to } if !matches!(self.find(to).map(|e| &e.node), Some(Node::File { .. })) => {
                fault(FaultReason::HardlinkTarget);
            }
            _ => {}
        }
        if let Some(meta) = entry.node.meta() {
            check_meta(meta, &mut fault);
        }
    }

    fn has_anchor(&self, path: &RelPath) -> bool {
        self.anchors.binary_search_by(|anchor| anchor.path.cmp(path)).is_ok()
    }

    fn check_anchors(&self, faults: &mut Faults) {
        let mut needed: Vec<RelPath> = self.entries.iter().filter_map(|entry| entry.path.parent()).collect();
        needed.sort_unstable();
        needed.dedup();
        for anchor in &self.anchors {
            if needed.binary_search(&anchor.path).is_err() {
                faults.push(Some(&anchor.path), FaultReason::IdleAnchor);
            }
            if let Some(entry) = self.find(&anchor.path)
                && (entry.before.is_none() || !entry.node.is_dir())
            {
                faults.push(Some(&anchor.path), FaultReason::IdleAnchor);
            }
        }
    }
}

fn check_meta(meta: &Meta, fault: &mut impl FnMut(FaultReason)) {
    if meta.mode > 0o7777 {
        fault(FaultReason::Mode);
    }
    if meta.uid == u32::MAX || meta.gid == u32::MAX {
        fault(FaultReason::Owner);
    }
    if meta.mtime.is_some_and(|time| time.nanos >= 1_000_000_000) {
        fault(FaultReason::Time);
    }
    let good = |xattr: &Xattr| Xattr::is_restorable(&xattr.name) && xattr.value.len() <= MAX_XATTR;
    if meta.xattrs.len() > MAX_XATTRS {
        fault(FaultReason::TooLarge);
    }
    if !meta.xattrs.is_sorted_by(|a, b| a.name < b.name) || !meta.xattrs.iter().all(good) {
        fault(FaultReason::Xattr);
    }
}

impl ValidPlan {
    /// Decodes and checks the bytes of a plan.
    ///
    /// # Errors
    /// Every fault found.
    pub fn decode(bytes: &[u8]) -> Result<Self, Vec<Fault>> {
        let whole = |reason| vec![Fault { path: None, reason }];
        if bytes.len() as u64 > MAX_PLAN_BYTES {
            return Err(whole(FaultReason::TooLarge));
        }
        let (plan, rest) = postcard::take_from_bytes::<Plan>(bytes).map_err(|_| whole(FaultReason::Malformed))?;
        if !rest.is_empty() {
            return Err(whole(FaultReason::Malformed));
        }
        let mut compare = CompareSink(bytes);
        if postcard::to_io(&plan, &mut compare).is_err() || !compare.0.is_empty() {
            return Err(whole(FaultReason::NotCanonical));
        }
        plan.validate()
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The plan, given back.
    #[must_use]
    pub fn into_plan(self) -> Plan {
        self.plan
    }

    /// Its hash: SHA-256 over `"proxsave plan 1\0"` and the encoding.
    #[must_use]
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// How many bytes the content stream carries.
    #[must_use]
    pub fn content_len(&self) -> u64 {
        self.plan.entries.iter().map(|entry| entry.node.content_len()).sum()
    }

    /// The entry at a path.
    #[must_use]
    pub fn entry(&self, path: &RelPath) -> Option<&Entry> {
        self.plan.find(path)
    }
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn push(&mut self, path: Option<&RelPath>, reason: FaultReason) {
        if self.0.len() < MAX_FAULTS {
            self.0.push(Fault { path: path.cloned(), reason });
        }
    }
}

struct HashSink(sha2::Sha256);

impl std::io::Write for HashSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Accepts exactly the bytes it holds.
struct CompareSink<'a>(&'a [u8]);

impl std::io::Write for CompareSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(std::io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::category::{CategoryId, Mode, Roles};
    use crate::digest::Timestamp;
    use crate::plan::{AnchorBinding, ArchiveRef};
    use crate::state::Present;
    use proptest::prelude::*;

    fn path(text: &str) -> RelPath {
        RelPath::from_archive(text.as_bytes()).unwrap()
    }

    fn meta(mode: u16) -> Meta {
        Meta { mode, uid: 0, gid: 0, mtime: Timestamp::new(1, 5), xattrs: vec![] }
    }

    fn file(text: &str) -> Entry {
        let node = Node::File { size: 3, sha256: Digest::of(b"abc"), sparse: false, meta: meta(0o644) };
        Entry { path: path(text), category: CategoryId::Ssh, origin: Origin::Archive, node, before: None }
    }

    fn dir(text: &str, origin: Origin) -> Entry {
        Entry { node: Node::Dir { meta: meta(0o755) }, origin, ..file(text) }
    }

    fn present(kind: Kind) -> Option<Box<Present>> {
        let zero = Timestamp { secs: 0, nanos: 0 };
        Some(Box::new(Present {
            kind,
            mode: 0o600,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: zero,
            ctime: zero,
            dev: 1,
            ino: 2,
            nlink: 1,
            sha256: None,
            link: None,
            xattrs: Xattr::digest(&[]),
        }))
    }

    fn plan(entries: Vec<Entry>, anchors: &[&str]) -> Plan {
        let archive = ArchiveRef {
            sha256: Digest::of(b""),
            name: b"a.tar".to_vec(),
            hostname: b"pve1".to_vec(),
            created_at: "2026-01-01T00:00:00Z".to_owned(),
        };
        let bind = |text: &&str| AnchorBinding { path: path(text), dev: 1, ino: 2, mount: 3 };
        Plan {
            archive,
            mode: Mode::Full,
            host: Roles::UNKNOWN,
            anchors: anchors.iter().map(bind).collect(),
            entries,
            exports: vec![],
            services: vec![],
            mounts: vec![],
            applies: vec![],
        }
    }

    fn reasons(plan: Plan) -> Vec<FaultReason> {
        plan.validate().err().unwrap_or_default().into_iter().map(|fault| fault.reason).collect()
    }

    fn good() -> Plan {
        let mut existing = dir("etc/ssh", Origin::Archive);
        existing.before = present(Kind::Dir);
        let made = dir("root", Origin::Parent);
        let made_too = dir("root/.ssh", Origin::Archive);
        plan(vec![existing, file("etc/ssh/sshd_config"), made, made_too, file("root/.ssh/id")], &["", "etc", "etc/ssh"])
    }

    #[test]
    fn a_good_plan_has_one_encoding_and_one_hash() {
        let valid = good().validate().unwrap();
        let bytes = valid.plan().encode().unwrap();
        assert_eq!(ValidPlan::decode(&bytes), Ok(valid.clone()));
        let hashed: Vec<u8> = [HASH_DOMAIN, &bytes].concat();
        assert_eq!(valid.hash(), Digest::of(&hashed));
        assert_eq!(valid.content_len(), 6);
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(ValidPlan::decode(&longer).unwrap_err()[0].reason, FaultReason::Malformed);
    }

    #[test]
    fn another_encoding_of_the_same_plan_is_refused() {
        let bytes = good().encode().unwrap();
        // The archive's name has length 5: one byte. The same number in two bytes is still a varint.
        let at = bytes.windows(6).position(|w| w == b"\x05a.tar").unwrap();
        let mut padded = bytes.clone();
        padded.splice(at..=at, [0x85, 0x00]);
        assert_eq!(ValidPlan::decode(&padded).unwrap_err()[0].reason, FaultReason::NotCanonical);
    }

    #[test]
    fn lists_are_counted_while_they_are_read() {
        let mut long = good();
        long.exports = vec![crate::plan::Export { category: CategoryId::Ssh, entries: 0, bytes: 0 }; 33];
        assert_eq!(ValidPlan::decode(&long.encode().unwrap()).unwrap_err()[0].reason, FaultReason::Malformed);
        let mut long = good();
        let xattr = |n| Xattr { name: format!("user.{n:03}").into_bytes(), value: vec![] };
        if let Node::Dir { meta } = &mut long.entries[0].node {
            meta.xattrs = (0..128).map(xattr).collect();
            assert!(ValidPlan::decode(&long.encode().unwrap()).is_ok());
        }
        if let Node::Dir { meta } = &mut long.entries[0].node {
            meta.xattrs.push(xattr(128));
        }
        assert_eq!(ValidPlan::decode(&long.encode().unwrap()).unwrap_err()[0].reason, FaultReason::Malformed);
        assert_eq!(reasons(long), [FaultReason::TooLarge]);
    }

    #[test]
    fn order_and_repeats_are_refused() {
        assert_eq!(reasons(plan(vec![file("etc/ssh/b"), file("etc/ssh/a")], &["etc/ssh"])), [FaultReason::Order]);
        assert_eq!(reasons(plan(vec![file("etc/ssh/a"), file("etc/ssh/a")], &["etc/ssh"])), [FaultReason::Order]);
    }

    #[test]
    fn only_written_categories_and_their_own_paths_pass() {
        assert_eq!(reasons(plan(vec![file("etc/shadow")], &["etc"])), [FaultReason::Category]);
        let claimed = Entry { category: CategoryId::Accounts, ..file("etc/shadow") };
        assert_eq!(reasons(plan(vec![claimed], &["etc"])), [FaultReason::Category]);
        let pve = Entry { category: CategoryId::PveConfigExport, ..file("etc/pve/storage.cfg") };
        assert_eq!(reasons(plan(vec![pve], &["etc/pve"])), [FaultReason::Guarded, FaultReason::Category]);
        let unit = Entry { category: CategoryId::Services, ..file("etc/systemd/system/proxsave-helper@.service") };
        assert_eq!(reasons(plan(vec![unit], &["etc/systemd/system"])), [FaultReason::Guarded]);
    }

    #[test]
    fn every_directory_is_bound_or_made_and_none_idle() {
        assert_eq!(reasons(plan(vec![file("etc/ssh/a")], &[])), [FaultReason::UnboundParent]);
        assert_eq!(reasons(plan(vec![file("etc/ssh/a")], &["etc", "etc/ssh"])), [FaultReason::IdleAnchor]);
        assert_eq!(reasons(plan(vec![dir("root", Origin::Parent)], &[""])), [FaultReason::IdleParent]);
        let link = Entry { node: Node::Symlink { target: b"x".to_vec(), meta: meta(0o777) }, ..file("etc/ssh/d") };
        assert_eq!(reasons(plan(vec![link, file("etc/ssh/d/e")], &["etc/ssh"])), [FaultReason::BelowNonDirectory]);
        // A directory that the plan makes cannot also be bound as existing.
        let both = plan(vec![dir("etc/ssh", Origin::Archive), file("etc/ssh/a")], &["etc", "etc/ssh"]);
        assert_eq!(reasons(both), [FaultReason::IdleAnchor]);
    }

    #[test]
    fn a_directory_on_the_way_gives_nobody_what_the_categories_do_not_hold() {
        let with = |change: fn(&mut Meta), top: &str, below: &str| {
            let mut parent = dir(top, Origin::Parent);
            if let Node::Dir { meta } = &mut parent.node {
                change(meta);
            }
            reasons(plan(vec![parent, file(below)], &[""]))
        };
        let changes: [fn(&mut Meta); 6] = [
            |m| m.uid = 1000,
            |m| m.gid = 100,
            |m| m.mode = 0o775,
            |m| m.mode = 0o1777,
            |m| m.xattrs = vec![Xattr { name: b"system.posix_acl_access".to_vec(), value: vec![2] }],
            |m| m.xattrs = vec![Xattr { name: b"system.posix_acl_default".to_vec(), value: vec![2] }],
        ];
        for change in changes {
            assert_eq!(with(change, "etc", "etc/ssh"), [FaultReason::ParentMeta]);
            assert!(with(change, "root/.ssh", "root/.ssh/id").contains(&FaultReason::UnboundParent), "its parent only");
            assert!(!with(change, "root/.ssh", "root/.ssh/id").contains(&FaultReason::ParentMeta));
        }
        // /etc/proxmox-backup is the user backup's (34), and closed.
        assert!(with(|m| (m.uid, m.gid, m.mode) = (34, 34, 0o700), "etc", "etc/ssh").is_empty());
    }

    #[test]
    fn a_directory_on_the_way_is_counted_where_it_leads_to() {
        let claimed = Entry { category: CategoryId::UserData, ..dir("etc", Origin::Parent) };
        assert_eq!(reasons(plan(vec![claimed.clone(), file("etc/ssh")], &[""])), [FaultReason::Category]);
        // A parent further down does not speak for it either.
        let below = Entry { category: CategoryId::UserData, ..dir("etc/ssh", Origin::Parent) };
        assert_eq!(reasons(plan(vec![claimed, below, file("etc/ssh/a")], &[""])), [FaultReason::Category]);
    }

    #[test]
    fn kinds_are_not_swapped_with_directories_and_special_files_stay() {
        for (kind, want) in [
            (Kind::Dir, vec![FaultReason::KindOverKind]),
            (Kind::Special, vec![FaultReason::OverSpecial]),
            (Kind::Symlink, vec![]),
        ] {
            let entry = Entry { before: present(kind), ..file("etc/ssh/a") };
            assert_eq!(reasons(plan(vec![entry], &["etc/ssh"])), want);
        }
        let over_file = Entry { before: present(Kind::File), ..dir("etc/ssh", Origin::Archive) };
        assert_eq!(reasons(plan(vec![over_file], &["etc"])), [FaultReason::KindOverKind]);
    }

    #[test]
    fn numbers_links_and_attributes_are_bounded() {
        let with = |meta: Meta| {
            let node = Node::File { size: 1, sha256: Digest::of(b"x"), sparse: false, meta };
            reasons(plan(vec![Entry { node, ..file("etc/ssh/a") }], &["etc/ssh"]))
        };
        assert_eq!(with(meta(0o10000)), [FaultReason::Mode]);
        assert_eq!(with(Meta { uid: u32::MAX, ..meta(0o644) }), [FaultReason::Owner]);
        assert_eq!(
            with(Meta { mtime: Some(Timestamp { secs: 0, nanos: 1_000_000_000 }), ..meta(0) }),
            [FaultReason::Time]
        );
        let xattr = |name: &[u8]| Xattr { name: name.to_vec(), value: vec![1] };
        assert_eq!(with(Meta { xattrs: vec![xattr(b"trusted.overlay.opaque")], ..meta(0) }), [FaultReason::Xattr]);
        assert_eq!(with(Meta { xattrs: vec![xattr(b"user.b"), xattr(b"user.a")], ..meta(0) }), [FaultReason::Xattr]);
        assert!(with(Meta { xattrs: vec![xattr(b"user.a"), xattr(b"user.b")], ..meta(0o4755) }).is_empty());

        let node = |node| reasons(plan(vec![Entry { node, ..file("etc/ssh/a") }, file("etc/ssh/b")], &["etc/ssh"]));
        assert_eq!(node(Node::Symlink { target: vec![], meta: meta(0) }), [FaultReason::LinkTarget]);
        assert_eq!(node(Node::Hardlink { to: path("etc/shadow") }), [FaultReason::HardlinkTarget]);
        assert_eq!(node(Node::Hardlink { to: path("etc/ssh/a") }), [FaultReason::HardlinkTarget]);
        assert!(node(Node::Hardlink { to: path("etc/ssh/b") }).is_empty());
        let huge = |name| Entry {
            node: Node::File { size: u64::MAX, sha256: Digest::of(b""), sparse: true, meta: meta(0) },
            ..file(name)
        };
        assert_eq!(reasons(plan(vec![huge("etc/ssh/a"), huge("etc/ssh/b")], &["etc/ssh"])), [FaultReason::Size]);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(ValidPlan::decode(&bytes).is_err());
        }

        #[test]
        fn any_flip_of_a_good_plan_is_refused_or_is_another_plan(at in 0usize..2000, bit in 0u8..8) {
            let valid = good().validate().unwrap();
            let mut bytes = valid.plan().encode().unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(other) = ValidPlan::decode(&bytes) {
                prop_assert_ne!(other.hash(), valid.hash());
            }
        }
    }
}
