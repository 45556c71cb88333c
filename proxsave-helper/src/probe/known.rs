//! What this session looked at already, so that a check need not look as closely again.

use proxsave_proto::state::{Present, Target};
use sha2::Digest as _;
use std::collections::HashSet;
use std::io;

/// A change time this many seconds before a look shows every later change, whatever clock the file system uses
/// (the coarsest tick is 10 ms; some file systems keep whole seconds).
pub const SETTLED_SECS: i64 = 2;
/// The most states that are remembered (16 bytes each); what does not fit is looked at again.
const MAX_KNOWN: usize = 2_000_000;

/// Whole states, hashes included, that were seen in this session.
#[derive(Debug)]
pub struct Known {
    /// Random, so that nobody can make up two states that look alike here.
    key: [u8; 32],
    seen: HashSet<[u8; 16]>,
}

impl Known {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn new() -> io::Result<Self> {
        let mut key = [0u8; 32];
        rustix::rand::getrandom(&mut key[..], rustix::rand::GetRandomFlags::empty())?;
        Ok(Self { key, seen: HashSet::new() })
    }

    /// Remembers what a look that began at `looked` (seconds since 1970) found, unless it had changed just before.
    pub fn remember(&mut self, target: &Target, looked: i64) {
        if let Some(present) = target.present()
            && present.ctime.secs < looked.saturating_sub(SETTLED_SECS)
            && self.seen.len() < MAX_KNOWN
            && let Some(token) = self.token(present)
        {
            self.seen.insert(token);
        }
    }

    /// Whether exactly this state was seen. Then what has the same inode and change time has the same attributes
    /// and the same content.
    #[must_use]
    pub fn holds(&self, present: &Present) -> bool {
        self.token(present).is_some_and(|token| self.seen.contains(&token))
    }

    fn token(&self, present: &Present) -> Option<[u8; 16]> {
        let encoded = postcard::to_extend(present, self.key.to_vec()).ok()?;
        let whole: [u8; 32] = sha2::Sha256::digest(&encoded).into();
        whole.first_chunk().copied()
    }
}
