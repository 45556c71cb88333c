//! What the broker logs, made from what it knows.

use super::Session;
use crate::audit::{Action, Counts, Event, Log, LogError, Text};
use crate::cage::Layers;
use proxsave_proto::category::CATEGORIES;
use proxsave_proto::plan::{Entry, Plan};

/// The first lines of a session.
pub(super) fn arrival(log: &mut Log, session: &Session<'_>) -> Result<(), LogError> {
    log.append(&Event::HelperStarted {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        root: Text::from_bytes(&session.root.path()),
        landlock: if session.layers.has(Layers::ONLY_LANDLOCK) { "required" } else { "left out by root" }.into(),
        without_landlock: !session.layers.has(Layers::ONLY_LANDLOCK),
    })?;
    log.append(&Event::Connection {
        uid: session.caller.uid,
        name: session.caller.name.as_deref().map(Text::from),
        pid: session.caller.pid,
        via: Text::of(session.via),
    })
}

/// Entries by category.
pub(super) fn counts(plan: &Plan) -> Counts {
    let of = |id| plan.entries.iter().filter(|entry| entry.category == id).count() as u64;
    Counts(CATEGORIES.iter().map(|row| (row.id, of(row.id))).filter(|(_, count)| *count > 0).collect())
}

/// What is done to an entry's name.
pub(super) fn action(entry: &Entry) -> Action {
    match &entry.before {
        None => Action::Create,
        Some(_) if entry.node.is_dir() => Action::Adjust,
        Some(_) => Action::Replace,
    }
}
