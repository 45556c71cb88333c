use super::*;
use proxsave_proto::message::{Approval, Caller, HostFacts, ProbeAnswer, Refusal, Why};
use proxsave_proto::plan::{ArchiveRef, Plan};
use proxsave_proto::rpc::Helper;
use proxsave_proto::state::Blocked;
use proxsave_proto::{Digest, Mode, RelPath, Roles};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tarpc::server::{BaseChannel, Channel as _};

/// A helper that answers by a script and notes the calls.
#[derive(Clone, Default)]
struct Script {
    calls: Arc<Mutex<Vec<String>>>,
    phases: Arc<Mutex<Vec<Phase>>>,
    /// The phase after the script's end.
    last: Option<Phase>,
}

impl Script {
    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }
}

impl Helper for Script {
    async fn hello(self, _: Context, client: ClientHello) -> Result<HelperHello, CallError> {
        self.note(format!("hello {}", client.version));
        Ok(HelperHello {
            version: "0".into(),
            nonce: [9; 16],
            caller: Caller { uid: 1, name: None },
            root: b"/".to_vec(),
            host: HostFacts { roles: Roles::UNKNOWN, evidence: Vec::new() },
            granted: Vec::new(),
            grants_privileged_bits: false,
            sandbox: String::new(),
        })
    }
    async fn probe(self, _: Context, items: Vec<ProbeItem>) -> ProbeAnswer {
        self.note(format!("probe {}", items.len()));
        Ok(items.iter().map(|_| Target::Blocked(Blocked::Guarded)).collect())
    }
    async fn submit(self, _: Context, submission: Submission, plan: rpc::Fd) -> Result<Verdict, CallError> {
        let seals = rustix::fs::fcntl_get_seals(&plan).unwrap();
        assert_eq!(submission.nonce, [9; 16]);
        let mut bytes = vec![0; usize::try_from(rustix::fs::fstat(&plan).unwrap().st_size).unwrap()];
        rustix::io::pread(&plan, &mut bytes[..], 0).unwrap();
        let hash = ValidPlan::decode(&bytes).unwrap().hash();
        assert_eq!(hash, submission.plan_hash);
        self.note(format!("submit {:x}", seals.bits()));
        if submission.dry_run {
            return Ok(Verdict::Refused(vec![Refusal { path: None, why: Why::Hash }]));
        }
        let plan_hash = if self.last == Some(Phase::Failed) { Digest::of(b"another") } else { hash };
        Ok(Verdict::Approved(Approval { plan_hash, txid: "t".into(), dropped_privileges: Vec::new() }))
    }
    async fn stream(self, _: Context) -> Result<rpc::Fd, CallError> {
        Ok(rustix::pipe::pipe().unwrap().1.into())
    }
    async fn progress(self, _: Context, since: u64) -> Result<Progress, CallError> {
        let next = self.phases.lock().unwrap().pop();
        let phase = match (next, self.last) {
            (Some(phase), _) => phase,
            (None, Some(last)) => last,
            (None, None) => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Phase::Idle
            }
        };
        Ok(Progress { seq: since + 1, phase, entries: 0, bytes: 0, error: None })
    }
    async fn commit(self, _: Context) -> Result<(), CallError> {
        Err(CallError::OutOfOrder)
    }
    async fn cancel(self, _: Context) -> Result<(), CallError> {
        self.note("cancel");
        *self.phases.lock().unwrap() = vec![Phase::Cancelled];
        Ok(())
    }
    async fn report(self, _: Context) -> Result<Report, CallError> {
        Err(CallError::Failed("no".into()))
    }
}

/// Serves one connection in a thread of its own, until the client goes.
fn serve(script: &Script) -> UnixStream {
    use futures::StreamExt as _;
    let (near, far) = UnixStream::pair().unwrap();
    let script = script.clone();
    std::thread::spawn(move || {
        exchange_preamble(&far, PREAMBLE).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let channel = BaseChannel::with_defaults(Transport::new(far, Limits::default()).unwrap());
            channel.execute(script.serve()).for_each_concurrent(8, |answer| answer).await;
        });
    });
    near
}

fn client(script: &Script) -> HelperClient {
    HelperClient::open(serve(script), || false).unwrap()
}

fn empty_plan() -> ValidPlan {
    let archive =
        ArchiveRef { sha256: Digest::of(b""), name: Vec::new(), hostname: Vec::new(), created_at: String::new() };
    Plan {
        archive,
        mode: Mode::Full,
        host: Roles::UNKNOWN,
        anchors: Vec::new(),
        entries: Vec::new(),
        exports: Vec::new(),
        services: Vec::new(),
        mounts: Vec::new(),
        applies: Vec::new(),
    }
    .validate()
    .unwrap()
}

#[test]
fn probes_go_in_batches_that_fit() {
    let script = Script::default();
    let item = |n: usize| ProbeItem {
        path: RelPath::from_archive(format!("etc/{}{n}", "x/".repeat(1900)).as_bytes()).unwrap(),
        hash_if_size: None,
    };
    let items: Vec<_> = (0..500).map(item).collect();
    let mut seen = Vec::new();
    assert_eq!(client(&script).probe_each(&items, &mut |done| seen.push(done)).unwrap().len(), 500);
    assert_eq!(seen.last(), Some(&500));
    assert!(seen.len() > 5 && seen.len() < 20, "{seen:?}");
}

#[test]
fn a_plan_is_handed_over_sealed_and_an_approval_of_another_is_seen_through() {
    let script = Script::default();
    let helper = client(&script);
    assert!(matches!(helper.submit(&empty_plan(), false).unwrap(), Verdict::Approved(_)));
    assert!(matches!(helper.submit(&empty_plan(), true).unwrap(), Verdict::Refused(_)));
    assert!(script.calls.lock().unwrap().contains(&"submit f".to_owned()));
    assert!(rustix::io::write(helper.stream().unwrap(), b"x").is_err(), "the test's reading end is closed");
    let liar = Script { last: Some(Phase::Failed), ..Script::default() };
    assert!(matches!(client(&liar).submit(&empty_plan(), false), Err(ClientError::Nonsense(_))));
}

#[test]
fn a_raised_flag_cancels_what_is_staged_and_waits_for_the_end() {
    static RAISED: AtomicBool = AtomicBool::new(false);
    let script = Script::default();
    *script.phases.lock().unwrap() = vec![Phase::Staging, Phase::Staging];
    let helper = HelperClient::open(serve(&script), || RAISED.load(Ordering::SeqCst)).unwrap();
    let mut shown = 0;
    let end = helper.watch(|phase| phase == Phase::Staged, &mut |_| {
        shown += 1;
        RAISED.store(shown >= 2, Ordering::SeqCst);
    });
    assert_eq!(end.unwrap().phase, Phase::Cancelled);
    assert!(script.calls.lock().unwrap().contains(&"cancel".to_owned()));
    assert!(matches!(
        helper.probe(&[ProbeItem { path: RelPath::root(), hash_if_size: None }]),
        Err(ClientError::Stopped)
    ));
}

#[test]
fn a_commit_that_has_begun_is_waited_for_whatever_the_flag_says() {
    static RAISED: AtomicBool = AtomicBool::new(false);
    let script = Script { last: Some(Phase::Done), ..Script::default() };
    *script.phases.lock().unwrap() = vec![Phase::Committing, Phase::Committing];
    let helper = HelperClient::open(serve(&script), || RAISED.load(Ordering::SeqCst)).unwrap();
    let end = helper.watch(|_| false, &mut |_| RAISED.store(true, Ordering::SeqCst));
    assert_eq!(end.unwrap().phase, Phase::Done);
    assert!(!script.calls.lock().unwrap().contains(&"cancel".to_owned()));
}

#[test]
fn errors_say_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("none");
    let text = HelperClient::connect(&path).unwrap_err().to_string();
    assert!(text.contains("--for-user"), "{text}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let text = HelperClient::connect(&path).unwrap_err().to_string();
    assert!(text.contains("start the helper again"), "{text}");

    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    assert!(matches!(HelperClient::from_stream(near), Err(ClientError::Preamble(_))));

    let (near, far) = UnixStream::pair().unwrap();
    let closer = std::thread::spawn(move || exchange_preamble(&far, PREAMBLE).unwrap());
    let error = HelperClient::from_stream(near).unwrap_err();
    closer.join().unwrap();
    assert!(matches!(error, ClientError::Gone { .. } | ClientError::Broken { .. }), "{error}");

    let helper = client(&Script::default());
    assert!(matches!(helper.commit(), Err(ClientError::Call(CallError::OutOfOrder))));
    assert!(helper.report().unwrap_err().to_string().contains("the helper failed: no"));
}
