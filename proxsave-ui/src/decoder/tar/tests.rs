//! Any bytes at all, and archives a few bytes away from good ones: no panic, no endless walk, no promise broken.

use super::{Kind, TarError, Walker};
use crate::archive::tar_header::BLOCK;
use crate::decoder::Limits;
use proptest::prelude::*;

const MAX: u64 = 1 << 20;

/// Walks to the end and reads all contents; every entry that comes must keep what the rest relies on.
fn walk(bytes: &[u8]) -> Result<usize, TarError> {
    let limits = Limits { plain_bytes: MAX, header_bytes: 4096, entries: 1000, ..Limits::default() };
    let mut walker = Walker::new(bytes, limits, bytes.len() as u64);
    let mut buffer = [0; 700];
    let mut count = 0;
    while let Some(member) = walker.next_member()? {
        assert!(!member.path.is_root());
        assert!(member.path.components().all(|name| name != b".." && !name.contains(&0)));
        assert_eq!(member.ordinal as usize, count);
        assert!(member.attributes.mode <= 0o7777 && member.attributes.uid != u32::MAX);
        assert!(member.attributes.mtime.nanos < 1_000_000_000);
        assert_eq!(matches!(member.kind, Kind::Special), member.kind == Kind::Special && member.refused.is_some());
        let mut size = 0;
        loop {
            match walker.read_content(&mut buffer)? {
                0 => break,
                got => size += got as u64,
            }
        }
        assert_eq!(size, member.size);
        count += 1;
    }
    Ok(count)
}

/// A good archive with PAX records of every kind.
fn good() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let header = |size, kind| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(3);
        header.set_size(size);
        header.set_entry_type(kind);
        header
    };
    let file = tar::EntryType::Regular;
    let records: [(&str, &[u8]); 5] = [
        ("mtime", b"1795311734.156547163"),
        ("uid", b"4294967294"),
        ("SCHILY.xattr.user.a", b"b"),
        ("GNU.sparse.size", b"900"),
        ("GNU.sparse.numblocks", b"1"),
    ];
    builder.append_pax_extensions(records.into_iter().chain([("GNU.sparse.map", &b"5,600"[..])])).unwrap();
    builder.append_data(&mut header(600, file), "dir/sparse", &[b'x'; 600][..]).unwrap();
    builder.append_pax_extensions([("path", &b"dir/long"[..]), ("mtime", b"-1.5")]).unwrap();
    builder.append_data(&mut header(10, file), "dir/file", &b"0123456789"[..]).unwrap();
    builder.append_link(&mut header(0, tar::EntryType::Symlink), "dir/link", "file").unwrap();
    builder.append_data(&mut header(0, tar::EntryType::Directory), "dir", &b""[..]).unwrap();
    builder.into_inner().unwrap()
}

/// Makes the checksum of every header right again, so that changes get past it.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

#[test]
fn the_good_archive_is_good() {
    assert_eq!(walk(&good()).unwrap(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn archives_near_a_good_one_are_walked_or_refused(
        changes in proptest::collection::vec((0usize..6000, prop_oneof![any::<u8>(), b'0'..=b'9', Just(0), Just(b'=')]), 0..6),
        cut in prop_oneof![9 => Just(usize::MAX), 1 => 0usize..6000],
    ) {
        let mut bytes = good();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        mend(&mut bytes);
        bytes.truncate(cut);
        let _ = walk(&bytes);
    }

    #[test]
    fn any_bytes_are_refused_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        if let Some(magic) = bytes.get_mut(257..265) {
            magic.copy_from_slice(b"ustar\x0000");
        }
        mend(&mut bytes);
        let _ = walk(&bytes);
    }
}
