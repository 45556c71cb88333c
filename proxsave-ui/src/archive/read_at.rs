//! Reading at an offset, so that one held descriptor serves every reader without a shared position.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Something that can be read at any offset: a file, or bytes in memory.
pub trait ReadAt {
    /// Reads at most `buffer.len()` bytes from `offset`; 0 means the end (for a buffer that is not empty).
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads until the buffer is full or the end comes; says how much was read.
    ///
    /// # Errors
    /// What the system says. An interrupted call is repeated.
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0usize;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let position =
                offset.checked_add(done as u64).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            match self.read_at(rest, position) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buffer, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_like_a_file() {
        let data = b"abcdef".to_vec();
        let mut buffer = [0; 4];
        assert_eq!(data.read_full_at(&mut buffer, 1).unwrap(), 4);
        assert_eq!(&buffer, b"bcde");
        assert_eq!(data.read_full_at(&mut buffer, 4).unwrap(), 2);
        assert_eq!(data.read_full_at(&mut buffer, u64::MAX).unwrap(), 0);
    }
}
