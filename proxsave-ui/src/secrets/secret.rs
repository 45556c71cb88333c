//! One secret text, taken for what it is.

use super::identities::DEFAULT_MAX_WORK_FACTOR;
use age::{ssh, x25519};
use proxsave_proto::escape::Escaped;
use secrecy::SecretString;
use std::fmt;
use std::io::Read as _;
use zeroize::Zeroizing;

/// The longest secret text, in bytes.
pub const MAX_SECRET: usize = 256 * 1024;

/// A secret, ready to be tried.
#[derive(Clone)]
pub struct Secret(pub(super) Kind);

#[derive(Clone)]
pub(super) enum Kind {
    X25519(Vec<x25519::Identity>),
    Ssh(Box<ssh::Identity>),
    Passphrase(SecretString),
}

/// What a text is supposed to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A key; a passphrase is refused (`--identity`).
    Identity,
    /// Any secret (`--passphrase-file`, prompts).
    Any,
}

/// Why a text is not a secret that can be used. Never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// More than [`MAX_SECRET`].
    #[error("it is larger than {MAX_SECRET} bytes")]
    TooLarge,
    /// Not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// No key where one is wanted.
    #[error(
        "it holds neither an age identity nor an OpenSSH private key; if it is a passphrase, use --passphrase-file"
    )]
    NotIdentity,
    /// A damaged identity.
    #[error("line {0} is not a whole age identity (AGE-SECRET-KEY-1…); was it copied completely?")]
    BadIdentity(usize),
    /// A damaged SSH key.
    #[error("it is not a whole OpenSSH private key")]
    BadSshKey,
    /// A kind of key that cannot be used.
    #[error("it is {0}, which cannot be used here")]
    Unsupported(&'static str),
    /// The key is encrypted, and no passphrase for it was given.
    #[error("the key is itself encrypted and no passphrase for it was given")]
    KeyPassphraseMissing,
    /// The key is encrypted, and the passphrase for it is wrong.
    #[error("the passphrase does not open the encrypted key")]
    KeyPassphraseWrong,
    /// Asking failed.
    #[error("asking for a secret failed: {0}")]
    Ask(#[from] std::io::Error),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// What opens a backup: a passphrase or an age identity.
    Backup {
        /// 1 for the first time.
        attempt: u32,
        /// How often it will be asked at most.
        of: u32,
        /// Why it is asked again, one line.
        again: Option<String>,
    },
    /// The passphrase of a key that is itself encrypted.
    Key {
        /// Where the key is, safe to print.
        origin: String,
    },
}

/// Asks a person, without echo.
pub trait AskSecret {
    /// Whether there is somebody to ask. What is said afterwards differs: a secret is missing, or the person cancelled.
    fn can_ask(&self) -> bool;

    /// Asks; `None` when the person cancels or there is nobody to ask.
    ///
    /// # Errors
    /// When the terminal fails.
    fn ask(&mut self, question: &Question) -> std::io::Result<Option<SecretString>>;
}

/// Nobody to ask: every question is cancelled.
impl AskSecret for () {
    fn can_ask(&self) -> bool {
        false
    }

    fn ask(&mut self, _: &Question) -> std::io::Result<Option<SecretString>> {
        Ok(None)
    }
}

impl Question {
    /// Why it is asked again: a line to say before the question.
    #[must_use]
    pub fn again(&self) -> Option<&str> {
        match self {
            Self::Backup { again, .. } => again.as_deref(),
            Self::Key { .. } => None,
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup { attempt: 1, .. } => f.write_str("Passphrase or age identity of the backup"),
            Self::Backup { attempt, of, .. } => write!(f, "Passphrase or age identity, try {attempt} of {of}"),
            Self::Key { origin } => write!(f, "Passphrase of the key in {origin}"),
        }
    }
}

impl Secret {
    /// A passphrase, whatever it looks like.
    #[must_use]
    pub fn passphrase(text: SecretString) -> Self {
        Self(Kind::Passphrase(text))
    }

    /// Takes a text for what it is; see the module's text. `origin` says where it comes from, for questions; the passphrase
    /// of an encrypted key is one of `passphrases`, else asked for.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn read(
        data: &[u8],
        expected: Expected,
        origin: &str,
        passphrases: &[SecretString],
        ask: &mut dyn AskSecret,
    ) -> Result<Self, SecretError> {
        if data.len() > MAX_SECRET {
            return Err(SecretError::TooLarge);
        }
        if is_age_file(data) {
            let opened = open_key(passphrases, origin, ask, |passphrase| decrypt_identity_file(data, passphrase))?;
            return Self::read_text(&opened, Expected::Identity, origin, &[], &mut ());
        }
        Self::read_text(data, expected, origin, passphrases, ask)
    }

    fn read_text(
        data: &[u8],
        expected: Expected,
        origin: &str,
        passphrases: &[SecretString],
        ask: &mut dyn AskSecret,
    ) -> Result<Self, SecretError> {
        let text = std::str::from_utf8(data).map_err(|_| SecretError::NotText)?;
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(SecretError::Empty);
        }
        if trimmed.starts_with("-----BEGIN ") {
            return read_ssh(trimmed, origin, passphrases, ask);
        }
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        if lines.any(|line| starts_with_any_case(line, "AGE-SECRET-KEY-") || starts_with_any_case(line, "AGE-PLUGIN-"))
        {
            return read_identities(text);
        }
        if expected == Expected::Identity {
            return Err(SecretError::NotIdentity);
        }
        // A text file ends with a line end, which is no part of the passphrase.
        let passphrase = text.strip_suffix('\n').unwrap_or(text);
        let passphrase = passphrase.strip_suffix('\r').unwrap_or(passphrase);
        Ok(Self::passphrase(SecretString::from(passphrase)))
    }

    /// What kind of secret it is, for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.0 {
            Kind::X25519(_) => "age identity",
            Kind::Ssh(_) => "SSH key",
            Kind::Passphrase(_) => "passphrase",
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.kind())
    }
}

fn starts_with_any_case(line: &str, prefix: &str) -> bool {
    line.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn is_age_file(data: &[u8]) -> bool {
    let start = data.trim_ascii_start();
    start.starts_with(b"age-encryption.org/") || start.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")
}

fn read_identities(text: &str) -> Result<Secret, SecretError> {
    let mut identities = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if starts_with_any_case(line, "AGE-SECRET-KEY-PQ-") {
            return Err(SecretError::Unsupported("a hybrid post-quantum identity"));
        }
        if starts_with_any_case(line, "AGE-PLUGIN-") {
            return Err(SecretError::Unsupported("the identity of an age plugin"));
        }
        let upper = Zeroizing::new(line.to_ascii_uppercase());
        identities.push(upper.parse().map_err(|_| SecretError::BadIdentity(index + 1))?);
    }
    Ok(Secret(Kind::X25519(identities)))
}

fn read_ssh(
    text: &str,
    origin: &str,
    passphrases: &[SecretString],
    ask: &mut dyn AskSecret,
) -> Result<Secret, SecretError> {
    if !text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----") && !text.starts_with("-----BEGIN RSA PRIVATE KEY-----")
    {
        return Err(SecretError::Unsupported("a PEM file that is no OpenSSH private key"));
    }
    // Keys that went through Windows have CR before LF, which ssh takes and the parser does not.
    let text = Zeroizing::new(text.replace('\r', ""));
    let key = ssh::Identity::from_buffer(text.as_bytes(), None).map_err(|_| SecretError::BadSshKey)?;
    let key = match key {
        ssh::Identity::Unencrypted(_) => key,
        ssh::Identity::Encrypted(encrypted) => open_key(passphrases, origin, ask, |passphrase| {
            encrypted.decrypt(passphrase.clone()).map(ssh::Identity::from).map_err(|_| SecretError::KeyPassphraseWrong)
        })?,
        ssh::Identity::Unsupported(why) => {
            return Err(SecretError::Unsupported(match why {
                ssh::UnsupportedKey::EncryptedPem => {
                    "an encrypted key in the old PEM form (convert it: ssh-keygen -o -p)"
                }
                ssh::UnsupportedKey::EncryptedSsh(_) => "an SSH key encrypted with an unusual cipher",
                ssh::UnsupportedKey::Hardware(_) => "an SSH key that lives on a hardware token",
                ssh::UnsupportedKey::Type(_) => "an SSH key of a type other than ed25519 and RSA",
            }));
        }
    };
    Ok(Secret(Kind::Ssh(Box::new(key))))
}

/// Opens an encrypted key with the passphrases that were given, else asks once.
fn open_key<T>(
    passphrases: &[SecretString],
    origin: &str,
    ask: &mut dyn AskSecret,
    open: impl Fn(&SecretString) -> Result<T, SecretError>,
) -> Result<T, SecretError> {
    for passphrase in passphrases {
        match open(passphrase) {
            Err(SecretError::KeyPassphraseWrong) => {}
            result => return result,
        }
    }
    let question = Question::Key { origin: Escaped(origin.as_bytes()).to_string() };
    match ask.ask(&question)? {
        Some(passphrase) => open(&passphrase),
        None if passphrases.is_empty() => Err(SecretError::KeyPassphraseMissing),
        None => Err(SecretError::KeyPassphraseWrong),
    }
}

/// Decrypts a file of identities that age encrypted with a passphrase.
fn decrypt_identity_file(data: &[u8], passphrase: &SecretString) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let reader = age::armor::ArmoredReader::new(data.trim_ascii_start());
    let decryptor = age::Decryptor::new(reader).map_err(|_| SecretError::Unsupported("a damaged age file"))?;
    if !decryptor.is_scrypt() {
        return Err(SecretError::Unsupported("an age file that is not encrypted with a passphrase"));
    }
    let mut identity = age::scrypt::Identity::new(passphrase.clone());
    identity.set_max_work_factor(DEFAULT_MAX_WORK_FACTOR);
    let stream = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity));
    let stream = stream.map_err(|error| match error {
        age::DecryptError::ExcessiveWork { .. } => {
            SecretError::Unsupported("an age file whose passphrase takes more work than is allowed")
        }
        age::DecryptError::DecryptionFailed | age::DecryptError::NoMatchingKeys => SecretError::KeyPassphraseWrong,
        _ => SecretError::Unsupported("a damaged age file"),
    })?;
    // Whole at once, so that no growing leaves copies behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(MAX_SECRET));
    stream
        .take(MAX_SECRET as u64)
        .read_to_end(&mut plain)
        .map_err(|_| SecretError::Unsupported("a damaged age file"))?;
    Ok(plain)
}
