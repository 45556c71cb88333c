use super::*;
use proptest::prelude::*;

/// One member of a tar, with `change` applied to its header before the checksum.
fn append(tar: &mut Vec<u8>, name: &str, data: &[u8], change: impl FnOnce(&mut tar::Header)) {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(data.len() as u64);
    header.set_mode(0o640);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    change(&mut header);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

/// An extended header in front of the next member.
fn extend(tar: &mut Vec<u8>, kind: u8, data: &str) {
    append(tar, "x", data.as_bytes(), |header| header.as_mut_bytes()[156] = kind);
}

fn bundle_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, data) in members {
        append(&mut tar, name, data, |_| {});
    }
    tar.extend_from_slice(&[0; 2 * BLOCK]);
    tar
}

fn read(tar: &[u8]) -> Result<Bundle, BundleError> {
    super::read(tar, tar.len() as u64)
}

const META: (&str, &[u8]) = ("a.tar.xz.metadata", b"{}");
const SUM: (&str, &[u8]) = ("a.tar.xz.sha256", b"sum");
const META_SUM: (&str, &[u8]) = ("a.tar.xz.metadata.sha256", b"meta sum");
const ARCHIVE: (&str, &[u8]) = ("a.tar.xz", &[7; 1500]);

/// A PAX record with its own length in front.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let length = (rest.len()..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
    format!("{length}{rest}")
}

#[test]
fn members_in_any_order() {
    for members in [
        [META, META_SUM, SUM, ARCHIVE],
        [ARCHIVE, SUM, META, META_SUM],
        [SUM, META, ARCHIVE, META_SUM],
        [META_SUM, ARCHIVE, META, SUM],
    ] {
        let tar = bundle_of(&members);
        let bundle = read(&tar).unwrap();
        assert_eq!(bundle.archive_name, b"a.tar.xz");
        let (start, length) = (bundle.archive.offset as usize, bundle.archive.length as usize);
        assert_eq!(&tar[start..start + length], ARCHIVE.1, "the archive is read in place");
        assert_eq!(bundle.companions.len(), 3);
        for (kind, data) in [
            (CompanionKind::Metadata, META.1),
            (CompanionKind::Checksum, SUM.1),
            (CompanionKind::MetadataChecksum, META_SUM.1),
        ] {
            assert!(bundle.companions.contains(&(kind, data.to_vec())), "{kind:?}");
        }
        assert!(bundle.has_end_mark);
    }
}

#[test]
fn names_and_headers_of_other_writers() {
    assert_eq!(read(&bundle_of(&[("./a.tar.xz", b"x")])).unwrap().archive_name, b"a.tar.xz");
    let mut tar = Vec::new();
    append(&mut tar, "a.tar", b"x", |header| header.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0"));
    assert_eq!(read(&tar).unwrap().archive_name, b"a.tar");
    let mut tar = Vec::new();
    append(&mut tar, "a.tar", b"x", |header| header.as_mut_bytes()[156] = 0);
    assert_eq!(read(&tar).unwrap().archive_name, b"a.tar");
}

#[test]
fn long_names_and_large_sizes_of_pax_and_gnu() {
    let name = format!("{}.tar", "n".repeat(180));
    let mut tar = Vec::new();
    extend(&mut tar, b'x', &(record("mtime", "1.5") + &record("path", &name) + &record("size", "3")));
    append(&mut tar, "short", b"abc", |header| header.set_size(0));
    let bundle = read(&tar).unwrap();
    assert_eq!(bundle.archive_name, name.as_bytes());
    assert_eq!(bundle.archive.length, 3);
    let mut tar = Vec::new();
    extend(&mut tar, b'L', &format!("{name}\0"));
    append(&mut tar, "short", b"abc", |_| {});
    assert_eq!(read(&tar).unwrap().archive_name, name.as_bytes());
}

#[test]
fn names_that_are_not_one_component_are_refused() {
    for name in ["/a.tar", "../a.tar", "d/a.tar", "..", ".", "./", "a\\b.tar", "./d/a.tar", "a.tar/"] {
        assert!(matches!(read(&bundle_of(&[(name, b"x")])), Err(BundleError::Name { offset: 0 })), "{name}");
    }
    let mut tar = Vec::new();
    extend(&mut tar, b'x', &record("path", "../../etc/shadow"));
    append(&mut tar, "a.tar", b"abc", |_| {});
    assert!(matches!(read(&tar), Err(BundleError::Name { .. })));
}

#[test]
fn only_regular_files() {
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'S', b'g', b'K', b'V'] {
        let mut tar = Vec::new();
        append(&mut tar, "a.tar", b"", |header| header.as_mut_bytes()[156] = kind);
        assert_eq!(read(&tar), Err(BundleError::NotFile { offset: 0 }), "{}", kind as char);
    }
}

#[test]
fn two_of_a_kind_are_refused() {
    let twice = |members: &[(&str, &[u8])]| read(&bundle_of(members)).unwrap_err();
    assert_eq!(twice(&[ARCHIVE, META, ("b.tar.xz", b"x")]), BundleError::Twice(MemberKind::Archive));
    let metadata = BundleError::Twice(MemberKind::Companion(CompanionKind::Metadata));
    assert_eq!(twice(&[META, ARCHIVE, ("b.metadata", b"x")]), metadata);
    let checksum = BundleError::Twice(MemberKind::Companion(CompanionKind::Checksum));
    assert_eq!(twice(&[SUM, SUM, ARCHIVE]), checksum);
}

#[test]
fn damaged_extended_headers_are_refused() {
    let fault = |records: &str| {
        let mut tar = Vec::new();
        extend(&mut tar, b'x', records);
        append(&mut tar, "a.tar", b"abc", |_| {});
        match read(&tar) {
            Err(BundleError::Extended { reason, .. }) => reason,
            other => panic!("{records:?}: {other:?}"),
        }
    };
    let damaged =
        ["5", "x path=a\n", "0 a=b\n", "99 path=a\n", "9 path=ab\n", "8 patha\n", " =\n", "-6 a=b\n", "8 size=\n"];
    for records in damaged {
        assert_eq!(fault(records), ExtendedFault::Damaged, "{records:?}");
    }
    for key in ["GNU.sparse.size", "GNU.sparse.map", "linkpath", "SCHILY.realsize", "charset"] {
        assert_eq!(fault(&record(key, "1")), ExtendedFault::Forbidden, "{key}");
    }
    assert_eq!(fault(&(record("path", "a") + &record("path", "b"))), ExtendedFault::Misplaced);
    assert_eq!(fault(&(record("size", "1") + &record("size", "2"))), ExtendedFault::Misplaced);
    let mut alone = bundle_of(&[ARCHIVE]);
    alone.truncate(alone.len() - 2 * BLOCK);
    extend(&mut alone, b'x', &record("path", "b"));
    assert!(matches!(read(&alone), Err(BundleError::Extended { reason: ExtendedFault::Misplaced, .. })));
    let mut large = Vec::new();
    extend(&mut large, b'x', &" ".repeat(70_000));
    assert!(matches!(read(&large), Err(BundleError::Extended { reason: ExtendedFault::Large, .. })));
}

#[test]
fn a_cut_bundle_is_noticed_wherever_it_is_cut() {
    let whole = bundle_of(&[META, SUM, ARCHIVE]);
    let good = read(&whole).unwrap();
    let end = (good.archive.offset + good.archive.length) as usize;
    for length in 0..end {
        let result = read(&whole[..length]);
        assert!(matches!(result, Err(BundleError::Truncated { .. } | BundleError::NoArchive)), "{length}: {result:?}");
    }
    let unmarked = read(&whole[..end.next_multiple_of(BLOCK)]).unwrap();
    assert!(!unmarked.has_end_mark && unmarked.archive == good.archive);
}

#[test]
fn sizes_that_lie_are_refused_without_taking_memory() {
    for size in [1 << 40, u64::MAX / 2, u64::MAX] {
        for name in ["a.metadata", "a.tar"] {
            let mut tar = Vec::new();
            append(&mut tar, name, b"", |header| header.set_size(size));
            assert!(read(&tar).is_err());
        }
    }
    let big = vec![b'x'; MAX_MANIFEST + 1];
    assert!(matches!(read(&bundle_of(&[("a.metadata", &big)])), Err(BundleError::LargeCompanion { .. })));
}

#[test]
fn nothing_hides_behind_the_end_mark() {
    let mut tar = bundle_of(&[ARCHIVE]);
    let end = tar.len() as u64;
    append(&mut tar, "b.tar", b"other", |_| {});
    assert_eq!(read(&tar), Err(BundleError::Trailing { offset: end }));
    let mut padded = bundle_of(&[ARCHIVE]);
    padded.resize(padded.len().next_multiple_of(10_240), 0);
    assert!(read(&padded).unwrap().has_end_mark);
    padded.resize(3 * 1024 * 1024, 0);
    assert!(matches!(read(&padded), Err(BundleError::Trailing { .. })));
}

#[test]
fn many_members_are_refused() {
    let mut tar = Vec::new();
    for _ in 0..=MAX_HEADERS {
        extend(&mut tar, b'x', &record("uid", "1"));
    }
    assert_eq!(read(&tar), Err(BundleError::TooMany));
    assert_eq!(read(&bundle_of(&[META])), Err(BundleError::NoArchive));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&bytes);
    }

    #[test]
    fn a_changed_bundle_gives_an_error_or_a_span_within_it(at in 0..3584usize, byte in any::<u8>(), fix in any::<bool>()) {
        let mut tar = bundle_of(&[META, SUM, ARCHIVE]);
        tar[at] = byte;
        if fix {
            // With a right checksum the change gets past the first test.
            let block = at / BLOCK * BLOCK;
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&tar[block..block + BLOCK]);
            header.set_cksum();
            tar[block..block + BLOCK].copy_from_slice(header.as_bytes());
        }
        if let Ok(bundle) = read(&tar) {
            prop_assert!(bundle.archive.offset + bundle.archive.length <= tar.len() as u64);
        }
    }
}
