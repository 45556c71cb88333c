//! A place to restore in: a root tree, a helper that runs as root, an operator who has no right at all.

use crate::bins::program;
use crate::fixtures::{Fixture, Secret};
use crate::snapshot::Snapshot;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The operator: an ordinary user id that no user database knows.
pub const OPERATOR: u32 = 61001;

/// A scratch folder with all that a restore needs. Needs root, as a helper does.
pub struct Lab {
    dir: tempfile::TempDir,
    /// Longest that one run of the front-end may take.
    pub deadline: Duration,
}

/// A finished run of the front-end.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
    /// What the helper wrote to its standard error meanwhile.
    pub helper: String,
}

/// A helper that is running; stopped when dropped.
pub struct Helper {
    child: Child,
    log: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
}

impl Lab {
    /// A fresh lab with an empty root.
    ///
    /// # Panics
    /// When it cannot be made (not root, no space).
    #[must_use]
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "end-to-end tests start a root helper: run them as root");
        let base = std::env::var_os("PROXSAVE_LAB_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::Builder::new().prefix("proxsave-lab-").tempdir_in(base).expect("a scratch folder");
        let lab = Self { dir, deadline: Duration::from_secs(180) };
        fs::set_permissions(lab.path(), Permissions::from_mode(0o755)).expect("chmod of an own folder");
        for (name, mode, owner) in [
            ("root", 0o755, 0),
            ("state", 0o700, 0),
            ("run", 0o755, 0),
            ("bin", 0o755, 0),
            ("home", 0o700, OPERATOR),
            ("backups", 0o755, OPERATOR),
        ] {
            let path = lab.path().join(name);
            fs::create_dir(&path).expect("a folder in the lab");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod of an own folder");
            chown(&path, Some(owner), Some(owner)).expect("chown as root");
        }
        for name in ["proxsave-ui", "proxsave-helper"] {
            let (from, to) = (program(name), lab.path().join("bin").join(name));
            // The build folder may lie where the operator cannot go.
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).expect("a copy of a program");
            }
        }
        lab
    }

    /// The lab's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The tree that is restored into.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// The helper's state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Where the operator keeps backups.
    #[must_use]
    pub fn backups(&self) -> PathBuf {
        self.path().join("backups")
    }

    /// The operator's home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// Where exports go (made by the front-end).
    #[must_use]
    pub fn exports(&self) -> PathBuf {
        self.home().join("export")
    }

    /// Makes a small live host in the root: what a restore meets and mostly has to leave alone.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn populate(&self) {
        let root = self.root();
        for (path, mode, owner) in [
            ("etc", 0o755, 0),
            ("etc/pve", 0o755, 0),
            ("etc/pve/priv", 0o700, 0),
            ("etc/ssh", 0o755, 0),
            ("etc/cron.d", 0o755, 0),
            ("home", 0o755, 0),
            ("home/anna", 0o750, 1000),
            ("root", 0o700, 0),
            ("var", 0o755, 0),
            ("var/lib", 0o755, 0),
            ("var/lib/pve-cluster", 0o755, 0),
            ("var/spool", 0o755, 0),
            ("var/spool/cron", 0o755, 0),
            ("usr", 0o755, 0),
            ("usr/local", 0o755, 0),
            ("srv", 0o755, 0),
        ] {
            let path = root.join(path);
            fs::create_dir(&path).expect("a folder of the live host");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod as root");
            chown(&path, Some(owner), Some(owner)).expect("chown as root");
        }
        for (path, text, mode) in [
            ("etc/hosts", "127.0.0.1 live\n", 0o644),
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644),
            ("etc/shadow", "root:*:1::::::\n", 0o600),
            ("etc/fstab", "# live\n", 0o644),
            ("etc/pve/storage.cfg", "dir: live\n", 0o640),
            ("etc/pve/priv/authkey.key", "live key\n", 0o600),
            ("etc/ssh/sshd_config", "# live\n", 0o600),
            ("etc/cron.d/live", "# live\n", 0o644),
            ("var/lib/pve-cluster/config.db", "live database\n", 0o600),
            ("home/anna/live.txt", "live\n", 0o600),
            ("srv/live", "live\n", 0o644),
        ] {
            let path = root.join(path);
            fs::write(&path, text).expect("a file of the live host");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod as root");
        }
        symlink("/etc/shadow", root.join("srv/link")).expect("a link of the live host");
    }

    /// Copies a backup's files to where the operator can read them; gives the path to name.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn take(&self, fixture: &Fixture) -> PathBuf {
        let to = self.backups().join(&fixture.dir);
        fs::create_dir_all(&to).expect("a folder for the backup");
        for file in fs::read_dir(fixture.folder()).expect("the fixture's folder") {
            let file = file.expect("a folder's entry");
            let name = file.file_name();
            let text = name.to_string_lossy().into_owned();
            if !text.ends_with(".listing.json") && text != "backup.env" {
                fs::copy(file.path(), to.join(&name)).expect("a copy of a backup file");
                fs::set_permissions(to.join(&name), Permissions::from_mode(0o644)).expect("chmod as root");
            }
        }
        to.join(&fixture.archive)
    }

    /// Writes a file that only the operator can read.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn secret_file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.home().join(name);
        fs::write(&path, content).expect("a file in the operator's home");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod as root");
        chown(&path, Some(OPERATOR), Some(OPERATOR)).expect("chown as root");
        path
    }

    /// The options that give a fixture's secret to the front-end.
    ///
    /// # Panics
    /// When the key cannot be read.
    #[must_use]
    pub fn secret_options(&self, fixture: &Fixture) -> Vec<OsString> {
        match fixture.secret() {
            Secret::None => Vec::new(),
            Secret::Identity(name) => {
                let key = fs::read(fixture.base.join("keys").join(name)).expect("the set's key");
                vec!["--identity".into(), self.secret_file(name, &key).into()]
            }
            Secret::Passphrase(text) => {
                vec!["--passphrase-file".into(), self.secret_file("passphrase", text.as_bytes()).into()]
            }
        }
    }

    /// Starts a helper for one connection.
    ///
    /// # Panics
    /// When it does not listen within five seconds.
    #[must_use]
    pub fn helper(&self) -> Helper {
        self.helper_with(&["--once"])
    }

    /// Starts a helper with more options.
    ///
    /// # Panics
    /// When it does not listen within ten seconds.
    #[must_use]
    pub fn helper_with(&self, options: &[&str]) -> Helper {
        let socket = self.path().join("run/helper.sock");
        let _ = fs::remove_file(&socket);
        let log = self.path().join("helper.log");
        let mut child = Command::new(self.path().join("bin/proxsave-helper"))
            .arg("serve")
            .arg("--listen")
            .arg(&socket)
            .arg("--root")
            .arg(self.root())
            .arg("--state")
            .arg(self.state())
            .args(["--for-user", &OPERATOR.to_string()])
            .args(options)
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log).expect("a log in the lab"))
            .process_group(0)
            .spawn()
            .expect("the helper starts");
        let start = Instant::now();
        while !listens(&socket) {
            if let Some(status) = child.try_wait().expect("the helper's state") {
                panic!("the helper ended at once ({status}): {}", fs::read_to_string(&log).unwrap_or_default());
            }
            assert!(start.elapsed() < Duration::from_secs(10), "the helper does not listen");
            std::thread::sleep(Duration::from_millis(2));
        }
        Helper { child, log, socket }
    }

    /// A command of the front-end as the operator, not started.
    #[must_use]
    pub fn ui(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.path().join("bin/proxsave-ui"));
        command
            .args(words)
            .env_clear()
            .env("HOME", self.home())
            .env("PATH", "/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm")
            .current_dir(self.home())
            .uid(OPERATOR)
            .gid(OPERATOR)
            .process_group(0);
        command
    }

    /// The options of an unattended restore of everything.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn restore_command(&self, backup: &Path, role: &str, helper: &Helper) -> Command {
        let mut command = self.ui(&["restore"]);
        command
            .arg(backup)
            .args(["--mode", "full", "--host-role", role, "--no-input", "--confirm", "RESTORE", "--accept-warnings"])
            .arg("--json")
            .arg("--export-dir")
            .arg(self.exports())
            .arg("--socket")
            .arg(&helper.socket);
        command
    }

    /// Restores everything of a backup through a fresh helper.
    #[must_use]
    pub fn restore(&self, backup: &Path, role: &str, more: &[OsString]) -> Outcome {
        let helper = self.helper();
        let mut command = self.restore_command(backup, role, &helper);
        command.args(more);
        let mut outcome = self.run(command);
        outcome.helper = helper.finish();
        outcome
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it takes longer than [`Lab::deadline`], or a panic shows in what it prints.
    #[must_use]
    pub fn run(&self, mut command: Command) -> Outcome {
        let (out, err) = (self.path().join("ui.out"), self.path().join("ui.err"));
        let file = |path: &Path| File::create(path).expect("a log in the lab");
        let mut child =
            command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err)).spawn().expect("the front-end starts");
        let status = wait(&mut child, self.deadline);
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let outcome = Outcome {
            code: status.and_then(|status| status.code()),
            stdout: read(&out),
            stderr: read(&err),
            helper: String::new(),
        };
        assert!(status.is_some(), "the front-end hangs: {outcome:?}");
        outcome.assert_no_panic();
        outcome
    }

    /// A snapshot of the root.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.root())
    }

    /// Runs `proxsave-helper audit verify`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn audit_verify(&self) -> Outcome {
        let output = Command::new(self.path().join("bin/proxsave-helper"))
            .args(["audit", "verify", "--state"])
            .arg(self.state())
            .output()
            .expect("the helper starts");
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            helper: String::new(),
        }
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Outcome {
    /// Fails when a program panicked or was killed by a signal.
    ///
    /// # Panics
    /// Then.
    pub fn assert_no_panic(&self) {
        for text in [&self.stdout, &self.stderr, &self.helper] {
            assert!(!text.contains("panicked at"), "a panic: {self:?}");
        }
    }

    /// Gives the JSON on standard output.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("no JSON ({why}): {self:?}"))
    }

    /// Fails unless it went well.
    ///
    /// # Panics
    /// Then.
    #[track_caller]
    pub fn assert_ok(&self) -> &Self {
        self.assert_no_panic();
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Fails unless it was refused: an exit code of its own, and a reason.
    ///
    /// # Panics
    /// Then.
    #[track_caller]
    pub fn assert_refused(&self) -> &Self {
        self.assert_no_panic();
        assert!(self.code.is_some_and(|code| code != 0), "{self:?}");
        assert!(!self.stderr.trim().is_empty() || !self.stdout.trim().is_empty(), "no reason given: {self:?}");
        self
    }
}

impl Helper {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; gives what it wrote to standard error.
    ///
    /// # Panics
    /// When it does not end within twenty seconds, or panicked.
    #[must_use]
    pub fn finish(mut self) -> String {
        // Uses up the one connection of a helper that the front-end never came to.
        drop(std::os::unix::net::UnixStream::connect(&self.socket));
        let status = wait(&mut self.child, Duration::from_secs(20));
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        assert!(status.is_some(), "the helper does not end: {text}");
        assert!(!text.contains("panicked at"), "the helper panicked: {text}");
        text
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills its whole process group at once.
    pub fn kill(&mut self) {
        kill_group(self.child.id());
        let _ = self.child.wait();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        kill_group(self.child.id());
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the helper said:\n{}", self.log());
        }
    }
}

/// Whether somebody listens on a socket; connecting to find out would use up a helper that serves once.
fn listens(socket: &Path) -> bool {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let name = socket.to_string_lossy().into_owned();
    // The fourth column is the socket's flags: 0x10000 (SO_ACCEPTCON) is set while it listens.
    table.lines().any(|line| line.ends_with(&name) && line.split_whitespace().nth(3) == Some("00010000"))
}

/// Kills a process group that a test started.
pub fn kill_group(leader: u32) {
    if let Some(pid) = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

/// Waits for a child; kills its group and gives `None` when it takes longer.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if start.elapsed() > limit {
            kill_group(child.id());
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
