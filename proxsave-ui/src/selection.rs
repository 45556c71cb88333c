//! Modes, categories, globs: what of a backup is wanted, and whether it fits this host.
//!
//! Every mode, `full` too, takes only categories that fit both the host and the backup. A path in several chosen
//! categories is taken once: when any of them is written, by the first written one in the table's order, else it
//! is exported under the first.

mod compat;
mod globs;

pub use compat::{Compatibility, Verdict};
pub use globs::{GlobError, PathGlob};

use crate::decoder::{Index, IndexEntry, IndexNode};
use proxsave_proto::category::{CATEGORIES, Role, Tier};
use proxsave_proto::{CategoryId, Mode, RelPath, Roles};
use serde::{Deserialize, Serialize};

/// A set of categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Categories(u64);

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The mode.
    pub mode: Mode,
    /// The categories, for mode `custom`; empty means all that fit.
    pub categories: Vec<CategoryId>,
    /// Only paths that match one of these, if there are any.
    pub include: Vec<PathGlob>,
    /// No path that matches one of these.
    pub exclude: Vec<PathGlob>,
}

/// How much of a category the backup holds, or a selection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// The category.
    pub category: CategoryId,
    /// Entries, directories included.
    pub entries: u64,
    /// Bytes of file contents.
    pub bytes: u64,
}

/// A category that the backup holds and the selection does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// The category.
    pub category: CategoryId,
    /// Why.
    pub why: LeftOutWhy,
}

/// Why a category is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeftOutWhy {
    /// For another kind of host.
    #[error("it does not fit this host")]
    Host,
    /// For another kind of backup.
    #[error("it does not fit what the backup is of")]
    Backup,
    /// Not part of the mode, or not chosen.
    #[error("it is not part of the selection")]
    NotChosen,
}

/// Why a request makes no selection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// Categories are chosen beside a mode that chooses them.
    #[error("categories can only be chosen in mode custom, not in mode {}", .0.key())]
    CategoriesInMode(Mode),
    /// Nothing of it in the backup.
    #[error("the backup holds nothing of category {0}")]
    NotInBackup(CategoryId),
    /// Another kind of host.
    #[error("category {category} is for another kind of host than this one ({host}); see --host-role")]
    NotForHost {
        /// The category.
        category: CategoryId,
        /// The host.
        host: Roles,
    },
    /// Another kind of backup.
    #[error("category {category} does not fit what this backup is of ({backup})")]
    NotForBackup {
        /// The category.
        category: CategoryId,
        /// The backup.
        backup: Roles,
    },
    /// Storage mode needs to know.
    #[error(
        "mode storage takes what the host's own storage needs, but the host is neither a Proxmox VE node nor a \
         Proxmox Backup Server as far as can be seen; name it with --host-role, or choose categories"
    )]
    StorageOnUnknownHost,
    /// Nothing is left.
    #[error("nothing is selected: no category of mode {} that fits host ({host}) and backup ({backup}) is in it", .mode.key())]
    Nothing {
        /// The mode.
        mode: Mode,
        /// The host.
        host: Roles,
        /// The backup.
        backup: Roles,
    },
}

/// What of a backup is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// What was asked for.
    pub request: Request,
    /// The host's roles.
    pub host: Roles,
    /// The backup's roles.
    pub backup: Roles,
    chosen: Categories,
    /// Categories of the backup that are not taken.
    pub left_out: Vec<LeftOut>,
}

/// What becomes of a selected path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Written below the root, under this category.
    Write(CategoryId),
    /// Exported, under this category.
    Export(CategoryId),
}

impl Categories {
    /// Adds one.
    pub fn insert(&mut self, id: CategoryId) {
        self.0 |= 1 << id as u32;
    }

    /// Whether it holds one.
    #[must_use]
    pub fn contains(self, id: CategoryId) -> bool {
        self.0 & (1 << id as u32) != 0
    }

    /// In the table's order.
    pub fn iter(self) -> impl Iterator<Item = CategoryId> {
        CATEGORIES.iter().map(|row| row.id).filter(move |id| self.contains(*id))
    }

    /// Whether none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<CategoryId> for Categories {
    fn from_iter<T: IntoIterator<Item = CategoryId>>(ids: T) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

/// What the backup holds of each category that it shows, in the table's order. A path counts in every category it
/// belongs to, so the sums may exceed the backup.
#[must_use]
pub fn available(index: &Index) -> Vec<Tally> {
    let empty = || (0u64, 0u64, false);
    let mut counts: Vec<(u64, u64, bool)> = std::iter::repeat_with(empty).take(CATEGORIES.len()).collect();
    for entry in &index.entries {
        for (row, slot) in CATEGORIES.iter().zip(&mut counts) {
            if row.patterns.iter().any(|pattern| pattern.matches(&entry.path)) {
                slot.0 += 1;
                slot.1 = slot.1.saturating_add(content_len(entry));
                slot.2 |= row.patterns.iter().any(|pattern| pattern.witnesses(&entry.path));
            }
        }
    }
    let held = CATEGORIES.iter().zip(counts).filter(|(_, (_, _, witnessed))| *witnessed);
    held.map(|(row, (entries, bytes, _))| Tally { category: row.id, entries, bytes }).collect()
}

/// Bytes of an entry's content.
#[must_use]
pub fn content_len(entry: &IndexEntry) -> u64 {
    match entry.node {
        IndexNode::File { size, .. } => size,
        _ => 0,
    }
}

impl Selection {
    /// Makes a selection from what the backup holds (see [`available`]).
    ///
    /// # Errors
    /// When the request contradicts itself, names a category that is not there or does not fit, or selects nothing.
    pub fn new(available: &[Tally], request: Request, host: Roles, backup: Roles) -> Result<Self, SelectionError> {
        if request.mode != Mode::Custom && !request.categories.is_empty() {
            return Err(SelectionError::CategoriesInMode(request.mode));
        }
        if request.mode == Mode::Storage && host.is_unknown() {
            return Err(SelectionError::StorageOnUnknownHost);
        }
        let held: Categories = available.iter().map(|tally| tally.category).collect();
        for &category in &request.categories {
            if !held.contains(category) {
                return Err(SelectionError::NotInBackup(category));
            }
            if !category.fits(host) {
                return Err(SelectionError::NotForHost { category, host });
            }
            if !category.fits(backup) {
                return Err(SelectionError::NotForBackup { category, backup });
            }
        }
        let named: Categories = request.categories.iter().copied().collect();
        let mut chosen = Categories::default();
        let mut left_out = Vec::new();
        for category in held.iter() {
            let why = if !category.fits(host) {
                LeftOutWhy::Host
            } else if !category.fits(backup) {
                LeftOutWhy::Backup
            } else if !category.in_mode(request.mode, host) || !(named.is_empty() || named.contains(category)) {
                LeftOutWhy::NotChosen
            } else {
                chosen.insert(category);
                continue;
            };
            left_out.push(LeftOut { category, why });
        }
        if chosen.is_empty() {
            return Err(SelectionError::Nothing { mode: request.mode, host, backup });
        }
        Ok(Self { request, host, backup, chosen, left_out })
    }

    /// The chosen categories.
    #[must_use]
    pub fn chosen(&self) -> Categories {
        self.chosen
    }

    /// What becomes of a path; `None` when it is not selected.
    #[must_use]
    pub fn route(&self, path: &RelPath) -> Option<Route> {
        // Written wins; else the category that says most: a catch-all export copy must not hide that the access
        // control inside it was exported and not applied.
        let rank = |id: &CategoryId| match (id.is_written(), id.row().tier) {
            (true, _) => 0,
            (false, Tier::Export) => 2,
            (false, _) => 1,
        };
        let best = self.chosen.iter().filter(|id| id.matches(path)).min_by_key(rank)?;
        let route = if best.is_written() { Route::Write(best) } else { Route::Export(best) };
        self.wants(path).then_some(route)
    }

    /// Whether the globs let a path through.
    fn wants(&self, path: &RelPath) -> bool {
        let Request { include, exclude, .. } = &self.request;
        (include.is_empty() || include.iter().any(|glob| glob.matches(path)))
            && !exclude.iter().any(|glob| glob.matches(path))
    }

    /// What the selection takes of each chosen category, every path counted once, in the table's order.
    #[must_use]
    pub fn tallies(&self, index: &Index) -> Vec<Tally> {
        let mut tallies: Vec<Tally> =
            self.chosen.iter().map(|category| Tally { category, entries: 0, bytes: 0 }).collect();
        for entry in &index.entries {
            let Some(Route::Write(id) | Route::Export(id)) = self.route(&entry.path) else { continue };
            if let Some(tally) = tallies.iter_mut().find(|tally| tally.category == id) {
                tally.entries += 1;
                tally.bytes = tally.bytes.saturating_add(content_len(entry));
            }
        }
        tallies
    }
}

/// What a role is called in sentences.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Pve => "Proxmox VE",
        Role::Pbs => "Proxmox Backup Server",
    }
}

#[cfg(test)]
mod tests;
