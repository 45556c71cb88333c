//! The JSON form.

use super::{MAX_TARGETS, MAX_TEXT, Manifest, ManifestError, ManifestForm};
use proxsave_proto::Digest;
use proxsave_proto::digest::Timestamp;
use serde::Deserialize;

/// The fields as JSON has them; `null` is as good as absent.
#[derive(Deserialize)]
struct Raw {
    archive_path: Option<String>,
    archive_size: Option<i64>,
    sha256: Option<String>,
    created_at: Option<String>,
    compression_type: Option<String>,
    compression_level: Option<i64>,
    compression_mode: Option<String>,
    proxmox_type: Option<String>,
    proxmox_targets: Option<Vec<String>>,
    proxmox_version: Option<String>,
    pve_version: Option<String>,
    pbs_version: Option<String>,
    hostname: Option<String>,
    script_version: Option<String>,
    encryption_mode: Option<String>,
    cluster_mode: Option<String>,
    passphrase_salt: Option<String>,
}

pub(super) fn parse(data: &[u8]) -> Result<Manifest, ManifestError> {
    let raw: Raw = serde_json::from_slice(data).map_err(|error| describe(&error))?;
    let targets = raw.proxmox_targets.unwrap_or_default();
    if targets.len() > MAX_TARGETS {
        return Err(ManifestError::Field { field: "proxmox_targets", reason: "has too many items" });
    }
    let proxmox_targets = targets
        .into_iter()
        .filter_map(|target| text("proxmox_targets", Some(target)).transpose())
        .collect::<Result<_, _>>()?;
    Ok(Manifest {
        form: ManifestForm::Json,
        archive_path: text("archive_path", raw.archive_path)?,
        archive_size: raw.archive_size.map(size).transpose()?,
        sha256: text("sha256", raw.sha256)?.map(|hex| digest(&hex)).transpose()?,
        created_at: text("created_at", raw.created_at)?.map(|time| moment(&time)).transpose()?.flatten(),
        compression_type: text("compression_type", raw.compression_type)?,
        compression_level: raw.compression_level,
        compression_mode: text("compression_mode", raw.compression_mode)?,
        proxmox_type: text("proxmox_type", raw.proxmox_type)?,
        proxmox_targets,
        proxmox_version: text("proxmox_version", raw.proxmox_version)?,
        pve_version: text("pve_version", raw.pve_version)?,
        pbs_version: text("pbs_version", raw.pbs_version)?,
        hostname: text("hostname", raw.hostname)?,
        script_version: text("script_version", raw.script_version)?,
        encryption_mode: text("encryption_mode", raw.encryption_mode)?,
        cluster_mode: text("cluster_mode", raw.cluster_mode)?,
        passphrase_salt: text("passphrase_salt", raw.passphrase_salt)?,
    })
}

/// An error without the manifest's own text: serde_json quotes strings of the input in type errors.
fn describe(error: &serde_json::Error) -> ManifestError {
    let reason = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "the text is not JSON",
        serde_json::error::Category::Data => "a field has the wrong type, or is there twice",
        serde_json::error::Category::Io => "it could not be read",
    };
    ManifestError::Json { line: error.line(), column: error.column(), reason: reason.to_owned() }
}

/// A text within bounds; an empty one is as good as absent.
fn text(field: &'static str, value: Option<String>) -> Result<Option<String>, ManifestError> {
    match value {
        Some(value) if value.len() > MAX_TEXT => Err(ManifestError::Field { field, reason: "is too long" }),
        Some(value) if value.is_empty() => Ok(None),
        value => Ok(value),
    }
}

fn size(value: i64) -> Result<u64, ManifestError> {
    u64::try_from(value).map_err(|_| ManifestError::Field { field: "archive_size", reason: "is negative" })
}

fn digest(hex: &str) -> Result<Digest, ManifestError> {
    Digest::from_hex(hex.trim())
        .ok_or(ManifestError::Field { field: "sha256", reason: "is not the 64 hex digits of a SHA-256" })
}

/// An RFC 3339 time. The zero time of Go (year 1), which means "not set", gives `None`.
fn moment(text: &str) -> Result<Option<Timestamp>, ManifestError> {
    let bad = ManifestError::Field { field: "created_at", reason: "is not a time in the form of RFC 3339" };
    let Ok(time) = text.trim().parse::<jiff::Timestamp>() else { return Err(bad) };
    const NANOS: i128 = 1_000_000_000;
    /// 0002-01-01T00:00:00Z.
    const YEAR_2: i64 = -62_104_060_800;
    let nanoseconds = time.as_nanosecond();
    let parts = (i64::try_from(nanoseconds.div_euclid(NANOS)), u32::try_from(nanoseconds.rem_euclid(NANOS)));
    match parts {
        (Ok(secs), Ok(nanos)) if secs >= YEAR_2 => Ok(Timestamp::new(secs, nanos)),
        (Ok(_), Ok(_)) => Ok(None),
        _ => Err(bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Codec, Encryption};
    use proptest::prelude::*;
    use proxsave_proto::Roles;

    const FULL: &str = r#"{
  "archive_path": "/opt/proxsave/backup/pve1.lan-backup-20260720-031500.tar.xz.age",
  "archive_size": 1834211,
  "sha256": "E3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
  "created_at": "2026-07-20T03:15:04.123456789+02:00",
  "compression_type": "xz",
  "compression_level": 6,
  "compression_mode": "standard",
  "proxmox_type": "dual",
  "proxmox_targets": ["pve", "pbs"],
  "proxmox_version": "8.4-1",
  "pve_version": "8.4-1",
  "pbs_version": "3.2-1",
  "hostname": "pve1.lan",
  "script_version": "0.30.0-beta7",
  "encryption_mode": "age",
  "cluster_mode": "cluster",
  "passphrase_salt": "proxsave/age-passphrase/v2:00",
  "something_new": {"deep": [1, 2, {"x": null}]}
}"#;

    #[test]
    fn every_field_is_read() {
        let manifest = parse(FULL.as_bytes()).unwrap();
        assert_eq!(manifest.archive_name(), Some("pve1.lan-backup-20260720-031500.tar.xz.age"));
        assert_eq!(manifest.archive_size, Some(1_834_211));
        assert_eq!(manifest.sha256, Some(Digest::of(b"")));
        assert_eq!(manifest.created_at, Timestamp::new(1_784_510_104, 123_456_789));
        assert_eq!(manifest.codec(), Some(Codec::Xz));
        assert_eq!(manifest.compression_level, Some(6));
        assert_eq!(manifest.compression_mode.as_deref(), Some("standard"));
        assert_eq!(manifest.roles(), Roles::DUAL);
        assert_eq!(manifest.proxmox_version.as_deref(), Some("8.4-1"));
        assert_eq!(manifest.pve_version.as_deref(), Some("8.4-1"));
        assert_eq!(manifest.pbs_version.as_deref(), Some("3.2-1"));
        assert_eq!(manifest.hostname.as_deref(), Some("pve1.lan"));
        assert_eq!(manifest.script_version.as_deref(), Some("0.30.0-beta7"));
        assert_eq!(manifest.encryption(), Some(Encryption::Age));
        assert_eq!(manifest.cluster_mode.as_deref(), Some("cluster"));
        assert_eq!(manifest.passphrase_salt.as_deref(), Some("proxsave/age-passphrase/v2:00"));
    }

    #[test]
    fn what_is_absent_null_or_empty_is_none() {
        let manifest = parse(br#"{"hostname": null, "sha256": "", "created_at": "0001-01-01T00:00:00Z"}"#).unwrap();
        assert_eq!((manifest.hostname.clone(), manifest.sha256, manifest.created_at), (None, None, None));
        assert_eq!(manifest.encryption(), Some(Encryption::None));
        assert_eq!(manifest.roles(), Roles::UNKNOWN);
    }

    #[test]
    fn times_before_1970_round_down() {
        assert_eq!(moment("1969-12-31T23:59:59.5Z").unwrap(), Timestamp::new(-1, 500_000_000));
        assert!(moment("yesterday").is_err());
        assert!(moment("2026-07-20").is_err());
    }

    #[test]
    fn wrong_types_and_values_are_named_without_the_input() {
        for bad in [
            r#"{"archive_size": "12"}"#,
            r#"{"archive_size": -1}"#,
            r#"{"archive_size": 1e99}"#,
            r#"{"sha256": "abc"}"#,
            r#"{"hostname": ["\u001b[2J"]}"#,
            r#"{"hostname": "a", "hostname": "b"}"#,
            r#"{"created_at": "\u001b"}"#,
            r#"{"proxmox_targets": "pve"}"#,
            "[]",
            "{",
            "{} x",
            "",
        ] {
            let error = parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains('\u{1b}') && !error.contains("abc"), "{error}");
        }
        let long = format!(r#"{{"hostname": "{}"}}"#, "x".repeat(MAX_TEXT + 1));
        assert!(matches!(parse(long.as_bytes()), Err(ManifestError::Field { field: "hostname", .. })));
        let many = format!(r#"{{"proxmox_targets": [{}"x"]}}"#, "\"x\",".repeat(MAX_TARGETS));
        assert!(parse(many.as_bytes()).is_err());
        assert!(Manifest::parse_json(&vec![b'['; 100_000]).is_err(), "deep nesting must not overflow the stack");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse_json(&data);
            let _ = Manifest::parse_metadata(&data);
        }

        #[test]
        fn a_manifest_cut_or_changed_anywhere_does_not_panic(at in 0..FULL.len(), byte in any::<u8>()) {
            let _ = Manifest::parse_metadata(&FULL.as_bytes()[..at]);
            let mut changed = FULL.as_bytes().to_vec();
            changed[at] = byte;
            let _ = Manifest::parse_metadata(&changed);
        }
    }
}
