//! The caged decoder on archives that somebody else wrote: what it refuses, and with which words.

use proxsave_proto::plan::Xattr;
use proxsave_proto::{Digest, RelPath};
use proxsave_tests::bins;
use proxsave_tests::tarball::{Header, Tar, field, pax_record};
use proxsave_ui::decoder::{DecodeError, Decoder, Index, IndexNode, Limits, Options, Source};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

fn decoder() -> Decoder {
    Decoder::spawn_with(&Options { program: bins::program("proxsave-ui"), ..Options::default() }).unwrap()
}

fn stored(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn index_with(decoder: &mut Decoder, bytes: &[u8], limits: &Limits) -> Result<Index, DecodeError> {
    let file = stored(bytes);
    let source =
        Source { file: file.as_fd(), offset: 0, length: bytes.len() as u64, expected: Some(Digest::of(bytes)) };
    decoder.index(&source, None, limits, &mut |_| ControlFlow::Continue(()))
}

fn index(decoder: &mut Decoder, bytes: &[u8]) -> Result<Index, DecodeError> {
    index_with(decoder, bytes, &Limits::default())
}

fn with(build: impl FnOnce(&mut Tar) -> &mut Tar) -> Vec<u8> {
    let mut tar = Tar::new();
    tar.file("./good", "good");
    build(&mut tar);
    tar.finish()
}

fn odd(kind: u8, size: u64, change: impl FnOnce(&mut Header) -> &mut Header) -> Vec<u8> {
    let mut header = Header::new(kind, b"./odd", size);
    change(&mut header);
    with(|tar| tar.header(&header).body(&vec![b'x'; size.min(4096) as usize]))
}

#[test]
fn the_whole_archive_is_refused_and_the_words_say_why() {
    let hidden = Tar::new().file("./hidden", "x").unfinished();
    let sparse = |records: &[(&[u8], &[u8])], body: &[u8]| with(|t| t.pax(records).file("./s", body));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("climbs", with(|t| t.file("../x", "x"))),
        ("climbs", with(|t| t.pax(&[(b"path", b"a/../../x")]).file("./x", "x"))),
        ("absolute", with(|t| t.file("//x", "x"))),
        ("climbs", odd(b'0', 1, |h| h.set(field::PREFIX, b".."))),
        ("two extended names", with(|t| t.pax(&[(b"path", b"a")]).gnu_long(b'L', b"b").file("./c", "x"))),
        ("NUL", with(|t| t.pax(&[(b"path", b"a\0b")]).file("./c", "x"))),
        ("NUL", with(|t| t.gnu_long(b'L', b"a\0b").file("./c", "x"))),
        ("bytes behind a NUL", odd(b'0', 1, |h| h.set(field::NAME, b"./odd\0evil"))),
        ("bytes behind a NUL", odd(b'2', 0, |h| h.set(field::LINK, b"a\0b"))),
        ("twice", with(|t| t.pax(&[(b"path", b"a"), (b"path", b"b")]).file("./c", "x"))),
        ("malformed", with(|t| t.pax_of_type(b'x', b"99 path=abc\n").file("./c", "x"))),
        ("not known", with(|t| t.pax(&[(b"VENDOR.thing", b"1")]).file("./c", "x"))),
        ("global", with(|t| t.pax_of_type(b'g', &pax_record(b"path", b"g")).file("./c", "x"))),
        ("two PAX headers", with(|t| t.pax(&[(b"path", b"a")]).pax(&[(b"path", b"b")]).file("./c", "x"))),
        ("without an entry", with(|t| t.pax(&[(b"path", b"a")]))),
        ("PAX size", with(|t| t.pax(&[(b"size", b"0")]).file("./x", &hidden))),
        ("PAX size", with(|t| t.pax(&[(b"size", b"512")]).header(&Header::new(b'0', b"./x", 0)).body(&hidden))),
        ("body", odd(b'5', 512, |h| h)),
        ("body", odd(b'2', 5, |h| h.set(field::LINK, b"x"))),
        ("body", odd(b'1', 5, |h| h.set(field::LINK, b"./good"))),
        ("climbs", with(|t| t.hardlink("./l", "../x"))),
        ("absolute", with(|t| t.hardlink("./l", "/etc/shadow"))),
        ("symbolic link to nothing", with(|t| t.symlink("./l", ""))),
        ("type 'S'", odd(b'S', 1, |h| h.set(field::MAGIC, b"ustar  \0"))),
        ("type 'V'", odd(b'V', 0, |h| h)),
        ("type 'M'", odd(b'M', 0, |h| h)),
        ("type 'D'", odd(b'D', 0, |h| h)),
        ("type '7'", odd(b'7', 0, |h| h)),
        ("type 'Q'", odd(b'Q', 0, |h| h)),
        ("magic", odd(b'0', 1, |h| h.set(field::MAGIC, b"ustar"))),
        ("magic", odd(b'0', 1, |h| h.set(field::MAGIC, b""))),
        ("checksum", odd(b'0', 1, |h| h.octal(field::CHECKSUM, 1).no_checksum())),
        ("binary number", odd(b'0', 0, |h| h.set(field::SIZE, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))),
        ("not a number", odd(b'0', 0, |h| h.set(field::SIZE, b"0000000000x"))),
        ("negative", odd(b'0', 0, |h| h.set(field::MAGIC, b"ustar  \0").set(field::SIZE, &[0xff; 12]))),
        ("not a possible id", with(|t| t.pax(&[(b"uid", b"4294967295")]).file("./x", "x"))),
        ("not a possible id", with(|t| t.pax(&[(b"gid", b"4294967296")]).file("./x", "x"))),
        ("a time", with(|t| t.pax(&[(b"mtime", b"1e400")]).file("./x", "x"))),
        ("named like a directory", with(|t| t.file("./x/", "1"))),
        ("named like a directory", with(|t| t.file("./", "1"))),
        ("this path twice", with(|t| t.symlink("./x", "/").file("./x", "1"))),
        ("this path twice", with(|t| t.header(&Header::new(b'6', b"./x", 0)).file("./x", "1"))),
        ("below a file or link", with(|t| t.symlink("./x", "/").file("./x/y", "1"))),
        ("below a file or link", with(|t| t.file("./x", "x").header(&Header::new(b'6', b"./x/y", 0)))),
        ("behind the end marker", [with(|t| t), hidden.clone()].concat()),
        ("single zero block", with(|t| t.raw(&[0; 512]).raw(&hidden))),
        ("end marker is missing", Tar::new().file("./x", "x").unfinished()),
        ("end marker is cut short", Tar::new().file("./x", "x").raw(&[0; 512]).unfinished()),
        ("cut short inside", with(|t| t.file("./x", [7; 5000]))[..3000].to_vec()),
        (
            "version that is not known",
            sparse(&[(b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"5")], b""),
        ),
        (
            "overlaps",
            sparse(
                &[(b"GNU.sparse.size", b"100"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.map", b"0,4,2,4")],
                b"abcdefgh",
            ),
        ),
        (
            "match its body",
            sparse(
                &[(b"GNU.sparse.size", b"100"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"0,4")],
                b"abcdefgh",
            ),
        ),
        (
            "deduplicated files is malformed",
            with(|t| t.file("./var/lib/proxsave-info/dedup_manifest.json", "[".repeat(100_000))),
        ),
        ("no tar in any known compression", b"this is no archive at all ".repeat(100)),
        ("holds nothing", vec![0; 10240]),
    ];
    let mut decoder = decoder();
    for (at, (words, bytes)) in cases.iter().enumerate() {
        match index(&mut decoder, bytes) {
            Ok(index) => panic!("case {at} ({words}): accepted as {:?}", index.entries),
            Err(error) => assert!(error.to_string().contains(words), "case {at}: {error}, not {words}"),
        }
    }
}

#[test]
fn one_entry_is_refused_by_name_and_the_rest_is_read() {
    let acl = b"user::rw-,user:anna:r--,group::r--,mask::r--,other::---";
    let bytes = with(|t| {
        t.header(&Header::new(b'3', b"./device", 0))
            .header(&Header::new(b'6', b"./fifo", 0))
            .hardlink("./dangling", "./nothing")
            .hardlink("./second", "./good")
            .pax(&[(b"SCHILY.acl.access", acl)])
            .file("./acl", "x")
            .pax(&[(b"SCHILY.xattr.security.selinux", b"x"), (b"SCHILY.xattr.user.note", b"a\0b")])
            .file("./labelled", "x")
    });
    let index = index(&mut decoder(), &bytes).unwrap();
    let refused: Vec<_> = index.refused.iter().map(|refused| refused.name.escape_ascii().to_string()).collect();
    assert_eq!(refused, ["./device", "./fifo", "./acl", "dangling"]);
    let names: Vec<_> = index.entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(names, ["/good", "/labelled", "/second"]);
    assert_eq!(index.left_out.len(), 1);
    let labelled = index.get(&RelPath::from_archive(b"labelled").unwrap()).unwrap();
    let xattrs = &labelled.node.meta().unwrap().xattrs;
    assert_eq!(*xattrs, [Xattr { name: b"user.note".to_vec(), value: b"a\0b".to_vec() }]);
    let second = index.get(&RelPath::from_archive(b"second").unwrap()).unwrap();
    assert_eq!(second.node, IndexNode::Hardlink { to: RelPath::from_archive(b"good").unwrap() });
}

#[test]
fn sparse_files_of_all_versions_are_whole_files() {
    let full = [b"ab".to_vec(), vec![0; 98], b"cd".to_vec(), vec![0; 48]].concat();
    let map_in_body = {
        let mut body = b"2\n0\n2\n100\n2\n".to_vec();
        body.resize(512, 0);
        [body, b"abcd".to_vec()].concat()
    };
    let bytes = with(|t| {
        t.pax(&[
            (b"GNU.sparse.size", b"150"),
            (b"GNU.sparse.numblocks", b"2"),
            (b"GNU.sparse.offset", b"0"),
            (b"GNU.sparse.numbytes", b"2"),
            (b"GNU.sparse.offset", b"100"),
            (b"GNU.sparse.numbytes", b"2"),
        ])
        .file("./v00", "abcd")
        .pax(&[
            (b"GNU.sparse.size", b"150"),
            (b"GNU.sparse.numblocks", b"2"),
            (b"GNU.sparse.map", b"0,2,100,2"),
            (b"GNU.sparse.name", b"v01"),
        ])
        .file("./GNUSparseFile.0/v01", "abcd")
        .pax(&[
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"v10"),
            (b"GNU.sparse.realsize", b"150"),
        ])
        .file("./GNUSparseFile.0/v10", &map_in_body)
        .file("./after", "x")
    });
    let mut decoder = decoder();
    let index = index(&mut decoder, &bytes).unwrap();
    let mut wanted = Vec::new();
    for name in [&b"v00"[..], b"v01", b"v10"] {
        let entry = index.get(&RelPath::from_archive(name).unwrap()).unwrap();
        let IndexNode::File { ordinal, size: 150, sha256, sparse: true, .. } = entry.node else { panic!("{entry:?}") };
        assert_eq!(sha256, Digest::of(&full));
        wanted.push((ordinal, 9));
    }
    assert!(index.get(&RelPath::from_archive(b"after").unwrap()).is_some());
    let (mut reader, writer) = std::io::pipe().unwrap();
    decoder.extract(&wanted, writer.into(), &mut |_| ControlFlow::Continue(())).unwrap();
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    let record = [9u32.to_le_bytes().to_vec(), full].concat();
    assert!(got == record.repeat(3));
}

#[test]
fn limits_are_named_and_reached_fast() {
    let zeros = |bytes: u64| {
        let mut tar = Tar::new();
        tar.header(&Header::new(b'0', b"./zeros", bytes));
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(&tar.unfinished()).unwrap();
        std::io::copy(&mut std::io::repeat(0).take(bytes), &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    let tebibyte = |declare: &[u8]| odd(b'0', 0, |h| h.set(field::MAGIC, b"ustar  \0").set(field::SIZE, declare));
    let sparse = with(|t| {
        t.pax(&[(b"GNU.sparse.size", b"1099511627776"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"0,1")])
            .file("./s", "x")
    });
    let many = with(|t| (0..50).fold(t, |t, n| t.file(format!("./{n}"), "")));
    let chain = with(|t| (0..300).fold(t, |t, _| t.pax_of_type(b'g', &pax_record(b"comment", b"x"))));
    let default = Limits::default();
    let cases: Vec<(&str, Vec<u8>, Limits)> = vec![
        ("--limit-ratio", zeros(200 << 20), default),
        ("--limit-ratio", tebibyte(b"\x80\0\0\0\0\0\x01\0\0\0\0\0"), default),
        ("--limit-ratio", sparse, default),
        ("--limit-total", zeros(4 << 20), Limits { plain_bytes: 1 << 20, ..default }),
        ("--limit-header", odd(b'x', 1 << 30, |h| h), default),
        ("--limit-entries", many.clone(), Limits { entries: 50, ..default }),
        ("--limit-entries", chain, Limits { entries: 50, ..default }),
        ("--limit-path", with(|t| t.file("./abcdefgh", "x")), Limits { path_bytes: 8, ..default }),
        ("--limit-path", with(|t| t.symlink("./l", "abcdefgh0")), Limits { path_bytes: 8, ..default }),
        (
            "--limit-dedup",
            with(|t| t.file("./var/lib/proxsave-info/dedup_manifest.json", " ".repeat(2000))),
            Limits { dedup_bytes: 1000, ..default },
        ),
    ];
    let mut decoder = decoder();
    for (at, (option, bytes, limits)) in cases.iter().enumerate() {
        let began = Instant::now();
        let error = index_with(&mut decoder, bytes, limits).unwrap_err();
        assert!(matches!(error, DecodeError::Limit { .. }), "case {at}: {error}");
        assert!(error.to_string().contains(option), "case {at}: {error}");
        assert!(began.elapsed() < Duration::from_secs(10), "case {at} took {:?}", began.elapsed());
    }
    assert!(index_with(&mut decoder, &many, &Limits { entries: 51, ..default }).is_ok());
}

#[test]
fn ordinary_odd_data_is_read() {
    let bytes = with(|t| {
        t.entry(b'5', b"./", 0o700, b"", b"")
            .file(b"./\xff\n\x1b[2J", "x")
            .file("./..x", "x")
            .symlink("./absolute", "/etc/shadow")
            .symlink("./loop", "loop")
            .pax(&[(b"mtime", b"-1.5")])
            .file("./old", "x")
            .gnu_long(b'L', &[b'n'; 150])
            .file("./short", "x")
            .entry(b'0', b"./modes", 0o7777, b"", b"")
    });
    let index = index(&mut decoder(), &bytes).unwrap();
    assert_eq!(index.entries.len(), 8, "the root itself is passed over");
    let old = index.get(&RelPath::from_archive(b"old").unwrap()).unwrap().node.meta().unwrap().mtime.unwrap();
    assert_eq!((old.secs, old.nanos), (-2, 500_000_000));
    assert!(index.get(&RelPath::from_archive(&[b'n'; 150]).unwrap()).is_some());
    assert!(index.refused.is_empty());
}

#[test]
fn a_child_that_dies_or_is_no_decoder_is_a_clear_error() {
    let wrong = Decoder::spawn_with(&Options { program: "/bin/true".into(), ..Options::default() });
    assert!(matches!(wrong, Err(DecodeError::Child(_))), "{wrong:?}");
    let missing = Decoder::spawn_with(&Options { program: "/nonexistent".into(), ..Options::default() });
    assert!(matches!(missing, Err(DecodeError::Child(_))));
    let folder = tempfile::tempdir().unwrap();
    for (at, says) in [r"\377\377\377\377", r"\002\000\000\000\377\377", r"\001\000\000\000\000\000"].iter().enumerate()
    {
        let program = folder.path().join(at.to_string());
        std::fs::write(&program, format!("#!/bin/sh\nprintf '{says}' >&0\necho hostile >&2\nexec sleep 30\n")).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let began = Instant::now();
        let garbage = Decoder::spawn_with(&Options { program, ..Options::default() });
        assert!(matches!(garbage, Err(DecodeError::Child(_))), "{garbage:?}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
