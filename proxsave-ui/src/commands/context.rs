//! What every command has: a dialogue, how much to say, and how results are printed.

use super::Failure;
use crate::archive::Backup;
use crate::archive::discover::{Found, Place, SearchLimits, discover};
use crate::archive::open::{Opened, open};
use crate::cli::{Exit, LogLevel, OpenArgs};
use crate::decoder::{DecodeProgress, Decoder, Index, Options, Source};
use crate::dialogue::{Answer, Dialogue, Progress, Question};
use crate::secrets::{AskSecret, Secret, SecretSources, Unlock, UnlockError, Unwrapped};
use crate::sys::interrupt;
use age::secrecy::SecretString;
use std::cell::Cell;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// The shared state of a command.
#[derive(Debug)]
pub struct Context {
    /// To the operator.
    pub dialogue: Dialogue,
    level: LogLevel,
    /// What the options and the environment gave, once it was read: a descriptor can be read only once.
    secrets: Option<Vec<Secret>>,
    /// What was warned of about the backup in hand, for the report.
    warnings: Vec<String>,
    printed: Cell<bool>,
}

/// A backup whose first pass is done.
#[derive(Debug)]
pub struct Reading {
    /// The decoder, ready for a second pass.
    pub decoder: Decoder,
    /// The backup and its descriptor.
    pub opened: Opened,
    /// What is in it.
    pub index: Index,
}

/// Whether a progress callback goes on.
pub fn go_on() -> ControlFlow<()> {
    if interrupt::raised() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

impl Context {
    /// For a command.
    #[must_use]
    pub fn new(level: LogLevel, no_input: bool) -> Self {
        Self {
            dialogue: Dialogue::new(no_input),
            level,
            secrets: None,
            warnings: Vec::new(),
            printed: Cell::new(false),
        }
    }

    /// Says what is being done.
    pub fn info(&self, text: impl AsRef<str>) {
        if self.level >= LogLevel::Info {
            self.dialogue.say(text);
        }
    }

    /// Says what should worry the operator.
    pub fn warn(&self, text: impl AsRef<str>) {
        if self.level >= LogLevel::Warning {
            self.dialogue.say(format!("warning: {}", text.as_ref()));
        }
    }

    /// Warns of something about the backup in hand, and keeps it for the report.
    pub fn caution(&mut self, text: impl Into<String>) {
        let text = text.into();
        self.warn(&text);
        self.warnings.push(text);
    }

    /// What was warned of about the backup in hand.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Says what helps to find faults.
    pub fn debug(&self, text: impl AsRef<str>) {
        if self.level >= LogLevel::Debug {
            self.dialogue.say(format!("debug: {}", text.as_ref()));
        }
    }

    /// A result, on standard output.
    ///
    /// # Errors
    /// When it cannot be written; a reader that has gone is no error.
    pub fn print(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.printed.set(true);
        let mut out = io::stdout().lock();
        match writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Whether anything went to standard output.
    #[must_use]
    pub fn has_printed(&self) -> bool {
        self.printed.get()
    }

    /// A decoder, caged.
    ///
    /// # Errors
    /// When none can be started.
    pub fn decoder(&self, args: &OpenArgs) -> Result<Decoder, Failure> {
        let decoder = Decoder::spawn_with(&Options { limits: args.limits.apply(), ..Options::default() })?;
        self.debug(format!("decoder caged: {}", decoder.sandbox()));
        Ok(decoder)
    }

    /// Opens a backup and tells what is wrong with it. `consent`: ask once before going on with a backup that has
    /// anything wrong with it.
    ///
    /// # Errors
    /// When it cannot be opened, may not be used, or the operator does not agree.
    pub fn open(
        &mut self,
        decoder: &mut Decoder,
        path: &Path,
        args: &OpenArgs,
        consent: bool,
    ) -> Result<Opened, Failure> {
        self.warnings.clear();
        let opened = open(path, decoder)?;
        let description = &opened.backup.description;
        let fatal: Vec<String> = description.fatal().map(ToString::to_string).collect();
        if !fatal.is_empty() {
            return Err(Failure::new(Exit::BadBackup, format!("the backup cannot be used: {}", fatal.join("; "))));
        }
        for problem in description.warnings() {
            self.caution(problem.to_string());
        }
        if consent && !self.warnings.is_empty() && !args.accept_warnings {
            let question = Question { text: "Use this backup all the same", flag: "--accept-warnings", back: false };
            if self.dialogue.confirm(question)? != Answer::Is(true) {
                return Err(Failure::stopped());
            }
        }
        Ok(opened)
    }

    /// The secrets that the options and the environment give, read once however many backups are opened.
    ///
    /// # Errors
    /// When a source cannot be used.
    fn secrets(&mut self, args: &OpenArgs) -> Result<Vec<Secret>, Failure> {
        if let Some(secrets) = &self.secrets {
            return Ok(secrets.clone());
        }
        let sources = SecretSources {
            identity_files: args.identities.clone(),
            passphrase_files: args.passphrase_file.iter().cloned().collect(),
            identity_fd: args.identity_fd,
            passphrase_fd: args.passphrase_fd,
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        };
        let loaded = sources
            .load(&mut Asking(&mut self.dialogue))
            .map_err(|error| Failure::new(Exit::WrongSecret, error.to_string()))?;
        for warning in &loaded.warnings {
            self.warn(warning);
        }
        self.secrets = Some(loaded.secrets.clone());
        Ok(loaded.secrets)
    }

    /// The first pass over an opened backup, asking for its secret when none is given.
    ///
    /// # Errors
    /// When it is damaged, over a limit, or nothing opens it.
    pub fn index(&mut self, decoder: &mut Decoder, opened: &Opened, args: &OpenArgs) -> Result<Index, Failure> {
        let description = &opened.backup.description;
        let salt = description.manifest.as_ref().and_then(|manifest| manifest.passphrase_salt.as_deref());
        let source = Source {
            file: opened.file.as_fd(),
            offset: description.span.offset,
            length: description.span.length,
            expected: description.sha256,
        };
        let mut bar: Option<Progress> = None;
        let total = description.span.length;
        let mut show = |news: DecodeProgress| {
            if news.stored_bytes > 0 {
                let bar = bar.get_or_insert_with(|| Progress::begin("Reading", Some(total)));
                bar.set(news.stored_bytes, news.entries);
            }
            go_on()
        };
        let limits = args.limits.apply();
        if !opened.backup.is_encrypted() {
            return Ok(decoder.index(&source, None, &limits, &mut show)?);
        }
        let secrets = self.secrets(args)?;
        let mut ask = Asking(&mut self.dialogue);
        let mut failed = None;
        let mut unlock = Unlock::new(secrets, salt, &mut ask);
        let mut identities = |stanzas: &[age_core::format::Stanza]| {
            let kinds = crate::secrets::StanzaKinds::of(stanzas);
            let copies = stanzas.iter().map(|stanza| age_core::format::Stanza {
                tag: stanza.tag.clone(),
                args: stanza.args.clone(),
                body: stanza.body.clone(),
            });
            match unlock.unwrap(copies.collect()) {
                Ok(key) => Unwrapped::FileKey(key),
                Err(error) => {
                    failed = Some(error);
                    Unwrapped::NoMatch(kinds)
                }
            }
        };
        let indexed = decoder.index(&source, Some(&mut identities), &limits, &mut show);
        match (indexed, failed) {
            (Ok(index), _) => Ok(index),
            (Err(_), Some(UnlockError::Cancelled)) => Err(Failure::stopped()),
            (Err(_), Some(error @ UnlockError::Header(_))) => Err(Failure::new(Exit::BadBackup, error.to_string())),
            (Err(_), Some(error)) => Err(Failure::new(Exit::WrongSecret, error.to_string())),
            (Err(error), None) => Err(error.into()),
        }
    }

    /// Opens a backup and does the first pass.
    ///
    /// # Errors
    /// As [`Context::open`] and [`Context::index`].
    pub fn read(&mut self, path: &Path, args: &OpenArgs, consent: bool) -> Result<Reading, Failure> {
        let mut decoder = self.decoder(args)?;
        let opened = self.open(&mut decoder, path, args, consent)?;
        let index = self.index(&mut decoder, &opened, args)?;
        Ok(Reading { decoder, opened, index })
    }

    /// Searches directories, or the usual ones.
    ///
    /// # Errors
    /// When no decoder can be started, or the operator stops.
    pub fn search(&self, dirs: &[PathBuf], host: Option<&str>) -> Result<Found, Failure> {
        let mut decoder = Decoder::spawn()?;
        let places = places(dirs);
        let describe: &mut dyn crate::archive::Describe = &mut decoder;
        let found = discover(&places, host, SearchLimits::default(), describe);
        // The decoder ended with the interrupt, so what is found says nothing about the backups.
        if interrupt::raised() { Err(Failure::stopped()) } else { Ok(found) }
    }

    /// Lets the operator choose a backup.
    ///
    /// # Errors
    /// When there is none, or none is chosen.
    pub fn choose_backup(&mut self, dirs: &[PathBuf], encrypted_only: bool) -> Result<PathBuf, Failure> {
        loop {
            let mut places = places(dirs);
            if places.is_empty() {
                let usual = USUAL.map(|(_, path)| path).join(" and ");
                let text = format!(
                    "no backup was found: {usual} are not here; name a backup, or the directory that holds it with --from"
                );
                return Err(Failure::new(Exit::Nothing, text));
            }
            let mut back = false;
            if places.len() > 1 {
                let items: Vec<String> = places.iter().map(|place| super::text::path(&place.path)).collect();
                let question = Question { text: "Where is the backup", flag: "BACKUP", back: false };
                let Answer::Is(at) = self.dialogue.choose(question, &items, 0)? else { continue };
                places = vec![places.swap_remove(at)];
                back = true;
            }
            let dirs: Vec<PathBuf> = places.into_iter().map(|place| place.path).collect();
            let mut found = self.search(&dirs, None)?;
            found.backups.retain(|backup| backup.is_usable() && (backup.is_encrypted() || !encrypted_only));
            for bad in &found.bad {
                self.warn(format!("{}: {}", super::text::path(&bad.path), bad.reason));
            }
            if found.backups.is_empty() {
                let shown: Vec<String> = dirs.iter().map(|dir| super::text::path(dir)).collect();
                let text = format!("no backup was found in {}; name one, or a directory with --from", shown.join(", "));
                if back {
                    self.warn(text);
                    continue;
                }
                return Err(Failure::new(Exit::Nothing, text));
            }
            let items: Vec<String> = found.backups.iter().map(super::text::backup_line).collect();
            let question = Question { text: "Which backup", flag: "BACKUP", back };
            match self.dialogue.choose(question, &items, 0)? {
                Answer::Is(at) => match found.backups.get(at) {
                    Some(Backup { path, .. }) => return Ok(path.clone()),
                    None => continue,
                },
                Answer::Back => continue,
            }
        }
    }
}

/// Where the public tool and its predecessor keep backups.
const USUAL: [(&str, &str); 2] = [("local", "/opt/proxsave/backup"), ("local", "/opt/proxmox-backup/backup")];

/// The directories to search; where the public tool keeps backups unless told otherwise.
fn places(dirs: &[PathBuf]) -> Vec<Place> {
    let place = |label: &str, path: &Path| Place { label: label.to_owned(), path: path.to_owned() };
    if dirs.is_empty() {
        let mut found: Vec<Place> = USUAL.iter().map(|(label, path)| place(label, Path::new(path))).collect();
        found.retain(|place| place.path.is_dir());
        return found;
    }
    dirs.iter().map(|dir| place("", dir)).collect()
}

/// Asks for secrets through the dialogue.
struct Asking<'a>(&'a mut Dialogue);

impl AskSecret for Asking<'_> {
    fn can_ask(&self) -> bool {
        self.0.can_ask()
    }

    fn ask(&mut self, question: &crate::secrets::Question) -> io::Result<Option<SecretString>> {
        if !self.0.can_ask() {
            return Ok(None);
        }
        if let Some(again) = question.again() {
            self.0.say(again);
        }
        let text = question.to_string();
        let question = Question { text: &text, flag: "--identity or --passphrase-file", back: false };
        match self.0.secret(question) {
            Ok(Answer::Is(secret)) => Ok(Some(SecretString::from(secret.as_str().to_owned()))),
            Ok(Answer::Back)
            | Err(crate::dialogue::NoAnswer::Stopped | crate::dialogue::NoAnswer::NeedsFlag { .. }) => Ok(None),
            Err(crate::dialogue::NoAnswer::Terminal(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd as _;

    #[test]
    fn a_secret_from_a_descriptor_serves_more_than_one_backup() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        std::fs::File::from(writer).write_all(b"a passphrase\n").unwrap();
        let number = reader.into_raw_fd();
        let args = OpenArgs { passphrase_fd: Some(number), ..OpenArgs::default() };
        let mut context = Context::new(LogLevel::Error, true);
        for _ in 0..2 {
            let secrets = context.secrets(&args).unwrap();
            assert_eq!(secrets.iter().map(Secret::kind).collect::<Vec<_>>(), ["passphrase"]);
        }
    }
}
