//! Whether a backup fits a host, with reasons that a person can follow.

use super::role_name;
use proxsave_proto::Roles;
use proxsave_proto::category::Role;
use proxsave_proto::escape::escape;
use serde::Serialize;

/// How host and backup relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The same roles.
    Same,
    /// Some roles in common, not all.
    Partial,
    /// No role in common.
    Incompatible,
    /// The host's kind is not known.
    UnknownHost,
    /// The backup's kind is not known.
    UnknownBackup,
}

/// The verdict and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compatibility {
    /// The verdict.
    pub verdict: Verdict,
    /// Roles of the host.
    #[serde(serialize_with = "as_key")]
    pub host: Roles,
    /// Roles of the backup.
    #[serde(serialize_with = "as_key")]
    pub backup: Roles,
    /// What it means and why, as sentences that are safe to print.
    pub reasons: Vec<String>,
}

fn as_key<S: serde::Serializer>(roles: &Roles, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(roles.key())
}

impl Compatibility {
    /// Judges. The evidence of both sides is quoted.
    #[must_use]
    pub fn judge(host: Roles, host_evidence: &[String], backup: Roles, backup_evidence: &[String]) -> Self {
        let common = host.common(backup);
        let verdict = match () {
            () if host.is_unknown() => Verdict::UnknownHost,
            () if backup.is_unknown() => Verdict::UnknownBackup,
            () if host == backup => Verdict::Same,
            () if common.is_unknown() => Verdict::Incompatible,
            () => Verdict::Partial,
        };
        let mut reasons = vec![match verdict {
            Verdict::Same => format!("Host and backup are of the same kind ({host})."),
            Verdict::UnknownBackup => "The backup does not show what kind of host it is of; only what any host can \
                                       have is taken."
                .to_owned(),
            Verdict::UnknownHost => "The host is neither a Proxmox VE node nor a Proxmox Backup Server as far as can \
                                     be seen; only what any host can have is taken. Name it with --host-role if you \
                                     know better."
                .to_owned(),
            Verdict::Partial => {
                format!("Host ({host}) and backup ({backup}) have only one role in common ({common}).")
            }
            Verdict::Incompatible => {
                format!("The host is {host}, the backup is of {backup}: only what any host can have is taken.")
            }
        }];
        for role in [Role::Pve, Role::Pbs] {
            match (host.has(role), backup.has(role)) {
                (true, false) if !backup.is_unknown() => {
                    reasons.push(format!("The host has {}; the backup holds nothing for it.", role_name(role)));
                }
                (false, true) if !host.is_unknown() => {
                    reasons.push(format!(
                        "The backup is of {}; the host does not have it, so its categories are left out.",
                        role_name(role)
                    ));
                }
                _ => {}
            }
        }
        reasons.extend(host_evidence.iter().map(|text| format!("Host: {}", escape(text.as_bytes()))));
        reasons.extend(backup_evidence.iter().map(|text| format!("Backup: {}", escape(text.as_bytes()))));
        Self { verdict, host, backup, reasons }
    }

    /// Whether the operator must agree first.
    #[must_use]
    pub fn needs_consent(&self) -> bool {
        !matches!(self.verdict, Verdict::Same | Verdict::UnknownBackup)
    }
}
