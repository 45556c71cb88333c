//! One tar header block: enough to recognise a tar, and to walk the few members of a bundle.

/// The size of a header and the unit that contents are padded to, in bytes.
pub const BLOCK: usize = 512;

/// Why a block is no acceptable header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The sum of its bytes is not what it says.
    #[error("a header's checksum is wrong")]
    Checksum,
    /// Neither the POSIX nor the GNU magic.
    #[error("a header is neither POSIX ustar nor GNU")]
    Magic,
    /// A number field that is none.
    #[error("a header's number cannot be read")]
    Number,
}

/// The fields of a header that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name, with the POSIX prefix joined in front.
    pub name: Vec<u8>,
    /// The type flag; NUL, the oldest spelling of a regular file, is given as `0`.
    pub kind: u8,
    /// The size of the content in bytes.
    pub size: u64,
}

/// Whether a stream begins like a tar: a header with a right checksum (of any age of tar), or a block of zeros
/// (an empty tar).
#[must_use]
pub fn looks_like_tar(first: &[u8]) -> bool {
    first.first_chunk::<BLOCK>().is_some_and(|block| is_zero(block) || checksum_is_right(block))
}

/// Whether a block is all zeros: the end mark.
#[must_use]
pub fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

impl Header {
    /// Reads a block.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn parse(block: &[u8; BLOCK]) -> Result<Self, HeaderError> {
        if !checksum_is_right(block) {
            return Err(HeaderError::Checksum);
        }
        let posix = match field(block, 257, 8) {
            b"ustar\x0000" => true,
            b"ustar  \0" => false,
            _ => return Err(HeaderError::Magic),
        };
        let size = number(field(block, 124, 12)).ok_or(HeaderError::Number)?;
        let kind = match field(block, 156, 1) {
            [0] => b'0',
            [kind] => *kind,
            _ => return Err(HeaderError::Number),
        };
        let mut name = Vec::new();
        let prefix = until_nul(field(block, 345, 155));
        if posix && !prefix.is_empty() {
            name.extend_from_slice(prefix);
            name.push(b'/');
        }
        name.extend_from_slice(until_nul(field(block, 0, 100)));
        Ok(Self { name, kind, size })
    }
}

fn field(block: &[u8; BLOCK], start: usize, length: usize) -> &[u8] {
    block.get(start..start + length).unwrap_or_default()
}

/// The bytes before the first NUL.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The sum of all bytes, the checksum field counted as blanks, as unsigned or (some old tars) signed numbers.
fn checksum_is_right(block: &[u8; BLOCK]) -> bool {
    let Some(stated) = octal(field(block, 148, 8)) else { return false };
    let mut unsigned = 0u64;
    let mut signed = 0i64;
    for (index, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { *byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    stated == unsigned || i64::try_from(stated) == Ok(signed)
}

/// Octal digits, possibly with blanks in front, ended by NUL or blank or the field's end.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at_checked(end)?;
    if digits.is_empty() || rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A size: octal, or the base-256 form of GNU and Go for 8 GiB and more. Negative ones are refused.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (0x80, rest) => {
            let (high, low) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
            let low: [u8; 8] = low.try_into().ok()?;
            high.iter().all(|byte| *byte == 0).then(|| u64::from_be_bytes(low))
        }
        (0x81..=0xff, _) => None,
        _ => octal(field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(make: impl FnOnce(&mut tar::Header)) -> [u8; BLOCK] {
        let mut header = tar::Header::new_ustar();
        header.set_path("dir/name").unwrap();
        header.set_size(0o1234);
        make(&mut header);
        header.set_cksum();
        *header.as_bytes()
    }

    #[test]
    fn a_header_of_another_writer_reads() {
        let header = Header::parse(&block(|_| {})).unwrap();
        assert_eq!(header, Header { name: b"dir/name".to_vec(), kind: b'0', size: 0o1234 });
        let old = block(|header| header.as_mut_bytes()[156] = 0);
        assert_eq!(Header::parse(&old).unwrap().kind, b'0');
        let long = "d/".repeat(60) + "name";
        let header = Header::parse(&block(|header| header.set_path(&long).unwrap())).unwrap();
        assert_eq!(header.name, long.as_bytes());
    }

    #[test]
    fn sizes_beyond_octal() {
        let large = block(|header| header.set_size(1 << 40));
        assert_eq!(Header::parse(&large).unwrap().size, 1 << 40);
        for bad in [
            &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"12 34\0\0\0\0\0\0\0",
            b"89\0\0\0\0\0\0\0\0\0\0",
        ] {
            let mut field = [0; 12];
            field.copy_from_slice(&bad[..12]);
            let bad = block(|header| header.as_mut_bytes()[124..136].copy_from_slice(&field));
            assert_eq!(Header::parse(&bad), Err(HeaderError::Number));
        }
    }

    #[test]
    fn a_changed_header_is_refused() {
        let good = block(|_| {});
        for at in 0..BLOCK {
            let mut changed = good;
            changed[at] ^= 0x41;
            assert!(Header::parse(&changed).is_err(), "byte {at}");
        }
        let mut other = block(|header| header.as_mut_bytes()[257..265].copy_from_slice(b"notatar!"));
        assert_eq!(Header::parse(&other), Err(HeaderError::Magic));
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
            let _ = Header::parse(&block);
            // With a right checksum the fields behind it are read too.
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes().copy_from_slice(&block);
            header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000");
            header.set_cksum();
            let _ = Header::parse(header.as_bytes());
        }
    }
}
