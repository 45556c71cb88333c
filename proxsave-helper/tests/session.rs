//! A whole helper, as root, and front-ends that behave and misbehave: what each is told, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use proxsave_proto::message::{CallError, ClientHello, MAX_PROBE, Phase, ProbeItem, Submission, Verdict, Why};
use proxsave_proto::rpc::{Fd, HelperClient, Limits, Transport, exchange_preamble};
use proxsave_proto::state::{Blocked, Kind, Target};
use proxsave_proto::{Digest, RelPath};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A helper over a root and a state directory of its own.
struct Helper {
    dir: tempfile::TempDir,
    child: Child,
}

impl Helper {
    fn start(options: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests run as root");
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("root/etc/ssh")).unwrap();
        std::fs::write(path("root/etc/ssh/ssh_config"), "Host *\n").unwrap();
        std::fs::write(path("root/etc/shadow"), "root:x:1\n").unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_proxsave-helper"))
            .args(["serve", "--listen"])
            .arg(path("socket"))
            .arg("--root")
            .arg(path("root"))
            .arg("--state")
            .arg(path("state"))
            .args(options)
            .stdin(Stdio::null())
            .stderr(Stdio::from(std::fs::File::create(path("stderr")).unwrap()))
            .spawn()
            .unwrap();
        let this = Self { dir, child };
        let begin = Instant::now();
        while !this.socket().exists() || !this.stderr().contains("listening") {
            assert!(begin.elapsed() < Duration::from_secs(10), "it does not listen: {}", this.stderr());
            std::thread::sleep(Duration::from_millis(2));
        }
        this
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap()
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    /// The exit status, once it ended by itself.
    fn end(&mut self) -> i32 {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "it does not end: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("state/audit.jsonl")).unwrap()
    }

    fn verify(&self) {
        let status = Command::new(env!("CARGO_BIN_EXE_proxsave-helper"))
            .args(["audit", "verify", "--state"])
            .stdout(Stdio::null())
            .arg(self.dir.path().join("state"))
            .status();
        assert_eq!(status.unwrap().code(), Some(0));
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), future).await.expect("no answer") })
}

fn client(stream: UnixStream) -> HelperClient {
    exchange_preamble(&stream, Duration::from_secs(5)).unwrap();
    HelperClient::new(tarpc::client::Config::default(), Transport::new(stream, Limits::default()).unwrap()).spawn()
}

fn context() -> tarpc::context::Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + Duration::from_secs(20);
    context
}

fn hello() -> ClientHello {
    ClientHello { version: "test".to_owned() }
}

fn item(path: &str) -> ProbeItem {
    ProbeItem { path: RelPath::from_archive(path.as_bytes()).unwrap(), hash_if_size: None }
}

/// What is left of the connection once the helper closes it; panics when it does not.
fn read_to_end(mut stream: &UnixStream, limit: Duration) -> Vec<u8> {
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => rest,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => rest,
        Err(error) => panic!("the helper does not close the connection: {error}"),
    }
}

#[test]
fn hello_and_probe_tell_what_is_there_and_nothing_that_is_not_granted() {
    let mut helper = Helper::start(&["--once"]);
    run(async {
        let client = client(helper.connect());
        let hello = client.hello(context(), hello()).await.unwrap().unwrap();
        assert_eq!(hello.caller.uid, 0);
        assert_eq!(hello.root, helper.dir.path().join("root").as_os_str().as_encoded_bytes());
        assert_eq!(hello.granted.len(), 10);
        assert!(hello.sandbox.contains("gate") && hello.sandbox.contains("prober"), "{}", hello.sandbox);
        let progress = client.progress(context(), 0).await.unwrap().unwrap();
        assert_eq!((progress.phase, progress.seq), (Phase::Idle, 1));
        let items =
            ["etc/ssh/ssh_config", "etc/ssh/sshd_config", "etc/shadow", "etc/pve/storage.cfg"].map(item).to_vec();
        let targets = client.probe(context(), items).await.unwrap().unwrap();
        assert!(matches!(&targets[0], Target::Present(_, present) if present.kind == Kind::File && present.size == 7));
        assert!(matches!(&targets[1], Target::Absent(anchor) if anchor.depth == 2));
        assert!(matches!(&targets[2], Target::Blocked(Blocked::NotGranted)));
        assert!(matches!(&targets[3], Target::Blocked(_)));
        client.cancel(context()).await.unwrap().unwrap();
        let error = client.report(context()).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("nothing to report"), "{error}");
    });
    assert_eq!(helper.end(), 0);
    assert!(!helper.socket().exists(), "the socket's name must go with the helper");
    helper.verify();
    let log = helper.log();
    for event in ["helper-started", "connection", "hello", "probe", "cancelled", "session-end"] {
        assert!(log.contains(&format!("\"event\":\"{event}\"")), "{event} is not in the log:\n{log}");
    }
}

#[test]
fn a_call_out_of_order_ends_the_session() {
    let mut helper = Helper::start(&["--once"]);
    run(async {
        let client = client(helper.connect());
        let answer = client.probe(context(), vec![item("etc/hosts")]).await.unwrap();
        assert_eq!(answer, Err(CallError::OutOfOrder));
        let after = client.hello(context(), hello()).await;
        assert!(!matches!(after, Ok(Ok(_))), "the session must be over");
    });
    assert_eq!(helper.end(), 5);
    assert!(helper.log().contains("probe before hello"));
    helper.verify();
}

#[test]
fn every_breach_is_answered_and_ends_the_session() {
    run(async {
        let mut helper = Helper::start(&["--once"]);
        let early = client(helper.connect());
        assert_eq!(early.progress(context(), 0).await.unwrap(), Err(CallError::OutOfOrder));
        assert_eq!(helper.end(), 5);

        let mut helper = Helper::start(&["--once"]);
        let twice = client(helper.connect());
        twice.hello(context(), hello()).await.unwrap().unwrap();
        assert_eq!(twice.hello(context(), hello()).await.unwrap(), Err(CallError::OutOfOrder));
        assert_eq!(helper.end(), 5);

        let mut helper = Helper::start(&["--once"]);
        let many = client(helper.connect());
        many.hello(context(), hello()).await.unwrap().unwrap();
        let items = vec![item("etc/hosts"); MAX_PROBE + 1];
        assert_eq!(many.probe(context(), items).await.unwrap(), Err(CallError::OverLimit));
        assert_eq!(helper.end(), 5);
        helper.verify();
    });
}

#[test]
fn a_plan_must_be_a_sealed_file_of_this_session() {
    let mut helper = Helper::start(&["--once"]);
    run(async {
        let client = client(helper.connect());
        let hello = client.hello(context(), hello()).await.unwrap().unwrap();
        let submission = Submission { nonce: hello.nonce, plan_hash: Digest::of(b""), dry_run: false };
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        let verdict = client.submit(context(), submission.clone(), Fd::from(pipe)).await.unwrap().unwrap();
        let Verdict::Refused(reasons) = verdict else { panic!("a pipe was taken for a plan") };
        assert_eq!(reasons[0].why, Why::NotSealed);
        // The nonce is used up and the session has no other.
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        let again = client.submit(context(), submission, Fd::from(pipe)).await.unwrap();
        assert_eq!(again, Err(CallError::OutOfOrder));
    });
    assert_eq!(helper.end(), 5);
    assert!(helper.log().contains("plan-refused"));
}

#[test]
fn garbage_and_strangers_are_dropped_and_the_next_front_end_is_served() {
    let mut helper = Helper::start(&[]);
    for garbage in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(), &[0xff; 4096], b"PROXSAVE\x09\0\x09\0\0\0\0\0"] {
        let mut stream = helper.connect();
        stream.write_all(garbage).unwrap();
        read_to_end(&stream, Duration::from_secs(5));
    }
    let after_preamble: [&[u8]; 4] = [&[0xff; 64], b"\x05\0\0\0\0hello", b"\x01\0\0\0\x03x", &[0; 64]];
    for garbage in after_preamble {
        let mut stream = helper.connect();
        exchange_preamble(&stream, Duration::from_secs(5)).unwrap();
        stream.write_all(garbage).unwrap();
        read_to_end(&stream, Duration::from_secs(5));
    }
    run(async {
        let client = client(helper.connect());
        client.hello(context(), hello()).await.unwrap().unwrap();
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&helper.child), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(helper.end(), 0);
    assert!(helper.log().contains("bytes that are no frame of the protocol"));
    helper.verify();
}

#[test]
fn a_deadline_beyond_the_clock_does_not_crash_the_gate() {
    let mut helper = Helper::start(&["--once"]);
    let mut stream = helper.connect();
    exchange_preamble(&stream, Duration::from_secs(5)).unwrap();
    // Request, deadline u64::MAX seconds, and the rest of a hello.
    let mut payload = vec![0];
    payload.extend([0xff; 9]);
    payload.push(1);
    payload.extend([0; 24]);
    stream.write_all(&u32::try_from(payload.len()).unwrap().to_le_bytes()).unwrap();
    stream.write_all(&[0]).unwrap();
    stream.write_all(&payload).unwrap();
    read_to_end(&stream, Duration::from_secs(5));
    assert_eq!(helper.end(), 5);
    assert!(helper.log().contains("bytes that are no frame of the protocol"), "{}", helper.log());
}

#[test]
fn half_a_frame_is_dropped_after_the_stated_time() {
    let mut helper = Helper::start(&["--once"]);
    let mut stream = helper.connect();
    exchange_preamble(&stream, Duration::from_secs(5)).unwrap();
    stream.write_all(b"\x40\0\0\0\0half").unwrap();
    let begin = Instant::now();
    read_to_end(&stream, Duration::from_secs(20));
    let waited = begin.elapsed();
    assert!(waited > Duration::from_secs(9) && waited < Duration::from_secs(13), "{waited:?}");
    assert_eq!(helper.end(), 5);
    assert!(helper.log().contains("a frame that did not go on"));
}

#[test]
fn a_front_end_that_vanishes_ends_its_session_at_any_byte() {
    for sent in [0, 1, 15, 16, 18, 30] {
        let mut helper = Helper::start(&["--once"]);
        let mut stream = helper.connect();
        let bytes = [b"PROXSAVE\x01\0\x01\0\0\0\0\0".as_slice(), &[25, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]].concat();
        stream.write_all(&bytes[..sent]).unwrap();
        drop(stream);
        let status = helper.end();
        assert!(status == 0 || status == 5, "{sent}: {status}");
        helper.verify();
    }
}

#[test]
fn the_second_session_is_told_who_has_the_first() {
    let helper = Helper::start(&[]);
    run(async {
        let first = client(helper.connect());
        first.hello(context(), hello()).await.unwrap().unwrap();
        let second = client(helper.connect());
        let error = second.hello(context(), hello()).await.unwrap().unwrap_err().to_string();
        assert!(error.contains("another session is running here, for user root (0)"), "{error}");
        drop(first);
        let begin = Instant::now();
        loop {
            let third = client(helper.connect());
            if third.hello(context(), hello()).await.unwrap().is_ok() {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(5), "the lock outlives its session");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn no_process_of_root_runs_a_runtime_and_the_gate_holds_nothing() {
    let helper = Helper::start(&[]);
    run(async {
        let client = client(helper.connect());
        client.hello(context(), hello()).await.unwrap().unwrap();
        let session = children(helper.child.id());
        assert_eq!(session.len(), 1);
        let workers = children(session[0]);
        assert_eq!(workers.len(), 2, "gate and prober");
        let mut gates = 0;
        for process in [helper.child.id(), session[0]].into_iter().chain(workers) {
            let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(field("Threads:"), "1");
            let links = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
            let fds: Vec<_> =
                links.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap().display().to_string()).collect();
            let runtime = fds.iter().any(|fd| fd.contains("eventpoll"));
            assert_eq!(runtime, field("Uid:") != "0 0 0 0", "{process}: {fds:?}");
            if runtime {
                gates += 1;
                for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
                    assert_eq!(field(set), "0000000000000000", "{set}");
                }
                assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
                assert_eq!(field("Groups:"), "");
                let known = |fd: &String| ["/dev/null", "socket:", "anon_inode:"].iter().any(|p| fd.starts_with(p));
                assert!(fds.iter().all(known), "{fds:?}");
                assert_eq!(fds.iter().filter(|fd| fd.starts_with("socket:")).count(), 2, "{fds:?}");
            }
        }
        assert_eq!(gates, 1);
    });
}

#[test]
fn stdio_answers_only_to_a_socket_pair_that_its_own_starter_made() {
    let serve = |stdin: Stdio, variable: Option<&str>| {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxsave-helper"));
        command.args(["serve", "--stdio", "--root", "/", "--state"]).arg(state.path().join("state"));
        command.env_remove("SUDO_UID").env_remove("PKEXEC_UID");
        command.envs(variable.map(|name| (name, "1000")));
        let output = command.stdin(stdin).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, text) = serve(Stdio::null(), None);
    assert!(status == Some(3) && text.contains("socket pair"), "{text}");
    for name in ["SUDO_UID", "PKEXEC_UID"] {
        let (near, _far) = UnixStream::pair().unwrap();
        let (status, text) = serve(std::os::fd::OwnedFd::from(near).into(), Some(name));
        assert!(status == Some(3) && text.contains(name), "{text}");
    }
    // A connection to a listening socket: the kernel would name the listener's user.
    let temp = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(temp.path().join("s")).unwrap();
    let named = UnixStream::connect(temp.path().join("s")).unwrap();
    let (status, text) = serve(std::os::fd::OwnedFd::from(named).into(), None);
    assert!(status == Some(3) && text.contains("socket pair"), "{text}");
    drop(listener);
    // The plain case: a session that ends when we go.
    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    let (status, text) = serve(std::os::fd::OwnedFd::from(near).into(), None);
    assert_eq!(status, Some(5), "a front-end that goes before its preamble: {text}");
}

#[test]
fn root_s_own_front_end_is_served_over_stdio_and_soon() {
    let temp = tempfile::tempdir().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let begin = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_proxsave-helper"))
        .args(["serve", "--stdio", "--state"])
        .arg(temp.path().join("state"))
        .arg("--root")
        .arg(temp.path())
        .env_remove("SUDO_UID")
        .env_remove("PKEXEC_UID")
        .stdin(std::os::fd::OwnedFd::from(far))
        .spawn()
        .unwrap();
    run(async {
        let client = client(near);
        let hello = client.hello(context(), hello()).await.unwrap().unwrap();
        assert_eq!(hello.caller.uid, 0);
        // Well under 50 ms when nothing else runs; a build machine is not idle.
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        println!("from start to hello: {:?}", begin.elapsed());
        client.cancel(context()).await.unwrap().unwrap();
    });
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn root_s_front_end_for_a_user_has_that_user_s_session() {
    let temp = tempfile::tempdir().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_proxsave-helper"))
        .args(["serve", "--stdio", "--for-user", "61001", "--state"])
        .arg(temp.path().join("state"))
        .arg("--root")
        .arg(temp.path())
        .env_remove("SUDO_UID")
        .env_remove("PKEXEC_UID")
        .stdin(std::os::fd::OwnedFd::from(far))
        .spawn()
        .unwrap();
    run(async {
        let client = client(near);
        assert_eq!(client.hello(context(), hello()).await.unwrap().unwrap().caller.uid, 61001);
        client.cancel(context()).await.unwrap().unwrap();
    });
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let log = std::fs::read_to_string(temp.path().join("state/audit.jsonl")).unwrap();
    let connection = log.lines().find(|line| line.contains("\"connection\"")).unwrap();
    assert!(connection.contains("\"uid\":61001") && connection.contains("stdio, started by root"), "{connection}");
}

#[test]
fn only_root_serves() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxsave-helper"));
    command.args(["serve", "--listen", "/tmp/never", "--state", "/tmp/never-state"]);
    std::os::unix::process::CommandExt::uid(&mut command, 65_533);
    // The build directory may be closed to that user; then nothing can be shown.
    let Ok(output) = command.output() else { return };
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!Path::new("/tmp/never").exists());
}

fn children(of: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
