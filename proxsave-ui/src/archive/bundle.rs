//! A bundle: a plain tar that holds metadata, checksums and the archive of one backup.
//!
//! The rules, stricter than the public tool's (which flattens any name and lets the last member win):
//!
//! * regular files only; POSIX ustar or GNU headers with right checksums;
//! * a name is one component (`./` in front is allowed), not empty, at most 255 bytes; PAX `path` and `size` and the GNU
//!   long name are understood, any record or type that would change the meaning (sparse, links) is refused;
//! * at most one archive, one metadata, one of each checksum, in any order: two of a kind are refused, for a
//!   reader that takes the first and one that takes the last would see different backups;
//! * nothing but zeros behind the end mark.
//!
//! The walk reads headers, the small members and nothing of the archive: it is described by offset and length,
//! so that it can be read in place from the one descriptor that is held.

use super::describe::Span;
use super::manifest::MAX_MANIFEST;
use super::name::CompanionKind;
use super::read_at::ReadAt;
use super::tar_header::{BLOCK, RawHeader, is_zero, until_nul};
use proxsave_proto::path::MAX_COMPONENT;
use serde::{Deserialize, Serialize};
use std::io;

/// The most headers in a bundle, extended ones included.
const MAX_HEADERS: usize = 64;
/// The largest PAX or GNU long-name record, in bytes.
const MAX_EXTENDED: u64 = 64 * 1024;
/// The most zeros that may follow the end mark, in bytes (tar programs pad to their record size).
const MAX_PADDING: u64 = 1024 * 1024;

/// What a bundle holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Base name of the archive.
    pub archive_name: Vec<u8>,
    /// Where it lies.
    pub archive: Span,
    /// The other members, whole.
    pub companions: Vec<(CompanionKind, Vec<u8>)>,
    /// Whether the tar's end mark is there.
    pub has_end_mark: bool,
}

/// Why a file is no acceptable bundle. Offsets are bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the messages say")]
pub enum BundleError {
    /// Reading failed.
    #[error("reading it failed: {0}")]
    Read(String),
    /// A header.
    #[error("the header at byte {offset} is not acceptable: {reason}")]
    Header { offset: u64, reason: String },
    /// Cut.
    #[error("it ends inside the member at byte {offset}: the file is cut short")]
    Truncated { offset: u64 },
    /// Type flag.
    #[error("the member at byte {offset} is not a regular file")]
    NotFile { offset: u64 },
    /// Name.
    #[error("the member at byte {offset} has a name that is not one plain file name")]
    Name { offset: u64 },
    /// Extended header.
    #[error("the extended header at byte {offset} {reason}")]
    Extended { offset: u64, reason: ExtendedFault },
    /// Large companion.
    #[error("the member at byte {offset} is too large to be metadata or a checksum (see --limit-manifest)")]
    LargeCompanion { offset: u64 },
    /// Two of a kind.
    #[error("it holds two members of one kind ({0}); readers could disagree which counts")]
    Twice(MemberKind),
    /// No archive.
    #[error("it holds no archive")]
    NoArchive,
    /// Member count.
    #[error("it holds more than {MAX_HEADERS} headers")]
    TooMany,
    /// Bytes behind the end.
    #[error("there are bytes behind its end mark (from byte {offset})")]
    Trailing { offset: u64 },
}

/// What is wrong with an extended header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ExtendedFault {
    /// Larger than its bound.
    #[error("is too large")]
    Large,
    /// Not a sequence of `LENGTH KEY=VALUE` records.
    #[error("is damaged")]
    Damaged,
    /// A record that would change the meaning of the member.
    #[error("has a record that a bundle never has")]
    Forbidden,
    /// No member follows it, or two of a kind precede one member.
    #[error("belongs to no member, or is there twice")]
    Misplaced,
}

/// A kind of member, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MemberKind {
    /// The archive.
    #[error("archive")]
    Archive,
    /// A companion.
    #[error("{}", .0.suffix())]
    Companion(CompanionKind),
}

/// What an extended header says about the next member.
#[derive(Default)]
struct Pending {
    offset: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

/// [`read_within`] the usual bound for companions.
///
/// # Errors
/// As there.
pub fn read<R: ReadAt + ?Sized>(file: &R, size: u64) -> Result<Bundle, BundleError> {
    read_within(file, size, MAX_MANIFEST)
}

/// Walks a bundle of `size` bytes, whose companions have at most `max_companion` bytes each.
///
/// # Errors
/// See [`BundleError`]. A missing end mark is no error here: see [`Bundle::has_end_mark`].
pub fn read_within<R: ReadAt + ?Sized>(file: &R, size: u64, max_companion: usize) -> Result<Bundle, BundleError> {
    let mut archive = None;
    let mut companions: Vec<(CompanionKind, Vec<u8>)> = Vec::new();
    let mut pending = Pending::default();
    let mut offset = 0u64;
    let mut headers = 0usize;
    let has_end_mark = loop {
        let Some(block) = block_at(file, offset, size)? else { break false };
        if is_zero(&block) {
            only_zeros(file, offset, size)?;
            break true;
        }
        headers += 1;
        if headers > MAX_HEADERS {
            return Err(BundleError::TooMany);
        }
        let header =
            RawHeader::read(&block).map_err(|error| BundleError::Header { offset, reason: error.to_string() })?;
        let body = offset + BLOCK as u64;
        if matches!(header.flag, b'x' | b'L') {
            if header.size > MAX_EXTENDED {
                return Err(BundleError::Extended { offset, reason: ExtendedFault::Large });
            }
            let data = content(file, offset, body, header.size, size)?;
            let fault = |reason| BundleError::Extended { offset, reason };
            if header.flag == b'x' {
                pending.take_pax(&data).map_err(fault)?;
            } else {
                pending.take_name(until_nul(&data)).map_err(fault)?;
            }
            pending.offset = Some(offset);
            offset = next(offset, body, header.size, size)?;
            continue;
        }
        // NUL is the oldest spelling of a regular file.
        if !matches!(header.flag, b'0' | 0) {
            return Err(BundleError::NotFile { offset });
        }
        let Pending { name, size: length, .. } = std::mem::take(&mut pending);
        let (name, length) = (name.unwrap_or(header.name), length.unwrap_or(header.size));
        let name = base_name(&name).ok_or(BundleError::Name { offset })?;
        let kind = CompanionKind::ALL.into_iter().find(|kind| name.ends_with(kind.suffix().as_bytes()));
        let after = next(offset, body, length, size)?;
        match kind {
            None if archive.is_some() => return Err(BundleError::Twice(MemberKind::Archive)),
            None => archive = Some((name.to_vec(), Span { offset: body, length })),
            Some(kind) if companions.iter().any(|(known, _)| *known == kind) => {
                return Err(BundleError::Twice(MemberKind::Companion(kind)));
            }
            Some(_) if length > max_companion as u64 => return Err(BundleError::LargeCompanion { offset }),
            Some(kind) => companions.push((kind, content(file, offset, body, length, size)?)),
        }
        offset = after;
    };
    if let Some(offset) = pending.offset {
        return Err(BundleError::Extended { offset, reason: ExtendedFault::Misplaced });
    }
    let (archive_name, archive) = archive.ok_or(BundleError::NoArchive)?;
    Ok(Bundle { archive_name, archive, companions, has_end_mark })
}

/// The block at an offset; `None` at the very end of the file.
fn block_at<R: ReadAt + ?Sized>(file: &R, offset: u64, size: u64) -> Result<Option<[u8; BLOCK]>, BundleError> {
    if offset >= size {
        return Ok(None);
    }
    let mut block = [0; BLOCK];
    let count = file.read_full_at(&mut block, offset).map_err(|error| BundleError::Read(kind_of(&error)))?;
    if count == BLOCK { Ok(Some(block)) } else { Err(BundleError::Truncated { offset }) }
}

/// The content of a small member, whole.
fn content<R: ReadAt + ?Sized>(
    file: &R,
    offset: u64,
    body: u64,
    length: u64,
    size: u64,
) -> Result<Vec<u8>, BundleError> {
    let truncated = BundleError::Truncated { offset };
    if body.checked_add(length).is_none_or(|end| end > size) {
        return Err(truncated);
    }
    let Ok(length) = usize::try_from(length) else { return Err(truncated) };
    let mut data = vec![0; length];
    let count = file.read_full_at(&mut data, body).map_err(|error| BundleError::Read(kind_of(&error)))?;
    if count == length { Ok(data) } else { Err(truncated) }
}

/// Where the next header is: the content's end, rounded up to a block.
fn next(offset: u64, body: u64, length: u64, size: u64) -> Result<u64, BundleError> {
    let end = body.checked_add(length).filter(|end| *end <= size).ok_or(BundleError::Truncated { offset })?;
    end.checked_next_multiple_of(BLOCK as u64).ok_or(BundleError::Truncated { offset })
}

/// Checks that the rest of the file is zeros, and short.
fn only_zeros<R: ReadAt + ?Sized>(file: &R, from: u64, size: u64) -> Result<(), BundleError> {
    if size - from > MAX_PADDING {
        return Err(BundleError::Trailing { offset: from });
    }
    let mut buffer = [0; 8192];
    let mut offset = from;
    loop {
        let count = file.read_full_at(&mut buffer, offset).map_err(|error| BundleError::Read(kind_of(&error)))?;
        match buffer.iter().take(count).position(|byte| *byte != 0) {
            Some(at) => return Err(BundleError::Trailing { offset: offset + at as u64 }),
            None if count < buffer.len() => return Ok(()),
            None => offset += count as u64,
        }
    }
}

/// A system error by kind: this text may cross from the caged child, so it holds nothing of the file.
fn kind_of(error: &io::Error) -> String {
    error.kind().to_string()
}

/// One plain file name, `./` in front dropped.
fn base_name(name: &[u8]) -> Option<&[u8]> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let plain = !name.is_empty()
        && name.len() <= MAX_COMPONENT
        && !matches!(name, b"." | b"..")
        && !name.iter().any(|byte| matches!(byte, 0 | b'/' | b'\\'));
    plain.then_some(name)
}

impl Pending {
    fn take_name(&mut self, name: &[u8]) -> Result<(), ExtendedFault> {
        if self.name.replace(name.to_vec()).is_some() { Err(ExtendedFault::Misplaced) } else { Ok(()) }
    }

    /// Reads PAX records: `LENGTH KEY=VALUE\n`, the length in decimal and of the whole record.
    fn take_pax(&mut self, mut data: &[u8]) -> Result<(), ExtendedFault> {
        while !data.is_empty() {
            let blank = data.iter().position(|byte| *byte == b' ').ok_or(ExtendedFault::Damaged)?;
            let length = decimal(data.get(..blank).unwrap_or_default()).ok_or(ExtendedFault::Damaged)?;
            let length = usize::try_from(length).map_err(|_| ExtendedFault::Damaged)?;
            let record = data.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n"));
            let record = record.ok_or(ExtendedFault::Damaged)?;
            data = data.get(length..).ok_or(ExtendedFault::Damaged)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(ExtendedFault::Damaged)?;
            let (key, value) = record.split_at_checked(equals).ok_or(ExtendedFault::Damaged)?;
            let value = value.get(1..).unwrap_or_default();
            match key {
                b"path" => self.take_name(value)?,
                b"size" => {
                    let size = decimal(value).ok_or(ExtendedFault::Damaged)?;
                    if self.size.replace(size).is_some() {
                        return Err(ExtendedFault::Misplaced);
                    }
                }
                b"mtime" | b"atime" | b"ctime" | b"uid" | b"gid" | b"uname" | b"gname" | b"comment" => {}
                _ => return Err(ExtendedFault::Forbidden),
            }
        }
        Ok(())
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
