//! Names and texts from archives, peers and the live tree, made safe for a terminal, a log line or a report.
//!
//! Escaped are: backslash, control characters (C0, DEL, C1), Unicode format characters and line or paragraph
//! separators (bidirectional overrides among them), and every byte that is not part of valid UTF-8. The result
//! is one line, unambiguous, and reads back with [`unescape`].

use std::fmt::{self, Write as _};

/// Displays bytes escaped; see the module's text for the rules.
#[derive(Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

/// Escapes a text into a new string.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    Escaped(bytes).to_string()
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(f, "\\x{:02x}", c as u32)?,
                    c if is_hidden(c) => write!(f, "\\u{{{:x}}}", c as u32)?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Whether a character changes what a reader sees without being seen: C1 controls and the Unicode categories
/// Cf, Zl and Zp (Unicode 15.1), plus the variation selectors and the soft hyphen.
fn is_hidden(c: char) -> bool {
    matches!(c as u32,
        0x80..=0x9f | 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2 | 0x180b..=0x180f
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfe00..=0xfe0f | 0xfeff | 0xfff9..=0xfffb
        | 0x110bd | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

/// Reads back what [`escape`] wrote. `None` when the text is not such an escape.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match chars.next()? {
            '\\' => out.push(b'\\'),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'x' => {
                let (hi, lo) = (chars.next()?.to_digit(16)?, chars.next()?.to_digit(16)?);
                out.push(u8::try_from(hi * 16 + lo).ok()?);
            }
            'u' => {
                if chars.next()? != '{' {
                    return None;
                }
                let mut value = 0u32;
                loop {
                    match chars.next()? {
                        '}' => break,
                        d => value = value.checked_mul(16)?.checked_add(d.to_digit(16)?)?,
                    }
                }
                out.extend_from_slice(char::from_u32(value)?.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_names_become_one_visible_line() {
        assert_eq!(escape(b"etc/\x1b[2Jhosts\n"), "etc/\\x1b[2Jhosts\\n");
        assert_eq!(escape("a\u{202e}b\u{9b}c".as_bytes()), "a\\u{202e}b\\u{9b}c");
        assert_eq!(escape(b"caf\xe9 \\"), "caf\\xe9 \\\\");
        assert_eq!(escape("größe".as_bytes()), "größe");
    }

    proptest! {
        #[test]
        fn any_bytes_escape_to_printable_text_and_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = escape(&bytes);
            prop_assert!(text.chars().all(|c| !c.is_control() && !is_hidden(c)));
            prop_assert_eq!(unescape(&text), Some(bytes));
        }

        #[test]
        fn unescape_takes_any_text_without_panic(text in ".{0,80}") {
            let _ = unescape(&text);
        }
    }
}
