//! The public tool's spellings, turned into this program's.

use std::ffi::OsString;

const COMMANDS: [&str; 6] = ["list", "show", "verify", "decrypt", "plan", "restore"];

/// Rewrites a command line whose command is given as `--restore` or `--decrypt`: the first such flag before any
/// command becomes the command, in front of everything else. Other command lines are left alone. The first word
/// is the program.
#[must_use]
pub fn modern(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let is_command = |word: &OsString| COMMANDS.iter().any(|command| word == command) || word == "--";
    let found =
        words.iter().enumerate().skip(1).take_while(|(_, word)| !is_command(word)).find_map(|(at, word)| {
            ["--restore", "--decrypt"].into_iter().find(|flag| word == flag).map(|flag| (at, flag))
        });
    if let Some((at, flag)) = found {
        words.remove(at);
        words.insert(1, flag.trim_start_matches('-').into());
    }
    words
}
