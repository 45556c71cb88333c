//! The command line.
//!
//! Flags are read into plain structures here; what they mean together is decided by the commands. Secrets are
//! never read from the command line itself, where every process of the machine could see them: only the names
//! of files and descriptors are.

mod exit;
mod spelling;

pub use exit::Exit;
pub use spelling::modern;

use clap::{Args, Parser, Subcommand, ValueEnum};
use proxsave_proto::{CategoryId, Mode, Roles};
use std::path::PathBuf;

/// Where the helper's socket is, unless `--socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/proxsave/helper.sock";
/// Where root's helper program is, unless `--helper` says otherwise.
pub const DEFAULT_HELPER: &str = "/usr/libexec/proxsave-helper";
/// The word that starts a restore.
pub const CONFIRM_WORD: &str = "RESTORE";

/// Restores backups of Proxmox hosts as an ordinary user, through a small root helper.
#[derive(Debug, Parser)]
#[command(name = "proxsave-ui", version, about, after_help = exit::HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// How much to say: debug, info, warning, error or critical
    #[arg(short, long, global = true, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the backups in some directories, newest first
    List(ListArgs),
    /// Show what a backup is and holds
    Show(ShowArgs),
    /// Check a backup whole: hash, decryption, decompression, every header, every companion file
    Verify(VerifyArgs),
    /// Write a plain bundle of an encrypted backup; never overwrites
    Decrypt(DecryptArgs),
    /// Show what a restore would change; changes nothing. Without --socket or --launch it looks only at what you can read
    Plan(PlanArgs),
    /// Restore a backup through the root helper
    Restore(Box<RestoreArgs>),
}

/// How much to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    /// Only what ends the program.
    Critical,
    /// Failures.
    Error,
    /// And warnings.
    Warning,
    /// And what is being done.
    Info,
    /// And details for finding faults.
    Debug,
}

impl Command {
    /// Whether the result is wanted as JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        match self {
            Command::List(args) => args.json,
            Command::Show(args) => args.json,
            Command::Verify(args) => args.json,
            Command::Decrypt(args) => args.json,
            Command::Plan(args) => args.json,
            Command::Restore(args) => args.json,
        }
    }

    /// Whether nothing may be asked.
    #[must_use]
    pub fn no_input(&self) -> bool {
        match self {
            Command::List(_) => true,
            Command::Show(args) => args.open.no_input,
            Command::Verify(args) => args.open.no_input,
            Command::Decrypt(args) => args.open.no_input,
            Command::Plan(args) => args.open.no_input,
            Command::Restore(args) => args.open.no_input,
        }
    }
}

/// `list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Directories to search, with the folders below them [default: the usual ones]
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Only backups of this host
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The backup: a bundle or an archive
    pub backup: PathBuf,
    /// List every entry
    #[arg(long)]
    pub entries: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub open: OpenArgs,
}

/// `verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The backup: a bundle or an archive
    pub backup: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub open: OpenArgs,
}

/// `decrypt`
#[derive(Debug, Args)]
pub struct DecryptArgs {
    /// The backup: a bundle or an archive [default: asked]
    pub backup: Option<PathBuf>,
    /// The file to write; must not exist [default: NAME.decrypted.bundle.tar here]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Directories to search when no backup is named
    #[arg(long, value_name = "DIR")]
    pub from: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub open: OpenArgs,
}

/// `plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The backup: a bundle or an archive
    pub backup: PathBuf,
    /// Write the plan to this new file, for `restore --plan`; needs a helper
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub selection: SelectionArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub helper: HelperArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub open: OpenArgs,
}

/// `restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup: a bundle or an archive [default: asked]
    pub backup: Option<PathBuf>,
    /// Carry out exactly this plan file (from `plan -o`)
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["mode", "categories", "include", "exclude", "host_role"])]
    pub plan: Option<PathBuf>,
    /// Directories to search when no backup is named
    #[arg(long, value_name = "DIR")]
    pub from: Vec<PathBuf>,
    /// Write nothing, in the root or the export directory: the archive is read whole and verified against its hash,
    /// the live files are looked at, and the helper checks the plan as for a real restore; its log says dry run
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Start without asking; the word must be RESTORE
    #[arg(long, value_name = "WORD")]
    pub confirm: Option<String>,
    /// Where what is not applied goes: an existing directory of yours, or a new one [default: asked]
    #[arg(long, value_name = "DIR")]
    pub export_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub selection: SelectionArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub helper: HelperArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub open: OpenArgs,
}

/// What of the backup is wanted.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Selection")]
pub struct SelectionArgs {
    /// full, storage, base or custom
    #[arg(long, value_parser = parse_mode)]
    pub mode: Option<Mode>,
    /// Only these categories (see `show`); without --mode means custom
    #[arg(long = "category", value_name = "ID", value_parser = parse_category, value_delimiter = ',')]
    pub categories: Vec<CategoryId>,
    /// Only paths that match, and what is below them. `*`, `?`, `[..]` stay within one name; `**` is any number of them
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// No paths that match, nor what is below them
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// What the host is: pve, pbs, dual or unknown [default: detected in the helper's root]
    #[arg(long, value_name = "ROLE", value_parser = parse_roles)]
    pub host_role: Option<Roles>,
}

/// How the root helper is reached.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Helper")]
pub struct HelperArgs {
    /// The helper's socket [default: /run/proxsave/helper.sock]
    #[arg(long, value_name = "PATH", conflicts_with = "launch")]
    pub socket: Option<PathBuf>,
    /// Start the helper instead: `direct` when root starts this program, which then becomes --run-as
    #[arg(long, value_name = "HOW", requires = "run_as")]
    pub launch: Option<Launch>,
    /// The helper program to start [default: /usr/libexec/proxsave-helper]
    #[arg(long, value_name = "PATH", requires = "launch")]
    pub helper: Option<PathBuf>,
    /// The user to become, for good, before any input is read
    #[arg(long, value_name = "USER", requires = "launch")]
    pub run_as: Option<String>,
    /// The helper's --root: restore into this root instead of /
    #[arg(long, value_name = "DIR", requires = "launch")]
    pub root: Option<PathBuf>,
    /// The helper's --state: where journal and audit log are
    #[arg(long, value_name = "DIR", requires = "launch")]
    pub state: Option<PathBuf>,
}

/// Ways to start a helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Launch {
    /// This program runs as root, starts the helper, and becomes an ordinary user.
    Direct,
}

/// How a backup is opened and how questions are answered.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Opening")]
pub struct OpenArgs {
    /// A file with age or SSH identities; may be repeated
    #[arg(long = "identity", value_name = "FILE")]
    pub identities: Vec<PathBuf>,
    /// A file whose first line is the passphrase
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// An open descriptor to read the passphrase from
    #[arg(long, value_name = "FD", conflicts_with = "passphrase_file")]
    pub passphrase_fd: Option<i32>,
    /// An open descriptor to read an identity from
    #[arg(long, value_name = "FD")]
    pub identity_fd: Option<i32>,
    /// Never ask: a question whose flag is missing is an error
    #[arg(long)]
    pub no_input: bool,
    /// Answer every warning with yes (missing companions, other kind of host)
    #[arg(long)]
    pub accept_warnings: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub limits: LimitArgs,
}

/// Bounds on what one archive may cost; each error that names a limit names its flag.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Entries in the archive [default: 1000000]
    #[arg(long, value_name = "N")]
    pub limit_entries: Option<u32>,
    /// Bytes of one path [default: 4095]
    #[arg(long, value_name = "BYTES")]
    pub limit_path: Option<u32>,
    /// Bytes of the decompressed archive [default: none; what is written must fit into what is free all the same]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub limit_total: Option<u64>,
    /// Bytes of one extension header [default: 1M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub limit_header: Option<u64>,
    /// Bytes of a manifest, metadata or checksum file [default: 256K]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub limit_manifest: Option<u64>,
    /// Bytes of the list of deduplicated files [default: 16M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub limit_dedup: Option<u64>,
    /// Decompressed bytes for each stored byte [default: 1000]
    #[arg(long, value_name = "N")]
    pub limit_ratio: Option<u32>,
    /// Bytes of a codec's window [default: 128M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub limit_window: Option<u64>,
}

impl LimitArgs {
    /// The decoder's limits with these changes.
    #[must_use]
    pub fn apply(&self) -> crate::decoder::Limits {
        let base = crate::decoder::Limits::default();
        let narrow = |value: Option<u64>, default: u32| value.map_or(default, |v| u32::try_from(v).unwrap_or(u32::MAX));
        crate::decoder::Limits {
            entries: self.limit_entries.unwrap_or(base.entries),
            path_bytes: self.limit_path.unwrap_or(base.path_bytes),
            plain_bytes: self.limit_total.unwrap_or(base.plain_bytes),
            header_bytes: narrow(self.limit_header, base.header_bytes),
            manifest_bytes: narrow(self.limit_manifest, base.manifest_bytes),
            dedup_bytes: narrow(self.limit_dedup, base.dedup_bytes),
            ratio: self.limit_ratio.unwrap_or(base.ratio),
            window_bytes: self.limit_window.unwrap_or(base.window_bytes),
            ..base
        }
    }
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    [Mode::Full, Mode::Storage, Mode::Base, Mode::Custom]
        .into_iter()
        .find(|mode| mode.key() == text)
        .ok_or_else(|| "one of full, storage, base, custom".to_owned())
}

fn parse_category(text: &str) -> Result<CategoryId, String> {
    CategoryId::from_key(text).ok_or_else(|| {
        let keys: Vec<&str> = proxsave_proto::category::CATEGORIES.iter().map(|row| row.key).collect();
        format!("no such category; there are: {}", keys.join(", "))
    })
}

fn parse_roles(text: &str) -> Result<Roles, String> {
    Roles::from_key(text).ok_or_else(|| "one of pve, pbs, dual, unknown".to_owned())
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (text.get(..text.len() - 1), 10),
        Some(b'M') => (text.get(..text.len() - 1), 20),
        Some(b'G') => (text.get(..text.len() - 1), 30),
        Some(b'T') => (text.get(..text.len() - 1), 40),
        _ => (Some(text), 0),
    };
    digits
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|value| value.checked_mul(1 << shift))
        .ok_or_else(|| "a number of bytes, with K, M, G or T behind it if you like".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        let words = std::iter::once("proxsave-ui").chain(words.iter().copied()).map(Into::into);
        Cli::try_parse_from(modern(words))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for exit in Exit::ALL {
            assert!(help.contains(&format!("{:>5}  {}", exit.code(), exit.meaning())), "{exit:?} in {help}");
        }
    }

    #[test]
    fn the_public_tools_spellings_work() {
        for words in [
            &["--restore", "--dry-run", "--log-level", "debug", "a.tar"][..],
            &["-n", "--restore", "-l", "debug", "a.tar"],
            &["-l", "debug", "restore", "-n", "a.tar"],
        ] {
            let cli = parse(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            assert_eq!(cli.log_level, LogLevel::Debug, "{words:?}");
            let Command::Restore(restore) = cli.command else { panic!("{words:?}") };
            assert!(restore.dry_run && restore.backup.as_deref() == Some("a.tar".as_ref()), "{words:?}");
        }
        assert!(matches!(parse(&["--decrypt"]).map(|cli| cli.command), Ok(Command::Decrypt(_))));
        assert!(parse(&["--restore", "--decrypt"]).is_err());
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        for words in [
            &["restore", "--plan", "p", "--mode", "full"][..],
            &["restore", "x", "--launch", "direct"],
            &["restore", "x", "--run-as", "anna"],
            &["restore", "x", "--socket", "s", "--launch", "direct", "--run-as", "anna"],
            &["plan", "x", "--category", "no_such"],
            &["show"],
            &[],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        assert!(parse(&["restore", "x", "--launch", "direct", "--run-as", "anna", "--root", "/mnt"]).is_ok());
    }

    #[test]
    fn sizes_take_suffixes() {
        assert_eq!(parse_bytes("12"), Ok(12));
        assert_eq!(parse_bytes("3k"), Ok(3072));
        assert_eq!(parse_bytes("1T"), Ok(1 << 40));
        for bad in ["", "K", "-1", "1X", "99999999999T", "1é"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
