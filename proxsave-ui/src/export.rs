//! The export directory: what a restore brings back without applying it.
//!
//! Everything is written by descriptor below one fresh directory: names from the backup are only ever single
//! components of paths that cannot leave it and cross no link. Directories are 0700, files 0600, owned by the
//! operator; what the backup says of owner, mode, time and attributes is in `export.json`, and contents are hashed
//! against the index while they are written. Symbolic links are made as they are, and never followed here.

mod place;
mod record;

pub use place::ExportDir;

use crate::decoder::{Index, IndexEntry, IndexNode};
use crate::planner::Exported;
use proxsave_proto::digest::Digest;
use proxsave_proto::escape::escape;
use proxsave_proto::{CategoryId, RelPath};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat};
use rustix::io::Errno;
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The index of an export, at its top.
pub const RECORD: &str = "export.json";

/// Why nothing, or not everything, was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The chosen directory will not do.
    #[error("{} cannot be the export directory: {why}", shown(path))]
    Place {
        /// It.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Something could not be written.
    #[error("exporting {path}: {why}; the export in {} is not complete", shown(dir))]
    Write {
        /// The entry.
        path: RelPath,
        /// The export directory.
        dir: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// The content is not what the index says.
    #[error("exporting {path}: its content is not what was read before; the archive changed or is damaged")]
    Content {
        /// The entry.
        path: RelPath,
    },
    /// Not every content came.
    #[error(
        "{missing} of the files to export did not come out of the archive; the export in {} is not complete",
        shown(dir)
    )]
    Missing {
        /// How many.
        missing: usize,
        /// The export directory.
        dir: PathBuf,
    },
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// A content that an export needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportContent {
    /// Which content of the archive.
    pub ordinal: u32,
    /// Its bytes.
    pub size: u64,
}

/// An export under way.
#[derive(Debug)]
pub struct Exporter<'a> {
    index: &'a Index,
    dir: ExportDir,
    entries: Vec<Exported>,
    /// For each content, the entries that have it.
    waiting: BTreeMap<u32, Vec<&'a IndexEntry>>,
}

/// The file that an entry is, or that it is another name of.
fn file_of<'a>(index: &'a Index, entry: &'a IndexEntry) -> Option<&'a IndexEntry> {
    match &entry.node {
        IndexNode::File { .. } => Some(entry),
        IndexNode::Hardlink { to } => index.get(to),
        _ => None,
    }
}

impl<'a> Exporter<'a> {
    /// Makes directories, links and empty files, and says with [`Exporter::contents`] what else it needs.
    ///
    /// # Errors
    /// [`ExportError::Write`].
    pub fn begin(dir: ExportDir, index: &'a Index, entries: &[Exported]) -> Result<Self, ExportError> {
        let mut exporter = Self { index, dir, entries: entries.to_vec(), waiting: BTreeMap::new() };
        for export in entries {
            let Some(entry) = index.entries.get(export.entry as usize) else { continue };
            match file_of(index, entry).map(|file| &file.node) {
                Some(IndexNode::File { ordinal, size, .. }) if *size > 0 => {
                    exporter.waiting.entry(*ordinal).or_default().push(entry);
                }
                Some(_) => drop(exporter.create(entry)?),
                None => exporter.make(entry)?,
            }
        }
        Ok(exporter)
    }

    /// The contents that it needs, in the archive's order, each once.
    #[must_use]
    pub fn contents(&self) -> Vec<ExportContent> {
        let size = |entries: &Vec<&IndexEntry>| {
            entries.first().and_then(|entry| file_of(self.index, entry)).map_or(0, crate::selection::content_len)
        };
        self.waiting.iter().map(|(ordinal, entries)| ExportContent { ordinal: *ordinal, size: size(entries) }).collect()
    }

    /// Takes one content, of exactly its size, and gives it to every entry that has it.
    ///
    /// # Errors
    /// When it cannot be written, ends early, or is not what the index says.
    pub fn take(&mut self, ordinal: u32, content: &mut dyn Read) -> Result<(), ExportError> {
        let Some(entries) = self.waiting.remove(&ordinal) else { return Ok(()) };
        let Some((first, others)) = entries.split_first() else { return Ok(()) };
        let Some((size, sha256)) = file_of(self.index, first).and_then(|entry| match &entry.node {
            IndexNode::File { size, sha256, .. } => Some((*size, *sha256)),
            _ => None,
        }) else {
            return Ok(());
        };
        let path = first.path.clone();
        let mut file = self.create(first)?;
        let mut hash = sha2::Sha256::new();
        let mut buffer = vec![0; 128 * 1024];
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let slice = buffer.get_mut(..want).unwrap_or_default();
            let count = match content.read(slice) {
                Ok(0) => return Err(ExportError::Content { path }),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(why) => return Err(self.failed(&path, why)),
            };
            let bytes = slice.get(..count).unwrap_or_default();
            hash.update(bytes);
            file.write_all(bytes).map_err(|why| self.failed(&path, why))?;
            left -= count as u64;
        }
        if Digest(hash.finalize().into()) != sha256 {
            return Err(ExportError::Content { path });
        }
        // One after the other: there may be more of them than a process may have files open.
        for entry in others {
            let copied = self.create(entry).and_then(|mut copy| {
                file.seek(SeekFrom::Start(0)).map_err(|why| self.failed(&path, why))?;
                io::copy(&mut file, &mut copy).map_err(|why| self.failed(&entry.path, why))
            })?;
            if copied != size {
                return Err(ExportError::Content { path: entry.path.clone() });
            }
        }
        Ok(())
    }

    /// Writes the record and makes everything durable. Gives the directory and how many entries of each category it
    /// holds.
    ///
    /// # Errors
    /// When a content is missing or the record cannot be written.
    pub fn finish(self) -> Result<(PathBuf, Vec<(CategoryId, u64)>), ExportError> {
        let dir = self.dir.path.clone();
        if !self.waiting.is_empty() {
            return Err(ExportError::Missing { missing: self.waiting.len(), dir });
        }
        let failed = |why: io::Error| ExportError::Write { path: record_path(), dir: dir.clone(), why };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir.fd, RECORD, flags, Mode::from_raw_mode(0o600)).map_err(|e| failed(e.into()))?;
        record::write(File::from(file), self.index, &self.entries).map_err(failed)?;
        rustix::fs::syncfs(self.dir.fd.as_fd()).map_err(|error| failed(error.into()))?;
        let mut counts: BTreeMap<CategoryId, u64> = BTreeMap::new();
        for export in &self.entries {
            *counts.entry(export.category).or_default() += 1;
        }
        Ok((dir, counts.into_iter().collect()))
    }

    /// Where it goes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir.path
    }

    fn failed(&self, path: &RelPath, why: io::Error) -> ExportError {
        ExportError::Write { path: path.clone(), dir: self.dir.path.clone(), why }
    }

    fn make(&self, entry: &IndexEntry) -> Result<(), ExportError> {
        let path = &entry.path;
        let made = match &entry.node {
            IndexNode::Dir { .. } => self.directory(path).map(drop),
            IndexNode::Symlink { target, .. } => self.parent(path).and_then(|(dir, name)| {
                symlinkat(target.as_slice(), &dir, name)?;
                Ok(())
            }),
            IndexNode::File { .. } | IndexNode::Hardlink { .. } => Ok(()),
        };
        made.map_err(|why| self.failed(path, why))
    }

    fn create(&self, entry: &IndexEntry) -> Result<File, ExportError> {
        let made = self.parent(&entry.path).and_then(|(dir, name)| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(File::from(openat(&dir, name, flags, Mode::from_raw_mode(0o600))?))
        });
        made.map_err(|why| self.failed(&entry.path, why))
    }

    fn parent<'p>(&self, path: &'p RelPath) -> io::Result<(OwnedFd, &'p [u8])> {
        let (dir, name) = path.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        if dir.is_root() && name == RECORD.as_bytes() {
            return Err(io::Error::other("the backup's name is the one of the export's own record"));
        }
        Ok((self.directory(&dir)?, name))
    }

    /// Opens a directory below the export directory, made where it is missing.
    fn directory(&self, path: &RelPath) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let whole: &[u8] = if path.is_root() { b"." } else { path.as_bytes() };
        match openat2(&self.dir.fd, whole, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        let (dir, name) = path.split_last().ok_or(io::ErrorKind::NotFound)?;
        let parent = self.directory(&dir)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(openat2(&parent, name, flags, Mode::empty(), resolve)?)
    }
}

fn record_path() -> RelPath {
    RelPath::from_archive(RECORD.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
