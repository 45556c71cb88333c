//! A session with the root helper, as the commands use it.

use super::Failure;
use super::launch::Reach;
use crate::cli::Exit;
use crate::helper_client::{ClientError, HelperClient};
use proxsave_proto::message::{HelperHello, Phase, ProbeItem, Progress, Report};
use proxsave_proto::state::Target;
use std::process::Child;
use std::time::{Duration, Instant};

/// How many questions are made ready at once; their answers are what takes memory.
const BUNCH: usize = 10_000;

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

    /// Looks at targets, in bunches. `seen` hears how many are done.
    ///
    /// # Errors
    /// When the session ends.
    pub fn probe(
        &self,
        mut items: impl Iterator<Item = ProbeItem>,
        mut seen: impl FnMut(u64),
    ) -> Result<Vec<Target>, Failure> {
        let mut targets = Vec::new();
        loop {
            let bunch: Vec<ProbeItem> = items.by_ref().take(BUNCH).collect();
            if bunch.is_empty() {
                return Ok(targets);
            }
            let before = targets.len();
            let found = self.client.probe_each(&bunch, &mut |done| seen((before + done) as u64))?;
            targets.extend(found);
        }
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
