//! The prober as a process: what it answers, what it cannot do, and what becomes of one that hangs.

use super::{Known, Limits, Prober, SETTLED_SECS};
use crate::cage::Layers;
use crate::check::{Contents as _, Grants};
use crate::root::testing::{Tree, look, own_mounts, path};
use proxsave_proto::message::ProbeItem;
use proxsave_proto::state::{Blocked, Present, Target};
use proxsave_proto::{CategoryId, Digest, RelPath};
use std::time::Duration;

fn item(name: &str, hash_if_size: Option<u64>) -> ProbeItem {
    ProbeItem { path: path(name), hash_if_size }
}

fn child(prober: &Prober) -> &crate::sys::Child {
    prober.worker.as_ref().unwrap().child.as_ref().unwrap()
}

fn grants() -> Grants {
    Grants { categories: vec![CategoryId::Ssh], privileged_bits: false }
}

#[test]
fn a_caged_prober_answers_as_a_look_from_here_does() {
    let tree = Tree::new(&["etc/ssh/a", "etc/ssh/d/x", "etc/ssh/e/"]);
    tree.link("a", "etc/ssh/link");
    tree.link("d", "etc/ssh/dirlink");
    let root = tree.root();
    let (mut prober, enforced) = Prober::start(&root, Layers::ALL, Limits::default()).unwrap();
    assert!(enforced.landlock_abi.is_some() && enforced.seccomp, "{enforced}");
    assert_eq!(enforced.capabilities, 1 << 2, "CAP_DAC_READ_SEARCH alone");
    let names =
        ["etc/ssh", "etc/ssh/a", "etc/ssh/d/x", "etc/ssh/dirlink/x", "etc/ssh/e/f/g", "etc/ssh/link", "etc/ssh/no"];
    let items: Vec<_> = names.iter().map(|name| item(name, Some(9))).collect();
    for _ in 0..2 {
        let answers = prober.look(&root, &grants(), &items);
        let here: Vec<_> = items.iter().map(|item| look(&root, &item.path, item.hash_if_size).target).collect();
        assert_eq!(answers, here);
        assert_eq!(answers[1].present().unwrap().sha256, Some(Digest::of(b"etc/ssh/a")));
    }
}

#[test]
fn it_reads_what_belongs_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let tree = Tree::new(&["etc/ssh/d/secret"]);
    std::os::unix::fs::chown(tree.at("etc/ssh/d/secret"), Some(1234), Some(1234)).unwrap();
    std::fs::set_permissions(tree.at("etc/ssh/d/secret"), std::fs::Permissions::from_mode(0o000)).unwrap();
    std::os::unix::fs::chown(tree.at("etc/ssh/d"), Some(1234), Some(1234)).unwrap();
    std::fs::set_permissions(tree.at("etc/ssh/d"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let root = tree.root();
    let (mut prober, _) = Prober::start(&root, Layers::ALL, Limits::default()).unwrap();
    let answers = prober.look(&root, &grants(), &[item("etc/ssh/d/secret", Some(16))]);
    assert_eq!(answers[0].present().unwrap().sha256, Some(Digest::of(b"etc/ssh/d/secret")));
}

#[test]
fn what_is_guarded_or_not_granted_is_answered_without_a_look() {
    let tree = Tree::new(&["etc/ssh/a", "etc/pve/storage.cfg", "home/u/f"]);
    let root = tree.root();
    let (mut prober, _) = Prober::start(&root, Layers::ALL, Limits::default()).unwrap();
    let names = ["etc/pve/storage.cfg", "home/u/f", "etc/ssh/a", "etc/shadow", "etc", "proc/self/environ"];
    let answers = prober.look(&root, &grants(), &names.map(|name| item(name, Some(9))));
    let blocked = |why| Target::Blocked(why);
    assert_eq!(answers[0], blocked(Blocked::Guarded));
    assert_eq!(answers[1], blocked(Blocked::NotGranted));
    assert!(answers[2].present().is_some());
    assert_eq!(answers[3..], [Blocked::NotGranted, Blocked::NotGranted, Blocked::Guarded].map(blocked));
}

/// Stands for a file that a dead disk never gives back.
pub(super) fn hang_on(path: &RelPath) {
    while path.name() == Some(b"hangs") {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn a_worker_that_hangs_is_replaced_and_the_item_told() {
    let tree = Tree::new(&["etc/ssh/a", "etc/ssh/b", "etc/ssh/hangs", "etc/ssh/y", "etc/ssh/z"]);
    let root = tree.root();
    let limits = Limits { stall: Duration::from_millis(300), ..Limits::default() };
    let (mut prober, _) = Prober::start(&root, Layers::ALL, limits).unwrap();
    let items = ["a", "b", "hangs", "y", "z"].map(|name| item(&format!("etc/ssh/{name}"), None));
    let started = std::time::Instant::now();
    let answers = prober.look(&root, &grants(), &items);
    assert!(started.elapsed() < Duration::from_secs(5));
    let present: Vec<_> = answers.iter().map(|answer| answer.present().is_some()).collect();
    assert_eq!(present, [true, true, false, true, true]);
    assert_eq!(answers[2], Target::Blocked(Blocked::Unreadable));
}

#[test]
fn a_worker_that_died_is_replaced_and_so_many_times_only() {
    let tree = Tree::new(&["etc/ssh/a"]);
    let root = tree.root();
    let limits = Limits { restarts: 2, ..Limits::default() };
    let (mut prober, _) = Prober::start(&root, Layers::ALL, limits).unwrap();
    let ask = |prober: &mut Prober| prober.look(&root, &grants(), &[item("etc/ssh/a", None)]).remove(0);
    for _ in 0..2 {
        child(&prober).kill();
        assert!(ask(&mut prober).present().is_some());
    }
    child(&prober).kill();
    assert_eq!(ask(&mut prober), Target::Blocked(Blocked::Unreadable));
    assert!(prober.worker.is_none());
}

#[test]
fn out_of_time_states_are_told_without_hashes() {
    let tree = Tree::new(&["etc/ssh/a"]);
    let root = tree.root();
    let limits = Limits { hashing: Duration::ZERO, ..Limits::default() };
    let (mut prober, _) = Prober::start(&root, Layers::ALL, limits).unwrap();
    let answer = prober.look(&root, &grants(), &[item("etc/ssh/a", Some(9))]).remove(0);
    assert_eq!(answer.present().map(|present| (present.size, present.sha256)), Some((9, None)));
}

#[test]
fn a_mount_made_after_the_start_is_seen() {
    own_mounts();
    let tree = Tree::new(&["etc/ssh/a"]);
    let root = tree.root();
    let (mut prober, _) = Prober::start(&root, Layers::ALL, Limits::default()).unwrap();
    tree.mount("proc", "etc/ssh");
    let answers = prober.look(&root, &grants(), &[item("etc/ssh/a", None)]);
    assert_eq!(answers, [Target::Blocked(Blocked::ForeignFileSystem)]);
}

#[test]
fn only_what_settled_before_it_was_hashed_is_known() {
    let tree = Tree::new(&["etc/ssh/a"]);
    let root = tree.root();
    let target = look(&root, &path("etc/ssh/a"), Some(9)).target;
    let present = target.present().unwrap();
    let mut known = Known::new().unwrap();
    known.remember(&target, present.ctime.secs + SETTLED_SECS);
    assert!(!known.holds(present), "it may have changed within one tick");
    known.remember(&target, present.ctime.secs + SETTLED_SECS + 1);
    assert!(known.holds(present));
    for field in 0..8 {
        let mut other = present.clone();
        match field {
            0 => other.ctime.nanos ^= 1,
            1 => other.ino += 1,
            2 => other.size += 1,
            3 => other.dev += 1,
            4 => other.mtime.secs += 1,
            5 => other.sha256 = Some(Digest::of(b"other")),
            6 => other.sha256 = None,
            _ => other.xattrs = Digest::of(b"other"),
        }
        assert!(!known.holds(&other), "{field}");
    }
}

#[test]
fn what_was_probed_is_known_to_the_check() {
    let tree = Tree::new(&["etc/ssh/a"]);
    let root = tree.root();
    let (mut prober, _) = Prober::start(&root, Layers::ALL, Limits::default()).unwrap();
    std::thread::sleep(Duration::from_millis(SETTLED_SECS as u64 * 1000 + 1100));
    let answer = prober.look(&root, &grants(), &[item("etc/ssh/a", Some(9))]).remove(0);
    let present = answer.present().unwrap();
    assert!(prober.contents(&root).knows(present));
    let other = Present { sha256: Some(Digest::of(b"etc/ssh/b")), ..present.clone() };
    assert!(!prober.contents(&root).knows(&other));
    assert_eq!(prober.contents(&root).look(&[item("etc/ssh/a", Some(9))]), [answer]);
}
