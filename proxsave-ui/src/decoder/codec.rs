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
    if padding % 4 == 0 {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "stray bytes between xz streams"))
    }
}
