//! A plan as a person or a script reads it.

use super::diff::Goal;
use super::{Outcome, Planned};
use crate::decoder::{Index, IndexNode};
use crate::selection::content_len;
use proxsave_proto::category::CATEGORIES;
use proxsave_proto::plan::{Entry, Node, Origin};
use proxsave_proto::{CategoryId, Plan, RelPath};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;

/// One line: a path and what becomes of it.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// The path.
    pub path: Cow<'a, RelPath>,
    /// The category.
    pub category: CategoryId,
    /// `file`, `directory`, `symlink` or `hard-link`.
    pub kind: &'static str,
    /// Bytes of content.
    pub size: u64,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// See [`Outcome`].
    Selected(Outcome),
    /// A directory that is made on the way.
    Made,
    /// Exported and not applied.
    Exported,
}

/// Counts of one category.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Entries that the root lacks, directories made on the way included.
    pub new: u64,
    /// Entries that differ.
    pub changed: u64,
    /// Entries that are there just so.
    pub same: u64,
    /// Entries that are exported and not applied.
    pub exported: u64,
    /// Entries that cannot be restored here.
    pub refused: u64,
    /// Entries that could not be looked at.
    pub unknown: u64,
    /// Bytes of content that are written.
    pub bytes: u64,
}

/// The lines of a plan, grouped by category in the table's order, changed ones first.
#[derive(Debug)]
pub struct View<'a> {
    lines: Vec<Line<'a>>,
}

impl Fate {
    /// The word for scripts.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Fate::Selected(Outcome::New) => "new",
            Fate::Selected(Outcome::Changed(_)) => "changed",
            Fate::Selected(Outcome::Same) => "same",
            Fate::Selected(Outcome::Refused(_)) => "refused",
            Fate::Selected(Outcome::Unknown) => "unknown",
            Fate::Made => "made",
            Fate::Exported => "exported",
        }
    }

    fn rank(self) -> u8 {
        match self {
            Fate::Selected(Outcome::Changed(_)) => 0,
            Fate::Selected(Outcome::New) | Fate::Made => 1,
            Fate::Selected(Outcome::Refused(_)) => 2,
            Fate::Selected(Outcome::Unknown) => 3,
            Fate::Exported => 4,
            Fate::Selected(Outcome::Same) => 5,
        }
    }

    fn sign(self) -> char {
        match self {
            Fate::Selected(Outcome::Changed(_)) => '~',
            Fate::Selected(Outcome::New) | Fate::Made => '+',
            Fate::Selected(Outcome::Refused(_)) => '!',
            Fate::Selected(Outcome::Unknown) => '?',
            Fate::Exported => '>',
            Fate::Selected(Outcome::Same) => '=',
        }
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fate.sign(), self.path)?;
        match self.fate {
            Fate::Selected(Outcome::Changed(how)) => {
                write!(f, "  ({})", how.keys().collect::<Vec<_>>().join(", "))
            }
            Fate::Selected(Outcome::Refused(why)) => write!(f, "  refused: {why}"),
            Fate::Selected(Outcome::Unknown) => write!(f, "  unknown: you cannot look at it"),
            Fate::Made => write!(f, "  (directory made on the way)"),
            Fate::Exported => write!(f, "  exported, not applied"),
            Fate::Selected(Outcome::New) if self.kind == "file" => {
                write!(f, "  ({})", crate::dialogue::bytes(self.size))
            }
            Fate::Selected(Outcome::New) => write!(f, "  ({})", self.kind),
            Fate::Selected(Outcome::Same) => Ok(()),
        }
    }
}

impl<'a> View<'a> {
    /// Of a plan just made.
    #[must_use]
    pub fn of_planned(planned: &'a Planned, index: &'a Index) -> Self {
        let entry = |at: u32| index.entries.get(at as usize);
        let wanted = planned.wanted.iter().filter_map(|want| {
            let found = entry(want.entry)?;
            Some(Line {
                path: Cow::Borrowed(&want.path),
                category: want.category,
                kind: kind_of(&found.node),
                size: content_len(found),
                fate: Fate::Selected(want.outcome),
            })
        });
        let exported = planned.exports.iter().filter_map(|export| {
            let found = entry(export.entry)?;
            Some(Line {
                path: Cow::Borrowed(&found.path),
                category: export.category,
                kind: kind_of(&found.node),
                size: content_len(found),
                fate: Fate::Exported,
            })
        });
        let made = planned.parents.iter().map(|(path, category)| Line {
            path: Cow::Borrowed(path),
            category: *category,
            kind: "directory",
            size: 0,
            fate: Fate::Made,
        });
        Self::sorted(wanted.chain(exported).chain(made).collect())
    }

    /// Of a plan alone: what is the same, refused or exported is not part of it.
    #[must_use]
    pub fn of_plan(plan: &'a Plan, privileged_bits: bool) -> Self {
        let find = |path: &RelPath| {
            plan.entries.binary_search_by(|entry| entry.path.cmp(path)).ok().and_then(|at| plan.entries.get(at))
        };
        let lines = plan.entries.iter().map(|entry| {
            let (kind, goal) = match &entry.node {
                Node::File { .. } => ("file", Goal::of_plan(&entry.node)),
                Node::Dir { .. } => ("directory", Goal::of_plan(&entry.node)),
                Node::Symlink { .. } => ("symlink", Goal::of_plan(&entry.node)),
                Node::Hardlink { to } => ("hard-link", find(to).and_then(|file| Goal::of_plan(&file.node))),
            };
            Line {
                path: Cow::Borrowed(&entry.path),
                category: entry.category,
                kind,
                size: entry.node.content_len(),
                fate: fate_of(entry, goal, privileged_bits),
            }
        });
        Self::sorted(lines.collect())
    }

    fn sorted(mut lines: Vec<Line<'a>>) -> Self {
        lines.sort_by(|a, b| {
            (a.category, a.fate.rank()).cmp(&(b.category, b.fate.rank())).then_with(|| a.path.cmp(&b.path))
        });
        Self { lines }
    }

    /// The lines.
    #[must_use]
    pub fn lines(&self) -> &[Line<'a>] {
        &self.lines
    }

    /// Counts of each category that occurs, in the table's order.
    #[must_use]
    pub fn counts(&self) -> Vec<(CategoryId, Counts)> {
        let of = |category| {
            let mut counts = Counts::default();
            let lines = self.lines.iter().filter(|line| line.category == category);
            for line in lines {
                let slot = match line.fate {
                    Fate::Selected(Outcome::New) | Fate::Made => &mut counts.new,
                    Fate::Selected(Outcome::Changed(_)) => &mut counts.changed,
                    Fate::Selected(Outcome::Same) => &mut counts.same,
                    Fate::Selected(Outcome::Refused(_)) => &mut counts.refused,
                    Fate::Selected(Outcome::Unknown) => &mut counts.unknown,
                    Fate::Exported => &mut counts.exported,
                };
                *slot += 1;
                if matches!(line.fate, Fate::Selected(Outcome::New | Outcome::Changed(_))) {
                    counts.bytes = counts.bytes.saturating_add(line.size);
                }
            }
            (category, counts)
        };
        let all = CATEGORIES.iter().map(|row| of(row.id));
        all.filter(|(_, counts)| *counts != Counts::default()).collect()
    }

    /// The whole as lines of text, each category with a heading: first what is written, then what is exported.
    /// What is the same, and what is exported, is only counted.
    pub fn text(&self) -> impl Iterator<Item = String> + '_ {
        let (exported, written): (Vec<_>, Vec<_>) =
            self.counts().into_iter().partition(|(_, counts)| counts.only_exported());
        written.into_iter().chain(exported).flat_map(move |(category, counts)| {
            let heading = format!("{} ({category}): {counts}", category.row().name);
            let lines = self.lines.iter().filter(move |line| line.category == category);
            let shown = lines.filter(|line| !matches!(line.fate, Fate::Selected(Outcome::Same) | Fate::Exported));
            std::iter::once(heading).chain(shown.map(|line| format!("  {line}")))
        })
    }

    /// All of it in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut all = Counts::default();
        for (_, counts) in self.counts() {
            all.new += counts.new;
            all.changed += counts.changed;
            all.same += counts.same;
            all.exported += counts.exported;
            all.refused += counts.refused;
            all.unknown += counts.unknown;
            all.bytes = all.bytes.saturating_add(counts.bytes);
        }
        let writes = match all.new + all.changed {
            0 => "nothing to write".to_owned(),
            count => format!("{count} to write ({})", crate::dialogue::bytes(all.bytes)),
        };
        let rest = if all == Counts::default() { String::new() } else { format!(": {all}") };
        format!("In all {writes}{rest}.")
    }

    /// The whole as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let categories: Vec<Value> = self.counts().iter().map(|(id, counts)| counts.json(*id)).collect();
        let entries: Vec<Value> = self.lines.iter().map(Line::json).collect();
        json!({ "categories": categories, "entries": entries })
    }
}

impl Line<'_> {
    fn json(&self) -> Value {
        let mut object = json!({
            "path": self.path.to_string(),
            "category": self.category.row().key,
            "type": self.kind,
            "size": self.size,
            "outcome": self.fate.key(),
        });
        let detail = match self.fate {
            Fate::Selected(Outcome::Changed(how)) => Some(("changed", json!(how.keys().collect::<Vec<_>>()))),
            Fate::Selected(Outcome::Refused(why)) => Some(("reason", json!(why.to_string()))),
            _ => None,
        };
        if let (Some((key, value)), Some(object)) = (detail, object.as_object_mut()) {
            object.insert(key.to_owned(), value);
        }
        object
    }
}

impl Counts {
    /// Whether nothing of the category touches the root.
    #[must_use]
    pub fn only_exported(&self) -> bool {
        self.exported > 0 && Self { exported: self.exported, ..Self::default() } == *self
    }

    /// As JSON. A restore removes nothing, and says so.
    #[must_use]
    pub fn json(&self, category: CategoryId) -> Value {
        json!({
            "category": category.row().key,
            "new": self.new,
            "changed": self.changed,
            "same": self.same,
            "removed": 0,
            "exported": self.exported,
            "refused": self.refused,
            "unknown": self.unknown,
            "bytes": self.bytes,
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.changed, "changed"),
            (self.new, "new"),
            (self.same, "same"),
            (self.exported, "exported, NOT applied"),
            (self.refused, "refused"),
            (self.unknown, "unknown"),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
        f.write_str(&parts.join(", "))
    }
}

fn kind_of(node: &IndexNode) -> &'static str {
    match node {
        IndexNode::File { .. } => "file",
        IndexNode::Dir { .. } => "directory",
        IndexNode::Symlink { .. } => "symlink",
        IndexNode::Hardlink { .. } => "hard-link",
    }
}

fn fate_of(entry: &Entry, goal: Option<Goal<'_>>, privileged_bits: bool) -> Fate {
    match (&entry.before, goal) {
        _ if entry.origin == Origin::Parent => Fate::Made,
        (None, _) | (_, None) => Fate::Selected(Outcome::New),
        (Some(there), Some(goal)) => {
            let how = goal.differs(there, privileged_bits);
            let time = super::Aspects::default().with(super::Aspect::Time);
            let names = super::Aspects::default().with(super::Aspect::Names);
            Fate::Selected(Outcome::Changed(match how.is_empty() {
                false => how,
                true if entry.node.is_dir() => time,
                true => names,
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{Draft, Selection};
    use super::*;
    use crate::selection::{Request, available};
    use proxsave_proto::{Mode, Roles};

    #[test]
    fn groups_by_category_with_changed_lines_first() {
        let index = index(vec![
            file("root/a-new\x1b", b"abc"),
            file("root/b-changed", b"x"),
            file("root/c-same", b"s"),
            file("etc/ssh/y", b""),
            file("etc/pve/storage.cfg", b""),
        ]);
        let host = Host::default().file("root/b-changed", b"old").file("root/c-same", b"s");
        let request = Request { mode: Mode::Full, categories: vec![], include: vec![], exclude: vec![] };
        let selection = Selection::new(&available(&index), request, Roles::DUAL, Roles::DUAL).unwrap();
        let draft = Draft::new(&index, &selection, None).unwrap();
        let answers: Vec<_> = draft.questions().map(|item| Some(host.probe(&item.path))).collect();
        let planned = draft.finish(answers, archive()).unwrap();
        let view = View::of_planned(&planned, &index);
        let text: Vec<String> = view.text().collect();
        assert_eq!(
            text,
            [
                "SSH (ssh): 3 new",
                "  + /etc  (directory made on the way)",
                "  + /etc/ssh  (directory made on the way)",
                "  + /etc/ssh/y  (0 B)",
                "Home directories (user_data): 1 changed, 1 new, 1 same",
                "  ~ /root/b-changed  (content)",
                "  + /root/a-new\\x1b  (3 B)",
                "PVE storage definitions (storage_pve): 1 exported, NOT applied",
            ]
        );
        assert_eq!(view.summary(), "In all 5 to write (4 B): 1 changed, 4 new, 1 same, 1 exported, NOT applied.");
        let json = view.json();
        assert_eq!(json["categories"][2]["same"], 1);
        assert_eq!(json["entries"].as_array().unwrap().len(), 7);
        // Read back from the plan alone, what is written looks the same.
        let plan = planned.plan.as_ref().unwrap().plan();
        let again: Vec<String> = View::of_plan(plan, true).text().filter(|line| line.starts_with("  ")).collect();
        let shown: Vec<String> = text.iter().filter(|line| line.starts_with("  ")).cloned().collect();
        assert_eq!(again, shown);
    }
}
