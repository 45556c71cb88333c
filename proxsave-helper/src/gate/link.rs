//! The gate's end of the channel to the broker.

use crate::broker::message::{ChannelError, DATAGRAM, MAX_ANSWER, Misuse, Receiving, Reply, Request, Sending, ToGate};
use proxsave_proto::message::{CallError, Progress};
use rustix::fd::OwnedFd;
use std::io;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc, watch};

/// One request at a time, each answered before the next; news come in between.
#[derive(Debug)]
pub(super) struct Link {
    /// A `SEQPACKET` socket: the runtime's type serves for its readiness alone.
    socket: UnixStream,
    /// Whoever holds it has the broker's ear. Answers come in here.
    turn: Mutex<mpsc::Receiver<Reply>>,
    answers: mpsc::Sender<Reply>,
    news: watch::Sender<Option<Progress>>,
}

impl Link {
    pub(super) fn new(channel: OwnedFd) -> io::Result<Self> {
        let (answers, turn) = mpsc::channel(1);
        Ok(Self {
            socket: UnixStream::from_std(channel.into())?,
            turn: Mutex::new(turn),
            answers,
            news: watch::Sender::new(None),
        })
    }

    /// Takes what the broker says, until it ends.
    pub(super) async fn listen(&self) {
        let mut receiving = Receiving::new(MAX_ANSWER);
        while self.socket.readable().await.is_ok() {
            match self.try_io(Interest::READABLE, |socket| receiving.receive(socket)) {
                Ok(ToGate::News(progress)) => {
                    self.news.send_replace(Some(progress));
                }
                // An answer that nobody asked for: the broker is broken.
                Ok(ToGate::Reply(reply)) => {
                    if self.answers.try_send(reply).is_err() {
                        break;
                    }
                }
                Err(error) if error.would_block() => {}
                Err(_) => break,
            }
        }
    }

    /// Tries, and tells the runtime when it would block.
    fn try_io<T>(
        &self,
        interest: Interest,
        mut act: impl FnMut(&UnixStream) -> Result<T, ChannelError>,
    ) -> Result<T, ChannelError> {
        let mut failure = None;
        let tried = self.socket.try_io(interest, || {
            act(&self.socket).map_err(|error| match error {
                ChannelError::Io(error) => error,
                other => {
                    failure = Some(other);
                    io::ErrorKind::Other.into()
                }
            })
        });
        tried.map_err(|error| failure.unwrap_or(ChannelError::Io(error)))
    }

    /// Asks the broker. The exchange goes on to its end even when the caller stops waiting, so that the next one
    /// gets its own answer.
    pub(super) async fn ask(self: Arc<Self>, request: Request) -> Result<Reply, CallError> {
        let exchange = tokio::spawn(async move {
            let mut answers = self.turn.lock().await;
            self.send(&request).await.map_err(|error| CallError::Failed(error.to_string()))?;
            // So that a descriptor in the request is closed here before the answer goes out.
            drop(request);
            answers.recv().await.ok_or_else(gone)
        });
        match exchange.await {
            Ok(Ok(Reply::Error(error))) => Err(error),
            Ok(answer) => answer,
            Err(_) => Err(gone()),
        }
    }

    /// Tells the broker how the front-end broke the protocol. The answer does not matter any more.
    pub(super) async fn report(&self, misuse: Misuse) {
        let _ = self.send(&Request::Misuse(misuse)).await;
    }

    /// What is known of the transaction, and a way to wait for more.
    pub(super) fn news(&self) -> watch::Receiver<Option<Progress>> {
        self.news.subscribe()
    }

    async fn send(&self, request: &Request) -> Result<(), ChannelError> {
        let mut sending = Sending::new(request, DATAGRAM - 1)?;
        loop {
            self.socket.writable().await?;
            match self.try_io(Interest::WRITABLE, |socket| sending.send(socket)) {
                Err(error) if error.would_block() => {}
                result => return result,
            }
        }
    }
}

/// Sends one request without a runtime.
pub(super) fn send_once(channel: &OwnedFd, request: &Request) -> Result<(), ChannelError> {
    Sending::new(request, DATAGRAM - 1)?.send(channel)
}

fn gone() -> CallError {
    CallError::Failed("the session is over".to_owned())
}
