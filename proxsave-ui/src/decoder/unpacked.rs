//! From the compressed stream to the tar stream: decompressing in one thread, the rest in the caller's, so that
//! what comes out is hashed or written while the next block is made.

use super::Codec;
use super::blocks::{self, Blocks, Filler};
use super::codec;
use super::error::DecodeError;
use super::limits::Limits;
use super::plain::{self, Kept, Plain};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Stack of the thread that decompresses.
const STACK: usize = 512 << 10;

/// How to decompress a stream.
#[derive(Clone)]
pub struct Unpacking {
    /// The compression.
    pub codec: Codec,
    /// The bounds.
    pub limits: Limits,
    /// Counts stored bytes, for the ratio.
    pub consumed: Arc<AtomicU64>,
    /// Whether a small stream is kept.
    pub keep: bool,
}

/// Runs `job` on what `packed` decompresses to. Gives the whole stream, too, if it was small enough to be kept.
///
/// # Errors
/// What stopped the decompression, if that is what stopped `job`; else what `job` says.
pub fn with_plain<T>(
    packed: &mut Blocks,
    how: &Unpacking,
    job: impl FnOnce(&mut Blocks) -> Result<T, DecodeError>,
) -> Result<(T, Option<Kept>), DecodeError> {
    let (filler, mut blocks) = blocks::pair();
    let (result, stopped_early, unpacked) = std::thread::scope(|scope| {
        let unpacking = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, move || unpack(packed, how, filler))
            .map_err(|error| DecodeError::Sandbox(format!("no thread can be started: {error}")))?;
        let result = job(&mut blocks);
        let stopped_early = blocks.stopped_early();
        drop(blocks);
        let unpacked = unpacking.join().unwrap_or_else(|_| Err(io::Error::other("it failed unexpectedly")));
        Ok::<_, DecodeError>((result, stopped_early, unpacked))
    })?;
    match (result, unpacked) {
        (Ok(value), Ok(kept)) => Ok((value, kept)),
        (Err(_), Err(error)) if stopped_early => Err(explain(how, &error)),
        (Ok(_), Err(error)) => Err(explain(how, &error)),
        (Err(error), _) => Err(error),
    }
}

fn unpack(packed: &mut Blocks, how: &Unpacking, filler: Filler) -> io::Result<Option<Kept>> {
    let decoder = codec::open(how.codec, packed, &how.limits)?;
    let mut plain = Plain::new(decoder, how.limits, Arc::clone(&how.consumed), how.keep);
    filler.fill_from(&mut plain)?;
    Ok(plain.into_kept())
}

fn explain(how: &Unpacking, error: &io::Error) -> DecodeError {
    if let Some(passed) = plain::passed(error) {
        return passed;
    }
    if codec::is_memory_limit(error) {
        return DecodeError::Limit {
            what: format!("bytes of memory needed for its {} compression", how.codec.key()),
            limit: how.limits.window_bytes,
            option: "--limit-window".to_owned(),
        };
    }
    DecodeError::Compression { codec: how.codec.key().to_owned(), why: error.to_string() }
}
