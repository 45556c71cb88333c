//! The root directory that a restore writes below: opened once, and every walk starts from it.
//!
//! * [`Root`] is the directory itself; [`Root::open_dir`] walks by `openat2(BENEATH | NO_SYMLINKS |
//!   NO_MAGICLINKS)` and refuses what is guarded or on a kind of file system that is not written to.
//! * [`Walk`] looks at many targets, one walk for each directory.

mod content;
mod guards;
mod look;
mod mounts;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use look::{Detail, HashStep, Reach, Seen, Walk};
pub use mounts::{FsKind, Mount, Mounts};

use guards::Guards;
use mounts::join;
use proxsave_proto::RelPath;
use proxsave_proto::plan::guarded;
use proxsave_proto::state::{Anchor, Blocked};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;
use std::cell::RefCell;
use std::io;

/// How often a walk is tried again when the kernel saw a rename on the way.
const RACE_RETRIES: usize = 8;

/// The root directory of a restore.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    table: OwnedFd,
    /// What is guarded besides the fixed ones, by the absolute path it was opened under.
    extra: Vec<Vec<u8>>,
    view: RefCell<View>,
}

/// What is known of the mounts, as of the last [`Root::refresh`].
#[derive(Debug)]
struct View {
    path: Vec<u8>,
    mounts: Mounts,
    guards: Guards,
}

/// A failed look at the tree.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}")]
pub struct RootError {
    /// What was tried.
    pub doing: &'static str,
    /// On what.
    pub path: RelPath,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Why a directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there.
    #[error("it does not exist")]
    Absent,
    /// The way to it is not safe, or it is not written to.
    #[error("{0}")]
    Blocked(Blocked),
    /// The system refused.
    #[error(transparent)]
    Failed(#[from] RootError),
}

/// Whether something is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Something is, be it a dangling link.
    There,
    /// Nothing is.
    NotThere,
    /// A symbolic link is on the way; it was not followed.
    BehindLink,
}

/// Which directory a descriptor is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirId {
    /// Device number of its file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Mount id.
    pub mount: u64,
}

/// An open directory (`O_PATH`) that was found safe to write in.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    id: DirId,
    kind: FsKind,
    fixed: bool,
}

impl Dir {
    /// Which directory it is.
    #[must_use]
    pub fn id(&self) -> DirId {
        self.id
    }

    /// The file system's kind.
    #[must_use]
    pub fn kind(&self) -> FsKind {
        self.kind
    }

    /// Whether it is marked immutable or append-only (`chattr +i`, `+a`), so that no name in it can be replaced.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// The descriptor, for keeps.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn anchor(&self, path: &RelPath) -> Anchor {
        // A path has at most 2,048 components.
        let depth = u16::try_from(path.depth()).unwrap_or(u16::MAX);
        Anchor { depth, dev: self.id.dev, ino: self.id.ino, mount: self.id.mount }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// Opens the root directory. The path is root's own argument, so links in it are followed.
    ///
    /// # Errors
    /// When it is no directory, or `/proc` is not mounted.
    pub fn open(path: &std::path::Path) -> io::Result<Self> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let table = rustix::fs::open("/proc/thread-self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let view = View::read(&fd, &table, &[])?;
        Ok(Self { fd, table, extra: Vec::new(), view: RefCell::new(view) })
    }

    /// Guards one more directory or file (the state directory, the running program) and whatever else leads to it.
    ///
    /// # Errors
    /// When its place cannot be found out.
    pub fn guard(&mut self, what: BorrowedFd<'_>) -> io::Result<()> {
        self.extra.push(path_of(what)?);
        self.refresh()
    }

    /// Reads the mount table again. Before every decision that something is later built on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn refresh(&self) -> io::Result<()> {
        let view = View::read(&self.fd, &self.table, &self.extra)?;
        *self.view.borrow_mut() = view;
        Ok(())
    }

    /// The root's absolute path as of the last [`Root::refresh`]; for display.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        self.view.borrow().path.clone()
    }

    /// The descriptors that a forked worker needs to use this root: the directory and the mount table.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.fd.as_fd(), self.table.as_fd()]
    }

    /// Opens a directory below the root for names to be made in.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing is followed: neither a symbolic link nor a mount of a foreign kind.
    pub fn open_dir(&self, path: &RelPath) -> Result<Dir, OpenError> {
        if guarded(path) {
            return Err(OpenError::Blocked(Blocked::Guarded));
        }
        // By name first, so that a dead network mount is never touched.
        self.mount_ok(path, None)?;
        let fd = self.walk_to(path)?;
        self.admit(path, fd)
    }

    /// Checks an open directory: its mount, the kind of its file system, guards.
    fn admit(&self, path: &RelPath, fd: OwnedFd) -> Result<Dir, OpenError> {
        let failed = |source: Errno| RootError { doing: "examine", path: path.clone(), source: source.into() };
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, wanted()).map_err(failed)?;
        require_mount_id(&stat).map_err(failed)?;
        let kind = self.mount_ok(path, Some(stat.stx_mnt_id))?;
        let magic = rustix::fs::fstatfs(&fd).map_err(failed)?.f_type;
        // The table goes by the mount's number; the descriptor has the last word. Narrowing: the magic is 32 bits.
        if magic as u32 != kind.magic() {
            return Err(OpenError::Blocked(Blocked::ForeignFileSystem));
        }
        Ok(Dir { id: dir_id(&stat), fd, kind, fixed: is_fixed(&stat) })
    }

    /// Whether the mount that a path lies in (by id, else by name) is written to, and the path not guarded there.
    fn mount_ok(&self, path: &RelPath, id: Option<u64>) -> Result<FsKind, OpenError> {
        let verdict = self.judge_mount(path, id);
        if let Some(verdict) = verdict {
            return verdict.map_err(OpenError::Blocked);
        }
        // Mounted after the table was read: once more, with a new one.
        let failed = |source| RootError { doing: "find the mount of", path: path.clone(), source };
        self.refresh().map_err(failed)?;
        let gone = || failed(io::Error::other("it was mounted or unmounted meanwhile"));
        self.judge_mount(path, id).ok_or_else(gone)?.map_err(OpenError::Blocked)
    }

    fn judge_mount(&self, path: &RelPath, id: Option<u64>) -> Option<Result<FsKind, Blocked>> {
        let view = self.view.borrow();
        let absolute = join(&view.path, path.as_bytes());
        let mount = match id {
            Some(id) => view.mounts.by_id(id)?,
            None => view.mounts.covering(&absolute)?,
        };
        let inner = mount.inner_path(&absolute)?;
        Some(match mount.kind {
            _ if view.guards.hold(mount.device, &inner) => Err(Blocked::Guarded),
            Some(kind) => Ok(kind),
            None => Err(Blocked::ForeignFileSystem),
        })
    }

    /// Whether a path, there or not, is guarded on the mount that its nearest directory is on: guards go by where a
    /// name leads, and a bind mount gives a guarded name, or one yet to be made, a second way to it.
    #[must_use]
    pub fn is_guarded_on(&self, path: &RelPath, mount: u64) -> bool {
        matches!(self.judge_mount(path, Some(mount)), Some(Err(Blocked::Guarded)))
    }

    fn walk_to(&self, path: &RelPath) -> Result<OwnedFd, OpenError> {
        let name = if path.is_root() { b".".as_slice() } else { path.as_bytes() };
        for _ in 0..RACE_RETRIES {
            let error = match rustix::fs::openat2(&self.fd, name, DIR_FLAGS, Mode::empty(), RESOLVE) {
                Ok(fd) => return Ok(fd),
                Err(error) => error,
            };
            match error {
                Errno::AGAIN | Errno::INTR => {}
                Errno::NOENT => return Err(OpenError::Absent),
                Errno::LOOP => return Err(OpenError::Blocked(Blocked::SymlinkOnTheWay)),
                Errno::NOTDIR => return Err(OpenError::Blocked(Blocked::NotADirectory)),
                other => return Err(RootError { doing: "open", path: path.clone(), source: other.into() }.into()),
            }
        }
        let source = io::Error::other("directories on the way keep being renamed");
        Err(RootError { doing: "open", path: path.clone(), source }.into())
    }

    /// Whether there is anything at a path, guarded or not. Nothing is opened, only looked up.
    ///
    /// # Errors
    /// When it cannot be looked up.
    pub fn presence(&self, path: &RelPath) -> Result<Presence, RootError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.fd, path.as_bytes(), flags, Mode::empty(), RESOLVE) {
            // With `O_PATH | O_NOFOLLOW` a link that is the path itself is opened, not followed (openat2(2)).
            Ok(_) => Ok(Presence::There),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Presence::NotThere),
            Err(Errno::LOOP) => Ok(Presence::BehindLink),
            Err(error) => Err(RootError { doing: "look up", path: path.clone(), source: error.into() }),
        }
    }

    /// The deepest existing directory on the way to a target, which is where its topmost new name is made.
    ///
    /// # Errors
    /// When the way is not safe or cannot be examined.
    pub fn anchor_of(&self, target: &RelPath) -> Result<Anchor, OpenError> {
        let mut walk = Walk::new(self);
        match walk.reach(&target.parent().unwrap_or_default())? {
            Reach::Dir(anchor) | Reach::Missing(anchor) => Ok(anchor),
            Reach::Blocked(blocked) => Err(OpenError::Blocked(blocked)),
        }
    }
}

impl View {
    fn read(fd: &OwnedFd, table: &OwnedFd, extra: &[Vec<u8>]) -> io::Result<Self> {
        let path = path_of(fd.as_fd())?;
        let mounts = Mounts::read(table)?;
        let guards = Guards::new(&path, &mounts, extra);
        Ok(Self { path, mounts, guards })
    }
}

// Without `O_NOFOLLOW`, so that a link at the end is told as a link, by `NO_SYMLINKS`.
const DIR_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// The absolute path of an open file, as the kernel knows it now.
fn path_of(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    use std::os::fd::AsRawFd as _;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::readlink(link, Vec::new())?.into_bytes())
}

fn wanted() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::MNT_ID
}

/// Kernels before 5.8 have no mount ids; without them a mount over a target could not be told.
fn require_mount_id(stat: &Statx) -> Result<(), Errno> {
    if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID) { Ok(()) } else { Err(Errno::NOSYS) }
}

fn dir_id(stat: &Statx) -> DirId {
    let dev = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    DirId { dev, ino: stat.stx_ino, mount: stat.stx_mnt_id }
}

fn is_fixed(stat: &Statx) -> bool {
    use rustix::fs::StatxAttributes as Attributes;
    stat.stx_attributes.intersects(Attributes::IMMUTABLE | Attributes::APPEND)
}
