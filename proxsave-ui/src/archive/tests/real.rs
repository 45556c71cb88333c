//! The backups of the public program: the set that ships, or the larger one that `PROXSAVE_FIXTURES` names.

use super::InProcess;
use crate::archive::{Backup, Codec, CompanionKind, Encryption, Layout, Place, SearchLimits, Span, discover, open};
use crate::secrets::{Expected, Secret, Unlock, UnlockError};
use age_core::format::{FileKey, Stanza};
use proxsave_proto::Digest;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

struct Real {
    path: PathBuf,
    index: Value,
    listing: Value,
}

fn base() -> PathBuf {
    std::env::var_os("PROXSAVE_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures"), PathBuf::from)
}

fn all() -> Vec<Real> {
    let index: Value = serde_json::from_slice(&std::fs::read(base().join("index.json")).unwrap()).unwrap();
    let all: Vec<Real> = index
        .as_array()
        .unwrap()
        .iter()
        .map(|index| {
            let text = |key: &str| index[key].as_str().unwrap();
            let path = base().join(text("dir")).join(text("archive"));
            let listing = format!("{}.listing.json", path.display());
            Real {
                path,
                index: index.clone(),
                listing: serde_json::from_slice(&std::fs::read(listing).unwrap()).unwrap(),
            }
        })
        .collect();
    let expected = if std::env::var_os("PROXSAVE_FIXTURES").is_some() { 29 } else { 14 };
    assert_eq!(all.len(), expected, "the set of archives in {}", base().display());
    all
}

/// Compares what is said about a backup with what independent tools read.
fn check(real: &Real, backup: &Backup) {
    let id = &real.index["id"];
    let metadata = &real.listing["metadata"];
    let text = |key: &str| metadata[key].as_str().map(str::to_owned);
    let description = &backup.description;
    let manifest = description.manifest.as_ref().unwrap();
    assert_eq!(manifest.archive_path, text("archive_path"), "{id}");
    assert_eq!(manifest.archive_size, metadata["archive_size"].as_u64(), "{id}");
    assert_eq!(manifest.sha256.map(|digest| digest.to_string()), text("sha256"), "{id}");
    assert_eq!(manifest.compression_type, text("compression_type"), "{id}");
    assert_eq!(manifest.compression_level, metadata["compression_level"].as_i64(), "{id}");
    assert_eq!(manifest.compression_mode, text("compression_mode"), "{id}");
    assert_eq!(manifest.proxmox_type, text("proxmox_type"), "{id}");
    assert_eq!(serde_json::json!(manifest.proxmox_targets), metadata["proxmox_targets"], "{id}");
    assert_eq!(manifest.proxmox_version, text("proxmox_version"), "{id}");
    assert_eq!(manifest.pve_version, text("pve_version"), "{id}");
    assert_eq!(manifest.pbs_version, text("pbs_version"), "{id}");
    assert_eq!(manifest.hostname, text("hostname"), "{id}");
    assert_eq!(manifest.script_version, text("script_version"), "{id}");
    assert_eq!(manifest.encryption_mode, text("encryption_mode"), "{id}");
    assert_eq!(manifest.cluster_mode, text("cluster_mode"), "{id}");
    assert_eq!(manifest.passphrase_salt, text("passphrase_salt"), "{id}");
    let time: jiff::Timestamp = text("created_at").unwrap().parse().unwrap();
    assert_eq!(i64::from(backup.created_at.nanos), i64::from(time.subsec_nanosecond()), "{id}");
    assert_eq!(backup.created_at.secs, time.as_second(), "{id}");
    assert_eq!(manifest.roles().key(), metadata["proxmox_type"].as_str().unwrap(), "{id}");

    let encrypted = real.listing["encrypted"].as_bool().unwrap();
    assert_eq!(backup.is_encrypted(), encrypted, "{id}");
    assert_eq!(description.encryption() == Encryption::Age, encrypted, "{id}");
    assert_eq!(description.codec(), Codec::from_compression_type(&text("compression_type").unwrap()), "{id}");
    assert_eq!(description.sha256, manifest.sha256, "{id}");
    assert_eq!(backup.size, real.listing["size"].as_u64().unwrap(), "{id}");
    assert!(backup.is_usable(), "{id}: {:?}", description.problems);
    assert_eq!(description.problems, [], "{id}");
    match real.index["layout"].as_str().unwrap() {
        "bundle" => assert_eq!(description.layout, Layout::Bundle, "{id}"),
        _ => assert_eq!(
            description.layout,
            Layout::Raw {
                companions: vec![CompanionKind::ManifestJson, CompanionKind::Metadata, CompanionKind::Checksum]
            },
            "{id}"
        ),
    }
}

/// The archive's bytes, through the span of the held descriptor.
struct Part<'a> {
    file: &'a File,
    span: Span,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.span.length).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..wanted], self.span.offset)?;
        self.span.offset += count as u64;
        self.span.length -= count as u64;
        Ok(count)
    }
}

/// Stands where the decoder's identity stands: hands the stanzas on.
struct Forward<'a, 'b>(RefCell<&'a mut Unlock<'b>>, RefCell<Option<UnlockError>>);

impl age::Identity for Forward<'_, '_> {
    fn unwrap_stanza(&self, _: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        None
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, age::DecryptError>> {
        let copy = |s: &Stanza| Stanza { tag: s.tag.clone(), args: s.args.clone(), body: s.body.clone() };
        match self.0.borrow_mut().unwrap(stanzas.iter().map(copy).collect()) {
            Ok(key) => Some(Ok(key)),
            Err(error) => {
                self.1.replace(Some(error));
                None
            }
        }
    }
}

/// Decrypts an archive with some secrets and gives the hash of what comes out.
fn decrypt(file: &File, backup: &Backup, secrets: Vec<Secret>) -> Result<String, UnlockError> {
    let salt = backup.description.manifest.as_ref().unwrap().passphrase_salt.clone();
    let mut nobody = ();
    let mut unlock = Unlock::new(secrets, salt.as_deref(), &mut nobody);
    let forward = Forward(RefCell::new(&mut unlock), RefCell::new(None));
    let decryptor = age::Decryptor::new(Part { file, span: backup.description.span }).unwrap();
    let Ok(mut stream) = decryptor.decrypt(std::iter::once(&forward as &dyn age::Identity)) else {
        return Err(forward.1.take().expect("the reason"));
    };
    let mut plain = Vec::new();
    stream.read_to_end(&mut plain).unwrap();
    Ok(Digest::of(&plain).to_string())
}

fn key(name: &str) -> Secret {
    let data = std::fs::read(base().join("keys").join(name)).unwrap();
    Secret::read(&data, Expected::Identity, name, &[], &mut ()).unwrap()
}

/// The secrets that open a backup, each alone.
fn secrets(real: &Real) -> Vec<Secret> {
    let passphrase = |text: &str| Secret::read(text.as_bytes(), Expected::Any, "x", &[], &mut ()).unwrap();
    let words = real.index["encryption"].as_str().unwrap();
    if words.contains("three recipients") {
        vec![key("x25519.txt"), key("x25519-second.txt"), passphrase("Staple-Battery-2026!")]
    } else if words.contains("older passphrase") {
        vec![passphrase("Older.Phrase-2019")]
    } else if words.contains("passphrase") {
        vec![passphrase("Staple-Battery-2026!")]
    } else if words.contains("ssh-ed25519") {
        vec![key("ssh_ed25519")]
    } else {
        vec![key("x25519.txt")]
    }
}

#[test]
fn every_real_backup_is_described_right() {
    for real in all() {
        let opened = open(&real.path, &mut InProcess).unwrap();
        check(&real, &opened.backup);
        let mut archive = Vec::new();
        Part { file: &opened.file, span: opened.backup.description.span }.read_to_end(&mut archive).unwrap();
        let digest: [u8; 32] = Sha256::digest(&archive).into();
        assert_eq!(opened.backup.description.sha256, Some(Digest(digest)), "{}", real.index["id"]);
    }
}

#[test]
fn every_real_backup_is_found() {
    let place = Place { label: "local".into(), path: base() };
    let found = discover(&[place], None, SearchLimits::default(), &mut InProcess);
    assert!(found.bad.is_empty() && found.notes.is_empty(), "{:?} {:?}", found.bad, found.notes);
    let all = all();
    assert_eq!(found.backups.len(), all.len());
    for real in &all {
        let backup = found.backups.iter().find(|backup| backup.path == real.path).unwrap();
        check(real, backup);
    }
    assert!(found.backups.windows(2).all(|pair| pair[0].created_at >= pair[1].created_at));
}

#[test]
fn every_encrypted_backup_opens_with_each_of_its_secrets_and_no_other() {
    let mut opened_count = 0;
    for real in all().iter().filter(|real| real.listing["encrypted"] == true) {
        let opened = open(&real.path, &mut InProcess).unwrap();
        for secret in secrets(real) {
            let digest = decrypt(&opened.file, &opened.backup, vec![secret]).unwrap();
            assert_eq!(Some(digest.as_str()), real.listing["decrypted"]["sha256"].as_str(), "{}", real.index["id"]);
            opened_count += 1;
        }
        let wrong = Secret::read(b"another passphrase", Expected::Any, "x", &[], &mut ()).unwrap();
        assert!(matches!(decrypt(&opened.file, &opened.backup, vec![wrong]), Err(UnlockError::Wrong(_))));
    }
    assert!(opened_count >= 8, "only {opened_count}");
}
