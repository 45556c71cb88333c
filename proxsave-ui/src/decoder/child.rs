//! The child's side: closes the cage, then answers requests until the socket closes.

use super::cage;
use super::channel::Channel;
use super::error::DecodeError;
use super::index::{IndexEntry, Refused};
use super::limits::Limits;
use super::opened::Key;
use super::passes::{self, Archive, Indexed};
use super::protocol::{Answer, DecodeProgress, Reply, Request, Summary, WireStanza};
use crate::archive::{CompanionKind, MalformedBackup};
use age_core::format::{FileKey, Stanza};
use proxsave_proto::Digest;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The hidden word that makes this program a decoder.
pub const WORD: &str = "--proxsave-decoder-child";

/// News at most so often.
const NEWS: Duration = Duration::from_millis(100);
/// Bytes of entries in one message, about.
const BATCH: usize = 256 << 10;
const OUTPUT: usize = 256 << 10;

/// Whether this process was started to be a decoder: the hidden word, and a socket as standard input.
#[must_use]
pub fn is_requested() -> bool {
    let word = std::env::args_os().nth(1).is_some_and(|word| word == WORD);
    word && rustix::fs::fstat(io::stdin())
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket())
}

/// The child's whole life.
#[must_use]
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // Standard error is a pipe to the parent, which escapes what it shows of it.
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    crate::sys::descriptors::close_from(3)?;
    let channel = Channel::new(io::stdin().as_fd().try_clone_to_owned()?);
    let Some((Request::Setup { limits, allow_unsandboxed }, _)) = channel.receive()? else {
        return Err(io::Error::other("no setup came"));
    };
    match cage::enter(&limits, allow_unsandboxed) {
        Ok(enforced) => channel.send(&Reply::Ready(enforced), &[])?,
        Err(error) => return channel.send(&Reply::Failed(error), &[]),
    }
    let mut archive = None;
    while let Some((request, fds)) = channel.receive()? {
        let mut fds = fds.into_iter();
        match request {
            Request::Describe { name, size, companions } => {
                let described = describe(&name, size, companions, fds, &limits);
                channel.send(&Reply::Described(described), &[])?;
            }
            Request::Index { offset, length, expected, limits, has_identity } => {
                // The room of the last archive is wanted now.
                drop(archive.take());
                let file = one(&mut fds)?;
                match index(&channel, file, (offset, length), expected, limits, has_identity) {
                    Ok(indexed) => {
                        archive = Some(deliver(&channel, indexed)?);
                        // A large index must not stay here while the parent makes a plan of it.
                        crate::sys::memory::give_back();
                    }
                    Err(error) => channel.send(&Reply::Failed(error), &[])?,
                }
            }
            Request::Extract { batches } => {
                let out = one(&mut fds)?;
                let wanted = wanted(&channel, batches)?;
                let done = wanted.and_then(|wanted| extract(&channel, archive.as_ref(), &wanted, out));
                channel.send(&done.map_or_else(Reply::Failed, |bytes| Reply::Extracted { bytes }), &[])?;
            }
            Request::Decrypt => {
                let out = one(&mut fds)?;
                let done = decrypt(&channel, archive.as_ref(), out);
                let done = done.map_or_else(Reply::Failed, |(sha256, bytes)| Reply::Decrypted { sha256, bytes });
                channel.send(&done, &[])?;
            }
            Request::Setup { .. } | Request::FileKey(_) | Request::Wanted(_) => {
                return Err(io::Error::other("a request out of order"));
            }
        }
    }
    Ok(())
}

fn one(fds: &mut impl Iterator<Item = OwnedFd>) -> io::Result<File> {
    fds.next().map(File::from).ok_or_else(|| io::Error::other("a request without its descriptor"))
}

fn describe(
    name: &[u8],
    size: u64,
    companions: Vec<CompanionKind>,
    fds: impl Iterator<Item = OwnedFd>,
    limits: &Limits,
) -> Result<Box<crate::archive::Description>, MalformedBackup> {
    let mut files = fds.map(File::from);
    let archive = files.next().ok_or_else(|| MalformedBackup::Read("no descriptor came".to_owned()))?;
    let files: Vec<File> = files.collect();
    let companions: Vec<(CompanionKind, &File)> = companions.into_iter().zip(&files).collect();
    let max = usize::try_from(limits.manifest_bytes).unwrap_or(usize::MAX);
    crate::archive::describe::describe_within(name, &archive, size, &companions, max).map(Box::new)
}

/// Sends news, but not too often. When the parent is gone there is nobody to work for.
fn reporter(channel: &Channel) -> impl FnMut(DecodeProgress) + '_ {
    let mut last = Instant::now();
    move |progress| {
        if last.elapsed() >= NEWS {
            last = Instant::now();
            if channel.send(&Reply::Progress(progress), &[]).is_err() {
                std::process::exit(1);
            }
        }
    }
}

fn index(
    channel: &Channel,
    file: File,
    span: (u64, u64),
    expected: Option<Digest>,
    limits: Limits,
    has_identity: bool,
) -> Result<Indexed, DecodeError> {
    let ask = |stanzas: &[Stanza]| ask(channel, stanzas);
    let key = if has_identity { Key::Ask(&ask) } else { Key::None };
    passes::index(file, span, expected, limits, &key, &mut reporter(channel))
}

fn ask(channel: &Channel, stanzas: &[Stanza]) -> Result<FileKey, DecodeError> {
    let stanzas = stanzas
        .iter()
        .map(|stanza| WireStanza { tag: stanza.tag.clone(), args: stanza.args.clone(), body: stanza.body.clone() })
        .collect();
    let failed = |error: io::Error| DecodeError::Identity(error.to_string());
    channel.send(&Reply::Stanzas(stanzas), &[]).map_err(failed)?;
    match channel.receive().map_err(failed)? {
        Some((Request::FileKey(Answer::Key(mut key)), _)) => {
            let file_key = FileKey::init_with_mut(|bytes| *bytes = key);
            zeroize::Zeroize::zeroize(&mut key);
            Ok(file_key)
        }
        Some((Request::FileKey(Answer::NoMatch), _)) => Err(DecodeError::WrongIdentity),
        Some((Request::FileKey(Answer::Failed), _)) => Err(DecodeError::Identity("it failed".to_owned())),
        _ => Err(DecodeError::Identity("no answer came".to_owned())),
    }
}

/// Sends an index in pieces, freeing what was sent.
fn deliver(channel: &Channel, indexed: Indexed) -> io::Result<Archive> {
    let summary = Summary {
        sha256: indexed.sha256(),
        encrypted: indexed.encrypted(),
        codec: indexed.codec,
        plain_bytes: indexed.plain_bytes,
        roles: indexed.roles,
        info: indexed.info,
    };
    let built = indexed.built;
    send_batches(channel, built.entries, weigh_entry, Reply::Entries)?;
    let weigh_note = |note: &Refused| note.name.len() + note.why.len() + 16;
    send_batches(channel, built.refused, weigh_note, Reply::Refused)?;
    send_batches(channel, built.left_out, weigh_note, Reply::LeftOut)?;
    channel.send(&Reply::Indexed(Box::new(summary)), &[])?;
    Ok(indexed.archive)
}

/// About the bytes that an entry takes in a message.
pub(super) fn weigh_entry(entry: &IndexEntry) -> usize {
    let xattrs = entry.node.meta().map(|meta| meta.xattrs.iter().map(|x| x.name.len() + x.value.len()).sum());
    entry.path.as_bytes().len() + xattrs.unwrap_or(0usize) + 128
}

fn send_batches<T>(
    channel: &Channel,
    items: Vec<T>,
    weigh: impl Fn(&T) -> usize,
    wrap: impl Fn(Vec<T>) -> Reply,
) -> io::Result<()> {
    let mut batch = Vec::new();
    let mut weight = 0;
    for item in items {
        weight += weigh(&item);
        batch.push(item);
        if weight >= BATCH {
            channel.send(&wrap(std::mem::take(&mut batch)), &[])?;
            weight = 0;
        }
    }
    if batch.is_empty() { Ok(()) } else { channel.send(&wrap(batch), &[]) }
}

/// Receives the wanted contents: sorted, none twice.
fn wanted(channel: &Channel, batches: u32) -> io::Result<Result<Vec<(u32, u32)>, DecodeError>> {
    let mut wanted = Vec::new();
    for _ in 0..batches {
        match channel.receive()? {
            Some((Request::Wanted(more), _)) => wanted.extend(more),
            _ => return Err(io::Error::other("a request out of order")),
        }
    }
    wanted.sort_unstable();
    let twice = wanted.windows(2).find_map(|pair| match pair {
        [(a, _), (b, _)] if a == b => Some(*a),
        _ => None,
    });
    Ok(twice.map_or(Ok(wanted), |ordinal| Err(DecodeError::NoSuchContent(ordinal))))
}

fn extract(channel: &Channel, archive: Option<&Archive>, wanted: &[(u32, u32)], out: File) -> Result<u64, DecodeError> {
    let archive = archive.ok_or(DecodeError::NotIndexed)?;
    let mut out = BufWriter::with_capacity(OUTPUT, out);
    let bytes = archive.extract(wanted, &mut out, &mut reporter(channel))?;
    out.flush().map_err(|error| DecodeError::Write(error.to_string()))?;
    Ok(bytes)
}

fn decrypt(channel: &Channel, archive: Option<&Archive>, mut out: File) -> Result<(Digest, u64), DecodeError> {
    archive.ok_or(DecodeError::NotIndexed)?.decrypt(&mut out, &mut reporter(channel))
}
