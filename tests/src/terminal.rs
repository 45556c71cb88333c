//! The front-end on a real terminal: tmux keeps the screen, a test types and reads.

use crate::lab::{Lab, OPERATOR};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A tmux server of its own with one window, in which the front-end runs as the operator. Killed when dropped.
pub struct Terminal<'a> {
    lab: &'a Lab,
    server: String,
    deadline: Duration,
}

impl<'a> Terminal<'a> {
    /// Starts the front-end with these words in a window of 80 by 24. When it ends, `EXIT` and its code are printed,
    /// then what `stty` says about echo.
    ///
    /// # Panics
    /// When tmux cannot be started.
    #[must_use]
    pub fn start(lab: &'a Lab, words: &[&str]) -> Self {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let (home, program) = (lab.home().display().to_string(), lab.path().join("bin/proxsave-ui"));
        let script = format!(
            "trap : INT; cd {home}; setpriv --reuid {OPERATOR} --regid {OPERATOR} --clear-groups --inh-caps=-all env -i HOME={home} \
             PATH=/usr/bin:/bin LANG=C.UTF-8 TERM=screen {} {}; echo EXIT $?; stty -a | grep -o '[-]*echo '; sleep 600",
            program.display(),
            quoted.join(" ")
        );
        // One server may still be going when the next is wanted.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let server = format!("lab{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let terminal = Self { lab, server, deadline: Duration::from_secs(60) };
        terminal.tmux(&["new-session", "-d", "-x", "80", "-y", "24", "-s", "t", "sh", "-c", &script]);
        terminal
    }

    fn tmux(&self, words: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-f", "/dev/null", "-L", &self.server])
            .args(words)
            .env("TMUX_TMPDIR", self.lab.path())
            .env_remove("TMUX")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .expect("tmux is installed");
        assert!(output.status.success(), "tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Presses keys, by tmux's names.
    pub fn press(&self, keys: &[&str]) -> &Self {
        self.tmux(&[&["send-keys", "-t", "t"], keys].concat());
        self
    }

    /// Types a text and Enter.
    pub fn enter(&self, text: &str) -> &Self {
        if !text.is_empty() {
            self.tmux(&["send-keys", "-t", "t", "-l", text]);
        }
        self.press(&["Enter"])
    }

    /// Gives the window another size.
    pub fn resize(&self, columns: u16, rows: u16) -> &Self {
        self.tmux(&["resize-window", "-t", "t", "-x", &columns.to_string(), "-y", &rows.to_string()]);
        self
    }

    /// What is on the screen, as it is seen.
    #[must_use]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "t"])
    }

    /// What was ever on it and is not cleared, with wrapped lines joined.
    #[must_use]
    pub fn history(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-2000", "-t", "t"])
    }

    /// Waits until the screen is as wanted.
    ///
    /// # Panics
    /// When it does not come to be.
    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(start.elapsed() < self.deadline, "never on the screen: {what}; it shows:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a text that begins the last line with anything on it: a question, or the list below one.
    #[track_caller]
    pub fn asked(&self, text: &str) -> String {
        self.until(text, |screen| screen.trim_end().lines().last().is_some_and(|line| line.starts_with(text)))
    }

    /// Waits for the end; checks its code, and that the terminal is left as it was found: echo on, cursor shown.
    /// Gives all that was printed.
    #[track_caller]
    pub fn ended(&self, code: u8) -> String {
        self.until("EXIT and echo", |screen| screen.contains("EXIT ") && screen.trim_end().ends_with("echo"));
        let all = self.history();
        assert!(all.contains(&format!("EXIT {code}\n")), "not exit {code}:\n{all}");
        assert!(!all.contains("-echo"), "echo is off:\n{all}");
        assert_eq!(self.tmux(&["display-message", "-p", "-t", "t", "#{cursor_flag}"]).trim(), "1", "cursor:\n{all}");
        all
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let kill = ["-L", &self.server, "kill-server"];
        let _ = Command::new("tmux").args(kill).env("TMUX_TMPDIR", self.lab.path()).stderr(Stdio::null()).status();
    }
}
