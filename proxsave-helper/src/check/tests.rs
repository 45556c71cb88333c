//! Plans against real trees: what is as planned passes, whatever differs is found, before and after the check.

use super::{CheckedPlan, Grants, check, recheck};
use crate::root::Root;
use crate::root::testing::{Here, Tree, file, meta, own_mounts, path, plan_for};
use proptest::prelude::*;
use proxsave_proto::category::CATEGORIES;
use proxsave_proto::message::{Refusal, Why};
use proxsave_proto::plan::{Meta, Node, Plan};
use proxsave_proto::state::Kind;
use proxsave_proto::{CategoryId, RelPath};
use rustix::fs::{AtFlags, CWD, IFlags, Timespec, Timestamps, XattrFlags};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;

fn everything() -> Grants {
    Grants { categories: CATEGORIES.iter().map(|row| row.id).collect(), privileged_bits: false }
}

fn checked(root: &Root, plan: Plan, grants: &Grants) -> Result<CheckedPlan, Vec<Refusal>> {
    let valid = plan.validate().expect("a valid plan");
    check(valid, grants, root, &mut Here { root: Some(root), looked: 0 })
}

fn again(checked: &CheckedPlan, root: &Root) -> Result<(), Vec<Refusal>> {
    recheck(checked, root, &mut Here { root: Some(root), looked: 0 })
}

fn dir(mode: u16) -> Node {
    Node::Dir { meta: meta(mode, &[]) }
}

fn refusals(root: &Root, plan: Plan) -> Vec<String> {
    checked(root, plan, &everything()).map(|_| ()).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn a_plan_for_the_tree_as_it_is_passes_with_its_anchors_open() {
    let tree = Tree::new(&["etc/ssh/a", "home/"]);
    let root = tree.root();
    let targets =
        vec![(path("etc/ssh/a"), file(b"new")), (path("home/u/d/f"), file(b"")), (path("home/u"), dir(0o700))];
    let plan = plan_for(&root, targets);
    let checked = checked(&root, plan, &everything()).unwrap();
    let inodes: Vec<_> = checked.anchors().iter().map(|dir| dir.id().ino).collect();
    let ino = |name: &str| std::fs::metadata(tree.at(name)).unwrap().ino();
    assert_eq!(inodes, [ino("etc/ssh"), ino("home")]);
    assert_eq!(checked.anchor_of(&path("home/u/d/f")), Some(1));
    assert_eq!(again(&checked, &root), Ok(()));
}

#[test]
fn what_a_new_directory_would_hold_is_guarded_too() {
    own_mounts();
    let tree = Tree::new(&["home/", "root/all/"]);
    tree.bind("", "root/all");
    let root = tree.root();
    let plan = plan_for(&root, vec![(path("root/all/usr/lib/other/x"), file(b"x"))]);
    assert!(checked(&root, plan.clone(), &everything()).is_ok());
    let mut guarded = plan;
    for entry in &mut guarded.entries {
        entry.path = path(&entry.path.to_string().replace("other", "proxsave").replacen('/', "", 1));
    }
    let found = refusals(&root, guarded);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|reason| reason.contains("it is guarded")), "{found:?}");
}

#[test]
fn who_has_no_right_learns_nothing_else() {
    let tree = Tree::new(&["etc/ssh/a", "home/"]);
    let root = tree.root();
    let plan = plan_for(&root, vec![(path("etc/ssh/a"), file(b"x")), (path("home/u/f"), file(b"x"))]);
    std::fs::write(tree.at("etc/ssh/a"), b"changed").unwrap();
    let grants = Grants { categories: vec![CategoryId::Ssh], privileged_bits: false };
    let found = checked(&root, plan, &grants).map(|_| ()).unwrap_err();
    let denied = |name: &str| Refusal { path: Some(path(name)), why: Why::NotGranted(CategoryId::UserData) };
    assert_eq!(found, [denied("home/u"), denied("home/u/f")]);
}

#[test]
fn every_reason_is_told() {
    let tree = Tree::new(&["etc/ssh/a", "etc/ssh/b", "etc/ssh/c"]);
    let root = tree.root();
    let plan = plan_for(&root, ["a", "b", "c", "d"].map(|n| (path(&format!("etc/ssh/{n}")), file(b"x"))).into());
    std::fs::remove_file(tree.at("etc/ssh/a")).unwrap();
    std::fs::set_permissions(tree.at("etc/ssh/b"), PermissionsExt::from_mode(0o600)).unwrap();
    tree.add("etc/ssh/d");
    let found = refusals(&root, plan);
    let expected =
        ["/etc/ssh/a: it changed since the plan was made (it is gone)", "mode, change time", "something is now"];
    assert_eq!(found.len(), 3, "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn privileged_bits_are_dropped_unless_granted() {
    let tree = Tree::new(&["home/", "etc/ssh/shared/"]);
    std::fs::set_permissions(tree.at("etc/ssh/shared"), PermissionsExt::from_mode(0o2775)).unwrap();
    let root = tree.root();
    let node = |mode, xattrs: &[&str]| match file(b"x") {
        Node::File { size, sha256, sparse, .. } => Node::File { size, sha256, sparse, meta: meta(mode, xattrs) },
        other => other,
    };
    let targets = || {
        vec![
            (path("etc/ssh/shared"), dir(0o2755)),
            (path("home/a"), node(0o4755, &[])),
            (path("home/b"), node(0o1644, &["security.capability", "user.x"])),
            (path("home/c"), dir(0o2777)),
            (path("home/d"), node(0o644, &["system.posix_acl_access"])),
        ]
    };
    let outcome = |grants: &Grants| {
        let checked = checked(&root, plan_for(&root, targets()), grants).unwrap();
        let effective = |entry| checked.effective_meta(entry).unwrap();
        let modes: Vec<_> = checked.plan().entries.iter().map(|entry| effective(entry).mode()).collect();
        let xattrs: Vec<_> = checked.plan().entries.iter().map(|entry| effective(entry).xattrs().count()).collect();
        let dropped: Vec<_> = checked.dropped_paths().map(ToString::to_string).collect();
        assert_eq!(dropped.len(), checked.dropped().len());
        (modes, xattrs, dropped)
    };
    // The shared directory stands with its bit, so keeping that gives nobody anything.
    let (modes, xattrs, dropped) = outcome(&everything());
    assert_eq!(modes, [0o2755, 0o755, 0o1644, 0o777, 0o644]);
    assert_eq!(
        (xattrs.as_slice(), dropped.as_slice()),
        (&[0, 0, 1, 0, 1][..], &["/home/a", "/home/b", "/home/c"].map(String::from)[..])
    );
    let (modes, xattrs, dropped) = outcome(&Grants { privileged_bits: true, ..everything() });
    assert_eq!(modes, [0o2755, 0o4755, 0o1644, 0o2777, 0o644]);
    assert_eq!((xattrs.as_slice(), dropped.is_empty()), (&[0, 0, 2, 0, 1][..], true));
}

#[test]
fn what_does_not_fit_is_refused() {
    own_mounts();
    let tree = Tree::new(&["home/"]);
    let size = c"size=1m,nr_inodes=64";
    rustix::mount::mount("none", tree.at("home"), "tmpfs", rustix::mount::MountFlags::empty(), size).unwrap();
    let root = tree.root();
    let big = |size| Node::File { size, sha256: proxsave_proto::Digest::of(b""), sparse: true, meta: meta(0o644, &[]) };
    let found = refusals(&root, plan_for(&root, vec![(path("home/f"), big(2 << 20))]));
    assert!(matches!(found.as_slice(), [one] if one.starts_with("/home: not enough room: 2105344 bytes")), "{found:?}");
    let many = (0..100).map(|n| (path(&format!("home/{n}")), file(b"")));
    let found = refusals(&root, plan_for(&root, many.collect()));
    assert!(matches!(found.as_slice(), [one] if one.contains("101 bytes or inodes needed")), "{found:?}");
    assert!(checked(&root, plan_for(&root, vec![(path("home/f"), big(512 << 10))]), &everything()).is_ok());
}

#[test]
fn read_only_mounts_and_mounts_over_targets_are_refused() {
    own_mounts();
    let tree = Tree::new(&["home/", "etc/ssh/d/", "etc/ssh/f"]);
    tree.mount("tmpfs", "home");
    let root = tree.root();
    let plan = || plan_for(&root, vec![(path("home/f"), file(b"x"))]);
    assert!(checked(&root, plan(), &everything()).is_ok());
    let flags = rustix::mount::MountFlags::RDONLY | rustix::mount::MountFlags::BIND;
    rustix::mount::mount_remount(tree.at("home"), flags, c"").unwrap();
    assert_eq!(refusals(&root, plan()), ["/home: it is mounted read-only"]);
    tree.mount("tmpfs", "etc/ssh/d");
    root.refresh().unwrap();
    let found = refusals(&root, plan_for(&root, vec![(path("etc/ssh/d"), dir(0o700))]));
    assert!(matches!(found.as_slice(), [one] if one.contains("a file system is mounted on it")), "{found:?}");
    // Bound as an anchor, the mounted directory itself is meant.
    let both = vec![(path("etc/ssh/d"), dir(0o700)), (path("etc/ssh/d/f"), file(b"x"))];
    assert!(checked(&root, plan_for(&root, both), &everything()).is_ok());
}

#[test]
fn what_is_marked_immutable_is_refused_before_anything_is_staged() {
    let tree = Tree::new(&["etc/ssh/f", "home/u/"]);
    let root = tree.root();
    let plan = || plan_for(&root, vec![(path("etc/ssh/f"), file(b"x")), (path("home/u/f"), file(b"x"))]);
    assert!(checked(&root, plan(), &everything()).is_ok());
    let mark = |name: &str, flags| {
        rustix::fs::ioctl_setflags(std::fs::File::open(tree.at(name)).unwrap(), flags).unwrap();
    };
    mark("etc/ssh/f", IFlags::IMMUTABLE);
    let file = refusals(&root, plan());
    mark("etc/ssh/f", IFlags::empty());
    let before = checked(&root, plan(), &everything()).unwrap();
    mark("home/u", IFlags::APPEND);
    let (dir, late) = (refusals(&root, plan()), again(&before, &root));
    mark("home/u", IFlags::empty());
    assert!(matches!(file.as_slice(), [one] if one.starts_with("/etc/ssh/f: it is marked immutable")), "{file:?}");
    assert!(matches!(dir.as_slice(), [one] if one.starts_with("/home/u: the directory is marked")), "{dir:?}");
    assert_eq!(late.unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>(), dir);
}

#[test]
fn hard_links_stay_within_one_mount() {
    own_mounts();
    let tree = Tree::new(&["home/", "etc/ssh/"]);
    tree.mount("tmpfs", "home");
    let root = tree.root();
    let to = || Node::Hardlink { to: path("home/f") };
    let plan = plan_for(&root, vec![(path("home/f"), file(b"x")), (path("home/g"), to())]);
    assert!(checked(&root, plan, &everything()).is_ok());
    let plan = plan_for(&root, vec![(path("home/f"), file(b"x")), (path("etc/ssh/g"), to())]);
    assert!(matches!(refusals(&root, plan).as_slice(), [one] if one.contains("another mount")));
}

#[test]
fn mounts_over_anchors_are_found_before_and_after_the_check() {
    own_mounts();
    let tree = Tree::new(&["etc/ssh/a", "home/"]);
    let root = tree.root();
    let plan = || plan_for(&root, vec![(path("etc/ssh/a"), file(b"x")), (path("home/u/f"), file(b"x"))]);
    for name in ["etc", "etc/ssh", "home"] {
        let (before, after) = (plan(), checked(&root, plan(), &everything()).unwrap());
        tree.mount("tmpfs", name);
        assert!(checked(&root, before, &everything()).is_err(), "{name}");
        assert!(again(&after, &root).is_err(), "{name}");
        rustix::mount::unmount(tree.at(name), rustix::mount::UnmountFlags::empty()).unwrap();
        assert_eq!(again(&after, &root), Ok(()), "{name}");
    }
}

#[test]
fn a_known_content_is_not_hashed_again_and_an_unknown_one_is() {
    let tree = Tree::new(&["etc/ssh/a"]);
    let root = tree.root();
    let plan = plan_for(&root, vec![(path("etc/ssh/a"), file(b"x"))]).validate().unwrap();
    let mut here = Here { root: Some(&root), looked: 0 };
    check(plan.clone(), &everything(), &root, &mut here).unwrap();
    assert_eq!(here.looked, 1);
    struct Knows;
    impl super::Contents for Knows {
        fn knows(&self, _: &proxsave_proto::state::Present) -> bool {
            true
        }
        fn look(&mut self, items: &[super::ProbeItem]) -> Vec<super::Target> {
            assert!(items.is_empty(), "{items:?}");
            Vec::new()
        }
    }
    check(plan, &everything(), &root, &mut Knows).unwrap();
}

#[test]
fn a_wrong_hash_of_what_stands_is_found() {
    let tree = Tree::new(&["etc/ssh/a"]);
    let root = tree.root();
    let mut plan = plan_for(&root, vec![(path("etc/ssh/a"), file(b"x"))]);
    plan.entries[0].before.as_mut().unwrap().sha256 = Some(proxsave_proto::Digest::of(b"a lie"));
    assert_eq!(refusals(&root, plan), ["/etc/ssh/a: it changed since the plan was made (different now: content)"]);
}

/// Ways a tree can change under a plan.
#[derive(Debug, Clone, Copy)]
enum Change {
    Content,
    Mode,
    Owner,
    Time,
    Replaced,
    Gone,
    OtherKind,
    Attribute,
    Name,
}

fn change() -> impl Strategy<Value = Change> {
    use Change::*;
    proptest::sample::select(vec![Content, Mode, Owner, Time, Replaced, Gone, OtherKind, Attribute, Name])
}

/// Makes a change at a path, as an attacker would who can set times back; `false` when it means nothing there.
fn make(change: Change, at: &Path) -> bool {
    let Ok(meta) = std::fs::symlink_metadata(at) else {
        // Nothing is there: then something is, or is on the way.
        return std::fs::create_dir_all(at.parent().unwrap()).is_ok() && std::fs::write(at, b"").is_ok();
    };
    let (file, dir) = (meta.is_file(), meta.is_dir());
    let back = || {
        let time = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = Timestamps {
            last_access: time(meta.atime(), meta.atime_nsec()),
            last_modification: time(meta.mtime(), meta.mtime_nsec()),
        };
        rustix::fs::utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    match change {
        Change::Content if file && meta.len() > 0 => {
            let mut bytes = std::fs::read(at).unwrap();
            bytes[0] ^= 1;
            std::fs::write(at, bytes).unwrap();
            back();
        }
        Change::Mode if file || dir => {
            std::fs::set_permissions(at, PermissionsExt::from_mode(meta.mode() & 0o7777 ^ 0o100)).unwrap();
        }
        Change::Owner => std::os::unix::fs::lchown(at, Some(meta.uid() + 1), None).unwrap(),
        Change::Time => {
            let times = Timestamps {
                last_access: Timespec { tv_sec: 1, tv_nsec: 1 },
                last_modification: Timespec { tv_sec: 1, tv_nsec: 1 },
            };
            rustix::fs::utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        Change::Replaced if file => {
            let copy = at.with_file_name("copy");
            std::fs::copy(at, &copy).unwrap();
            std::fs::rename(copy, at).unwrap();
            back();
        }
        Change::Gone if file => std::fs::remove_file(at).unwrap(),
        Change::Gone if dir => std::fs::rename(at, at.with_file_name("moved")).unwrap(),
        Change::OtherKind => {
            std::fs::rename(at, at.with_file_name("moved")).unwrap();
            std::os::unix::fs::symlink("moved", at).unwrap();
        }
        Change::Attribute if file || dir => {
            rustix::fs::setxattr(at, "user.new", b"1", XattrFlags::empty()).unwrap();
        }
        Change::Name if file => std::fs::hard_link(at, at.with_file_name("second")).unwrap(),
        _ => return false,
    }
    true
}

/// Names, and whether each is a directory.
type Standing = Vec<(String, bool)>;
/// Names, and the kind of each: a directory, a file, a link.
type Planned = Vec<(String, u8)>;

/// Targets in a small space of names, so that some stand, some lack only themselves and some whole directories.
fn targets() -> impl Strategy<Value = (Standing, Planned)> {
    let name = "(etc/ssh|home|home/u)/[ab](/[ab]){0,2}";
    let standing = proptest::collection::vec((name, any::<bool>()), 0..8);
    (standing, proptest::collection::vec((name, 0u8..3), 1..6))
}

/// Makes the tree and a plan for it; `None` when the targets contradict each other or the tree.
fn set_up(tree: &Tree, standing: &[(String, bool)], planned: &[(String, u8)]) -> Option<(Root, Plan)> {
    for name in ["etc/ssh", "home"] {
        std::fs::create_dir_all(tree.at(name)).unwrap();
    }
    for (name, is_dir) in standing {
        let at = tree.at(name);
        if std::fs::create_dir_all(at.parent().unwrap()).is_ok() {
            let _ = if *is_dir { std::fs::create_dir(&at) } else { std::fs::write(&at, name) };
        }
    }
    let root = tree.root();
    let mut wanted: Vec<(RelPath, Node)> = Vec::new();
    for (name, kind) in planned {
        let path = path(name);
        let node = match kind {
            0 => dir(0o750),
            1 => file(name.as_bytes()),
            _ => Node::Symlink { target: b"t".to_vec(), meta: Meta { mode: 0o777, ..meta(0, &[]) } },
        };
        let target = crate::root::testing::look(&root, &path, None).target;
        let fits = target.present().is_none_or(|now| (now.kind == Kind::Dir) == node.is_dir());
        if fits && target.anchor().is_some() && wanted.iter().all(|(other, _)| *other != path) {
            wanted.push((path, node));
        }
    }
    wanted.sort_by(|a, b| a.0.cmp(&b.0));
    let plan = plan_for(&root, wanted);
    let usable = !plan.entries.is_empty() && plan.clone().validate().is_ok();
    usable.then_some((root, plan))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_that_changed_is_never_taken_for_the_planned_one(
        (standing, planned) in targets(),
        (index, anchor, change) in (any::<prop::sample::Index>(), any::<bool>(), change()),
        late in any::<bool>(),
        settled in any::<bool>(),
    ) {
        let tree = Tree::new(&[]);
        let Some((root, plan)) = set_up(&tree, &standing, &planned) else { return Err(TestCaseError::reject("no plan")) };
        let first = checked(&root, plan.clone(), &everything());
        let Ok(mut first) = first else { panic!("the tree is as planned: {first:?}") };
        if settled {
            // As if everything had last changed long before the check, so that change times stand for the rest;
            // they do once the file system's clock ticked.
            first.began += 1000;
            std::thread::sleep(std::time::Duration::from_millis(12));
        }
        prop_assert_eq!(again(&first, &root), Ok(()));
        // Of an anchor only its identity is bound.
        prop_assume!(!anchor || matches!(change, Change::Gone | Change::OtherKind));
        let path = match anchor {
            true => &plan.anchors[index.index(plan.anchors.len())].path,
            false => &plan.entries[index.index(plan.entries.len())].path,
        };
        // In a directory that is an anchor staging works meanwhile, so its times prove nothing late.
        let staged_in = plan.anchors.iter().any(|binding| binding.path == *path);
        prop_assume!(!(late && staged_in && matches!(change, Change::Time)));
        prop_assume!(make(change, &tree.of(path)));
        if late {
            prop_assert!(again(&first, &root).is_err());
        } else {
            prop_assert!(checked(&root, plan, &everything()).is_err());
        }
    }

    #[test]
    fn staging_does_not_count_as_a_change((standing, planned) in targets()) {
        let tree = Tree::new(&[]);
        let Some((root, plan)) = set_up(&tree, &standing, &planned) else { return Err(TestCaseError::reject("no plan")) };
        let first = checked(&root, plan.clone(), &everything()).unwrap();
        for binding in &plan.anchors {
            std::fs::create_dir(tree.of(&binding.path).join(".pxs-0123456789abcdef-0")).unwrap();
        }
        prop_assert_eq!(again(&first, &root), Ok(()));
    }
}
