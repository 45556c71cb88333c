//! The stored bytes of an archive: read once in order, hashed whole.

use proxsave_proto::digest::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const BUFFER: usize = 256 << 10;

/// A range of a file, read by offset: the descriptor's own position is neither used nor changed.
pub struct Stored {
    file: File,
    next: u64,
    end: u64,
    buffer: Box<[u8]>,
    filled: usize,
    used: usize,
    hash: Sha256,
    consumed: Arc<AtomicU64>,
}

impl Stored {
    /// The `length` bytes from `offset`.
    pub fn new(file: File, offset: u64, length: u64) -> io::Result<Self> {
        let end = offset.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            file,
            next: offset,
            end,
            buffer: vec![0; BUFFER].into(),
            filled: 0,
            used: 0,
            hash: Sha256::new(),
            consumed: Arc::default(),
        })
    }

    /// A counter of the bytes read so far, for another thread.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.consumed)
    }

    /// Reads what is left and gives the hash of the whole.
    pub fn finish(mut self) -> io::Result<Digest> {
        self.used = self.filled;
        while !self.fill_buf()?.is_empty() {
            self.used = self.filled;
        }
        Ok(Digest(self.hash.finalize().into()))
    }
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Stored {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.filled && self.next < self.end {
            let wanted = usize::try_from(self.end - self.next).unwrap_or(BUFFER).min(BUFFER);
            let part = self.buffer.get_mut(..wanted).unwrap_or_default();
            self.file.read_exact_at(part, self.next).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    io::Error::new(error.kind(), "the file became shorter while it was read")
                }
                _ => error,
            })?;
            self.hash.update(part);
            self.next += wanted as u64;
            self.consumed.fetch_add(wanted as u64, Ordering::Relaxed);
            (self.used, self.filled) = (0, wanted);
        }
        Ok(self.buffer.get(self.used..self.filled).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.used = self.used.saturating_add(amount).min(self.filled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_whole_range_is_hashed_whatever_was_read() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let mut stored = Stored::new(file.try_clone().unwrap(), 10, 599_000).unwrap();
        let mut some = [0; 100];
        stored.read_exact(&mut some).unwrap();
        assert_eq!(some, bytes[10..110]);
        assert_eq!(stored.finish().unwrap(), Digest::of(&bytes[10..599_010]));
        let mut short = Stored::new(file, 0, 600_001).unwrap();
        assert!(io::copy(&mut short, &mut io::sink()).is_err());
    }
}
