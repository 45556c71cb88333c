//! A front-end that lies in every field, repeats, stalls, sends half a frame, floods or vanishes. Whatever it
//! does, the tree does not change, the helper says why, ends, and leaves a log that verifies.

use proxsave_proto::message::{CallError, ClientHello, Phase, ProbeItem, Submission, Verdict, Why};
use proxsave_proto::plan::{Meta, Node, Origin, Plan, Xattr};
use proxsave_proto::rpc::Fd;
use proxsave_proto::state::{Blocked, Target};
use proxsave_proto::{CategoryId, Digest};
use proxsave_tests::lab::{Helper, Lab, wait};
use proxsave_tests::mutate::Rng;
use proxsave_tests::rogue::{Rogue, block_on, client, connect, context, hash, memfd, record, rel};
use proxsave_tests::snapshot::Snapshot;
use rustix::fs::SealFlags;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A name that no live file has, and one that has.
const NEW: &str = "home/anna/new";
const OLD: &str = "home/anna/live.txt";

struct Stage {
    lab: Lab,
    helper: Helper,
    before: Snapshot,
}

fn stage() -> Stage {
    let lab = Lab::new();
    lab.populate();
    let before = lab.snapshot();
    let helper = lab.helper();
    Stage { lab, helper, before }
}

impl Stage {
    /// After the session: the helper ended, nothing changed, the log verifies.
    fn assert_untouched(self, what: &str) {
        let log = self.helper.finish();
        assert_eq!(self.before.changes(&self.lab.snapshot()), [], "{what}: {log}");
        assert_eq!(self.lab.audit_verify().code, Some(0), "{what}: {:?}", self.lab.audit_verify());
    }
}

#[test]
fn the_honest_way_works() {
    let stage = stage();
    block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        let plan = rogue.plan(&[(NEW, b"new"), (OLD, b"over")]).await;
        let verdict = rogue.submit(&plan).await.unwrap().unwrap();
        assert!(matches!(&verdict, Verdict::Approved(approval) if approval.plan_hash == hash(&plan)), "{verdict:?}");
        let mut pipe = rogue.stream().await;
        pipe.write_all(&record(0, b"over")).unwrap();
        pipe.write_all(&record(1, b"new")).unwrap();
        drop(pipe);
        rogue.until(Phase::Staged).await;
        assert!(!stage.lab.root().join(NEW).exists(), "visible before commit");
        rogue.client.commit(context()).await.unwrap().unwrap();
        rogue.until(Phase::Done).await;
        let report = rogue.client.report(context()).await.unwrap().unwrap();
        assert_eq!((report.phase, report.failed_count, &report.error), (Phase::Done, 0, &None), "{report:?}");
        assert_eq!(report.written, [(CategoryId::UserData, 2)]);
    });
    let _ = stage.helper.finish();
    assert_eq!(std::fs::read(stage.lab.root().join(NEW)).unwrap(), b"new");
    assert_eq!(std::fs::read(stage.lab.root().join(OLD)).unwrap(), b"over");
    assert_eq!(stage.lab.snapshot().leftovers(), Vec::<String>::new());
}

/// One lie, told in an otherwise honest plan.
fn lie(what: &str, change: impl Fn(&mut Plan)) {
    let stage = stage();
    block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        let mut plan = rogue.plan(&[(OLD, b"over"), (NEW, b"new")]).await;
        change(&mut plan);
        match rogue.submit(&plan).await {
            Ok(Ok(Verdict::Approved(_))) => panic!("{what}: approved"),
            Ok(Ok(Verdict::Refused(reasons))) => assert!(!reasons.is_empty(), "{what}: no reason"),
            Ok(Err(_)) | Err(_) => {}
        }
    });
    stage.assert_untouched(what);
}

fn meta(plan: &mut Plan, index: usize) -> &mut Meta {
    match &mut plan.entries[index].node {
        Node::File { meta, .. } => meta,
        other => panic!("{other:?}"),
    }
}

#[test]
fn lies_about_the_live_tree() {
    lie("nothing there", |p| p.entries[0].before = None);
    lie("something there", |p| p.entries[1].before = p.entries[0].before.clone());
    type Change = fn(&mut proxsave_proto::state::Present);
    let fields: [(&str, Change); 10] = [
        ("mode", |b| b.mode ^= 1),
        ("uid", |b| b.uid += 1),
        ("gid", |b| b.gid += 1),
        ("size", |b| b.size += 1),
        ("mtime", |b| b.mtime.secs += 1),
        ("ctime", |b| b.ctime.nanos ^= 1),
        ("dev", |b| b.dev += 1),
        ("ino", |b| b.ino += 1),
        ("nlink", |b| b.nlink += 1),
        ("xattrs", |b| b.xattrs = Digest::of(b"other")),
    ];
    for (name, change) in fields {
        lie(name, |p| change(p.entries[0].before.as_mut().unwrap()));
    }
    lie("anchor's device", |p| p.anchors[0].dev += 1);
    lie("anchor's inode", |p| p.anchors[0].ino += 1);
    lie("anchor's mount", |p| p.anchors[0].mount += 1);
    lie("no anchor", |p| p.anchors.clear());
    lie("another anchor", |p| p.anchors[0].path = rel("etc"));
}

#[test]
fn lies_about_what_to_write() {
    for path in [
        "etc/shadow",
        "etc/passwd",
        "etc/pve/storage.cfg",
        "etc/proxsave/policy.toml",
        "proc/sys/kernel/core_pattern",
        "dev/sda",
        "run/x",
        "var/lib/proxsave/audit.jsonl",
        "usr/bin/proxsave-ui",
        "etc/systemd/system/proxsave-helper.service",
        "var/lib/pve-cluster/config.db",
        "srv/live",
        "x",
    ] {
        for category in [CategoryId::UserData, CategoryId::Services, CategoryId::PveCluster, CategoryId::Accounts] {
            lie(&format!("{path} as {category}"), |p| {
                p.entries[0].path = rel(path);
                p.entries[0].category = category;
                p.entries.sort_by(|a, b| a.path.cmp(&b.path));
            });
        }
    }
    lie("another category", |p| p.entries[0].category = CategoryId::Ssh);
    lie("an export category", |p| p.entries[0].category = CategoryId::PveConfigExport);
    lie("order", |p| p.entries.reverse());
    lie("twice", |p| p.entries.insert(1, p.entries[0].clone()));
    lie("mode over twelve bits", |p| meta(p, 0).mode = 0o10644);
    lie("owner -1", |p| meta(p, 0).uid = u32::MAX);
    lie("group -1", |p| meta(p, 0).gid = u32::MAX);
    lie("time", |p| meta(p, 0).mtime = Some(proxsave_proto::digest::Timestamp { secs: 0, nanos: 1_000_000_000 }));
    for name in ["trusted.x", "security.selinux", "user.", "system.posix_acl", "security.ima", "user.a\0b"] {
        lie(name, |p| meta(p, 0).xattrs = vec![Xattr { name: name.into(), value: b"x".to_vec() }]);
    }
    lie("sizes that overflow", |p| {
        for entry in &mut p.entries {
            if let Node::File { size, .. } = &mut entry.node {
                *size = u64::MAX / 2 + 1;
            }
        }
    });
    lie("more than there is room for", |p| {
        if let Node::File { size, .. } = &mut p.entries[0].node {
            *size = 1 << 60;
        }
    });
    lie("a folder over a file", |p| p.entries[0].node = Node::Dir { meta: meta(p, 0).clone() });
    lie("a parent that is a file", |p| p.entries[0].origin = Origin::Parent);
    lie("a link without a target", |p| p.entries[1].node = Node::Symlink { target: vec![], meta: meta(p, 1).clone() });
    lie("a link with NUL", |p| {
        p.entries[1].node = Node::Symlink { target: b"a\0b".to_vec(), meta: meta(p, 1).clone() }
    });
    lie("a hard link to a live file", |p| p.entries[1].node = Node::Hardlink { to: rel("etc/shadow") });
    lie("a hard link to itself", |p| p.entries[1].node = Node::Hardlink { to: rel(NEW) });
    lie("beneath a file", |p| {
        p.entries[1].path = rel("home/anna/live.txt/x");
        p.entries.sort_by(|a, b| a.path.cmp(&b.path));
    });
}

#[test]
fn lies_about_the_plan_itself() {
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let cases: [(&str, Change, bool); 6] = [
        ("another hash", |b| b, false),
        ("empty", |_| vec![], true),
        ("junk", |_| vec![0xff; 1000], true),
        (
            "cut",
            |mut b| {
                b.truncate(b.len() - 1);
                b
            },
            true,
        ),
        (
            "more behind",
            |mut b| {
                b.push(0);
                b
            },
            true,
        ),
        (
            "endless length",
            |mut b| {
                b.truncate(40);
                b.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
                b
            },
            true,
        ),
    ];
    for (what, change, true_hash) in cases {
        let stage = stage();
        block_on(async {
            let rogue = Rogue::new(&stage.helper.socket).await;
            let bytes = change(rogue.plan(&[(NEW, b"new")]).await.encode().unwrap());
            let said = if true_hash {
                Digest::of(&[b"proxsave plan 1\0".as_slice(), &bytes].concat())
            } else {
                Digest::of(b"no")
            };
            let verdict = rogue.submit_bytes(&bytes, said).await;
            assert!(!matches!(verdict, Ok(Ok(Verdict::Approved(_)))), "{what}: {verdict:?}");
        });
        stage.assert_untouched(what);
    }
}

#[test]
fn plans_that_are_not_sealed() {
    for missing in [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL, SealFlags::all()] {
        let stage = stage();
        block_on(async {
            let rogue = Rogue::new(&stage.helper.socket).await;
            let plan = rogue.plan(&[(NEW, b"new")]).await;
            let fd = memfd(&plan.encode().unwrap(), SealFlags::all() - missing);
            let submission = Submission { nonce: rogue.hello.nonce, plan_hash: hash(&plan), dry_run: false };
            let verdict = rogue.client.submit(context(), submission, Fd::from(fd)).await;
            let refused = match &verdict {
                Ok(Ok(Verdict::Refused(reasons))) => reasons.iter().any(|r| r.why == Why::NotSealed),
                Ok(Ok(Verdict::Approved(_))) => false,
                _ => true,
            };
            assert!(refused, "without {missing:?}: {verdict:?}");
        });
        stage.assert_untouched("unsealed");
    }
    for path in ["/etc/passwd", "/dev/zero", "/"] {
        let stage = stage();
        block_on(async {
            let rogue = Rogue::new(&stage.helper.socket).await;
            let submission = Submission { nonce: rogue.hello.nonce, plan_hash: Digest::of(b""), dry_run: false };
            let fd = std::fs::File::open(path).unwrap();
            let verdict = rogue.client.submit(context(), submission, Fd::from(std::os::fd::OwnedFd::from(fd))).await;
            assert!(!matches!(verdict, Ok(Ok(Verdict::Approved(_)))), "{path}: {verdict:?}");
        });
        stage.assert_untouched(path);
    }
}

#[test]
fn nonces_are_for_one_session() {
    let stage = stage();
    block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        let plan = rogue.plan(&[(NEW, b"new")]).await;
        let fd = memfd(&plan.encode().unwrap(), SealFlags::all());
        let mut nonce = rogue.hello.nonce;
        nonce[0] ^= 1;
        let submission = Submission { nonce, plan_hash: hash(&plan), dry_run: false };
        let verdict = rogue.client.submit(context(), submission, Fd::from(fd)).await;
        assert!(!matches!(verdict, Ok(Ok(Verdict::Approved(_)))), "{verdict:?}");
    });
    stage.assert_untouched("another nonce");
    let stage = self::stage();
    block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        let plan = rogue.plan(&[(NEW, b"new")]).await;
        assert!(matches!(rogue.submit(&plan).await, Ok(Ok(Verdict::Approved(_)))));
        let again = rogue.submit(&plan).await;
        assert!(!matches!(again, Ok(Ok(Verdict::Approved(_)))), "{again:?}");
    });
    stage.assert_untouched("submitted twice");
}

#[test]
fn calls_out_of_order() {
    let stage = stage();
    block_on(async {
        let client = client(connect(&stage.helper.socket));
        let answer = client.probe(context(), vec![]).await;
        assert!(matches!(answer, Ok(Err(CallError::OutOfOrder)) | Err(_)), "{answer:?}");
        let after = client.hello(context(), ClientHello { version: "rogue".into() }).await;
        assert!(!matches!(after, Ok(Ok(_))), "the session went on: {after:?}");
    });
    stage.assert_untouched("probe first");
    for call in ["hello", "stream", "commit", "report"] {
        let stage = self::stage();
        block_on(async {
            let rogue = Rogue::new(&stage.helper.socket).await;
            let ok = match call {
                "hello" => {
                    rogue.client.hello(context(), ClientHello { version: "2".into() }).await.is_ok_and(|a| a.is_ok())
                }
                "stream" => rogue.client.stream(context()).await.is_ok_and(|a| a.is_ok()),
                "commit" => rogue.client.commit(context()).await.is_ok_and(|a| a.is_ok()),
                _ => rogue.client.report(context()).await.is_ok_and(|a| a.is_ok()),
            };
            assert!(!ok, "{call} was taken");
        });
        stage.assert_untouched(call);
    }
    let stage = self::stage();
    block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        let plan = rogue.plan(&[(NEW, b"new")]).await;
        assert!(matches!(rogue.submit(&plan).await, Ok(Ok(Verdict::Approved(_)))));
        assert!(!rogue.client.commit(context()).await.is_ok_and(|a| a.is_ok()), "commit before stream");
    });
    stage.assert_untouched("commit before stream");
}

#[test]
fn probes_tell_nothing_that_is_not_granted() {
    let stage = stage();
    block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        for path in ["etc/shadow", "etc/pve/storage.cfg", "srv/live", "proc/1/mem"] {
            let found = rogue.probe(&[path]).await.remove(0);
            assert!(matches!(found, Target::Blocked(_)), "{path}: {found:?}");
        }
        std::os::unix::fs::symlink("/etc", stage.lab.root().join("home/anna/etc")).unwrap();
        let found = rogue.probe(&["home/anna/etc/shadow"]).await.remove(0);
        assert_eq!(found, Target::Blocked(Blocked::SymlinkOnTheWay));
    });
    drop(stage);
    let stage = self::stage();
    block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        let items = vec![ProbeItem { path: rel(NEW), hash_if_size: None }; proxsave_proto::message::MAX_PROBE + 1];
        let answer = rogue.client.probe(context(), items).await;
        assert!(matches!(answer, Ok(Err(CallError::OverLimit)) | Err(_)), "{answer:?}");
    });
    stage.assert_untouched("too many probes");
}

/// Submits an honest plan for two files, sends these bytes as their content, and waits for the end.
fn stream_of(what: &str, bytes: &[u8]) {
    let stage = stage();
    block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        let plan = rogue.plan(&[(OLD, b"over"), (NEW, b"new")]).await;
        assert!(matches!(rogue.submit(&plan).await, Ok(Ok(Verdict::Approved(_)))), "{what}");
        let mut pipe = rogue.stream().await;
        // The writer may end at the first wrong byte.
        let _ = pipe.write_all(bytes);
        drop(pipe);
        let mut since = 0;
        loop {
            match rogue.client.progress(context(), since).await {
                Ok(Ok(progress)) if progress.phase == Phase::Failed => {
                    assert!(progress.error.is_some(), "{what}: no reason");
                    break;
                }
                Ok(Ok(progress)) => {
                    assert!(!progress.phase.is_over() && progress.phase != Phase::Staged, "{what}: {progress:?}");
                    since = progress.seq;
                }
                Ok(Err(_)) | Err(_) => break,
            }
        }
        let commit = rogue.client.commit(context()).await;
        assert!(!matches!(commit, Ok(Ok(()))), "{what}: commit was taken");
    });
    stage.assert_untouched(what);
}

#[test]
fn contents_that_are_not_the_plan_s() {
    // Sorted by path, `live.txt` is entry 0 and `new` entry 1.
    let good = [record(0, b"over"), record(1, b"new")].concat();
    stream_of("nothing", b"");
    stream_of("half a record's head", &[0, 0]);
    stream_of("half a content", &record(0, b"ov"));
    stream_of("one of two", &record(0, b"over"));
    stream_of("another content", &[record(0, b"evil"), record(1, b"new")].concat());
    stream_of("swapped", &[record(1, b"ove"), record(0, b"rnew")].concat());
    stream_of("twice", &[record(0, b"over"), record(0, b"over"), record(1, b"new")].concat());
    stream_of("no such entry", &[record(7, b"x"), good.clone()].concat());
    stream_of("the largest index", &[record(u32::MAX, b"x"), good.clone()].concat());
    stream_of("more behind", &[good, vec![0; 100_000]].concat());
}

#[test]
fn vanishing_at_every_step() {
    for step in 0..6 {
        let stage = stage();
        block_on(async {
            let rogue = Rogue::new(&stage.helper.socket).await;
            if step == 0 {
                return;
            }
            let plan = rogue.plan(&[(OLD, b"over"), (NEW, b"new")]).await;
            if step == 1 {
                return;
            }
            assert!(matches!(rogue.submit(&plan).await, Ok(Ok(Verdict::Approved(_)))));
            if step == 2 {
                return;
            }
            let mut pipe = rogue.stream().await;
            pipe.write_all(&record(0, b"ov")).unwrap();
            if step == 3 {
                return;
            }
            pipe.write_all(b"er").unwrap();
            pipe.write_all(&record(1, b"new")).unwrap();
            drop(pipe);
            if step == 4 {
                return;
            }
            rogue.until(Phase::Staged).await;
        });
        stage.assert_untouched(&format!("vanished at step {step}"));
    }
}

#[test]
fn cancelled_while_staging() {
    let stage = stage();
    block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        let plan = rogue.plan(&[(OLD, b"over"), (NEW, b"new")]).await;
        assert!(matches!(rogue.submit(&plan).await, Ok(Ok(Verdict::Approved(_)))));
        let mut pipe = rogue.stream().await;
        pipe.write_all(&record(0, b"ov")).unwrap();
        rogue.client.cancel(context()).await.unwrap().unwrap();
        rogue.until(Phase::Cancelled).await;
        let report = rogue.client.report(context()).await.unwrap().unwrap();
        assert_eq!(report.phase, Phase::Cancelled);
    });
    stage.assert_untouched("cancelled");
}

/// Sends bytes before, instead of or after the preamble and waits for the helper to close.
fn raw(what: &str, preamble: bool, bytes: &[u8], hold: bool) {
    let mut stage = stage();
    let mut stream =
        if preamble { connect(&stage.helper.socket) } else { UnixStream::connect(&stage.helper.socket).unwrap() };
    let _ = stream.write_all(bytes);
    if !hold {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    stream.set_read_timeout(Some(Duration::from_secs(45))).unwrap();
    let begin = Instant::now();
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let closed = match &end {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    assert!(closed, "{what}: still open after {:?}: {end:?}", begin.elapsed());
    drop(stream);
    let log = stage.helper.log();
    assert!(!log.contains("panicked at"), "{what}: {log}");
    let before = std::mem::take(&mut stage.before);
    let _ = stage.helper.finish();
    assert_eq!(before.changes(&stage.lab.snapshot()), [], "{what}");
}

#[test]
fn bytes_that_are_no_conversation() {
    raw("nothing", false, b"", false);
    raw("half a preamble", false, b"PROX", true);
    raw("another protocol", false, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", true);
    raw("half a frame's head", true, &[1, 0], true);
    raw("half a frame", true, &[100, 0, 0, 0, 0, 1, 2, 3], true);
    raw("an empty frame", true, &[0, 0, 0, 0, 0], false);
    raw("a frame too large", true, &[0xff, 0xff, 0xff, 0xff, 0], false);
    raw("descriptors that do not come", true, &[1, 0, 0, 0, 4, 0], false);
    raw("junk in a frame", true, &[4, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], false);
    let mut rng = Rng::new(3);
    raw("noise", true, &(0..100_000).map(|_| rng.next_u64() as u8).collect::<Vec<_>>(), false);
}

#[test]
fn a_flood_of_calls_is_bounded() {
    let stage = stage();
    let peak = block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        let mut pending = Vec::new();
        for _ in 0..2000 {
            let client = rogue.client.clone();
            pending.push(tokio::spawn(async move { client.progress(context(), u64::MAX).await.is_ok() }));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let rss = |p: &proxsave_tests::procs::Proc| -> u64 {
            p.status.get("VmRSS").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0)
        };
        proxsave_tests::procs::family(stage.helper.pid()).iter().map(rss).sum::<u64>()
    });
    assert!(peak < 96 << 10, "{peak} KiB");
    stage.assert_untouched("flood");
}

#[test]
fn strangers_are_not_let_in() {
    let stage = stage();
    let mut command = std::process::Command::new("/usr/bin/python3");
    std::os::unix::process::CommandExt::uid(&mut command, 61002);
    let script = format!(
        "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ntry:\n s.connect({:?})\nexcept PermissionError: sys.exit(7)\n\
         s.sendall(b'PROXSAVE\\x01\\0\\x01\\0\\0\\0\\0\\0')\nd=b''\nwhile True:\n b=s.recv(4096)\n if not b: break\n d+=b\nsys.exit(8)",
        stage.helper.socket.display().to_string()
    );
    let mut child = command.args(["-c", &script]).spawn().unwrap();
    let status = wait(&mut child, Duration::from_secs(30)).expect("it ends");
    assert!(matches!(status.code(), Some(7 | 8)), "{status}");
}
