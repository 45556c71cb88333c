//! What each call does, once the table says that it is in order.

use super::lock::SessionLock;
use super::message::{MAX_ANSWER, Reply, Request};
use super::session::{Act, Call, State, act};
use super::transaction::Transaction;
use super::{Broker, Ending, Fatal, events, plan};
use crate::audit::{Approved, Event, Text};
use crate::check;
use crate::facts;
use crate::journal::TxId;
use crate::probe::{Limits, Prober};
use proxsave_proto::message::{
    Approval, CallError, ClientHello, HelperHello, ProbeItem, Refusal, Submission, Verdict, Why,
};
use proxsave_proto::rpc::Fd;
use proxsave_proto::state::{Blocked, Target};
use proxsave_proto::{RelPath, ValidPlan};

/// Bytes of lists in an answer, so that it fits.
const LIST_FITS: usize = MAX_ANSWER / 2;

impl Broker<'_> {
    /// Answers a request, or ends the session.
    pub(super) fn answer(&mut self, request: Request) -> Result<Reply, Fatal> {
        let call = match &request {
            Request::Hello(_) => Call::Hello,
            Request::Probe(_) => Call::Probe,
            Request::Submit(..) => Call::Submit,
            Request::Stream => Call::Stream,
            Request::Commit => Call::Commit,
            Request::Cancel => Call::Cancel,
            Request::Report => Call::Report,
            Request::Misuse(misuse) => {
                self.breach(misuse.to_string())?;
                return Ok(Reply::Error(CallError::OverLimit));
            }
            // Once a cage is closed it stays closed.
            Request::Ready(_) | Request::Uncaged(_) => {
                self.breach("the gate spoke out of turn".to_owned())?;
                return Ok(Reply::Error(CallError::OutOfOrder));
            }
        };
        let Some(act) = act(self.state, call) else {
            self.breach(format!("{call} {}", self.state))?;
            return Ok(Reply::Error(CallError::OutOfOrder));
        };
        match (act, request) {
            (Act::Open, Request::Hello(client)) => self.open(&client),
            (Act::Look, Request::Probe(items)) => self.look(&items),
            (Act::Check, Request::Submit(submission, fd)) => self.check(&submission, fd),
            (Act::Stage, _) => Ok(match self.start_writer()? {
                Ok(fd) => Reply::Stream(fd),
                Err(why) => Reply::Error(CallError::Failed(why)),
            }),
            (Act::Commit, _) => self.commit().map(|()| Reply::Done),
            (Act::Cancel, _) => self.cancel(),
            (Act::Report, _) => {
                // The head in the report covers everything before it.
                self.log.commit()?;
                let nothing = || CallError::Failed("no plan was approved, so there is nothing to report".to_owned());
                Ok(self.report().map_or_else(|| Reply::Error(nothing()), |report| Reply::Report(Box::new(report))))
            }
            (Act::Nothing, _) | (Act::Open | Act::Look | Act::Check, _) => Ok(Reply::Done),
        }
    }

    fn open(&mut self, client: &ClientHello) -> Result<Reply, Fatal> {
        self.log.append(&Event::Hello { client: Text::from(client.version.as_str()) })?;
        match self.prepare() {
            Ok((nonce, prober)) => {
                self.nonce = Some(nonce);
                self.prober = Some(prober);
            }
            Err(why) => {
                self.ending.get_or_insert(Ending::NotOpened(why.clone()));
                return Ok(Reply::Error(CallError::Failed(why)));
            }
        }
        self.sweep()?;
        self.state = State::Greeted;
        // The first news open `progress` to the front-end.
        self.news(|_| ());
        Ok(Reply::Hello(Box::new(HelperHello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: self.nonce.unwrap_or_default(),
            caller: self.caller.to_message(),
            root: self.root.path(),
            host: facts::detect(self.root),
            granted: self.grants.categories.clone(),
            grants_privileged_bits: self.grants.privileged_bits,
            sandbox: self.sandbox.join("; "),
        })))
    }

    /// Everything that must be there before a session opens.
    fn prepare(&mut self) -> Result<([u8; 16], Prober), String> {
        let lock = SessionLock::take(self.state_dir, &self.caller).map_err(|error| error.to_string())?;
        self.lock = Some(lock);
        self.root.refresh().map_err(|error| format!("the mount table cannot be read: {error}"))?;
        let started = Prober::start(self.root, self.layers, Limits::default());
        let (prober, enforced) = started.map_err(|error| error.to_string())?;
        let event = Event::Sandbox { txid: None, process: "prober".into(), enforced: Text::of(&enforced) };
        self.log.append(&event).map_err(|error| error.to_string())?;
        self.sandbox.push(format!("prober: {enforced}"));
        let mut nonce = [0u8; 16];
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| format!("the kernel gives no random numbers: {errno}"))?;
        Ok((nonce, prober))
    }

    fn look(&mut self, items: &[ProbeItem]) -> Result<Reply, Fatal> {
        let Some(prober) = &mut self.prober else { return Ok(Reply::Error(CallError::OutOfOrder)) };
        let targets = prober.look(self.root, &self.grants, items);
        let is_withheld = |target: &&Target| matches!(target, Target::Blocked(Blocked::NotGranted));
        let withheld = targets.iter().filter(is_withheld).count() as u64;
        self.log.append(&Event::Probe { paths: items.len() as u64, withheld })?;
        Ok(Reply::Probe(targets))
    }

    fn check(&mut self, submission: &Submission, fd: Fd) -> Result<Reply, Fatal> {
        // Used up, whatever becomes of it.
        let nonce = self.nonce.take();
        let valid = match plan::take(submission, fd, nonce) {
            Ok(valid) => valid,
            Err(reasons) => return self.refuse(submission, reasons),
        };
        match self.check_live(valid) {
            Ok((checked, txid)) => self.approve(submission, checked, txid),
            Err(reasons) => self.refuse(submission, reasons),
        }
    }

    fn check_live(&mut self, valid: ValidPlan) -> Result<(check::CheckedPlan, TxId), Vec<Refusal>> {
        let unable = |why: String| vec![Refusal { path: None, why: Why::Unsupported(why) }];
        let Some(prober) = &mut self.prober else { return Err(unable("nothing can be looked at".to_owned())) };
        let checked = check::check(valid, &self.grants, self.root, &mut prober.contents(self.root))?;
        let txid = TxId::random().map_err(|error| unable(format!("the kernel gives no random numbers: {error}")))?;
        Ok((checked, txid))
    }

    fn refuse(&mut self, submission: &Submission, reasons: Vec<Refusal>) -> Result<Reply, Fatal> {
        self.log.plan_refused(submission.plan_hash, submission.dry_run, &reasons)?;
        self.finish_without("the plan was refused".to_owned())?;
        Ok(Reply::Submit(Verdict::Refused(plan::fitting(reasons, LIST_FITS))))
    }

    fn approve(&mut self, submission: &Submission, checked: check::CheckedPlan, txid: TxId) -> Result<Reply, Fatal> {
        let dropped: Vec<RelPath> = checked.dropped_paths().cloned().collect();
        self.log.plan_approved(&Approved {
            plan: checked.hash(),
            txid: txid.as_str(),
            dry_run: submission.dry_run,
            archive: checked.plan().archive.sha256,
            entries: &events::counts(checked.plan()),
            bytes: checked.valid().content_len(),
            dropped: &dropped,
        })?;
        let mut room = LIST_FITS;
        // All are in the log; an answer holds what fits it.
        let told = dropped.into_iter().map_while(|path| {
            room = room.checked_sub(path.as_bytes().len() + 8)?;
            Some(path)
        });
        let approval =
            Approval { plan_hash: checked.hash(), txid: txid.to_string(), dropped_privileges: told.collect() };
        self.transaction = Some(Transaction::new(checked, txid, submission.dry_run));
        self.state = State::Approved;
        self.news(|progress| progress.phase = proxsave_proto::message::Phase::Approved);
        if submission.dry_run {
            self.finish_dry_run()?;
        }
        Ok(Reply::Submit(Verdict::Approved(approval)))
    }

    fn cancel(&mut self) -> Result<Reply, Fatal> {
        let txid = self.transaction.as_ref().map(Transaction::txid);
        self.log.append(&Event::Cancelled { txid })?;
        self.stop(proxsave_proto::message::Phase::Cancelled, None)?;
        Ok(Reply::Done)
    }
}
