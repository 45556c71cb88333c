//! A plan as a sealed memory file.

use proxsave_proto::ValidPlan;
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};

/// Encodes a plan straight into a memory file, so that it is not held a third time, and seals it against every
/// further change.
pub(super) fn sealed(plan: &ValidPlan) -> io::Result<OwnedFd> {
    let file = File::from(rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    let mut writer = BufWriter::with_capacity(64 << 10, &file);
    postcard::to_io(plan.plan(), &mut writer).map_err(io::Error::other)?;
    writer.flush()?;
    drop(writer);
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}
