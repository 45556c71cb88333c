//! The caged decoder child on every real backup: what it finds is what independent tools found.

use proxsave_tests::bins;
use proxsave_tests::fixtures::{self, Fixture, Listed, Secret};
use proxsave_ui::archive::describe::{Describe, DescribeInput, Description};
use proxsave_ui::archive::name::CompanionKind;
use proxsave_ui::decoder::{
    DecodeError, DecodeProgress, Decoder, Index, IndexEntry, IndexNode, Limits, Options, Source,
};
use proxsave_ui::secrets::{Expected, Identities};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::ControlFlow;
use std::os::fd::AsFd;

fn quiet(_: DecodeProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn decoder(limits: Limits) -> Decoder {
    let options = Options { program: bins::program("proxsave-ui"), limits, allow_unsandboxed: false };
    Decoder::spawn_with(&options).unwrap()
}

fn describe(decoder: &mut Decoder, fixture: &Fixture) -> (File, Description) {
    let folder = fixture.folder();
    let file = File::open(folder.join(&fixture.archive)).unwrap();
    let companions: Vec<(CompanionKind, File)> = CompanionKind::ALL
        .into_iter()
        .filter_map(|kind| Some((kind, File::open(folder.join(format!("{}{}", fixture.archive, kind.suffix()))).ok()?)))
        .collect();
    let input = DescribeInput {
        name: fixture.archive.as_bytes(),
        archive: file.as_fd(),
        companions: companions.iter().map(|(kind, file)| (*kind, file.as_fd())).collect(),
    };
    let description = decoder.describe(input).unwrap();
    (file, description)
}

fn identities(fixture: &Fixture, description: &Description) -> Option<Identities> {
    let text = match fixture.secret() {
        Secret::None => return None,
        Secret::Identity(name) => std::fs::read(fixture.base.join("keys").join(name)).unwrap(),
        Secret::Passphrase(text) => text.as_bytes().to_vec(),
    };
    let secret = proxsave_ui::secrets::Secret::read(&text, Expected::Any, "test", &[], &mut ()).unwrap();
    let salt = description.manifest.as_ref().and_then(|manifest| manifest.passphrase_salt.as_deref());
    Some(Identities::new(vec![secret], salt))
}

fn source<'a>(file: &'a File, description: &Description) -> Source<'a> {
    Source {
        file: file.as_fd(),
        offset: description.span.offset,
        length: description.span.length,
        expected: description.sha256,
    }
}

fn index(decoder: &mut Decoder, fixture: &Fixture, limits: &Limits) -> Result<Index, DecodeError> {
    let (file, description) = describe(decoder, fixture);
    let identities = identities(fixture, &description);
    let source = source(&file, &description);
    match identities {
        None => decoder.index(&source, None, limits, &mut quiet),
        Some(identities) => {
            let mut unwrap = |stanzas: &[_]| identities.unwrap(stanzas);
            decoder.index(&source, Some(&mut unwrap), limits, &mut quiet)
        }
    }
}

fn compare(fixture: &Fixture, entry: &IndexEntry, listed: &Listed) {
    let at = format!("{}: {}", fixture.id, entry.path);
    match &entry.node {
        IndexNode::File { size, sha256, dedup, .. } => {
            assert_eq!(listed.kind(), "file", "{at}");
            assert_eq!(*size, listed.dedup.as_ref().map_or(listed.size, |dedup| dedup.size), "{at}");
            assert_eq!(Some(*sha256), listed.sha256(), "{at}");
            assert_eq!(*dedup, listed.dedup.is_some(), "{at}");
        }
        IndexNode::Dir { .. } => assert_eq!(listed.kind(), "dir", "{at}"),
        IndexNode::Symlink { target, .. } => {
            assert_eq!(listed.kind(), "symlink", "{at}");
            assert_eq!(Some(target.clone()), listed.link(), "{at}");
        }
        IndexNode::Hardlink { .. } => panic!("{at}: the public tool writes no hard links"),
    }
    let meta = entry.node.meta().unwrap();
    let mtime = meta.mtime.unwrap();
    assert_eq!(u32::from(meta.mode), listed.mode(), "{at}");
    assert_eq!((meta.uid, meta.gid), listed.owner(), "{at}");
    assert_eq!((mtime.secs, i64::from(mtime.nanos)), listed.mtime(), "{at}");
    assert!(meta.xattrs.is_empty(), "{at}");
}

/// Reads the records of a content stream.
fn records(mut stream: impl Read, contents: &BTreeMap<u32, (u64, proxsave_proto::Digest)>) -> usize {
    let mut count = 0;
    let mut number = [0; 4];
    while stream.read_exact(&mut number).is_ok() {
        let (size, sha256) = contents[&u32::from_le_bytes(number)];
        let mut content = vec![0; usize::try_from(size).unwrap()];
        stream.read_exact(&mut content).unwrap();
        assert_eq!(proxsave_proto::Digest::of(&content), sha256);
        count += 1;
    }
    count
}

/// All distinct contents, by extracting them.
fn extract_all(decoder: &mut Decoder, index: &Index) {
    let mut contents = BTreeMap::new();
    let mut wanted = Vec::new();
    for (at, entry) in index.entries.iter().enumerate() {
        if let IndexNode::File { ordinal, size, sha256, dedup: false, .. } = entry.node {
            let record = u32::try_from(at).unwrap() + 7;
            contents.insert(record, (size, sha256));
            wanted.push((ordinal, record));
        }
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let count = std::thread::scope(|scope| {
        let reading = scope.spawn(|| records(reader, &contents));
        let bytes = decoder.extract(&wanted, writer.into(), &mut quiet).unwrap();
        assert_eq!(bytes, contents.values().map(|(size, _)| size).sum::<u64>());
        reading.join().unwrap()
    });
    assert_eq!(count, wanted.len());
}

fn check(fixture: &Fixture) {
    let listing = fixture.listing();
    // Once served from memory, once read again.
    for keep_bytes in [Limits::default().keep_bytes, 0] {
        let limits = Limits { keep_bytes, ..Limits::default() };
        let mut decoder = decoder(limits);
        let index = index(&mut decoder, fixture, &limits).unwrap_or_else(|why| panic!("{}: {why}", fixture.id));
        let listed: BTreeMap<_, _> = listing.entries.iter().map(|entry| (entry.rel(), entry)).collect();
        assert!(index.refused.is_empty() && index.left_out.is_empty(), "{}: {:?}", fixture.id, index.refused);
        assert_eq!(index.entries.len(), listed.len(), "{}", fixture.id);
        for entry in &index.entries {
            compare(fixture, entry, listed[&entry.path]);
        }
        assert_eq!(index.encrypted, fixture.secret() != Secret::None);
        assert_eq!(index.roles.roles, listing.roles(), "{}: {:?}", fixture.id, index.roles.why);
        assert!(index.info.features.contains(&"selective_restore".to_owned()));
        extract_all(&mut decoder, &index);
    }
}

#[test]
fn every_shipped_backup_is_indexed_and_extracted() {
    let set = fixtures::shipped();
    set.iter().for_each(check);
    assert_eq!(set.len(), 14);
}

#[test]
fn every_backup_of_the_larger_set_is_indexed_and_extracted() {
    let Some(set) = fixtures::larger() else { return };
    set.iter().for_each(check);
    assert_eq!(set.len(), 29);
}

#[test]
fn directories_of_the_source_host_are_told_from_the_backups_own() {
    let Some(set) = fixtures::larger() else { return };
    let fixture = set.iter().find(|fixture| fixture.id == "s01").unwrap();
    let index = index(&mut decoder(Limits::default()), fixture, &Limits::default()).unwrap();
    let text = std::fs::read(fixture.base.join("hosts/pve1.source.json")).unwrap();
    let host: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mut compared = 0;
    for entry in &index.entries {
        let IndexNode::Dir { meta, true_entry } = &entry.node else { continue };
        let path = entry.path.to_string();
        let Some(source) = host["entries"].as_array().unwrap().iter().find(|e| e["path"] == path.as_str()) else {
            continue;
        };
        let mode = u16::from_str_radix(source["mode"].as_str().unwrap(), 8).unwrap();
        let same = (mode, meta.uid, meta.gid)
            == (meta.mode, source["uid"].as_u64().unwrap() as u32, source["gid"].as_u64().unwrap() as u32);
        assert_eq!(*true_entry, same, "{path}");
        compared += 1;
    }
    assert!(compared > 80, "{compared}");
}

#[test]
fn a_wrong_secret_is_said_and_can_be_followed_by_the_right_one() {
    let fixture = fixtures::shipped_one("s08");
    let mut decoder = decoder(Limits::default());
    let (file, description) = describe(&mut decoder, &fixture);
    let source = source(&file, &description);
    let limits = Limits::default();
    assert_eq!(decoder.index(&source, None, &limits, &mut quiet), Err(DecodeError::NeedsIdentity));
    let text = std::fs::read(fixture.base.join("keys/ssh_ed25519")).unwrap();
    let wrong = proxsave_ui::secrets::Secret::read(&text, Expected::Any, "test", &[], &mut ()).unwrap();
    let wrong = Identities::new(vec![wrong], None);
    let refused = decoder.index(&source, Some(&mut |stanzas: &[_]| wrong.unwrap(stanzas)), &limits, &mut quiet);
    assert_eq!(refused, Err(DecodeError::WrongIdentity));
    let right = identities(&fixture, &description).unwrap();
    assert!(decoder.index(&source, Some(&mut |stanzas: &[_]| right.unwrap(stanzas)), &limits, &mut quiet).is_ok());
}

#[test]
fn decrypting_gives_the_compressed_stream() {
    let fixture = fixtures::shipped_one("s08");
    let mut decoder = decoder(Limits::default());
    let mut out = tempfile::tempfile().unwrap();
    assert_eq!(decoder.decrypt(out.try_clone().unwrap().into(), &mut quiet), Err(DecodeError::NotIndexed));
    index(&mut decoder, &fixture, &Limits::default()).unwrap();
    let (sha256, bytes) = decoder.decrypt(out.try_clone().unwrap().into(), &mut quiet).unwrap();
    let mut content = Vec::new();
    out.rewind().unwrap();
    out.read_to_end(&mut content).unwrap();
    assert_eq!((sha256, bytes), (proxsave_proto::Digest::of(&content), content.len() as u64));
    let text = std::fs::read(fixture.folder().join(format!("{}.listing.json", fixture.archive))).unwrap();
    let listing: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(listing["decrypted"]["sha256"], sha256.to_string().as_str());
}

#[test]
fn a_changed_or_shortened_archive_gives_nothing() {
    for id in ["s03", "s05", "s06", "s07", "s08", "s28", "s26"] {
        let fixture = fixtures::shipped_one(id);
        let mut decoder = decoder(Limits::default());
        let (file, description) = describe(&mut decoder, &fixture);
        let identities = identities(&fixture, &description);
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).unwrap();
        let (start, length) = (description.span.offset as usize, description.span.length as usize);
        for at in [0, 20, length / 3, length - 1] {
            let mut changed = bytes.clone();
            // The low bits of a last byte can be padding.
            changed[start + at] ^= 0x81;
            let mut copy = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut copy, &changed).unwrap();
            // With the hash known, that is what is said; without, no damage may pass for an archive.
            for expected in [description.sha256, None] {
                let source = Source { file: copy.as_fd(), expected, ..source(&file, &description) };
                let mut unwrap = |stanzas: &[_]| identities.as_ref().unwrap().unwrap(stanzas);
                let unwrap: Option<proxsave_ui::decoder::Identities<'_>> =
                    if identities.is_some() { Some(&mut unwrap) } else { None };
                let result = decoder.index(&source, unwrap, &Limits::default(), &mut quiet);
                match (expected, result) {
                    (Some(_), Err(DecodeError::WrongHash { .. })) | (None, Err(_)) => {}
                    // An age header that does not parse leaves nothing to hash for.
                    (Some(_), Err(DecodeError::WrongIdentity)) if fixture.secret() != Secret::None => {}
                    // A plain tar has no checksum over contents, gzip ignores some header bits.
                    (None, Ok(_)) if id == "s26" || at < 20 => {}
                    (_, other) => panic!("{id} at {at}: {:?}", other.map(|index| index.entries.len())),
                }
            }
        }
        for cut in [1, length / 2, length - 1] {
            let source = Source { length: cut as u64, expected: None, ..source(&file, &description) };
            let mut unwrap = |stanzas: &[_]| identities.as_ref().unwrap().unwrap(stanzas);
            let unwrap: Option<proxsave_ui::decoder::Identities<'_>> =
                if identities.is_some() { Some(&mut unwrap) } else { None };
            let result = decoder.index(&source, unwrap, &Limits::default(), &mut quiet);
            assert!(result.is_err() || (id == "s26" && cut == length - 1), "{id} cut to {cut}");
        }
    }
}

#[test]
fn cancelling_ends_the_child_at_once() {
    let fixture = fixtures::shipped_one("s05");
    let mut decoder = decoder(Limits::default());
    let (file, description) = describe(&mut decoder, &fixture);
    index(&mut decoder, &fixture, &Limits::default()).unwrap();
    // Nobody reads this pipe, so the pass would wait for ever.
    let (_reader, writer) = std::io::pipe().unwrap();
    let index = decoder.index(&source(&file, &description), None, &Limits::default(), &mut quiet).unwrap();
    let wanted: Vec<_> = index
        .entries
        .iter()
        .filter_map(|entry| match entry.node {
            IndexNode::File { ordinal, dedup: false, .. } => Some((ordinal, ordinal)),
            _ => None,
        })
        .collect();
    let cancelled = decoder.extract(&wanted, writer.into(), &mut |_| ControlFlow::Break(()));
    assert_eq!(cancelled, Err(DecodeError::Cancelled));
    assert!(matches!(decoder.decrypt(File::open("/dev/null").unwrap().into(), &mut quiet), Err(DecodeError::Child(_))));
}
