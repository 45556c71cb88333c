//! The three passes over an archive that the child makes.

use super::Codec;
use super::blocks::Blocks;
use super::build::{Builder, Built};
use super::dedup;
use super::error::DecodeError;
use super::index::{BackupInfo, RoleEvidence};
use super::info;
use super::limits::Limits;
use super::opened::{self, Key};
use super::plain::Kept;
use super::protocol::DecodeProgress;
use super::stored::Stored;
use super::tar::{Kind, Member, TarError, Walker};
use super::unpacked::{self, Unpacking};
use crate::archive::codec::{Content, sniff};
use age_core::format::FileKey;
use proxsave_proto::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const BUFFER: usize = 256 << 10;

/// Hears how far a pass is.
pub type Report<'a> = dyn FnMut(DecodeProgress) + 'a;

/// The archive of this child, after a first pass that found everything right.
pub struct Archive {
    file: File,
    offset: u64,
    length: u64,
    limits: Limits,
    sha256: Digest,
    key: Option<FileKey>,
    kept: Option<Kept>,
}

/// What the first pass gives.
pub struct Indexed {
    /// For later passes.
    pub archive: Archive,
    /// Entries and notes.
    pub built: Built,
    /// The compression.
    pub codec: Codec,
    /// Bytes of the tar stream.
    pub plain_bytes: u64,
    /// The host's kind.
    pub roles: RoleEvidence,
    /// What the backup says of itself.
    pub info: BackupInfo,
}

impl Indexed {
    /// Hash of the stored bytes.
    pub fn sha256(&self) -> Digest {
        self.archive.sha256
    }

    /// Whether it is encrypted.
    pub fn encrypted(&self) -> bool {
        self.archive.key.is_some()
    }
}

struct Walked {
    built: Built,
    codec: Codec,
    plain_bytes: u64,
    kept: Option<Kept>,
    info: BackupInfo,
}

/// The first pass.
pub fn index(
    file: File,
    (offset, length): (u64, u64),
    expected: Option<Digest>,
    limits: Limits,
    key: &Key<'_>,
    report: &mut Report<'_>,
) -> Result<Indexed, DecodeError> {
    let again = file.try_clone().map_err(|error| DecodeError::Read(error.to_string()))?;
    let stored = Stored::new(file, offset, length).map_err(|error| DecodeError::Read(error.to_string()))?;
    let consumed = stored.counter();
    let check = |found| match expected {
        Some(expected) if expected != found => Err(DecodeError::WrongHash { expected, found }),
        _ => Ok(()),
    };
    let (walked, source) =
        opened::with_stream(stored, key, check, |blocks| walk(blocks, length, limits, &consumed, report))?;
    let roles = info::roles(&walked.built.entries, &walked.info);
    let archive =
        Archive { file: again, offset, length, limits, sha256: source.sha256, key: source.key, kept: walked.kept };
    Ok(Indexed {
        archive,
        built: walked.built,
        codec: walked.codec,
        plain_bytes: walked.plain_bytes,
        roles,
        info: walked.info,
    })
}

fn walk(
    packed: &mut Blocks,
    length: u64,
    limits: Limits,
    consumed: &Arc<AtomicU64>,
    report: &mut Report<'_>,
) -> Result<Walked, DecodeError> {
    let codec = find_codec(packed)?;
    // What is large as stored is no smaller unpacked: no room is taken for it at all.
    let keep = length <= limits.keep_bytes;
    let how = Unpacking { codec, limits, consumed: Arc::clone(consumed), keep };
    let mut progress = DecodeProgress { stored_total: length, ..DecodeProgress::default() };
    let mut heard = |entries, plain_bytes| {
        progress.stored_bytes = consumed.load(Ordering::Relaxed);
        (progress.entries, progress.plain_bytes) = (entries, plain_bytes);
        report(progress);
    };
    let (walked, kept) = unpacked::with_plain(packed, &how, |plain| walk_plain(plain, &how, length, &mut heard))?;
    Ok(Walked { kept, ..walked })
}

/// Walks the tar stream; `heard` is told of entries and bytes.
fn walk_plain(
    plain: &mut Blocks,
    how: &Unpacking,
    length: u64,
    heard: &mut dyn FnMut(u64, u64),
) -> Result<Walked, DecodeError> {
    let limits = how.limits;
    let mut walker = Walker::new(plain, limits, length);
    let mut entries = 0u64;
    let mut builder = Builder::default();
    let mut info = BackupInfo::default();
    let mut buffer = vec![0; BUFFER];
    while let Some(member) = walker.next_member().map_err(explain)? {
        entries += 1;
        heard(entries, walker.offset());
        let mut capture = capture(&member, &limits)?;
        let mut hash = Sha256::new();
        loop {
            let count = walker.read_content(&mut buffer).map_err(explain)?;
            let part = buffer.get(..count).unwrap_or_default();
            if part.is_empty() {
                break;
            }
            hash.update(part);
            if let Some(capture) = &mut capture {
                capture.extend_from_slice(part);
            }
            heard(entries, walker.offset());
        }
        match capture {
            Some(json) if member.path.as_bytes() == dedup::LIST => builder.set_dedup(dedup::parse(&json)?),
            Some(text) => info = info::parse(&text),
            None => {}
        }
        builder.add(member, Digest(hash.finalize().into()))?;
    }
    if entries == 0 {
        // Zeros alone are a tar, too; but no backup.
        return Err(DecodeError::Format { name: None, offset: 0, why: "it holds nothing".to_owned() });
    }
    Ok(Walked { built: builder.finish()?, codec: how.codec, plain_bytes: walker.offset(), kept: None, info })
}

/// Room for the content of the two files that are read for themselves.
fn capture(member: &Member, limits: &Limits) -> Result<Option<Vec<u8>>, DecodeError> {
    if !matches!(member.kind, Kind::File { .. }) {
        return Ok(None);
    }
    match member.path.as_bytes() {
        dedup::LIST if member.size > u64::from(limits.dedup_bytes) => Err(DecodeError::Limit {
            what: "bytes in its list of deduplicated files".to_owned(),
            limit: limits.dedup_bytes.into(),
            option: "--limit-dedup".to_owned(),
        }),
        dedup::LIST => Ok(Some(Vec::new())),
        info::FILE if member.size <= info::MAX => Ok(Some(Vec::new())),
        _ => Ok(None),
    }
}

fn find_codec(blocks: &mut Blocks) -> Result<Codec, DecodeError> {
    let first = blocks.fill_buf().map_err(|error| DecodeError::Read(error.to_string()))?;
    match sniff(first) {
        Content::Packed(codec) => Ok(codec),
        content => Err(DecodeError::Compression {
            codec: "archive's".to_owned(),
            why: format!("its content is no tar in any known compression, but {content}"),
        }),
    }
}

fn explain(error: TarError) -> DecodeError {
    match error {
        TarError::Format { name, offset, why } => DecodeError::Format { name, offset, why },
        TarError::Limit { what, limit, option } => {
            DecodeError::Limit { what: what.to_owned(), limit, option: option.to_owned() }
        }
        // The thread that decompresses knows why.
        TarError::Io(error) => DecodeError::Read(error.to_string()),
    }
}

impl Archive {
    /// Writes the contents with the given ordinals (sorted, each with its record's number) as records of the content
    /// stream. Gives the bytes of content written.
    pub fn extract(
        &self,
        wanted: &[(u32, u32)],
        out: &mut impl Write,
        report: &mut Report<'_>,
    ) -> Result<u64, DecodeError> {
        let stored_total = self.length;
        if let Some(kept) = &self.kept {
            let mut heard = |progress| report(DecodeProgress { stored_total, stored_bytes: stored_total, ..progress });
            return copy_wanted(kept.reader(), self, wanted, out, &mut heard);
        }
        self.again(|packed, consumed| {
            let codec = find_codec(packed)?;
            let how = Unpacking { codec, limits: self.limits, consumed: Arc::clone(consumed), keep: false };
            let mut heard = |progress| {
                let stored_bytes = consumed.load(Ordering::Relaxed);
                report(DecodeProgress { stored_total, stored_bytes, ..progress });
            };
            let copied = unpacked::with_plain(packed, &how, |plain| copy_wanted(plain, self, wanted, out, &mut heard))?;
            Ok(copied.0)
        })
    }

    /// Writes the compressed stream as it is below the encryption; gives its hash and size.
    pub fn decrypt(&self, out: &mut impl Write, report: &mut Report<'_>) -> Result<(Digest, u64), DecodeError> {
        self.again(|blocks, consumed| {
            let mut progress = DecodeProgress { stored_total: self.length, ..Default::default() };
            let mut hash = Sha256::new();
            loop {
                let part = blocks.fill_buf().map_err(|error| DecodeError::Read(error.to_string()))?;
                if part.is_empty() {
                    return Ok((Digest(hash.finalize().into()), progress.content_bytes));
                }
                hash.update(part);
                out.write_all(part).map_err(|error| DecodeError::Write(error.to_string()))?;
                let count = part.len();
                blocks.consume(count);
                progress.content_bytes += count as u64;
                progress.stored_bytes = consumed.load(Ordering::Relaxed);
                report(progress);
            }
        })
    }

    /// Reads the archive once more; it must be the same.
    fn again<T>(
        &self,
        job: impl FnOnce(&mut Blocks, &Arc<AtomicU64>) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let read = |error: std::io::Error| DecodeError::Read(error.to_string());
        let file = self.file.try_clone().map_err(read)?;
        let stored = Stored::new(file, self.offset, self.length).map_err(read)?;
        let consumed = stored.counter();
        let key = self.key.as_ref().map_or(Key::None, Key::Known);
        let first = self.sha256;
        let check = |second| if first == second { Ok(()) } else { Err(DecodeError::Changed { first, second }) };
        opened::with_stream(stored, &key, check, |blocks| job(blocks, &consumed)).map(|(value, _)| value)
    }
}

fn copy_wanted(
    plain: impl Read,
    archive: &Archive,
    wanted: &[(u32, u32)],
    out: &mut impl Write,
    report: &mut Report<'_>,
) -> Result<u64, DecodeError> {
    let limits = archive.limits;
    let mut walker = Walker::new(plain, limits, archive.length);
    let write = |error: std::io::Error| DecodeError::Write(error.to_string());
    let mut buffer = vec![0; BUFFER];
    let mut progress = DecodeProgress::default();
    let mut wanted = wanted.iter().peekable();
    while let Some(member) = walker.next_member().map_err(explain)? {
        progress.entries += 1;
        let Some((_, record)) = wanted.next_if(|(ordinal, _)| *ordinal == member.ordinal) else { continue };
        if !matches!(member.kind, Kind::File { .. }) {
            return Err(DecodeError::NoSuchContent(member.ordinal));
        }
        out.write_all(&record.to_le_bytes()).map_err(write)?;
        loop {
            let count = walker.read_content(&mut buffer).map_err(explain)?;
            let part = buffer.get(..count).unwrap_or_default();
            if part.is_empty() {
                break;
            }
            out.write_all(part).map_err(write)?;
            progress.content_bytes += count as u64;
            progress.plain_bytes = walker.offset();
            report(progress);
        }
    }
    if let Some((missing, _)) = wanted.next() {
        return Err(DecodeError::NoSuchContent(*missing));
    }
    out.flush().map_err(write)?;
    Ok(progress.content_bytes)
}
