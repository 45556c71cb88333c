//! A tar writer that can set any field to any bytes: what libraries refuse to write is what is tested.

/// A header block under construction, in the POSIX (ustar) layout.
#[derive(Clone)]
pub struct Header {
    block: [u8; 512],
    checksum: bool,
}

/// Where the fields of a header lie.
pub mod field {
    #![allow(missing_docs, reason = "the names are the format's")]
    use std::ops::Range;
    pub const NAME: Range<usize> = 0..100;
    pub const MODE: Range<usize> = 100..108;
    pub const UID: Range<usize> = 108..116;
    pub const GID: Range<usize> = 116..124;
    pub const SIZE: Range<usize> = 124..136;
    pub const MTIME: Range<usize> = 136..148;
    pub const CHECKSUM: Range<usize> = 148..156;
    pub const TYPE: Range<usize> = 156..157;
    pub const LINK: Range<usize> = 157..257;
    pub const MAGIC: Range<usize> = 257..265;
    pub const DEVMAJOR: Range<usize> = 329..337;
    pub const DEVMINOR: Range<usize> = 337..345;
    pub const PREFIX: Range<usize> = 345..500;
}

impl Header {
    /// A header of a type (`b'0'` a file, `b'5'` a directory, ...), 0644 root:root at a fixed time.
    #[must_use]
    pub fn new(kind: u8, name: &[u8], size: u64) -> Self {
        let mut header = Self { block: [0; 512], checksum: true };
        header
            .set(field::NAME, &name[..name.len().min(100)])
            .octal(field::MODE, 0o644)
            .octal(field::UID, 0)
            .octal(field::GID, 0)
            .octal(field::SIZE, size)
            .octal(field::MTIME, 1_700_000_000)
            .set(field::TYPE, &[kind])
            .set(field::MAGIC, b"ustar\x0000")
            .octal(field::DEVMAJOR, 0)
            .octal(field::DEVMINOR, 0);
        header
    }

    /// Puts bytes into a field, the rest of it zero.
    pub fn set(&mut self, range: std::ops::Range<usize>, bytes: &[u8]) -> &mut Self {
        let slot = &mut self.block[range];
        slot.fill(0);
        slot[..bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Puts an octal number into a field, with a final NUL.
    pub fn octal(&mut self, range: std::ops::Range<usize>, value: u64) -> &mut Self {
        let width = range.len() - 1;
        let text = format!("{value:0width$o}");
        self.set(range, text.as_bytes())
    }

    /// Leaves the checksum as it is set by hand.
    pub fn no_checksum(&mut self) -> &mut Self {
        self.checksum = false;
        self
    }

    fn finish(&self) -> [u8; 512] {
        let mut block = self.block;
        if self.checksum {
            block[field::CHECKSUM].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[field::CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        block
    }
}

/// An archive under construction.
#[derive(Clone, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A header block and nothing else.
    pub fn header(&mut self, header: &Header) -> &mut Self {
        self.0.extend_from_slice(&header.finish());
        self
    }

    /// A body, padded to a block.
    pub fn body(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// An entry whose name or link may be long (then a pax record carries it).
    pub fn entry(&mut self, kind: u8, name: &[u8], mode: u64, link: &[u8], body: &[u8]) -> &mut Self {
        let mut records: Vec<(&[u8], &[u8])> = Vec::new();
        if name.len() > 100 {
            records.push((b"path", name));
        }
        if link.len() > 100 {
            records.push((b"linkpath", link));
        }
        if !records.is_empty() {
            self.pax(&records);
        }
        let mut header = Header::new(kind, name, body.len() as u64);
        header.octal(field::MODE, mode).set(field::LINK, &link[..link.len().min(100)]);
        self.header(&header).body(body)
    }

    /// A regular file, 0644 root:root.
    pub fn file(&mut self, name: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> &mut Self {
        self.entry(b'0', name.as_ref(), 0o644, b"", body.as_ref())
    }

    /// A directory, 0755 root:root.
    pub fn dir(&mut self, name: impl AsRef<[u8]>) -> &mut Self {
        self.entry(b'5', name.as_ref(), 0o755, b"", b"")
    }

    /// A symbolic link.
    pub fn symlink(&mut self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &mut Self {
        self.entry(b'2', name.as_ref(), 0o777, target.as_ref(), b"")
    }

    /// A hard link.
    pub fn hardlink(&mut self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &mut Self {
        self.entry(b'1', name.as_ref(), 0o644, target.as_ref(), b"")
    }

    /// Pax records for the next entry.
    pub fn pax(&mut self, records: &[(&[u8], &[u8])]) -> &mut Self {
        self.pax_of_type(b'x', &records.iter().flat_map(|(key, value)| pax_record(key, value)).collect::<Vec<_>>())
    }

    /// A pax header (`b'x'`, or `b'g'` for all that follows) with any body.
    pub fn pax_of_type(&mut self, kind: u8, body: &[u8]) -> &mut Self {
        self.header(&Header::new(kind, b"./PaxHeaders/x", body.len() as u64)).body(body)
    }

    /// A GNU long name (`b'L'`) or long link (`b'K'`) for the next entry.
    pub fn gnu_long(&mut self, kind: u8, text: &[u8]) -> &mut Self {
        let mut header = Header::new(kind, b"././@LongLink", text.len() as u64 + 1);
        header.set(field::MAGIC, b"ustar  \0");
        self.header(&header).body(&[text, b"\0"].concat())
    }

    /// The bytes so far, without an end marker.
    #[must_use]
    pub fn unfinished(&self) -> Vec<u8> {
        self.0.clone()
    }

    /// The archive: end marker, padded to a record of 10,240 bytes.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize((bytes.len() + 1024).next_multiple_of(10240), 0);
        bytes
    }
}

/// One pax record, with its length right.
#[must_use]
pub fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        assert_eq!(pax_record(b"path", b"abc"), b"12 path=abc\n");
        for length in [80, 88, 89, 90, 91, 980, 989, 990, 991] {
            let record = pax_record(b"path", &vec![b'a'; length]);
            let said: usize = std::str::from_utf8(&record).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, record.len());
        }
    }

    #[test]
    fn an_ordinary_archive_is_read_by_the_system_s_tar() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Tar::new();
        tar.dir("./a").file("./a/b", "body").symlink("./a/c", "b").file(format!("./a/{}", "n".repeat(200)), "long");
        std::fs::write(dir.path().join("t.tar"), tar.finish()).unwrap();
        let out = std::process::Command::new("tar").arg("tf").arg(dir.path().join("t.tar")).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        assert_eq!(String::from_utf8(out.stdout).unwrap().lines().count(), 4);
    }
}
