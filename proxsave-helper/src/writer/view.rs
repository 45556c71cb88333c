//! The writer's view of the file system: a mount namespace built from nothing.
//!
//! An empty read-only tmpfs, and on it one clone for each topmost directory in which the plan makes names. The
//! clones are not recursive and private: what is mounted below or over them on the host, before or after, is not
//! in them. Sensitive names in a clone that the plan does not hold are covered by read-only binds of themselves.
//!
//! Everything is reached by descriptor, and each directory is compared with what the plan was bound to; the
//! view's own paths are only there because a mount must be somewhere.

use super::Job;
use super::error::WriterError;
use super::layout::{From, Layout, relative, sensitive};
use super::protocol::clip;
use crate::cage::Layers;
use crate::sys::{self, mount_attr};
use proxsave_proto::RelPath;
use proxsave_proto::escape::escape;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use std::os::fd::RawFd;

/// The most directories of a view that need a mount of their own; the kernel's own bound for a namespace is
/// 100,000 mounts, covers included.
const MAX_TOPS: usize = 4096;
/// How many names that could not be covered are told one by one.
const MOST_TOLD: usize = 16;
/// Set on every clone: a restore executes nothing, opens no device and follows no link.
const HARMLESS: u64 = mount_attr::NOSUID | mount_attr::NODEV | mount_attr::NOEXEC | mount_attr::NOSYMFOLLOW;
/// Said when the host's root cannot be exchanged for the view's.
const NOT_A_ROOT: &str = "leave the host's root, which must be a mount of its own: the helper does not work in a chroot \
                          or straight from an initial ramdisk";

/// A view that stands.
pub(super) struct View {
    /// The directories of the layout's slots, in its order, open for reading.
    pub dirs: Vec<OwnedFd>,
    /// The topmost of them on each mount.
    pub tops: Vec<OwnedFd>,
    /// For each slot, its index in `tops`: names can be linked within one only.
    pub top_of: Vec<usize>,
    /// How many sensitive names are covered.
    pub covered: u32,
    /// Those that could not be.
    pub uncovered: Vec<String>,
}

/// What a directory must be.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Id {
    dev: u64,
    ino: u64,
    mount: u64,
}

impl Id {
    fn of(fd: impl AsFd) -> Result<Self, Errno> {
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)?;
        let dev = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        Ok(Self { dev, ino: stat.stx_ino, mount: stat.stx_mnt_id })
    }
}

/// Builds it, and leaves this process with no other descriptor than the view's, those of `keep` and standard
/// input, output and error, which lead nowhere.
pub(super) fn build(job: &Job<'_>, layout: &Layout<'_>, keep: &[RawFd]) -> Result<View, WriterError> {
    sys::silence_stdio().map_err(|source| WriterError::View { what: "close the standard streams".into(), source })?;
    let mut host = Host::open(job, layout)?;
    let mut covers = Covers::default();
    let top_of = std::mem::take(&mut host.top_of);
    // In the isolated view the host's own descriptors are closed here, before all that are not listed below.
    let tops = if job.layers.has(Layers::ONLY_NAMESPACE) { host.isolate(job, layout, &mut covers)? } else { host.tops };
    let dirs = open_slots(job, layout, &top_of, &tops)?;
    let top_of = top_of.into_iter().map(|(top, _)| top).collect();
    let view = View { dirs, tops, top_of, covered: covers.done, uncovered: covers.not_done };
    let mut all: Vec<RawFd> = view.dirs.iter().chain(&view.tops).map(AsRawFd::as_raw_fd).collect();
    all.extend_from_slice(keep);
    all.extend([0, 1, 2]);
    sys::close_all_but(&all).map_err(|source| WriterError::View { what: "close other descriptors".into(), source })?;
    Ok(view)
}

/// The topmost directories as the host has them.
struct Host {
    tops: Vec<OwnedFd>,
    /// The slot that each top is.
    slots: Vec<usize>,
    /// For each slot: its top, and the nearest slot that leads to it on the same mount (itself for a top).
    top_of: Vec<(usize, usize)>,
}

impl Host {
    fn open(job: &Job<'_>, layout: &Layout<'_>) -> Result<Self, WriterError> {
        let mut host = Host { tops: Vec::new(), slots: Vec::new(), top_of: Vec::new() };
        // Slots on the way to the current one, with their mounts.
        let mut way: Vec<(usize, &RelPath, u64)> = Vec::new();
        for (index, slot) in layout.slots.iter().enumerate() {
            while way.last().is_some_and(|(_, path, _)| !slot.path.starts_with(path)) {
                way.pop();
            }
            let (mount, entry_dir) = match slot.from {
                From::Anchor(anchor) => (job.plan.anchors.get(anchor).map_or(0, |binding| binding.mount), None),
                From::Entry { anchor, entry } => {
                    let dir = open_entry_dir(job, anchor, entry)?;
                    (Id::of(&dir).map_err(WriterError::entry(slot.path, "examine"))?.mount, Some(dir))
                }
            };
            match way.iter().rev().find(|(_, _, other)| *other == mount) {
                Some((near, _, _)) => {
                    let top = host.top_of.get(*near).map_or(0, |(top, _)| *top);
                    host.top_of.push((top, *near));
                }
                None => {
                    let dir = match (entry_dir, slot.from) {
                        (Some(dir), _) => dir,
                        (None, From::Anchor(anchor) | From::Entry { anchor, .. }) => open_anchor(job, anchor)?,
                    };
                    host.top_of.push((host.tops.len(), index));
                    host.tops.push(dir);
                    host.slots.push(index);
                }
            }
            way.push((index, slot.path, mount));
        }
        if host.tops.len() > MAX_TOPS {
            let source = std::io::Error::other(format!(
                "the plan needs {} mounts, at most {MAX_TOPS} are made",
                host.tops.len()
            ));
            return Err(WriterError::View {
                what: "too many separate directories; restore fewer at once".into(),
                source,
            });
        }
        Ok(host)
    }

    /// Leaves the host's mounts for clones of the tops alone.
    fn isolate(self, job: &Job<'_>, layout: &Layout<'_>, covers: &mut Covers) -> Result<Vec<OwnedFd>, WriterError> {
        let fail = |what: &'static str| move |source| WriterError::View { what: what.into(), source };
        // Cloned while still in the host's namespace: the kernel clones only what is in the caller's own.
        let clones: Vec<OwnedFd> = self.tops.iter().map(clone_of).collect::<Result<_, _>>()?;
        sys::unshare_mounts().map_err(fail("leave the host's mounts"))?;
        let old_root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(WriterError::view("open the old root"))?;
        sys::set_mount(&old_root, 0, true).map_err(fail(NOT_A_ROOT))?;
        let tmpfs = empty_tmpfs()?;
        for index in 0..clones.len() {
            rustix::fs::mkdirat(&tmpfs, index.to_string(), Mode::from_raw_mode(0o700))
                .map_err(WriterError::view("make a mount point"))?;
        }
        rustix::mount::move_mount(&tmpfs, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(WriterError::view("attach the empty root"))?;
        rustix::process::fchdir(&tmpfs).map_err(WriterError::view("enter the empty root"))?;
        // The old root ends up stacked on the new one, from where it is taken off whole.
        rustix::process::pivot_root(".", ".").map_err(WriterError::view(NOT_A_ROOT))?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(WriterError::view("detach the old root"))?;
        rustix::process::chdir("/").map_err(WriterError::view("enter the new root"))?;
        for (index, clone) in clones.iter().enumerate() {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(clone, "", &tmpfs, index.to_string(), flags)
                .map_err(WriterError::view("attach a directory"))?;
        }
        sys::set_mount(&tmpfs, mount_attr::RDONLY | HARMLESS, false).map_err(fail("make the empty root read-only"))?;
        for (slot, clone) in self.slots.iter().zip(&clones) {
            if let Some(slot) = layout.slots.get(*slot) {
                sensitive(job.plan, slot.path).for_each(|name| covers.cover(clone.as_fd(), slot.path, name));
            }
        }
        Ok(clones)
    }
}

/// A private, harmless clone of one directory's mount, not attached to anything.
fn clone_of(dir: &OwnedFd) -> Result<OwnedFd, WriterError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let clone = rustix::mount::open_tree(dir, "", flags).map_err(WriterError::view("clone a directory's mount"))?;
    sys::set_mount(&clone, HARMLESS, false)
        .map_err(|source| WriterError::View { what: "make a clone private".into(), source })?;
    Ok(clone)
}

fn empty_tmpfs() -> Result<OwnedFd, WriterError> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(WriterError::view("make an empty file system"))?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0500")
        .and_then(|()| rustix::mount::fsconfig_create(context.as_fd()))
        .map_err(WriterError::view("set up an empty file system"))?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(WriterError::view("make an empty root"))
}

#[derive(Default)]
struct Covers {
    done: u32,
    not_done: Vec<String>,
}

impl Covers {
    /// Lays a read-only bind of a name over itself. A name that is not there cannot be covered and needs none to
    /// be kept from change.
    fn cover(&mut self, top: BorrowedFd<'_>, dir: &RelPath, name: &[u8]) {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = match rustix::fs::openat2(top, name, flags, Mode::empty(), resolve) {
            Ok(target) => target,
            // Not there; or behind a link, where the link's own target is covered if it is in the table.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return,
            // Below another cover already.
            Err(Errno::XDEV) => return,
            Err(error) => return self.failed(dir, name, error.into()),
        };
        let clone_flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let attach = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        let laid = rustix::mount::open_tree(&target, "", clone_flags).map_err(std::io::Error::from).and_then(|cover| {
            sys::set_mount(&cover, mount_attr::RDONLY | HARMLESS, false)?;
            Ok(rustix::mount::move_mount(&cover, "", &target, "", attach)?)
        });
        match laid {
            Ok(()) => self.done += 1,
            Err(error) => self.failed(dir, name, error),
        }
    }

    fn failed(&mut self, dir: &RelPath, name: &[u8], error: std::io::Error) {
        match self.not_done.len() {
            0..MOST_TOLD => self.not_done.push(clip(format!("{} in {dir}: {error}", escape(name)), 512)),
            MOST_TOLD => self.not_done.push("and others".to_owned()),
            _ => {}
        }
    }
}

fn changed(path: &RelPath) -> WriterError {
    WriterError::Changed(path.clone(), "another directory is there")
}

/// An anchor, as it was held since the check.
fn open_anchor(job: &Job<'_>, anchor: usize) -> Result<OwnedFd, WriterError> {
    let (Some(binding), Some(held)) = (job.plan.anchors.get(anchor), job.anchors.get(anchor)) else {
        return Err(changed(&RelPath::root()));
    };
    let dir =
        walk(*held, b"", OFlags::PATH, ResolveFlags::NO_XDEV).map_err(WriterError::entry(&binding.path, "open"))?;
    let id = Id::of(&dir).map_err(WriterError::entry(&binding.path, "examine"))?;
    if id != (Id { dev: binding.dev, ino: binding.ino, mount: binding.mount }) {
        return Err(changed(&binding.path));
    }
    Ok(dir)
}

/// An existing directory that only gets metadata: it may be where another file system is mounted.
fn open_entry_dir(job: &Job<'_>, anchor: usize, entry: usize) -> Result<OwnedFd, WriterError> {
    let parent = open_anchor(job, anchor)?;
    let Some(entry) = job.plan.entries.get(entry) else { return Err(changed(&RelPath::root())) };
    let dir = walk(parent.as_fd(), super::layout::name(&entry.path), OFlags::PATH, ResolveFlags::empty())
        .map_err(WriterError::entry(&entry.path, "open"))?;
    let id = Id::of(&dir).map_err(WriterError::entry(&entry.path, "examine"))?;
    match &entry.before {
        Some(before) if (before.dev, before.ino) == (id.dev, id.ino) => Ok(dir),
        _ => Err(changed(&entry.path)),
    }
}

fn walk(dir: BorrowedFd<'_>, path: &[u8], how: OFlags, also: ResolveFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | also;
    let path = if path.is_empty() { b"." } else { path };
    rustix::fs::openat2(dir, path, how | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Opens every slot for reading, each from the nearest one that leads to it.
fn open_slots(
    job: &Job<'_>,
    layout: &Layout<'_>,
    top_of: &[(usize, usize)],
    tops: &[OwnedFd],
) -> Result<Vec<OwnedFd>, WriterError> {
    let mut dirs: Vec<OwnedFd> = Vec::with_capacity(layout.slots.len());
    for (index, (slot, (top, near))) in layout.slots.iter().zip(top_of).enumerate() {
        let opened = match (layout.slots.get(*near), dirs.get(*near), tops.get(*top)) {
            (Some(above), Some(dir), _) if *near != index => {
                walk(dir.as_fd(), relative(above.path, slot.path.as_bytes()), OFlags::RDONLY, ResolveFlags::NO_XDEV)
            }
            (_, _, Some(top)) => walk(top.as_fd(), b"", OFlags::RDONLY, ResolveFlags::NO_XDEV),
            _ => Err(Errno::NOENT),
        };
        let dir = opened.map_err(WriterError::entry(slot.path, "open"))?;
        let id = Id::of(&dir).map_err(WriterError::entry(slot.path, "examine"))?;
        let expected = match slot.from {
            From::Anchor(anchor) => job.plan.anchors.get(anchor).map(|binding| (binding.dev, binding.ino)),
            From::Entry { entry, .. } => {
                job.plan.entries.get(entry).and_then(|e| e.before.as_ref()).map(|before| (before.dev, before.ino))
            }
        };
        if expected != Some((id.dev, id.ino)) {
            return Err(changed(slot.path));
        }
        dirs.push(dir);
    }
    Ok(dirs)
}
