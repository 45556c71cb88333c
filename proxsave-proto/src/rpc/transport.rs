//! Frames over a Unix stream socket, as a stream of messages and a sink for them.

mod inbox;
mod outbox;
#[cfg(test)]
mod tests;

use super::FrameError;
use futures::{Sink, Stream};
use inbox::Inbox;
use outbox::Outbox;
use serde::{Serialize, de::DeserializeOwned};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep};

/// The largest payload of a frame, in bytes.
pub const MAX_FRAME: usize = 1 << 20;
/// The furthest away a call's deadline may be, in seconds.
pub const MAX_DEADLINE_SECS: u64 = 3600;
/// Bytes of a frame's header: payload length (u32, little endian) and number of descriptors (u8).
const HEADER: usize = 5;

/// How long one side waits for the other.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the rest of a frame that has begun, and for room to send.
    pub frame: Duration,
    /// For the next frame; `None` for ever.
    pub idle: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame: Duration::from_secs(10), idle: None }
    }
}

/// A connection that gives messages of type `In` and takes messages of type `Out`: a transport for tarpc, on
/// either end. After an error the stream ends.
#[derive(Debug)]
pub struct Transport<In, Out> {
    socket: UnixStream,
    inbox: Inbox,
    outbox: Outbox,
    limits: Limits,
    screen: fn(&[u8]) -> Result<(), FrameError>,
    reading: Timer,
    writing: Timer,
    broken: bool,
    types: PhantomData<fn(Out) -> In>,
}

/// A deadline that is armed only while something is awaited.
#[derive(Debug, Default)]
struct Timer(Option<(Awaited, Pin<Box<Sleep>>)>);

/// What a timer runs for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    NextFrame,
    RestOfFrame,
    RoomToSend,
}

impl Timer {
    fn stop(&mut self) {
        self.0 = None;
    }

    /// Is ready when `limit` has passed since this began to be awaited. Progress does not prolong it: a peer that
    /// sends a byte now and then stalls as well.
    fn poll(&mut self, awaited: Awaited, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some((armed, sleep)) if *armed == awaited => sleep.as_mut().poll(cx),
            slot => {
                let sleep = Box::pin(tokio::time::sleep_until(Instant::now() + limit));
                slot.insert((awaited, sleep)).1.as_mut().poll(cx)
            }
        }
    }
}

impl<In, Out> Transport<In, Out> {
    /// Takes a connected socket whose preambles are exchanged.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking or there is no tokio reactor on this thread.
    pub fn new(socket: std::os::unix::net::UnixStream, limits: Limits) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UnixStream::from_std(socket)?,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            limits,
            screen: |_| Ok(()),
            reading: Timer::default(),
            writing: Timer::default(),
            broken: false,
            types: PhantomData,
        })
    }

    /// Looks at each payload before it is decoded; see [`screen_call`].
    #[must_use]
    pub fn with_screen(mut self, screen: fn(&[u8]) -> Result<(), FrameError>) -> Self {
        self.screen = screen;
        self
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<inbox::Frame>, FrameError>> {
        loop {
            if let Some(frame) = self.inbox.next_frame()? {
                self.reading.stop();
                return Poll::Ready(Ok(Some(frame)));
            }
            let half = self.inbox.has_begun();
            let (awaited, limit) = if half {
                (Awaited::RestOfFrame, Some(self.limits.frame))
            } else {
                (Awaited::NextFrame, self.limits.idle)
            };
            if let Some(limit) = limit
                && self.reading.poll(awaited, limit, cx).is_ready()
            {
                return Poll::Ready(Err(if half { FrameError::Stalled(limit) } else { FrameError::Idle(limit) }));
            }
            ready!(self.socket.poll_read_ready(cx))?;
            let (socket, inbox) = (&self.socket, &mut self.inbox);
            let mut broken = None;
            let got = socket.try_io(Interest::READABLE, || match inbox.receive(socket) {
                Ok(got) => Ok(got),
                Err(FrameError::Io(error)) => Err(error),
                Err(other) => {
                    broken = Some(other);
                    Ok(0)
                }
            });
            match (broken, got) {
                (Some(error), _) => return Poll::Ready(Err(error)),
                (None, Ok(0)) if half => return Poll::Ready(Err(FrameError::Cut)),
                (None, Ok(0)) => return Poll::Ready(Ok(None)),
                (None, Ok(_)) => {}
                (None, Err(error)) if is_passing(&error) => {}
                (None, Err(error)) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        while !self.outbox.is_empty() {
            let limit = self.limits.frame;
            let (socket, outbox) = (&self.socket, &mut self.outbox);
            match socket.try_io(Interest::WRITABLE, || outbox.send(socket)) {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {
                    if self.writing.poll(Awaited::RoomToSend, limit, cx).is_ready() {
                        return Poll::Ready(Err(FrameError::Stalled(limit)));
                    }
                    ready!(self.socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        self.writing.stop();
        Poll::Ready(Ok(()))
    }
}

/// Whether an error only means "try again".
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl<In: DeserializeOwned, Out> Stream for Transport<In, Out> {
    type Item = Result<In, FrameError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.broken {
            return Poll::Ready(None);
        }
        let message = ready!(this.poll_frame(cx)).and_then(|frame| {
            let Some(frame) = frame else { return Ok(None) };
            (this.screen)(&frame.payload)?;
            super::unpack(&frame.payload, frame.fds).map(Some)
        });
        this.broken = !matches!(message, Ok(Some(_)));
        Poll::Ready(message.transpose())
    }
}

impl<In, Out: Serialize> Sink<Out> for Transport<In, Out> {
    type Error = FrameError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        // One message at a time: what the peer does not take must not pile up here.
        self.get_mut().poll_send(cx)
    }

    fn start_send(self: Pin<&mut Self>, message: Out) -> Result<(), FrameError> {
        self.get_mut().outbox.put(super::pack(&message)?)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        // Sends are plain syscalls, so nothing is buffered; the peer sees the end here and not at the drop.
        rustix::net::shutdown(&this.socket, rustix::net::Shutdown::Write)
            .or_else(|errno| if errno == rustix::io::Errno::NOTCONN { Ok(()) } else { Err(errno) })
            .map_err(|errno| FrameError::Io(errno.into()))?;
        Poll::Ready(Ok(()))
    }
}

/// Refuses a client's message whose deadline is further away than [`MAX_DEADLINE_SECS`]. tarpc adds what it reads
/// to the clock without a check and panics when that overflows, so the number is looked at first.
///
/// # Errors
/// [`FrameError::Deadline`]; [`FrameError::Decode`] when the payload does not even begin like a client's message.
pub fn screen_call(payload: &[u8]) -> Result<(), FrameError> {
    /// `ClientMessage::Request` in postcard.
    const REQUEST: u8 = 0;
    match payload.split_first() {
        Some((&REQUEST, rest)) => {
            let (secs, _) = postcard::take_from_bytes::<u64>(rest).map_err(FrameError::Decode)?;
            if secs > MAX_DEADLINE_SECS { Err(FrameError::Deadline(secs)) } else { Ok(()) }
        }
        // A varint may be written longer than it needs; tarpc's own decoder would take that spelling too.
        Some((first, _)) if first & 0x80 != 0 => Err(FrameError::Decode(postcard::Error::DeserializeBadVarint)),
        Some(_) => Ok(()),
        None => Err(FrameError::Decode(postcard::Error::DeserializeUnexpectedEnd)),
    }
}
