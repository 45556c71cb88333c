//! `restore`: the whole journey.

mod carry_out;

use super::launch::Reach;
use super::prepare::{Host, archive_ref, not_submittable};
use super::report::{Ending, left_out, missed, not_restorable, skipped};
use super::session::Session;
use super::{Context, Failure, Reading, text};
use crate::cli::{CONFIRM_WORD, Exit, RestoreArgs};
use crate::decoder::Index;
use crate::dialogue::{Answer, Question};
use crate::export::{ExportDir, ExportError};
use crate::planner::file::PlanFile;
use crate::planner::view::View;
use crate::planner::{Exported, Planned};
use crate::selection::{Selection, available};
use proxsave_proto::{RelPath, ValidPlan};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What is about to be done, however it came about.
struct Prepared {
    plan: ValidPlan,
    exports: Vec<Exported>,
    copies: Vec<RelPath>,
    left_out: Value,
    missed: usize,
}

/// What the operator said to what was shown.
enum Said {
    Go(Option<PathBuf>),
    Back,
}

/// `restore`
///
/// # Errors
/// When it ends before anything was handed to the helper; what happens later is in the report.
pub fn restore(context: &mut Context, args: &RestoreArgs, reach: Reach) -> Result<Exit, Failure> {
    if args.confirm.as_deref().is_some_and(|word| word != CONFIRM_WORD) {
        return Err(Failure::new(Exit::Usage, format!("--confirm takes the word {CONFIRM_WORD} and no other")));
    }
    let file = args.plan.as_deref().map(PlanFile::read).transpose()?;
    let path = match (&args.backup, &file) {
        (Some(path), _) => path.clone(),
        (None, Some(file)) => file.backup.clone(),
        (None, None) => context.choose_backup(&args.from, false)?,
    };
    let mut reading = context.read(&path, &args.open, true)?;
    let session = Session::open(reach)?;
    context.debug(format!(
        "helper {}, sandbox: {}",
        proxsave_proto::escape::escape(session.hello().version.as_bytes()),
        proxsave_proto::escape::escape(session.hello().sandbox.as_bytes())
    ));
    match file {
        Some(file) => {
            let (prepared, planned) = of_file(context, file, &reading, &session)?;
            let bits = session.hello().grants_privileged_bits;
            let (said, ending) = {
                let view = match &planned {
                    Some(planned) => View::of_planned(planned, &reading.index),
                    None => View::of_plan(prepared.plan.plan(), bits),
                };
                let said = review(context, args, &view, &prepared, &reading.index, &session, false)?;
                (said, blank(context, args, &prepared, &view, &reading.index))
            };
            // What was shown is not needed while it is carried out.
            drop(planned);
            let Said::Go(export_dir) = said else { return Err(Failure::stopped()) };
            finish(context, args, carry_out::run(context, &mut reading, &session, &prepared, export_dir, ending)?)
        }
        None => {
            let host = Host::of(Some(&session), args.selection.host_role);
            context.consent(&host, &reading.index, &args.open)?;
            loop {
                let selection = context.select(&reading.index, host.roles, &args.selection)?;
                let planned = context.plan(&reading.index, &selection, Some(&session), archive_ref(&reading))?;
                let asked = args.selection.mode.is_none() && args.selection.categories.is_empty();
                let (said, prepared, ending) = {
                    let view = View::of_planned(&planned, &reading.index);
                    let prepared = of_planned(&planned, &selection, &reading.index)?;
                    let said = review(context, args, &view, &prepared, &reading.index, &session, asked)?;
                    let ending = blank(context, args, &prepared, &view, &reading.index);
                    (said, prepared, ending)
                };
                // What was shown is not needed while it is carried out.
                drop(planned);
                if let Said::Go(export_dir) = said {
                    let ending = carry_out::run(context, &mut reading, &session, &prepared, export_dir, ending)?;
                    return finish(context, args, ending);
                }
            }
        }
    }
}

fn finish(context: &Context, args: &RestoreArgs, ending: Ending) -> Result<Exit, Failure> {
    if args.json {
        context.print(ending.json().to_string())?;
    } else {
        for line in ending.text() {
            context.print(line)?;
        }
    }
    Ok(ending.exit())
}

fn of_planned(planned: &Planned, selection: &Selection, index: &Index) -> Result<Prepared, Failure> {
    Ok(Prepared {
        plan: planned.plan.clone().ok_or_else(not_submittable)?,
        exports: planned.exports.clone(),
        copies: planned.copies.clone(),
        left_out: left_out(selection),
        missed: missed(selection, index),
    })
}

/// A plan from a file, bound to the backup again, and what was shown when it was made: what is the same or refused is
/// not part of a plan, so it is looked at again. `None` when the root or the rights are no longer as they were then;
/// the helper will refuse such a plan and say what differs.
fn of_file(
    context: &mut Context,
    file: PlanFile,
    reading: &Reading,
    session: &Session,
) -> Result<(Prepared, Option<Planned>), Failure> {
    let plan = file.plan.plan();
    if plan.archive.sha256 != reading.index.sha256 {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "the plan was made for another archive (SHA-256 {}) than this one ({})",
                plan.archive.sha256, reading.index.sha256
            ),
        ));
    }
    if let Err(path) = crate::planner::contents(plan, &reading.index) {
        return Err(Failure::new(Exit::Usage, format!("the backup does not hold what the plan writes to {path}")));
    }
    let selection = Selection::new(&available(&reading.index), file.request, plan.host, file.backup_roles)?;
    let planned = context.plan(&reading.index, &selection, Some(session), plan.archive.clone())?;
    let again = planned.plan.as_ref().is_some_and(|again| again.hash() == file.plan.hash());
    if !again {
        context.caution("the root is no longer as it was when this plan was made; make a new one with `plan -o`");
    }
    let prepared = Prepared {
        plan: file.plan,
        exports: planned.exports.clone(),
        copies: planned.copies.clone(),
        left_out: left_out(&selection),
        missed: missed(&selection, &reading.index),
    };
    Ok((prepared, again.then_some(planned)))
}

/// A report in which nothing has happened yet.
fn blank(context: &Context, args: &RestoreArgs, prepared: &Prepared, view: &View<'_>, index: &Index) -> Ending {
    Ending {
        dry_run: args.dry_run,
        plan_hash: prepared.plan.hash(),
        warnings: context.warnings().to_vec(),
        counts: view.counts(),
        skipped: skipped(view),
        left_out: prepared.left_out.clone(),
        not_restorable: not_restorable(index),
        missed: prepared.missed,
        exported: None,
        dropped: Vec::new(),
        copies: prepared.copies.clone(),
        helper: None,
        failed: None,
        stopped: false,
        committed: false,
    }
}

/// Shows the plan, asks where exports go, and asks for the word.
fn review(
    context: &mut Context,
    args: &RestoreArgs,
    view: &View<'_>,
    prepared: &Prepared,
    index: &Index,
    session: &Session,
    back: bool,
) -> Result<Said, Failure> {
    if !args.json || context.dialogue.can_ask() {
        let head = format!(
            "Plan for {}, as {}   (~ changed, + new, ! refused)",
            proxsave_proto::escape::escape(&session.hello().root),
            session.hello().caller.name.as_deref().map_or_else(
                || format!("user {}", session.hello().caller.uid),
                |name| proxsave_proto::escape::escape(name.as_bytes())
            )
        );
        let tail = format!("Plan {}", prepared.plan.hash());
        context.dialogue.page(std::iter::once(head).chain(view.text()).chain([tail]))?;
        // Said even to somebody who did not read to the end.
        context.dialogue.say(view.summary());
    }
    let usable = |dir: &Path| {
        ExportDir::check(dir, &session.hello().root, Some(prepared.plan.plan()))?;
        ExportDir::check_room(dir, index, &prepared.exports)
    };
    if args.dry_run {
        // Nothing is made there, but whether it could be is told.
        args.export_dir.as_deref().filter(|_| !prepared.exports.is_empty()).map_or(Ok(()), usable)?;
        return Ok(Said::Go(None));
    }
    loop {
        let export_dir = match (&args.export_dir, prepared.exports.is_empty()) {
            (_, true) => None,
            (Some(dir), false) => {
                usable(dir)?;
                Some(dir.clone())
            }
            (None, false) => match ask_export_dir(context, &usable, back)? {
                Some(dir) => Some(dir),
                None => return Ok(Said::Back),
            },
        };
        if args.confirm.is_some() {
            return Ok(Said::Go(export_dir));
        }
        let text = format!("Type {CONFIRM_WORD} to start");
        let asked_dir = args.export_dir.is_none() && export_dir.is_some();
        let question = Question { text: &text, flag: "--confirm RESTORE", back: back || asked_dir };
        loop {
            match context.dialogue.line(question, "nothing else starts it")? {
                Answer::Is(word) if word == CONFIRM_WORD => return Ok(Said::Go(export_dir)),
                Answer::Is(_) => context.dialogue.say(format!("Not started. The word is {CONFIRM_WORD}.")),
                Answer::Back if asked_dir => break,
                Answer::Back => return Ok(Said::Back),
            }
        }
    }
}

/// Asks where exports go; `None` for back.
fn ask_export_dir(
    context: &mut Context,
    usable: &dyn Fn(&Path) -> Result<(), ExportError>,
    back: bool,
) -> Result<Option<PathBuf>, Failure> {
    let question = Question { text: "Export directory", flag: "--export-dir", back };
    loop {
        let answer = context.dialogue.line(question, "Enter for ./proxsave-export")?;
        let Answer::Is(text) = answer else { return Ok(None) };
        let dir = PathBuf::from(if text.is_empty() { "./proxsave-export" } else { text.as_str() });
        match usable(&dir) {
            Ok(()) => return Ok(Some(dir)),
            Err(error) => context.dialogue.say(error.to_string()),
        }
    }
}

/// Makes the fresh directory for an export.
fn export_place(dir: &Path, session: &Session, plan: &ValidPlan) -> Result<ExportDir, Failure> {
    Ok(ExportDir::create(dir, &text::stamp(), &session.hello().root, Some(plan.plan()))?)
}
