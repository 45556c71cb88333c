//! Hashes over what a file holds: its bytes and its extended attributes. Nothing else of it ever leaves here.

use super::look::HashStep;
use proxsave_proto::Digest;
use proxsave_proto::plan::{MAX_XATTR, Xattr};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use sha2::Digest as _;
use std::io;

/// The longest list of names the kernel gives (`XATTR_LIST_MAX`).
const MAX_XATTR_LIST: usize = 65536;
const CHUNK: usize = 256 << 10;

/// Hash over the attributes that a restore can set, as [`Xattr::digest`] makes it. One value at a time is in
/// memory. `None` when they changed while they were read.
pub(super) fn xattr_digest(fd: BorrowedFd<'_>) -> io::Result<Option<Digest>> {
    let mut names = [0u8; 1024];
    let list = match rustix::fs::flistxattr(fd, &mut names[..]) {
        Ok(length) => names.get(..length).unwrap_or_default().to_vec(),
        Err(Errno::RANGE) => {
            let mut large = vec![0u8; MAX_XATTR_LIST];
            let length = rustix::fs::flistxattr(fd, &mut large[..])?;
            large.truncate(length);
            large
        }
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut names: Vec<&[u8]> = list.split(|b| *b == 0).filter(|name| Xattr::is_restorable(name)).collect();
    names.sort_unstable();
    let mut hash = sha2::Sha256::new();
    let mut value = vec![0u8; if names.is_empty() { 0 } else { MAX_XATTR }];
    for name in names {
        let length = match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(length) => length,
            Err(Errno::NODATA) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        for part in [name, value.get(..length).unwrap_or_default()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Ok(Some(Digest(hash.finalize().into())))
}

/// Hash over the content of a file of `size` bytes. `None` when `step` gave it up, or the size is another.
pub(super) fn hash_content(fd: BorrowedFd<'_>, size: u64, step: HashStep<'_>) -> io::Result<Option<Digest>> {
    let mut hash = sha2::Sha256::new();
    let fits = usize::try_from(size).unwrap_or(CHUNK).saturating_add(1);
    let mut chunk = vec![0u8; fits.min(CHUNK)];
    let mut total = 0u64;
    loop {
        let read = match rustix::io::read(fd, &mut chunk[..]) {
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let bytes = chunk.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Ok((total == size).then(|| Digest(hash.finalize().into())));
        }
        total += bytes.len() as u64;
        if total > size || !step(bytes.len() as u64) {
            return Ok(None);
        }
        hash.update(bytes);
    }
}
