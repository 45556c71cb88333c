//! The service: each call becomes one request to the broker.

use super::link::Link;
use crate::broker::message::{Misuse, Reply, Request};
use proxsave_proto::message::{
    CallError, ClientHello, HelperHello, MAX_PROBE, PROGRESS_WAIT_MS, ProbeAnswer, ProbeItem, Progress, Report,
    Submission, Verdict,
};
use proxsave_proto::rpc::{Fd, Helper, MAX_FRAME};
use std::sync::Arc;
use std::time::Duration;
use tarpc::context::Context;

/// The longest version text of a front-end, in bytes.
const MAX_VERSION: usize = 128;
/// Bytes of paths in one request to the broker; with what else an item holds it stays well within one datagram.
const BATCH_BYTES: usize = 48 << 10;
/// Paths in one request to the broker.
const BATCH_ITEMS: usize = 256;
/// What a frame has around a probe's answer, at most.
const ANSWER_MARGIN: usize = 1024;

/// Answers the calls of one connection.
#[derive(Debug, Clone)]
pub(super) struct Service {
    link: Arc<Link>,
}

impl Service {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    async fn ask(&self, request: Request) -> Result<Reply, CallError> {
        Arc::clone(&self.link).ask(request).await
    }

    /// Ends the session, since the front-end broke the protocol.
    async fn refuse<T>(&self, misuse: Misuse, error: CallError) -> Result<T, CallError> {
        // What the broker says to it is for every breach the same.
        let _ = self.ask(Request::Misuse(misuse)).await;
        Err(error)
    }
}

/// The broker answered something else than was asked for: one of the two is broken, and no guess is better.
fn confused<T>() -> Result<T, CallError> {
    Err(CallError::Failed("the parts of the helper disagree; this is a bug".to_owned()))
}

impl Helper for Service {
    async fn hello(self, _: Context, client: ClientHello) -> Result<HelperHello, CallError> {
        if client.version.len() > MAX_VERSION {
            return self.refuse(Misuse::LongVersion, CallError::OverLimit).await;
        }
        match self.ask(Request::Hello(client)).await? {
            Reply::Hello(hello) => Ok(*hello),
            _ => confused(),
        }
    }

    async fn probe(self, _: Context, items: Vec<ProbeItem>) -> ProbeAnswer {
        if items.len() > MAX_PROBE {
            return self.refuse(Misuse::TooManyPaths, CallError::OverLimit).await;
        }
        let mut targets = Vec::with_capacity(items.len());
        let mut size = 0;
        for batch in batches(items) {
            let Reply::Probe(answer) = self.ask(Request::Probe(batch)).await? else { return confused() };
            size += answer.iter().map(encoded_len).sum::<usize>();
            if size > MAX_FRAME - ANSWER_MARGIN {
                let why = "what is there does not fit into one answer: ask for fewer paths at once";
                return Err(CallError::Failed(why.to_owned()));
            }
            targets.extend(answer);
        }
        Ok(targets)
    }

    async fn submit(self, _: Context, submission: Submission, plan: Fd) -> Result<Verdict, CallError> {
        match self.ask(Request::Submit(submission, plan)).await? {
            Reply::Submit(verdict) => Ok(verdict),
            _ => confused(),
        }
    }

    async fn stream(self, _: Context) -> Result<Fd, CallError> {
        match self.ask(Request::Stream).await? {
            Reply::Stream(fd) => Ok(fd),
            _ => confused(),
        }
    }

    async fn progress(self, _: Context, since: u64) -> Result<Progress, CallError> {
        let mut news = self.link.news();
        if news.borrow().is_none() {
            return self.refuse(Misuse::ProgressBeforeHello, CallError::OutOfOrder).await;
        }
        let newer = news.wait_for(|progress| progress.as_ref().is_some_and(|progress| progress.seq > since));
        // Nothing new in that time: the front-end gets the old one and asks again.
        let _ = tokio::time::timeout(Duration::from_millis(PROGRESS_WAIT_MS), newer).await;
        let latest = news.borrow().clone();
        latest.map_or_else(confused, Ok)
    }

    async fn commit(self, _: Context) -> Result<(), CallError> {
        match self.ask(Request::Commit).await? {
            Reply::Done => Ok(()),
            _ => confused(),
        }
    }

    async fn cancel(self, _: Context) -> Result<(), CallError> {
        match self.ask(Request::Cancel).await? {
            Reply::Done => Ok(()),
            _ => confused(),
        }
    }

    async fn report(self, _: Context) -> Result<Report, CallError> {
        match self.ask(Request::Report).await? {
            Reply::Report(report) => Ok(*report),
            _ => confused(),
        }
    }
}

/// The probe in portions that fit a datagram each. No paths still make one, so that the order is checked.
fn batches(items: Vec<ProbeItem>) -> Vec<Vec<ProbeItem>> {
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    for item in items {
        bytes += item.path.as_bytes().len() + 16;
        match batches.last_mut() {
            Some(batch) if bytes <= BATCH_BYTES && batch.len() < BATCH_ITEMS => batch.push(item),
            _ => {
                bytes = item.path.as_bytes().len() + 16;
                batches.push(vec![item]);
            }
        }
    }
    batches
}

fn encoded_len(target: &proxsave_proto::state::Target) -> usize {
    postcard::experimental::serialized_size(target).unwrap_or(MAX_FRAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxsave_proto::RelPath;

    #[test]
    fn probes_are_cut_to_fit_datagrams_and_keep_their_order() {
        let item = |n: usize| ProbeItem {
            path: RelPath::from_archive(format!("etc/{}/{n}", "x/".repeat(1500)).as_bytes()).unwrap(),
            hash_if_size: Some(u64::MAX),
        };
        let items: Vec<_> = (0..2048).map(item).collect();
        let cut = batches(items.clone());
        assert!(cut.len() > 100);
        for batch in &cut {
            let bytes = postcard::to_stdvec(&Request::Probe(batch.clone())).unwrap();
            assert!(bytes.len() < crate::broker::message::DATAGRAM / 2);
        }
        assert_eq!(cut.concat(), items);
        assert_eq!(batches(Vec::new()), [Vec::new()]);
        let small: Vec<_> = (0..2048)
            .map(|n| ProbeItem { path: RelPath::from_archive(format!("{n}").as_bytes()).unwrap(), hash_if_size: None })
            .collect();
        assert_eq!(batches(small).len(), 8);
    }
}
