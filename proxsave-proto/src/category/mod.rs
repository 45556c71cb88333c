//! What a restore can choose: 32 categories of paths, their matching, the modes and the host roles.

pub mod glob;
mod table;

pub use table::{CATEGORIES, CategoryId};

use crate::path::RelPath;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One category: a named set of paths and what becomes of them.
#[derive(Debug)]
pub struct Category {
    /// Its identity.
    pub id: CategoryId,
    /// The name for scripts and policy (`pve_cluster`).
    pub key: &'static str,
    /// The name for people.
    pub name: &'static str,
    /// One line on what it holds.
    pub summary: &'static str,
    /// The kind of host it makes sense on.
    pub scope: Scope,
    /// How it comes back.
    pub tier: Tier,
    /// The roles for which mode `storage` takes it.
    pub storage: &'static [Role],
    /// Whether mode `base` takes it.
    pub base: bool,
    /// The paths it holds, relative to the root.
    pub patterns: &'static [Pattern],
}

/// The kind of host a category belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Proxmox VE only.
    Pve,
    /// Proxmox Backup Server only.
    Pbs,
    /// Any host.
    Common,
}

/// How a category comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Only ever exported, for reading by hand.
    Export,
    /// Written to the same path below the root.
    Normal,
    /// Needs typed operations (API calls, merges); exported until those exist.
    Staged,
    /// Merged into the live table; exported until that exists.
    FstabMerge,
}

/// One pattern of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Exactly this path.
    File(&'static str),
    /// This directory and all below it.
    Dir(&'static str),
    /// A shell pattern (`*`, `?`, `[...]`) matched component by component.
    Glob(&'static str),
}

/// What a host or a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Proxmox VE.
    Pve,
    /// Proxmox Backup Server.
    Pbs,
}

/// A set of roles: none (unknown), one, or both (dual).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Roles {
    /// Is a Proxmox VE node.
    pub pve: bool,
    /// Is a Proxmox Backup Server.
    pub pbs: bool,
}

/// What to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everything the backup has that fits the host.
    Full,
    /// What the storage of guests and backups needs.
    Storage,
    /// Network, certificates, SSH, services, file systems.
    Base,
    /// What the operator chooses.
    Custom,
}

impl Roles {
    /// Neither: an unknown host or backup.
    pub const UNKNOWN: Self = Self { pve: false, pbs: false };
    /// Both.
    pub const DUAL: Self = Self { pve: true, pbs: true };

    /// Whether the set holds a role.
    #[must_use]
    pub fn has(self, role: Role) -> bool {
        match role {
            Role::Pve => self.pve,
            Role::Pbs => self.pbs,
        }
    }

    /// Neither role.
    #[must_use]
    pub fn is_unknown(self) -> bool {
        self == Self::UNKNOWN
    }

    /// `pve`, `pbs`, `dual` or `unknown`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match (self.pve, self.pbs) {
            (true, true) => "dual",
            (true, false) => "pve",
            (false, true) => "pbs",
            (false, false) => "unknown",
        }
    }

    /// Reads what [`Roles::key`] gives.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        [Self::DUAL, Self { pve: true, pbs: false }, Self { pve: false, pbs: true }, Self::UNKNOWN]
            .into_iter()
            .find(|roles| roles.key() == key)
    }

    /// The roles in both sets.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        Self { pve: self.pve && other.pve, pbs: self.pbs && other.pbs }
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

impl Pattern {
    /// Whether a path is in the pattern. A directory pattern holds the directory itself and all below it.
    #[must_use]
    pub fn matches(self, path: &RelPath) -> bool {
        match self {
            Pattern::File(exact) => path.as_bytes() == exact.as_bytes(),
            Pattern::Dir(dir) => below(path, dir).is_some(),
            Pattern::Glob(pattern) => {
                let mut names = path.components();
                pattern.split('/').all(|part| names.next().is_some_and(|name| glob::matches(part.as_bytes(), name)))
                    && names.next().is_none()
            }
        }
    }

    /// Whether a path shows that the category is in an archive: as [`Pattern::matches`], but a bare directory
    /// does not (the public tool makes empty ones).
    #[must_use]
    pub fn witnesses(self, path: &RelPath) -> bool {
        match self {
            Pattern::Dir(dir) => below(path, dir).is_some_and(|rest| !rest.is_empty()),
            other => other.matches(path),
        }
    }
}

/// What is left of `path` behind `dir` when it is `dir` (nothing left) or below it.
fn below<'a>(path: &'a RelPath, dir: &str) -> Option<&'a [u8]> {
    let rest = path.as_bytes().strip_prefix(dir.as_bytes())?;
    match rest.split_first() {
        None => Some(rest),
        Some((b'/', rest)) => Some(rest),
        Some(_) => None,
    }
}

impl CategoryId {
    /// The row of the table.
    #[must_use]
    pub fn row(self) -> &'static Category {
        #[allow(clippy::indexing_slicing, reason = "the table has a row for each variant, in order (tested)")]
        &CATEGORIES[self as usize]
    }

    /// Finds a category by its key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        CATEGORIES.iter().find(|row| row.key == key).map(|row| row.id)
    }

    /// Whether a path belongs to this category.
    #[must_use]
    pub fn matches(self, path: &RelPath) -> bool {
        self.row().patterns.iter().any(|pattern| pattern.matches(path))
    }

    /// Whether a restore writes this category below the root. The others are exported: the cluster database and
    /// corosync's files must not be replaced under running daemons by a plain write, whatever their tier.
    #[must_use]
    pub fn is_written(self) -> bool {
        self.row().tier == Tier::Normal && !matches!(self, Self::PveCluster | Self::Corosync)
    }

    /// Whether the category makes sense on a host with these roles. On an unknown host only common ones do.
    #[must_use]
    pub fn fits(self, roles: Roles) -> bool {
        match self.row().scope {
            Scope::Common => true,
            Scope::Pve => roles.pve,
            Scope::Pbs => roles.pbs,
        }
    }

    /// Whether a mode takes this category for a host with these roles. `custom` takes what fits; the operator's
    /// choice comes on top.
    #[must_use]
    pub fn in_mode(self, mode: Mode, roles: Roles) -> bool {
        match mode {
            Mode::Full | Mode::Custom => self.fits(roles),
            Mode::Storage => self.row().storage.iter().any(|role| roles.has(*role)),
            Mode::Base => self.row().base,
        }
    }

    /// The categories a path belongs to, in table order.
    pub fn of(path: &RelPath) -> impl Iterator<Item = CategoryId> {
        CATEGORIES.iter().map(|row| row.id).filter(move |id| id.matches(path))
    }
}

impl fmt::Display for CategoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().key)
    }
}

impl Mode {
    /// The name for scripts.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Mode::Full => "full",
            Mode::Storage => "storage",
            Mode::Base => "base",
            Mode::Custom => "custom",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::from_archive(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_table_is_whole_and_in_order() {
        for (index, row) in CATEGORIES.iter().enumerate() {
            assert_eq!(row.id as usize, index, "{}", row.key);
            assert_eq!(CategoryId::from_key(row.key), Some(row.id));
            for pattern in row.patterns {
                let (Pattern::File(text) | Pattern::Dir(text) | Pattern::Glob(text)) = pattern;
                assert!(RelPath::from_canonical(text.as_bytes()).is_ok(), "{text}");
            }
        }
        let count = |scope| CATEGORIES.iter().filter(|row| row.scope == scope).count();
        assert_eq!((count(Scope::Pve), count(Scope::Pbs), count(Scope::Common)), (11, 9, 12));
        let tier = |tier| CATEGORIES.iter().filter(|row| row.tier == tier).count();
        assert_eq!((tier(Tier::Export), tier(Tier::Staged), tier(Tier::FstabMerge)), (3, 16, 1));
    }

    #[test]
    fn matching_is_by_component() {
        assert!(CategoryId::Ssh.matches(&path("./etc/ssh/sshd_config")));
        assert!(CategoryId::Ssh.matches(&path("etc/ssh")));
        assert!(!CategoryId::Ssh.matches(&path("etc/ssh-old/x")));
        assert!(CategoryId::StorageStack.matches(&path("etc/auto.nfs")));
        assert!(!CategoryId::StorageStack.matches(&path("etc/auto.nfs/deeper")));
        assert!(CategoryId::PveFirewall.matches(&path("etc/pve/nodes/pve1/host.fw")));
        assert!(!CategoryId::PveFirewall.matches(&path("etc/pve/nodes/a/b/host.fw")));
        assert_eq!(CategoryId::of(&path("root/.ssh/id")).collect::<Vec<_>>(), [CategoryId::Ssh, CategoryId::UserData]);
    }

    #[test]
    fn a_bare_directory_is_no_witness() {
        let dir = Pattern::Dir("etc/ssh");
        assert!(dir.matches(&path("etc/ssh")) && !dir.witnesses(&path("etc/ssh")));
        assert!(dir.witnesses(&path("etc/ssh/x")));
    }

    #[test]
    fn modes_follow_the_host() {
        let of = |mode, roles| -> Vec<&str> {
            CATEGORIES.iter().filter(|row| row.id.in_mode(mode, roles)).map(|row| row.key).collect()
        };
        let pve = Roles { pve: true, pbs: false };
        assert_eq!(
            of(Mode::Storage, pve),
            ["pve_cluster", "storage_pve", "pve_jobs", "filesystem", "storage_stack", "zfs"]
        );
        assert!(of(Mode::Storage, Roles::UNKNOWN).is_empty());
        assert_eq!(of(Mode::Base, Roles::UNKNOWN), ["filesystem", "network", "ssl", "ssh", "services"]);
        assert_eq!(of(Mode::Full, pve).len(), 23);
        assert_eq!(of(Mode::Full, Roles::DUAL).len(), 32);
    }

    #[test]
    fn cluster_state_is_never_written_by_a_plain_restore() {
        let written: Vec<_> = CATEGORIES.iter().filter(|row| row.id.is_written()).map(|row| row.key).collect();
        assert!(!written.contains(&"pve_cluster") && !written.contains(&"corosync"));
        assert_eq!(written.len(), 10);
        let inside = path("etc/pve/storage.cfg");
        assert!(CategoryId::of(&inside).all(|id| !id.is_written()));
    }
}
