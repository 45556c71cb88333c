//! The main process's side: starts the child, asks, and believes nothing beyond the bounds.

use super::believed::{self, Gathered, Notes, clean};
use super::build::too_large;
use super::channel::{Channel, MAX_FDS};
use super::child::WORD;
use super::error::DecodeError;
use super::index::Index;
use super::limits::Limits;
use super::protocol::{Answer, DecodeProgress, Reply, Request, WireStanza};
use crate::archive::describe::{Describe, DescribeError, DescribeInput, Description};
use crate::secrets::Unwrapped;
use age::secrecy::ExposeSecret;
use age_core::format::Stanza;
use proxsave_proto::Digest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How often progress is told, with news or without, so that a caller can cancel.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A child that begins a message and does not end it, or takes none, is given up after this.
const STALL: Duration = Duration::from_secs(20);
/// Records in one message.
const BATCH: usize = 1 << 16;

/// How to start a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The program that has the hidden command: this one.
    pub program: PathBuf,
    /// What the child's memory bound is made for. A pass may come with tighter limits.
    pub limits: Limits,
    /// Go on without Landlock or seccomp where the kernel has none.
    pub allow_unsandboxed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { program: "/proc/self/exe".into(), limits: Limits::default(), allow_unsandboxed: false }
    }
}

/// Where an archive's bytes are.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The bundle or archive, open for reading.
    pub file: BorrowedFd<'a>,
    /// Where the archive begins in it.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
    /// The SHA-256 it must have; `None` if nothing tells (the operator must have accepted that).
    pub expected: Option<Digest>,
}

/// Unwraps the stanzas of an age header; asks as often as it likes.
pub type Identities<'a> = &'a mut dyn FnMut(&[Stanza]) -> Unwrapped;
/// Hears how far a pass is, about ten times a second; `Break` cancels it and ends the decoder.
pub type OnProgress<'a> = &'a mut dyn FnMut(DecodeProgress) -> ControlFlow<()>;

/// A running decoder child.
#[derive(Debug)]
pub struct Decoder {
    child: Child,
    channel: Channel,
    sandbox: String,
    over: bool,
}

impl Decoder {
    /// Starts a child of this program and waits until its cage is closed.
    ///
    /// # Errors
    /// [`DecodeError::Sandbox`] where the kernel cannot cage it, [`DecodeError::Child`] when it does not start.
    pub fn spawn() -> Result<Self, DecodeError> {
        Self::spawn_with(&Options::default())
    }

    /// The same with other options.
    ///
    /// # Errors
    /// As [`Decoder::spawn`].
    pub fn spawn_with(options: &Options) -> Result<Self, DecodeError> {
        let failed = |what: &str, error: std::io::Error| DecodeError::Child(format!("{what}: {error}"));
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed("making its socket", error.into()))?;
        for direction in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&ours, direction, Some(STALL)).map_err(|error| failed("its socket", error.into()))?;
        }
        let child = Command::new(&options.program)
            .arg(WORD)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed("starting it", error))?;
        let mut decoder = Self { child, channel: Channel::new(ours), sandbox: String::new(), over: false };
        decoder.send(&Request::Setup { limits: options.limits, allow_unsandboxed: options.allow_unsandboxed }, &[])?;
        match decoder.next(&mut |_| stop_when_interrupted())? {
            Reply::Ready(enforced) => decoder.sandbox = clean(enforced),
            other => return Err(decoder.unexpected(other)),
        }
        Ok(decoder)
    }

    /// What the child's cage is made of, for display.
    #[must_use]
    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// The first pass: hashes, decrypts, decompresses and reads the whole archive.
    ///
    /// # Errors
    /// See [`DecodeError`]. After [`DecodeError::WrongIdentity`] and other faults of the archive the decoder can be
    /// asked again; after [`DecodeError::Child`] and [`DecodeError::Cancelled`] it is gone.
    pub fn index(
        &mut self,
        source: &Source<'_>,
        mut identities: Option<Identities<'_>>,
        limits: &Limits,
        progress: OnProgress<'_>,
    ) -> Result<Index, DecodeError> {
        let request = Request::Index {
            offset: source.offset,
            length: source.length,
            expected: source.expected,
            limits: *limits,
            has_identity: identities.is_some(),
        };
        self.send(&request, &[source.file])?;
        let mut gathered = Gathered::default();
        let mut identity_error = None;
        loop {
            match self.next(progress) {
                Ok(Reply::Stanzas(stanzas)) => {
                    let Some(unwrap) = identities.take() else {
                        return Err(self.broken("it asked for a key twice, or without leave"));
                    };
                    let answer = self.unwrap(stanzas, unwrap, &mut identity_error)?;
                    self.send(&Request::FileKey(answer), &[])?;
                }
                Ok(Reply::Entries(more)) => {
                    if let Err(why) = gathered.take(more, limits) {
                        return Err(self.broken(&why));
                    }
                }
                Ok(Reply::Refused(more)) => {
                    if let Err(why) = gathered.note(more, Notes::Refused) {
                        return Err(self.broken(&why));
                    }
                }
                Ok(Reply::LeftOut(more)) => {
                    if let Err(why) = gathered.note(more, Notes::LeftOut) {
                        return Err(self.broken(&why));
                    }
                }
                Ok(Reply::Indexed(summary)) => {
                    let sha256 = summary.sha256;
                    return match source.expected {
                        Some(expected) if expected != sha256 => Err(self.broken("it let a wrong hash pass")),
                        _ => Ok(gathered.into_index(*summary, source.length)),
                    };
                }
                Ok(other) => return Err(self.unexpected(other)),
                Err(DecodeError::Identity(_)) if identity_error.is_some() => {
                    return Err(DecodeError::Identity(identity_error.unwrap_or_default()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the archive again (or from the child's memory) and writes contents into a pipe, as records of the content
    /// stream ([`proxsave_proto::message`]) in the archive's order. `wanted` pairs the ordinal of a file in the index
    /// with the number that its record gets; no ordinal twice. Gives the bytes of content.
    ///
    /// This call returns when all is written, so somebody else must read the pipe meanwhile. Only after it returned
    /// without error is it known that the archive was still the same.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn extract(
        &mut self,
        wanted: &[(u32, u32)],
        out: OwnedFd,
        progress: OnProgress<'_>,
    ) -> Result<u64, DecodeError> {
        let batches = u32::try_from(wanted.len().div_ceil(BATCH)).map_err(|_| too_large())?;
        self.send(&Request::Extract { batches }, &[out.as_fd()])?;
        // The reader of the pipe must see its end when the child is done.
        drop(out);
        for batch in wanted.chunks(BATCH) {
            self.send(&Request::Wanted(batch.to_vec()), &[])?;
        }
        match self.next(progress)? {
            Reply::Extracted { bytes } => Ok(bytes),
            other => Err(self.unexpected(other)),
        }
    }

    /// Reads the archive again and writes the compressed stream as it is below the encryption. Gives its SHA-256 and
    /// size. The archive must have been indexed. What was written counts only if no error comes.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decrypt(&mut self, out: OwnedFd, progress: OnProgress<'_>) -> Result<(Digest, u64), DecodeError> {
        self.send(&Request::Decrypt, &[out.as_fd()])?;
        drop(out);
        match self.next(progress)? {
            Reply::Decrypted { sha256, bytes } => Ok((sha256, bytes)),
            other => Err(self.unexpected(other)),
        }
    }

    fn unwrap(
        &mut self,
        stanzas: Vec<WireStanza>,
        unwrap: Identities<'_>,
        failed: &mut Option<String>,
    ) -> Result<Answer, DecodeError> {
        let is_word = |text: &String| age_core::format::is_arbitrary_string(text);
        if !stanzas.iter().all(|stanza| is_word(&stanza.tag) && stanza.args.iter().all(is_word)) {
            return Err(self.broken("it sent a malformed key request"));
        }
        let stanzas: Vec<Stanza> = stanzas
            .into_iter()
            .map(|stanza| Stanza { tag: stanza.tag, args: stanza.args, body: stanza.body })
            .collect();
        Ok(match unwrap(&stanzas) {
            Unwrapped::FileKey(key) => Answer::Key(*key.expose_secret()),
            Unwrapped::NoMatch(_) => Answer::NoMatch,
            Unwrapped::Error(error) => {
                *failed = Some(error.to_string());
                Answer::Failed
            }
        })
    }

    fn send(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), DecodeError> {
        if self.over {
            return Err(DecodeError::Child("it has ended before".to_owned()));
        }
        match self.channel.send(request, fds) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.ended(&format!("it takes no requests: {error}"))),
        }
    }

    /// The next reply that is not news.
    fn next(&mut self, progress: OnProgress<'_>) -> Result<Reply, DecodeError> {
        let mut last = DecodeProgress::default();
        loop {
            let ready = poll(&mut [PollFd::new(&self.channel.socket(), PollFlags::IN)], Some(&TICK));
            let reply = match ready {
                Ok(0) | Err(rustix::io::Errno::INTR) => None,
                Ok(_) => match self.channel.receive() {
                    Ok(Some((reply, _))) => Some(reply),
                    Ok(None) => return Err(self.ended("it ended")),
                    Err(error) => return Err(self.ended(&error.to_string())),
                },
                Err(error) => return Err(self.ended(&error.to_string())),
            };
            match reply {
                Some(Reply::Failed(error)) => return Err(error),
                Some(Reply::Progress(news)) => {
                    last = news;
                    if progress(last).is_break() {
                        self.end();
                        return Err(DecodeError::Cancelled);
                    }
                }
                // A flood of batches must not keep the caller from cancelling.
                Some(reply) if progress(last).is_continue() => return Ok(reply),
                None if progress(last).is_continue() => {}
                Some(_) | None => {
                    self.end();
                    return Err(DecodeError::Cancelled);
                }
            }
        }
    }

    fn unexpected(&mut self, reply: Reply) -> DecodeError {
        drop(reply);
        self.broken("it answered something else than was asked")
    }

    fn broken(&mut self, why: &str) -> DecodeError {
        self.end();
        DecodeError::Child(why.to_owned())
    }

    /// Explains the end of a child that ended by itself.
    fn ended(&mut self, what: &str) -> DecodeError {
        // The socket is closed when the child dies, a moment before it can be waited for.
        let mut status = None;
        for _ in 0..50 {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Ok(found) => {
                    status = found;
                    break;
                }
                Err(_) => break,
            }
        }
        self.end();
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // What it said last is a help, not needed.
            drop(stderr.take(2048).read_to_end(&mut words));
        }
        let said =
            if words.is_empty() { String::new() } else { format!("; it said: {}", words.trim_ascii().escape_ascii()) };
        match status.and_then(|status| status.signal()) {
            Some(signal) => DecodeError::Child(format!("it was killed by signal {}{said}", name_signal(signal))),
            None => DecodeError::Child(format!("{what}{said}")),
        }
    }

    /// Kills the child, if it lives, and waits for it.
    fn end(&mut self) {
        if !self.over {
            self.over = true;
            // A child that is gone already needs no killing.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        self.end();
    }
}

impl Describe for Decoder {
    fn describe(&mut self, input: DescribeInput<'_>) -> Result<Description, DescribeError> {
        let failed = |error: DecodeError| DescribeError::Decoder(error.to_string());
        let stat = rustix::fs::fstat(input.archive).map_err(|error| DescribeError::Decoder(error.to_string()))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut fds = vec![input.archive];
        let (kinds, companions): (Vec<_>, Vec<_>) = input.companions.into_iter().unzip();
        fds.extend(companions);
        if fds.len() > MAX_FDS {
            return Err(DescribeError::Decoder("too many companions".to_owned()));
        }
        self.send(&Request::Describe { name: input.name.to_vec(), size, companions: kinds }, &fds).map_err(failed)?;
        match self.next(&mut |_| stop_when_interrupted()).map_err(failed)? {
            Reply::Described(Ok(mut described)) => {
                believed::scrub_description(&mut described);
                Ok(*described)
            }
            Reply::Described(Err(mut malformed)) => {
                believed::scrub_malformed(&mut malformed);
                Err(malformed.into())
            }
            other => Err(failed(self.unexpected(other))),
        }
    }
}

/// For waits that have no caller to ask: Ctrl-C ends them.
fn stop_when_interrupted() -> ControlFlow<()> {
    if crate::sys::interrupt::raised() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn name_signal(signal: i32) -> String {
    let name = match signal {
        libc::SIGSYS => "SYS",
        libc::SIGSEGV => "SEGV",
        libc::SIGABRT => "ABRT",
        libc::SIGKILL => "KILL",
        libc::SIGBUS => "BUS",
        libc::SIGILL => "ILL",
        libc::SIGTERM => "TERM",
        libc::SIGINT => "INT",
        other => return other.to_string(),
    };
    format!("{signal} (SIG{name})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::index::Refused;

    #[test]
    fn a_flood_of_batches_can_be_cancelled() {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let child = Command::new("sleep").arg("60").stderr(Stdio::piped()).spawn().unwrap();
        let mut decoder = Decoder { child, channel: Channel::new(ours), sandbox: String::new(), over: false };
        let flood = std::thread::spawn(move || {
            let theirs = Channel::new(theirs);
            let note = || Refused { name: b"a".to_vec(), why: "why".to_owned() };
            for _ in 0..1000 {
                if theirs.send(&Reply::Refused(vec![note()]), &[]).is_err() {
                    return;
                }
            }
            drop(theirs.send(&Reply::Failed(DecodeError::NotIndexed), &[]));
        });
        let archive = tempfile::tempfile().unwrap();
        let source = Source { file: archive.as_fd(), offset: 0, length: 0, expected: None };
        let ended = decoder.index(&source, None, &Limits::default(), &mut |_| ControlFlow::Break(()));
        assert_eq!(ended.unwrap_err(), DecodeError::Cancelled);
        drop(decoder);
        flood.join().unwrap();
    }
}
