//! Lines from standard input that Ctrl-C interrupts, shown or not.

use super::NoAnswer;
use crate::sys::interrupt;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, Stdin};
use zeroize::{Zeroize as _, Zeroizing};

/// The longest line that is taken.
const MAX_LINE: usize = 64 * 1024;

/// Whether what is typed is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Echo {
    /// Shown.
    On,
    /// Hidden.
    Off,
}

/// A reader of lines. Holds what came behind a line's end.
#[derive(Default)]
pub(super) struct Lines {
    ahead: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What was typed ahead may be a secret.
        f.write_str("Lines")
    }
}

impl Lines {
    /// The next line, without its end. The end of input stops.
    pub(super) fn next(&mut self, echo: Echo) -> Result<Zeroizing<String>, NoAnswer> {
        let stdin = io::stdin();
        let hidden = (echo == Echo::Off).then(|| Hidden::begin(&stdin)).transpose()?;
        let line = self.read(&stdin);
        if hidden.is_some() || line.is_err() {
            // The end of the line was not shown.
            eprintln!();
        }
        line
    }

    fn read(&mut self, stdin: &Stdin) -> Result<Zeroizing<String>, NoAnswer> {
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let rest = Zeroizing::new(self.ahead.get(end + 1..).unwrap_or_default().to_vec());
                self.ahead.truncate(end);
                let line = Zeroizing::new(String::from_utf8_lossy(&self.ahead).trim_end_matches('\r').to_owned());
                self.ahead.zeroize();
                self.ahead = rest;
                return Ok(line);
            }
            if interrupt::raised() || self.ahead.len() > MAX_LINE {
                return Err(NoAnswer::Stopped);
            }
            let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
            match poll(&mut [PollFd::new(stdin, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(NoAnswer::Terminal(error.into())),
            }
            let mut buffer = Zeroizing::new([0u8; 1024]);
            match rustix::io::read(stdin, buffer.as_mut_slice()) {
                Ok(0) => return Err(NoAnswer::Stopped),
                Ok(count) => self.ahead.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(NoAnswer::Terminal(error.into())),
            }
        }
    }
}

/// While it lives, the terminal does not show what is typed.
struct Hidden<'a> {
    stdin: &'a Stdin,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn begin(stdin: &'a Stdin) -> io::Result<Self> {
        let before = tcgetattr(stdin)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin, OptionalActions::Flush, &quiet)?;
        Ok(Self { stdin, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Nothing can be done when the terminal is gone.
        let _ = tcsetattr(self.stdin, OptionalActions::Now, &self.before);
    }
}
