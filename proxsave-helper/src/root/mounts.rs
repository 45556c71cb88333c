//! The mount table below a root, and the kinds of file systems that are written to.
//!
//! Read from an open `/proc/self/mountinfo`, so that a caged process can read it again without `/proc` in reach.

use rustix::fd::{AsFd, OwnedFd};
use std::io;

/// A mount table larger than this is not believed (16 MiB is about 100,000 mounts).
const MAX_TABLE: usize = 16 << 20;

/// A file system that keeps owners, modes, links and times, and renames atomically. All others are refused:
/// pmxcfs and every other FUSE, `proc`, `sysfs`, devices, network file systems, and FAT, which would lose owners
/// and modes without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// ZFS.
    Zfs,
    /// F2FS.
    F2fs,
    /// tmpfs (not the kernel's device file system, which says it is one).
    Tmpfs,
    /// overlayfs.
    Overlay,
}

impl FsKind {
    /// By the name in the mount table; `None` for a kind that is never written to.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"ext2" | b"ext3" | b"ext4" => Self::Ext,
            b"xfs" => Self::Xfs,
            b"btrfs" => Self::Btrfs,
            b"zfs" => Self::Zfs,
            b"f2fs" => Self::F2fs,
            b"tmpfs" => Self::Tmpfs,
            b"overlay" => Self::Overlay,
            _ => return None,
        })
    }

    /// The number that `statfs` gives (linux/magic.h; ZFS: its own `ZFS_SUPER_MAGIC`).
    #[must_use]
    pub fn magic(self) -> u32 {
        match self {
            Self::Ext => 0xEF53,
            Self::Xfs => 0x5846_5342,
            Self::Btrfs => 0x9123_683E,
            Self::Zfs => 0x2FC1_2FC1,
            Self::F2fs => 0xF2F5_2010,
            Self::Tmpfs => 0x0102_1994,
            Self::Overlay => 0x794C_7630,
        }
    }
}

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What `STATX_MNT_ID` gives. The kernel uses a number again after an unmount.
    pub id: u64,
    /// Major and minor number of the file system (for btrfs: of the whole, not of a subvolume).
    pub device: (u32, u32),
    /// The directory of the file system that is mounted, as an absolute path in it.
    pub root: Vec<u8>,
    /// Where, as an absolute path seen from this process.
    pub point: Vec<u8>,
    /// The kind; `None` when it is not written to.
    pub kind: Option<FsKind>,
}

/// The mount table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads the table from an open `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// When it cannot be read or is not in the kernel's format.
    pub fn read(table: &OwnedFd) -> io::Result<Self> {
        let mut text = Vec::new();
        let mut chunk = vec![0u8; 32 << 10];
        loop {
            let read = rustix::io::pread(table.as_fd(), &mut chunk, text.len() as u64)?;
            match chunk.get(..read) {
                None | Some([]) => break,
                Some(bytes) => text.extend_from_slice(bytes),
            }
            if text.len() > MAX_TABLE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the mount table is larger than 16 MiB"));
            }
        }
        Self::parse(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the mount table has a line of unknown form"))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(Mount::parse).collect::<Option<_>>().map(Self)
    }

    /// The mount with an id.
    #[must_use]
    pub fn by_id(&self, id: u64) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.id == id)
    }

    /// The mount that an absolute path lies in, going by names alone. Of mounts stacked on one point, the last.
    #[must_use]
    pub fn covering(&self, path: &[u8]) -> Option<&Mount> {
        // `max_by_key` takes the last of equals, which is the topmost of a stack.
        self.0.iter().filter(|mount| below(path, &mount.point).is_some()).max_by_key(|mount| mount.point.len())
    }

    /// The mounts whose point is a path or lies below it.
    pub fn within<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = &'a Mount> {
        self.0.iter().filter(move |mount| below(&mount.point, path).is_some())
    }
}

impl Mount {
    /// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [FIELD...] - KIND SOURCE OPTIONS` (proc_pid_mountinfo(5)).
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b' ');
        let id = number(fields.next()?)?;
        let _parent = fields.next()?;
        let mut device = fields.next()?.split(|b| *b == b':');
        let device = (number(device.next()?)?.try_into().ok()?, number(device.next()?)?.try_into().ok()?);
        let (root, point) = (unescape(fields.next()?)?, unescape(fields.next()?)?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some(Self { id, device, root, point, kind: FsKind::from_name(kind) })
    }

    /// Where a directory at an absolute path in this mount is within the file system. `None` when the path is not
    /// in this mount.
    #[must_use]
    pub fn inner_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let rest = below(path, &self.point)?;
        Some(join(&self.root, rest))
    }
}

/// What is left of an absolute path behind a directory that it is, or lies in.
#[must_use]
pub fn below<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    if dir == b"/" {
        return path.strip_prefix(b"/");
    }
    match path.strip_prefix(dir)?.split_first() {
        None => Some(&[]),
        Some((b'/', rest)) => Some(rest),
        Some(_) => None,
    }
}

/// An absolute path with a relative one behind it.
#[must_use]
pub fn join(dir: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut whole = dir.strip_suffix(b"/").unwrap_or(dir).to_vec();
    if !rest.is_empty() || whole.is_empty() {
        whole.push(b'/');
        whole.extend_from_slice(rest);
    }
    whole
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The kernel writes space, tab, newline, backslash and `#` as three octal digits.
fn unescape(field: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'\\' {
            out.push(*first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_at_checked(3)?;
        out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?);
        rest = tail;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &[u8] = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        30 27 0:50 / /etc/pve rw,nosuid - fuse /dev/fuse rw\n\
        31 27 254:0 /etc/x\\040y /srv/a\\134b rw shared:5 master:1 - ext4 /dev/vda rw\n\
        32 27 0:51 / /srv rw - tmpfs none rw\n\
        33 27 0:52 / /srv rw - devtmpfs none rw\n";

    #[test]
    fn the_kernels_format_is_read() {
        let mounts = Mounts::parse(TABLE).unwrap();
        let bind = mounts.by_id(31).unwrap();
        assert_eq!((bind.root.as_slice(), bind.point.as_slice()), (&b"/etc/x y"[..], &b"/srv/a\\b"[..]));
        assert_eq!(bind.inner_path(b"/srv/a\\b/c"), Some(b"/etc/x y/c".to_vec()));
        assert_eq!(mounts.by_id(30).unwrap().kind, None);
        assert_eq!(mounts.covering(b"/etc/pve/priv").unwrap().id, 30);
        assert_eq!(mounts.covering(b"/etc/pve-x").unwrap().id, 27);
        assert_eq!(mounts.covering(b"/srv/q").unwrap().id, 33, "of a stack the last");
        assert_eq!(mounts.by_id(27).unwrap().inner_path(b"/"), Some(b"/".to_vec()));
    }

    #[test]
    fn this_machines_table_is_read() {
        let table = rustix::fs::open("/proc/self/mountinfo", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
        let mounts = Mounts::read(&table.unwrap()).unwrap();
        assert_eq!(mounts.covering(b"/proc/1").unwrap().point, b"/proc");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9:/ a\\\\\n-]{0,80}") {
            let _ = Mounts::parse(text.as_bytes());
        }
    }
}
