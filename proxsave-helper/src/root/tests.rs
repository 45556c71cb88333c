//! Looking at real trees: kinds, odd names, links, mounts, races.

use super::testing::{Tree, blocked, full, look, own_mounts, path};
use super::{OpenError, Presence, Walk};
use proxsave_proto::plan::Xattr;
use proxsave_proto::state::{Blocked, Kind, Target};
use proxsave_proto::{Digest, RelPath};
use rustix::fs::XattrFlags;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn every_kind_is_told_and_content_hashed_only_for_the_size_asked() {
    let tree = Tree::new(&["etc/ssh/config", "etc/ssh/dir/"]);
    tree.link("../../outside", "etc/ssh/link");
    let fifo = tree.at("etc/ssh/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let root = tree.root();
    let seen = |name: &str, size| look(&root, &path(name), size).target.present().cloned().unwrap();
    let file = seen("etc/ssh/config", Some(14));
    assert_eq!((file.kind, file.size, file.nlink), (Kind::File, 14, 1));
    assert_eq!(file.sha256, Some(Digest::of(b"etc/ssh/config")));
    assert_eq!(seen("etc/ssh/config", Some(13)).sha256, None);
    assert_eq!(seen("etc/ssh/config", None).sha256, None);
    assert_eq!(seen("etc/ssh/dir", Some(0)).kind, Kind::Dir);
    assert_eq!(seen("etc/ssh/link", None).link, Some(b"../../outside".to_vec()));
    assert_eq!(seen("etc/ssh/fifo", Some(0)).kind, Kind::Special);
    let meta = std::fs::metadata(tree.at("etc/ssh/config")).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((file.dev, file.ino, u32::from(file.mode)), (meta.dev(), meta.ino(), meta.mode() & 0o7777));
    assert_eq!((file.ctime.secs, i64::from(file.ctime.nanos)), (meta.ctime(), meta.ctime_nsec()));
}

#[test]
fn only_attributes_that_a_restore_sets_are_hashed() {
    let tree = Tree::new(&["etc/ssh/f"]);
    let (root, at) = (tree.root(), tree.at("etc/ssh/f"));
    let digest = || look(&root, &path("etc/ssh/f"), None).target.present().unwrap().xattrs;
    assert_eq!(digest(), Xattr::digest(&[]));
    for (name, value) in [("user.b", &b"2"[..]), ("trusted.x", b"no"), ("user.a", b"\0\xff")] {
        rustix::fs::setxattr(&at, name, value, XattrFlags::empty()).unwrap();
    }
    let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.into() };
    let both = [xattr("user.a", b"\0\xff"), xattr("user.b", b"2")];
    assert_eq!(digest(), Xattr::digest(&both));
    // A capability: version 2, CAP_CHOWN permitted and effective.
    let capability = [1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(&at, "security.capability", &capability, XattrFlags::empty()).unwrap();
    let [a, b] = both;
    assert_eq!(digest(), Xattr::digest(&[xattr("security.capability", &capability), a, b]));
}

#[test]
fn what_is_absent_is_told_with_the_deepest_directory_there_is() {
    let tree = Tree::new(&["etc/ssh/", "etc/plain"]);
    let root = tree.root();
    let anchor = |name: &str| match look(&root, &path(name), None).target {
        Target::Absent(anchor) => {
            assert_eq!(root.anchor_of(&path(name)).unwrap(), anchor);
            (anchor.depth, anchor.ino)
        }
        other => panic!("{name}: {other:?}"),
    };
    use std::os::unix::fs::MetadataExt as _;
    let ino = |name: &str| std::fs::metadata(tree.at(name)).unwrap().ino();
    assert_eq!(anchor("etc/ssh/x"), (2, ino("etc/ssh")));
    assert_eq!(anchor("etc/ssh/a/b/c"), (2, ino("etc/ssh")));
    assert_eq!(anchor("home/a"), (0, ino("")));
    assert_eq!(anchor("x"), (0, ino("")));
    assert_eq!(blocked(&root, "etc/plain/x"), Some(Blocked::NotADirectory));
    assert_eq!(blocked(&root, "etc/plain/x/y"), Some(Blocked::NotADirectory));
}

#[test]
fn one_walk_answers_as_many_walks_do() {
    let tree = Tree::new(&["etc/a/x", "etc/a/b/y", "etc/c", "home/u/f"]);
    let root = tree.root();
    let names =
        ["etc", "etc/a", "etc/a/b/y", "etc/a/b/z/1", "etc/a/b/z/2/3", "etc/a/x", "etc/c", "etc/c/d", "home/u/f"];
    let mut walk = Walk::new(&root);
    for name in names.iter().chain(names.iter().rev()) {
        let one = walk.look(&path(name), full(None), &mut |_| true).unwrap();
        assert_eq!(one, look(&root, &path(name), None), "{name}");
    }
}

#[test]
fn links_on_the_way_are_refused_wherever_they_lead() {
    let tree = Tree::new(&["etc/ssh/f", "real/f"]);
    tree.link("real", "inside");
    tree.link("/etc", "outside");
    tree.link("..", "up");
    tree.link("nowhere", "dangling");
    let root = tree.root();
    for name in ["inside/f", "outside/hosts", "up/x", "dangling/x", "inside/a/b/c"] {
        assert_eq!(blocked(&root, name), Some(Blocked::SymlinkOnTheWay), "{name}");
        let dir = path(name).components().next().map(|first| RelPath::from_archive(first).unwrap()).unwrap();
        assert!(matches!(root.open_dir(&dir), Err(OpenError::Blocked(Blocked::SymlinkOnTheWay))), "{name}");
    }
    assert_eq!(look(&root, &path("inside"), None).target.present().unwrap().kind, Kind::Symlink);
}

#[test]
fn odd_names_are_names() {
    let tree = Tree::new(&["home/"]);
    let root = tree.root();
    let long = [b'x'; 255];
    for name in [&b"a\nb"[..], b"\xff\xfe", b"..x", b"a b", b"-rf", b"\\", b"\x1b[2J", &long] {
        let file = path("home").join(name).unwrap();
        std::fs::write(tree.of(&file), b"1").unwrap();
        let seen = look(&root, &file, Some(1));
        assert_eq!(seen.target.present().unwrap().sha256, Some(Digest::of(b"1")), "{file}");
    }
    let deep = RelPath::from_archive("home/".to_owned().repeat(800).as_bytes()).unwrap();
    assert!(matches!(look(&root, &deep, None).target, Target::Absent(anchor) if anchor.depth == 1));
}

#[test]
fn guarded_paths_are_refused_by_name() {
    let tree = Tree::new(&["etc/pve/storage.cfg", "var/lib/proxsave/audit.jsonl"]);
    let root = tree.root();
    for name in ["etc/pve", "etc/pve/storage.cfg", "var/lib/proxsave/audit.jsonl", "proc/1/mem"] {
        assert_eq!(blocked(&root, name), Some(Blocked::Guarded), "{name}");
        assert!(matches!(root.open_dir(&path(name)), Err(OpenError::Blocked(Blocked::Guarded))), "{name}");
    }
}

#[test]
fn the_machines_own_root_is_a_root() {
    let root = super::Root::open(std::path::Path::new("/")).unwrap();
    assert_eq!(root.path(), b"/");
    assert!(look(&root, &path("etc/passwd"), None).target.present().is_some());
    assert_eq!(look(&root, &path("usr"), None).target.anchor().unwrap().depth, 0);
    assert_eq!(blocked(&root, "dev/null"), Some(Blocked::Guarded));
    assert!(root.open_dir(&RelPath::root()).is_ok());
}

#[test]
fn whether_something_is_there_is_told_without_following() {
    let tree = Tree::new(&["etc/pve/", "usr/bin/qm"]);
    tree.link("nowhere", "usr/bin/pct");
    tree.link("usr/bin", "bin");
    let root = tree.root();
    for (name, presence) in [
        ("etc/pve", Presence::There),
        ("usr/bin/qm", Presence::There),
        ("usr/bin/pct", Presence::There),
        ("usr/bin/qm/x", Presence::NotThere),
        ("usr/sbin", Presence::NotThere),
        ("bin/qm", Presence::BehindLink),
    ] {
        assert_eq!(root.presence(&path(name)).unwrap(), presence, "{name}");
    }
}

#[test]
fn another_name_for_a_guarded_directory_is_guarded_too() {
    own_mounts();
    let tree =
        Tree::new(&["etc/pve/priv/key", "state/tx/r", "srv/pve/", "srv/priv/", "srv/etc/", "srv/state/", "home/u/"]);
    tree.bind("etc/pve", "srv/pve");
    tree.bind("etc/pve/priv", "srv/priv");
    tree.bind("etc", "srv/etc");
    tree.bind("state", "srv/state");
    let mut root = tree.root();
    for name in ["srv/pve/x", "srv/priv/key", "srv/etc/pve/x", "srv/etc/pve/priv/key"] {
        assert_eq!(blocked(&root, name), Some(Blocked::Guarded), "{name}");
    }
    assert_eq!(blocked(&root, "srv/etc/x"), None, "what is beside a guarded directory is not");
    assert_eq!(blocked(&root, "srv/state/tx/r"), None);
    root.guard(rustix::fs::open(tree.at("state"), super::DIR_FLAGS, 0.into()).unwrap().as_fd()).unwrap();
    for name in ["srv/state/tx/r", "state/x", "state/tx/r"] {
        assert_eq!(blocked(&root, name), Some(Blocked::Guarded), "{name}");
    }
    assert_eq!(blocked(&root, "home/u/f"), None);
}

#[test]
fn a_guarded_name_is_guarded_by_whatever_way_it_is_reached_there_or_not() {
    own_mounts();
    let tree = Tree::new(&["etc/pve/", "usr/local/bin/proxsave-ui", "usr/lib/", "home/u/state/", "srv/all/", "home/f"]);
    tree.bind("", "srv/all");
    let mut root = tree.root();
    for name in ["etc/pve", "usr/local/bin/proxsave-ui", "usr/lib/proxsave", "etc/proxsave/policy.toml", "run/x/y"] {
        assert_eq!(blocked(&root, &format!("srv/all/{name}")), Some(Blocked::Guarded), "{name}");
    }
    assert_eq!(blocked(&root, "srv/all/usr/lib/other/x"), None);
    for name in ["home/u/state", "home/f"] {
        assert_eq!(blocked(&root, name), None);
        let flags = rustix::fs::OFlags::PATH;
        root.guard(rustix::fs::open(tree.at(name), flags, 0.into()).unwrap().as_fd()).unwrap();
        assert_eq!(blocked(&root, name), Some(Blocked::Guarded), "the name itself");
    }
}

#[test]
fn what_is_mounted_on_a_guarded_path_is_guarded_under_every_name() {
    own_mounts();
    let tree = Tree::new(&["etc/pve/", "srv/elsewhere/", "home/"]);
    tree.mount("tmpfs", "etc/pve");
    tree.bind("etc/pve", "srv/elsewhere");
    let root = tree.root();
    assert_eq!(blocked(&root, "srv/elsewhere/storage.cfg"), Some(Blocked::Guarded));
    // The directory itself, as an entry in one that is not guarded.
    assert_eq!(blocked(&root, "srv/elsewhere"), Some(Blocked::Guarded));
    assert_eq!(blocked(&root, "home/x"), None);
}

#[test]
fn foreign_file_systems_are_refused_and_others_are_not() {
    own_mounts();
    let tree = Tree::new(&["etc/"]);
    let root = tree.root();
    for (kind, verdict) in [
        ("proc", Some(Blocked::ForeignFileSystem)),
        ("sysfs", Some(Blocked::ForeignFileSystem)),
        ("devtmpfs", Some(Blocked::ForeignFileSystem)),
        ("devpts", Some(Blocked::ForeignFileSystem)),
        ("tmpfs", None),
    ] {
        let name = format!("etc/{kind}");
        assert_eq!(blocked(&root, &format!("{name}/x")), None);
        tree.mount(kind, &name);
        root.refresh().unwrap();
        assert_eq!(blocked(&root, &format!("{name}/x")), verdict, "{kind}");
        assert_eq!(root.open_dir(&path(&name)).is_ok(), verdict.is_none(), "{kind}");
    }
}

#[test]
fn a_mount_that_appears_later_is_noticed_by_the_descriptor() {
    own_mounts();
    let tree = Tree::new(&["etc/ssh/f"]);
    let root = tree.root();
    let before = root.open_dir(&path("etc/ssh")).unwrap().id();
    // No refresh: the mount id is not in the table that the root read.
    tree.mount("tmpfs", "etc/ssh");
    let after = root.open_dir(&path("etc/ssh")).unwrap().id();
    assert_ne!(before.mount, after.mount);
    tree.mount("proc", "etc/ssh");
    assert!(matches!(root.open_dir(&path("etc/ssh")), Err(OpenError::Blocked(Blocked::ForeignFileSystem))));
}

#[test]
fn a_file_mounted_over_a_target_is_told() {
    own_mounts();
    let tree = Tree::new(&["etc/ssh/f", "other"]);
    tree.bind("other", "etc/ssh/f");
    assert_eq!(blocked(&tree.root(), "etc/ssh/f"), Some(Blocked::MountPoint));
}

#[test]
fn a_directory_that_turns_into_a_link_never_leads_out() {
    let outside = Tree::new(&["f"]);
    let tree = Tree::new(&["etc/ssh/f"]);
    tree.link(outside.dir.path().to_str().unwrap(), "etc/swap");
    let (root, stop) = (tree.root(), AtomicBool::new(false));
    let (mut inside, mut refused) = (0u32, 0u32);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (a, b) = (tree.at("etc/ssh"), tree.at("etc/swap"));
                rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, rustix::fs::RenameFlags::EXCHANGE)
                    .unwrap();
            }
        });
        for _ in 0..20_000 {
            match Walk::new(&root).look(&path("etc/ssh/f"), full(Some(9)), &mut |_| true) {
                Ok(seen) => match seen.target {
                    Target::Present(_, present) => {
                        assert_eq!(present.sha256, Some(Digest::of(b"etc/ssh/f")));
                        inside += 1;
                    }
                    Target::Blocked(Blocked::SymlinkOnTheWay) => refused += 1,
                    other => panic!("{other:?}"),
                },
                Err(error) => panic!("{error}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(inside > 0 && refused > 0, "{inside} {refused}");
}

use rustix::fd::AsFd as _;
