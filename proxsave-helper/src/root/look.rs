//! Looking at targets: what is there, without following or opening anything but regular files and directories.

use super::content::{hash_content, xattr_digest};
use super::{Dir, DirId, OpenError, RESOLVE, Root, RootError, dir_id, is_fixed, require_mount_id, wanted};
use proxsave_proto::RelPath;
use proxsave_proto::digest::Timestamp;
use proxsave_proto::plan::{Xattr, guarded};
use proxsave_proto::state::{Anchor, Blocked, Kind, Present, Target};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxTimestamp};
use rustix::io::Errno;
use std::io;

/// The most directories a walk keeps open: one chain of parents as deep as archives are in practice.
const MAX_HELD: usize = 32;
/// How often a file that changes while it is examined is examined again.
const CHANGE_RETRIES: usize = 3;

/// A target is told as it is: links are not followed, and nothing is mounted by looking.
const LEAF: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

/// Looks at targets, holding the directories that lead to the last one, so that sorted targets need one walk for
/// each directory. Keep one for a batch, not longer: what it holds is not looked up again.
#[derive(Debug)]
pub struct Walk<'r> {
    root: &'r Root,
    held: Vec<(RelPath, Dir)>,
    /// The topmost missing directory that was met last, and the directory it is missing from.
    missing: Option<(RelPath, Anchor)>,
}

/// How far the way to a target's directory leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The directory exists: this one.
    Dir(Anchor),
    /// It does not; this is the deepest that does.
    Missing(Anchor),
    /// The way is not safe.
    Blocked(Blocked),
}

/// What is at a target, with what only the helper's own checks need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// As a probe tells it.
    pub target: Target,
    /// The mount it is on itself: another than its directory's when something is mounted there.
    pub mount: u64,
    /// Whether it is marked immutable or append-only.
    pub fixed: bool,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What `stat` tells, and a link's target. The hash over the extended attributes is that of none, whatever
    /// there are.
    Stat,
    /// Also the extended attributes, and the content of a regular file of exactly this size.
    Full {
        /// The size, or `None` to hash no content.
        hash_if_size: Option<u64>,
    },
}

/// Called while a file is hashed, with how many bytes were read since the last call. `false` gives the hash up.
pub type HashStep<'a> = &'a mut dyn FnMut(u64) -> bool;

impl<'r> Walk<'r> {
    /// A walk that holds nothing yet.
    #[must_use]
    pub fn new(root: &'r Root) -> Self {
        Self { root, held: Vec::new(), missing: None }
    }

    /// Goes to a directory.
    ///
    /// # Errors
    /// When it cannot be examined; not being there, or not safely, is an answer.
    pub fn reach(&mut self, dir: &RelPath) -> Result<Reach, RootError> {
        if let Some((missing, anchor)) = &self.missing
            && dir.starts_with(missing)
        {
            return Ok(Reach::Missing(*anchor));
        }
        while self.held.last().is_some_and(|(path, _)| !dir.starts_with(path)) {
            self.held.pop();
        }
        if let Some((path, held)) = self.held.last()
            && path == dir
        {
            return Ok(Reach::Dir(held.anchor(path)));
        }
        match self.root.open_dir(dir) {
            Ok(open) => Ok(Reach::Dir(self.hold(dir.clone(), open))),
            Err(OpenError::Blocked(blocked)) => Ok(Reach::Blocked(blocked)),
            Err(OpenError::Failed(error)) => Err(error),
            Err(OpenError::Absent) => self.find_missing(dir),
        }
    }

    /// From the root down to the first directory that is not there: linear in depth, once for each missing tree.
    fn find_missing(&mut self, dir: &RelPath) -> Result<Reach, RootError> {
        let mut above: Vec<RelPath> = dir.ancestors().collect();
        above.reverse();
        above.push(dir.clone());
        let mut last = None;
        for path in above {
            match self.root.open_dir(&path) {
                Ok(open) => last = Some((path, open)),
                Err(OpenError::Absent) => {
                    let Some((parent, open)) = last else {
                        let source = io::Error::from(Errno::NOENT);
                        return Err(RootError { doing: "open", path, source });
                    };
                    let anchor = open.anchor(&parent);
                    self.missing = Some((path, anchor));
                    return Ok(Reach::Missing(anchor));
                }
                Err(OpenError::Blocked(blocked)) => return Ok(Reach::Blocked(blocked)),
                Err(OpenError::Failed(error)) => return Err(error),
            }
        }
        match last {
            // It was made between the two walks.
            Some((path, open)) => Ok(Reach::Dir(self.hold(path, open))),
            None => Ok(Reach::Blocked(Blocked::Unreadable)),
        }
    }

    fn hold(&mut self, path: RelPath, dir: Dir) -> Anchor {
        let anchor = dir.anchor(&path);
        if self.held.len() == MAX_HELD {
            self.held.remove(0);
        }
        self.held.push((path, dir));
        anchor
    }

    /// Looks at a target.
    ///
    /// # Errors
    /// When it cannot be examined.
    pub fn look(&mut self, path: &RelPath, detail: Detail, step: HashStep<'_>) -> Result<Seen, RootError> {
        if guarded(path) {
            return Ok(Seen::blocked(Blocked::Guarded));
        }
        let (parent, name) = path.split_last().unwrap_or((RelPath::root(), b"."));
        let anchor = match self.reach(&parent)? {
            Reach::Dir(anchor) => anchor,
            Reach::Missing(anchor) => {
                let guarded = self.root.is_guarded_on(path, anchor.mount);
                return Ok(if guarded { Seen::blocked(Blocked::Guarded) } else { Seen::absent(anchor) });
            }
            Reach::Blocked(blocked) => return Ok(Seen::blocked(blocked)),
        };
        // The directory is not guarded, but the name in it may be.
        if self.root.is_guarded_on(path, anchor.mount) {
            return Ok(Seen::blocked(Blocked::Guarded));
        }
        let failed = |source: io::Error| RootError { doing: "examine", path: path.clone(), source };
        // `reach` answered `Dir`, so the directory is the last one held.
        let Some((_, dir)) = self.held.last() else {
            return Err(failed(io::Error::other("its directory is not open")));
        };
        for _ in 0..CHANGE_RETRIES {
            let stat = match rustix::fs::statx(dir, name, LEAF, wanted()) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return Ok(Seen::absent(anchor)),
                Err(error) => return Err(failed(error.into())),
            };
            require_mount_id(&stat).map_err(|error| failed(error.into()))?;
            if stat.stx_mnt_id != anchor.mount {
                let blocked = match self.root.mount_ok(path, Some(stat.stx_mnt_id)) {
                    Err(OpenError::Blocked(blocked)) => Some(blocked),
                    Err(OpenError::Failed(error)) => return Err(error),
                    Ok(_) | Err(OpenError::Absent) => (kind_of(&stat) != Kind::Dir).then_some(Blocked::MountPoint),
                };
                if let Some(blocked) = blocked {
                    return Ok(Seen::blocked(blocked));
                }
            }
            match examine(dir.as_fd(), name, &stat, detail, step) {
                Ok(Some(present)) => {
                    let target = Target::Present(anchor, Box::new(present));
                    return Ok(Seen { target, mount: stat.stx_mnt_id, fixed: is_fixed(&stat) });
                }
                Ok(None) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(io::Error::other("it keeps changing while it is examined")))
    }

    /// The directory that a path was last reached in, when it is still held.
    #[must_use]
    pub fn held_dir(&self) -> Option<&Dir> {
        self.held.last().map(|(_, dir)| dir)
    }
}

impl Seen {
    fn blocked(blocked: Blocked) -> Self {
        Self { target: Target::Blocked(blocked), mount: 0, fixed: false }
    }

    fn absent(anchor: Anchor) -> Self {
        Self { target: Target::Absent(anchor), mount: anchor.mount, fixed: false }
    }
}

fn kind_of(stat: &Statx) -> Kind {
    match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Special,
    }
}

fn time(stamp: StatxTimestamp) -> Timestamp {
    Timestamp { secs: stamp.tv_sec, nanos: stamp.tv_nsec }
}

/// Makes the state of what `stat` is of. `None` when it changed meanwhile.
fn examine(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Statx,
    detail: Detail,
    step: HashStep<'_>,
) -> io::Result<Option<Present>> {
    let kind = kind_of(stat);
    let id = dir_id(stat);
    let is_file = kind == Kind::File;
    let mut present = Present {
        kind,
        mode: stat.stx_mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: if is_file { stat.stx_size } else { 0 },
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        dev: id.dev,
        ino: id.ino,
        nlink: if is_file { stat.stx_nlink } else { 1 },
        sha256: None,
        link: None,
        xattrs: Xattr::digest(&[]),
    };
    match kind {
        Kind::Special => return Ok(Some(present)),
        Kind::Symlink => {
            // Links and special files cannot have attributes that a restore sets.
            match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => present.link = Some(target.into_bytes()),
                Err(Errno::INVAL | Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let again = rustix::fs::statx(dir, name, LEAF, wanted());
            let same = again.is_ok_and(|again| dir_id(&again) == id && time(again.stx_ctime) == present.ctime);
            return Ok(same.then_some(present));
        }
        Kind::File | Kind::Dir => {}
    }
    let Detail::Full { hash_if_size } = detail else { return Ok(Some(present)) };
    let Some(fd) = open_same(dir, name, stat)? else { return Ok(None) };
    let Some(xattrs) = xattr_digest(fd.as_fd())? else { return Ok(None) };
    present.xattrs = xattrs;
    if is_file && hash_if_size == Some(present.size) {
        present.sha256 = hash_content(fd.as_fd(), present.size, step)?;
    }
    let after = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, wanted())?;
    let same = time(after.stx_ctime) == present.ctime && after.stx_size == stat.stx_size;
    Ok(same.then_some(present))
}

/// Opens the regular file or directory that `stat` is of; `None` when the name leads elsewhere by now. Neither a
/// FIFO nor a leased file can make it wait.
fn open_same(dir: BorrowedFd<'_>, name: &[u8], stat: &Statx) -> io::Result<Option<OwnedFd>> {
    let base = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let base = if kind_of(stat) == Kind::Dir { base | OFlags::DIRECTORY } else { base };
    let open = |flags| rustix::fs::openat2(dir, name, flags, Mode::empty(), RESOLVE);
    // The access time stays as it is where the kernel lets us ask for that.
    let opened = match open(base | OFlags::NOATIME) {
        Err(Errno::PERM) => open(base),
        other => other,
    };
    let fd = match opened {
        Ok(fd) => fd,
        Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT | Errno::NXIO | Errno::AGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let now = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, wanted())?;
    let same = dir_id(&now) == dir_id(stat) && kind_of(&now) == kind_of(stat);
    Ok(same.then_some(fd))
}

/// Which directory a path leads to, for comparison with a binding.
impl From<Anchor> for DirId {
    fn from(anchor: Anchor) -> Self {
        Self { dev: anchor.dev, ino: anchor.ino, mount: anchor.mount }
    }
}
