//! What kind of host the root looks like, and why.
//!
//! Proxmox VE is told by `/etc/pve`, `/usr/bin/qm` or `/usr/bin/pct`, Proxmox Backup Server by
//! `/etc/proxmox-backup` or `/usr/sbin/proxmox-backup-proxy`: any one will do. Only whether they exist is looked
//! at, without following links.

use crate::root::{Presence, Root};
use proxsave_proto::message::HostFacts;
use proxsave_proto::{RelPath, Role, Roles};

const SIGNS: [(Role, &str); 5] = [
    (Role::Pve, "etc/pve"),
    (Role::Pve, "usr/bin/qm"),
    (Role::Pve, "usr/bin/pct"),
    (Role::Pbs, "etc/proxmox-backup"),
    (Role::Pbs, "usr/sbin/proxmox-backup-proxy"),
];

/// Looks for the signs of both roles.
#[must_use]
pub fn detect(root: &Root) -> HostFacts {
    let mut roles = Roles::UNKNOWN;
    let mut evidence = Vec::new();
    for (role, text) in SIGNS {
        let name = match role {
            Role::Pve => "Proxmox VE",
            Role::Pbs => "Proxmox Backup Server",
        };
        let Ok(path) = RelPath::from_canonical(text.as_bytes()) else { continue };
        evidence.push(match root.presence(&path) {
            Ok(Presence::There) => {
                match role {
                    Role::Pve => roles.pve = true,
                    Role::Pbs => roles.pbs = true,
                }
                format!("{path} exists: a sign of {name}")
            }
            Ok(Presence::NotThere) => format!("{path} does not exist"),
            Ok(Presence::BehindLink) => format!("{path} was not looked at: a symbolic link is on the way"),
            Err(error) => format!("{path} could not be looked at: {}", error.source),
        });
    }
    evidence.push(match (roles.pve, roles.pbs) {
        (false, false) => "no sign of Proxmox VE or Proxmox Backup Server was seen, so the role is unknown".to_owned(),
        _ => format!("so the role is {roles}"),
    });
    HostFacts { roles, evidence }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(files: &[&str]) -> HostFacts {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        detect(&Root::open(dir.path()).unwrap())
    }

    #[test]
    fn any_one_sign_makes_a_role() {
        for (role, sign) in SIGNS {
            let facts = facts(&[sign]);
            let expected = Roles { pve: role == Role::Pve, pbs: role == Role::Pbs };
            assert_eq!(facts.roles, expected, "{sign}");
            assert!(facts.evidence.iter().any(|line| line.contains(sign) && line.contains("exists: a sign")));
            assert_eq!(facts.evidence.iter().filter(|line| line.ends_with("does not exist")).count(), 4);
        }
        assert_eq!(facts(&["etc/pve/storage.cfg", "etc/proxmox-backup/user.cfg"]).roles, Roles::DUAL);
        let none = facts(&["etc/pve-manager/x", "usr/bin/qmrestore"]);
        assert_eq!(none.roles, Roles::UNKNOWN);
        assert!(none.evidence.last().unwrap().contains("unknown"));
    }

    #[test]
    fn a_link_on_the_way_is_told_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("real/bin")).unwrap();
        std::fs::write(dir.path().join("real/bin/qm"), b"").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("usr")).unwrap();
        let facts = detect(&Root::open(dir.path()).unwrap());
        assert_eq!(facts.roles, Roles::UNKNOWN);
        assert!(facts.evidence.iter().any(|line| line.contains("/usr/bin/qm was not looked at")));
    }
}
