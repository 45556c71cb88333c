//! Talking to a person: questions, pages, progress.
//!
//! Everything here goes to standard error, so that standard output stays for results. Every question can be
//! answered with back (where there is something to go back to) or cancel, and Ctrl-C cancels anywhere. On a
//! terminal that can do it, lists are moved through with the arrow keys; with `TERM=dumb` they are numbered and
//! answered with a line. Without a terminal, or with `--no-input`, a question is an error that names its flag.
//!
//! Callers pass only text that is safe to print (see [`proxsave_proto::escape`]).

mod input;
mod pager;
mod progress;

pub use progress::Progress;

use console::Term;
use std::io;

/// A dialogue with one person, or with nobody.
#[derive(Debug)]
pub struct Dialogue {
    term: Term,
    manner: Manner,
    input: input::Lines,
}

/// How questions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Lists with arrow keys.
    Keys,
    /// Numbered lists and lines of text.
    Lines,
    /// Not at all.
    Never,
}

/// An answer that is not a cancellation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// This.
    Is(T),
    /// Back to the question before.
    Back,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The operator stopped.
    #[error("stopped by the operator")]
    Stopped,
    /// Nobody may be asked.
    #[error("{question} needs an answer, but nobody can be asked: give {flag}")]
    NeedsFlag {
        /// What was to be asked.
        question: String,
        /// The flag that answers it.
        flag: &'static str,
    },
    /// The terminal failed.
    #[error("the terminal cannot be used: {0}")]
    Terminal(#[from] io::Error),
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The text, without a question mark or colon.
    pub text: &'a str,
    /// The flag that answers it.
    pub flag: &'static str,
    /// Whether there is a question to go back to.
    pub back: bool,
}

const BACK: &str = "< back";
const CANCEL: &str = "x cancel";

impl Dialogue {
    /// A dialogue on this process's terminal. `no_input`: ask nothing.
    #[must_use]
    pub fn new(no_input: bool) -> Self {
        let term = Term::stderr();
        let terminal = rustix::termios::isatty(io::stdin()) && term.is_term();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        let manner = match (no_input || !terminal, dumb) {
            (true, _) => Manner::Never,
            (false, true) => Manner::Lines,
            (false, false) => Manner::Keys,
        };
        Self { term, manner, input: input::Lines::default() }
    }

    /// Whether a person can be asked.
    #[must_use]
    pub fn can_ask(&self) -> bool {
        self.manner != Manner::Never
    }

    /// Prints a line.
    pub fn say(&self, line: impl AsRef<str>) {
        // There is nobody to tell when standard error is gone.
        let _ = self.term.write_line(line.as_ref());
    }

    fn ask(&self, question: Question<'_>) -> Result<(), NoAnswer> {
        if crate::sys::interrupt::raised() {
            return Err(NoAnswer::Stopped);
        }
        match self.manner {
            Manner::Never => {
                Err(NoAnswer::NeedsFlag { question: format!("\"{}\"", question.text), flag: question.flag })
            }
            Manner::Keys | Manner::Lines => Ok(()),
        }
    }

    /// Asks for one of some items.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub fn choose(
        &mut self,
        question: Question<'_>,
        items: &[String],
        default: usize,
    ) -> Result<Answer<usize>, NoAnswer> {
        self.ask(question)?;
        if self.manner == Manner::Lines {
            return self.choose_by_number(question, items, default);
        }
        let mut shown = self.fitted(items);
        shown.extend(question.back.then(|| BACK.to_owned()));
        shown.push(CANCEL.to_owned());
        let picked = dialoguer::Select::with_theme(&dialoguer::theme::SimpleTheme)
            .with_prompt(format!("{} (arrows, Enter; Esc {})", question.text, way_out(question)))
            .items(&shown)
            .default(default)
            .max_length(self.rows())
            .report(false)
            .interact_on_opt(&self.term);
        Ok(match self.settled(picked)? {
            Some(at) if at < items.len() => {
                let line = format!("{}: {}", question.text, items.get(at).map_or("", |item| item.trim_end()));
                self.say(console::truncate_str(&line, self.width(), "..."));
                Answer::Is(at)
            }
            Some(at) if question.back && at == items.len() => Answer::Back,
            None if question.back => Answer::Back,
            Some(_) | None => return Err(NoAnswer::Stopped),
        })
    }

    /// Asks for any number of some items, at least one.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub fn choose_many(
        &mut self,
        question: Question<'_>,
        items: &[String],
        preset: &[bool],
    ) -> Result<Answer<Vec<usize>>, NoAnswer> {
        self.ask(question)?;
        if self.manner == Manner::Lines {
            return self.choose_many_by_number(question, items, preset);
        }
        loop {
            let picked = dialoguer::MultiSelect::with_theme(&dialoguer::theme::SimpleTheme)
                .with_prompt(format!("{} (space marks, a all, Enter; Esc {})", question.text, way_out(question)))
                .items(self.fitted(items))
                .defaults(preset)
                .max_length(self.rows())
                // A line that wraps cannot be redrawn, so the prompt leaves room for the page number.
                .report(false)
                .interact_on_opt(&self.term);
            match self.settled(picked)? {
                Some(chosen) if chosen.is_empty() => self.say("Choose at least one."),
                Some(chosen) => {
                    self.say(format!("{}: {} of {}", question.text, chosen.len(), items.len()));
                    return Ok(Answer::Is(chosen));
                }
                None if question.back => return Ok(Answer::Back),
                None => return Err(NoAnswer::Stopped),
            }
        }
    }

    /// Asks yes or no; nothing but a typed `yes` is yes.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub fn confirm(&mut self, question: Question<'_>) -> Result<Answer<bool>, NoAnswer> {
        loop {
            let Answer::Is(text) = self.line(question, "yes or no")? else { return Ok(Answer::Back) };
            match text.to_ascii_lowercase().as_str() {
                "yes" | "y" => return Ok(Answer::Is(true)),
                "no" | "n" | "" => return Ok(Answer::Is(false)),
                _ => self.say("Please answer yes or no."),
            }
        }
    }

    /// Asks for a line of text; `hint` says what is expected. White space around it is dropped.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub fn line(&mut self, question: Question<'_>, hint: &str) -> Result<Answer<String>, NoAnswer> {
        self.ask(question)?;
        let ways = if question.back { "back, cancel" } else { "cancel" };
        self.term.write_str(&format!("{} ({hint}; or {ways}): ", question.text))?;
        let text = self.input.next(input::Echo::On)?;
        match text.trim() {
            "cancel" => Err(NoAnswer::Stopped),
            "back" if question.back => Ok(Answer::Back),
            other => Ok(Answer::Is(other.to_owned())),
        }
    }

    /// Asks for a secret, which is not shown. An empty line goes back (or cancels).
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub fn secret(&mut self, question: Question<'_>) -> Result<Answer<zeroize::Zeroizing<String>>, NoAnswer> {
        self.ask(question)?;
        let way = if question.back { "goes back" } else { "cancels" };
        self.term.write_str(&format!("{} (not shown; Enter alone {way}): ", question.text))?;
        let text = self.input.next(input::Echo::Off)?;
        match (text.is_empty(), question.back) {
            (false, _) => Ok(Answer::Is(text)),
            (true, true) => Ok(Answer::Back),
            (true, false) => Err(NoAnswer::Stopped),
        }
    }

    fn choose_by_number(
        &mut self,
        question: Question<'_>,
        items: &[String],
        default: usize,
    ) -> Result<Answer<usize>, NoAnswer> {
        for (at, item) in items.iter().enumerate() {
            self.say(format!("{:>3}) {item}", at + 1));
        }
        let hint = format!("1 to {}, Enter for {}", items.len(), default + 1);
        loop {
            let Answer::Is(text) = self.line(question, &hint)? else { return Ok(Answer::Back) };
            match text.parse::<usize>() {
                Ok(0) => return Err(NoAnswer::Stopped),
                Ok(number) if number <= items.len() => return Ok(Answer::Is(number - 1)),
                Err(_) if text.is_empty() => return Ok(Answer::Is(default)),
                _ => self.say(format!("A number from 1 to {}, please.", items.len())),
            }
        }
    }

    fn choose_many_by_number(
        &mut self,
        question: Question<'_>,
        items: &[String],
        preset: &[bool],
    ) -> Result<Answer<Vec<usize>>, NoAnswer> {
        let mut on = preset.to_vec();
        on.resize(items.len(), false);
        loop {
            for (at, (item, on)) in items.iter().zip(&on).enumerate() {
                self.say(format!("{:>3}) [{}] {item}", at + 1, if *on { 'x' } else { ' ' }));
            }
            let hint = "numbers like 1,3-5 turn on or off, a all, n none, Enter goes on";
            let Answer::Is(text) = self.line(question, hint)? else { return Ok(Answer::Back) };
            match text.as_str() {
                "" => {
                    let chosen: Vec<usize> = on.iter().enumerate().filter(|(_, on)| **on).map(|(at, _)| at).collect();
                    if !chosen.is_empty() {
                        return Ok(Answer::Is(chosen));
                    }
                    self.say("Choose at least one.");
                }
                "a" => on.fill(true),
                "n" => on.fill(false),
                "0" => return Err(NoAnswer::Stopped),
                ranges => match numbers(ranges, items.len()) {
                    Some(numbers) => {
                        for at in numbers {
                            on.get_mut(at).into_iter().for_each(|on| *on = !*on);
                        }
                    }
                    None => self.say(format!("Numbers from 1 to {}, please.", items.len())),
                },
            }
        }
    }

    /// Items cut to the width of the terminal: a line that wraps cannot be redrawn.
    fn fitted(&self, items: &[String]) -> Vec<String> {
        let width = self.width().saturating_sub(8).max(20);
        items.iter().map(|item| console::truncate_str(item, width, "...").into_owned()).collect()
    }

    fn width(&self) -> usize {
        usize::from(self.term.size().1)
    }

    /// How many items of a list fit.
    fn rows(&self) -> usize {
        usize::from(self.term.size().0).saturating_sub(4).max(3)
    }

    /// What a list gave; the cursor, which it hides, is shown again.
    fn settled<T>(&self, picked: dialoguer::Result<T>) -> Result<T, NoAnswer> {
        // The terminal may be gone; what matters is the answer.
        let _ = self.term.show_cursor();
        if crate::sys::interrupt::raised() {
            return Err(NoAnswer::Stopped);
        }
        picked.map_err(|dialoguer::Error::IO(error)| match error.kind() {
            io::ErrorKind::Interrupted => NoAnswer::Stopped,
            _ => NoAnswer::Terminal(error),
        })
    }
}

fn way_out(question: Question<'_>) -> &'static str {
    if question.back { "goes back" } else { "cancels" }
}

/// Reads `1,3-5` as places from zero; `None` when a number is not one of `1..=count`.
fn numbers(text: &str, count: usize) -> Option<Vec<usize>> {
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| (1..=count).contains(number));
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(from)?, number(to)?);
        all.extend(from - 1..to);
    }
    Some(all)
}

/// A number of bytes as people read it: powers of 1024, one decimal.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "";
    for next in UNITS {
        if !unit.is_empty() && value < 1023.95 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn number_lists_are_read_or_refused_whole() {
        assert_eq!(numbers("1, 3-5", 5), Some(vec![0, 2, 3, 4]));
        for bad in ["0", "6", "x", "1,,2", "2-9", "-"] {
            assert_eq!(numbers(bad, 5), None, "{bad}");
        }
    }

    #[test]
    fn nobody_is_asked_without_input() {
        let mut dialogue = Dialogue::new(true);
        let question = Question { text: "Which mode", flag: "--mode", back: false };
        for error in [
            dialogue.choose(question, &["a".to_owned()], 0).map(drop).unwrap_err(),
            dialogue.choose_many(question, &["a".to_owned()], &[]).map(drop).unwrap_err(),
            dialogue.confirm(question).map(drop).unwrap_err(),
            dialogue.secret(question).map(drop).unwrap_err(),
        ] {
            assert!(error.to_string().contains("--mode"), "{error}");
        }
    }
}
