//! Free text in the log: escaped, of bounded length.

use proxsave_proto::escape::escape;
use serde::Serialize;
use std::fmt;

/// The most bytes of a text that are kept; what is cut is said in its place.
pub const MAX_TEXT: usize = 4096;

/// A text as the log holds it. It can only be made by escaping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    /// Escapes bytes, of which at most [`MAX_TEXT`] are kept.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        match bytes.get(..MAX_TEXT) {
            Some(kept) if bytes.len() > MAX_TEXT => {
                Self(format!("{}... ({} more bytes)", escape(kept), bytes.len() - MAX_TEXT))
            }
            _ => Self(escape(bytes)),
        }
    }

    /// Escapes what a value shows of itself.
    #[must_use]
    pub fn of(value: impl fmt::Display) -> Self {
        Self::from_bytes(value.to_string().as_bytes())
    }

    /// The escaped text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_one_visible_line_of_bounded_length() {
        assert_eq!(Text::from("a\x1b]0;x\n").as_str(), "a\\x1b]0;x\\n");
        assert_eq!(Text::from_bytes(&[b'a'; MAX_TEXT]).as_str().len(), MAX_TEXT);
        let long = Text::from_bytes(&[0xff; MAX_TEXT + 7]);
        assert!(long.as_str().ends_with("... (7 more bytes)"), "{long}");
        assert!(long.as_str().len() < 5 * MAX_TEXT);
    }
}
