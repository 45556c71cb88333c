//! The decompressed stream: counted, bounded, and kept in memory while it is small.

use super::error::DecodeError;
use super::limits::Limits;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a piece of kept stream.
const PIECE: usize = 1 << 20;

/// A bound that was passed while reading; travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("more {what} than {limit}")]
struct Passed {
    what: &'static str,
    limit: u64,
    option: &'static str,
}

/// Says which bound an error of [`Plain`] is about.
pub fn passed(error: &io::Error) -> Option<DecodeError> {
    let passed = error.get_ref()?.downcast_ref::<Passed>()?;
    Some(DecodeError::Limit { what: passed.what.to_owned(), limit: passed.limit, option: passed.option.to_owned() })
}

/// A whole decompressed archive in memory.
#[derive(Default)]
pub struct Kept(Vec<Vec<u8>>);

impl Kept {
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.0.last_mut() {
                Some(piece) if piece.len() < PIECE => {
                    let (now, rest) = bytes.split_at(bytes.len().min(PIECE - piece.len()));
                    piece.extend_from_slice(now);
                    bytes = rest;
                }
                _ => self.0.push(Vec::with_capacity(PIECE)),
            }
        }
    }

    /// Reads it from its beginning.
    pub fn reader(&self) -> impl Read + '_ {
        KeptReader { pieces: self.0.iter(), rest: &[] }
    }
}

struct KeptReader<'a> {
    pieces: std::slice::Iter<'a, Vec<u8>>,
    rest: &'a [u8],
}

impl Read for KeptReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = self.pieces.next().map(Vec::as_slice).unwrap_or_default();
        }
        self.rest.read(buffer)
    }
}

/// Counts and bounds what comes out of a codec.
pub struct Plain<R> {
    inner: R,
    limits: Limits,
    consumed: Arc<AtomicU64>,
    read: u64,
    kept: Option<Kept>,
}

impl<R: Read> Plain<R> {
    /// `consumed` counts stored bytes; `keep` is whether a small stream is kept.
    pub fn new(inner: R, limits: Limits, consumed: Arc<AtomicU64>, keep: bool) -> Self {
        Self { inner, limits, consumed, read: 0, kept: keep.then(Kept::default) }
    }

    /// The stream, if it was small enough.
    pub fn into_kept(self) -> Option<Kept> {
        self.kept
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        if self.read > self.limits.plain_bytes {
            let limit = self.limits.plain_bytes;
            return Err(io::Error::other(Passed { what: "decompressed bytes", limit, option: "--limit-total" }));
        }
        if self.read > self.limits.ratio_bytes(self.consumed.load(Ordering::Relaxed)) {
            let limit = self.limits.ratio.into();
            let what = "decompressed bytes for each stored byte";
            return Err(io::Error::other(Passed { what, limit, option: "--limit-ratio" }));
        }
        if self.read > self.limits.keep_bytes {
            self.kept = None;
        } else if let (Some(kept), Some(part)) = (&mut self.kept, buffer.get(..count)) {
            kept.push(part);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_stream_of_zeros_ends_soon() {
        let limits = Limits::default();
        let mut plain = Plain::new(io::repeat(0), limits, Arc::new(AtomicU64::new(1000)), true);
        let error = io::copy(&mut plain, &mut io::sink()).unwrap_err();
        assert!(matches!(passed(&error), Some(DecodeError::Limit { limit: 1000, .. })), "{error}");
        assert!(plain.read < 66 << 20);
        assert!(plain.into_kept().is_none());
    }

    #[test]
    fn a_small_stream_is_kept_whole() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 241) as u8).collect();
        let mut plain = Plain::new(&bytes[..], Limits::default(), Arc::default(), true);
        io::copy(&mut plain, &mut io::sink()).unwrap();
        let mut again = Vec::new();
        plain.into_kept().unwrap().reader().read_to_end(&mut again).unwrap();
        assert!(again == bytes);
    }
}
