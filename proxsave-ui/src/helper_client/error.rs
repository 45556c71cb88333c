//! Why a session with the helper cannot go on, and what to do.

use proxsave_proto::escape::escape;
use proxsave_proto::message::CallError;
use proxsave_proto::rpc::FrameError;
use std::io;
use std::path::Path;
use std::time::Duration;
use tarpc::client::RpcError;

/// Why a call to the helper gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("no helper can be reached at {socket}: {source}. {advice}")]
    Connect {
        /// The socket, escaped.
        socket: String,
        /// What the kernel says.
        source: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// No protocol in common.
    #[error("the helper was reached, but the protocol could not be agreed on: {0}")]
    Preamble(#[source] FrameError),
    /// The runtime cannot be made.
    #[error("the connection to the helper cannot be set up: {0}")]
    Runtime(#[source] io::Error),
    /// The plan cannot be put into a memory file.
    #[error("the plan cannot be handed over: {0}")]
    Plan(#[source] io::Error),
    /// The helper ended the connection.
    #[error(
        "the helper ended the connection during {call}; why is in its log (the output of `proxsave-helper serve`, or \
         journalctl, and the audit log)"
    )]
    Gone {
        /// The call.
        call: &'static str,
    },
    /// The connection broke.
    #[error("the connection to the helper broke during {call}: {why}")]
    Broken {
        /// The call.
        call: &'static str,
        /// How.
        why: String,
    },
    /// No answer in time.
    #[error("the helper did not answer {call} within {} s; a file system in its root may hang", .limit.as_secs())]
    Late {
        /// The call.
        call: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// The operator asked to stop while this side waited.
    #[error("stopped")]
    Stopped,
    /// The helper refused or failed.
    #[error(transparent)]
    Call(CallError),
    /// The answer makes no sense.
    #[error("the helper answered with {0}: it is not the helper of this version, or it is broken")]
    Nonsense(&'static str),
}

impl ClientError {
    pub(super) fn connect(socket: &Path, source: io::Error) -> Self {
        let advice = match source.kind() {
            io::ErrorKind::NotFound => "Let root start one: proxsave-helper serve --listen SOCKET --for-user USER",
            io::ErrorKind::ConnectionRefused => "Nobody listens there any more: let root start the helper again",
            io::ErrorKind::PermissionDenied => {
                "This user may not connect: let root name it with --for-user, or add it to the group proxsave where \
                 there is one"
            }
            _ => "Check the path",
        };
        Self::Connect { socket: escape(socket.as_os_str().as_encoded_bytes()), source, advice }
    }

    pub(super) fn rpc(call: &'static str, limit: Duration, error: RpcError) -> Self {
        match error {
            RpcError::Shutdown => Self::Gone { call },
            RpcError::DeadlineExceeded => Self::Late { call, limit },
            RpcError::Channel(tarpc::ChannelError::Read(error)) if is_end(&*error) => Self::Gone { call },
            // tarpc's own text says only where it happened, the cause is its source.
            other => {
                let mut why = other.to_string();
                let mut cause = std::error::Error::source(&other);
                while let Some(error) = cause {
                    why = format!("{why}: {error}");
                    cause = error.source();
                }
                Self::Broken { call, why: escape(why.as_bytes()) }
            }
        }
    }
}

/// Whether a failed read only means that the peer is gone.
fn is_end(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<FrameError>() {
        Some(FrameError::Io(error)) => error.kind() == io::ErrorKind::ConnectionReset,
        Some(FrameError::Cut) => true,
        _ => false,
    }
}
