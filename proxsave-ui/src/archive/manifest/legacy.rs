//! The `KEY=VALUE` form of the shell predecessor. Lines; `#` begins a comment line; a value may be in quotes.

use super::{MAX_TARGETS, MAX_TEXT, Manifest, ManifestError, ManifestForm};

pub(super) fn parse(data: &[u8]) -> Result<Manifest, ManifestError> {
    let text = std::str::from_utf8(data).map_err(|_| ManifestError::Unknown)?;
    let mut manifest = Manifest {
        form: ManifestForm::Legacy,
        archive_path: None,
        archive_size: None,
        sha256: None,
        created_at: None,
        compression_type: None,
        compression_level: None,
        compression_mode: None,
        proxmox_type: None,
        proxmox_targets: Vec::new(),
        proxmox_version: None,
        pve_version: None,
        pbs_version: None,
        hostname: None,
        script_version: None,
        encryption_mode: None,
        cluster_mode: None,
        passphrase_salt: None,
    };
    let mut known = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once('=') else { continue };
        known |= set(&mut manifest, key.trim(), unquote(value.trim()))?;
    }
    if known { Ok(manifest) } else { Err(ManifestError::Unknown) }
}

/// Takes one line over. Says whether the key is known.
fn set(manifest: &mut Manifest, key: &str, value: &str) -> Result<bool, ManifestError> {
    let (field, slot) = match key {
        "COMPRESSION_TYPE" => ("COMPRESSION_TYPE", &mut manifest.compression_type),
        "PROXMOX_TYPE" => ("PROXMOX_TYPE", &mut manifest.proxmox_type),
        "PROXMOX_VERSION" => ("PROXMOX_VERSION", &mut manifest.proxmox_version),
        "PVE_VERSION" => ("PVE_VERSION", &mut manifest.pve_version),
        "PBS_VERSION" => ("PBS_VERSION", &mut manifest.pbs_version),
        "HOSTNAME" => ("HOSTNAME", &mut manifest.hostname),
        "SCRIPT_VERSION" => ("SCRIPT_VERSION", &mut manifest.script_version),
        "ENCRYPTION_MODE" => ("ENCRYPTION_MODE", &mut manifest.encryption_mode),
        "COMPRESSION_LEVEL" => {
            // The shell wrote words here too; the level only informs, so they count as "not known".
            manifest.compression_level = value.parse().ok();
            return Ok(true);
        }
        "BACKUP_TARGETS" | "PROXMOX_TARGETS" => {
            for target in value.split(',').map(str::trim).filter(|target| !target.is_empty()) {
                if manifest.proxmox_targets.len() >= MAX_TARGETS {
                    return Err(ManifestError::Field { field: "BACKUP_TARGETS", reason: "has too many items" });
                }
                if !manifest.proxmox_targets.iter().any(|known| known == target) {
                    manifest.proxmox_targets.push(target.to_owned());
                }
            }
            return Ok(true);
        }
        _ => return Ok(false),
    };
    if value.len() > MAX_TEXT {
        return Err(ManifestError::Field { field, reason: "is too long" });
    }
    *slot = (!value.is_empty()).then(|| value.to_owned());
    Ok(true)
}

/// Takes one pair of equal quotes off.
fn unquote(value: &str) -> &str {
    ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Codec, Encryption};
    use proptest::prelude::*;
    use proxsave_proto::Roles;

    #[test]
    fn keys_of_the_shell_predecessor() {
        let text = "# made by proxmox-backup.sh\n\nCOMPRESSION_TYPE=\"xz\"\nCOMPRESSION_LEVEL=9\nPROXMOX_TYPE=pve\r\n\
            BACKUP_TARGETS=pve, pbs,pve\nPROXMOX_VERSION='8.1.4'\nPVE_VERSION=8.1.4\nPBS_VERSION=\nHOSTNAME=old.lan\n\
            SCRIPT_VERSION=0.7.3\nENCRYPTION_MODE=plain\nSOMETHING=else\nno line\n#HOSTNAME=other";
        let manifest = parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.form, ManifestForm::Legacy);
        assert_eq!(manifest.codec(), Some(Codec::Xz));
        assert_eq!(manifest.compression_level, Some(9));
        assert_eq!(manifest.proxmox_targets, ["pve", "pbs"]);
        assert_eq!(manifest.roles(), Roles::DUAL);
        assert_eq!(manifest.proxmox_version.as_deref(), Some("8.1.4"));
        assert_eq!(manifest.pbs_version, None);
        assert_eq!(manifest.hostname.as_deref(), Some("old.lan"));
        assert_eq!(manifest.encryption(), Some(Encryption::None));
        assert_eq!(manifest.created_at, None);
    }

    #[test]
    fn the_suffix_decides_where_nothing_is_said() {
        let manifest = parse(b"HOSTNAME=a").unwrap();
        assert_eq!(manifest.encryption(), None);
    }

    #[test]
    fn other_text_is_not_metadata() {
        assert_eq!(parse(b""), Err(ManifestError::Unknown));
        assert_eq!(parse(b"PATH=/bin\nx=y"), Err(ManifestError::Unknown));
        assert_eq!(parse(b"HOSTNAME=\xff"), Err(ManifestError::Unknown));
        let long = format!("HOSTNAME={}", "x".repeat(MAX_TEXT + 1));
        assert!(matches!(parse(long.as_bytes()), Err(ManifestError::Field { field: "HOSTNAME", .. })));
    }

    proptest! {
        #[test]
        fn any_lines_are_read_without_panic(
            lines in proptest::collection::vec("(HOSTNAME|BACKUP_TARGETS|COMPRESSION_LEVEL|X)? ?=?.{0,20}", 0..20)
        ) {
            let _ = parse(lines.join("\n").as_bytes());
        }
    }
}
