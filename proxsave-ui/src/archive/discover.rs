//! Finding the backups in directories.
//!
//! One bad file never hides the others: what cannot be described is listed with the reason, what cannot be read is noted.
//! Nested folders are searched, links are not followed, and depth and number of entries are bounded.

use super::backup::Backup;
use super::describe::Describe;
use super::name::{CompanionKind, FileKind};
use super::open::{open_at, shown};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A directory to search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it is called in lists ("local", "secondary"); may be empty.
    pub label: String,
    /// The directory. If this itself is a link it is followed.
    pub path: PathBuf,
}

/// Bounds of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchLimits {
    /// How many levels of folders below a place are searched.
    pub depth: usize,
    /// How many directory entries are looked at in all.
    pub entries: usize,
}

impl Default for SearchLimits {
    fn default() -> Self {
        Self { depth: 8, entries: 200_000 }
    }
}

/// What a search gave.
#[derive(Debug, Default)]
pub struct Found {
    /// The backups, newest first.
    pub backups: Vec<Backup>,
    /// Files that are named like backups and cannot be used.
    pub bad: Vec<Bad>,
    /// What else an operator should know.
    pub notes: Vec<Note>,
}

/// A file that is named like a backup and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Label of the place.
    pub source: String,
    /// The file.
    pub path: PathBuf,
    /// Why, safe to print.
    pub reason: String,
}

/// Something about a path that is no backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub path: PathBuf,
    /// What was noticed.
    pub kind: NoteKind,
}

/// What was noticed about a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteKind {
    /// `.partial`.
    #[error("is still being written, or its writing was interrupted; ignored")]
    Partial,
    /// A directory that cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// A link with the name of a backup, or to a directory.
    #[error("is a symbolic link; links are not followed")]
    Link,
    /// The archive it belongs to is missing.
    #[error("belongs to an archive that is not there")]
    Orphan,
    /// A bound.
    #[error("was not searched: folders are nested too deep")]
    Depth,
    /// A bound.
    #[error("was searched only in part: there are too many files")]
    Entries,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", shown(&self.path), self.kind)
    }
}

/// Searches places for backups, newest first; of equal times, in the order of places and names. With a host, only its backups:
/// `pve1` also means `pve1.lan`. Files that cannot be used, and notes, are given whatever the host.
#[must_use]
pub fn discover(places: &[Place], host: Option<&str>, limits: SearchLimits, describe: &mut dyn Describe) -> Found {
    let mut search = Search { limits, entries: 0, seen_directories: HashSet::new(), found: Found::default(), describe };
    for place in places {
        search.place(place);
    }
    let mut found = search.found;
    if let Some(host) = host {
        found.backups.retain(|backup| backup.hostname().is_some_and(|name| is_host(name, host)));
    }
    found.backups.sort_by_key(|backup| Reverse(backup.created_at));
    found
}

/// Whether a backup's host is the one that is meant, with or without its domain.
fn is_host(name: &str, wanted: &str) -> bool {
    let short = name.split('.').next().unwrap_or_default();
    name.eq_ignore_ascii_case(wanted) || short.eq_ignore_ascii_case(wanted)
}

struct Search<'a> {
    limits: SearchLimits,
    entries: usize,
    /// Device and inode: places may lie in each other.
    seen_directories: HashSet<(u64, u64)>,
    found: Found,
    describe: &'a mut dyn Describe,
}

impl Search<'_> {
    fn note(&mut self, path: &Path, kind: NoteKind) {
        self.found.notes.push(Note { path: path.to_owned(), kind });
    }

    fn place(&mut self, place: &Place) {
        match rustix::fs::open(&place.path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => self.directory(fd, &place.path, &place.label, 0),
            Err(error) => self.note(&place.path, NoteKind::Unreadable(error.to_string())),
        }
    }

    fn directory(&mut self, fd: OwnedFd, path: &Path, label: &str, depth: usize) {
        let file = std::fs::File::from(fd);
        match file.metadata() {
            Ok(status) if !self.seen_directories.insert((status.dev(), status.ino())) => return,
            Ok(_) => {}
            Err(error) => return self.note(path, NoteKind::Unreadable(error.to_string())),
        }
        let names = match self.list(file.as_fd(), path) {
            Ok(names) => names,
            Err(error) => return self.note(path, NoteKind::Unreadable(error.to_string())),
        };
        self.files(file.as_fd(), path, label, &names);
        for (name, kind) in &names {
            if *kind == FileType::Directory {
                let below = path.join(OsStr::from_bytes(name));
                if depth >= self.limits.depth {
                    self.note(&below, NoteKind::Depth);
                    continue;
                }
                let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                match rustix::fs::openat(file.as_fd(), name.as_slice(), flags, Mode::empty()) {
                    Ok(fd) => self.directory(fd, &below, label, depth + 1),
                    Err(error) => self.note(&below, NoteKind::Unreadable(error.to_string())),
                }
            }
        }
    }

    /// The names in a directory, sorted, with what they are.
    fn list(&mut self, directory: BorrowedFd<'_>, path: &Path) -> std::io::Result<BTreeMap<Vec<u8>, FileType>> {
        let mut names = BTreeMap::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > self.limits.entries {
                self.note(path, NoteKind::Entries);
                break;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                // Some file systems do not say; a name that is gone meanwhile is none of ours.
                let Ok(status) = rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                kind = FileType::from_raw_mode(status.st_mode);
            }
            names.insert(name.to_vec(), kind);
        }
        Ok(names)
    }

    /// Describes the backups of one directory.
    fn files(&mut self, directory: BorrowedFd<'_>, path: &Path, label: &str, names: &BTreeMap<Vec<u8>, FileType>) {
        for (name, kind) in names {
            let file = FileKind::of(name);
            let here = path.join(OsStr::from_bytes(name));
            match (&file, kind) {
                (FileKind::Other, FileType::Symlink) => {
                    let target = rustix::fs::statat(directory, name.as_slice(), AtFlags::empty());
                    if target.is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory) {
                        self.note(&here, NoteKind::Link);
                    }
                }
                (FileKind::Bundle | FileKind::Archive(_), FileType::Symlink) => self.note(&here, NoteKind::Link),
                (FileKind::Partial, FileType::RegularFile) => self.note(&here, NoteKind::Partial),
                (FileKind::Companion { kind: CompanionKind::ManifestJson | CompanionKind::Metadata, of }, _)
                    if !names.contains_key(of) =>
                {
                    self.note(&here, NoteKind::Orphan);
                }
                (FileKind::Bundle, FileType::RegularFile) => self.backup(directory, path, name, label),
                (FileKind::Archive(parsed), FileType::RegularFile) => {
                    let beside = |kind: CompanionKind| names.contains_key(&[name, kind.suffix().as_bytes()].concat());
                    // Other tars (vzdump's, say) lie in such directories too.
                    if parsed.usual || beside(CompanionKind::ManifestJson) || beside(CompanionKind::Metadata) {
                        self.backup(directory, path, name, label);
                    }
                }
                _ => {}
            }
        }
    }

    fn backup(&mut self, directory: BorrowedFd<'_>, path: &Path, name: &[u8], label: &str) {
        match open_at(directory, path, name, label.to_owned(), self.describe) {
            Ok(opened) => self.found.backups.push(opened.backup),
            Err(error) => self.found.bad.push(Bad {
                source: label.to_owned(),
                path: path.join(OsStr::from_bytes(name)),
                reason: error.to_string(),
            }),
        }
    }
}
