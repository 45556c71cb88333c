//! `plan`: what a restore would change.

use super::launch::{self, Reach};
use super::prepare::{Host, archive_ref, not_submittable};
use super::session::Session;
use super::{Context, Failure, text};
use crate::cli::{Exit, PlanArgs};
use crate::planner::file::PlanFile;
use crate::planner::view::View;
use serde_json::json;

/// `plan`. `reach` is the helper, when one is to be asked.
///
/// # Errors
/// When the backup cannot be read, or no plan can be made.
pub fn plan(context: &mut Context, args: &PlanArgs, reach: Option<Reach>) -> Result<Exit, Failure> {
    if args.output.is_some() && reach.is_none() {
        return Err(not_submittable().context("no plan file is written"));
    }
    let reading = context.read(&args.backup, &args.open, true)?;
    let session = reach.map(Session::open).transpose()?;
    let host = Host::of(session.as_ref(), args.selection.host_role);
    let fit = context.consent(&host, &reading.index, &args.open)?;
    let selection = context.select(&reading.index, host.roles, &args.selection)?;
    let planned = context.plan(&reading.index, &selection, session.as_ref(), archive_ref(&reading))?;
    let view = View::of_planned(&planned, &reading.index);
    let submittable = session.is_some();
    let hash = planned.plan.as_ref().filter(|_| submittable).map(proxsave_proto::ValidPlan::hash);
    if let Some(output) = &args.output {
        let plan = planned.plan.clone().ok_or_else(not_submittable)?;
        let backup = reading.opened.backup.path.clone();
        let request = selection.request.clone();
        PlanFile { backup, request, backup_roles: selection.backup, plan }.write(output)?;
        context.info(format!("The plan is in {}.", text::path(output)));
    }
    if args.json {
        let mut object = view.json();
        if let Some(object) = object.as_object_mut() {
            object.insert("warnings".to_owned(), json!(context.warnings()));
            object.insert("compatibility".to_owned(), json!(fit));
            object.insert("mode".to_owned(), json!(selection.request.mode.key()));
            object.insert("submittable".to_owned(), json!(submittable));
            object.insert("plan_hash".to_owned(), json!(hash.map(|hash| hash.to_string())));
            object.insert("left_out".to_owned(), super::report::left_out(&selection));
            object.insert("not_restorable".to_owned(), super::report::not_restorable(&reading.index));
        }
        context.print(object.to_string())?;
        return Ok(Exit::Ok);
    }
    for line in view.text() {
        context.print(line)?;
    }
    for left_out in &selection.left_out {
        context.print(format!(
            "{} ({}): not taken: {}",
            left_out.category.row().name,
            left_out.category,
            left_out.why
        ))?;
    }
    match hash {
        Some(hash) => context.print(format!("Plan {hash}"))?,
        None => context.print("Made without a helper, so it cannot be submitted.")?,
    }
    Ok(Exit::Ok)
}

/// The helper that `plan` asks: only when one is named.
///
/// # Errors
/// See [`launch::settle`].
pub fn reach(args: &PlanArgs) -> Result<Option<Reach>, Failure> {
    if args.helper.socket.is_none() && args.helper.launch.is_none() {
        return Ok(None);
    }
    launch::settle(&args.helper).map(Some)
}
