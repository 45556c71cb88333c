//! Where secrets come from without asking: files, inherited descriptors, systemd's credential directory.

use super::secret::{AskSecret, Expected, Kind, MAX_SECRET, Secret, SecretError};
use crate::sys::inherited::take_inherited_fd;
use proxsave_proto::escape::Escaped;
use secrecy::SecretString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The credential with a key, in systemd's credential directory.
pub const IDENTITY_CREDENTIAL: &str = "proxsave-identity";
/// The credential with a passphrase.
pub const PASSPHRASE_CREDENTIAL: &str = "proxsave-passphrase";

/// What the command line and the environment say about secrets: places, never the secrets themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretSources {
    /// `--identity FILE`, any number.
    pub identity_files: Vec<PathBuf>,
    /// `--passphrase-file FILE`, any number.
    pub passphrase_files: Vec<PathBuf>,
    /// `--identity-fd N`; 0 is standard input.
    pub identity_fd: Option<i32>,
    /// `--passphrase-fd N`; 0 is standard input.
    pub passphrase_fd: Option<i32>,
    /// `$CREDENTIALS_DIRECTORY`, looked at only when nothing above is given.
    pub credentials: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Keys first, then passphrases.
    pub secrets: Vec<Secret>,
    /// What an operator should know, one line each, safe to print.
    pub warnings: Vec<String>,
}

/// A source that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// `-` as a file.
    #[error("a secret is not read from \"-\"; to give it on standard input, use --identity-fd 0 or --passphrase-fd 0")]
    Dash,
    /// Both options name one descriptor.
    #[error("--identity-fd and --passphrase-fd name the same descriptor")]
    SameFd,
    /// It cannot be read.
    #[error("the secret in {origin} cannot be read: {error}")]
    Read {
        /// Where, safe to print.
        origin: String,
        /// Why.
        error: io::Error,
    },
    /// It is read, but no secret.
    #[error("the secret in {origin} cannot be used: {error}")]
    Secret {
        /// Where, safe to print.
        origin: String,
        /// Why.
        error: SecretError,
    },
}

impl SecretSources {
    /// Whether an option names a secret.
    #[must_use]
    pub fn is_explicit(&self) -> bool {
        !self.identity_files.is_empty()
            || !self.passphrase_files.is_empty()
            || self.identity_fd.is_some()
            || self.passphrase_fd.is_some()
    }

    /// Reads all of them. Passphrases are read first, for they may open keys that are themselves encrypted; `ask` is
    /// for such a key only.
    ///
    /// # Errors
    /// The first source that is given but cannot be used, as a [`SourceError`].
    pub fn load(&self, ask: &mut dyn AskSecret) -> Result<Loaded, SourceError> {
        if self.identity_fd.is_some() && self.identity_fd == self.passphrase_fd {
            return Err(SourceError::SameFd);
        }
        let mut loaded = Loaded::default();
        let mut passphrases = Vec::new();
        let mut keys = Vec::new();
        for path in &self.passphrase_files {
            passphrases.push((shown(path), read_file(path, &mut loaded.warnings)?));
        }
        for path in &self.identity_files {
            keys.push((shown(path), read_file(path, &mut loaded.warnings)?));
        }
        if let Some(number) = self.passphrase_fd {
            passphrases.push((format!("descriptor {number}"), read_fd(number)?));
        }
        if let Some(number) = self.identity_fd {
            keys.push((format!("descriptor {number}"), read_fd(number)?));
        }
        if let Some(directory) = self.credentials.as_ref().filter(|_| !self.is_explicit()) {
            for (name, list) in [(PASSPHRASE_CREDENTIAL, &mut passphrases), (IDENTITY_CREDENTIAL, &mut keys)] {
                if let Some(data) = read_credential(&directory.join(name))? {
                    list.push((format!("credential {name}"), data));
                }
            }
        }
        let mut known: Vec<SecretString> = Vec::new();
        let mut others = Vec::new();
        for (origin, data) in &passphrases {
            let secret = parse(data, Expected::Any, origin, &known, ask)?;
            if let Kind::Passphrase(text) = &secret.0 {
                known.push(text.clone());
            }
            others.push(secret);
        }
        for (origin, data) in &keys {
            loaded.secrets.push(parse(data, Expected::Identity, origin, &known, ask)?);
        }
        loaded.secrets.append(&mut others);
        Ok(loaded)
    }
}

fn parse(
    data: &[u8],
    expected: Expected,
    origin: &str,
    passphrases: &[SecretString],
    ask: &mut dyn AskSecret,
) -> Result<Secret, SourceError> {
    Secret::read(data, expected, origin, passphrases, ask)
        .map_err(|error| SourceError::Secret { origin: origin.to_owned(), error })
}

fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_bytes()).to_string()
}

fn read_file(path: &Path, warnings: &mut Vec<String>) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    if path == Path::new("-") {
        return Err(SourceError::Dash);
    }
    let failed = |error| SourceError::Read { origin: shown(path), error };
    let file = File::open(path).map_err(failed)?;
    let status = file.metadata().map_err(failed)?;
    if status.is_file() && status.mode() & 0o077 != 0 {
        warnings.push(format!(
            "the file {} is open to other users (mode {:04o}); close it with chmod 600",
            shown(path),
            status.mode() & 0o7777
        ));
    }
    read_whole(file).map_err(failed)
}

fn read_fd(number: i32) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let failed = |error| SourceError::Read { origin: format!("descriptor {number}"), error };
    if number == 0 {
        return read_whole(io::stdin().lock()).map_err(failed);
    }
    read_whole(File::from(take_inherited_fd(number).map_err(failed)?)).map_err(failed)
}

/// A credential, when there is one. systemd keeps them from other users.
fn read_credential(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, SourceError> {
    let failed = |error| SourceError::Read { origin: shown(path), error };
    match File::open(path) {
        Ok(file) => read_whole(file).map(Some).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Reads to the end, at most one byte more than a secret may have (which [`Secret::read`] then refuses). The memory is
/// taken whole at once, so that no growing leaves copies behind.
fn read_whole(source: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut data = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 64));
    source.take(MAX_SECRET as u64 + 1).read_to_end(&mut data)?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{IntoRawFd as _, OwnedFd};
    use std::os::unix::fs::PermissionsExt as _;

    const KEY: &str = "# a comment\nAGE-SECRET-KEY-1YN3Q6WST2SUFF2Y0HWQ2DNNPLJ4C4QCDQ694W6V8NEW5G5M06JKQDMSRDM\n";

    struct Directory(tempfile::TempDir);

    impl Directory {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    fn kinds(loaded: &Loaded) -> Vec<&'static str> {
        loaded.secrets.iter().map(Secret::kind).collect()
    }

    #[test]
    fn keys_and_passphrases_from_files() {
        let directory = Directory::new();
        let sources = SecretSources {
            identity_files: vec![directory.file("key", KEY, 0o600)],
            passphrase_files: vec![directory.file("pass", "Correct-Horse-42\n", 0o640)],
            credentials: Some(PathBuf::from("/nonexistent")),
            ..SecretSources::default()
        };
        let loaded = sources.load(&mut ()).unwrap();
        assert_eq!(kinds(&loaded), ["age identity", "passphrase"]);
        assert_eq!(loaded.warnings.len(), 1, "only the file that others can read");
        assert!(loaded.warnings[0].contains("0640"), "{}", loaded.warnings[0]);
        assert!(!format!("{loaded:?}").contains("Correct"));
    }

    #[test]
    fn credentials_count_only_when_nothing_is_named() {
        let directory = Directory::new();
        directory.file(IDENTITY_CREDENTIAL, KEY, 0o400);
        directory.file(PASSPHRASE_CREDENTIAL, "words", 0o400);
        let mut sources =
            SecretSources { credentials: Some(directory.0.path().to_owned()), ..SecretSources::default() };
        assert_eq!(kinds(&sources.load(&mut ()).unwrap()), ["age identity", "passphrase"]);
        sources.passphrase_files = vec![directory.file("other", "words", 0o600)];
        assert_eq!(kinds(&sources.load(&mut ()).unwrap()), ["passphrase"]);
        let empty = SecretSources { credentials: Some(PathBuf::from("/nonexistent")), ..SecretSources::default() };
        assert!(empty.load(&mut ()).unwrap().secrets.is_empty());
    }

    #[test]
    fn a_handed_down_descriptor() {
        let directory = Directory::new();
        let file = File::open(directory.file("key", KEY, 0o600)).unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        let number = OwnedFd::from(file).into_raw_fd();
        let sources = SecretSources { identity_fd: Some(number), ..SecretSources::default() };
        assert_eq!(kinds(&sources.load(&mut ()).unwrap()), ["age identity"]);
        let same = SecretSources { passphrase_fd: Some(9), identity_fd: Some(9), ..SecretSources::default() };
        assert!(matches!(same.load(&mut ()), Err(SourceError::SameFd)));
    }

    #[test]
    fn what_cannot_be_used_is_said_without_the_secret() {
        let directory = Directory::new();
        let load = |path: PathBuf| {
            let sources = SecretSources { identity_files: vec![path], ..SecretSources::default() };
            sources.load(&mut ()).unwrap_err().to_string()
        };
        assert!(load(PathBuf::from("-")).contains("--identity-fd 0"));
        assert!(load(directory.0.path().join("none\u{1b}")).contains("\\x1b"));
        let hidden = load(directory.file("pass", "hidden-words", 0o600));
        assert!(hidden.contains("--passphrase-file") && !hidden.contains("hidden-words"), "{hidden}");
        let cut = load(directory.file("cut", &KEY[..40], 0o600));
        assert!(cut.contains("line 2") && !cut.contains("SUFF"), "{cut}");
        let large = load(directory.file("large", &"x".repeat(MAX_SECRET + 10), 0o600));
        assert!(large.contains("larger"), "{large}");
    }
}
