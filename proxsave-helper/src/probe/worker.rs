//! The worker's side: caged, it looks and answers until the socket closes.

use crate::broker::message::{ChannelError, MAX_ANSWER, Receiving, Sending};
use crate::cage::{Access, Cage, Enforced, Files, Layers, PROBER_CAPS, Profile, Rule, Who, enter};
use crate::root::{Detail, Root, Walk};
use crate::sys;
use proxsave_proto::message::ProbeItem;
use proxsave_proto::state::{Blocked, Target};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Descriptors besides those it starts with: the directories a walk holds, and a file.
const OPEN_FILES: u64 = 128;
/// How many answers come at once.
const BUNDLE: usize = 64;
/// How many hashed bytes are worth a sign of life.
const SIGN_OF_LIFE: u64 = 8 << 20;

/// What the broker asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Batch {
    /// What to look at.
    pub items: Vec<ProbeItem>,
    /// How long content may be hashed, in milliseconds from now.
    pub hashing_ms: u64,
    /// Whether several answers may come at once.
    pub bundled: bool,
}

/// What the worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// It is caged.
    Ready(Enforced),
    /// It could not be caged and ends.
    Uncaged(String),
    /// The next items' answers.
    Found(Vec<Target>),
    /// It is still hashing.
    Alive,
}

/// Runs the worker in a freshly forked process; gives its exit status.
pub(super) fn run(socket: &OwnedFd, root: &Root, layers: Layers) -> i32 {
    let [dir, table] = root.descriptors();
    let keep = [socket.as_raw_fd(), dir.as_raw_fd(), table.as_raw_fd()];
    let cage = Cage {
        who: Who::Root,
        keep: PROBER_CAPS,
        files: Files::Beneath(vec![Rule { dir, access: Access::Read }]),
        profile: Profile::Prober,
        open_files: Some(OPEN_FILES),
    };
    let entered = match sys::close_all_but(&keep) {
        Ok(()) => enter(&cage, layers).map_err(|error| error.to_string()),
        Err(error) => Err(format!("other descriptors could not be closed: {error}")),
    };
    match entered {
        Err(why) => {
            // Nothing is left to do when even this cannot be said: the broker sees the end.
            let _ = say(socket, &Said::Uncaged(why));
            1
        }
        Ok(enforced) => match say(socket, &Said::Ready(enforced)).and_then(|()| serve(socket, root)) {
            Ok(()) | Err(ChannelError::Gone) => 0,
            Err(_) => 1,
        },
    }
}

fn serve(socket: &OwnedFd, root: &Root) -> Result<(), ChannelError> {
    let mut receiving = Receiving::new(MAX_ANSWER);
    loop {
        let batch: Batch = match receiving.receive(socket) {
            Err(error) if error.would_block() => {
                wait(socket, PollFlags::IN)?;
                continue;
            }
            other => other?,
        };
        let until = Instant::now().checked_add(Duration::from_millis(batch.hashing_ms));
        // A table that cannot be read again leaves the old one; the broker's check reads its own.
        let refreshed = root.refresh().is_ok();
        let mut walk = Walk::new(root);
        let most = if batch.bundled { BUNDLE } else { 1 };
        for items in batch.items.chunks(most) {
            let mut found = Vec::with_capacity(items.len());
            let mut unsaid = 0u64;
            for item in items {
                found.push(if refreshed {
                    look(socket, &mut walk, item, until, &mut unsaid)?
                } else {
                    Target::Blocked(Blocked::Unreadable)
                });
            }
            say(socket, &Said::Found(found))?;
        }
    }
}

/// Looks at one item. `unsaid` counts the bytes hashed since the broker last heard anything.
fn look(
    socket: &OwnedFd,
    walk: &mut Walk<'_>,
    item: &ProbeItem,
    until: Option<Instant>,
    unsaid: &mut u64,
) -> Result<Target, ChannelError> {
    let mut failed = None;
    let mut step = |bytes: u64| {
        *unsaid += bytes;
        if *unsaid >= SIGN_OF_LIFE {
            *unsaid = 0;
            failed = say(socket, &Said::Alive).err();
        }
        failed.is_none() && until.is_none_or(|until| Instant::now() < until)
    };
    #[cfg(test)]
    super::tests::hang_on(&item.path);
    let detail = Detail::Full { hash_if_size: item.hash_if_size };
    let seen = walk.look(&item.path, detail, &mut step);
    match failed {
        Some(error) => Err(error),
        None => Ok(seen.map_or(Target::Blocked(Blocked::Unreadable), |seen| seen.target)),
    }
}

fn say(socket: &OwnedFd, said: &Said) -> Result<(), ChannelError> {
    let mut sending = Sending::new(said, MAX_ANSWER)?;
    loop {
        match sending.send(socket) {
            Err(error) if error.would_block() => wait(socket, PollFlags::OUT)?,
            other => return other,
        }
    }
}

fn wait(socket: &OwnedFd, flags: PollFlags) -> Result<(), ChannelError> {
    match rustix::event::poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), flags)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(ChannelError::Io(error.into())),
    }
}
