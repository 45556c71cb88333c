//! The writer on a real file system: what it puts in place is exact, and what fails leaves nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking too"
)]

mod support;

use proxsave_helper::cage::Layers;
use proxsave_helper::writer::ToWriter;
use proxsave_proto::message::Phase;
use proxsave_proto::plan::{Meta, Node};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};
use support::*;

const IDLE: Duration = Duration::from_secs(20);

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn owned(mode: u16, uid: u32, gid: u32) -> Meta {
    Meta { uid, gid, ..meta(mode) }
}

fn mode_of(at: &Path) -> u32 {
    fs::symlink_metadata(at).unwrap().mode() & 0o7777
}

fn mtime_of(at: &Path) -> (i64, i64) {
    let stat = fs::symlink_metadata(at).unwrap();
    (stat.mtime(), stat.mtime_nsec())
}

const TIME: (i64, i64) = (1_600_000_000, 123_456_789);

#[test]
fn a_whole_tree_comes_out_exact() {
    let tmp = dir();
    let root = tmp.path();
    fs::create_dir_all(root.join("etc/existing")).unwrap();
    let odd: &[u8] = b"odd \n\xff\\name \xe2\x80\xae.conf";
    let odd_path = [b"etc/new/", odd].concat();
    let mut hollow = vec![0u8; 1 << 20];
    hollow[300_000] = 1;
    let sparse =
        Node::File { size: 1 << 20, sha256: proxsave_proto::Digest::of(&hollow), sparse: true, meta: meta(0o644) };
    let mut rich = owned(0o640, 12, 34);
    rich.xattrs = vec![acl(), xattr("user.note", b"a\0b")];
    let mut capable = owned(0o755, 12, 0);
    capable.xattrs = vec![capability()];
    let big: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let long_name = "n".repeat(255);
    let things = vec![
        (path("etc/hosts"), file(b"127.0.0.1 localhost\n", meta(0o644))),
        (path("etc/new"), Node::Dir { meta: owned(0o1755, 7, 8) }),
        (path(&odd_path), file(b"odd", owned(0o4755, 33, 44))),
        (path("etc/new/deep/er/file"), file(b"deep", meta(0o400))),
        (path("etc/new/link"), Node::Symlink { target: b"/etc/shadow".to_vec(), meta: owned(0o777, 5, 6) }),
        (path("etc/new/hard"), Node::Hardlink { to: path("etc/hosts") }),
        (path("etc/new/empty"), file(b"", meta(0o600))),
        (path("etc/new/copy"), file(b"127.0.0.1 localhost\n", owned(0o600, 1, 1))),
        (path("etc/sparse"), sparse),
        (path("etc/rich"), file(b"rich", rich)),
        (path("etc/capable"), file(b"capable", capable)),
        (path("opt/big"), file(&big, meta(0o644))),
        (path(format!("opt/{long_name}")), file(b"long", meta(0o644))),
        (path("etc/existing"), Node::Dir { meta: owned(0o2750, 3, 4) }),
        (path("etc/existing/inside"), file(b"inside", meta(0o644))),
    ];
    let plan = plan(root, things);
    let content: Vec<(&str, &[u8])> = vec![
        ("opt/big", &big),
        ("etc/hosts", b"127.0.0.1 localhost\n"),
        ("etc/new/deep/er/file", b"deep"),
        ("etc/sparse", &hollow),
        ("etc/rich", b"rich"),
        ("etc/capable", b"capable"),
        ("etc/existing/inside", b"inside"),
    ];
    let mut bytes = stream(&plan, &content);
    let at = |wanted: &[u8]| plan.entries.iter().position(|e| e.path.as_bytes() == wanted).unwrap() as u32;
    bytes.extend([&at(&odd_path).to_le_bytes()[..], b"odd"].concat());
    bytes.extend([&at(format!("opt/{long_name}").as_bytes()).to_le_bytes()[..], b"long"].concat());
    let mut running = start(root, &plan, Layers::ALL, IDLE);
    running.feed(&bytes);
    running.staged().unwrap();
    assert!(!root.join("etc/hosts").exists() && !root.join("opt").exists(), "visible before its time");
    let outcome = running.commit();
    assert_eq!((outcome.phase, outcome.failed, &outcome.error), (Phase::Done, 0, &None));
    assert_eq!(outcome.written.iter().map(|(_, n)| n).sum::<u64>(), plan.entries.len() as u64);
    assert_eq!(leftovers(root), Vec::<std::path::PathBuf>::new());

    assert_eq!(fs::read(root.join("etc/hosts")).unwrap(), b"127.0.0.1 localhost\n");
    assert_eq!(fs::read(root.join("opt/big")).unwrap(), big);
    assert_eq!(fs::read(root.join("etc/sparse")).unwrap(), hollow);
    assert!(fs::metadata(root.join("etc/sparse")).unwrap().blocks() <= 16, "the hole was filled");
    assert_eq!(fs::read(root.join("etc/new/copy")).unwrap(), b"127.0.0.1 localhost\n");
    assert_eq!(fs::read(root.join("etc/new/empty")).unwrap(), b"");
    assert_eq!(fs::read_link(root.join("etc/new/link")).unwrap(), Path::new("/etc/shadow"));
    let (hosts, hard) =
        (fs::metadata(root.join("etc/hosts")).unwrap(), fs::metadata(root.join("etc/new/hard")).unwrap());
    assert_eq!((hosts.ino(), hosts.nlink()), (hard.ino(), 2));
    for entry in &plan.entries {
        let at = on_disk(root, &entry.path);
        let stat = fs::symlink_metadata(&at).unwrap();
        let Some(meta) = entry.node.meta() else { continue };
        assert_eq!((stat.uid(), stat.gid()), (meta.uid, meta.gid), "{}", entry.path);
        assert_eq!(stat.mode() & 0o7777, u32::from(meta.mode), "{}", entry.path);
        if meta.mtime.is_some() {
            assert_eq!((stat.mtime(), stat.mtime_nsec()), TIME, "{}", entry.path);
        }
    }
    let odd_on_disk = root.join("etc/new").join(std::ffi::OsStr::from_bytes(odd));
    assert_eq!(mode_of(&odd_on_disk), 0o4755);
    assert_eq!(xattrs(&root.join("etc/rich"))[&b"user.note"[..]], b"a\0b");
    assert_eq!(xattrs(&root.join("etc/rich"))[&b"system.posix_acl_access"[..]], acl().value);
    assert_eq!(xattrs(&root.join("etc/capable"))[&b"security.capability"[..]], capability().value);
}

/// user::rw- user:7:r-- group::r-- mask::r-- other::---
fn acl() -> proxsave_proto::plan::Xattr {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in [(1u16, 6u16, u32::MAX), (2, 4, 7), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(rights.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    xattr("system.posix_acl_access", &value)
}

/// cap_net_raw+ep
fn capability() -> proxsave_proto::plan::Xattr {
    let words = [0x0200_0001u32, 1 << 13, 0, 0, 0];
    xattr("security.capability", &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
}

#[test]
fn what_stands_is_replaced_and_never_followed() {
    let tmp = dir();
    let root = tmp.path();
    fs::create_dir(root.join("etc")).unwrap();
    fs::write(root.join("outside"), "secret").unwrap();
    fs::write(root.join("etc/file"), "old").unwrap();
    fs::hard_link(root.join("etc/file"), root.join("other-name")).unwrap();
    symlink("../outside", root.join("etc/link")).unwrap();
    symlink("nowhere", root.join("etc/becomes-link")).unwrap();
    let things = vec![
        (path("etc/file"), file(b"new", meta(0o600))),
        (path("etc/link"), file(b"file now", meta(0o644))),
        (path("etc/becomes-link"), Node::Symlink { target: b"there".to_vec(), meta: meta(0o777) }),
    ];
    let plan = plan(root, things);
    let outcome = restore(root, &plan, &[("etc/file", b"new"), ("etc/link", b"file now")]);
    assert_eq!((outcome.phase, outcome.error), (Phase::Done, None));
    assert_eq!(fs::read(root.join("etc/file")).unwrap(), b"new");
    assert_eq!(fs::read(root.join("other-name")).unwrap(), b"old", "another name of the old file was written to");
    assert!(fs::symlink_metadata(root.join("etc/link")).unwrap().is_file());
    assert_eq!(fs::read(root.join("outside")).unwrap(), b"secret");
    assert_eq!(fs::read_link(root.join("etc/becomes-link")).unwrap(), Path::new("there"));
    assert!(leftovers(root).is_empty());
}

#[test]
fn directories_keep_or_get_their_times() {
    let tmp = dir();
    let root = tmp.path();
    for name in ["a", "b"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("f"), "old").unwrap();
    }
    let things = vec![
        (path("a"), Node::Dir { meta: meta(0o711) }),
        (path("a/f"), file(b"new", meta(0o644))),
        (path("b/g"), file(b"too", meta(0o644))),
    ];
    let before = mtime_of(root);
    let plan = plan(root, things);
    let outcome = restore(root, &plan, &[("a/f", b"new"), ("b/g", b"too")]);
    assert_eq!((outcome.phase, outcome.error), (Phase::Done, None));
    assert_eq!((mtime_of(&root.join("a")), mode_of(&root.join("a"))), (TIME, 0o711));
    assert_eq!(mtime_of(root), before, "no name was made in the root");
}

#[test]
fn files_do_not_inherit_from_the_directory() {
    let tmp = dir();
    let root = tmp.path();
    fs::create_dir(root.join("d")).unwrap();
    std::os::unix::fs::chown(root.join("d"), Some(5), Some(6)).unwrap();
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o2777)).unwrap();
    assert!(
        std::process::Command::new("setfacl")
            .args(["-d", "-m", "u:7:rwx"])
            .arg(root.join("d"))
            .status()
            .unwrap()
            .success()
    );
    let things = vec![(path("d/f"), file(b"f", meta(0o600))), (path("d/n"), Node::Dir { meta: meta(0o700) })];
    let plan = plan(root, things);
    assert_eq!(restore(root, &plan, &[("d/f", b"f")]).phase, Phase::Done);
    for (name, mode) in [("d/f", 0o600), ("d/n", 0o700)] {
        let stat = fs::metadata(root.join(name)).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (mode, 0, 0), "{name}");
        assert!(xattrs(&root.join(name)).is_empty(), "{name}: {:?}", xattrs(&root.join(name)));
    }
}

#[test]
fn deep_and_wide_trees() {
    let tmp = dir();
    let root = tmp.path();
    let deep = vec!["d"; 1500].join("/");
    let mut things = vec![(path(format!("{deep}/end")), file(b"end", meta(0o644)))];
    let names: Vec<String> = (0..400).map(|n| format!("w{}/f{n}", n % 20)).collect();
    things.extend(names.iter().map(|name| (path(name), file(name.as_bytes(), meta(0o644)))));
    let plan = plan(root, things);
    let end = format!("{deep}/end");
    let mut content: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    content.push((&end, b"end"));
    let outcome = restore(root, &plan, &content);
    assert_eq!((outcome.phase, outcome.error), (Phase::Done, None));
    assert_eq!(fs::read(root.join(&end)).unwrap(), b"end");
    assert!(names.iter().all(|name| fs::read(root.join(name)).unwrap() == name.as_bytes()));
}

/// Runs a stream that must fail; the tree must be exactly as it was.
fn fails(bytes: impl FnOnce(&proxsave_proto::Plan) -> Vec<u8>) -> String {
    let tmp = dir();
    let root = tmp.path();
    fs::create_dir(root.join("etc")).unwrap();
    fs::write(root.join("etc/a"), "old").unwrap();
    let things = vec![
        (path("etc/a"), file(b"aaaa", meta(0o644))),
        (path("etc/b"), file(b"bbbb", meta(0o644))),
        (path("etc/dir/c"), file(b"aaaa", meta(0o644))),
        (path("etc/e"), file(b"", meta(0o644))),
    ];
    let plan = plan(root, things);
    let before = snapshot(root);
    let mut running = start(root, &plan, Layers::ALL, IDLE);
    running.feed(&bytes(&plan));
    let outcome = running.staged().expect_err("it was staged");
    assert_eq!((outcome.phase, outcome.failed, outcome.written.len()), (Phase::Failed, 0, 0));
    assert_eq!(snapshot(root), before);
    outcome.error.unwrap()
}

#[test]
fn a_wrong_stream_leaves_nothing() {
    let good = |plan: &_| stream(plan, &[("etc/a", b"aaaa"), ("etc/b", b"bbbb")]);
    assert!(fails(|plan| stream(plan, &[("etc/a", b"aaaa"), ("etc/b", b"bbbx")])).contains("not what the plan says"));
    assert!(fails(|plan| stream(plan, &[("etc/a", b"aaaa")])).contains("before every content"));
    assert!(fails(|_| Vec::new()).contains("before every content"));
    assert!(fails(|plan| good(plan)[..10].to_vec()).contains("inside a record"));
    assert!(fails(|plan| good(plan)[..7].to_vec()).contains("inside a file"));
    assert!(fails(|plan| [good(plan), stream(plan, &[("etc/b", b"bbbb")])].concat()).contains("twice"));
    assert!(fails(|plan| [good(plan), stream(plan, &[("etc/dir/c", b"aaaa")])].concat()).contains("should not carry"));
    assert!(fails(|plan| [good(plan), stream(plan, &[("etc/e", b"")])].concat()).contains("should not carry"));
    assert!(fails(|plan| [good(plan), 77u32.to_le_bytes().to_vec()].concat()).contains("does not have"));
    assert!(fails(|plan| [stream(plan, &[("etc/dir", b"")]), good(plan)].concat()).contains("no file"));
}

#[test]
fn silence_fails_after_the_deadline() {
    let tmp = dir();
    let root = tmp.path();
    let plan = plan(root, vec![(path("etc/a"), file(b"aaaa", meta(0o644)))]);
    let before = snapshot(root);
    let mut running = start(root, &plan, Layers::ALL, Duration::from_millis(300));
    running.content.as_mut().unwrap().write_all(&record(&plan, "etc/a", b"aa")).unwrap();
    let begun = Instant::now();
    let outcome = running.staged().expect_err("it was staged");
    assert!(outcome.error.unwrap().contains("no content came"));
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(snapshot(root), before);
}

#[test]
fn a_cancelled_restore_leaves_nothing() {
    for late in [false, true] {
        let tmp = dir();
        let root = tmp.path();
        let plan = plan(root, vec![(path("etc/a"), file(b"aaaa", meta(0o644)))]);
        let before = snapshot(root);
        let mut running = start(root, &plan, Layers::ALL, IDLE);
        if late {
            running.feed(&stream(&plan, &[("etc/a", b"aaaa")]));
            running.staged().unwrap();
        }
        running.writer.send(ToWriter::Cancel).unwrap();
        assert_eq!(running.over().phase, Phase::Cancelled);
        assert_eq!(snapshot(root), before);
    }
}

#[test]
fn what_an_owner_puts_in_the_place_of_a_staging_directory_stays() {
    for commit in [false, true] {
        let tmp = dir();
        let root = tmp.path();
        fs::create_dir_all(root.join("home/another's/inner")).unwrap();
        fs::write(root.join("home/another's/inner/file"), "kept").unwrap();
        fs::set_permissions(root.join("home/another's"), fs::Permissions::from_mode(0o700)).unwrap();
        let plan = plan(root, vec![(path("home/a"), file(b"aaaa", meta(0o644)))]);
        let mut running = start(root, &plan, Layers::ALL, IDLE);
        running.feed(&stream(&plan, &[("home/a", b"aaaa")]));
        running.staged().unwrap();
        let stage = leftovers(root).pop().unwrap();
        // Who owns a directory can rename what is in it, but not remove what is in others' directories there.
        fs::rename(&stage, root.join("home/moved")).unwrap();
        fs::rename(root.join("home/another's"), &stage).unwrap();
        running.writer.send(if commit { ToWriter::Commit } else { ToWriter::Cancel }).unwrap();
        running.over();
        assert_eq!(fs::read_to_string(stage.join("inner/file")).unwrap(), "kept");
        assert_eq!(fs::read_dir(root.join("home/moved")).unwrap().count(), 0, "what was staged is gone");
        assert_eq!(root.join("home/a").exists(), commit);
    }
}

#[test]
fn what_changed_after_the_check_fails_the_whole() {
    type Change = (&'static str, fn(&Path));
    let changes: [Change; 5] = [
        ("content", |root| fs::write(root.join("etc/b"), "changed").unwrap()),
        ("appeared", |root| fs::write(root.join("etc/c"), "new").unwrap()),
        ("gone", |root| fs::remove_file(root.join("etc/a")).unwrap()),
        ("mode", |root| fs::set_permissions(root.join("etc/a"), fs::Permissions::from_mode(0o640)).unwrap()),
        ("directory", |root| fs::set_permissions(root.join("etc/d"), fs::Permissions::from_mode(0o700)).unwrap()),
    ];
    for (what, change) in changes {
        let tmp = dir();
        let root = tmp.path();
        fs::create_dir_all(root.join("etc/d")).unwrap();
        fs::write(root.join("etc/a"), "old a").unwrap();
        fs::write(root.join("etc/b"), "old b").unwrap();
        let things = vec![
            (path("etc/a"), file(b"new a", meta(0o644))),
            (path("etc/b"), file(b"new b", meta(0o644))),
            (path("etc/c"), file(b"new c", meta(0o644))),
            (path("etc/d"), Node::Dir { meta: meta(0o711) }),
        ];
        let plan = plan(root, things);
        let mut running = start(root, &plan, Layers::ALL, IDLE);
        running.feed(&stream(&plan, &[("etc/a", b"new a"), ("etc/b", b"new b"), ("etc/c", b"new c")]));
        running.staged().unwrap();
        change(root);
        let outcome = running.commit();
        assert_eq!((outcome.phase, outcome.written.len()), (Phase::Failed, 0), "{what}");
        assert!(outcome.error.unwrap().contains("changed since the plan"), "{what}");
        assert!(leftovers(root).is_empty(), "{what}");
        for name in ["a", "b", "c"] {
            let text = fs::read_to_string(root.join("etc").join(name)).unwrap_or_default();
            assert!(!text.starts_with("new "), "{what}: {name} was put in place");
        }
    }
}

#[test]
fn another_directory_at_an_anchor_is_not_written_to() {
    let tmp = dir();
    let root = tmp.path();
    fs::create_dir(root.join("etc")).unwrap();
    let mut plan = plan(root, vec![(path("etc/a"), file(b"aaaa", meta(0o644)))]);
    plan.anchors[0].ino += 1;
    let mut running = start(root, &plan, Layers::ALL, IDLE);
    assert!(running.staged().expect_err("staged").error.unwrap().contains("another directory"));
    assert!(leftovers(root).is_empty());
}

#[test]
fn a_killed_writer_leaves_no_partial_file() {
    let mut seed = 12345u64;
    let (mut none, mut all) = (0, 0);
    for round in 0..40 {
        let tmp = dir();
        let root = tmp.path();
        fs::create_dir(root.join("etc")).unwrap();
        let body: Vec<(String, Vec<u8>)> = (0..60u32).map(|n| (format!("etc/f{n}"), vec![n as u8; 20_000])).collect();
        for (name, _) in body.iter().step_by(2) {
            fs::write(root.join(name), "old").unwrap();
        }
        let things = body.iter().map(|(name, bytes)| (path(name), file(bytes, meta(0o644)))).collect();
        let plan = plan(root, things);
        let content: Vec<(&str, &[u8])> = body.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        let mut running = start(root, &plan, Layers::ALL, IDLE);
        running.feed(&stream(&plan, &content));
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_micros((seed >> 33) % 12_000));
        } else if running.staged().is_ok() {
            running.writer.send(ToWriter::Commit).unwrap();
            std::thread::sleep(Duration::from_micros((seed >> 33) % 3_000));
        }
        running.writer.kill();
        running.writer.wait().unwrap();
        let mut new = 0;
        for (index, (name, bytes)) in body.iter().enumerate() {
            match fs::read(root.join(name)) {
                Ok(found) if found == *bytes => new += 1,
                Ok(found) => assert!(found == b"old" && index % 2 == 0, "{name} is partial"),
                Err(_) => assert!(index % 2 == 1, "{name} is gone"),
            }
        }
        none += usize::from(new == 0);
        all += usize::from(new == body.len());
        for left in leftovers(root) {
            assert_eq!(mode_of(&left), 0o700);
            let parent = fs::File::open(left.parent().unwrap()).unwrap();
            proxsave_helper::writer::remove_tree(
                std::os::fd::AsFd::as_fd(&parent),
                left.file_name().unwrap().as_bytes(),
            )
            .unwrap();
        }
        assert!(leftovers(root).is_empty());
    }
    assert!(none > 0 && all < 40, "never killed at a moment that matters: {none} {all}");
}

#[test]
fn an_entry_that_fails_late_is_told_and_the_rest_goes_on() {
    // A directory that is made immutable takes no name: its entries fail, the others are put in place.
    let tmp = dir();
    let root = tmp.path();
    for name in ["a", "b"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("f"), "old").unwrap();
    }
    let plan = plan(root, vec![(path("a/f"), file(b"new a", meta(0o644))), (path("b/f"), file(b"new b", meta(0o644)))]);
    let mut running = start(root, &plan, Layers::ALL, IDLE);
    running.feed(&stream(&plan, &[("a/f", b"new a"), ("b/f", b"new b")]));
    running.staged().unwrap();
    let chattr =
        |flag: &str| std::process::Command::new("chattr").arg(flag).arg(root.join("a")).status().unwrap().success();
    assert!(chattr("+i"));
    let outcome = running.commit();
    assert!(chattr("-i"));
    assert_eq!((outcome.phase, outcome.failed), (Phase::Failed, 1));
    assert_eq!(running.failed.len(), 1);
    assert_eq!(fs::read(root.join("a/f")).unwrap(), b"old");
    assert_eq!(fs::read(root.join("b/f")).unwrap(), b"new b");
}

#[test]
fn sparse_content_in_odd_pieces_keeps_its_holes() {
    let tmp = dir();
    let root = tmp.path();
    let mut bytes = vec![0u8; 3 << 20];
    bytes[0] = 1;
    bytes[(2 << 20) + 5] = 2;
    let node = Node::File {
        size: bytes.len() as u64,
        sha256: proxsave_proto::Digest::of(&bytes),
        sparse: true,
        meta: meta(0o644),
    };
    let plan = plan(root, vec![(path("a"), file(b"abc", meta(0o644))), (path("s"), node)]);
    let mut running = start(root, &plan, Layers::ALL, IDLE);
    let all = stream(&plan, &[("a", b"abc"), ("s", &bytes)]);
    let mut pipe = running.content.take().unwrap();
    std::thread::spawn(move || all.chunks(33_333).for_each(|piece| pipe.write_all(piece).unwrap()));
    running.staged().unwrap();
    assert_eq!(running.commit().phase, Phase::Done);
    let written = fs::File::open(root.join("s")).unwrap();
    assert_eq!(fs::read(root.join("s")).unwrap(), bytes);
    assert!(written.metadata().unwrap().blocks() <= 24, "{} blocks", written.metadata().unwrap().blocks());
    let mut last = [1];
    written.read_exact_at(&mut last, (3 << 20) - 1).unwrap();
    assert_eq!(last, [0]);
}
