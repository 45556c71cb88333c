//! From stored bytes to the compressed stream: decrypting and hashing in one thread, the rest in the caller's.

use super::blocks::{self, Blocks, Filler};
use super::error::DecodeError;
use super::stored::Stored;
use age::secrecy::ExposeSecret;
use age_core::format::{FileKey, Stanza};
use proxsave_proto::Digest;
use std::io::{self, BufRead};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// The age header must end within so many bytes (about two hundred recipients).
const MAX_HEADER: usize = 64 << 10;
const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// Stack of the thread that decrypts.
const STACK: usize = 512 << 10;

/// Gets a file key for the stanzas of a header, from whoever holds the identities.
pub type Unwrap<'a> = dyn Fn(&[Stanza]) -> Result<FileKey, DecodeError> + Sync + 'a;

/// How to open the encryption.
pub enum Key<'a> {
    /// No identity is there.
    None,
    /// Ask.
    Ask(&'a Unwrap<'a>),
    /// The key of an earlier pass.
    Known(&'a FileKey),
}

/// What reading the stored bytes showed.
pub struct Source {
    /// Hash of all of them.
    pub sha256: Digest,
    /// The file key, when it is encrypted.
    pub key: Option<FileKey>,
}

/// Runs `job` on the compressed stream, while another thread reads, hashes and decrypts. Succeeds only when the whole
/// archive was read without an error, `job` succeeded, and the hash is what `check` accepts.
///
/// # Errors
/// Of several reasons the one that explains most: a wrong hash before damage that it explains.
pub fn with_stream<T>(
    stored: Stored,
    key: &Key<'_>,
    check: impl FnOnce(Digest) -> Result<(), DecodeError>,
    job: impl FnOnce(&mut Blocks) -> Result<T, DecodeError>,
) -> Result<(T, Source), DecodeError> {
    let (filler, mut blocks) = blocks::pair();
    let hash_is_moot = AtomicBool::new(false);
    let (result, source) = std::thread::scope(|scope| {
        let moot = &hash_is_moot;
        let reading = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, move || read_source(stored, key, filler, moot))
            .map_err(|error| DecodeError::Sandbox(format!("no thread can be started: {error}")))?;
        let result = job(&mut blocks).and_then(|value| nothing_left(&mut blocks).map(|()| value));
        if result.as_ref().is_err_and(|error| !is_damage(error)) {
            hash_is_moot.store(true, Ordering::Relaxed);
        }
        drop(blocks);
        let source =
            reading.join().map_err(|_| DecodeError::Encryption("reading it failed unexpectedly".to_owned()))?;
        Ok((result, source))
    })?;
    let Reading { outcome, sha256 } = source;
    match (sha256, result) {
        // The reader stopped for a reason of its own, before the hash was known.
        (None, Err(error)) => Err(if is_damage(&error) { outcome.err().unwrap_or(error) } else { error }),
        (None, Ok(_)) => {
            Err(outcome.err().unwrap_or_else(|| DecodeError::Read("it was not read to its end".to_owned())))
        }
        (Some(sha256), result) => {
            check(sha256)?;
            let key = outcome?;
            Ok((result?, Source { sha256, key }))
        }
    }
}

/// Whether an error can be the consequence of wrong bytes, which the hash would explain better.
fn is_damage(error: &DecodeError) -> bool {
    matches!(
        error,
        DecodeError::Compression { .. }
            | DecodeError::Format { .. }
            | DecodeError::Encryption(_)
            | DecodeError::Read(_)
    )
}

fn nothing_left(blocks: &mut Blocks) -> Result<(), DecodeError> {
    match blocks.fill_buf() {
        Ok([]) => Ok(()),
        Ok(_) => Err(DecodeError::Compression {
            codec: "archive's".to_owned(),
            why: "there is data behind its end".to_owned(),
        }),
        Err(error) => Err(DecodeError::Read(error.to_string())),
    }
}

struct Reading {
    outcome: Result<Option<FileKey>, DecodeError>,
    sha256: Option<Digest>,
}

fn read_source(mut stored: Stored, key: &Key<'_>, filler: Filler, moot: &AtomicBool) -> Reading {
    let outcome = pump(&mut stored, key, &filler);
    drop(filler);
    let wants_hash = outcome.as_ref().err().is_none_or(is_damage) && !moot.load(Ordering::Relaxed);
    if !wants_hash {
        return Reading { outcome, sha256: None };
    }
    match stored.finish() {
        Ok(sha256) => Reading { outcome, sha256: Some(sha256) },
        Err(error) => Reading { outcome: Err(DecodeError::Read(error.to_string())), sha256: None },
    }
}

/// Moves the compressed stream into blocks. Gives the file key if there is one.
fn pump(stored: &mut Stored, key: &Key<'_>, filler: &Filler) -> Result<Option<FileKey>, DecodeError> {
    let read = |error: io::Error| DecodeError::Read(error.to_string());
    let first = stored.fill_buf().map_err(read)?;
    if first.is_empty() {
        return Err(DecodeError::Read("it is empty".to_owned()));
    }
    if !first.starts_with(MAGIC) {
        filler.fill_from(stored).map_err(read)?;
        return Ok(None);
    }
    let header = first.get(..MAX_HEADER).unwrap_or(first);
    if !header.windows(5).any(|part| part == b"\n--- ") {
        return Err(DecodeError::Encryption(format!("its header does not end within {MAX_HEADER} bytes")));
    }
    let broken = |error: age::DecryptError| DecodeError::Encryption(error.to_string());
    let decryptor = age::Decryptor::new_buffered(&mut *stored).map_err(broken)?;
    let forward = Forward { key, answer: Mutex::default() };
    let opened = decryptor.decrypt(std::iter::once(&forward as &dyn age::Identity));
    let answer = forward.answer.into_inner().unwrap_or_default();
    let (mut plain, file_key) = match (opened, answer) {
        (_, Some(Err(error))) => return Err(error),
        (Err(age::DecryptError::NoMatchingKeys), _) => return Err(DecodeError::NeedsIdentity),
        (Err(error), _) => return Err(broken(error)),
        (Ok(plain), answer) => (plain, answer.and_then(Result::ok)),
    };
    filler.fill_from(&mut plain).map_err(|error| DecodeError::Encryption(error.to_string()))?;
    drop(plain);
    Ok(file_key)
}

/// An age identity that has no key but knows whom to ask.
struct Forward<'a> {
    key: &'a Key<'a>,
    answer: Mutex<Option<Result<FileKey, DecodeError>>>,
}

impl age::Identity for Forward<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        self.unwrap_stanzas(std::slice::from_ref(stanza))
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, age::DecryptError>> {
        let answer = match self.key {
            Key::None => return None,
            Key::Known(key) => Ok(copy(key)),
            Key::Ask(unwrap) => unwrap(stanzas),
        };
        let given = match &answer {
            Ok(key) => Ok(copy(key)),
            Err(_) => Err(age::DecryptError::KeyDecryptionFailed),
        };
        if let Ok(mut slot) = self.answer.lock() {
            *slot = Some(answer);
        }
        Some(given)
    }
}

/// A copy of a key, which age's type does not offer itself.
pub fn copy(key: &FileKey) -> FileKey {
    FileKey::init_with_mut(|bytes| bytes.copy_from_slice(key.expose_secret()))
}
