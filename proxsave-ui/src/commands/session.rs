//! A session with the root helper, as the commands use it.

use super::Failure;
use super::launch::Reach;
use crate::cli::Exit;
use crate::helper_client::{ClientError, HelperClient};
use proxsave_proto::RelPath;
use proxsave_proto::message::{HelperHello, Phase, ProbeItem, Progress, Report};
use proxsave_proto::state::{Anchor, Target};
use std::process::Child;
use std::time::{Duration, Instant};

/// How many questions are made ready at once; their answers are what takes memory.
const BUNCH: usize = 2_000;

/// A connection after `hello`, and the helper when it was started for it.
#[derive(Debug)]
pub struct Session {
    /// Dropped first: a helper that was started for this session ends when its connection does.
    client: HelperClient,
    _helper: Option<Started>,
}

#[derive(Debug)]
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Stopped => Exit::Stopped,
            ClientError::Plan(_) | ClientError::Runtime(_) => Exit::Failed,
            _ => Exit::NoHelper,
        };
        Failure::new(exit, error.to_string())
    }
}

impl Session {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When the helper cannot be reached, or is another program or version.
    pub fn open(reach: Reach) -> Result<Self, Failure> {
        Ok(match reach {
            Reach::Started(socket, child) => {
                let helper = Started(child);
                Self { client: HelperClient::from_stream(socket)?, _helper: Some(helper) }
            }
            Reach::Socket(path) => Self { client: HelperClient::connect(&path)?, _helper: None },
        })
    }

    /// What the helper said of itself and its root.
    #[must_use]
    pub fn hello(&self) -> &HelperHello {
        self.client.hello()
    }

    /// The calls.
    #[must_use]
    pub fn client(&self) -> &HelperClient {
        &self.client
    }

    /// Looks at targets, in bunches. `seen` hears how many are done. Items that come sorted by path cost less: what
    /// lies below a directory that is absent is absent, and nobody has to be asked.
    ///
    /// # Errors
    /// When the session ends.
    pub fn probe(
        &self,
        items: impl Iterator<Item = ProbeItem>,
        mut seen: impl FnMut(u64),
    ) -> Result<Vec<Target>, Failure> {
        gather(items, |bunch, before| Ok(self.client.probe_each(bunch, &mut |done| seen((before + done) as u64))?))
    }

    /// Waits until a phase is reached or the transaction is over.
    ///
    /// # Errors
    /// When the session ends.
    pub fn wait(&self, phase: Option<Phase>, show: &mut dyn FnMut(&Progress)) -> Result<Progress, Failure> {
        Ok(self.client.watch(|now| Some(now) == phase, show)?)
    }

    /// Waits until nothing more happens and gives the report.
    ///
    /// # Errors
    /// When the session ends.
    pub fn settle(&self, show: &mut dyn FnMut(&Progress)) -> Result<Report, Failure> {
        self.wait(None, show)?;
        Ok(self.client.report()?)
    }

    /// Stops what goes on, waits until that is done, and gives the report.
    ///
    /// # Errors
    /// When the session ends.
    pub fn cancel(&self) -> Result<Report, Failure> {
        if !self.client.progress(0).is_ok_and(|now| now.phase.is_over()) {
            self.client.cancel()?;
        }
        self.settle(&mut |_| {})
    }
}

/// Asks for items in bunches and gives all answers in the items' order. `ask` gets a bunch and how many answers there
/// are already.
fn gather(
    mut items: impl Iterator<Item = ProbeItem>,
    mut ask: impl FnMut(&[ProbeItem], usize) -> Result<Vec<Target>, Failure>,
) -> Result<Vec<Target>, Failure> {
    let mut targets: Vec<Target> = Vec::new();
    let mut gap: Option<(RelPath, Anchor)> = None;
    loop {
        let mut bunch = Vec::new();
        for item in items.by_ref() {
            match &gap {
                // Only between bunches, where the answers so far are in order.
                Some((absent, anchor)) if bunch.is_empty() && item.path.starts_with(absent) => {
                    targets.push(Target::Absent(*anchor));
                }
                _ => bunch.push(item),
            }
            if bunch.len() == BUNCH {
                break;
            }
        }
        let Some(last) = bunch.last() else { return Ok(targets) };
        let asked = ask(&bunch, targets.len())?;
        if let Some(Target::Absent(anchor)) = asked.last() {
            gap = Some((last.path.prefix(usize::from(anchor.depth) + 1), *anchor));
        }
        targets.extend(asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_below_what_is_absent() {
        let anchor = |depth| Anchor { depth, dev: 1, ino: u64::from(depth) + 2, mount: 3 };
        let path = |text: String| RelPath::from_archive(text.as_bytes()).unwrap();
        // `a/gone` is absent with all below it; `b` stands, and so do its files' directory.
        let answer = |path: &RelPath| {
            let gone = RelPath::from_archive(b"a/gone").unwrap();
            Target::Absent(anchor(if path.starts_with(&gone) { 1 } else { u16::try_from(path.depth()).unwrap() - 1 }))
        };
        let below = |dir: &'static str| (0..3 * BUNCH).map(move |n| format!("{dir}/{n:06}"));
        let paths: Vec<RelPath> = below("a/gone").chain(below("b")).map(path).collect();
        let mut asked = 0;
        let items = paths.iter().map(|path| ProbeItem { path: path.clone(), hash_if_size: None });
        let targets = gather(items, |bunch, _| {
            asked += bunch.len();
            Ok(bunch.iter().map(|item| answer(&item.path)).collect())
        })
        .unwrap();
        assert_eq!(targets, paths.iter().map(answer).collect::<Vec<_>>());
        assert_eq!(asked, 4 * BUNCH, "one bunch shows that a/gone is absent; b is asked for whole");
    }
}
