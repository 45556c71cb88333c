//! From a stream of blocks to effective entries and their contents.

use super::member::{Attributes, Kind, Member};
use super::pax::{Pax, check_global};
use super::sparse::{MapLines, SparseForm, SparseMap};
use super::{Broken, TarError};
use crate::archive::tar_header::{BLOCK, RawHeader, is_extension};
use crate::decoder::limits::Limits;
use proxsave_proto::RelPath;
use proxsave_proto::plan::MAX_LINK;
use std::io::{self, Read};

/// Zeros that may follow the end marker: the largest record size in use, generously.
const MAX_TAIL: u64 = 1 << 20;

/// Walks a tar stream.
pub struct Walker<R> {
    input: R,
    limits: Limits,
    /// Most bytes of content that the stored size can stand for.
    ratio_bytes: u64,
    offset: u64,
    headers: u32,
    ordinal: u32,
    content: u64,
    body: Body,
    name: Option<Vec<u8>>,
    scratch: Box<[u8]>,
}

/// What is left of the current entry's body.
#[derive(Default)]
struct Body {
    stored: u64,
    padding: u64,
    position: u64,
    map: Option<SparseMap>,
}

/// Extension headers that wait for their entry.
#[derive(Default)]
struct Pending {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.name.is_none() && self.link.is_none()
    }
}

impl<R: Read> Walker<R> {
    /// Starts at the first block. `stored_bytes` is the archive's size as stored, for the ratio.
    pub fn new(input: R, limits: Limits, stored_bytes: u64) -> Self {
        Self {
            input,
            limits,
            ratio_bytes: limits.ratio_bytes(stored_bytes),
            offset: 0,
            headers: 0,
            ordinal: 0,
            content: 0,
            body: Body::default(),
            name: None,
            scratch: vec![0; 64 << 10].into(),
        }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry; what is left of the current one's body is passed over. `None` after the end marker, when
    /// the whole stream has been read.
    ///
    /// # Errors
    /// See [`TarError`]. The walker must not be used afterwards.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut pending = Pending::default();
        loop {
            self.finish_body()?;
            self.name = None;
            let at = self.offset;
            let block = self.block("the end marker is missing: the archive is incomplete")?;
            if block.iter().all(|byte| *byte == 0) {
                if !pending.is_empty() {
                    return Err(self.broken(at, "an extension header without an entry"));
                }
                self.finish_archive(at)?;
                return Ok(None);
            }
            self.headers = self.headers.saturating_add(1);
            // Each entry may come with three extension headers.
            if u64::from(self.headers) > u64::from(self.limits.entries) * 4 {
                return Err(too_many_entries(&self.limits));
            }
            let raw = RawHeader::read(&block).map_err(|why| self.broken(at, why.to_string()))?;
            if self.extension(&raw, &mut pending, at)? {
                continue;
            }
            if let Some(member) = self.member(raw, pending, at)? {
                return Ok(Some(member));
            }
            pending = Pending::default();
        }
    }

    /// Reads from the current entry's content, holes as zeros. 0 means its end.
    ///
    /// # Errors
    /// See [`TarError`].
    pub fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let wanted = buffer.len() as u64;
        let Some(map) = &mut self.body.map else {
            let count = wanted.min(self.body.stored);
            return self.read_stored(buffer, count);
        };
        let position = self.body.position;
        let (hole_end, data) = match map.regions.front() {
            Some((offset, length)) => (*offset, *length),
            None => (map.size, 0),
        };
        if position < hole_end {
            let count = wanted.min(hole_end - position);
            if let Some(hole) = usize::try_from(count).ok().and_then(|count| buffer.get_mut(..count)) {
                hole.fill(0);
                self.body.position += count;
                return Ok(hole.len());
            }
        }
        let count = self.read_stored(buffer, wanted.min(data))?;
        if let Some(map) = &mut self.body.map
            && let Some(front) = map.regions.front_mut()
        {
            front.0 += count as u64;
            front.1 -= count as u64;
            if front.1 == 0 {
                map.regions.pop_front();
            }
        }
        Ok(count)
    }

    fn read_stored(&mut self, buffer: &mut [u8], count: u64) -> Result<usize, TarError> {
        let Some(part) = usize::try_from(count).ok().and_then(|count| buffer.get_mut(..count)) else { return Ok(0) };
        if part.is_empty() {
            return Ok(0);
        }
        let got = read_some(&mut self.input, part)?;
        if got == 0 {
            return Err(self.broken(self.offset, "the archive is cut short inside this entry"));
        }
        self.offset += got as u64;
        self.body.stored -= got as u64;
        self.body.position += got as u64;
        Ok(got)
    }

    /// Passes over what is left of the body and its padding.
    fn finish_body(&mut self) -> Result<(), TarError> {
        let mut left = self.body.stored.saturating_add(self.body.padding);
        let mut scratch = std::mem::take(&mut self.scratch);
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(scratch.len());
            let got = read_some(&mut self.input, scratch.get_mut(..part).unwrap_or_default())?;
            if got == 0 {
                return Err(self.broken(self.offset, "the archive is cut short inside this entry"));
            }
            self.offset += got as u64;
            left -= got as u64;
        }
        self.scratch = scratch;
        self.body = Body::default();
        Ok(())
    }

    fn block(&mut self, missing: &str) -> Result<[u8; BLOCK], TarError> {
        let mut block = [0; BLOCK];
        let mut done = 0;
        while let Some(rest) = block.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match read_some(&mut self.input, rest)? {
                0 => return Err(self.broken(self.offset, missing)),
                got => done += got,
            }
        }
        self.offset += BLOCK as u64;
        Ok(block)
    }

    /// After the first zero block: one more, and then only zeros to the end of the stream.
    fn finish_archive(&mut self, at: u64) -> Result<(), TarError> {
        let second = self.block("the end marker is cut short: the archive is incomplete")?;
        if second.iter().any(|byte| *byte != 0) {
            return Err(self.broken(at, "a single zero block in the middle, which programs read differently"));
        }
        let mut tail = 0u64;
        loop {
            let mut scratch = std::mem::take(&mut self.scratch);
            let got = read_some(&mut self.input, &mut scratch)?;
            let zeros = scratch.get(..got).is_some_and(|part| part.iter().all(|byte| *byte == 0));
            self.scratch = scratch;
            tail += got as u64;
            if got == 0 {
                return Ok(());
            }
            if !zeros || tail > MAX_TAIL {
                return Err(self.broken(self.offset, "there is data behind the end marker"));
            }
            self.offset += got as u64;
        }
    }

    /// Takes a header that only says something about the next one. `false` when it is an entry.
    fn extension(&mut self, raw: &RawHeader, pending: &mut Pending, at: u64) -> Result<bool, TarError> {
        if !is_extension(raw.flag) {
            return Ok(false);
        }
        let body = self.extension_body(raw.size)?;
        let taken = match raw.flag {
            b'x' if pending.pax.is_some() => Err("two PAX headers for one entry".into()),
            b'x' => Pax::read(&body).map(|pax| pending.pax = Some(pax)),
            b'g' if !pending.is_empty() => Err("a global header between an extension header and its entry".into()),
            b'g' => check_global(&body),
            flag => {
                let slot = if flag == b'L' { &mut pending.name } else { &mut pending.link };
                let text = body.strip_suffix(&[0]).unwrap_or(&body);
                if text.contains(&0) || text.is_empty() {
                    Err("a GNU long name that is empty or holds a NUL byte".into())
                } else if slot.replace(text.to_vec()).is_some() {
                    Err("two GNU long names for one entry".into())
                } else {
                    Ok(())
                }
            }
        };
        taken.map_err(|why: Broken| self.broken(at, why))?;
        Ok(true)
    }

    fn extension_body(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > u64::from(self.limits.header_bytes) {
            return Err(TarError::Limit {
                what: "bytes in one extension header",
                limit: self.limits.header_bytes.into(),
                option: "--limit-header",
            });
        }
        self.body = Body { stored: size, padding: padding(size), ..Body::default() };
        let mut body = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut done = 0;
        while done < body.len() {
            let (_, rest) = body.split_at_mut(done);
            done += self.read_content(rest)?;
        }
        Ok(body)
    }

    /// Makes one entry of a header and what stands in front of it. `None` for the root itself.
    fn member(&mut self, raw: RawHeader, pending: Pending, at: u64) -> Result<Option<Member>, TarError> {
        let has_pax = pending.pax.is_some();
        let mut pax = pending.pax.unwrap_or_default();
        let name = effective_name(&raw, &pax, pending.name).map_err(|why| self.broken(at, why))?;
        self.name = Some(name.clone());
        if has_pax && pending.link.is_some() {
            return Err(self.broken(at, "it has both PAX and GNU extended names"));
        }
        if self.ordinal >= self.limits.entries {
            return Err(too_many_entries(&self.limits));
        }
        let link = pax.link.take().or(pending.link).unwrap_or_else(|| raw.link.clone());
        let path_limit = self.limits.path_bytes as usize;
        if name.len() > path_limit || link.len() > path_limit.min(MAX_LINK) {
            return Err(TarError::Limit {
                what: "bytes in one name",
                limit: self.limits.path_bytes.into(),
                option: "--limit-path",
            });
        }
        let (kind, size, special) = self.kind(&raw, &pax, link).map_err(|why| self.broken(at, why))?;
        let path = RelPath::from_archive(&name).map_err(|why| self.broken(at, why.to_string()))?;
        let is_dir = kind == Kind::Dir;
        if !is_dir && (name.ends_with(b"/") || name.ends_with(b"/.") || path.is_root()) {
            return Err(self.broken(at, "a file or link is named like a directory"));
        }
        let size = match kind {
            Kind::File { .. } => self.open_body(&pax, size, at)?,
            _ => 0,
        };
        if path.is_root() {
            return Ok(None);
        }
        self.count_content(size)?;
        let attributes = Attributes {
            mode: if matches!(kind, Kind::Symlink(_)) { 0o777 } else { raw.mode },
            uid: self.id(pax.uid.unwrap_or(raw.uid), "owner", at)?,
            gid: self.id(pax.gid.unwrap_or(raw.gid), "group", at)?,
            mtime: pax.mtime.unwrap_or(raw.mtime),
            xattrs: std::mem::take(&mut pax.xattrs),
        };
        let mut member = Member {
            ordinal: self.ordinal,
            name,
            path,
            kind,
            size,
            attributes,
            left_out: pax.left_out,
            refused: special.or(pax.refused),
        };
        member.leave_out_impossible();
        self.ordinal += 1;
        Ok(Some(member))
    }

    /// The kind, the body's size, and why the kind is refused.
    fn kind(&self, raw: &RawHeader, pax: &Pax, link: Vec<u8>) -> Result<(Kind, u64, Option<String>), Broken> {
        let size = match pax.size {
            Some(size) if size != raw.size && !(raw.size == 0 && size > 0o77_777_777_777) => {
                return Err("its PAX size is not its header's size".into());
            }
            Some(size) => size,
            None => raw.size,
        };
        let (kind, special) = match raw.flag {
            b'0' | 0 => (Kind::File { sparse: pax.sparse.is_any() }, None),
            b'5' => (Kind::Dir, None),
            b'2' if link.is_empty() => return Err("a symbolic link to nothing".into()),
            b'2' => (Kind::Symlink(link), None),
            b'1' => {
                let to = RelPath::from_archive(&link).map_err(|why| format!("a hard link's target: {why}"))?;
                (Kind::Hardlink(to), None)
            }
            b'3' | b'4' => (Kind::Special, Some("it is a device, which a restore never makes".to_owned())),
            b'6' => (Kind::Special, Some("it is a FIFO, which a restore never makes".to_owned())),
            flag => return Err(format!("it is of type '{}', which is not restored", flag.escape_ascii()).into()),
        };
        if !matches!(kind, Kind::File { .. }) && (size != 0 || pax.sparse.is_any()) {
            return Err("it has a body, which its type cannot have".into());
        }
        Ok((kind, size, special))
    }

    /// Begins a file's body. The size with holes.
    fn open_body(&mut self, pax: &Pax, stored: u64, at: u64) -> Result<u64, TarError> {
        self.check_total(stored)?;
        self.body = Body { stored, padding: padding(stored), ..Body::default() };
        if !pax.sparse.is_any() {
            return Ok(stored);
        }
        let map = match SparseForm::read(&pax.sparse, stored).map_err(|why| self.broken(at, why))? {
            SparseForm::Ready(map) => map,
            SparseForm::InBody(size) => {
                let numbers = self.map_in_body(at)?;
                SparseMap::new(size, &numbers, self.body.stored).map_err(|why| self.broken(at, why))?
            }
        };
        let size = map.size;
        self.body.position = 0;
        self.body.map = Some(map);
        Ok(size)
    }

    /// Reads a map that stands in front of the data, padded to whole blocks.
    fn map_in_body(&mut self, at: u64) -> Result<Vec<u64>, TarError> {
        let mut lines = MapLines::default();
        let mut read = 0u64;
        loop {
            if self.body.stored < BLOCK as u64 {
                return Err(self.broken(at, "its sparse map does not end"));
            }
            let mut block = [0; BLOCK];
            let mut done = 0;
            while let Some(rest) = block.get_mut(done..).filter(|rest| !rest.is_empty()) {
                done += self.read_content(rest)?;
            }
            read += BLOCK as u64;
            if read > u64::from(self.limits.header_bytes) {
                return Err(TarError::Limit {
                    what: "bytes in one sparse map",
                    limit: self.limits.header_bytes.into(),
                    option: "--limit-header",
                });
            }
            for byte in block {
                if lines.push(byte).map_err(|why| self.broken(at, why))? {
                    return Ok(lines.numbers().to_vec());
                }
            }
        }
    }

    fn id(&self, value: u64, what: &str, at: u64) -> Result<u32, TarError> {
        u32::try_from(value)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| self.broken(at, format!("its {what} {value} is not a possible id")))
    }

    fn count_content(&mut self, size: u64) -> Result<(), TarError> {
        self.check_total(size)?;
        self.content += size;
        Ok(())
    }

    /// Whether `more` bytes of content are within bounds, before any of them is read.
    fn check_total(&self, more: u64) -> Result<(), TarError> {
        let total = self.content.saturating_add(more);
        if total > self.limits.plain_bytes {
            return Err(TarError::Limit {
                what: "bytes of content",
                limit: self.limits.plain_bytes,
                option: "--limit-total",
            });
        }
        if total > self.ratio_bytes {
            return Err(TarError::Limit {
                what: "decompressed bytes for each stored byte",
                limit: self.limits.ratio.into(),
                option: "--limit-ratio",
            });
        }
        Ok(())
    }

    fn broken(&self, offset: u64, why: impl Into<Broken>) -> TarError {
        TarError::Format { name: self.name.clone(), offset, why: why.into().0 }
    }
}

/// The one name of an entry.
fn effective_name(raw: &RawHeader, pax: &Pax, long: Option<Vec<u8>>) -> Result<Vec<u8>, Broken> {
    match (&pax.path, &pax.sparse.name, long) {
        (None, None, None) => Ok(raw.name.clone()),
        (Some(path), None, None) => Ok(path.clone()),
        (None, Some(real), None) => Ok(real.clone()),
        // GNU tar gives the real name twice when it is long.
        (Some(path), Some(real), None) if path == real => Ok(real.clone()),
        (None, None, Some(long)) if *pax == Pax::default() => Ok(long),
        _ => Err("it has two extended names".into()),
    }
}

fn too_many_entries(limits: &Limits) -> TarError {
    TarError::Limit { what: "entries", limit: limits.entries.into(), option: "--limit-entries" }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
