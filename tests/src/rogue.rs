//! A front-end that speaks the wire itself, and so can lie.

use crate::lab::{Helper, Lab};
use crate::snapshot::Snapshot;
use proxsave_proto::message::{CallError, ClientHello, HelperHello, Phase, ProbeItem, Progress, Submission, Verdict};
use proxsave_proto::plan::{AnchorBinding, ArchiveRef, Entry, Meta, Node, Origin, Plan};
use proxsave_proto::rpc::{Fd, HelperClient, Limits, Transport, exchange_preamble};
use proxsave_proto::state::Target;
use proxsave_proto::{CategoryId, Digest, Mode, RelPath, Roles};
use rustix::fs::{MemfdFlags, SealFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tarpc::client::RpcError;

/// A name that no live file has.
pub const NEW: &str = "home/anna/new";
/// A name that a live file has.
pub const OLD: &str = "home/anna/live.txt";

/// A lab with a live host and a helper that waits.
pub struct Stage {
    /// The lab.
    pub lab: Lab,
    /// The helper.
    pub helper: Helper,
    /// The root before.
    pub before: Snapshot,
}

/// A new stage.
#[must_use]
pub fn stage() -> Stage {
    let lab = Lab::new();
    lab.populate();
    let before = lab.snapshot();
    let helper = lab.helper();
    Stage { lab, helper, before }
}

impl Stage {
    /// After the session: the helper ended, nothing changed, the log verifies.
    ///
    /// # Panics
    /// When not so.
    pub fn assert_untouched(self, what: &str) {
        let log = self.helper.finish();
        assert_eq!(self.before.changes(&self.lab.snapshot()), [], "{what}: {log}");
        assert_eq!(self.lab.audit_verify().code, Some(0), "{what}: {:?}", self.lab.audit_verify());
    }
}

/// A session with a helper.
pub struct Rogue {
    /// The client, for calls that the methods here do not make.
    pub client: HelperClient,
    /// What the helper said to `hello`.
    pub hello: HelperHello,
}

/// Runs a future on a runtime of its own, no longer than a minute.
///
/// # Panics
/// When it takes longer.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), future).await.expect("no answer for a minute")
    })
}

/// A context with half a minute's deadline.
#[must_use]
pub fn context() -> tarpc::context::Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + Duration::from_secs(30);
    context
}

/// Connects and exchanges preambles.
///
/// # Panics
/// When that fails.
#[must_use]
pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("the helper listens");
    exchange_preamble(&stream, Duration::from_secs(10)).expect("the helper's preamble");
    stream
}

/// A client over a connection; no call is made yet.
///
/// # Panics
/// Outside a tokio runtime.
#[must_use]
pub fn client(stream: UnixStream) -> HelperClient {
    let transport = Transport::new(stream, Limits::default()).expect("a transport");
    HelperClient::new(tarpc::client::Config::default(), transport).spawn()
}

impl Rogue {
    /// Connects and says hello.
    ///
    /// # Panics
    /// When the helper does not answer.
    pub async fn new(socket: &Path) -> Self {
        let client = client(connect(socket));
        let hello = client.hello(context(), ClientHello { version: "rogue".into() }).await;
        Self { client, hello: hello.expect("an answer to hello").expect("hello is taken") }
    }

    /// What is at some paths.
    ///
    /// # Panics
    /// When the helper does not answer.
    pub async fn probe(&self, paths: &[&str]) -> Vec<Target> {
        let items = paths.iter().map(|path| ProbeItem { path: rel(path), hash_if_size: None }).collect();
        self.client.probe(context(), items).await.expect("an answer to probe").expect("probe is taken")
    }

    /// An honest plan that writes files, all of them in directories that exist.
    ///
    /// # Panics
    /// When a path cannot be reached or its directory lacks.
    pub async fn plan(&self, files: &[(&str, &[u8])]) -> Plan {
        let paths: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
        let targets = self.probe(&paths).await;
        let (mut entries, mut anchors) = (BTreeMap::new(), BTreeMap::new());
        for ((path, content), target) in files.iter().zip(targets) {
            let path = rel(path);
            let anchor = target.anchor().unwrap_or_else(|| panic!("{path}: {target:?}"));
            let parent = path.parent().expect("not the root");
            assert_eq!(usize::from(anchor.depth), parent.depth(), "{path}: its directory is missing");
            let binding = AnchorBinding { path: parent.clone(), dev: anchor.dev, ino: anchor.ino, mount: anchor.mount };
            anchors.insert(parent, binding);
            entries.insert(path.clone(), file_entry(path, content, &target));
        }
        Plan {
            archive: ArchiveRef {
                sha256: Digest::of(b"archive"),
                name: b"rogue.tar".to_vec(),
                hostname: b"rogue".to_vec(),
                created_at: "2026-01-01T00:00:00Z".into(),
            },
            mode: Mode::Full,
            host: Roles::UNKNOWN,
            anchors: anchors.into_values().collect(),
            entries: entries.into_values().collect(),
            exports: vec![],
            services: vec![],
            mounts: vec![],
            applies: vec![],
        }
    }

    /// Submits any bytes as a plan.
    ///
    /// # Errors
    /// As the transport says.
    pub async fn submit_bytes(&self, bytes: &[u8], hash: Digest) -> Result<Result<Verdict, CallError>, RpcError> {
        let submission = Submission { nonce: self.hello.nonce, plan_hash: hash, dry_run: false };
        self.client.submit(context(), submission, Fd::from(memfd(bytes, SealFlags::all()))).await
    }

    /// Submits a plan with its true hash, valid or not.
    ///
    /// # Errors
    /// As the transport says.
    pub async fn submit(&self, plan: &Plan) -> Result<Result<Verdict, CallError>, RpcError> {
        self.submit_bytes(&plan.encode().expect("a plan encodes"), hash(plan)).await
    }

    /// Asks for progress until a condition holds.
    ///
    /// # Panics
    /// When the helper ends the session, or is over in another phase.
    pub async fn until(&self, phase: Phase) -> Progress {
        let mut since = 0;
        loop {
            let progress = self.client.progress(context(), since).await.expect("an answer").expect("progress is taken");
            if progress.phase == phase {
                return progress;
            }
            assert!(!progress.phase.is_over(), "over, but not {phase:?}: {progress:?}");
            since = progress.seq;
        }
    }

    /// Asks for the pipe and gives its writing end as a file.
    ///
    /// # Panics
    /// When the helper does not give it.
    pub async fn stream(&self) -> File {
        let fd = self.client.stream(context()).await.expect("an answer").expect("stream is taken");
        File::from(fd.into_owned().expect("the only copy"))
    }
}

/// A file's record in the content stream.
#[must_use]
pub fn record(index: u32, content: &[u8]) -> Vec<u8> {
    [&index.to_le_bytes()[..], content].concat()
}

/// A canonical path.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn rel(path: &str) -> RelPath {
    RelPath::from_canonical(path.as_bytes()).expect("a canonical path")
}

/// The hash of a plan's encoding, as the protocol defines it, whether the plan is valid or not.
///
/// # Panics
/// Never in practice.
#[must_use]
pub fn hash(plan: &Plan) -> Digest {
    let bytes = plan.encode().expect("a plan encodes");
    Digest::of(&[b"proxsave plan 1\0".as_slice(), &bytes].concat())
}

/// An entry that writes a file, 0644 root:root.
#[must_use]
pub fn file_entry(path: RelPath, content: &[u8], target: &Target) -> Entry {
    let category = CategoryId::of(&path).find(|id| id.is_written()).unwrap_or(CategoryId::UserData);
    Entry {
        category,
        path,
        origin: Origin::Archive,
        node: Node::File {
            size: content.len() as u64,
            sha256: Digest::of(content),
            sparse: false,
            meta: Meta { mode: 0o644, uid: 0, gid: 0, mtime: None, xattrs: vec![] },
        },
        before: target.present().cloned().map(Box::new),
    }
}

/// A memory file with some seals. `SealFlags::all()` stands for the four that a plan needs.
///
/// # Panics
/// When the kernel has none.
#[must_use]
pub fn memfd(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("plan", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).expect("a memory file");
    let mut file = File::from(fd);
    file.write_all(bytes).expect("room in memory");
    let wanted = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals & wanted).expect("seals");
    file.into()
}
