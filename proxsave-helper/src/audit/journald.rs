//! Records for journald, in its native datagram protocol (systemd's "Native Journal Protocol").

use super::event::Event;
use proxsave_proto::message::AuditHead;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The way to journald; leads nowhere on a host without it.
#[derive(Debug, Default)]
pub struct Journald {
    socket: Option<UnixDatagram>,
}

/// One record, but for the chain's head.
#[derive(Debug)]
pub(super) struct Record(Vec<u8>);

impl Journald {
    /// The host's own.
    #[must_use]
    pub fn host() -> Self {
        Self::at(Path::new(SOCKET))
    }

    /// No journald.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The one that listens at a path.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let connect = || -> std::io::Result<UnixDatagram> {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.connect(path)?;
            Ok(socket)
        };
        Self { socket: connect().ok() }
    }

    /// The records an event makes: none for events about a single file.
    pub(super) fn records(&self, _event: &Event<'_>, _caller: Option<u32>) -> Vec<Record> {
        Vec::new()
    }

    /// Sends a record; never waits.
    pub(super) fn send(&self, record: &Record, head: AuditHead) {
        if let Some(socket) = &self.socket {
            let mut datagram = record.0.clone();
            datagram.extend_from_slice(format!("PROXSAVE_CHAIN_HEAD={}:{}\n", head.lines, head.hash).as_bytes());
            let _ = socket.send(&datagram);
        }
    }
}
