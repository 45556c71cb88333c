//! From a backup to a plan: what fits, what is wanted, what is there.

use super::session::Session;
use super::{Context, Failure, Reading};
use crate::cli::{Exit, OpenArgs, SelectionArgs};
use crate::decoder::Index;
use crate::dialogue::{Answer, Progress, Question, bytes};
use crate::planner::{Draft, Planned, local};
use crate::selection::{Compatibility, PathGlob, Request, Selection, Tally, available};
use proxsave_proto::plan::ArchiveRef;
use proxsave_proto::state::Target;
use proxsave_proto::{CategoryId, Mode, Roles};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

/// What the host is, and how that is known.
#[derive(Debug, Clone)]
pub struct Host {
    /// The roles.
    pub roles: Roles,
    /// Sentences.
    pub evidence: Vec<String>,
}

impl Host {
    /// As the helper sees its root, unless the operator knows better.
    #[must_use]
    pub fn of(session: Option<&Session>, stated: Option<Roles>) -> Self {
        match (stated, session) {
            (Some(roles), _) => Self { roles, evidence: vec!["stated with --host-role".to_owned()] },
            (None, Some(session)) => {
                Self { roles: session.hello().host.roles, evidence: session.hello().host.evidence.clone() }
            }
            (None, None) => Self::seen(),
        }
    }

    /// As anyone can see it on this machine.
    fn seen() -> Self {
        let mut roles = Roles::UNKNOWN;
        let mut evidence = Vec::new();
        for (path, pve) in [
            ("/etc/pve", true),
            ("/usr/bin/qm", true),
            ("/usr/bin/pct", true),
            ("/etc/proxmox-backup", false),
            ("/usr/sbin/proxmox-backup-proxy", false),
        ] {
            if std::fs::symlink_metadata(path).is_ok() {
                evidence.push(format!("{path} exists"));
                if pve { roles.pve = true } else { roles.pbs = true }
            }
        }
        Self { roles, evidence }
    }
}

/// The backup as the plan names it.
#[must_use]
pub fn archive_ref(reading: &Reading) -> ArchiveRef {
    let backup = &reading.opened.backup;
    ArchiveRef {
        sha256: reading.index.sha256,
        name: backup.path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default(),
        hostname: backup.hostname().unwrap_or_default().as_bytes().to_vec(),
        created_at: super::text::utc(backup.created_at),
    }
}

impl Context {
    /// Tells how host and backup fit, and asks when they do not.
    ///
    /// # Errors
    /// When the operator does not agree.
    pub fn consent(&mut self, host: &Host, index: &Index, args: &OpenArgs) -> Result<Compatibility, Failure> {
        let found = Compatibility::judge(host.roles, &host.evidence, index.roles.roles, &index.roles.why);
        if found.needs_consent() {
            for reason in &found.reasons {
                self.caution(reason);
            }
            if !args.accept_warnings {
                let question = Question { text: "Go on all the same", flag: "--accept-warnings", back: false };
                if self.dialogue.confirm(question)? != Answer::Is(true) {
                    return Err(Failure::stopped());
                }
            }
        } else {
            for reason in &found.reasons {
                self.debug(reason);
            }
        }
        Ok(found)
    }

    /// What is wanted: by the flags, else asked.
    ///
    /// # Errors
    /// When nothing is selected, or nobody answers.
    pub fn select(&mut self, index: &Index, host: Roles, args: &SelectionArgs) -> Result<Selection, Failure> {
        let globs =
            |texts: &[String]| texts.iter().map(|text| PathGlob::new(text.as_bytes())).collect::<Result<Vec<_>, _>>();
        let (include, exclude) = (globs(&args.include)?, globs(&args.exclude)?);
        let held = available(index);
        let backup = index.roles.roles;
        let asked = args.mode.is_none() && args.categories.is_empty();
        let mut categories = args.categories.clone();
        loop {
            let mode = match args.mode {
                Some(mode) => mode,
                None if !args.categories.is_empty() => Mode::Custom,
                None => self.ask_mode(&held, host, backup)?,
            };
            if mode == Mode::Custom && args.categories.is_empty() {
                match self.ask_categories(&held, host, backup, asked)? {
                    Answer::Is(chosen) => categories = chosen,
                    Answer::Back => continue,
                }
            }
            let request =
                Request { mode, categories: categories.clone(), include: include.clone(), exclude: exclude.clone() };
            match Selection::new(&held, request, host, backup) {
                Ok(selection) => return Ok(selection),
                Err(error) if asked && self.dialogue.can_ask() => self.dialogue.say(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn ask_mode(&mut self, held: &[Tally], host: Roles, backup: Roles) -> Result<Mode, Failure> {
        let modes = [Mode::Full, Mode::Storage, Mode::Base, Mode::Custom];
        let describe = |mode: Mode| {
            let fitting = held.iter().filter(|tally| tally.category.fits(host) && tally.category.fits(backup));
            let (count, size) = fitting
                .filter(|tally| tally.category.in_mode(mode, host))
                .fold((0u32, 0u64), |(count, size), tally| (count + 1, size.saturating_add(tally.bytes)));
            let what = match mode {
                Mode::Full => "everything that fits this host",
                Mode::Storage => "storage of guests and backups",
                Mode::Base => "network, SSH, services, certificates",
                Mode::Custom => "choose categories",
            };
            match (mode, host.is_unknown()) {
                (Mode::Storage, true) => format!("storage  {what}: not on a host of unknown kind"),
                (Mode::Custom, _) => format!("custom   {what} ({count} fit)"),
                _ => format!("{:<8} {what} ({count} categories, up to {})", mode.key(), bytes(size)),
            }
        };
        let items: Vec<String> = modes.iter().map(|mode| describe(*mode)).collect();
        let question = Question { text: "What to restore", flag: "--mode or --category", back: false };
        loop {
            if let Answer::Is(at) = self.dialogue.choose(question, &items, 0)?
                && let Some(mode) = modes.get(at)
            {
                return Ok(*mode);
            }
        }
    }

    fn ask_categories(
        &mut self,
        held: &[Tally],
        host: Roles,
        backup: Roles,
        back: bool,
    ) -> Result<Answer<Vec<CategoryId>>, Failure> {
        let fitting: Vec<&Tally> =
            held.iter().filter(|tally| tally.category.fits(host) && tally.category.fits(backup)).collect();
        let items: Vec<String> = fitting
            .iter()
            .map(|tally| {
                let how = if tally.category.is_written() { "" } else { "  (exported)" };
                format!("{:<24} {:>6} entries {:>10}{how}", tally.category.row().key, tally.entries, bytes(tally.bytes))
            })
            .collect();
        let question = Question { text: "Which categories", flag: "--category", back };
        Ok(match self.dialogue.choose_many(question, &items, &[])? {
            Answer::Is(chosen) => {
                Answer::Is(chosen.iter().filter_map(|at| fitting.get(*at)).map(|tally| tally.category).collect())
            }
            Answer::Back => Answer::Back,
        })
    }

    /// Looks at the live files and makes the plan, which will name the backup as `archive` does.
    ///
    /// # Errors
    /// When the session ends, or the tree changes meanwhile.
    pub fn plan(
        &mut self,
        index: &Index,
        selection: &Selection,
        session: Option<&Session>,
        archive: ArchiveRef,
    ) -> Result<Planned, Failure> {
        let granted = session.map(|session| session.hello().granted.as_slice());
        let privileged_bits = session.is_none_or(|session| session.hello().grants_privileged_bits);
        let draft = Draft::new(index, selection, granted)?.with_privileged_bits(privileged_bits);
        let targets: Vec<Option<Target>> = match session {
            Some(session) => {
                let mut bar = Progress::begin("Looking", None);
                let found = session.probe(draft.questions(), |seen| bar.set(0, seen))?;
                found.into_iter().map(Some).collect()
            }
            None => {
                let root = std::fs::File::open("/")?;
                let mut found = Vec::new();
                for item in draft.questions() {
                    if crate::sys::interrupt::raised() {
                        return Err(Failure::stopped());
                    }
                    found.push(local::probe(root.as_fd(), &item));
                }
                found
            }
        };
        Ok(draft.finish(targets, archive)?)
    }
}

/// The error for a plan that cannot be submitted.
#[must_use]
pub fn not_submittable() -> Failure {
    Failure::new(
        Exit::NoHelper,
        "without a helper not everything could be looked at, so this plan cannot be submitted; use --socket or --launch",
    )
}
