//! A front-end that repeats, stalls, sends half a frame, floods or vanishes. Whatever it does, the tree does not
//! change, the helper says why, ends, and leaves a log that verifies.

use proxsave_proto::CategoryId;
use proxsave_proto::message::{CallError, ClientHello, Phase, ProbeItem, Submission, Verdict};
use proxsave_proto::rpc::Fd;
use proxsave_proto::state::{Blocked, Target};
use proxsave_tests::lab::wait;
use proxsave_tests::mutate::Rng;
use proxsave_tests::rogue::{
    self, NEW, OLD, Rogue, block_on, client, connect, context, hash, memfd, record, rel, stage,
};
use rustix::fs::SealFlags;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

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
    let stage = rogue::stage();
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
        let stage = rogue::stage();
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
    let stage = rogue::stage();
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
    let stage = rogue::stage();
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
    let stage = stage();
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
    let _ = stage.helper.finish();
    assert_eq!(stage.before.changes(&stage.lab.snapshot()), [], "{what}");
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
