//! Carrying a plan out: submit, stream, commit, report.

use super::{Prepared, export_place};
use crate::cli::Exit;
use crate::commands::pump::{Passed, PumpError, Routes};
use crate::commands::report::Ending;
use crate::commands::session::Session;
use crate::commands::{Context, Failure, Reading, text};
use crate::decoder::{DecodeError, DecodeProgress, Decoder};
use crate::dialogue::Progress as Bar;
use crate::export::Exporter;
use crate::planner::contents;
use crate::sys::interrupt;
use proxsave_proto::message::{Phase, Verdict};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// The size that pipes are given, where the kernel lets us.
const PIPE: usize = 1 << 20;

/// Carries it out. A failure after the helper has approved the plan is told in the ending.
///
/// # Errors
/// When nothing was begun.
pub(super) fn run(
    context: &Context,
    reading: &mut Reading,
    session: &Session,
    prepared: &Prepared,
    export_dir: Option<PathBuf>,
    mut ending: Ending,
) -> Result<Ending, Failure> {
    let writes = !prepared.plan.plan().entries.is_empty();
    if writes {
        match session.client().submit(&prepared.plan, ending.dry_run)? {
            Verdict::Refused(reasons) => {
                let lines: Vec<String> =
                    reasons.iter().map(|reason| format!("\n  {}", escaped(&reason.to_string()))).collect();
                let text = format!("the helper refused the plan; nothing was written:{}", lines.concat());
                return Err(Failure::new(Exit::Refused, text));
            }
            Verdict::Approved(approval) => {
                ending.dropped = approval.dropped_privileges;
            }
        }
    }
    if ending.dry_run {
        ending.helper = if writes { Some(session.settle(&mut |_| {})?) } else { None };
        return Ok(ending);
    }
    match transfer(context, reading, session, prepared, export_dir, writes, &mut ending) {
        Ok(()) => {}
        Err(failure) => {
            ending.stopped = failure.exit == Exit::Stopped || interrupt::raised();
            ending.failed = Some(failure.text);
            if writes {
                // The report says what was written; without one the text above has to do.
                match session.cancel() {
                    Ok(report) => ending.helper = Some(report),
                    Err(error) => context.warn(error.to_string()),
                }
            }
        }
    }
    Ok(ending)
}

fn escaped(text: &str) -> String {
    proxsave_proto::escape::escape(text.as_bytes())
}

fn transfer(
    context: &Context,
    reading: &mut Reading,
    session: &Session,
    prepared: &Prepared,
    export_dir: Option<PathBuf>,
    writes: bool,
    ending: &mut Ending,
) -> Result<(), Failure> {
    let plan = prepared.plan.plan();
    let needed = contents(plan, &reading.index).map_err(|path| {
        Failure::new(Exit::Failed, format!("the backup does not hold what the plan writes to {path}"))
    })?;
    let mut exporter = match export_dir {
        Some(dir) => {
            let place = export_place(&dir, session, &prepared.plan)?;
            Some(Exporter::begin(place, &reading.index, &prepared.exports)?)
        }
        None => None,
    };
    let routes = Routes::new(&needed, plan.entries.len(), exporter.as_ref());
    let to = if writes { Some(session.client().stream()?) } else { None };
    if routes.is_empty() {
        drop(to);
    } else {
        move_contents(&mut reading.decoder, session, routes, to, exporter.as_mut())?;
    }
    if let Some(exporter) = exporter {
        let (dir, counts) = exporter.finish()?;
        ending.exported = Some((text::path(&dir), counts));
    }
    if !writes {
        return Ok(());
    }
    wait_for(session, Phase::Staged, "Making durable", prepared)?;
    if interrupt::raised() {
        return Err(Failure::stopped());
    }
    ending.committed = true;
    session.client().commit()?;
    context.debug("committed; from here on it is waited out");
    // Names are put in place now; stopping half way would help nobody.
    let mut bar = Bar::begin("Putting in place", None);
    ending.helper = Some(session.settle(&mut |news| bar.set(news.bytes, news.entries))?);
    Ok(())
}

/// Waits until the transaction is in a phase, showing how far it is.
fn wait_for(session: &Session, phase: Phase, what: &'static str, prepared: &Prepared) -> Result<(), Failure> {
    let mut bar = Bar::begin(what, Some(prepared.plan.content_len()));
    let news = session.wait(Some(phase), &mut |news| bar.set(news.bytes, news.entries))?;
    match news.phase {
        reached if reached == phase => Ok(()),
        Phase::Cancelled => Err(Failure::stopped()),
        _ => {
            let why = news.error.map_or_else(|| "it does not say why".to_owned(), |error| escaped(&error));
            Err(Failure::new(Exit::Failed, format!("the helper gave up: {why}")))
        }
    }
}

/// The second pass over the archive: the decoder writes, the pump moves, this thread shows and watches.
fn move_contents(
    decoder: &mut Decoder,
    session: &Session,
    routes: Routes,
    to: Option<OwnedFd>,
    exporter: Option<&mut Exporter<'_>>,
) -> Result<(), Failure> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    // A smaller pipe is slower and as good.
    let _ = fcntl_setpipe_size(&writer, PIPE);
    if let Some(to) = &to {
        let _ = fcntl_setpipe_size(to, PIPE);
    }
    let wanted = routes.wanted();
    let total = routes.bytes();
    let helper = to.is_some();
    let (passed, broken) = (Passed::default(), AtomicBool::new(false));
    let (extracted, pumped, watched) = std::thread::scope(|scope| {
        let pump = scope.spawn(|| {
            let ended = routes.run(reader, to, exporter, &passed);
            broken.fetch_or(ended.is_err(), Ordering::Relaxed);
            ended
        });
        let extract = scope.spawn(|| {
            let mut watch = |_: DecodeProgress| {
                if interrupt::raised() || broken.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            let ended = decoder.extract(&wanted, writer, &mut watch);
            broken.fetch_or(ended.is_err(), Ordering::Relaxed);
            ended
        });
        let mut bar = Bar::begin("Writing", Some(total));
        let mut watched = None;
        while !(pump.is_finished() && extract.is_finished()) {
            bar.set(passed.bytes.load(Ordering::Relaxed), passed.files.load(Ordering::Relaxed));
            std::thread::sleep(std::time::Duration::from_millis(if total < 1 << 20 { 2 } else { 50 }));
            // A helper that stalls is found out by itself; Ctrl-C must not wait for that.
            if watched.is_none() && helper && interrupt::raised() {
                watched = Some(session.client().cancel().err());
            }
        }
        (extract.join(), pump.join(), watched)
    });
    let gone = |_| Failure::new(Exit::Failed, "a thread of this program ended unexpectedly");
    let (extracted, pumped) = (extracted.map_err(gone)?, pumped.map_err(gone)?);
    if interrupt::raised() || watched.is_some() {
        return Err(Failure::stopped());
    }
    match (extracted, pumped) {
        (Ok(_), Ok(())) => Ok(()),
        (_, Err(PumpError::HelperClosed)) => Err(closed_by_helper(session)),
        (Err(DecodeError::Cancelled), Err(error)) | (Ok(_), Err(error)) => {
            let exit = match error {
                PumpError::Unexpected | PumpError::Short => Exit::BadBackup,
                _ => Exit::Failed,
            };
            Err(Failure::new(exit, error.to_string()))
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// The helper knows why it took no more.
fn closed_by_helper(session: &Session) -> Failure {
    let why = match session.client().progress(0) {
        Ok(news) => news.error.map_or_else(|| "it does not say why".to_owned(), |error| escaped(&error)),
        Err(error) => error.to_string(),
    };
    Failure::new(Exit::Failed, format!("the helper stopped taking contents: {why}"))
}
