//! Backups that are damaged, mislabelled, endless or locked: a clear error, nothing written, no hang.

use proxsave_tests::backup::{Backup, Codec, Layout};
use proxsave_tests::fixtures::{self, Fixture};
use proxsave_tests::lab::{Lab, Outcome};
use proxsave_tests::mutate::Rng;
use proxsave_tests::tarball::{Header, Tar, field};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Restores and checks that it was refused without a trace.
#[track_caller]
fn refused(lab: &Lab, backup: &Path, more: &[OsString]) -> Outcome {
    let before = lab.snapshot();
    let outcome = lab.restore(backup, "pve", more);
    outcome.assert_refused();
    assert_eq!(before.changes(&lab.snapshot()), [], "{outcome:?}");
    outcome
}

/// Restores without accepting any warning, and checks that it was refused without a trace and told why.
#[track_caller]
fn refused_with_care(lab: &Lab, backup: &Path) -> Outcome {
    let before = lab.snapshot();
    let helper = lab.helper();
    let mut command =
        lab.ui(&["restore", "--mode", "full", "--host-role", "pve", "--no-input", "--confirm", "RESTORE", "--json"]);
    command.arg(backup).arg("--export-dir").arg(lab.exports()).arg("--socket").arg(&helper.socket);
    let outcome = lab.run(command);
    let _ = helper.finish();
    outcome.assert_refused();
    assert!(outcome.stderr.contains("warning: ") && outcome.stderr.contains("--accept-warnings"), "{outcome:?}");
    assert_eq!(before.changes(&lab.snapshot()), [], "{outcome:?}");
    outcome
}

/// A companion that cannot be read needs consent, and is told of on both channels when that is given.
#[track_caller]
fn needs_consent(lab: &Lab, backup: &Path, companion: &str) {
    let said = format!("its {companion} cannot be used");
    assert!(refused_with_care(lab, backup).stderr.contains(&said));
    let outcome = lab.restore(backup, "pve", &[]);
    outcome.assert_ok();
    let warnings = outcome.json()["warnings"].to_string();
    assert!(outcome.stderr.contains(&said) && warnings.contains(&said), "{outcome:?}");
}

fn tar() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.dir("./home/anna").file("./home/anna/note", "from the backup ".repeat(2000));
    tar.finish()
}

/// A lab with one file of a fixture changed by `change`.
fn damaged(fixture: &Fixture, suffix: &str, change: impl FnOnce(&mut Vec<u8>)) -> (Lab, PathBuf) {
    let lab = Lab::new();
    lab.populate();
    let path = lab.take(fixture);
    let victim = PathBuf::from(format!("{}{suffix}", path.display()));
    let mut bytes = std::fs::read(&victim).unwrap();
    change(&mut bytes);
    std::fs::write(&victim, bytes).unwrap();
    (lab, path)
}

#[test]
fn truncated_flipped_and_empty_archives() {
    let fixture = fixtures::shipped_one("s05");
    for keep in [0, 1, 511, 4096, 40_000] {
        let (lab, path) = damaged(&fixture, "", |bytes| bytes.truncate(keep));
        refused(&lab, &path, &[]);
    }
    let mut rng = Rng::new(5);
    for _ in 0..5 {
        let (lab, path) = damaged(&fixture, "", |bytes| {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1;
        });
        refused(&lab, &path, &[]);
    }
}

/// Every companion that is there must be readable and agree: disagreement is fatal whatever is accepted, a malformed
/// companion beside a good one needs consent.
#[test]
fn a_checksum_or_manifest_that_disagrees() {
    let fixture = fixtures::shipped_one("s05");
    let flip = |bytes: &mut Vec<u8>| bytes[0] = if bytes[0] == b'0' { b'1' } else { b'0' };
    let (lab, path) = damaged(&fixture, ".sha256", flip);
    refused(&lab, &path, &[]);
    let (lab, path) = damaged(&fixture, ".manifest.json", |bytes| {
        let key = b"\"sha256\": \"";
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    });
    refused(&lab, &path, &[]);
    let (lab, path) = damaged(&fixture, ".manifest.json", |_| {});
    let other = std::fs::read_to_string(format!("{}.manifest.json", path.display())).unwrap();
    std::fs::write(format!("{}.metadata", path.display()), other.replace("\"hostname\": \"", "\"hostname\": \"x"))
        .unwrap();
    assert!(refused(&lab, &path, &[]).stderr.contains("different things"));

    let (lab, path) = damaged(&fixture, ".sha256", |bytes| *bytes = b"not a checksum\n".to_vec());
    needs_consent(&lab, &path, ".sha256");
    let nested = "[".repeat(1 << 20);
    for text in ["", "{", "null", "[]", "{\"sha256\":3}", &nested] {
        let (lab, path) = damaged(&fixture, ".manifest.json", |bytes| *bytes = text.into());
        std::fs::write(format!("{}.metadata", path.display()), text).unwrap();
        needs_consent(&lab, &path, ".manifest.json");
        // With nothing to vouch for it, only an explicit yes will do.
        std::fs::remove_file(format!("{}.sha256", path.display())).unwrap();
        assert!(refused_with_care(&lab, &path).stderr.contains("no checksum"));
    }
}

#[test]
fn a_manifest_over_the_limit() {
    let fixture = fixtures::shipped_one("s05");
    let (lab, path) = damaged(&fixture, ".manifest.json", |bytes| bytes.extend(vec![b' '; 300 << 10]));
    needs_consent(&lab, &path, ".manifest.json");
    let outcome = lab.restore(&path, "pve", &["--limit-manifest".into(), "1M".into()]);
    assert_eq!(outcome.assert_ok().json()["warnings"], serde_json::json!([]));
}

#[test]
fn damage_that_the_checksum_agrees_with() {
    let packed = zstd::encode_all(&tar()[..], 3).unwrap();
    for keep in [0, 3, packed.len() / 2, packed.len() - 1] {
        let lab = Lab::new();
        lab.populate();
        let path = Backup::default().write_packed(&lab.backups(), &packed[..keep]);
        refused(&lab, &path, &[]);
    }
    let lab = Lab::new();
    lab.populate();
    let path = Backup::default().write_packed(&lab.backups(), &[&packed[..], b"trailing junk"].concat());
    refused(&lab, &path, &[]);
}

#[test]
fn a_name_that_says_another_codec() {
    let lab = Lab::new();
    lab.populate();
    let path = Backup { codec: Codec::None, layout: Layout::Bare, ..Backup::default() }
        .write_packed(&lab.backups(), &zstd::encode_all(&tar()[..], 3).unwrap());
    refused(&lab, &path, &[]);
    let lab = Lab::new();
    lab.populate();
    let path = Backup { codec: Codec::Zstd, ..Backup::default() }.write_packed(&lab.backups(), &tar());
    refused(&lab, &path, &[]);
}

#[test]
fn a_wrong_key_or_none() {
    let lab = Lab::new();
    lab.populate();
    let fixture = fixtures::shipped_one("s08");
    let path = lab.take(&fixture);
    let other = std::fs::read(fixture.base.join("keys/x25519-second.txt")).unwrap();
    let other = lab.secret_file("other.txt", &other);
    let wrong = refused(&lab, &path, &["--identity".into(), other.into()]);
    let right = std::fs::read_to_string(fixture.base.join("keys/x25519.txt")).unwrap();
    assert!(!wrong.stderr.contains(right.lines().last().unwrap()));
    refused(&lab, &path, &[]);
    let passphrase = lab.secret_file("pw", b"not the passphrase");
    refused(&lab, &path, &["--passphrase-file".into(), passphrase.into()]);
    let nonsense = lab.secret_file("nonsense", b"AGE-SECRET-KEY-1NONSENSE");
    refused(&lab, &path, &["--identity".into(), nonsense.into()]);
}

#[test]
fn ciphertext_that_was_tampered_with() {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let make = Backup { recipient: Some(recipient), ..Backup::default() };
    let lab = Lab::new();
    lab.populate();
    let good = make.write(&lab.backups(), &tar());
    let bytes = std::fs::read(good).unwrap();
    let secret = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
    let mut rng = Rng::new(7);
    for round in 0..6 {
        let lab = Lab::new();
        lab.populate();
        let mut changed = bytes.clone();
        match round {
            0 => changed.truncate(bytes.len() - 1),
            1 => changed.truncate(100),
            _ => {
                let at = rng.below(changed.len());
                changed[at] ^= 4;
            }
        }
        let path = make.write_stored(&lab.backups(), &changed);
        let key = lab.secret_file("key.txt", secret.as_bytes());
        refused(&lab, &path, &["--identity".into(), key.into()]);
    }
}

#[test]
fn a_decompression_bomb() {
    let size = 8u64 << 30;
    let mut header = Header::new(b'0', b"./home/anna/bomb", 0);
    header.octal(field::SIZE, size);
    let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packer.write_all(&Tar::new().header(&header).unfinished()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..size >> 20 {
        packer.write_all(&zeros).unwrap();
    }
    packer.write_all(&[0; 1024]).unwrap();
    let mut lab = Lab::new();
    lab.deadline = Duration::from_secs(60);
    lab.populate();
    let path = Backup::default().write_packed(&lab.backups(), &packer.finish().unwrap());
    refused(&lab, &path, &[]);
}

#[test]
fn a_backup_that_is_not_one() {
    let lab = Lab::new();
    lab.populate();
    let dir = lab.backups().join("x.tar.zst");
    std::fs::create_dir(&dir).unwrap();
    refused(&lab, &dir, &[]);
    refused(&lab, &lab.backups().join("missing.tar.zst"), &[]);
    refused(&lab, Path::new("/dev/null"), &[]);
    refused(&lab, Path::new("/dev/zero"), &[]);
    let fifo = lab.backups().join("fifo.tar.zst");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    refused(&lab, &fifo, &[]);
}

#[test]
fn bundles_that_lie() {
    let lab = Lab::new();
    lab.populate();
    let good = Backup { layout: Layout::Bundle, ..Backup::default() }.write(&lab.backups(), &tar());
    let bytes = std::fs::read(&good).unwrap();
    for (name, content) in [
        ("empty", Vec::new()),
        ("zeros", vec![0; 10240]),
        ("cut in the manifest", bytes[..600].to_vec()),
        ("cut in the archive", bytes[..bytes.len() - 10240].to_vec()),
        ("a member that climbs", Tar::new().file("../../outside.metadata", "{}").file("x.tar", "x").finish()),
        ("no archive", Tar::new().file("x.metadata", "{}").finish()),
    ] {
        let path = lab.backups().join("lab-backup-20260101-000001.tar.zst.bundle.tar");
        std::fs::write(&path, content).unwrap();
        let outcome = refused(&lab, &path, &[]);
        assert!(outcome.code.is_some(), "{name}");
    }
}

#[test]
#[ignore = "a million entries take minutes in a debug build; tests/bench/run times it"]
fn a_million_entries() {
    let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
    for index in 0..1_000_000 {
        let name = format!("./home/anna/{:03}/{index:06}", index / 1000);
        packer.write_all(&Tar::new().file(name, "").unfinished()).unwrap();
    }
    packer.write_all(&[0; 1024]).unwrap();
    let mut lab = Lab::new();
    lab.deadline = Duration::from_secs(600);
    lab.populate();
    let path = Backup::default().write_packed(&lab.backups(), &packer.finish().unwrap());
    let outcome = lab.restore(&path, "pve", &[]);
    outcome.assert_no_panic();
    if outcome.code != Some(0) {
        outcome.assert_refused();
    }
    assert_eq!(lab.snapshot().leftovers(), Vec::<String>::new());
}
