//! Blocks of bytes from one thread to another, few at a time.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes of a block.
pub const BLOCK: usize = 256 << 10;
/// Blocks that may wait.
const WAITING: usize = 4;

/// The filling side.
pub struct Filler {
    full: SyncSender<Option<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

/// The reading side. Its end is an end only when the filling side said so; otherwise reading fails.
pub struct Blocks {
    full: Receiver<Option<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    block: Vec<u8>,
    used: usize,
    ended: bool,
    stopped_early: bool,
}

/// The two sides.
pub fn pair() -> (Filler, Blocks) {
    let (full, full_end) = sync_channel(WAITING);
    let (empty_end, empty) = channel();
    let (block, used, ended, stopped_early) = (Vec::new(), 0, false, false);
    (Filler { full, empty }, Blocks { full: full_end, empty: empty_end, block, used, ended, stopped_early })
}

impl Filler {
    /// Moves everything from `input`. `Ok(false)` when the reader went away.
    pub fn fill_from(&self, input: &mut impl Read) -> io::Result<bool> {
        loop {
            let mut block = self.empty.try_recv().unwrap_or_default();
            block.resize(BLOCK, 0);
            let mut filled = 0;
            while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match input.read(rest) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            let last = filled < block.len();
            block.truncate(filled);
            if !block.is_empty() && self.full.send(Some(block)).is_err() {
                return Ok(false);
            }
            if last {
                return Ok(self.full.send(None).is_ok());
            }
        }
    }
}

impl Blocks {
    /// Whether reading failed because the filling side stopped; it knows why.
    pub fn stopped_early(&self) -> bool {
        self.stopped_early
    }
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Blocks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.block.len() && !self.ended {
            let spent = std::mem::take(&mut self.block);
            self.used = 0;
            if spent.capacity() > 0 {
                // The filling side may be done already; then the block is simply freed.
                drop(self.empty.send(spent));
            }
            match self.full.recv() {
                Ok(Some(block)) => self.block = block,
                Ok(None) => self.ended = true,
                Err(_) => {
                    self.stopped_early = true;
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the input stopped early"));
                }
            }
        }
        Ok(self.block.get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.used = self.used.saturating_add(amount).min(self.block.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_arrive_and_an_early_stop_is_not_an_end() {
        let bytes: Vec<u8> = (0..700_000u32).map(|n| (n % 253) as u8).collect();
        let (filler, mut blocks) = pair();
        std::thread::scope(|scope| {
            let mut input = &bytes[..];
            scope.spawn(move || assert!(filler.fill_from(&mut input).unwrap()));
            let mut got = Vec::new();
            blocks.read_to_end(&mut got).unwrap();
            assert!(got == bytes);
        });
        let (filler, mut blocks) = pair();
        drop(filler);
        assert!(!blocks.stopped_early());
        assert!(blocks.read(&mut [0; 4]).is_err() && blocks.stopped_early());
        let (filler, blocks) = pair();
        drop(blocks);
        assert!(!filler.fill_from(&mut &bytes[..]).unwrap());
    }
}
