//! The parsers that meet untrusted bytes, each as a target of a small deterministic fuzzer (see
//! [`crate::mutate`]). A target fails by panicking: on a parser's panic, and where a promise is broken.

use crate::backup::{Backup, Codec, Layout};
use crate::rogue::{file_entry, rel};
use crate::tarball::Tar;
use proxsave_helper::broker::message::{Request, ToGate};
use proxsave_proto::digest::Digest;
use proxsave_proto::escape::{escape, unescape};
use proxsave_proto::plan::{AnchorBinding, ArchiveRef, Plan};
use proxsave_proto::rpc::{HelperRequest, screen_call, unpack};
use proxsave_proto::state::{Anchor, Target};
use proxsave_proto::{Mode, RelPath, Roles, ValidPlan};
use proxsave_ui::archive::{bundle, checksum, manifest::Manifest};
use proxsave_ui::decoder::{Limits, tar::Walker};
use std::path::{Path, PathBuf};
use tarpc::ClientMessage;

/// One parser and what it is fed.
pub struct Parser {
    /// Its name, and the name of its corpus's folder.
    pub name: &'static str,
    /// Reads an input.
    pub run: fn(&[u8]),
    /// Inputs to begin with, beside the folder's.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Parser] = &[
    Parser { name: "paths", run: paths, seeds: Vec::new },
    Parser { name: "plan", run: plan, seeds: plan_seeds },
    Parser { name: "wire", run: wire, seeds: Vec::new },
    Parser { name: "manifest", run: manifest, seeds: Vec::new },
    Parser { name: "legacy", run: manifest, seeds: Vec::new },
    Parser { name: "bundle", run: read_bundle, seeds: bundle_seeds },
    Parser { name: "tar", run: tar_entries, seeds: tar_seeds },
];

impl Parser {
    /// The folder of committed inputs.
    #[must_use]
    pub fn corpus_dir(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(self.name)
    }

    /// All inputs to begin with.
    ///
    /// # Panics
    /// When there is none, or one cannot be read.
    #[must_use]
    pub fn corpus(&self) -> Vec<Vec<u8>> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.corpus_dir())
            .map(|dir| dir.map(|entry| entry.expect("a folder's entry").path()).collect())
            .unwrap_or_default();
        files.sort();
        let mut corpus = (self.seeds)();
        corpus.extend(files.iter().map(|path| std::fs::read(path).expect("a readable input")));
        assert!(!corpus.is_empty(), "{}: no input to begin with", self.name);
        corpus
    }
}

/// No bytes make a path that climbs, and what is shown of any name is one harmless line that reads back.
fn paths(input: &[u8]) {
    if let Ok(path) = RelPath::from_archive(input) {
        assert!(path.components().all(|part| !part.is_empty() && part != b".." && part != b"." && !part.contains(&0)));
        assert_eq!(RelPath::from_canonical(path.as_bytes()), Ok(path));
    }
    let shown = escape(input);
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    assert_eq!(unescape(&shown).as_deref(), Some(input));
    let _ = unescape(&String::from_utf8_lossy(input));
}

/// What decodes as a plan has exactly these bytes, and all that a valid plan promises.
fn plan(input: &[u8]) {
    let Ok(valid) = ValidPlan::decode(input) else { return };
    assert_eq!(valid.plan().encode().expect("a plan encodes"), input);
    for entry in &valid.plan().entries {
        assert!(entry.category.is_written() && !proxsave_proto::plan::guarded(&entry.path));
    }
}

/// Frames to the helper, and messages inside it.
fn wire(input: &[u8]) {
    if screen_call(input).is_ok() {
        let _ = unpack::<ClientMessage<HelperRequest>>(input, vec![]);
    }
    let _ = unpack::<Request>(input, vec![]);
    let _ = unpack::<ToGate>(input, vec![]);
    if let Some((head, _)) = input.split_first_chunk() {
        let _ = proxsave_proto::preamble::agree(head);
    }
}

fn manifest(input: &[u8]) {
    let _ = Manifest::parse_json(input);
    if let Ok(manifest) = Manifest::parse_metadata(input) {
        let _ = (manifest.codec(), manifest.encryption(), manifest.roles(), manifest.archive_name().map(str::len));
    }
    let _ = checksum::parse(input);
}

/// What a bundle says lies inside it.
fn read_bundle(input: &[u8]) {
    let _ = bundle::read(input, input.len() as u64);
}

/// Entries keep what the rest relies on, and their contents have the size they say.
fn tar_entries(input: &[u8]) {
    let limits = Limits { plain_bytes: 1 << 20, header_bytes: 4096, entries: 1000, ..Limits::default() };
    let mut walker = Walker::new(input, limits, input.len() as u64);
    let mut buffer = [0; 4096];
    while let Ok(Some(member)) = walker.next_member() {
        assert!(!member.path.is_root() && member.path.components().all(|part| part != b".." && !part.contains(&0)));
        assert!(member.attributes.uid != u32::MAX && member.attributes.gid != u32::MAX);
        let mut size = 0;
        loop {
            match walker.read_content(&mut buffer) {
                Ok(0) => break,
                Ok(count) => size += count as u64,
                Err(_) => return,
            }
        }
        assert_eq!(size, member.size);
    }
}

fn tar_seeds() -> Vec<Vec<u8>> {
    let mut tar = Tar::new();
    tar.file("./a", "content").dir("./d").symlink("./l", "a").hardlink("./h", "./a");
    tar.pax(&[(b"mtime", b"-1.5"), (b"path", b"d/long"), (b"SCHILY.xattr.user.x", b"y")]).file("./x", "x");
    let mut sparse = Tar::new();
    sparse.pax(&[(b"GNU.sparse.size", b"900"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"5,3")]);
    sparse.file("./s", "abc");
    let mut gnu = Tar::new();
    gnu.gnu_long(b'L', &[b'n'; 150]).file("./n", "x");
    vec![tar.finish(), sparse.finish(), gnu.finish()]
}

fn plan_seeds() -> Vec<Vec<u8>> {
    let anchor = Anchor { depth: 2, dev: 1, ino: 2, mount: 3 };
    let mut plan = Plan {
        archive: ArchiveRef {
            sha256: Digest::of(b"archive"),
            name: b"a.tar".to_vec(),
            hostname: b"host".to_vec(),
            created_at: "2026-01-01T00:00:00Z".into(),
        },
        mode: Mode::Full,
        host: Roles::DUAL,
        anchors: vec![AnchorBinding { path: rel("home/anna"), dev: 1, ino: 2, mount: 3 }],
        entries: vec![file_entry(rel("home/anna/f"), b"content", &Target::Absent(anchor))],
        exports: vec![],
        services: vec![],
        mounts: vec![],
        applies: vec![],
    };
    let one = plan.encode().expect("a plan encodes");
    for index in 0..20 {
        plan.entries.push(file_entry(rel(&format!("home/anna/f{index:02}")), b"content", &Target::Absent(anchor)));
    }
    vec![one, plan.encode().expect("a plan encodes")]
}

fn bundle_seeds() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a scratch folder");
    [Layout::Bundle, Layout::BundleOldOrder]
        .map(|layout| {
            let backup = Backup { layout, codec: Codec::None, ..Backup::default() };
            std::fs::read(backup.write(dir.path(), b"content")).expect("just written")
        })
        .into()
}
