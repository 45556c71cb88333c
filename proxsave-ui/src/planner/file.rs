//! Plan files: a plan kept for later, to be submitted exactly as it was shown.
//!
//! The layout: the magic line `PROXSAVE-PLAN 1` and a newline; the length of the header (u32, little endian); the
//! header, JSON, for people and scripts; then, postcard-encoded, the request that made the selection; then the
//! plan in its canonical encoding, to the end of the file. The header's hash of the plan is checked against the
//! plan itself; everything else in the header is for display.

use crate::selection::Request;
use proxsave_proto::plan::MAX_PLAN_BYTES;
use proxsave_proto::{Digest, Roles, ValidPlan};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"PROXSAVE-PLAN 1\n";
const MAX_HEADER: u32 = 1 << 16;
const MAX_BODY: u64 = MAX_PLAN_BYTES + (1 << 24);

/// A plan and what is needed to carry it out.
#[derive(Debug)]
pub struct PlanFile {
    /// The backup it was made from.
    pub backup: PathBuf,
    /// What was asked for; exports are chosen by it again.
    pub request: Request,
    /// The backup's roles at that time.
    pub backup_roles: Roles,
    /// The plan.
    pub plan: ValidPlan,
}

/// Why a plan file cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    /// Reading or writing failed.
    #[error("plan file {}: {why}", proxsave_proto::escape::escape(path.as_os_str().as_bytes()))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// Not one of ours, or damaged.
    #[error("{} is not a usable plan file: {why}", proxsave_proto::escape::escape(path.as_os_str().as_bytes()))]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: String,
    backup: String,
    archive_sha256: Digest,
    plan_hash: Digest,
    entries: u64,
    bytes: u64,
}

/// What stands between header and plan.
#[derive(Serialize, Deserialize)]
struct Origin {
    backup: Vec<u8>,
    request: Request,
    backup_roles: Roles,
}

impl PlanFile {
    /// Writes it to a new file, readable by its owner alone.
    ///
    /// # Errors
    /// When the file exists or cannot be written; then nothing is left of it.
    pub fn write(&self, path: &Path) -> Result<(), PlanFileError> {
        let io = |why| PlanFileError::Io { path: path.to_owned(), why };
        let bytes = self.encode().map_err(|why| PlanFileError::Format { path: path.to_owned(), why })?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(|why| {
            // Half a plan file is worse than none; that it could not be removed says nothing more.
            let _ = std::fs::remove_file(path);
            io(why)
        })
    }

    fn encode(&self) -> Result<Vec<u8>, String> {
        let plan = self.plan.plan();
        let header = Header {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backup: proxsave_proto::escape::escape(self.backup.as_os_str().as_bytes()),
            archive_sha256: plan.archive.sha256,
            plan_hash: self.plan.hash(),
            entries: plan.entries.len() as u64,
            bytes: self.plan.content_len(),
        };
        let header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
        let length = u32::try_from(header.len()).map_err(|_| "the header is too long".to_owned())?;
        let origin = Origin {
            backup: self.backup.clone().into_os_string().into_vec(),
            request: self.request.clone(),
            backup_roles: self.backup_roles,
        };
        let mut bytes = [MAGIC, &length.to_le_bytes(), &header].concat();
        bytes.extend(postcard::to_stdvec(&origin).map_err(|error| error.to_string())?);
        bytes.extend(plan.encode().map_err(|error| error.to_string())?);
        Ok(bytes)
    }

    /// Reads one back. The plan is checked as one from a stranger is.
    ///
    /// # Errors
    /// When it cannot be read, is not a plan file, or does not hash to what its header says.
    pub fn read(path: &Path) -> Result<Self, PlanFileError> {
        let io = |why| PlanFileError::Io { path: path.to_owned(), why };
        let mut bytes = Vec::new();
        File::open(path).map_err(io)?.take(MAX_BODY + 1).read_to_end(&mut bytes).map_err(io)?;
        Self::decode(&bytes).map_err(|why| PlanFileError::Format { path: path.to_owned(), why })
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_BODY {
            return Err("it is larger than any plan".to_owned());
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin as plan files of this version do")?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or("it is cut short")?;
        let length = u32::from_le_bytes(*length);
        if length > MAX_HEADER {
            return Err("its header is too long".to_owned());
        }
        let (header, rest) = rest.split_at_checked(length as usize).ok_or("it is cut short")?;
        let header: Header = serde_json::from_slice(header).map_err(|_| "its header is damaged")?;
        let (origin, plan) = postcard::take_from_bytes::<Origin>(rest).map_err(|_| "it is damaged")?;
        let plan =
            ValidPlan::decode(plan).map_err(|faults| format!("its plan is not valid: {}", super::first(&faults)))?;
        if plan.hash() != header.plan_hash {
            return Err("its plan is not the one that its header names".to_owned());
        }
        let backup = PathBuf::from(std::ffi::OsString::from_vec(origin.backup));
        Ok(Self { backup, request: origin.request, backup_roles: origin.backup_roles, plan })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{Draft, Selection};
    use super::*;
    use crate::selection::available;
    use proxsave_proto::Mode;

    fn sample() -> PlanFile {
        let index = index(vec![file("root/a", b"x")]);
        let request = Request { mode: Mode::Full, categories: vec![], include: vec![], exclude: vec![] };
        let selection = Selection::new(&available(&index), request.clone(), Roles::DUAL, Roles::DUAL).unwrap();
        let draft = Draft::new(&index, &selection, None).unwrap();
        let answers: Vec<_> = draft.questions().map(|item| Some(Host::default().probe(&item.path))).collect();
        let plan = draft.finish(answers, archive()).unwrap().plan.unwrap();
        PlanFile { backup: PathBuf::from("/x/a.tar"), request, backup_roles: Roles::DUAL, plan }
    }

    #[test]
    fn a_plan_file_reads_back_exactly_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan");
        let one = sample();
        one.write(&path).unwrap();
        let two = PlanFile::read(&path).unwrap();
        assert_eq!((one.plan.hash(), one.request, one.backup), (two.plan.hash(), two.request, two.backup));
        assert!(matches!(sample().write(&path), Err(PlanFileError::Io { .. })));
    }

    #[test]
    fn every_flipped_or_missing_byte_is_noticed_or_harmless() {
        let good = sample().encode().unwrap();
        let hash = PlanFile::decode(&good).unwrap().plan.hash();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            if let Ok(read) = PlanFile::decode(&bad) {
                assert_eq!(read.plan.hash(), hash, "byte {at}");
            }
            assert!(PlanFile::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }
}
