//! What the child says, checked and made harmless before the rest of the program relies on it: an archive may have
//! taken the child over.

use super::build::MAX_INDEX_BYTES;
use super::child::weigh_entry;
use super::index::{Index, IndexEntry, IndexNode, Refused};
use super::limits::Limits;
use super::protocol::Summary;
use crate::archive::Problem;
use crate::archive::bundle::BundleError;
use crate::archive::describe::{Description, MalformedBackup};
use proxsave_proto::escape::Escaped;
use std::fmt::Write as _;

/// The most notes in a list.
const MAX_NOTES: usize = 200_000;
/// The most bytes of contents: an eighth of what 64 bits count, so that sums with overheads cannot overflow.
const MAX_CONTENT_BYTES: u64 = 1 << 61;

/// Entries as they come, checked for what the rest of the program relies on.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    entries: Vec<IndexEntry>,
    refused: Vec<Refused>,
    left_out: Vec<Refused>,
    bytes: u64,
    note_bytes: u64,
    content_bytes: u64,
}

/// Which list a note belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Notes {
    /// Entries that are not restored.
    Refused,
    /// Attributes that are not restored.
    LeftOut,
}

impl Gathered {
    /// Takes notes.
    ///
    /// # Errors
    /// What the child did that an honest one does not.
    pub(super) fn note(&mut self, more: Vec<Refused>, which: Notes) -> Result<(), String> {
        if more.is_empty() {
            return Err("it sent an empty list".to_owned());
        }
        let list = match which {
            Notes::Refused => &mut self.refused,
            Notes::LeftOut => &mut self.left_out,
        };
        for mut note in more {
            self.note_bytes += (note.name.len() + note.why.len() + size_of::<Refused>()) as u64;
            if list.len() >= MAX_NOTES || self.note_bytes > 2 * MAX_INDEX_BYTES {
                return Err("it sent more notes than the limits allow".to_owned());
            }
            scrub(&mut note.why);
            list.push(note);
        }
        Ok(())
    }

    /// Takes entries.
    ///
    /// # Errors
    /// What the child did that an honest one does not.
    pub(super) fn take(&mut self, more: Vec<IndexEntry>, limits: &Limits) -> Result<(), String> {
        if more.is_empty() {
            return Err("it sent an empty list".to_owned());
        }
        for entry in more {
            if let IndexNode::File { size, .. } = entry.node {
                // Sums of sizes are made in many places: none may overflow.
                let sum = self.content_bytes.checked_add(size).filter(|sum| *sum <= MAX_CONTENT_BYTES);
                self.content_bytes = sum.ok_or("it sent sizes that no file system has")?;
            }
            self.bytes += weigh_entry(&entry) as u64;
            // The weight counts more for each entry than the child's own sum.
            if self.entries.len() >= limits.entries as usize || self.bytes > 2 * MAX_INDEX_BYTES {
                return Err("it sent more entries than the limits allow".to_owned());
            }
            if self.entries.last().is_some_and(|last| last.path >= entry.path) || entry.path.is_root() {
                return Err("it sent entries out of order".to_owned());
            }
            if matches!(&entry.node, IndexNode::Symlink { target, .. } if target.len() > limits.path_bytes as usize) {
                return Err("it sent a link target over the limit".to_owned());
            }
            self.entries.push(entry);
        }
        Ok(())
    }

    /// The index, with what comes last.
    pub(super) fn into_index(self, mut summary: Summary, stored_bytes: u64) -> Index {
        summary.roles.why.iter_mut().for_each(scrub);
        Index {
            sha256: summary.sha256,
            stored_bytes,
            encrypted: summary.encrypted,
            codec: summary.codec,
            plain_bytes: summary.plain_bytes,
            entries: self.entries,
            refused: self.refused,
            left_out: self.left_out,
            roles: summary.roles,
            info: summary.info,
        }
    }
}

/// Text from the child, safe to print.
pub(super) fn clean(text: String) -> String {
    proxsave_proto::escape::escape(text.as_bytes()).chars().take(1000).collect()
}

/// Escapes what a terminal would obey. Backslashes stay: an honest child has escaped already.
fn scrub(text: &mut String) {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\\' {
            safe.push(c);
        } else {
            // Writing to a string does not fail.
            let _ = write!(safe, "{}", Escaped(c.encode_utf8(&mut [0; 4]).as_bytes()));
        }
    }
    *text = safe;
}

/// Makes the texts harmless that a description shows as they are.
pub(super) fn scrub_description(description: &mut Description) {
    for problem in &mut description.problems {
        if let Problem::ChecksumForOther { name: text } | Problem::BadCompanion { reason: text, .. } = problem {
            scrub(text);
        }
    }
}

/// The same for the reason why there is no description.
pub(super) fn scrub_malformed(malformed: &mut MalformedBackup) {
    if let MalformedBackup::Read(text)
    | MalformedBackup::Bundle(BundleError::Read(text) | BundleError::Header { reason: text, .. }) = malformed
    {
        scrub(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxsave_proto::RelPath;

    fn entry(name: &str) -> IndexEntry {
        let path = RelPath::from_archive(name.as_bytes()).unwrap();
        IndexEntry { path, node: IndexNode::Hardlink { to: RelPath::root() } }
    }

    #[test]
    fn entries_out_of_order_or_over_the_bounds_are_not_believed() {
        let limits = Limits { entries: 3, ..Limits::default() };
        let mut good = Gathered::default();
        assert!(good.take(vec![entry("a"), entry("a/b"), entry("a-b")], &limits).is_ok());
        assert!(good.take(vec![entry("c")], &limits).is_err(), "a fourth");
        for bad in [["b", "a"], ["a", "a"], ["./", "a"]] {
            assert!(Gathered::default().take(bad.map(entry).to_vec(), &limits).is_err(), "{bad:?}");
        }
        let full = Gathered { bytes: 2 * MAX_INDEX_BYTES, ..Gathered::default() };
        assert!({ full }.take(vec![entry("a")], &limits).is_err());
    }

    fn sized(name: &str, size: u64) -> IndexEntry {
        let mut made =
            crate::planner::testing::index(vec![crate::planner::testing::file(name, b"x")]).entries.remove(0);
        if let IndexNode::File { size: stated, .. } = &mut made.node {
            *stated = size;
        }
        made
    }

    #[test]
    fn sizes_that_would_overflow_are_not_believed() {
        let limits = Limits::default();
        assert!(Gathered::default().take(vec![sized("a", u64::MAX)], &limits).is_err());
        let two = vec![sized("a", 1 << 60), sized("b", (1 << 60) + 1)];
        assert!(Gathered::default().take(two, &limits).is_err());
        assert!(Gathered::default().take(vec![sized("a", 1 << 60)], &limits).is_ok());
    }

    #[test]
    fn empty_lists_and_too_many_notes_are_not_believed() {
        let limits = Limits::default();
        assert!(Gathered::default().take(Vec::new(), &limits).is_err());
        assert!(Gathered::default().note(Vec::new(), Notes::Refused).is_err());
        let mut full = Gathered { note_bytes: 2 * MAX_INDEX_BYTES, ..Gathered::default() };
        assert!(full.note(vec![Refused { name: b"a".to_vec(), why: String::new() }], Notes::LeftOut).is_err());
    }

    #[test]
    fn nothing_that_the_child_says_steers_a_terminal() {
        let evil = || "\u{1b}]0;x\u{7}\u{9b}\u{202e}\\n".to_owned();
        let safe = r"\x1b]0;x\x07\u{9b}\u{202e}\n";
        let mut gathered = Gathered::default();
        gathered.note(vec![Refused { name: b"a".to_vec(), why: evil() }], Notes::Refused).unwrap();
        assert_eq!(gathered.refused[0].why, safe);
        for mut malformed in [
            MalformedBackup::Read(evil()),
            MalformedBackup::Bundle(BundleError::Read(evil())),
            MalformedBackup::Bundle(BundleError::Header { offset: 0, reason: evil() }),
        ] {
            scrub_malformed(&mut malformed);
            assert!(malformed.to_string().contains(safe), "{malformed:?}");
        }
    }
}
