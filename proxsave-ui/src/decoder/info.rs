//! What a backup says about itself, and what its files show about the host.

use super::index::{BackupInfo, IndexEntry, RoleEvidence};
use proxsave_proto::Roles;
use proxsave_proto::category::{CATEGORIES, Scope};

/// Where it is.
pub const FILE: &[u8] = b"var/lib/proxsave-info/backup_metadata.txt";
/// A larger one is not read.
pub const MAX: u64 = 8 << 10;

/// Reads its `KEY=VALUE` lines; anything else in it is passed over, as it only informs.
pub fn parse(text: &[u8]) -> BackupInfo {
    let text = String::from_utf8_lossy(text);
    let is_key = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let values: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| !key.is_empty() && key.chars().all(is_key))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect();
    let features = value(&values, "BACKUP_FEATURES").map(list).unwrap_or_default();
    BackupInfo { values, features }
}

fn value<'a>(values: &'a [(String, String)], key: &str) -> Option<&'a str> {
    values.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// The roles: those of the categories whose files are there; only where none is typed, those that the backup states.
pub fn roles(entries: &[IndexEntry], info: &BackupInfo) -> RoleEvidence {
    let mut roles = Roles::UNKNOWN;
    let mut why = Vec::new();
    for row in CATEGORIES.iter() {
        let (known, product) = match row.scope {
            Scope::Common => continue,
            Scope::Pve => (&mut roles.pve, "Proxmox VE"),
            Scope::Pbs => (&mut roles.pbs, "Proxmox Backup Server"),
        };
        if *known {
            continue;
        }
        let shows = |entry: &&IndexEntry| row.patterns.iter().any(|pattern| pattern.witnesses(&entry.path));
        if let Some(entry) = entries.iter().find(shows) {
            *known = true;
            why.push(format!("{} shows {product} ({})", entry.path, row.name));
        }
    }
    let stated = stated(info);
    if roles.is_unknown() && !stated.is_unknown() {
        why.push(format!("no file shows a product; the backup states {stated}"));
        return RoleEvidence { roles: stated, why };
    }
    if !stated.is_unknown() && stated != roles {
        why.push(format!("the backup states {stated}, its files show {roles}: its files count"));
    }
    if roles.is_unknown() {
        why.push("neither files nor the backup's own text show a product".to_owned());
    }
    RoleEvidence { roles, why }
}

fn stated(info: &BackupInfo) -> Roles {
    let mut roles = Roles::UNKNOWN;
    for key in ["BACKUP_TARGETS", "BACKUP_TYPE"] {
        for target in value(&info.values, key).map(list).unwrap_or_default() {
            let more = Roles::from_key(&target.to_ascii_lowercase()).unwrap_or_default();
            roles = Roles { pve: roles.pve || more.pve, pbs: roles.pbs || more.pbs };
        }
        if !roles.is_unknown() {
            break;
        }
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::IndexNode;
    use proxsave_proto::RelPath;

    #[test]
    fn files_count_before_words() {
        let info = parse(b"# x\nBACKUP_TYPE=pbs\nBACKUP_FEATURES=a, b\nbad key=1\nnoise\n");
        assert_eq!(info.features, ["a", "b"]);
        assert_eq!(info.values.len(), 2);
        let none = roles(&[], &info);
        assert_eq!(none.roles, Roles { pve: false, pbs: true });
        let entry = IndexEntry {
            path: RelPath::from_archive(b"etc/vzdump.conf").unwrap(),
            node: IndexNode::Hardlink { to: RelPath::root() },
        };
        let found = roles(&[entry], &info);
        assert_eq!(found.roles, Roles { pve: true, pbs: false });
        assert_eq!(found.why.len(), 2);
    }
}
