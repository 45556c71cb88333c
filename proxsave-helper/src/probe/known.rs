//! What this session hashed already, so that a check need not hash it again.

use proxsave_proto::Digest;
use proxsave_proto::digest::Timestamp;
use proxsave_proto::state::{Present, Target};
use sha2::Digest as _;
use std::collections::HashSet;
use std::io;

/// A change time this many seconds before a look shows every later change, whatever clock the file system uses
/// (the coarsest tick is 10 ms; some file systems keep whole seconds).
pub const SETTLED_SECS: i64 = 2;
/// The most files that are remembered (16 bytes each); what does not fit is hashed again.
const MAX_KNOWN: usize = 2_000_000;

/// Pairs of a file's state and the hash of its content that were seen in this session.
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

    /// Remembers what a look that began at `looked` (seconds since 1970) found, if it hashed something and the
    /// file had not changed just before.
    pub fn remember(&mut self, target: &Target, looked: i64) {
        if let Some(present) = target.present()
            && let Some(sha256) = present.sha256
            && present.ctime.secs < looked.saturating_sub(SETTLED_SECS)
            && self.seen.len() < MAX_KNOWN
        {
            self.seen.insert(self.token(present, sha256));
        }
    }

    /// Whether a file in exactly this state was seen to have content of this hash.
    #[must_use]
    pub fn holds(&self, present: &Present, sha256: Digest) -> bool {
        self.seen.contains(&self.token(present, sha256))
    }

    fn token(&self, present: &Present, sha256: Digest) -> [u8; 16] {
        let time = |time: Timestamp| [time.secs.to_le_bytes(), u64::from(time.nanos).to_le_bytes()].concat();
        let mut hash = sha2::Sha256::new();
        hash.update(self.key);
        for number in [present.dev, present.ino, present.size] {
            hash.update(number.to_le_bytes());
        }
        hash.update(time(present.mtime));
        hash.update(time(present.ctime));
        hash.update(sha256.0);
        let whole: [u8; 32] = hash.finalize().into();
        let (half, _) = whole.split_at(16);
        half.try_into().unwrap_or_default()
    }
}
