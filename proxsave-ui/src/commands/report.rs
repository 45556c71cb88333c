//! What a restore did, for people and as JSON.

use crate::cli::Exit;
use crate::decoder::Index;
use crate::planner::view::{Counts, Fate, View};
use crate::planner::{Outcome, RefusedWhy};
use crate::selection::Selection;
use proxsave_proto::escape::escape;
use proxsave_proto::message::{Phase, Report};
use proxsave_proto::state::Blocked;
use proxsave_proto::{CategoryId, Digest, RelPath};
use serde_json::{Value, json};

/// Entries of the selection that were not restored, and why.
#[derive(Debug, Clone)]
pub struct Skipped {
    /// The path.
    pub path: RelPath,
    /// The category.
    pub category: CategoryId,
    /// Why.
    pub why: RefusedWhy,
}

/// The end of a restore.
#[derive(Debug)]
pub struct Ending {
    /// Whether it was a dry run.
    pub dry_run: bool,
    /// Hash of the plan.
    pub plan_hash: Digest,
    /// What was warned of and accepted.
    pub warnings: Vec<String>,
    /// Counts of each category, as planned.
    pub counts: Vec<(CategoryId, Counts)>,
    /// What was skipped.
    pub skipped: Vec<Skipped>,
    /// Categories that were not taken, as JSON.
    pub left_out: Value,
    /// Entries of the backup that no restore takes, as JSON.
    pub not_restorable: Value,
    /// How many of those the selection would have taken.
    pub missed: usize,
    /// What was exported, where.
    pub exported: Option<(String, Vec<(CategoryId, u64)>)>,
    /// Entries whose set-id bits or capabilities are dropped.
    pub dropped: Vec<RelPath>,
    /// Hard links that became files of their own.
    pub copies: Vec<RelPath>,
    /// The helper's report; `None` when there was nothing to write.
    pub helper: Option<Report>,
    /// What failed on this side.
    pub failed: Option<String>,
    /// Whether the operator stopped it.
    pub stopped: bool,
    /// Whether the helper was told to put everything in place; without its report nobody knows how far it came.
    pub committed: bool,
}

/// Categories that the selection does not take.
#[must_use]
pub fn left_out(selection: &Selection) -> Value {
    let one =
        |left: &crate::selection::LeftOut| json!({"category": left.category.row().key, "reason": left.why.to_string()});
    selection.left_out.iter().map(one).collect()
}

/// Entries of the backup that no restore takes.
#[must_use]
pub fn not_restorable(index: &Index) -> Value {
    index.refused.iter().map(|note| json!({"name": escape(&note.name), "reason": note.why})).collect()
}

/// How many entries the selection would take if a restore could.
#[must_use]
pub fn missed(selection: &Selection, index: &Index) -> usize {
    let wanted = |name: &[u8]| RelPath::from_archive(name).is_ok_and(|path| selection.route(&path).is_some());
    index.refused.iter().filter(|note| wanted(&note.name)).count()
}

/// Notes of the JSON report (objects with `key` and a reason) as lines.
fn notes(list: &Value, key: &str, what: &str) -> Vec<String> {
    let text = |note: &Value, key: &str| note.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let all = list.as_array().into_iter().flatten();
    all.map(|note| format!("  {what} {}: {}", text(note, key), text(note, "reason"))).collect()
}

/// The skipped entries of a view.
#[must_use]
pub fn skipped(view: &View<'_>) -> Vec<Skipped> {
    let refused = view.lines().iter().filter_map(|line| match line.fate {
        Fate::Selected(Outcome::Refused(why)) => {
            Some(Skipped { path: line.path.clone().into_owned(), category: line.category, why })
        }
        _ => None,
    });
    refused.collect()
}

impl Ending {
    /// The exit code that it means.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let phase = self.helper.as_ref().map(|report| report.phase);
        let failed = self.helper.as_ref().map_or(0, |report| report.failed_count);
        let written = self.helper.iter().flat_map(|report| &report.written).any(|(_, count)| *count > 0);
        // What no restore may touch is no failure of this one.
        let meant = |why: RefusedWhy| matches!(why, RefusedWhy::Guarded | RefusedWhy::Unreachable(Blocked::Guarded));
        match phase {
            None if self.committed => Exit::Failed,
            _ if self.stopped => Exit::Stopped,
            Some(Phase::Cancelled) => Exit::Stopped,
            Some(Phase::Failed) if written => Exit::Partly,
            Some(Phase::Failed) => Exit::Failed,
            _ if self.failed.is_some() => Exit::Failed,
            _ if failed > 0 || self.missed > 0 || self.skipped.iter().any(|skipped| !meant(skipped.why)) => {
                Exit::Partly
            }
            _ => Exit::Ok,
        }
    }

    fn written(&self, category: CategoryId) -> u64 {
        let written = self.helper.iter().flat_map(|report| &report.written);
        written.filter(|(id, _)| *id == category).map(|(_, count)| count).sum()
    }

    /// What became of a category that is only exported, by what the export itself counted.
    fn export_outcome(&self, category: CategoryId, planned: &Counts) -> String {
        match &self.exported {
            Some((_, counts)) => {
                let done: u64 = counts.iter().filter(|(id, _)| *id == category).map(|(_, count)| count).sum();
                let of = if done == planned.exported { String::new() } else { format!(" of {}", planned.exported) };
                format!("{done}{of} exported, NOT applied")
            }
            None if self.dry_run => format!("{} would be exported, NOT applied", planned.exported),
            None => format!("{} NOT exported, NOT applied", planned.exported),
        }
    }

    fn outcome(&self) -> &'static str {
        match (self.exit(), self.dry_run) {
            (Exit::Ok | Exit::Partly, true) => "dry run: everything was checked, nothing was written",
            (Exit::Ok, false) => "done",
            (Exit::Partly, false) => "finished, but some entries were not written",
            (Exit::Stopped, _) => "stopped by the operator",
            _ => "failed",
        }
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let categories: Vec<Value> = self
            .counts
            .iter()
            .map(|(id, counts)| {
                let mut object = counts.json(*id);
                if let Some(object) = object.as_object_mut() {
                    object.insert("written".to_owned(), json!(self.written(*id)));
                }
                object
            })
            .collect();
        let skipped = |one: &Skipped| json!({"path": one.path.to_string(), "category": one.category.row().key, "reason": one.why.to_string()});
        let helper = self.helper.as_ref();
        let paths = |paths: &[RelPath]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
        let exported: Vec<Value> = self
            .exported
            .iter()
            .flat_map(|(_, counts)| counts)
            .map(|(id, entries)| json!({"category": id.row().key, "entries": entries, "applied": false}))
            .collect();
        json!({
            "outcome": self.outcome(),
            "exit_code": self.exit().code(),
            "uncertain": self.committed && self.helper.is_none(),
            "dry_run": self.dry_run,
            "warnings": self.warnings,
            "phase": helper.map(|report| report.phase),
            "plan_hash": self.plan_hash.to_string(),
            "txid": helper.map(|report| escape(report.txid.as_bytes())),
            "categories": categories,
            "skipped": self.skipped.iter().map(skipped).collect::<Vec<_>>(),
            "left_out": self.left_out,
            "not_restorable": self.not_restorable,
            "exported": exported,
            "export_dir": self.exported.as_ref().map(|(dir, _)| dir),
            "dropped_privileges": paths(&self.dropped),
            "hard_links_made_files": paths(&self.copies),
            "failed": helper.map(|report| report.failed.iter().map(|(path, why)| {
                json!({"path": path.to_string(), "reason": escape(why.as_bytes())})
            }).collect::<Vec<_>>()),
            "failed_count": helper.map_or(0, |report| report.failed_count),
            "error": self.failed.clone().or_else(|| helper.and_then(|report| report.error.clone()).map(|e| escape(e.as_bytes()))),
            "audit": helper.map(|report| json!({"lines": report.audit.lines, "hash": report.audit.hash.to_string()})),
        })
    }

    /// As lines.
    #[must_use]
    pub fn text(&self) -> Vec<String> {
        let mut lines = vec![String::new(), format!("Result: {}", self.outcome())];
        let (exported, written): (Vec<_>, Vec<_>) =
            self.counts.iter().copied().partition(|(_, counts)| counts.only_exported());
        for (id, counts) in written {
            let (done, planned) = (self.written(id), counts.new + counts.changed);
            let what = match self.dry_run {
                true => format!("planned: {counts}"),
                false if done == planned => format!("{done} written (planned: {counts})"),
                false => format!("only {done} of {planned} written (planned: {counts})"),
            };
            lines.push(format!("  {} ({id}): {what}", id.row().name));
        }
        for (id, counts) in exported {
            lines.push(format!("  {} ({id}): {}", id.row().name, self.export_outcome(id, &counts)));
        }
        // What the operator did not choose is no news to him.
        let not_chosen = crate::selection::LeftOutWhy::NotChosen.to_string();
        let left_out = notes(&self.left_out, "category", "left out: category").into_iter();
        lines.extend(left_out.filter(|line| !line.ends_with(&not_chosen)));
        lines.extend(notes(&self.not_restorable, "name", "not restorable:"));
        for one in &self.skipped {
            lines.push(format!("  skipped {}: {}", one.path, one.why));
        }
        lines.extend(self.warnings.iter().map(|warning| format!("  accepted all the same: {warning}")));
        let helper = self.helper.as_ref();
        for (path, why) in helper.into_iter().flat_map(|report| &report.failed) {
            lines.push(format!("  NOT written {path}: {}", escape(why.as_bytes())));
        }
        if let Some(report) = helper.filter(|report| report.failed_count > report.failed.len() as u64) {
            lines.push(format!("  NOT written in all: {}", report.failed_count));
        }
        for path in &self.dropped {
            lines.push(format!("  written without its set-id bits or capabilities (not granted): {path}"));
        }
        for path in &self.copies {
            lines.push(format!("  hard link restored as a file of its own: {path}"));
        }
        if let Some((dir, _)) = &self.exported {
            lines.push(format!("Export directory: {dir}"));
        }
        if let Some(error) = self.failed.as_ref() {
            lines.push(format!("Error: {error}"));
        }
        if let Some(report) = helper {
            if let Some(error) = &report.error {
                lines.push(format!("The helper says: {}", escape(error.as_bytes())));
            }
            if matches!(report.phase, Phase::Cancelled | Phase::Failed)
                && report.written.iter().all(|(_, count)| *count == 0)
            {
                lines.push("Nothing was written to the root.".to_owned());
            }
            lines.push(format!("Transaction {}", escape(report.txid.as_bytes())));
            lines.push(format!("Audit log head {}:{}", report.audit.lines, report.audit.hash));
        } else if self.committed {
            lines.push(
                "How much was put in place is not known: the audit log says it, and a new plan shows what is missing."
                    .to_owned(),
            );
        } else {
            lines.push("Nothing was written to the root.".to_owned());
        }
        lines.push(format!("Plan {}", self.plan_hash));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxsave_proto::message::AuditHead;

    fn ending(phase: Phase, failed_count: u64, written: u64) -> Ending {
        let zero = Digest([0; 32]);
        Ending {
            dry_run: false,
            plan_hash: zero,
            warnings: vec![],
            counts: vec![(CategoryId::Ssh, Counts { new: 3, ..Counts::default() })],
            skipped: vec![],
            left_out: json!([]),
            not_restorable: json!([]),
            missed: 0,
            exported: None,
            dropped: vec![],
            copies: vec![],
            helper: Some(Report {
                plan_hash: zero,
                txid: "t".to_owned(),
                phase,
                dry_run: false,
                written: vec![(CategoryId::Ssh, written)],
                failed: vec![],
                failed_count,
                error: None,
                audit: AuditHead { lines: 1, hash: zero },
            }),
            failed: None,
            stopped: false,
            committed: false,
        }
    }

    #[test]
    fn only_a_whole_restore_is_a_success() {
        assert_eq!(ending(Phase::Done, 0, 3).exit(), Exit::Ok);
        assert_eq!(ending(Phase::Done, 1, 3).exit(), Exit::Partly);
        assert_eq!(Ending { missed: 1, ..ending(Phase::Done, 0, 3) }.exit(), Exit::Partly);
        assert_eq!(ending(Phase::Failed, 0, 0).exit(), Exit::Failed);
        assert_eq!(ending(Phase::Failed, 0, 1).exit(), Exit::Partly);
        assert_eq!(ending(Phase::Cancelled, 0, 0).exit(), Exit::Stopped);
        let skipped = |why| {
            let path = RelPath::from_archive(b"root/x").unwrap();
            let one = Skipped { path, category: CategoryId::UserData, why };
            Ending { skipped: vec![one], ..ending(Phase::Done, 0, 3) }.exit()
        };
        assert_eq!(skipped(RefusedWhy::OverSpecial), Exit::Partly);
        assert_eq!(skipped(RefusedWhy::Guarded), Exit::Ok);
    }

    #[test]
    fn reports_say_the_same_to_people_and_scripts() {
        let done = ending(Phase::Done, 0, 3);
        let json = done.json();
        assert_eq!((&json["exit_code"], &json["categories"][0]["written"]), (&0.into(), &3.into()));
        assert!(done.text().iter().any(|line| line.contains(": 3 written")));
        assert!(ending(Phase::Done, 1, 2).text().iter().any(|line| line.contains("only 2 of 3 written")));
        let lost = Ending { helper: None, committed: true, ..ending(Phase::Done, 0, 0) };
        assert_eq!(lost.json()["uncertain"], true);
        assert!(lost.text().iter().any(|line| line.contains("not known")) && lost.exit() != Exit::Ok);
        let cancelled = ending(Phase::Cancelled, 0, 0).text();
        assert!(cancelled.contains(&"Nothing was written to the root.".to_owned()));
    }
}
