//! What can go wrong in a writer.

use crate::cage::CageError;
use proxsave_proto::RelPath;
use std::io;
use std::time::Duration;

/// Why a transaction ends without everything in place. The text reaches the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriterError {
    #[error("cancelled")]
    Cancelled,
    #[error("the writer's cage: {0}")]
    Cage(#[from] CageError),
    #[error("the writer's view of the file system: {what}: {source}")]
    View { what: String, source: io::Error },
    #[error(transparent)]
    Layout(#[from] super::layout::Unbound),
    #[error("{path}: {what}: {source}")]
    Entry { path: RelPath, what: &'static str, source: io::Error },
    #[error("{0}: a hard link cannot lead to a file on another mount ({1}); restore one of them alone")]
    LinkAcross(RelPath, RelPath),
    #[error("the content stream is broken: {0}; nothing was put in place")]
    Stream(&'static str),
    #[error("the content of {0} is not what the plan says; nothing was put in place")]
    Content(RelPath),
    #[error("no content came for {} seconds; nothing was put in place", .0.as_secs_f32())]
    Stalled(Duration),
    #[error("reading the content stream: {0}")]
    Read(io::Error),
    #[error("{0} changed since the plan was made ({1}); nothing was put in place, make a new plan")]
    Changed(RelPath, &'static str),
    #[error("making it durable on the file system of {path}: {source}")]
    Sync { path: RelPath, source: io::Error },
    #[error("the channel to the broker: {0}")]
    Channel(io::Error),
}

impl WriterError {
    pub(super) fn view(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let what = what.into();
        move |error| Self::View { what, source: error.into() }
    }

    pub(super) fn entry(path: &RelPath, what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.clone();
        move |error| Self::Entry { path, what, source: error.into() }
    }
}
