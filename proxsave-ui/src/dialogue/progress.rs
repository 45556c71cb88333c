//! How far a long step is.

use super::bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// How often a pipe gets a line.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// A bar on a terminal, a line now and then on a pipe, both on standard error.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// Begins a step. `total` is its bytes, where they are known.
    #[must_use]
    pub fn begin(what: &'static str, total: Option<u64>) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        let bar = (console::Term::stderr().is_term() && !dumb).then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(8));
            let with_total = "{prefix} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {msg}";
            let without = "{prefix} {spinner} {msg}";
            let template = if total.is_some() { with_total } else { without };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(what);
            bar
        });
        Self { what, total, bar, last_line: Instant::now() }
    }

    /// Says how far it is: bytes and files done.
    pub fn set(&mut self, done: u64, files: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            let moved = if self.total.is_none() && done > 0 { format!("{}, ", bytes(done)) } else { String::new() };
            bar.set_message(format!("{moved}{files} files"));
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{}", line(self.what, self.total, done, files));
        }
    }

    /// Takes the bar away.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn line(what: &str, total: Option<u64>, done: u64, files: u64) -> String {
    match total {
        Some(total) => format!("{what}: {} of {}, {files} files", bytes(done), bytes(total)),
        None => format!("{what}: {}, {files} files", bytes(done)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far() {
        assert_eq!(line("Reading", Some(2048), 1024, 3), "Reading: 1.0 KiB of 2.0 KiB, 3 files");
        assert_eq!(line("Reading", None, 1024, 3), "Reading: 1.0 KiB, 3 files");
    }
}
