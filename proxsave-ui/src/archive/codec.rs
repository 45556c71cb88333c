//! Compressions and encryption: as a file's name says them, and as its first bytes show them.

use super::tar_header;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How many bytes [`sniff`] wants to see: one tar block.
pub const SNIFF_LEN: usize = 512;

/// How the tar stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    None,
    /// gzip, one or many members (pigz writes it too).
    Gzip,
    /// bzip2, one or many streams (pbzip2 writes many).
    Bzip2,
    /// xz.
    Xz,
    /// The older LZMA container ("LZMA alone").
    Lzma,
    /// Zstandard.
    Zstd,
}

/// How the compressed stream is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Not at all.
    None,
    /// age version 1, binary.
    Age,
}

/// What the first bytes of a stream show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// No byte at all.
    Empty,
    /// An age version 1 header.
    Age,
    /// The ASCII armour of an age file, which backups never have.
    ArmoredAge,
    /// A tar, compressed or plain. (For `lzma`, which has no magic number, a header that makes sense.)
    Packed(Codec),
    /// Nothing known.
    Unknown,
}

/// The content of a stream is not what its name promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("its name promises {promised}, its content is {found}")]
pub struct ContentMismatch {
    /// What the name says.
    pub promised: Content,
    /// What the content shows.
    pub found: Content,
}

impl Codec {
    /// The spelling in a manifest's `compression_type`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gz",
            Codec::Bzip2 => "bz2",
            Codec::Xz => "xz",
            Codec::Lzma => "lzma",
            Codec::Zstd => "zst",
        }
    }

    /// Reads a manifest's `compression_type`, in the spellings of archives and of configurations.
    #[must_use]
    pub fn from_compression_type(text: &str) -> Option<Self> {
        Some(match text.trim().to_ascii_lowercase().as_str() {
            "none" | "tar" => Codec::None,
            "gz" | "gzip" | "pigz" | "tgz" => Codec::Gzip,
            "bz2" | "bzip2" | "pbzip2" => Codec::Bzip2,
            "xz" => Codec::Xz,
            "lzma" => Codec::Lzma,
            "zst" | "zstd" => Codec::Zstd,
            _ => return None,
        })
    }

    /// Checks the first bytes of a (decrypted) stream against the codec that its name promises; without a name,
    /// the content decides.
    ///
    /// # Errors
    /// [`ContentMismatch`] when they do not agree, or the content is no known form of a tar.
    pub fn check(promised: Option<Codec>, first: &[u8]) -> Result<Codec, ContentMismatch> {
        match (promised, sniff(first)) {
            (None, Content::Packed(found)) => Ok(found),
            (Some(promised), Content::Packed(found)) if promised == found => Ok(found),
            (promised, found) => Err(ContentMismatch { promised: promised.into(), found }),
        }
    }
}

impl From<Option<Codec>> for Content {
    fn from(codec: Option<Codec>) -> Self {
        codec.map_or(Content::Unknown, Content::Packed)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::None => "a plain tar",
            Codec::Gzip => "gzip",
            Codec::Bzip2 => "bzip2",
            Codec::Xz => "xz",
            Codec::Lzma => "LZMA",
            Codec::Zstd => "Zstandard",
        })
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Encryption::None => "not encrypted",
            Encryption::Age => "age",
        })
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Empty => f.write_str("empty"),
            Content::Age => f.write_str("an age file"),
            Content::ArmoredAge => f.write_str("an armoured (text) age file"),
            Content::Packed(codec) => codec.fmt(f),
            Content::Unknown => f.write_str("nothing known"),
        }
    }
}

/// Says what a stream is from its first bytes ([`SNIFF_LEN`] of them, or all if it is shorter).
#[must_use]
pub fn sniff(first: &[u8]) -> Content {
    let starts = |magic: &[u8]| first.starts_with(magic);
    if first.is_empty() {
        Content::Empty
    } else if starts(b"age-encryption.org/v1\n") {
        Content::Age
    } else if starts(b"-----BEGIN AGE ENCRYPTED FILE-----") {
        Content::ArmoredAge
    } else if starts(&[0x1f, 0x8b, 0x08]) {
        Content::Packed(Codec::Gzip)
    } else if starts(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        Content::Packed(Codec::Xz)
    } else if is_zstd(first) {
        Content::Packed(Codec::Zstd)
    } else if is_bzip2(first) {
        Content::Packed(Codec::Bzip2)
    } else if tar_header::looks_like_tar(first) {
        Content::Packed(Codec::None)
    } else if is_lzma_alone(first) {
        Content::Packed(Codec::Lzma)
    } else {
        Content::Unknown
    }
}

/// A Zstandard frame, or a skippable one (RFC 8878, 3.1: sixteen magic numbers), as pzstd puts in front.
fn is_zstd(first: &[u8]) -> bool {
    first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || matches!(first, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// `BZh`, the block size digit, then the magic number of a block or of the end of an empty stream.
fn is_bzip2(first: &[u8]) -> bool {
    matches!(
        first,
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..]
    )
}

/// An LZMA-alone header, which has no magic number, by the same test as xz-utils: lc+lp small enough, a
/// dictionary of 2^n or 2^n + 2^(n-1) bytes (or "the largest"), a size that is unknown or below 256 GiB; and the
/// first byte of the range coder, which is always zero.
fn is_lzma_alone(first: &[u8]) -> bool {
    let [properties, d0, d1, d2, d3, s0, s1, s2, s3, s4, s5, s6, s7, coder, ..] = *first else { return false };
    let (lc, lp) = (properties % 9, properties / 9 % 5);
    let dictionary = u32::from_le_bytes([d0, d1, d2, d3]);
    let size = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    // Without its trailing zeros, such a number is 1 or 3.
    let usual_dictionary =
        dictionary == u32::MAX || matches!(dictionary.checked_shr(dictionary.trailing_zeros()), Some(1 | 3));
    properties < 225 && lc + lp <= 4 && usual_dictionary && (size == u64::MAX || size < 1 << 38) && coder == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    /// A tar of one empty file, as Go and GNU write it.
    fn small_tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_path("a").unwrap();
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, &[][..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn lzma_alone(data: &[u8], preset: u32) -> Vec<u8> {
        let options = liblzma::stream::LzmaOptions::new_preset(preset).unwrap();
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
        let mut writer = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        writer.write_all(data).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn each_codec_is_known_by_its_first_bytes() {
        let tar = small_tar();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&tar).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&tar).unwrap();
        let streams = [
            (Codec::None, tar.clone()),
            (Codec::Gzip, gzip.finish().unwrap()),
            (Codec::Bzip2, bzip2.finish().unwrap()),
            (Codec::Xz, xz.finish().unwrap()),
            (Codec::Lzma, lzma_alone(&tar, 0)),
            (Codec::Lzma, lzma_alone(&tar, 6)),
            (Codec::Lzma, lzma_alone(&tar, 9)),
            (Codec::Zstd, zstd::encode_all(&tar[..], 1).unwrap()),
        ];
        for (codec, stream) in &streams {
            let first = &stream[..stream.len().min(SNIFF_LEN)];
            assert_eq!(sniff(first), Content::Packed(*codec), "{codec}");
            assert_eq!(Codec::check(Some(*codec), first), Ok(*codec));
            assert_eq!(Codec::check(None, first), Ok(*codec));
            let other = if *codec == Codec::Xz { Codec::Gzip } else { Codec::Xz };
            assert!(Codec::check(Some(other), first).is_err(), "{codec} passes for {other}");
        }
    }

    #[test]
    fn other_first_bytes() {
        assert_eq!(sniff(b""), Content::Empty);
        assert_eq!(sniff(b"age-encryption.org/v1\n-> X25519"), Content::Age);
        assert_eq!(sniff(b"-----BEGIN AGE ENCRYPTED FILE-----\n"), Content::ArmoredAge);
        assert_eq!(sniff(&[0x5e, 0x2a, 0x4d, 0x18, 4, 0, 0, 0]), Content::Packed(Codec::Zstd));
        assert_eq!(sniff(&[0; 512]), Content::Packed(Codec::None), "an empty tar is zeros");
        assert_eq!(sniff(b"PK\x03\x04 a zip"), Content::Unknown);
        assert_eq!(sniff(b"\x7fELF and more text to be long enough"), Content::Unknown);
        assert!(Codec::check(Some(Codec::Xz), b"").is_err());
    }

    #[test]
    fn dictionaries_of_lzma() {
        let header = |dictionary: u32| {
            let mut bytes = vec![0x5d];
            bytes.extend(dictionary.to_le_bytes());
            bytes.extend([0xff; 8]);
            bytes.push(0);
            bytes
        };
        for good in [1 << 12, 3 << 11, 1 << 23, 3 << 24, 1 << 26, u32::MAX] {
            assert!(is_lzma_alone(&header(good)), "{good}");
        }
        for bad in [0, 5 << 11, (1 << 23) + 1, u32::MAX - 1] {
            assert!(!is_lzma_alone(&header(bad)), "{bad}");
        }
    }

    #[test]
    fn only_zero_begins_the_range_coder_of_lzma() {
        let mut stream = lzma_alone(b"abc", 0);
        assert!(is_lzma_alone(&stream));
        stream[13] = 1;
        assert!(!is_lzma_alone(&stream));
        stream[13] = 0;
        stream[0] = 225;
        assert!(!is_lzma_alone(&stream));
    }

    #[test]
    fn names_of_codecs_read_back() {
        for codec in [Codec::None, Codec::Gzip, Codec::Bzip2, Codec::Xz, Codec::Lzma, Codec::Zstd] {
            assert_eq!(Codec::from_compression_type(codec.key()), Some(codec));
        }
        assert_eq!(Codec::from_compression_type("pigz"), Some(Codec::Gzip));
        assert_eq!(Codec::from_compression_type("rar"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_sniffed_without_panic(first in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = sniff(&first);
        }
    }
}
