//! Archives that somebody else wrote, class by class. Whatever they hold, nothing outside the restore's targets
//! changes, and what is refused leaves no trace and an exit code.

use proxsave_tests::backup::{Backup, Codec};
use proxsave_tests::lab::Lab;
use proxsave_tests::snapshot::Snapshot;
use proxsave_tests::tarball::{Header, Tar, field, pax_record};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

/// What has to come of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// Not a byte of the root changes and the exit code is not 0.
    Refused,
    /// The good entry is restored, the bad one is not, and the exit code is not 0.
    Left,
    /// Refused, or restored within `/home/anna`.
    Contained,
    /// Restored: ordinary data, however odd.
    Restored,
}
use Expect::{Contained, Left, Refused, Restored};

/// A lab whose live tree holds links that lead out of it.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.populate();
    let outside = lab.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "victim").unwrap();
    symlink(&outside, lab.root().join("home/anna/out")).unwrap();
    symlink(outside.join("victim"), lab.root().join("home/anna/to-victim")).unwrap();
    symlink("../../../outside", lab.root().join("home/anna/up")).unwrap();
    lab
}

fn check(name: &str, tar: &[u8], expect: Expect) -> Result<(), String> {
    let lab = lab();
    let backup = Backup { codec: Codec::None, ..Backup::default() }.write(&lab.backups(), tar);
    let (root, outside) = (lab.snapshot(), Snapshot::of(&lab.path().join("outside")));
    let outcome = lab.restore(&backup, "pve", &[]);
    let changes = root.changes(&lab.snapshot());
    let say = |what: &str| Err(format!("{name}: {what}: exit {:?}, {changes:?}\n{outcome:?}", outcome.code));
    if !outside.changes(&Snapshot::of(&lab.path().join("outside"))).is_empty() {
        return say("something outside changed");
    }
    if outcome.stdout.contains('\x1b') || outcome.stderr.contains('\x1b') {
        return say("a raw escape was printed");
    }
    if !lab.snapshot().leftovers().is_empty() {
        return say("something was left behind");
    }
    let ok = outcome.code == Some(0);
    let inside = changes
        .iter()
        .all(|change| change.path.starts_with(b"home/anna/") || (matches!(&*change.path, b"home/anna" | b"home")));
    let is_good = |path: &[u8]| matches!(path, b"home/anna" | b"home/anna/good" | b"home/anna/s");
    match expect {
        Refused if ok => say("not refused"),
        Refused if !changes.is_empty() => say("refused, but changed something"),
        Left if ok => say("left out, but without an exit code"),
        Left if !changes.iter().all(|change| is_good(&change.path)) => say("wrote more than the good entry"),
        Contained if !ok && outcome.code != Some(8) && !changes.is_empty() => say("refused, but changed something"),
        Contained if !inside => say("changed something else"),
        Restored if !ok => say("refused"),
        Restored if !inside => say("changed something else"),
        _ => Ok(()),
    }
}

/// Runs cases two at a time and says all that went wrong.
fn run(cases: Vec<(&str, Vec<u8>, Expect)>) {
    let (queue, wrong) = (Mutex::new(cases), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((name, tar, expect)) = queue.lock().unwrap().pop() else { break };
                    if let Err(text) = check(name, &tar, expect) {
                        wrong.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// A good entry, so that an archive is not refused for being empty.
fn good() -> Tar {
    let mut tar = Tar::new();
    tar.file("./home/anna/good", "good");
    tar
}

fn with(build: impl FnOnce(&mut Tar) -> &mut Tar) -> Vec<u8> {
    let mut tar = good();
    build(&mut tar);
    tar.finish()
}

/// An entry with some field of its header set by hand.
fn odd(kind: u8, name: &str, size: u64, change: impl FnOnce(&mut Header) -> &mut Header) -> Vec<u8> {
    let mut header = Header::new(kind, name.as_bytes(), size);
    change(&mut header);
    with(|tar| tar.header(&header).body(&vec![b'x'; size.min(4096) as usize]))
}

#[test]
fn names_that_climb() {
    run(vec![
        ("dotdot in front", with(|t| t.file("../outside/x", "x")), Refused),
        ("dotdot in the middle", with(|t| t.file("./home/anna/../../../outside/x", "x")), Refused),
        ("dotdot that stays inside", with(|t| t.file("./home/anna/x/../y", "x")), Refused),
        ("dotdot at the end", with(|t| t.dir("./home/anna/..")), Refused),
        ("absolute", with(|t| t.file("/home/anna/x", "x")), Refused),
        ("four slashes", with(|t| t.file("////home/anna/x", "x")), Refused),
        ("empty", with(|t| t.file("", "x")), Refused),
        ("prefix that climbs", odd(b'0', "home/anna/x", 1, |h| h.set(field::PREFIX, b"..")), Refused),
        ("prefix that is absolute", odd(b'0', "anna/x", 1, |h| h.set(field::PREFIX, b"/home")), Refused),
        ("pax path that climbs", with(|t| t.pax(&[(b"path", b"../outside/x")]).file("./home/anna/x", "x")), Refused),
        ("GNU name that climbs", with(|t| t.gnu_long(b'L', b"../outside/x").file("./home/anna/x", "x")), Refused),
        ("dots that are names", with(|t| t.file("./home/anna/..x", "x").file("./home/anna/...", "x")), Restored),
        ("a sibling by prefix", with(|t| t.file("./home-x/f", "x").file("./rootx", "x")), Restored),
        ("the root itself", with(|t| t.entry(b'5', b"./", 0o700, b"", b"")), Contained),
    ]);
}

#[test]
fn several_names_for_one_entry() {
    let nul = [b"./home/anna/a\0b".as_slice()];
    run(vec![
        (
            "pax and GNU name",
            with(|t| t.pax(&[(b"path", b"./home/anna/a")]).gnu_long(b'L', b"./home/anna/b").file("./home/anna/c", "x")),
            Refused,
        ),
        ("NUL in a pax path", with(|t| t.pax(&[(b"path", nul[0])]).file("./home/anna/c", "x")), Refused),
        ("NUL in a GNU name", with(|t| t.gnu_long(b'L', nul[0]).file("./home/anna/c", "x")), Refused),
        (
            "a path twice",
            with(|t| t.pax(&[(b"path", b"./home/anna/a"), (b"path", b"./home/anna/b")]).file("./home/anna/c", "x")),
            Refused,
        ),
        (
            "a sparse name",
            with(|t| t.pax(&[(b"GNU.sparse.name", b"./home/anna/a")]).file("./home/anna/c", "x")),
            Refused,
        ),
    ]);
}

#[test]
fn links_and_what_comes_beneath() {
    run(vec![
        ("beneath its own link", with(|t| t.symlink("./home/anna/l", "/").file("./home/anna/l/x", "x")), Refused),
        (
            "beneath a chain",
            with(|t| t.symlink("./home/anna/a", "..").symlink("./home/anna/b", "a/..").file("./home/anna/b/x", "x")),
            Refused,
        ),
        (
            "through the magic link",
            with(|t| t.symlink("./home/anna/l", "/proc/self/root").file("./home/anna/l/outside/x", "x")),
            Refused,
        ),
        ("beneath a live link", with(|t| t.file("./home/anna/out/x", "x")), Left),
        ("beneath a live climbing link", with(|t| t.file("./home/anna/up/victim", "x")), Left),
        ("over a live link", with(|t| t.file("./home/anna/to-victim", "x")), Restored),
        ("a directory over a live link", with(|t| t.dir("./home/anna/out")), Left),
        (
            "links are data",
            with(|t| t.symlink("./home/anna/l", "/etc/shadow").symlink("./home/anna/m", "nowhere")),
            Restored,
        ),
        (
            "a link whose record differs from its field",
            with(|t| t.pax(&[(b"linkpath", b"/etc/shadow")]).symlink("./home/anna/l", "harmless")),
            Contained,
        ),
        ("a link without a target", with(|t| t.symlink("./home/anna/l", "")), Refused),
        ("a link with a body", odd(b'2', "./home/anna/l", 5, |h| h.set(field::LINK, b"x")), Refused),
    ]);
}

#[test]
fn hard_links() {
    run(vec![
        ("to an absolute path", with(|t| t.hardlink("./home/anna/l", "/etc/shadow")), Refused),
        ("that climbs", with(|t| t.hardlink("./home/anna/l", "../../etc/shadow")), Refused),
        ("to a live file", with(|t| t.hardlink("./home/anna/l", "./etc/shadow")), Left),
        ("to a live file of the same folder", with(|t| t.hardlink("./home/anna/l", "./home/anna/live.txt")), Left),
        (
            "to a file of the backup that is not selected (it becomes a file of its own)",
            with(|t| t.file("./srv/secret", "s").hardlink("./home/anna/l", "./srv/secret")),
            Restored,
        ),
        (
            "to a link",
            with(|t| t.symlink("./home/anna/s", "/etc/shadow").hardlink("./home/anna/l", "./home/anna/s")),
            Left,
        ),
        ("to itself", with(|t| t.hardlink("./home/anna/l", "./home/anna/l")), Left),
        (
            "with a body",
            {
                let mut header = Header::new(b'1', b"./home/anna/l", 5);
                header.set(field::LINK, b"./home/anna/good");
                with(|t| t.header(&header).body(b"hello"))
            },
            Refused,
        ),
        ("to a file of the plan", with(|t| t.hardlink("./home/anna/l", "./home/anna/good")), Restored),
    ]);
}

#[test]
fn one_name_several_types() {
    run(vec![
        ("link, then file", with(|t| t.symlink("./home/anna/x", "/outside").file("./home/anna/x", "x")), Contained),
        ("file, then beneath it", with(|t| t.file("./home/anna/x", "x").file("./home/anna/x/y", "y")), Refused),
        (
            "directory, then link",
            with(|t| t.dir("./home/anna/d").symlink("./home/anna/d", "/").file("./home/anna/d/x", "x")),
            Refused,
        ),
        ("directory, then file", with(|t| t.dir("./home/anna/d").file("./home/anna/d", "x")), Refused),
        ("a file over a live folder", with(|t| t.file("./home/anna", "x")), Refused),
        ("a link over a live folder", with(|t| t.symlink("./home/anna", "/")), Refused),
        ("a folder over a live file", with(|t| t.dir("./home/anna/live.txt")), Left),
        ("the same file twice", with(|t| t.file("./home/anna/x", "1").file("./home/anna/x", "2")), Contained),
        ("a file named as a folder", with(|t| t.file("./home/anna/x/", "1")), Contained),
    ]);
}

#[test]
fn nodes_and_privileges() {
    run(vec![
        ("a character device", odd(b'3', "./home/anna/n", 0, |h| h), Left),
        ("a block device", odd(b'4', "./home/anna/n", 0, |h| h), Left),
        ("a FIFO", odd(b'6', "./home/anna/n", 0, |h| h), Left),
        ("a contiguous file", odd(b'7', "./home/anna/n", 1, |h| h), Contained),
        ("a volume label", odd(b'V', "./home/anna/n", 0, |h| h), Refused),
        ("a continuation", odd(b'M', "./home/anna/n", 1, |h| h), Refused),
        ("a dump directory", odd(b'D', "./home/anna/n", 1, |h| h), Refused),
        ("an unknown type", odd(b'Q', "./home/anna/n", 0, |h| h), Refused),
        ("owner -1", with(|t| t.pax(&[(b"uid", b"4294967295")]).file("./home/anna/x", "x")), Refused),
        ("owner 2^32", with(|t| t.pax(&[(b"uid", b"4294967296")]).file("./home/anna/x", "x")), Refused),
        ("owner below zero", with(|t| t.pax(&[(b"gid", b"-2")]).file("./home/anna/x", "x")), Refused),
        (
            "a trusted attribute",
            with(|t| t.pax(&[(b"SCHILY.xattr.trusted.overlay.opaque", b"y")]).file("./home/anna/x", "x")),
            Contained,
        ),
    ]);
}

#[test]
fn set_id_bits_are_dropped_without_a_grant() {
    let lab = lab();
    let tar = with(|t| t.entry(b'0', b"./home/anna/suid", 0o6755, b"", b"#!/bin/sh\n"));
    let backup = Backup::default().write(&lab.backups(), &tar);
    let outcome = lab.restore(&backup, "pve", &[]);
    outcome.assert_ok();
    assert_eq!(lab.snapshot().get(b"home/anna/suid").unwrap().mode, 0o755);
    assert!(outcome.stdout.contains("suid"), "the report does not name the dropped bits: {outcome:?}");
}

#[test]
fn two_readings_of_the_same_bytes() {
    let body = |bytes: &[u8]| bytes.to_vec();
    let after_end = |extra: &[u8]| {
        let mut bytes = good().finish();
        bytes.extend_from_slice(extra);
        bytes
    };
    let hidden = Tar::new().file("./home/anna/hidden", "x").unfinished();
    run(vec![
        (
            "pax size over the header's",
            with(|t| t.pax(&[(b"size", b"1024")]).header(&Header::new(b'0', b"./home/anna/x", 0)).body(&hidden)),
            Contained,
        ),
        ("header's size over pax", with(|t| t.pax(&[(b"size", b"0")]).file("./home/anna/x", &hidden)), Refused),
        (
            "a record for an extension",
            with(|t| {
                t.pax(&[(b"path", b"./home/anna/a")]).pax(&[(b"path", b"./home/anna/b")]).file("./home/anna/c", "x")
            }),
            Refused,
        ),
        ("a record for nothing", with(|t| t.pax(&[(b"path", b"./home/anna/a")])), Refused),
        ("a directory with a body", odd(b'5', "./home/anna/d", 512, |h| h), Refused),
        (
            "a global header",
            with(|t| t.pax_of_type(b'g', &pax_record(b"path", b"./home/anna/g")).file("./home/anna/c", "x")),
            Refused,
        ),
        ("entries behind the end", after_end(&hidden), Refused),
        (
            "a lone zero block",
            {
                let mut t = good();
                t.raw(&[0; 512]).raw(&hidden);
                t.finish()
            },
            Refused,
        ),
        ("half a magic", odd(b'0', "./home/anna/x", 1, |h| h.set(field::MAGIC, b"ustar")), Refused),
        ("no magic", odd(b'0', "./home/anna/x", 1, |h| h.set(field::MAGIC, b"")), Refused),
        (
            "GNU fields in the prefix",
            odd(b'0', "./home/anna/x", 1, |h| h.set(field::MAGIC, b"ustar  \0").set(field::PREFIX, b"12345")),
            Contained,
        ),
        ("GNU sparse", odd(b'S', "./home/anna/x", 1, |h| h.set(field::MAGIC, b"ustar  \0")), Refused),
        (
            "a pax sparse map",
            with(|t| {
                t.pax(&[
                    (b"GNU.sparse.major", b"1"),
                    (b"GNU.sparse.minor", b"0"),
                    (b"GNU.sparse.realsize", b"1099511627776"),
                ])
                .file("./home/anna/x", body(b"1\n0\n1\n"))
            }),
            Refused,
        ),
    ]);
}

#[test]
fn numbers_and_records_that_are_wrong() {
    let raw = |record: &[u8]| {
        let record = record.to_vec();
        with(move |t| t.pax_of_type(b'x', &record).file("./home/anna/x", "x"))
    };
    run(vec![
        ("a negative size", odd(b'0', "./home/anna/x", 0, |h| h.set(field::SIZE, &[0xff; 12])), Refused),
        (
            "a size of 2^63",
            odd(b'0', "./home/anna/x", 0, |h| h.set(field::SIZE, b"\x80\0\0\0\x80\0\0\0\0\0\0\0")),
            Refused,
        ),
        ("a size with junk", odd(b'0', "./home/anna/x", 1, |h| h.set(field::SIZE, b"00000000x01")), Refused),
        ("no size", odd(b'0', "./home/anna/x", 0, |h| h.set(field::SIZE, b"")), Contained),
        ("a pax size below zero", with(|t| t.pax(&[(b"size", b"-1")]).file("./home/anna/x", "x")), Refused),
        (
            "a pax size too large",
            with(|t| t.pax(&[(b"size", b"99999999999999999999")]).file("./home/anna/x", "x")),
            Refused,
        ),
        ("a time that is no number", with(|t| t.pax(&[(b"mtime", b"yesterday")]).file("./home/anna/x", "x")), Refused),
        ("an endless time", with(|t| t.pax(&[(b"mtime", b"1e400")]).file("./home/anna/x", "x")), Refused),
        ("record length zero", raw(b"0 path=x\n"), Refused),
        ("record length signed", raw(b"+12 path=abc\n"), Refused),
        ("record too long", raw(b"99 path=abc\n"), Refused),
        ("record too short", raw(b"5 path=abc\n"), Refused),
        ("record without newline", raw(b"11 path=abc"), Refused),
        ("record without equals", raw(b"9 pathab\n"), Refused),
        ("record length of many digits", raw(b"00000000000000000000000000012 path=abc\n"), Refused),
        ("a wrong checksum", odd(b'0', "./home/anna/x", 1, |h| h.octal(field::CHECKSUM, 1).no_checksum()), Refused),
        ("times before 1970", with(|t| t.pax(&[(b"mtime", b"-1.5")]).file("./home/anna/x", "x")), Restored),
    ]);
}

#[test]
fn too_much_of_something() {
    let chain = |count: usize| {
        with(|t| {
            for _ in 0..count {
                t.pax(&[(b"comment", b"x")]);
            }
            t.file("./home/anna/x", "x")
        })
    };
    let deep = |levels: usize| format!("./home/anna/{}f", "d/".repeat(levels));
    run(vec![
        (
            "1 TiB that is not there",
            odd(b'0', "./home/anna/x", 0, |h| h.set(field::SIZE, b"\x80\0\0\0\0\0\x01\0\0\0\0\0")),
            Refused,
        ),
        ("a record of 1 GiB that is not there", odd(b'x', "./home/anna/x", 1 << 30, |h| h), Refused),
        ("a chain of extensions", chain(20_000), Refused),
        ("a path of 2,000 folders", with(|t| t.file(deep(2000), "x")), Contained),
        ("a path over PATH_MAX", with(|t| t.file(deep(4000), "x")), Refused),
        ("a name of 256 bytes", with(|t| t.file(format!("./home/anna/{}", "n".repeat(256)), "x")), Refused),
        ("a link of 4,096 bytes", with(|t| t.symlink("./home/anna/l", "x".repeat(4096))), Refused),
    ]);
}

#[test]
fn streams_that_end_early_or_late() {
    let whole = good().file("./home/anna/x", vec![7; 5000]).finish();
    run(vec![
        ("cut in a body", whole[..3000].to_vec(), Refused),
        ("cut before the end marker", good().unfinished(), Refused),
        (
            "one block of the end marker",
            {
                let mut t = good();
                t.raw(&[0; 512]);
                t.unfinished()
            },
            Refused,
        ),
        ("junk in front", [b"junk".repeat(128), whole.clone()].concat(), Refused),
        ("junk behind", [whole.clone(), b"junk".repeat(128)].concat(), Refused),
        ("nothing at all", Vec::new(), Refused),
        ("zeros only", vec![0; 10240], Contained),
        ("text", b"this is no archive at all, it only is named so\n".repeat(100), Refused),
    ]);
}

#[test]
fn names_as_output() {
    run(vec![
        ("an escape", with(|t| t.file(b"./home/anna/\x1b[2Jx", "x")), Restored),
        ("a newline that forges a line", with(|t| t.file(b"./home/anna/a\n{\"ok\":true}", "x")), Restored),
        ("bytes that are no text", with(|t| t.file(b"./home/anna/\xff\xfe", "x")), Restored),
        ("an option", with(|t| t.file("./home/anna/--help", "x")), Restored),
        ("a right-to-left override", with(|t| t.file("./home/anna/\u{202e}gpj.exe", "x")), Restored),
        ("our own temporary name", with(|t| t.file("./home/anna/.pxs-0-0/x", "x")), Restored),
    ]);
}

#[test]
fn a_deduplication_list_that_lies() {
    let list = |json: &str| {
        let json = json.to_owned();
        with(move |t| {
            t.symlink("./home/anna/dup", "../../etc/shadow").file("./var/lib/proxsave-info/dedup_manifest.json", json)
        })
    };
    run(vec![
        ("a duplicate of a live secret", list(r#"[{"path":"home/anna/dup","mode":420,"uid":0,"gid":0}]"#), Contained),
        ("a path that climbs", list(r#"[{"path":"../outside/victim","mode":420,"uid":0,"gid":0}]"#), Contained),
        ("a mode of many bits", list(r#"[{"path":"home/anna/dup","mode":4294967295,"uid":0,"gid":0}]"#), Contained),
        ("an owner below zero", list(r#"[{"path":"home/anna/dup","mode":420,"uid":-1,"gid":0}]"#), Contained),
        ("no JSON", list("{{{"), Contained),
        ("nested without end", list(&"[".repeat(100_000)), Contained),
    ]);
}

#[test]
fn a_duplicate_never_becomes_a_copy_of_a_live_file() {
    let lab = lab();
    let tar = with(|t| {
        t.symlink("./home/anna/dup", "../../etc/shadow").file(
            "./var/lib/proxsave-info/dedup_manifest.json",
            r#"[{"path":"home/anna/dup","mode":420,"uid":61001,"gid":61001}]"#,
        )
    });
    let backup = Backup::default().write(&lab.backups(), &tar);
    let _ = lab.restore(&backup, "pve", &[]);
    if let Some(item) = lab.snapshot().get(b"home/anna/dup") {
        assert_eq!(item.kind, "symlink", "{item:?}");
    }
}
