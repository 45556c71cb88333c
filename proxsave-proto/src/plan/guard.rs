//! Paths that no plan can name, and names that a writer's view covers.

use crate::path::RelPath;

/// Directories below which nothing is ever written: pmxcfs (its own tools write there), the kernel's and the
/// running system's trees, and the pair's own programs, policy, keys and state.
pub const GUARDED: &[&str] = &[
    "etc/pve",
    "etc/proxsave",
    "proc",
    "sys",
    "dev",
    "run",
    "var/run",
    "var/lock",
    "var/lib/proxsave",
    "usr/lib/proxsave",
    "usr/libexec/proxsave-helper",
    "usr/bin/proxsave-ui",
    "usr/sbin/proxsave-helper",
    "usr/local/bin/proxsave-ui",
    "usr/local/bin/proxsave-helper",
    "usr/local/sbin/proxsave-helper",
];

/// Starts of file names of the pair's own units and drop-ins in systemd's directories.
const OWN_UNITS: &str = "proxsave-";

/// Starts of the names of the helper's staging directories: an archive that holds one must not plant it.
const STAGING: &[u8] = b".pxs-";

/// Names that a writer's view covers read-only unless the plan holds them or something below them: a file is
/// replaced by rename, so the kernel must grant the whole directory, and these are its crown jewels.
pub const SENSITIVE: &[&str] = &[
    "bin",
    "boot",
    "dev",
    "lib",
    "lib32",
    "lib64",
    "proc",
    "run",
    "sbin",
    "sys",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "usr/libexec",
    "usr/local/bin",
    "usr/local/sbin",
    "usr/local/lib",
    "etc/passwd",
    "etc/passwd-",
    "etc/group",
    "etc/group-",
    "etc/shadow",
    "etc/shadow-",
    "etc/gshadow",
    "etc/gshadow-",
    "etc/subuid",
    "etc/subgid",
    "etc/sudoers",
    "etc/sudoers.d",
    "etc/security",
    "etc/pam.d",
    "etc/pam.conf",
    "etc/polkit-1",
    "etc/dbus-1",
    "etc/nsswitch.conf",
    "etc/ld.so.preload",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d",
    "etc/ld.so.cache",
    "etc/profile",
    "etc/profile.d",
    "etc/environment",
    "etc/bash.bashrc",
    "etc/login.defs",
    "etc/crontab",
    "etc/cron.d",
    "etc/cron.hourly",
    "etc/cron.daily",
    "etc/cron.weekly",
    "etc/cron.monthly",
    "etc/systemd",
    "etc/anacrontab",
    "etc/init.d",
    "etc/rc.local",
    "etc/default",
    "etc/alternatives",
    "etc/logrotate.conf",
    "etc/logrotate.d",
    "etc/update-motd.d",
    "etc/grub.d",
    "etc/dpkg",
    "etc/dhcp",
    "etc/ppp",
    "etc/NetworkManager",
    "etc/networkd-dispatcher",
    "etc/zfs",
    "etc/apparmor.d",
    "etc/tmpfiles.d",
    "etc/sysusers.d",
    "etc/modules",
    "etc/udev",
    "etc/modprobe.d",
    "etc/modules-load.d",
    "etc/sysctl.conf",
    "etc/sysctl.d",
    "etc/apt",
    "etc/kernel",
    "etc/initramfs-tools",
    "etc/network",
    "etc/fstab",
    "etc/ssh",
    "etc/pve",
    "etc/proxmox-backup",
    "etc/proxsave",
    "root/.ssh",
    "root/.bashrc",
    "root/.profile",
    "root/.bash_profile",
    "root/.bash_login",
    "var/spool/cron",
    "var/lib/proxsave",
    "var/lib/dpkg",
    "var/lib/pve-cluster",
    "var/lib/systemd",
];

/// Whether a path is guarded: it is, or lies below, a directory that no plan can name, or it is a unit of the
/// pair's own, or one of its temporary names.
#[must_use]
pub fn guarded(path: &RelPath) -> bool {
    let bytes = path.as_bytes();
    let inside = GUARDED.iter().any(|dir| {
        bytes.strip_prefix(dir.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
    });
    let unit_dir =
        ["etc/systemd/", "usr/lib/systemd/", "lib/systemd/"].iter().any(|dir| bytes.starts_with(dir.as_bytes()));
    let staging = path.components().any(|name| name.starts_with(STAGING));
    inside || staging || (unit_dir && path.components().any(|name| name.starts_with(OWN_UNITS.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_hold_by_component() {
        let is = |text: &str| guarded(&RelPath::from_archive(text.as_bytes()).unwrap());
        assert!(is("etc/pve") && is("etc/pve/storage.cfg") && is("proc/1/mem") && is("var/lib/proxsave/audit.jsonl"));
        assert!(is("etc/systemd/system/proxsave-helper@.service.d/x.conf"));
        assert!(is("home/anna/.pxs-0-0/x") && !is("home/anna/x.pxs-0"));
        assert!(!is("etc/pve-x") && !is("etc/proxsaved") && !is("etc/systemd/system/other.service"));
    }

    #[test]
    fn tables_hold_canonical_paths() {
        for text in GUARDED.iter().chain(SENSITIVE) {
            assert!(RelPath::from_canonical(text.as_bytes()).is_ok(), "{text}");
        }
    }
}
