//! Whole transactions through a real helper, as root: what is written, and what is left when one does not end well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use proxsave_proto::message::{ClientHello, Phase, ProbeItem, Progress, Report, Submission, Verdict};
use proxsave_proto::plan::{AnchorBinding, ArchiveRef, Entry, Meta, Node, Origin, Plan};
use proxsave_proto::rpc::{Fd, HelperClient, Limits, Transport, exchange_preamble};
use proxsave_proto::{CategoryId, Digest, Mode, RelPath, Roles, ValidPlan};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const NEW: &[u8] = b"Port 2222\n";
const OTHER: &[u8] = b"ssh-ed25519 AAAA new\n";

/// A helper for one session, and that session.
struct Lab {
    dir: tempfile::TempDir,
    child: Child,
}

impl Lab {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests run as root");
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("root/etc/ssh")).unwrap();
        fs::write(path("root/etc/ssh/sshd_config"), "Port 22\n").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxsave-helper"));
        command.args(["serve", "--once", "--listen"]).arg(path("socket")).arg("--root").arg(path("root"));
        command.arg("--state").arg(path("state")).stdin(Stdio::null());
        command.stderr(fs::File::create(path("stderr")).unwrap());
        let child = command.spawn().unwrap();
        let begin = Instant::now();
        while !fs::read_to_string(path("stderr")).unwrap().contains("listening") {
            assert!(begin.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(2));
        }
        Self { dir, child }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn end(&mut self) -> i32 {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("state/audit.jsonl")).unwrap()
    }

    /// Names of the directory that is written to.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("root/etc/ssh")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn assert_untouched(&self) {
        assert_eq!(self.names(), ["sshd_config"]);
        assert_eq!(fs::read(self.path("root/etc/ssh/sshd_config")).unwrap(), b"Port 22\n");
        assert_eq!(fs::read_dir(self.path("state/tx")).unwrap().count(), 0, "a record is left");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Session {
    client: HelperClient,
    nonce: [u8; 16],
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("no answer") })
}

fn context() -> tarpc::context::Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + Duration::from_secs(40);
    context
}

fn path(text: &str) -> RelPath {
    RelPath::from_archive(text.as_bytes()).unwrap()
}

impl Session {
    async fn open(lab: &Lab) -> Self {
        let stream = UnixStream::connect(lab.path("socket")).unwrap();
        exchange_preamble(&stream, Duration::from_secs(5)).unwrap();
        let transport = Transport::new(stream, Limits::default()).unwrap();
        let client = HelperClient::new(tarpc::client::Config::default(), transport).spawn();
        let hello = client.hello(context(), ClientHello { version: "test".into() }).await.unwrap().unwrap();
        Self { client, nonce: hello.nonce }
    }

    /// A plan that replaces one file and makes another.
    async fn plan(&self) -> ValidPlan {
        let files = [("etc/ssh/ssh_host_key.pub", OTHER), ("etc/ssh/sshd_config", NEW)];
        let item = |text| ProbeItem { path: path(text), hash_if_size: Some(8) };
        let items = files.iter().map(|(text, _)| item(*text)).collect();
        let targets = self.client.probe(context(), items).await.unwrap().unwrap();
        let anchor = targets[0].anchor().unwrap();
        let meta = |mtime| Meta { mode: 0o640, uid: 12, gid: 34, mtime, xattrs: Vec::new() };
        let entries = files.iter().zip(&targets).map(|((text, content), target)| Entry {
            path: path(text),
            category: CategoryId::Ssh,
            origin: Origin::Archive,
            node: Node::File {
                size: content.len() as u64,
                sha256: Digest::of(content),
                sparse: false,
                meta: meta(proxsave_proto::digest::Timestamp::new(1_700_000_000, 123_456_789)),
            },
            before: target.present().map(|present| Box::new(present.clone())),
        });
        let plan = Plan {
            archive: ArchiveRef {
                sha256: Digest::of(b"archive"),
                name: b"a.tar".to_vec(),
                hostname: b"pve1".to_vec(),
                created_at: "2026-01-01".into(),
            },
            mode: Mode::Custom,
            host: Roles::UNKNOWN,
            anchors: vec![AnchorBinding {
                path: path("etc/ssh"),
                dev: anchor.dev,
                ino: anchor.ino,
                mount: anchor.mount,
            }],
            entries: entries.collect(),
            exports: Vec::new(),
            services: Vec::new(),
            mounts: Vec::new(),
            applies: Vec::new(),
        };
        plan.validate().unwrap()
    }

    async fn submit(&self, plan: &ValidPlan, dry_run: bool) -> Verdict {
        let file = rustix::fs::memfd_create("plan", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::pwrite(&file, &plan.plan().encode().unwrap(), 0).unwrap();
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        let submission = Submission { nonce: self.nonce, plan_hash: plan.hash(), dry_run };
        self.client.submit(context(), submission, Fd::from(file)).await.unwrap().unwrap()
    }

    /// Up to the point where contents can be sent.
    async fn staging(&self) -> OwnedFd {
        let plan = self.plan().await;
        assert!(matches!(self.submit(&plan, false).await, Verdict::Approved(_)));
        self.client.stream(context()).await.unwrap().unwrap().into_owned().unwrap()
    }

    async fn wait(&self, reached: impl Fn(Phase) -> bool) -> Progress {
        let mut since = 0;
        loop {
            let progress = self.client.progress(context(), since).await.unwrap().unwrap();
            if reached(progress.phase) || progress.phase.is_over() {
                return progress;
            }
            since = progress.seq;
        }
    }

    async fn report(&self) -> Report {
        self.client.report(context()).await.unwrap().unwrap()
    }
}

fn send(pipe: &OwnedFd, index: u32, content: &[u8]) {
    for part in [&index.to_le_bytes(), content] {
        assert_eq!(rustix::io::write(pipe, part).unwrap(), part.len());
    }
}

#[test]
fn a_plan_is_carried_out_and_reported_and_logged() {
    use std::os::unix::fs::MetadataExt as _;
    let mut lab = Lab::new();
    run(async {
        let session = Session::open(&lab).await;
        let pipe = session.staging().await;
        send(&pipe, 1, NEW);
        send(&pipe, 0, OTHER);
        drop(pipe);
        let staged = session.wait(|phase| phase == Phase::Staged).await;
        assert_eq!((staged.phase, staged.entries), (Phase::Staged, 2), "{:?}", staged.error);
        assert_eq!(fs::read(lab.path("root/etc/ssh/sshd_config")).unwrap(), b"Port 22\n", "visible before commit");
        session.client.commit(context()).await.unwrap().unwrap();
        let done = session.wait(|_| false).await;
        assert_eq!(done.phase, Phase::Done, "{:?}", done.error);
        let report = session.report().await;
        assert_eq!((report.phase, report.dry_run, report.failed_count), (Phase::Done, false, 0));
        assert_eq!(report.written, [(CategoryId::Ssh, 2)]);
        assert_eq!(lab.log().lines().count() as u64, report.audit.lines);
    });
    assert_eq!(lab.end(), 0);
    assert_eq!(lab.names(), ["ssh_host_key.pub", "sshd_config"]);
    assert_eq!(fs::read(lab.path("root/etc/ssh/sshd_config")).unwrap(), NEW);
    let stat = fs::metadata(lab.path("root/etc/ssh/ssh_host_key.pub")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o640, 12, 34));
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!(fs::read_dir(lab.path("state/tx")).unwrap().count(), 0);
    let log = lab.log();
    for (event, count) in [("intent", 2), ("outcome", 2), ("plan-approved", 1), ("session-end", 1)] {
        assert_eq!(log.matches(&format!("\"event\":\"{event}\"")).count(), count, "{event}:\n{log}");
    }
}

#[test]
fn a_dry_run_is_over_when_it_is_approved() {
    let mut lab = Lab::new();
    run(async {
        let session = Session::open(&lab).await;
        let plan = session.plan().await;
        assert!(matches!(session.submit(&plan, true).await, Verdict::Approved(_)));
        let report = session.report().await;
        assert_eq!((report.phase, report.dry_run, report.written.len()), (Phase::Done, true, 0));
        assert!(session.client.stream(context()).await.unwrap().is_err());
    });
    assert_eq!(lab.end(), 5, "a stream after a dry run is out of order");
    assert_eq!(lab.names(), ["sshd_config"]);
    assert!(lab.log().contains("\"dry_run\":true"));
}

#[test]
fn contents_that_are_not_the_plans_fail_and_leave_nothing() {
    let wrong: [&[(u32, &[u8])]; 4] = [&[(1, b"Port 2223\n")], &[(7, NEW)], &[(1, NEW), (1, NEW)], &[(1, NEW)]];
    for records in wrong {
        let mut lab = Lab::new();
        run(async {
            let session = Session::open(&lab).await;
            let pipe = session.staging().await;
            for (index, content) in records {
                send(&pipe, *index, content);
            }
            drop(pipe);
            let end = session.wait(|phase| phase == Phase::Staged).await;
            assert_eq!(end.phase, Phase::Failed);
            assert!(end.error.is_some());
            let report = session.report().await;
            assert_eq!((report.phase, report.written.len()), (Phase::Failed, 0));
        });
        assert_eq!(lab.end(), 5);
        lab.assert_untouched();
    }
}

#[test]
fn cancel_leave_and_signal_leave_nothing_staged() {
    for way in ["cancel", "vanish", "vanish staged", "signal"] {
        let mut lab = Lab::new();
        // The pipe outlives the connection: its early end would fail the transaction before it is cancelled.
        let _pipe = run(async {
            let session = Session::open(&lab).await;
            let pipe = session.staging().await;
            send(&pipe, 1, NEW);
            if way == "vanish staged" {
                send(&pipe, 0, OTHER);
                drop(pipe);
                assert_eq!(session.wait(|phase| phase == Phase::Staged).await.phase, Phase::Staged);
                assert_eq!(lab.names().len(), 2, "a staging directory");
                return None;
            }
            match way {
                "cancel" => {
                    session.client.cancel(context()).await.unwrap().unwrap();
                    assert_eq!(session.wait(|_| false).await.phase, Phase::Cancelled);
                    assert_eq!(session.report().await.phase, Phase::Cancelled);
                }
                "signal" => {
                    let pid = rustix::process::Pid::from_child(&lab.child);
                    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
                    assert_eq!(lab.end(), 0);
                }
                _ => {}
            }
            Some(pipe)
        });
        assert_eq!(lab.end(), 0, "{way}");
        lab.assert_untouched();
        assert!(lab.log().contains("\"event\":\"cancelled\""), "{way}");
    }
}

#[test]
fn a_writer_that_is_killed_fails_the_transaction_and_is_swept() {
    let mut lab = Lab::new();
    run(async {
        let session = Session::open(&lab).await;
        let pipe = session.staging().await;
        send(&pipe, 1, NEW);
        let begin = Instant::now();
        while lab.names().len() == 1 {
            assert!(begin.elapsed() < Duration::from_secs(10), "nothing is staged");
            std::thread::sleep(Duration::from_millis(2));
        }
        let children = |of: u32| fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
        let broker: u32 = children(lab.child.id()).trim().parse().unwrap();
        // The writer is the youngest of the broker's children.
        let writer: i32 = children(broker).split_whitespace().last().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(writer).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let end = session.wait(|_| false).await;
        assert_eq!((end.phase, end.error.as_deref()), (Phase::Failed, Some("the writer ended by signal 9")));
    });
    assert_eq!(lab.end(), 5);
    lab.assert_untouched();
    assert!(lab.log().contains("\"event\":\"swept\""));
}

#[test]
fn a_target_that_changes_while_contents_are_staged_stops_everything() {
    let mut lab = Lab::new();
    run(async {
        let session = Session::open(&lab).await;
        let pipe = session.staging().await;
        send(&pipe, 1, NEW);
        send(&pipe, 0, OTHER);
        drop(pipe);
        assert_eq!(session.wait(|phase| phase == Phase::Staged).await.phase, Phase::Staged);
        fs::write(lab.path("root/etc/ssh/ssh_host_key.pub"), "somebody else's").unwrap();
        session.client.commit(context()).await.unwrap().unwrap();
        let end = session.wait(|_| false).await;
        assert_eq!(end.phase, Phase::Failed);
        assert!(end.error.unwrap().contains("nothing was put in place: /etc/ssh/ssh_host_key.pub"));
    });
    assert_eq!(lab.end(), 5);
    assert_eq!(fs::read(lab.path("root/etc/ssh/sshd_config")).unwrap(), b"Port 22\n");
    assert_eq!(fs::read(lab.path("root/etc/ssh/ssh_host_key.pub")).unwrap(), b"somebody else's");
    assert_eq!(lab.names().len(), 2);
}
