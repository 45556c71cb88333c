//! What a transaction that did not end leaves is removed, and nothing else.

use super::{Place, Record, StateDir, TxId, begin, sweep};
use crate::root::Root;
use crate::root::testing::{Tree, own_mounts, path};
use proptest::prelude::*;
use proxsave_proto::Digest;
use rustix::fs::{CWD, Mode, OFlags};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

fn state(tree: &Tree) -> StateDir {
    StateDir::open(&tree.at("state")).unwrap()
}

fn record(tree: &Tree, names: &[&str]) -> Record {
    let place = |name: &&str| Place { path: path(name), ino: std::fs::metadata(tree.at(name)).unwrap().ino() };
    Record { plan: Digest::of(b"plan"), caller: 1000, places: names.iter().map(place).collect() }
}

/// A transaction that staged in some directories and whose helper then died.
fn died(tree: &Tree, names: &[&str]) -> TxId {
    let tx = begin(&state(tree), TxId::random().unwrap(), &record(tree, names)).unwrap();
    let id = tx.id().clone();
    for (number, name) in names.iter().enumerate() {
        stage(tree, &format!("{name}/{}{number}", id.stage_prefix()));
    }
    id
}

fn stage(tree: &Tree, name: &str) {
    tree.add(&format!("{name}/"));
    std::fs::set_permissions(tree.at(name), PermissionsExt::from_mode(0o700)).unwrap();
    tree.add(&format!("{name}/0"));
    tree.add(&format!("{name}/1/deep/er/f"));
    tree.add(&format!("{name}/1/deep/er2/"));
    tree.link("/", &format!("{name}/1/root"));
    tree.link("../../../..", &format!("{name}/up"));
    rustix::fs::mknodat(CWD, tree.at(&format!("{name}/fifo")), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    std::os::unix::fs::chown(tree.at(&format!("{name}/1/deep")), Some(1234), Some(1234)).unwrap();
}

fn names(tree: &Tree, name: &str) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(tree.at(name))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_record_is_private_and_goes_with_the_end_of_its_transaction() {
    let tree = Tree::new(&["etc/"]);
    let tx = begin(&state(&tree), TxId::random().unwrap(), &record(&tree, &["etc"])).unwrap();
    let at = tree.at(&format!("state/tx/{}", tx.id()));
    assert_eq!(std::fs::metadata(&at).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(tree.at("state/tx")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(names(&tree, "state/tx").len(), 1, "no unfinished file is left");
    tx.close().unwrap();
    assert!(!at.exists());
}

#[test]
fn what_a_dead_helper_left_is_removed_once_and_nothing_else() {
    let tree = Tree::new(&["etc/ssh/keep", "home/keep", "etc/ssh/.pxs-0123456789abcdef-0/keep", "outside/keep"]);
    let id = died(&tree, &["etc/ssh", "home"]);
    // A record that never got its name.
    std::fs::write(tree.at(&format!("state/tx/{}.new", TxId::random().unwrap())), b"half").unwrap();
    std::fs::write(tree.at("state/tx/README"), b"not a record").unwrap();
    let root = tree.root();
    let done = sweep(&root, &state(&tree)).unwrap();
    assert_eq!((done.live, done.swept.len()), (0, 1));
    let swept = &done.swept[0];
    assert_eq!((&swept.txid, swept.removed, swept.problems.as_slice()), (&id, 2, &[][..]));
    assert_eq!(swept.record.as_ref().map(|record| record.caller), Some(1000));
    assert_eq!(names(&tree, "etc/ssh"), [".pxs-0123456789abcdef-0", "keep"]);
    assert_eq!(names(&tree, "home"), ["keep"]);
    assert_eq!(names(&tree, "state/tx"), ["README"]);
    assert_eq!(sweep(&root, &state(&tree)).unwrap(), super::Sweep::default());
}

#[test]
fn a_living_helpers_transaction_is_left_alone() {
    let tree = Tree::new(&["etc/"]);
    let tx = begin(&state(&tree), TxId::random().unwrap(), &record(&tree, &["etc"])).unwrap();
    let name = format!("etc/{}0", tx.id().stage_prefix());
    stage(&tree, &name);
    let root = tree.root();
    let done = sweep(&root, &state(&tree)).unwrap();
    assert_eq!((done.live, done.swept.len()), (1, 0));
    assert!(tree.at(&name).join("1/deep/er/f").exists());
    drop(tx);
    assert_eq!(sweep(&root, &state(&tree)).unwrap().swept.len(), 1);
    assert!(!tree.at(&name).exists());
}

/// Sweeps, and expects one problem with this text, nothing removed, and the record still there.
fn problem(tree: &Tree, root: &Root, text: &str) {
    let done = sweep(root, &state(tree)).unwrap();
    let swept = &done.swept[0];
    assert_eq!(swept.removed, 0);
    assert!(matches!(swept.problems.as_slice(), [one] if one.contains(text)), "{:?}", swept.problems);
    assert_eq!(names(tree, "state/tx").len(), 1);
}

#[test]
fn what_no_helper_made_is_not_touched() {
    for (mode, owner) in [(0o755, 0), (0o700, 1234)] {
        let tree = Tree::new(&["etc/"]);
        let id = died(&tree, &["etc"]);
        let name = format!("etc/{}0", id.stage_prefix());
        std::fs::set_permissions(tree.at(&name), PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(tree.at(&name), Some(owner), None).unwrap();
        problem(&tree, &tree.root(), "no helper made it");
        assert!(tree.at(&name).join("0").exists());
    }
    let tree = Tree::new(&["etc/", "outside/keep"]);
    let id = died(&tree, &["etc"]);
    let name = format!("etc/{}0", id.stage_prefix());
    std::fs::rename(tree.at(&name), tree.at("aside")).unwrap();
    tree.link("../outside", &name);
    problem(&tree, &tree.root(), "no helper made it");
    assert_eq!(names(&tree, "outside"), ["keep"]);
}

#[test]
fn a_directory_that_became_a_link_or_another_is_told_and_tried_again() {
    let tree = Tree::new(&["etc/ssh/", "outside/"]);
    let id = died(&tree, &["etc/ssh"]);
    let name = format!("{}0", id.stage_prefix());
    stage(&tree, &format!("outside/{name}"));
    std::fs::rename(tree.at("etc/ssh"), tree.at("aside")).unwrap();
    tree.link("../outside", "etc/ssh");
    let root = tree.root();
    problem(&tree, &root, "symbolic link");
    assert!(tree.at("outside").join(&name).join("0").exists());
    std::fs::remove_file(tree.at("etc/ssh")).unwrap();
    tree.add("etc/ssh/");
    problem(&tree, &root, "another directory is there now");
    std::fs::remove_dir(tree.at("etc/ssh")).unwrap();
    std::fs::rename(tree.at("aside"), tree.at("etc/ssh")).unwrap();
    let done = sweep(&root, &state(&tree)).unwrap();
    assert_eq!((done.swept[0].removed, names(&tree, "state/tx").len()), (1, 0));
}

#[test]
fn a_mount_inside_is_not_entered() {
    own_mounts();
    let tree = Tree::new(&["etc/"]);
    let id = died(&tree, &["etc"]);
    let inside = format!("etc/{}0/1/deep", id.stage_prefix());
    tree.mount("tmpfs", &inside);
    tree.add(&format!("{inside}/keep"));
    let done = sweep(&tree.root(), &state(&tree)).unwrap();
    assert_eq!((done.swept[0].removed, done.swept[0].problems.len()), (0, 1));
    assert!(tree.at(&inside).join("keep").exists() || find(&tree, "keep"));
}

fn find(tree: &Tree, wanted: &str) -> bool {
    let mut open = vec![tree.dir.path().to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            if entry.file_name() == wanted {
                return true;
            }
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    false
}

#[test]
fn a_damaged_record_is_told_and_kept() {
    let tree = Tree::new(&["etc/"]);
    let id = died(&tree, &["etc"]);
    let at = tree.at(&format!("state/tx/{id}"));
    let mut bytes = std::fs::read(&at).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&at, bytes).unwrap();
    problem(&tree, &tree.root(), "damaged");
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let tree = Tree::new(&["etc/"]);
    let id = died(&tree, &["etc"]);
    let top = tree.at(&format!("etc/{}0", id.stage_prefix()));
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut dir = rustix::fs::open(top, flags, Mode::empty()).unwrap();
    for _ in 0..5000 {
        rustix::fs::mkdirat(&dir, "lifted-1", Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, "lifted-1", flags, Mode::empty()).unwrap();
    }
    let done = sweep(&tree.root(), &state(&tree)).unwrap();
    assert_eq!((done.swept[0].removed, done.swept[0].problems.as_slice()), (1, &[][..]));
    assert!(names(&tree, "etc").is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_staged_tree_goes_whole(names in proptest::collection::vec("([ab]|lifted-[123])(/([ab]|lifted-[123])){0,5}/?", 0..12)) {
        let tree = Tree::new(&["etc/keep"]);
        let id = died(&tree, &["etc"]);
        for name in &names {
            let at = tree.at(&format!("etc/{}0/{name}", id.stage_prefix()));
            // Names contradict each other at times; what can be made is.
            let parent = at.parent().unwrap();
            if std::fs::create_dir_all(parent).is_ok() {
                let _ = if name.ends_with('/') { std::fs::create_dir(&at) } else { std::fs::write(&at, b"") };
            }
        }
        let done = sweep(&tree.root(), &state(&tree)).unwrap();
        prop_assert_eq!(&done.swept[0].problems, &Vec::<String>::new());
        prop_assert_eq!(self::names(&tree, "etc"), ["keep"]);
    }
}
