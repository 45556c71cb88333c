//! Checksum files: 64 hex digits, two spaces, the base name of the file, a newline.

use proxsave_proto::Digest;

/// The longest first line that is read, in bytes.
pub const MAX_LINE: usize = 4096;

/// What a checksum file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// The SHA-256.
    pub digest: Digest,
    /// The base name of the file it is for, when the line has one.
    pub name: Option<Vec<u8>>,
}

/// Why a checksum file could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// Nothing but white space.
    #[error("it is empty")]
    Empty,
    /// The first field is something else.
    #[error("it does not begin with the 64 hex digits of a SHA-256")]
    NotDigest,
    /// The first line is longer than [`MAX_LINE`].
    #[error("its first line is longer than {MAX_LINE} bytes")]
    LongLine,
}

/// Reads a checksum file. Only its first line that is not blank counts; the digits may be of either case.
///
/// # Errors
/// See [`ChecksumError`].
pub fn parse(data: &[u8]) -> Result<Checksum, ChecksumError> {
    let mut lines = data.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let line = lines.next().ok_or(ChecksumError::Empty)?;
    if line.len() > MAX_LINE {
        return Err(ChecksumError::LongLine);
    }
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (field, rest) = line.split_at_checked(end).ok_or(ChecksumError::NotDigest)?;
    let digest = std::str::from_utf8(field).ok().and_then(Digest::from_hex).ok_or(ChecksumError::NotDigest)?;
    // GNU tools put an asterisk before the name of a file that was read as binary.
    let rest = rest.trim_ascii();
    let path = rest.strip_prefix(b"*").unwrap_or(rest);
    let name = path.rsplit(|b| *b == b'/').next().filter(|name| !name.is_empty()).map(<[u8]>::to_vec);
    Ok(Checksum { digest, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn lines_as_tools_write_them() {
        for (text, name) in [
            (format!("{HEX}  a.tar.xz\n"), Some("a.tar.xz")),
            (format!("{HEX} *a.tar.xz\n"), Some("a.tar.xz")),
            (format!("{HEX}  /opt/backup/a.tar.xz\nmore\n"), Some("a.tar.xz")),
            (HEX.to_uppercase(), None),
            (format!("\n\t{HEX}"), None),
            (format!("{HEX}  a b.tar\r\n"), Some("a b.tar")),
        ] {
            let checksum = parse(text.as_bytes()).unwrap();
            assert_eq!(checksum.digest.to_string(), HEX);
            assert_eq!(checksum.name.as_deref(), name.map(str::as_bytes), "{text:?}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        assert_eq!(parse(b""), Err(ChecksumError::Empty));
        assert_eq!(parse(b" \n\n"), Err(ChecksumError::Empty));
        assert_eq!(parse(&HEX.as_bytes()[1..]), Err(ChecksumError::NotDigest));
        assert_eq!(parse(format!("{HEX}0  x").as_bytes()), Err(ChecksumError::NotDigest));
        assert_eq!(parse(b"SHA256 (x) = e3"), Err(ChecksumError::NotDigest));
        assert_eq!(parse(format!("{HEX}  {}", "x".repeat(MAX_LINE)).as_bytes()), Err(ChecksumError::LongLine));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&data);
        }
    }
}
