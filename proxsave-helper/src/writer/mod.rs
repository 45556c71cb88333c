//! The writer: stages, verifies and puts in place what a checked plan says.
//!
//! A process of its own, forked from the broker for one plan, in a view of the file system made for that plan
//! (`view`), caged ([`crate::cage`]). It takes the contents from a pipe (`content`), stages everything
//! beside its target (`stage`), waits for the word, and renames (`commit`).

mod commit;
mod content;
mod cursor;
mod error;
mod layout;
mod meta;
mod protocol;
mod stage;
mod talk;
mod tree;
mod view;

pub use content::content_pipe;
pub use protocol::{Channel, FromWriter, MAX_FAILURES, Outcome, ToWriter};
pub use tree::remove_tree;

use crate::cage::{self, Access, Cage, Enforced, Files, Layers, Profile, Rule, WRITER_CAPS, Who};
use crate::check::CheckedPlan;
use crate::sys::{self, Child, Exit};
use content::Content;
use error::WriterError;
use layout::Layout;
use proxsave_proto::Plan;
use proxsave_proto::message::Phase;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use rustix::net::RecvFlags;
use rustix::process::{Resource, Rlimit, setrlimit};
use stage::Staging;
use std::io;
use std::time::Duration;
use talk::Talk;

/// How long the content stream may be silent before the transaction fails.
pub const IDLE: Duration = Duration::from_secs(60);

/// What one writer carries out.
#[derive(Debug)]
pub struct Job<'a> {
    plan: &'a Plan,
    /// The plan's anchor directories, in its order, held open since the check.
    anchors: Vec<BorrowedFd<'a>>,
    /// What the check decided; `None` only in tests.
    checked: Option<&'a CheckedPlan>,
    txid: &'a str,
    layers: Layers,
    idle: Duration,
}

impl<'a> Job<'a> {
    /// The job of a checked plan. `txid` goes into the names of staging directories.
    #[must_use]
    pub fn new(checked: &'a CheckedPlan, txid: &'a str) -> Self {
        let anchors = checked.anchors().iter().map(AsFd::as_fd).collect();
        let plan = checked.plan();
        Self { plan, anchors, checked: Some(checked), txid, layers: Layers::ALL, idle: IDLE }
    }

    /// A job without the check that belongs before it, for tests that show what the cage alone holds.
    ///
    /// `anchors` are the plan's anchor directories, in its order.
    #[doc(hidden)]
    #[must_use]
    pub fn unchecked(plan: &'a Plan, anchors: Vec<BorrowedFd<'a>>, txid: &'a str) -> Self {
        Self { plan, anchors, checked: None, txid, layers: Layers::ALL, idle: IDLE }
    }

    /// With other layers than all (see [`Layers`]).
    #[must_use]
    pub fn layers(self, layers: Layers) -> Self {
        Self { layers, ..self }
    }

    /// With another deadline for the silence of the content stream.
    #[must_use]
    pub fn idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }
}

/// Starts the writer of a job. `content` is the reading end of [`content_pipe`].
///
/// From a single-threaded process only (see [`sys::fork`]). Everything that can go wrong after the fork is told
/// by [`FromWriter::Over`].
///
/// # Errors
/// When there is no room for a process or a socket.
pub fn spawn(job: &Job<'_>, content: OwnedFd) -> io::Result<WriterHandle> {
    rustix::io::ioctl_fionbio(&content, true)?;
    let (channel, theirs) = Channel::pair()?;
    let child = sys::fork(move || match run(job, &theirs, content) {
        Ok(()) => 0,
        // The broker sees the end of the channel without an outcome before it.
        Err(_) => 1,
    })?;
    Ok(WriterHandle { child, channel })
}

/// For tests: a writer that somebody took over. It builds its view and closes its cage as for any job, and then
/// does `act` instead of its work, with the directories it holds; what `act` gives is its exit status.
///
/// # Errors
/// When there is no room for a process.
#[doc(hidden)]
pub fn spawn_taken_over(job: &Job<'_>, act: impl FnOnce(&[OwnedFd]) -> i32) -> io::Result<Child> {
    sys::fork(|| {
        let caged = Layout::new(job.plan).map_err(WriterError::from).and_then(|layout| {
            let view = view::build(job, &layout, &[])?;
            close_cage(&layout, &view, open_files(&layout), job.layers)?;
            Ok(view.dirs)
        });
        caged.map_or(250, |dirs| act(&dirs))
    })
}

/// The writer's life. Fails only when it cannot tell its outcome.
fn run(job: &Job<'_>, channel: &Channel, content: OwnedFd) -> Result<(), WriterError> {
    let mut talk = Talk::new(channel);
    let outcome = carry_out(job, &mut talk, content).unwrap_or_else(|error| Outcome {
        phase: if matches!(error, WriterError::Cancelled) { Phase::Cancelled } else { Phase::Failed },
        error: (!matches!(error, WriterError::Cancelled))
            .then(|| protocol::clip(error.to_string(), protocol::MAX_TEXT)),
        written: Vec::new(),
        failed: 0,
    });
    talk.tell(&FromWriter::Over(outcome))
}

fn carry_out(job: &Job<'_>, talk: &mut Talk<'_>, content: OwnedFd) -> Result<Outcome, WriterError> {
    let layout = Layout::new(job.plan)?;
    let (staging, mut content) = settle(job, &layout, talk, content)?;
    let mut staging = staging;
    let staged = staging
        .run(&mut content, talk)
        .and_then(|()| talk.tell(&FromWriter::Staged { entries: talk.entries, bytes: talk.bytes }))
        .and_then(|()| talk.wait_for_commit())
        .and_then(|()| commit::recheck(&staging));
    match staged {
        Ok(()) => Ok(commit::commit(&mut staging, talk)),
        Err(error) => {
            // What cannot be removed is what the next helper's sweep is for; the first error is the one to tell.
            let _ = staging.discard();
            Err(error)
        }
    }
}

/// Builds the view, closes the cage, makes the staging directories.
fn settle<'j>(
    job: &'j Job<'j>,
    layout: &'j Layout<'j>,
    talk: &mut Talk<'_>,
    content: OwnedFd,
) -> Result<(Staging<'j>, Content), WriterError> {
    let own = |what: &str| WriterError::view(what.to_owned());
    // A terminal's signals are for the broker to answer.
    rustix::process::setsid().map_err(own("leave the terminal"))?;
    rustix::process::umask(Mode::empty());
    let most = open_files(layout);
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::Nofile, limit).map_err(own("raise the number of open files"))?;
    let keep = [talk.socket().as_raw_fd(), content.as_raw_fd()];
    let mut view = view::build(job, layout, &keep)?;
    let enforced = close_cage(layout, &view, most, job.layers)?;
    let covered = view.covered;
    view.tops.clear();
    let uncovered = std::mem::take(&mut view.uncovered);
    talk.tell(&FromWriter::Ready { enforced, covered, uncovered })?;
    let staging = Staging::begin(job, layout, view)?;
    Ok((staging, Content::new(content, job.idle)))
}

/// Two for each directory of the view, and what walking the deepest trees takes: two cursors, or a removal with two
/// for each level.
fn open_files(layout: &Layout<'_>) -> u64 {
    layout.slots.len() as u64 * 3 + 2 * 2 * cursor::HELD as u64 + 256
}

/// Names can be made where the plan makes names, and nowhere else in the view.
fn close_cage(
    layout: &Layout<'_>,
    view: &view::View,
    open_files: u64,
    layers: Layers,
) -> Result<Enforced, WriterError> {
    let places = layout.topmost_staging(&view.top_of);
    let rules = places.iter().filter_map(|slot| view.dirs.get(*slot));
    let rules = rules.map(|dir| Rule { dir: dir.as_fd(), access: Access::Write });
    let cage = Cage {
        who: Who::Root,
        keep: WRITER_CAPS,
        files: Files::Beneath(rules.collect()),
        profile: Profile::Writer,
        open_files: Some(open_files),
    };
    Ok(cage::enter(&cage, layers)?)
}

/// The broker's hold on a writer. Dropping it ends the writer.
#[derive(Debug)]
pub struct WriterHandle {
    child: Child,
    channel: Channel,
}

impl WriterHandle {
    /// To poll for messages.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    /// To poll for its end.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    /// Tells it something.
    ///
    /// # Errors
    /// When it is gone.
    pub fn send(&self, message: ToWriter) -> io::Result<()> {
        self.channel.send(&message)
    }

    /// Takes its next message; `None` when there will be no more.
    ///
    /// # Errors
    /// `WouldBlock` when there is none yet.
    pub fn receive(&self) -> io::Result<Option<FromWriter>> {
        self.channel.receive(RecvFlags::empty())
    }

    /// Ends it at once. What it staged stays for the sweep.
    pub fn kill(&self) {
        self.child.kill();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(mut self) -> io::Result<Exit> {
        self.child.wait()
    }
}
