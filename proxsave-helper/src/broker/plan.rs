//! Taking a plan: from a sealed memory file to a [`ValidPlan`].

use crate::sys;
use proxsave_proto::ValidPlan;
use proxsave_proto::message::{Refusal, Submission, Why};
use proxsave_proto::plan::MAX_PLAN_BYTES;
use proxsave_proto::rpc::Fd;

/// Bytes asked for at once.
const CHUNK: usize = 1 << 20;

fn whole(why: Why) -> Vec<Refusal> {
    vec![Refusal { path: None, why }]
}

/// Copies the plan out of its memory file, once, and checks all that needs neither policy nor the live tree: it is
/// sealed, of this session, what the operator was shown, and a valid plan.
///
/// # Errors
/// Every reason found.
pub(super) fn take(submission: &Submission, plan: Fd, nonce: Option<[u8; 16]>) -> Result<ValidPlan, Vec<Refusal>> {
    if nonce != Some(submission.nonce) {
        return Err(whole(Why::Nonce));
    }
    let bytes = copy(&plan).ok_or_else(|| whole(Why::NotSealed))?;
    drop(plan);
    let valid = ValidPlan::decode(&bytes).map_err(|faults| {
        faults.into_iter().map(|fault| Refusal { path: fault.path.clone(), why: Why::Fault(fault) }).collect::<Vec<_>>()
    })?;
    if valid.hash() != submission.plan_hash {
        return Err(whole(Why::Hash));
    }
    Ok(valid)
}

/// The bytes of a memory file that nobody can change any more. `None` when it is not such a file, or too large.
fn copy(plan: &Fd) -> Option<Vec<u8>> {
    if !sys::is_sealed(plan).ok()? {
        return None;
    }
    let size = u64::try_from(rustix::fs::fstat(plan).ok()?.st_size).ok()?;
    if size > MAX_PLAN_BYTES {
        return None;
    }
    let size = usize::try_from(size).ok()?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).ok()?;
    while bytes.len() < size {
        let at = bytes.len();
        bytes.resize(size.min(at + CHUNK), 0);
        let got = rustix::io::pread(plan, bytes.get_mut(at..)?, at as u64).ok().filter(|got| *got > 0)?;
        bytes.truncate(at + got);
    }
    Some(bytes)
}

/// Keeps of a list what fits an answer, with a word about the rest.
pub(super) fn fitting(mut reasons: Vec<Refusal>, limit: usize) -> Vec<Refusal> {
    let mut size = 0;
    let fits = reasons.iter().take_while(|reason| {
        size += postcard::experimental::serialized_size(*reason).unwrap_or(limit);
        size <= limit
    });
    let keep = fits.count();
    if keep < reasons.len() {
        let why =
            Why::Unsupported(format!("{} more reasons do not fit here; the audit log has them", reasons.len() - keep));
        reasons.truncate(keep);
        reasons.push(Refusal { path: None, why });
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxsave_proto::Digest;
    use rustix::fs::{MemfdFlags, SealFlags};

    fn memory(bytes: &[u8], seals: SealFlags) -> Fd {
        let file = rustix::fs::memfd_create("plan", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        rustix::io::pwrite(&file, bytes, 0).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    const ALL: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

    #[test]
    fn only_a_sealed_valid_plan_of_this_session_is_taken() {
        let submission = Submission { nonce: [1; 16], plan_hash: Digest::of(b"x"), dry_run: false };
        let why = |plan: Fd, nonce| take(&submission, plan, nonce).unwrap_err()[0].why.clone();
        assert_eq!(why(memory(b"", ALL), None), Why::Nonce);
        assert_eq!(why(memory(b"", ALL), Some([2; 16])), Why::Nonce);
        assert_eq!(why(memory(b"", SealFlags::WRITE), Some([1; 16])), Why::NotSealed);
        assert_eq!(why(rustix::pipe::pipe().unwrap().0.into(), Some([1; 16])), Why::NotSealed);
        assert!(matches!(why(memory(b"no plan", ALL), Some([1; 16])), Why::Fault(_)));
    }

    #[test]
    fn long_lists_are_cut_to_fit_and_say_so() {
        let reasons = vec![Refusal { path: None, why: Why::Unsupported("x".repeat(96)) }; 100];
        assert_eq!(fitting(reasons.clone(), 1 << 20).len(), 100);
        let cut = fitting(reasons, 1000);
        assert!(cut.len() < 12);
        assert!(cut.last().unwrap().to_string().contains("more reasons"));
    }
}
