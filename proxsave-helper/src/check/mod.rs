//! What a plan becomes: [`CheckedPlan`], the only thing that can be carried out.
//!
//! [`check`] holds a valid plan against what the caller may do and against the live tree. It answers with every
//! reason against the plan or with a [`CheckedPlan`]; nothing else makes one. [`recheck`] looks once more, just
//! before names are put in place.

mod checked;
mod room;
mod state;
#[cfg(test)]
mod tests;

pub use checked::{CheckedPlan, EffectiveMeta};
pub use state::recheck;

use crate::root::{Root, RootError};
use proxsave_proto::message::{ProbeItem, Refusal, Why};
use proxsave_proto::state::{Blocked, Present, Target};
use proxsave_proto::{CategoryId, RelPath, ValidPlan};

/// The most reasons that are told of a refused plan; more say nothing new.
pub const MAX_REFUSALS: usize = 1000;

/// What the caller may do, as policy says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// The categories that may be restored.
    pub categories: Vec<CategoryId>,
    /// Whether set-id bits and file capabilities may be restored; else they are dropped.
    pub privileged_bits: bool,
}

impl Grants {
    /// Whether a category may be restored.
    #[must_use]
    pub fn allows(&self, category: CategoryId) -> bool {
        self.categories.contains(&category)
    }

    /// Whether a path is in a category that may be restored.
    #[must_use]
    pub fn covers(&self, path: &RelPath) -> bool {
        CategoryId::of(path).any(|category| self.allows(category))
    }
}

/// What is known of the tree. The prober is it (see [`crate::probe::Prober::contents`]), so that the broker
/// itself never reads a file of the tree.
pub trait Contents {
    /// Whether exactly this state, hashes included, was seen in this session, and had settled by then: what has the
    /// same inode and change time now has the same attributes and content.
    fn knows(&self, present: &Present) -> bool;
    /// Looks at each path anew, hashing where asked, and answers in order.
    fn look(&mut self, items: &[ProbeItem]) -> Vec<Target>;
}

/// Checks a plan against what the caller may do and against the live tree.
///
/// Attributes and contents that the plan binds are hashed anew, unless this session hashed them and `stat` tells the
/// same as then.
///
/// # Errors
/// Every reason found (at most [`MAX_REFUSALS`]), never just the first.
pub fn check(
    plan: ValidPlan,
    grants: &Grants,
    root: &Root,
    contents: &mut dyn Contents,
) -> Result<CheckedPlan, Vec<Refusal>> {
    let mut refusals = Refusals::default();
    if let Err(error) = root.refresh() {
        refusals.push(None, Why::Unreachable(format!("the mount table cannot be read: {error}")));
        return Err(refusals.0);
    }
    for entry in &plan.plan().entries {
        if !grants.allows(entry.category) {
            refusals.push(Some(&entry.path), Why::NotGranted(entry.category));
        }
    }
    if !refusals.0.is_empty() {
        // Who may not restore a path is not told how it looks either.
        return Err(refusals.0);
    }
    let checked = CheckedPlan::bind(plan, grants.privileged_bits, root, &mut refusals);
    if refusals.0.is_empty() {
        checked.check_hard_links(&mut refusals);
        room::check_room(&checked, &mut refusals);
    }
    state::check_entries(&checked, root, contents, &mut refusals);
    if refusals.0.is_empty() { Ok(checked) } else { Err(refusals.0) }
}

/// Reasons against a plan, as they are found.
#[derive(Debug, Default)]
pub(super) struct Refusals(Vec<Refusal>);

impl Refusals {
    fn push(&mut self, path: Option<&RelPath>, why: Why) {
        if self.0.len() < MAX_REFUSALS {
            self.0.push(Refusal { path: path.cloned(), why });
        }
    }

    fn blocked(&mut self, path: &RelPath, blocked: Blocked) {
        self.push(Some(path), Why::Unreachable(blocked.to_string()));
    }

    fn failed(&mut self, error: &RootError) {
        self.push(Some(&error.path), Why::Unreachable(format!("{}: {}", error.doing, error.source)));
    }
}
