//! Decompression: every member or frame of a stream, within a memory bound, nothing left over.

use super::Codec;
use super::limits::Limits;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{MtStreamBuilder, Stream};
use std::io::{self, BufRead, Read};

/// Memory up to which xz blocks are decoded by two threads; above it one thread does it with less.
const XZ_THREADING: u64 = 48 << 20;
/// What liblzma needs beside the dictionary.
const XZ_OVERHEAD: u64 = 1 << 20;

/// A reader of the decompressed stream.
pub fn open<'a, R: BufRead>(codec: Codec, input: &'a mut R, limits: &Limits) -> io::Result<Box<dyn Read + 'a>> {
    let memory = limits.window_bytes.saturating_add(XZ_OVERHEAD);
    Ok(match codec {
        Codec::None => Box::new(input),
        Codec::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Codec::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Codec::Xz => Box::new(XzStreams { state: XzState::Between(input), memory }),
        Codec::Lzma => Box::new(XzDecoder::new_stream(input, Stream::new_lzma_decoder(memory)?)),
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(limits.window_bytes.max(1024).ilog2().min(31))?;
            Box::new(decoder)
        }
    })
}

/// Whether an error of a codec says that the stream needs more memory than the bound.
pub fn is_memory_limit(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>()) == Some(&liblzma::stream::Error::MemLimit)
        || error.to_string().contains("requires too much memory")
}

/// Concatenated xz streams with padding between them (xz file format, 2: "Stream Padding").
struct XzStreams<'a, R> {
    state: XzState<'a, R>,
    memory: u64,
}

enum XzState<'a, R> {
    Between(&'a mut R),
    Inside(XzDecoder<&'a mut R>),
    Broken,
}

impl<R: BufRead> Read for XzStreams<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, XzState::Broken) {
                XzState::Between(input) => {
                    skip_padding(input)?;
                    if input.fill_buf()?.is_empty() {
                        self.state = XzState::Between(input);
                        return Ok(0);
                    }
                    let stream = MtStreamBuilder::new()
                        .threads(2)
                        .memlimit_threading(XZ_THREADING.min(self.memory))
                        .memlimit_stop(self.memory)
                        .decoder()?;
                    self.state = XzState::Inside(XzDecoder::new_stream(input, stream));
                }
                XzState::Inside(mut decoder) => {
                    let count = decoder.read(buffer)?;
                    if count > 0 {
                        self.state = XzState::Inside(decoder);
                        return Ok(count);
                    }
                    self.state = XzState::Between(decoder.into_inner());
                }
                XzState::Broken => return Err(io::Error::other("the xz stream failed before")),
            }
        }
    }
}

fn skip_padding(input: &mut impl BufRead) -> io::Result<()> {
    let mut padding = 0u64;
    loop {
        let zeros = input.fill_buf()?.iter().take_while(|byte| **byte == 0).count();
        if zeros == 0 {
            break;
        }
        input.consume(zeros);
        padding += zeros as u64;
    }
    if padding.is_multiple_of(4) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "stray bytes between xz streams"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const PACKED: [Codec; 5] = [Codec::Gzip, Codec::Bzip2, Codec::Xz, Codec::Lzma, Codec::Zstd];

    fn pack(codec: Codec, bytes: &[u8]) -> Vec<u8> {
        let xz = |stream| {
            let mut writer = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        };
        match codec {
            Codec::None => bytes.to_vec(),
            Codec::Gzip => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(bytes).unwrap();
                writer.finish().unwrap()
            }
            Codec::Bzip2 => {
                let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                writer.write_all(bytes).unwrap();
                writer.finish().unwrap()
            }
            Codec::Xz => xz(Stream::new_easy_encoder(1, liblzma::stream::Check::Crc64).unwrap()),
            Codec::Lzma => xz(Stream::new_lzma_encoder(&liblzma::stream::LzmaOptions::new_preset(1).unwrap()).unwrap()),
            Codec::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
                encoder.include_checksum(true).unwrap();
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    /// Decodes all of it; what is left of the input is an error, as in the pipeline.
    fn unpack(codec: Codec, mut packed: &[u8], limits: &Limits) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        open(codec, &mut packed, limits)?.read_to_end(&mut out)?;
        if packed.is_empty() { Ok(out) } else { Err(io::Error::other("left over")) }
    }

    fn text() -> Vec<u8> {
        (0..30_000u32).flat_map(|n| (n.wrapping_mul(n) / 7).to_le_bytes()).collect()
    }

    #[test]
    fn members_and_frames_that_follow_each_other_are_one_stream() {
        for codec in [Codec::Gzip, Codec::Bzip2, Codec::Xz, Codec::Zstd] {
            let both = [pack(codec, b"one "), pack(codec, &text())].concat();
            let got = unpack(codec, &both, &Limits::default()).unwrap();
            assert!(got == [b"one ".to_vec(), text()].concat(), "{codec}");
        }
        let padded = [pack(Codec::Xz, b"one "), vec![0; 8], pack(Codec::Xz, b"two")].concat();
        assert_eq!(unpack(Codec::Xz, &padded, &Limits::default()).unwrap(), b"one two");
        let odd = [pack(Codec::Xz, b"one "), vec![0; 6]].concat();
        assert!(unpack(Codec::Xz, &odd, &Limits::default()).is_err());
    }

    #[test]
    fn what_is_cut_changed_or_longer_is_an_error() {
        for codec in PACKED {
            let packed = pack(codec, &text());
            assert!(unpack(codec, &packed, &Limits::default()).unwrap() == text(), "{codec}");
            for cut in [1, 8, packed.len() / 2, packed.len() - 5, packed.len() - 1] {
                assert!(unpack(codec, &packed[..cut], &Limits::default()).is_err(), "{codec} cut to {cut}");
            }
            let junk = [packed.as_slice(), b"junk behind the end"].concat();
            assert!(unpack(codec, &junk, &Limits::default()).is_err(), "{codec} with junk");
            if codec != Codec::Lzma {
                let mut flipped = packed.clone();
                flipped[packed.len() / 2] ^= 0x10;
                assert!(unpack(codec, &flipped, &Limits::default()).is_err(), "{codec} flipped");
            }
        }
    }

    #[test]
    fn a_window_over_the_bound_is_refused_as_such() {
        let mut options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
        options.dict_size(64 << 20);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
        let mut writer = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        writer.write_all(&text()).unwrap();
        let xz = writer.finish().unwrap();
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(26).unwrap();
        encoder.write_all(&text()).unwrap();
        let zstd = encoder.finish().unwrap();
        for (codec, packed) in [(Codec::Xz, xz), (Codec::Zstd, zstd)] {
            assert!(unpack(codec, &packed, &Limits::default()).is_ok());
            let tight = Limits { window_bytes: 8 << 20, ..Limits::default() };
            let error = unpack(codec, &packed, &tight).unwrap_err();
            assert!(is_memory_limit(&error), "{codec}: {error}");
        }
    }
}
