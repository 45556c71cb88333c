//! One 512-byte tar header, read strictly: the only reader of headers, for bundles and for archives.

use proxsave_proto::digest::Timestamp;
use tar::Header;

/// Bytes of a header, and the unit that contents are padded to.
pub const BLOCK: usize = 512;

/// Why a block is no acceptable header, without any text of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HeaderError(String);

impl<T: Into<String>> From<T> for HeaderError {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// Whether a stream begins like a tar: a header with a right checksum (of any age of tar), or a block of zeros
/// (an empty tar).
#[must_use]
pub fn looks_like_tar(first: &[u8]) -> bool {
    first.first_chunk::<BLOCK>().is_some_and(|block| is_zero(block) || check_sum(block).is_ok())
}

/// Whether a block is all zeros: the end mark.
#[must_use]
pub fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// The bytes before the first NUL.
#[must_use]
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What a header block says. Extension records may override parts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawHeader {
    /// Type flag.
    pub flag: u8,
    /// Name, prefix joined.
    pub name: Vec<u8>,
    /// Link target.
    pub link: Vec<u8>,
    /// Permission, set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Bytes of the body.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
}

impl RawHeader {
    /// Reads a block that is not all zeros.
    ///
    /// # Errors
    /// The first rule it breaks, as a [`HeaderError`].
    pub fn read(block: &[u8; BLOCK]) -> Result<Self, HeaderError> {
        let header = Header::from_byte_slice(block);
        let old = header.as_old();
        check_sum(block)?;
        let (gnu, name) = match (header.as_ustar(), header.as_gnu()) {
            (Some(ustar), _) => {
                let prefix = text(&ustar.prefix, "name prefix")?;
                let name = text(&ustar.name, "name")?;
                let whole = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
                (false, whole)
            }
            (None, Some(gnu)) => {
                let unused = gnu.offset.iter().chain(&gnu.longnames).chain(&gnu.isextended).chain(&gnu.realsize);
                let sparse = gnu.sparse.iter().flat_map(|part| part.offset.iter().chain(&part.numbytes));
                if unused.chain(sparse).any(|byte| *byte != 0) {
                    return Err("a GNU header with sparse or multi-volume fields".into());
                }
                (true, text(&gnu.name, "name")?.to_vec())
            }
            (None, None) => return Err("its header has no ustar or GNU magic".into()),
        };
        let flag = *old.linkflag.first().unwrap_or(&0);
        let link = text(&old.linkname, "link target")?.to_vec();
        let size = unsigned(&old.size, "size", gnu)?;
        let epoch = Timestamp { secs: 0, nanos: 0 };
        if is_extension(flag) {
            // Of these nothing else has a meaning, and some writers leave the fields empty.
            return Ok(Self { flag, name, link, mode: 0, uid: 0, gid: 0, size, mtime: epoch });
        }
        let mode = unsigned(&old.mode, "mode", gnu)?;
        // Some writers put the file type above the twelve permission bits.
        if mode > 0o177_777 {
            return Err("its mode does not fit".into());
        }
        Ok(Self {
            flag,
            name,
            link,
            #[allow(clippy::cast_possible_truncation, reason = "masked to twelve bits")]
            mode: (mode & 0o7777) as u16,
            uid: unsigned(&old.uid, "owner", gnu)?,
            gid: unsigned(&old.gid, "group", gnu)?,
            size,
            mtime: Timestamp { secs: signed(&old.mtime, "time", gnu)?, ..epoch },
        })
    }
}

/// Whether a header only says something about the one behind it.
#[must_use]
pub fn is_extension(flag: u8) -> bool {
    matches!(flag, b'x' | b'g' | b'L' | b'K')
}

/// The checksum: the sum of all bytes, its own field read as blanks.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), HeaderError> {
    let field = &Header::from_byte_slice(block).as_old().cksum;
    let stored = octal(field).ok_or("its header checksum is not a number")?;
    let all: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = field.iter().map(|byte| u64::from(*byte)).sum();
    let sum = all - own + 8 * u64::from(b' ');
    if sum == stored { Ok(()) } else { Err("its header checksum is wrong".into()) }
}

/// A text field: up to the first NUL, and nothing but NULs from there.
fn text<'a>(field: &'a [u8], what: &str) -> Result<&'a [u8], HeaderError> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let (text, rest) = field.split_at(end);
    if rest.iter().any(|byte| *byte != 0) {
        return Err(format!("its {what} has bytes behind a NUL").into());
    }
    Ok(text)
}

/// Octal digits, blanks before them, blanks and NULs behind them.
fn octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|byte| *byte != b' ')?;
    let field = field.get(start..)?;
    let end = field.iter().position(|byte| !(b'0'..=b'7').contains(byte)).unwrap_or(field.len());
    let (digits, rest) = field.split_at(end);
    if digits.is_empty() || !rest.iter().all(|byte| matches!(byte, b' ' | 0)) {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| value.checked_mul(8)?.checked_add(u64::from(digit - b'0')))
}

fn signed(field: &[u8], what: &str, gnu: bool) -> Result<i64, HeaderError> {
    match field {
        [0x80, rest @ ..] if gnu => base256(rest, 0),
        [0xff, rest @ ..] if gnu => base256(rest, -1),
        [0x80..=0xff, ..] => {
            return Err(format!("its {what} is a binary number, which this kind of header cannot have").into());
        }
        _ => octal(field).and_then(|value| i64::try_from(value).ok()),
    }
    .ok_or_else(|| format!("its {what} is not a number that fits").into())
}

fn unsigned(field: &[u8], what: &str, gnu: bool) -> Result<u64, HeaderError> {
    u64::try_from(signed(field, what, gnu)?).map_err(|_| format!("its {what} is negative").into())
}

/// A big-endian two's complement number behind its sign byte.
fn base256(bytes: &[u8], sign: i64) -> Option<i64> {
    let filler = if sign < 0 { 0xff } else { 0 };
    let split = bytes.len().saturating_sub(8);
    let (high, low) = bytes.split_at(split);
    if high.iter().any(|byte| *byte != filler) {
        return None;
    }
    let value = low.iter().fold(sign, |value, byte| (value << 8) | i64::from(*byte));
    ((value < 0) == (sign < 0)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn octal_takes_only_octal() {
        assert_eq!(octal(b"0000644\0"), Some(0o644));
        assert_eq!(octal(b"   644 \0"), Some(0o644));
        assert_eq!(octal(b"00000000012"), Some(10));
        for bad in [&b"0000648\0"[..], b"-000001\0", b"\0\0\0\0\0\0\0\0", b"        ", b"12\x0007777", b"0x12\0\0\0\0"]
        {
            assert_eq!(octal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn binary_numbers_are_bounded_and_only_gnus() {
        let mut field = [0u8; 12];
        field[0] = 0x80;
        field[11] = 7;
        assert_eq!(unsigned(&field, "size", true), Ok(7));
        assert!(unsigned(&field, "size", false).is_err());
        field[3] = 1;
        assert!(unsigned(&field, "size", true).is_err(), "does not fit");
        let mut negative = [0xff; 12];
        negative[11] = 0xfe;
        assert_eq!(signed(&negative, "time", true), Ok(-2));
        assert!(unsigned(&negative, "size", true).is_err());
        let mut high = [0u8; 12];
        high[0] = 0x80;
        high[4] = 0x80;
        assert!(signed(&high, "size", true).is_err(), "2^63 is not negative");
        assert!(unsigned(&[0xc0, 0, 0, 0, 0, 0, 0, 0], "owner", true).is_err());
    }

    fn block(make: impl FnOnce(&mut Header)) -> [u8; BLOCK] {
        let mut header = Header::new_ustar();
        header.set_path("dir/name").unwrap();
        header.set_size(0o1234);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        make(&mut header);
        header.set_cksum();
        *header.as_bytes()
    }

    #[test]
    fn a_header_of_another_writer_reads() {
        let header = RawHeader::read(&block(|_| {})).unwrap();
        assert_eq!((&*header.name, header.flag, header.size), (&b"dir/name"[..], 0, 0o1234));
        let long = "d/".repeat(60) + "name";
        let header = RawHeader::read(&block(|header| {
            header.as_mut_bytes()[..100].fill(0);
            header.set_path(&long).unwrap();
        }))
        .unwrap();
        assert_eq!(header.name, long.as_bytes());
    }

    #[test]
    fn a_changed_header_is_refused() {
        let good = block(|_| {});
        for at in 0..BLOCK {
            let mut changed = good;
            changed[at] ^= 0x41;
            assert!(RawHeader::read(&changed).is_err(), "byte {at}");
        }
        let mut other = block(|header| header.as_mut_bytes()[257..265].copy_from_slice(b"notatar!"));
        assert!(RawHeader::read(&other).unwrap_err().to_string().contains("magic"));
        assert!(looks_like_tar(&other), "an older tar is a tar still");
        other[0] ^= 1;
        assert!(!looks_like_tar(&other));
        assert!(looks_like_tar(&[0; BLOCK]) && !looks_like_tar(&[0; BLOCK - 1]));
    }

    proptest! {
        #[test]
        fn any_block_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), BLOCK)) {
            let mut block = [0; BLOCK];
            block.copy_from_slice(&bytes);
            let _ = RawHeader::read(&block);
            // With a right checksum the fields behind it are read too.
            let mut header = Header::new_ustar();
            header.as_mut_bytes().copy_from_slice(&block);
            header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000");
            header.set_cksum();
            let _ = RawHeader::read(header.as_bytes());
        }
    }
}
