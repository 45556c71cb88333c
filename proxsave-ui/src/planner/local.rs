//! A look at the live files with the operator's own rights, for plans without a helper.
//!
//! It answers as the helper does where it can; what the operator may not read stays unknown. Links are never
//! followed.

use proxsave_proto::digest::Timestamp;
use proxsave_proto::message::ProbeItem;
use proxsave_proto::plan::Xattr;
use proxsave_proto::state::{Anchor, Blocked, Kind, Present, Target};
use proxsave_proto::{Digest, RelPath};
use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;
use sha2::Digest as _;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Looks at one path below a directory. `None`: it cannot be known with these rights.
#[must_use]
pub fn probe(root: BorrowedFd<'_>, item: &ProbeItem) -> Option<Target> {
    let (parent, name) = item.path.split_last()?;
    let mut walk = Walk { at: None, root, depth: 0 };
    match walk.down(&parent) {
        Ok(()) => {}
        Err(Stop::Absent) => return walk.anchor().map(Target::Absent),
        Err(Stop::Blocked(why)) => return Some(Target::Blocked(why)),
        Err(Stop::Unknown) => return None,
    }
    let anchor = walk.anchor()?;
    match statx(walk.dir(), name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
        Ok(stat) => present(walk.dir(), name, &stat, item).map(|there| Target::Present(anchor, Box::new(there))),
        Err(Errno::NOENT) => Some(Target::Absent(anchor)),
        Err(_) => None,
    }
}

enum Stop {
    Absent,
    Blocked(Blocked),
    Unknown,
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    at: Option<OwnedFd>,
    depth: u16,
}

impl Walk<'_> {
    fn dir(&self) -> BorrowedFd<'_> {
        self.at.as_ref().map_or(self.root, AsFd::as_fd)
    }

    fn down(&mut self, path: &RelPath) -> Result<(), Stop> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for name in path.components() {
            match openat(self.dir(), name, flags, Mode::empty()) {
                Ok(dir) => self.at = Some(dir),
                Err(Errno::NOENT) => return Err(Stop::Absent),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let stat = statx(self.dir(), name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
                    return Err(match stat.map(|stat| kind(&stat)) {
                        Ok(Kind::Symlink) => Stop::Blocked(Blocked::SymlinkOnTheWay),
                        Ok(_) => Stop::Blocked(Blocked::NotADirectory),
                        Err(_) => Stop::Unknown,
                    });
                }
                Err(_) => return Err(Stop::Unknown),
            }
            self.depth += 1;
        }
        Ok(())
    }

    fn anchor(&self) -> Option<Anchor> {
        let stat = statx(self.dir(), "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).ok()?;
        Some(Anchor { depth: self.depth, dev: dev(&stat), ino: stat.stx_ino, mount: stat.stx_mnt_id })
    }
}

fn dev(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

fn kind(stat: &Statx) -> Kind {
    match rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()) {
        rustix::fs::FileType::RegularFile => Kind::File,
        rustix::fs::FileType::Directory => Kind::Dir,
        rustix::fs::FileType::Symlink => Kind::Symlink,
        _ => Kind::Special,
    }
}

fn present(dir: BorrowedFd<'_>, name: &[u8], stat: &Statx, item: &ProbeItem) -> Option<Present> {
    let kind = kind(stat);
    let wants_hash = kind == Kind::File && item.hash_if_size == Some(stat.stx_size);
    let open = || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(dir, name, flags, Mode::empty()).ok()
    };
    let (sha256, xattrs) = match kind {
        Kind::File | Kind::Dir => {
            let opened = open()?;
            (if wants_hash { Some(hash(&opened)?) } else { None }, attributes(&opened)?)
        }
        Kind::Symlink | Kind::Special => (None, Vec::new()),
    };
    let link = match kind {
        Kind::Symlink => Some(readlinkat(dir, name, Vec::new()).ok()?.into_bytes()),
        _ => None,
    };
    let time = |time: rustix::fs::StatxTimestamp| Timestamp { secs: time.tv_sec, nanos: time.tv_nsec };
    Some(Present {
        kind,
        mode: stat.stx_mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: if kind == Kind::File { stat.stx_size } else { 0 },
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        dev: dev(stat),
        ino: stat.stx_ino,
        nlink: if kind == Kind::File { stat.stx_nlink } else { 1 },
        sha256,
        link,
        xattrs: Xattr::digest(&xattrs),
    })
}

fn hash(file: &OwnedFd) -> Option<Digest> {
    let mut file = std::fs::File::from(file.try_clone().ok()?);
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(Digest(hash.finalize().into())),
            count => hash.update(buffer.get(..count)?),
        }
    }
}

/// The attributes that a restore can set, sorted. A file system without any has none.
fn attributes(file: &OwnedFd) -> Option<Vec<Xattr>> {
    let mut names = vec![0u8; 64 * 1024];
    let count = match rustix::fs::flistxattr(file, names.as_mut_slice()) {
        Ok(count) => count,
        Err(Errno::OPNOTSUPP) => 0,
        Err(_) => return None,
    };
    let mut found = Vec::new();
    for name in names.get(..count)?.split(|byte| *byte == 0).filter(|name| Xattr::is_restorable(name)) {
        let mut value = vec![0u8; proxsave_proto::plan::MAX_XATTR];
        let length = rustix::fs::fgetxattr(file, name, value.as_mut_slice()).ok()?;
        value.truncate(length);
        found.push(Xattr { name: name.to_vec(), value });
    }
    found.sort_unstable();
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::super::testing::path;
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    fn at(root: &tempfile::TempDir, text: &str, hash_if_size: Option<u64>) -> Option<Target> {
        let dir = std::fs::File::open(root.path()).unwrap();
        probe(dir.as_fd(), &ProbeItem { path: path(text), hash_if_size })
    }

    #[test]
    fn looks_without_following_links() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/b/f"), "hello").unwrap();
        symlink("a", root.path().join("l")).unwrap();
        let found = at(&root, "a/b/f", Some(5)).unwrap();
        let there = found.present().unwrap();
        assert_eq!((there.kind, there.size, there.sha256), (Kind::File, 5, Some(Digest::of(b"hello"))));
        let dir = std::fs::metadata(root.path().join("a/b")).unwrap();
        let anchor = found.anchor().unwrap();
        assert_eq!((anchor.depth, anchor.ino, anchor.dev), (2, dir.ino(), dir.dev()));
        assert_eq!(at(&root, "a/b/f", Some(4)).unwrap().present().unwrap().sha256, None);
        assert!(matches!(at(&root, "a/x/y/z", None), Some(Target::Absent(Anchor { depth: 1, .. }))));
        assert_eq!(at(&root, "l/b/f", None), Some(Target::Blocked(Blocked::SymlinkOnTheWay)));
        assert_eq!(at(&root, "a/b/f/x", None), Some(Target::Blocked(Blocked::NotADirectory)));
        let link = at(&root, "l", None).unwrap();
        assert_eq!(link.present().unwrap().link.as_deref(), Some(&b"a"[..]));
    }
}
