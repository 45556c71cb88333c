//! Opening one backup: the secrets at hand, then a person, three times at most.

use super::identities::{DEFAULT_MAX_WORK_FACTOR, Identities, StanzaKinds, UnwrapError, Unwrapped};
use super::secret::{AskSecret, Expected, Question, Secret, SecretError};
use age_core::format::{FileKey, Stanza};
use secrecy::ExposeSecret as _;
use std::fmt;

/// How often a person is asked for one backup.
pub const MAX_ATTEMPTS: u32 = 3;

/// Answers the caged decoder's question for a file's key.
pub struct Unlock<'a> {
    identities: Vec<Secret>,
    salt: Option<String>,
    max_work_factor: u8,
    ask: &'a mut dyn AskSecret,
    /// The last header and its key: the second pass over an archive asks the same again, and a person or scrypt should
    /// not have to answer twice.
    known: Option<(Vec<Stanza>, FileKey)>,
}

/// Why a backup was not opened.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// No secret, and nobody to ask.
    #[error("the backup is encrypted for {0}; give its secret with --identity FILE or --passphrase-file FILE")]
    NoSecret(StanzaKinds),
    /// All secrets were tried.
    #[error("no given secret opens the backup: it is encrypted for {0}")]
    Wrong(StanzaKinds),
    /// Only a key file can open it.
    #[error("the backup is encrypted for {0}, which no passphrase opens; give the private key with --identity FILE")]
    NeedsKey(StanzaKinds),
    /// The person cancelled.
    #[error("cancelled: no secret was given")]
    Cancelled,
    /// The file's header.
    #[error(transparent)]
    Header(#[from] UnwrapError),
    /// Asking failed.
    #[error("asking for a secret failed: {0}")]
    Ask(std::io::Error),
}

impl<'a> Unlock<'a> {
    /// For a backup whose manifest has this salt. `ask` asks a person, or `()` where there is none.
    #[must_use]
    pub fn new(secrets: Vec<Secret>, manifest_salt: Option<&str>, ask: &'a mut dyn AskSecret) -> Self {
        Self {
            identities: secrets,
            salt: manifest_salt.map(str::to_owned),
            max_work_factor: DEFAULT_MAX_WORK_FACTOR,
            ask,
            known: None,
        }
    }

    /// With another bound for the work factor (log2 of N) of age's own passphrase recipient.
    #[must_use]
    pub fn with_max_work_factor(self, max_work_factor: u8) -> Self {
        Self { max_work_factor, ..self }
    }

    /// The key of a file with these stanzas in its header.
    ///
    /// # Errors
    /// See [`UnlockError`].
    pub fn unwrap(&mut self, stanzas: Vec<Stanza>) -> Result<FileKey, UnlockError> {
        if let Some((_, key)) = self.known.as_ref().filter(|(known, _)| *known == stanzas) {
            return Ok(copy(key));
        }
        let key = self.find(&stanzas)?;
        self.known = Some((stanzas, copy(&key)));
        Ok(key)
    }

    fn find(&mut self, stanzas: &[Stanza]) -> Result<FileKey, UnlockError> {
        let kinds = match self.attempt(self.identities.clone(), stanzas)? {
            Ok(key) => return Ok(key),
            Err(kinds) => kinds,
        };
        let tried = !self.identities.is_empty();
        if kinds.x25519 == 0 && !kinds.passphrase {
            return Err(if tried { UnlockError::Wrong(kinds) } else { UnlockError::NeedsKey(kinds) });
        }
        if !self.ask.can_ask() {
            return Err(if tried { UnlockError::Wrong(kinds) } else { UnlockError::NoSecret(kinds) });
        }
        let mut again = tried.then(|| "The given secret does not open this backup.".to_owned());
        for attempt in 1..=MAX_ATTEMPTS {
            let question = Question::Backup { attempt, of: MAX_ATTEMPTS, again: again.take() };
            let Some(answer) = self.ask.ask(&question).map_err(UnlockError::Ask)? else {
                return Err(UnlockError::Cancelled);
            };
            let secret =
                match Secret::read(answer.expose_secret().as_bytes(), Expected::Any, "the prompt", &[], &mut ()) {
                    Ok(secret) => secret,
                    Err(SecretError::Ask(error)) => return Err(UnlockError::Ask(error)),
                    Err(error) => {
                        again = Some(format!("That cannot be used: {error}."));
                        continue;
                    }
                };
            again = Some(format!("That {} does not open this backup.", secret.kind()));
            if let Ok(key) = self.attempt(vec![secret], stanzas)? {
                return Ok(key);
            }
        }
        Err(UnlockError::Wrong(kinds))
    }

    /// Tries some secrets: the key, or for whom the file is.
    fn attempt(&self, secrets: Vec<Secret>, stanzas: &[Stanza]) -> Result<Result<FileKey, StanzaKinds>, UnlockError> {
        let identities = Identities::new(secrets, self.salt.as_deref()).with_max_work_factor(self.max_work_factor);
        match identities.unwrap(stanzas) {
            Unwrapped::FileKey(key) => Ok(Ok(key)),
            Unwrapped::NoMatch(kinds) => Ok(Err(kinds)),
            Unwrapped::Error(error) => Err(error.into()),
        }
    }
}

fn copy(key: &FileKey) -> FileKey {
    FileKey::init_with_mut(|bytes| bytes.copy_from_slice(key.expose_secret()))
}

impl fmt::Debug for Unlock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unlock").field("secrets", &self.identities).finish_non_exhaustive()
    }
}
