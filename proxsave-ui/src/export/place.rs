//! Where an export may go.

use super::ExportError;
use crate::decoder::Index;
use crate::planner::Exported;
use proxsave_proto::{Plan, RelPath};
use rustix::fs::{Mode, OFlags, fstat, mkdirat, open, openat};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Directories of the system; an export in one of them could be taken for a part of it.
const SYSTEM: &[&str] = &[
    "etc",
    "usr",
    "bin",
    "sbin",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "boot",
    "dev",
    "proc",
    "sys",
    "run",
    "var/lib",
    "var/spool",
    "var/cache",
    "var/log",
    "var/run",
    "var/lock",
];
/// Places below those that belong to users all the same.
const OF_USERS: &[&str] = &["run/user", "run/media"];

/// What an exported entry takes besides its content, and what content is rounded up to: one block of the common size.
const BLOCK: u64 = 4096;
/// Exports of one second, beyond which something is wrong.
const MAX_EXPORTS: u32 = 100;

/// A fresh directory, 0700, below one that the operator chose.
#[derive(Debug)]
pub struct ExportDir {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
}

impl ExportDir {
    /// Checks the chosen directory (made when it is missing and its parent is there) without making anything in it.
    /// `root` is the root that the restore writes to, `plan` what it writes.
    ///
    /// # Errors
    /// [`ExportError::Place`] with the reason.
    pub fn check(chosen: &Path, root: &[u8], plan: Option<&Plan>) -> Result<(), ExportError> {
        let refuse = |why: String| ExportError::Place { path: chosen.to_owned(), why };
        let existing = if chosen.exists() { chosen } else { parent_of(chosen) };
        let real = existing.canonicalize().map_err(|error| refuse(error.to_string()))?;
        let real = match chosen.file_name() {
            Some(name) if existing != chosen => real.join(name),
            _ => real,
        };
        allowed(&real, root, plan).map_err(refuse)
    }

    /// Checks that what is to be exported fits into what is free there for the caller, before anything is written.
    ///
    /// # Errors
    /// [`ExportError::Place`] with both figures.
    pub fn check_room(chosen: &Path, index: &Index, exports: &[Exported]) -> Result<(), ExportError> {
        let refuse = |why: String| ExportError::Place { path: chosen.to_owned(), why };
        let existing = if chosen.exists() { chosen } else { parent_of(chosen) };
        let room = rustix::fs::statvfs(existing).map_err(|error| refuse(std::io::Error::from(error).to_string()))?;
        fits(space(index, exports), room.f_bavail.saturating_mul(room.f_frsize)).map_err(refuse)
    }

    /// Makes the fresh directory `proxmox-config-export-STAMP` (a number behind it if need be) in the chosen one, which is made when it is missing.
    ///
    /// # Errors
    /// [`ExportError::Place`] with the reason.
    pub fn create(chosen: &Path, stamp: &str, root: &[u8], plan: Option<&Plan>) -> Result<Self, ExportError> {
        Self::check(chosen, root, plan)?;
        let refuse = |why: String| ExportError::Place { path: chosen.to_owned(), why };
        let says = |error: rustix::io::Errno| refuse(std::io::Error::from(error).to_string());
        match rustix::fs::mkdir(chosen, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(says(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let outer = open(chosen, flags, Mode::empty()).map_err(says)?;
        let stat = fstat(&outer).map_err(says)?;
        let me = rustix::process::geteuid();
        if stat.st_uid != me.as_raw() {
            return Err(refuse("it is not yours; name a directory that you own".to_owned()));
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(refuse("others can write to it; name one that only you can write to".to_owned()));
        }
        // Checked again on what was opened: the name may lead elsewhere by now.
        let real = std::fs::read_link(format!("/proc/self/fd/{}", outer.as_raw_fd()))
            .map_err(|error| refuse(error.to_string()))?;
        allowed(&real, root, plan).map_err(refuse)?;
        let name = fresh(&outer, &format!("proxmox-config-export-{stamp}")).map_err(says)?;
        let fd = openat(&outer, name.as_str(), flags, Mode::empty()).map_err(says)?;
        Ok(Self { fd, path: real.join(name) })
    }
}

/// Makes a directory of a name that is not there yet: the wanted one, else with the first free number behind it, for two
/// exports can begin within one second.
fn fresh(outer: &OwnedFd, wanted: &str) -> Result<String, rustix::io::Errno> {
    let mut name = wanted.to_owned();
    for number in 2..=MAX_EXPORTS {
        match mkdirat(outer, name.as_str(), Mode::from_raw_mode(0o700)) {
            Err(rustix::io::Errno::EXIST) => name = format!("{wanted}-{number}"),
            made => return made.map(|()| name),
        }
    }
    Err(rustix::io::Errno::EXIST)
}

/// The bytes that an export takes; sparse files and hard links count in full, for they are written out.
fn space(index: &Index, exports: &[Exported]) -> u64 {
    let entries = exports.iter().filter_map(|export| index.entries.get(export.entry as usize));
    let content = |entry| super::file_of(index, entry).map_or(0, crate::selection::content_len);
    let blocks = |bytes: u64| bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
    entries.map(|entry| blocks(content(entry)).saturating_add(BLOCK)).fold(0, u64::saturating_add)
}

fn fits(need: u64, free: u64) -> Result<(), String> {
    if need <= free {
        return Ok(());
    }
    let (need, free) = (crate::dialogue::bytes(need), crate::dialogue::bytes(free));
    Err(format!("the export needs {need} and only {free} are free there; nothing was written; choose another place"))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether a real path may hold an export.
fn allowed(real: &Path, root: &[u8], plan: Option<&Plan>) -> Result<(), String> {
    let relative = |path: &[u8]| RelPath::from_archive(path.strip_prefix(b"/").unwrap_or(path)).ok();
    let Some(here) = relative(real.as_os_str().as_bytes()) else {
        return Err("its path cannot be used".to_owned());
    };
    let root = relative(root).unwrap_or_default();
    if !root.is_root() && here.starts_with(&root) {
        return Err("it lies in the root that the restore writes to".to_owned());
    }
    let in_any =
        |list: &[&str]| list.iter().filter_map(|dir| relative(dir.as_bytes())).any(|dir| here.starts_with(&dir));
    if here.is_root() || (in_any(SYSTEM) && !in_any(OF_USERS)) {
        return Err("it lies in a directory of the system".to_owned());
    }
    let hit = plan.filter(|_| root.is_root()).and_then(|plan| {
        plan.entries.iter().find(|entry| here.starts_with(&entry.path) || entry.path.starts_with(&here))
    });
    match hit {
        Some(entry) => Err(format!("the restore writes {}", entry.path)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_that_does_not_fit_is_refused_before_it_begins() {
        use crate::planner::testing::{file, hardlink, index};
        use proxsave_proto::CategoryId::PveCluster as category;
        let mut index = index(vec![file("etc/pve/a", &[1; 5000]), hardlink("etc/pve/b", "etc/pve/a")]);
        let exports = [Exported { entry: 0, category }, Exported { entry: 1, category }];
        assert_eq!(space(&index, &exports), 2 * (8192 + 4096));
        assert!(fits(10, 10).is_ok() && fits(11, 10).unwrap_err().contains("11 B"));
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("new");
        assert!(ExportDir::check_room(&missing, &index, &exports).is_ok());
        if let crate::decoder::IndexNode::File { size, .. } = &mut index.entries[0].node {
            *size = 1 << 60;
        }
        let error = ExportDir::check_room(&missing, &index, &exports).unwrap_err();
        assert!(error.to_string().contains("free"), "{error}");
        assert!(!missing.exists());
    }

    #[test]
    fn two_exports_of_one_second_have_two_directories() {
        let base = tempfile::tempdir().unwrap();
        let make = || ExportDir::create(&base.path().join("x"), "20260101-000000", b"/nowhere", None).unwrap().path;
        let (first, second) = (make(), make());
        assert!(first.ends_with("proxmox-config-export-20260101-000000") && first.is_dir());
        assert!(second.ends_with("proxmox-config-export-20260101-000000-2") && second.is_dir());
    }

    #[test]
    fn the_root_and_the_system_are_no_place_for_exports() {
        let may = |path: &str, root: &str| allowed(Path::new(path), root.as_bytes(), None).is_ok();
        assert!(may("/home/anna/exports", "/") && may("/run/user/1000/x", "/") && may("/srv/x", "/"));
        for bad in ["/", "/etc/x", "/usr/local/x", "/var/lib/x", "/run/x", "/proc/1"] {
            assert!(!may(bad, "/"), "{bad}");
        }
        assert!(!may("/mnt/disk/home/x", "/mnt/disk") && !may("/mnt/disk", "/mnt/disk/"));
        assert!(may("/mnt/disk2/x", "/mnt/disk"));
    }
}
