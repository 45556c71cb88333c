//! Trying secrets on the stanzas of a file's header.

use super::derive;
use super::secret::{Kind, Secret};
use age::{DecryptError, Identity as _, x25519};
use age_core::format::{FileKey, Stanza};
use proxsave_proto::escape::Escaped;
use secrecy::{ExposeSecret as _, SecretString};
use std::fmt;

/// The largest work factor (log2 of N) of age's own passphrase recipient that is accepted by default: 18, which takes
/// 256 MiB and about a second, and is what age itself makes. The file chooses it, so it has to be bounded.
pub const DEFAULT_MAX_WORK_FACTOR: u8 = 18;
/// The most stanzas that are looked at.
const MAX_STANZAS: usize = 128;

/// Everything that may open one backup.
pub struct Identities {
    secrets: Vec<Secret>,
    salts: Vec<String>,
    max_work_factor: u8,
}

/// What trying gave.
pub enum Unwrapped {
    /// The file's key.
    FileKey(FileKey),
    /// None of the stanzas is for any of the secrets: the secret is wrong, or for another file.
    NoMatch(StanzaKinds),
    /// The header is malformed, or asks for too much.
    Error(UnwrapError),
}

/// Why the header cannot be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// A stanza that is for the secret, but damaged; or stanzas that may not stand together.
    #[error("the age header is malformed: the file is damaged or was tampered with")]
    Malformed,
    /// Too many stanzas.
    #[error("the age header names more than {MAX_STANZAS} recipients")]
    TooMany,
    /// The work factor.
    #[error(
        "the file's passphrase work factor is {required}, more than the {limit} that is allowed \
        (it would take {} MiB of memory)", mebibytes(*required)
    )]
    Work {
        /// log2 of N that the file asks for.
        required: u8,
        /// What is allowed.
        limit: u8,
    },
    /// Deriving failed.
    #[error(transparent)]
    Derive(#[from] derive::DeriveError),
}

/// Memory that scrypt with r = 8 takes.
fn mebibytes(log_n: u8) -> u64 {
    1u64.checked_shl(u32::from(log_n)).map_or(u64::MAX, |n| n / 1024)
}

/// For whom a file is encrypted, as far as its header tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StanzaKinds {
    /// X25519 recipients (keys, or passphrases by ProxSave's derivation).
    pub x25519: usize,
    /// SSH keys.
    pub ssh: usize,
    /// Whether it is age's own passphrase recipient.
    pub passphrase: bool,
    /// Tags of other kinds, escaped, the first few.
    pub other: Vec<String>,
}

impl Identities {
    /// Secrets for a backup whose manifest has this salt.
    #[must_use]
    pub fn new(secrets: Vec<Secret>, manifest_salt: Option<&str>) -> Self {
        Self { secrets, salts: derive::salts(manifest_salt), max_work_factor: DEFAULT_MAX_WORK_FACTOR }
    }

    /// With another bound for the work factor (log2 of N) of age's own passphrase recipient.
    #[must_use]
    pub fn with_max_work_factor(self, max_work_factor: u8) -> Self {
        Self { max_work_factor, ..self }
    }

    /// Whether there is nothing to try.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Tries every secret on the stanzas of one file's header: keys first, then passphrases, whose derivation takes
    /// time and is done only where the file has a stanza for it.
    #[must_use]
    pub fn unwrap(&self, stanzas: &[Stanza]) -> Unwrapped {
        if stanzas.len() > MAX_STANZAS {
            return Unwrapped::Error(UnwrapError::TooMany);
        }
        let kinds = StanzaKinds::of(stanzas);
        // age's format: a passphrase recipient stands alone, so that nobody else's key opens the file unnoticed.
        if kinds.passphrase && stanzas.len() != 1 {
            return Unwrapped::Error(UnwrapError::Malformed);
        }
        match self.find(stanzas, &kinds) {
            Ok(Some(key)) => Unwrapped::FileKey(key),
            Ok(None) => Unwrapped::NoMatch(kinds),
            Err(error) => Unwrapped::Error(error),
        }
    }

    /// The first key that a secret gives. An error counts only when no secret fits.
    fn find(&self, stanzas: &[Stanza], kinds: &StanzaKinds) -> Result<Option<FileKey>, UnwrapError> {
        let mut failure = None;
        let mut attempt = |identity: &dyn age::Identity| match identity.unwrap_stanzas(stanzas) {
            Some(Ok(key)) => Some(key),
            Some(Err(error)) => {
                failure.get_or_insert(self.reason(&error));
                None
            }
            None => None,
        };
        for secret in &self.secrets {
            let found = match &secret.0 {
                Kind::X25519(identities) => identities.iter().find_map(|identity| attempt(identity)),
                Kind::Ssh(identity) => attempt(identity.as_ref()),
                Kind::Passphrase(_) => None,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        for passphrase in self.passphrases() {
            if kinds.passphrase {
                let found =
                    self.native(passphrase).iter().find_map(|identity| match identity.unwrap_stanzas(stanzas)? {
                        Ok(key) => Some(key),
                        // A wrong passphrase is a failed decryption here, since nothing else tells.
                        Err(DecryptError::DecryptionFailed) => None,
                        Err(error) => {
                            failure.get_or_insert(self.reason(&error));
                            None
                        }
                    });
                if found.is_some() {
                    return Ok(found);
                }
            }
            if kinds.x25519 > 0 {
                for salt in &self.salts {
                    let identity: x25519::Identity = derive::identity(passphrase, salt)?;
                    match identity.unwrap_stanzas(stanzas) {
                        Some(Ok(key)) => return Ok(Some(key)),
                        Some(Err(error)) => {
                            failure.get_or_insert(self.reason(&error));
                        }
                        None => {}
                    }
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    fn passphrases(&self) -> impl Iterator<Item = &SecretString> {
        self.secrets.iter().filter_map(|secret| match &secret.0 {
            Kind::Passphrase(text) => Some(text),
            Kind::X25519(_) | Kind::Ssh(_) => None,
        })
    }

    /// age's own passphrase identity, with the text as given, and without white space at its ends where that differs.
    fn native(&self, passphrase: &SecretString) -> Vec<age::scrypt::Identity> {
        let given = passphrase.expose_secret();
        let trimmed = given.trim();
        let texts = std::iter::once(given).chain((trimmed != given && !trimmed.is_empty()).then_some(trimmed));
        texts
            .map(|text| {
                let mut identity = age::scrypt::Identity::new(SecretString::from(text));
                identity.set_max_work_factor(self.max_work_factor);
                identity
            })
            .collect()
    }

    fn reason(&self, error: &DecryptError) -> UnwrapError {
        match error {
            DecryptError::ExcessiveWork { required, .. } if *required > self.max_work_factor => {
                UnwrapError::Work { required: *required, limit: self.max_work_factor }
            }
            _ => UnwrapError::Malformed,
        }
    }
}

impl StanzaKinds {
    /// Counts the stanzas of a header.
    #[must_use]
    pub fn of(stanzas: &[Stanza]) -> Self {
        const SHOWN: usize = 4;
        let mut kinds = Self::default();
        for stanza in stanzas {
            match stanza.tag.as_str() {
                "X25519" => kinds.x25519 += 1,
                "ssh-ed25519" | "ssh-rsa" => kinds.ssh += 1,
                "scrypt" => kinds.passphrase = true,
                // age adds stanzas with random tags of this ending, which mean nothing.
                tag if tag.ends_with("-grease") => {}
                tag if kinds.other.len() < SHOWN => kinds.other.push(Escaped(tag.as_bytes()).to_string()),
                _ => {}
            }
        }
        kinds
    }
}

impl fmt::Display for StanzaKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = Vec::new();
        match self.x25519 {
            0 => {}
            1 => kinds.push("one age key or derived passphrase".to_owned()),
            count => kinds.push(format!("{count} age keys or derived passphrases")),
        }
        match self.ssh {
            0 => {}
            1 => kinds.push("one SSH key".to_owned()),
            count => kinds.push(format!("{count} SSH keys")),
        }
        if self.passphrase {
            kinds.push("a passphrase".to_owned());
        }
        if !self.other.is_empty() {
            kinds.push(format!("recipients of a kind that is not supported ({})", self.other.join(", ")));
        }
        if kinds.is_empty() { f.write_str("nobody that is known") } else { f.write_str(&kinds.join(", ")) }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

impl fmt::Debug for Unwrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileKey(_) => f.write_str("FileKey(…)"),
            Self::NoMatch(kinds) => f.debug_tuple("NoMatch").field(kinds).finish(),
            Self::Error(error) => f.debug_tuple("Error").field(error).finish(),
        }
    }
}
