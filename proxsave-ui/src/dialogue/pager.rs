//! Long texts a page at a time.

use super::{Dialogue, Manner, NoAnswer, input};
use crate::sys::interrupt;
use console::{Key, measure_text_width};

/// What to do at the end of a page.
enum Turn {
    Next,
    All,
    Quit,
}

impl Dialogue {
    /// Prints lines, a page at a time when a person reads them on a terminal. The size of the terminal is asked for
    /// at each page, so a resize counts from the next one on.
    ///
    /// # Errors
    /// When the operator stops.
    pub fn page(&mut self, lines: impl IntoIterator<Item = String>) -> Result<(), NoAnswer> {
        let (mut used, mut all) = (0usize, self.manner == Manner::Never);
        let mut lines = lines.into_iter().peekable();
        while let Some(line) = lines.next() {
            if interrupt::raised() {
                return Err(NoAnswer::Stopped);
            }
            self.term.write_line(&line)?;
            let (rows, columns) = self.term.size();
            used += height(&line, usize::from(columns));
            let Some(next) = lines.peek() else { break };
            if !all && used + height(next, usize::from(columns)) >= usize::from(rows).max(4) {
                match self.turn()? {
                    Turn::Next => used = 0,
                    Turn::All => all = true,
                    Turn::Quit => return Ok(()),
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<Turn, NoAnswer> {
        let text = "-- more: Enter next page, a all, q go on without reading --";
        if self.manner == Manner::Lines {
            self.term.write_str(text)?;
            return Ok(match self.input.next(input::Echo::On)?.trim() {
                "q" => Turn::Quit,
                "a" => Turn::All,
                "cancel" => return Err(NoAnswer::Stopped),
                _ => Turn::Next,
            });
        }
        self.term.write_str(text)?;
        let key = self.term.read_key();
        self.term.clear_line()?;
        if interrupt::raised() {
            return Err(NoAnswer::Stopped);
        }
        match key {
            Ok(Key::Char('q') | Key::Escape) => Ok(Turn::Quit),
            Ok(Key::Char('a')) => Ok(Turn::All),
            Ok(_) => Ok(Turn::Next),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Err(NoAnswer::Stopped),
            Err(error) => Err(error.into()),
        }
    }
}

/// How many rows a line takes.
fn height(line: &str, columns: usize) -> usize {
    measure_text_width(line).div_ceil(columns.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_take_more_rows() {
        assert_eq!(height("", 80), 1);
        assert_eq!(height(&"x".repeat(80), 80), 1);
        assert_eq!(height(&"x".repeat(81), 80), 2);
        assert_eq!(height("x", 0), 1);
    }
}
