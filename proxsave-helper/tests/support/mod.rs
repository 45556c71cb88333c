//! Builds plans over real directories and plays the broker's part.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use proxsave_helper::cage::Layers;
use proxsave_helper::writer::{FromWriter, Job, Outcome, ToWriter, WriterHandle, content_pipe, spawn};
use proxsave_proto::digest::Timestamp;
use proxsave_proto::plan::{AnchorBinding, ArchiveRef, Entry, Meta, Node, Origin, Plan, Xattr};
use proxsave_proto::state::{Kind, Present};
use proxsave_proto::{CategoryId, Digest, Mode, RelPath, Roles};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn path(text: impl AsRef<[u8]>) -> RelPath {
    RelPath::from_canonical(text.as_ref()).unwrap()
}

pub fn on_disk(root: &Path, path: &RelPath) -> PathBuf {
    root.join(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

pub fn meta(mode: u16) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: Timestamp::new(1_600_000_000, 123_456_789), xattrs: Vec::new() }
}

pub fn file(content: &[u8], meta: Meta) -> Node {
    Node::File { size: content.len() as u64, sha256: Digest::of(content), sparse: false, meta }
}

pub fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.into(), value: value.into() }
}

/// What is at a path, as the prober would see it.
pub fn present(at: &Path) -> Option<Box<Present>> {
    let stat = std::fs::symlink_metadata(at).ok()?;
    let kind = match stat.file_type() {
        t if t.is_dir() => Kind::Dir,
        t if t.is_file() => Kind::File,
        t if t.is_symlink() => Kind::Symlink,
        _ => Kind::Special,
    };
    Some(Box::new(Present {
        kind,
        mode: (stat.mode() & 0o7777) as u16,
        uid: stat.uid(),
        gid: stat.gid(),
        size: if kind == Kind::File { stat.size() } else { 0 },
        mtime: Timestamp::new(stat.mtime(), stat.mtime_nsec() as u32).unwrap(),
        ctime: Timestamp::new(stat.ctime(), stat.ctime_nsec() as u32).unwrap(),
        dev: stat.dev(),
        ino: stat.ino(),
        nlink: if kind == Kind::File { stat.nlink() as u32 } else { 1 },
        sha256: None,
        link: None,
        xattrs: Digest::of(b""),
    }))
}

/// A plan for these things over what stands in a root now. Directories on the way that are missing are made.
pub fn plan(root: &Path, things: Vec<(RelPath, Node)>) -> Plan {
    let mut entries: BTreeMap<RelPath, Entry> = BTreeMap::new();
    let add = |path: RelPath, origin, node| {
        let before = present(&on_disk(root, &path));
        (path.clone(), Entry { path, category: CategoryId::Network, origin, node, before })
    };
    for (path, node) in things {
        for dir in path.ancestors().filter(|dir| !dir.is_root() && !on_disk(root, dir).exists()) {
            let mut parent = meta(0o755);
            parent.mtime = None;
            let (path, entry) = add(dir, Origin::Parent, Node::Dir { meta: parent });
            entries.entry(path).or_insert(entry);
        }
        let (path, entry) = add(path, Origin::Archive, node);
        entries.insert(path, entry);
    }
    let mut anchors: Vec<RelPath> =
        entries.keys().filter_map(RelPath::parent).filter(|dir| on_disk(root, dir).is_dir()).collect();
    anchors.sort();
    anchors.dedup();
    let anchors = anchors.into_iter().map(|path| bind(root, path)).collect();
    Plan {
        archive: ArchiveRef {
            sha256: Digest::of(b""),
            name: b"a".to_vec(),
            hostname: b"h".to_vec(),
            created_at: String::new(),
        },
        mode: Mode::Full,
        host: Roles::default(),
        anchors,
        entries: entries.into_values().collect(),
        exports: Vec::new(),
        services: Vec::new(),
        mounts: Vec::new(),
        applies: Vec::new(),
    }
}

fn bind(root: &Path, path: RelPath) -> AnchorBinding {
    let stat =
        rustix::fs::statx(CWD, on_disk(root, &path), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO | StatxFlags::MNT_ID)
            .unwrap();
    let dev = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    AnchorBinding { path, dev, ino: stat.stx_ino, mount: stat.stx_mnt_id }
}

pub fn open_anchors(root: &Path, plan: &Plan) -> Vec<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |anchor: &AnchorBinding| {
        rustix::fs::open(on_disk(root, &anchor.path), flags, rustix::fs::Mode::empty()).unwrap()
    };
    plan.anchors.iter().map(open).collect()
}

/// The content stream that a front-end would send.
pub fn stream(plan: &Plan, contents: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in contents {
        out.extend(record(plan, name, bytes));
    }
    out
}

pub fn record(plan: &Plan, name: &str, bytes: &[u8]) -> Vec<u8> {
    let index = plan.entries.iter().position(|entry| entry.path == path(name)).unwrap() as u32;
    [&index.to_le_bytes()[..], bytes].concat()
}

/// A writer that was started, and its content pipe.
pub struct Running {
    pub writer: WriterHandle,
    pub content: Option<File>,
    pub failed: Vec<(u32, String)>,
    pub covered: u32,
    pub uncovered: Vec<String>,
    pub progress: usize,
}

pub fn start(root: &Path, plan: &Plan, layers: Layers, idle: Duration) -> Running {
    let anchors = open_anchors(root, plan);
    let job = Job::unchecked(plan, anchors.iter().map(AsFd::as_fd).collect(), "test").layers(layers).idle(idle);
    let (read, write) = content_pipe().unwrap();
    let writer = spawn(&job, read).unwrap();
    Running {
        writer,
        content: Some(File::from(write)),
        failed: Vec::new(),
        covered: 0,
        uncovered: Vec::new(),
        progress: 0,
    }
}

impl Running {
    pub fn next(&mut self) -> Option<FromWriter> {
        loop {
            poll(&mut [PollFd::new(&self.writer.socket(), PollFlags::IN)], None).unwrap();
            match self.writer.receive() {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                message => return message.unwrap(),
            }
        }
    }

    /// Feeds the content and closes the pipe; a writer that gave up meanwhile is no error.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut pipe = self.content.take().unwrap();
        let bytes = bytes.to_vec();
        std::thread::spawn(move || {
            let _ = pipe.write_all(&bytes);
        });
    }

    /// Goes on until all is staged, or it is over.
    pub fn staged(&mut self) -> Result<(), Outcome> {
        loop {
            match self.next().expect("the writer crashed") {
                FromWriter::Ready { covered, uncovered, .. } => (self.covered, self.uncovered) = (covered, uncovered),
                FromWriter::Progress { .. } => self.progress += 1,
                FromWriter::Staged { .. } => return Ok(()),
                FromWriter::Over(outcome) => return Err(outcome),
                FromWriter::EntryFailed { .. } => panic!("an entry failed while staging"),
            }
        }
    }

    pub fn commit(&mut self) -> Outcome {
        self.writer.send(ToWriter::Commit).unwrap();
        self.over()
    }

    pub fn over(&mut self) -> Outcome {
        loop {
            match self.next().expect("the writer crashed") {
                FromWriter::EntryFailed { index, why } => self.failed.push((index, why)),
                FromWriter::Over(outcome) => return outcome,
                _ => {}
            }
        }
    }
}

/// All of it: stage and put in place.
pub fn restore(root: &Path, plan: &Plan, contents: &[(&str, &[u8])]) -> Outcome {
    let mut running = start(root, plan, Layers::ALL, Duration::from_secs(20));
    running.feed(&stream(plan, contents));
    match running.staged() {
        Ok(()) => running.commit(),
        Err(outcome) => outcome,
    }
}

/// Everything about a tree that a restore could change, as comparable text: kind, mode, owner, size, times, links,
/// attributes, contents.
pub fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(at) = todo.pop() {
        let stat = std::fs::symlink_metadata(&at).unwrap();
        let kind = stat.file_type();
        let content = if kind.is_file() {
            Digest::of(&std::fs::read(&at).unwrap()).to_string()
        } else if kind.is_symlink() {
            format!("{:?}", std::fs::read_link(&at).unwrap())
        } else {
            String::new()
        };
        let text = format!(
            "{:o} {}:{} ino {} nlink {} mtime {}.{:09} {} {:?}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.ino(),
            stat.nlink(),
            stat.mtime(),
            stat.mtime_nsec(),
            content,
            xattrs(&at)
        );
        all.insert(at.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), text);
        if kind.is_dir() {
            todo.extend(std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    all
}

pub fn xattrs(at: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0u8; 65536];
    let length = rustix::fs::llistxattr(at, &mut names[..]).unwrap_or(0);
    let list = names[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    list.map(|name| {
        let mut value = vec![0u8; 65536];
        let length = rustix::fs::lgetxattr(at, name, &mut value[..]).unwrap();
        (name.to_vec(), value[..length].to_vec())
    })
    .collect()
}

/// Names that the writer leaves behind, anywhere below a root.
pub fn leftovers(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_name().as_bytes().starts_with(b".pxs-") {
                found.push(entry.path());
            } else if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
        }
    }
    found
}
