//! What is said about a backup whose parts do not agree.

use crate::archive::codec::ContentMismatch;
use crate::archive::describe::describe;
use crate::archive::{
    Codec, CompanionKind, Content, Description, Encryption, Layout, MalformedBackup, ManifestForm, Problem, Span,
};
use proptest::prelude::*;
use proxsave_proto::Digest;

const NAME: &str = "pve1.lan-backup-20260720-031500.tar.gz";

/// The first bytes of a gzip file, and more.
fn gzip() -> Vec<u8> {
    let mut data = vec![0x1f, 0x8b, 8, 0];
    data.resize(1000, 1);
    data
}

fn manifest(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let data = gzip();
    let mut value = serde_json::json!({
        "archive_path": format!("/opt/backup/{NAME}"),
        "archive_size": data.len(),
        "sha256": Digest::of(&data).to_string(),
        "created_at": "2026-07-20T03:15:04Z",
        "compression_type": "pigz",
        "hostname": "pve1.lan",
        "encryption_mode": "none",
    });
    change(&mut value);
    serde_json::to_vec_pretty(&value).unwrap()
}

fn checksum(digest: Digest) -> Vec<u8> {
    format!("{digest}  {NAME}\n").into_bytes()
}

fn raw(name: &str, data: &[u8], companions: &[(CompanionKind, Vec<u8>)]) -> Result<Description, MalformedBackup> {
    let companions: Vec<(CompanionKind, &[u8])> = companions.iter().map(|(kind, data)| (*kind, &data[..])).collect();
    describe(name.as_bytes(), data, data.len() as u64, &companions)
}

/// The problems of an archive with these companions.
fn problems(companions: &[(CompanionKind, Vec<u8>)]) -> Vec<Problem> {
    raw(NAME, &gzip(), companions).unwrap().problems
}

use CompanionKind::{Checksum, ManifestJson, Metadata, MetadataChecksum};

#[test]
fn a_whole_raw_backup_has_no_problem() {
    let companions = [
        (MetadataChecksum, format!("{}  {NAME}.metadata\n", Digest::of(&manifest(|_| {}))).into_bytes()),
        (ManifestJson, manifest(|_| {})),
        (Metadata, manifest(|_| {})),
        (Checksum, checksum(Digest::of(&gzip()))),
    ];
    let description = raw(NAME, &gzip(), &companions).unwrap();
    assert_eq!(description.problems, []);
    assert_eq!(
        description.layout,
        Layout::Raw { companions: vec![ManifestJson, Metadata, Checksum, MetadataChecksum] }
    );
    assert_eq!(description.span, Span { offset: 0, length: 1000 });
    assert_eq!(description.sha256, Some(Digest::of(&gzip())));
    assert_eq!((description.codec(), description.encryption()), (Some(Codec::Gzip), Encryption::None));
}

#[test]
fn only_one_of_the_manifests() {
    assert_eq!(problems(&[(ManifestJson, manifest(|_| {}))]), []);
    assert_eq!(problems(&[(Metadata, manifest(|_| {})), (Checksum, checksum(Digest::of(&gzip())))]), []);
    let description = raw(NAME, &gzip(), &[]).unwrap();
    assert_eq!(description.layout, Layout::Bare);
    assert_eq!(description.problems, [Problem::NoChecksum, Problem::NoManifest]);
    assert!(description.fatal().next().is_none(), "an operator may accept it");
    assert_eq!(description.hostname(), Some("pve1.lan"), "by its name");
}

#[test]
fn legacy_metadata() {
    let text = b"HOSTNAME=pve1.lan\nCOMPRESSION_TYPE=gz\nENCRYPTION_MODE=plain\n".to_vec();
    let description = raw(NAME, &gzip(), &[(Metadata, text), (Checksum, checksum(Digest::of(&gzip())))]).unwrap();
    assert_eq!(description.problems, [Problem::LegacyMetadata]);
    assert_eq!(description.manifest.as_ref().unwrap().form, ManifestForm::Legacy);
    assert_eq!(description.sha256, Some(Digest::of(&gzip())));
    assert!(!description.problems[0].is_fatal());
}

#[test]
fn checksums_must_agree() {
    let other = Digest::of(b"other");
    let found = problems(&[(ManifestJson, manifest(|_| {})), (Checksum, checksum(other))]);
    assert_eq!(found, [Problem::ChecksumsDisagree { checksum: other, manifest: Digest::of(&gzip()) }]);
    assert!(found[0].is_fatal());
    let copy = manifest(|value| value["sha256"] = other.to_string().into());
    let found = problems(&[(ManifestJson, manifest(|_| {})), (Metadata, copy)]);
    assert_eq!(found, [Problem::ManifestsForDifferentArchives]);
    assert!(found[0].is_fatal());
    let wrong = format!("{other}  x\n").into_bytes();
    let found = problems(&[(Metadata, manifest(|_| {})), (MetadataChecksum, wrong)]);
    assert_eq!(found, [Problem::MetadataChecksum]);
    assert!(found[0].is_fatal());
}

#[test]
fn fatal_disagreements() {
    let fatal = |change: fn(&mut serde_json::Value)| {
        let found = problems(&[(ManifestJson, manifest(change))]);
        assert!(found.len() == 1 && found[0].is_fatal(), "{found:?}");
        found[0].clone()
    };
    assert_eq!(fatal(|value| value["archive_size"] = 999.into()), Problem::Size { found: 1000, manifest: 999 });
    assert_eq!(
        fatal(|value| value["encryption_mode"] = "age".into()),
        Problem::EncryptionDisagrees { name: Encryption::None, manifest: Encryption::Age }
    );
    assert_eq!(
        fatal(|value| value["encryption_mode"] = "rot13".into()),
        Problem::UnknownEncryption { mode: "rot13".into() }
    );
}

#[test]
fn disagreements_that_only_warn() {
    let warns = |change: fn(&mut serde_json::Value)| {
        let found = problems(&[(ManifestJson, manifest(change))]);
        assert!(found.len() == 1 && !found[0].is_fatal(), "{found:?}");
        found[0].clone()
    };
    assert_eq!(
        warns(|value| value["compression_type"] = "xz".into()),
        Problem::CodecDisagrees { name: Codec::Gzip, manifest: Codec::Xz }
    );
    assert_eq!(
        warns(|value| value["compression_type"] = "rar".into()),
        Problem::UnknownCodec { compression: "rar".into() }
    );
    assert_eq!(
        warns(|value| value["hostname"] = "other".into()),
        Problem::HostDisagrees { name: "pve1.lan".into(), manifest: "other".into() }
    );
    // With and without its domain it is the same host; a longer name is not.
    assert_eq!(problems(&[(ManifestJson, manifest(|value| value["hostname"] = "pve1".into()))]), []);
    assert_eq!(problems(&[(ManifestJson, manifest(|value| value["hostname"] = "pve1.lan.example".into()))]), []);
    assert!(matches!(warns(|value| value["hostname"] = "pve1.lan2".into()), Problem::HostDisagrees { .. }));
    assert_eq!(
        warns(|value| value["archive_path"] = "/opt/\u{1b}[2J.tar".into()),
        Problem::Renamed { was: "\u{1b}[2J.tar".into() }
    );
    assert_eq!(warns(|value| value["created_at"] = serde_json::Value::Null), Problem::NoTime);
    assert_eq!(problems(&[(ManifestJson, manifest(|value| value["sha256"] = "".into()))]), [Problem::NoChecksum]);
    let copy = manifest(|value| value["cluster_mode"] = "cluster".into());
    let found = problems(&[(ManifestJson, manifest(|_| {})), (Metadata, copy)]);
    assert_eq!(found, [Problem::ManifestsDiffer]);
    let for_other = format!("{}  other.tar\u{1b}.gz\n", Digest::of(&gzip())).into_bytes();
    let found = problems(&[(ManifestJson, manifest(|_| {})), (Checksum, for_other)]);
    assert_eq!(found, [Problem::ChecksumForOther { name: "other.tar\\x1b.gz".into() }]);
}

#[test]
fn a_bad_companion_leaves_the_good_one() {
    let found = problems(&[(ManifestJson, b"{".to_vec()), (Metadata, manifest(|_| {}))]);
    assert!(matches!(found[..], [Problem::BadCompanion { companion: ManifestJson, .. }]), "{found:?}");
    let found = problems(&[(ManifestJson, manifest(|_| {})), (Checksum, b"rubbish".to_vec())]);
    assert!(matches!(found[..], [Problem::BadCompanion { companion: Checksum, .. }]), "{found:?}");
    let found = problems(&[(Metadata, vec![b' '; 1 << 20])]);
    assert!(matches!(found[0], Problem::BadCompanion { companion: Metadata, .. }), "{found:?}");
}

#[test]
fn content_must_be_what_the_name_promises() {
    let mismatch = |name: &str, data: &[u8]| {
        let description = raw(name, data, &[]).unwrap();
        let content = description.problems.iter().find_map(|problem| match problem {
            Problem::Content(mismatch) => Some(*mismatch),
            _ => None,
        });
        content.expect("a mismatch")
    };
    let age = b"age-encryption.org/v1\n-> X25519 x".to_vec();
    assert_eq!(
        mismatch("h-backup-20260720-031500.tar.xz", &gzip()),
        ContentMismatch { promised: Content::Packed(Codec::Xz), found: Content::Packed(Codec::Gzip) }
    );
    assert_eq!(mismatch("a.tar.gz", &age).found, Content::Age);
    assert_eq!(mismatch("a.tar.gz.age", &gzip()).promised, Content::Age);
    assert_eq!(mismatch("a.tar", b"short").found, Content::Unknown);
    assert!(Problem::Content(mismatch("a.tar", b"short")).is_fatal());
    let renamed = raw("renamed", &gzip(), &[]).unwrap();
    assert_eq!((renamed.codec(), renamed.name.clone()), (Some(Codec::Gzip), None));
    assert_eq!(raw("renamed", &age, &[]).unwrap().encryption(), Encryption::Age);
    assert_eq!(raw("renamed", b"PK\x03\x04", &[]), Err(MalformedBackup::NotBackup));
    assert_eq!(raw(NAME, b"", &[]), Err(MalformedBackup::Empty));
    assert!(matches!(raw("a.bundle.tar", &gzip(), &[]), Err(MalformedBackup::Bundle(_))));
}

#[test]
fn descriptions_cross_to_the_main_process_whole() {
    let other = Digest::of(b"other");
    let bad = [(ManifestJson, manifest(|value| value["hostname"] = "x".into())), (Checksum, checksum(other))];
    for result in [raw(NAME, &gzip(), &bad), raw("a.bundle.tar", &gzip(), &[]), raw("x", b"y", &[])] {
        let bytes = postcard::to_stdvec(&result).unwrap();
        assert_eq!(postcard::from_bytes::<Result<Description, MalformedBackup>>(&bytes).unwrap(), result);
    }
}

#[test]
fn what_is_shown_is_safe_for_a_terminal() {
    let hostile = "\u{1b}]0;\u{202e}\n";
    let companions = [(
        ManifestJson,
        manifest(|value| {
            for field in ["hostname", "archive_path", "compression_type", "encryption_mode"] {
                value[field] = hostile.into();
            }
        }),
    )];
    let found = problems(&companions);
    assert!(found.len() >= 4, "{found:?}");
    for problem in found {
        let text = problem.to_string();
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\n']), "{text:?}");
    }
}

proptest! {
    #[test]
    fn any_files_are_described_without_panic(
        name in prop::sample::select(vec![NAME, "a.bundle.tar", "a.tar.age", "x"]),
        data in proptest::collection::vec(any::<u8>(), 0..1200),
        companions in proptest::collection::vec(
            (prop::sample::select(CompanionKind::ALL.to_vec()), proptest::collection::vec(any::<u8>(), 0..100)), 0..5),
    ) {
        if let Ok(description) = raw(name, &data, &companions) {
            prop_assert!(description.span.offset + description.span.length <= data.len() as u64);
            for problem in &description.problems {
                let _ = problem.to_string();
            }
        }
    }
}
