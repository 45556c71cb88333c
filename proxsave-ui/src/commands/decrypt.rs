//! `decrypt`: a plain bundle of an encrypted backup.
//!
//! The bundle is a tar of metadata, checksum and archive, in this order, as the public tool writes them. The
//! archive's hash stands in front of the archive, so room for it is left and filled in at the end; the plain bytes
//! are written once.

use super::{Context, Failure, Reading, text};
use crate::archive::Manifest;
use crate::cli::{DecryptArgs, Exit};
use crate::decoder::DecodeProgress;
use crate::dialogue::{Progress, bytes};
use proxsave_proto::Digest;
use serde_json::json;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const BLOCK: u64 = 512;

/// `decrypt`
///
/// # Errors
/// When the backup cannot be read, is not encrypted, or the bundle cannot be written; then nothing is left of it.
pub fn decrypt(context: &mut Context, args: &DecryptArgs) -> Result<Exit, Failure> {
    let path = match &args.backup {
        Some(path) => path.clone(),
        None => context.choose_backup(&args.from, true)?,
    };
    let mut reading = context.read(&path, &args.open, true)?;
    if !reading.index.encrypted {
        return Err(Failure::new(Exit::Failed, "the backup is not encrypted: there is nothing to decrypt"));
    }
    let plain_name = plain_name(&reading.opened.backup.description.archive_name);
    let output = args.output.clone().unwrap_or_else(|| {
        let mut name = plain_name.clone();
        name.extend_from_slice(b".decrypted.bundle.tar");
        PathBuf::from(OsString::from_vec(name))
    });
    let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&output);
    let file = open.map_err(|error| Failure::from(error).context(text::path(&output)))?;
    match write(&mut reading, &file, &plain_name) {
        Ok((sha256, size)) => {
            let shown = text::path(&output);
            if args.json {
                let object = json!({"output": shown, "archive_sha256": sha256.to_string(), "archive_size": size});
                context.print(object.to_string())?;
            } else {
                context.print(format!("{shown}: plain bundle, archive of {}, SHA-256 {sha256}", bytes(size)))?;
            }
            Ok(Exit::Ok)
        }
        Err(failure) => {
            remove(&output, &file);
            Err(failure.context(text::path(&output)))
        }
    }
}

/// Removes what was begun, unless something else has its name by now.
fn remove(path: &Path, ours: &File) {
    let same = |(a, b): (rustix::fs::Stat, rustix::fs::Stat)| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let there = rustix::fs::lstat(path).ok().zip(rustix::fs::fstat(ours).ok());
    if there.is_some_and(same) {
        // The failure that led here is what is reported.
        let _ = std::fs::remove_file(path);
    }
}

fn plain_name(archive: &[u8]) -> Vec<u8> {
    archive.strip_suffix(b".age").unwrap_or(archive).to_vec()
}

fn write(reading: &mut Reading, file: &File, name: &[u8]) -> Result<(Digest, u64), Failure> {
    let manifest = reading.opened.backup.description.manifest.clone();
    let created = text::utc(reading.opened.backup.created_at);
    let metadata = |sha256: Digest, size: u64| {
        metadata(manifest.as_ref(), &created, name, reading.index.codec.key(), sha256, size)
    };
    // The longest that the metadata can be; the rest is filled with blanks, which JSON allows.
    let room = metadata(Digest([0; 32]), u64::MAX).len();
    let start = front(name, &vec![b' '; room], Digest([0; 32]), 0)?.len() as u64;
    let mut out = file.try_clone()?;
    out.seek(SeekFrom::Start(start))?;
    let total = reading.index.stored_bytes;
    let mut bar = Progress::begin("Decrypting", Some(total));
    let (sha256, size) = reading.decoder.decrypt(OwnedFd::from(out), &mut |news: DecodeProgress| {
        bar.set(news.content_bytes, 1);
        super::go_on()
    })?;
    bar.end();
    let written = file.metadata()?.len();
    if start.checked_add(size) != Some(written) {
        return Err(Failure::new(Exit::Failed, "the decoder wrote another number of bytes than it said"));
    }
    let mut text = metadata(sha256, size).into_bytes();
    text.resize(room, b' ');
    let front = front(name, &text, sha256, size)?;
    if front.len() as u64 != start {
        return Err(Failure::new(Exit::Failed, "the bundle's front changed its length"));
    }
    file.write_all_at(&front, 0)?;
    let padded = (start + size).div_ceil(BLOCK) * BLOCK;
    file.set_len(padded + 2 * BLOCK)?;
    file.sync_all()?;
    Ok((sha256, size))
}

/// Metadata, checksum, and the archive's header.
fn front(name: &[u8], metadata: &[u8], sha256: Digest, size: u64) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut checksum = format!("{sha256}  ").into_bytes();
    checksum.extend_from_slice(name);
    checksum.push(b'\n');
    member(&mut tar, name, ".metadata", metadata, metadata.len() as u64)?;
    member(&mut tar, name, ".sha256", &checksum, checksum.len() as u64)?;
    member(&mut tar, name, "", &[], size)?;
    // Taken as it is, without the end mark.
    Ok(std::mem::take(tar.get_mut()))
}

fn member(tar: &mut tar::Builder<Vec<u8>>, name: &[u8], suffix: &str, data: &[u8], size: u64) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(0);
    let whole = [name, suffix.as_bytes()].concat();
    tar.append_data(&mut header, Path::new(std::ffi::OsStr::from_bytes(&whole)), data)
}

fn metadata(manifest: Option<&Manifest>, created: &str, name: &[u8], codec: &str, sha256: Digest, size: u64) -> String {
    let text = |of: fn(&Manifest) -> Option<&String>| manifest.and_then(of).cloned();
    let compression = text(|m| m.compression_type.as_ref()).unwrap_or_else(|| {
        match codec {
            "gzip" => "gz",
            "bzip2" => "bz2",
            "zstd" => "zst",
            other => other,
        }
        .to_owned()
    });
    let mut object = serde_json::Map::new();
    let mut put = |key: &str, value: serde_json::Value| {
        if !value.is_null() {
            object.insert(key.to_owned(), value);
        }
    };
    put("archive_path", json!(String::from_utf8_lossy(name)));
    put("archive_size", json!(size));
    put("sha256", json!(sha256.to_string()));
    put("created_at", json!(created));
    put("compression_type", json!(compression));
    put("compression_level", json!(manifest.and_then(|m| m.compression_level).unwrap_or(0)));
    put("compression_mode", json!(text(|m| m.compression_mode.as_ref())));
    put("proxmox_type", json!(text(|m| m.proxmox_type.as_ref()).unwrap_or_else(|| "unknown".to_owned())));
    if let Some(targets) = manifest.map(|m| &m.proxmox_targets).filter(|targets| !targets.is_empty()) {
        put("proxmox_targets", json!(targets));
    }
    put("proxmox_version", json!(text(|m| m.proxmox_version.as_ref())));
    put("pve_version", json!(text(|m| m.pve_version.as_ref())));
    put("pbs_version", json!(text(|m| m.pbs_version.as_ref())));
    put("hostname", json!(text(|m| m.hostname.as_ref()).unwrap_or_else(|| "unknown".to_owned())));
    put("script_version", json!(text(|m| m.script_version.as_ref())));
    put("encryption_mode", json!("none"));
    put("cluster_mode", json!(text(|m| m.cluster_mode.as_ref())));
    serde_json::to_string_pretty(&object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_has_one_length_whatever_hash_and_size() {
        let name = [b"n".repeat(140), b".tar.xz".to_vec()].concat();
        let one = front(&name, &[b' '; 700], Digest([0; 32]), 0).unwrap();
        let two = front(&name, &[b'x'; 700], Digest([255; 32]), 1 << 40).unwrap();
        assert_eq!(one.len(), two.len());
        assert_eq!(one.len() % 512, 0);
    }

    #[test]
    fn a_bundle_made_this_way_reads_back() {
        let (sha256, data) = (Digest::of(b"data"), b"data");
        let mut text = metadata(None, "2026-01-01T00:00:00Z", b"a.tar", "none", sha256, 4).into_bytes();
        text.push(b' ');
        let mut bundle = front(b"a.tar", &text, sha256, 4).unwrap();
        bundle.extend_from_slice(data);
        bundle.resize(bundle.len().div_ceil(512) * 512 + 1024, 0);
        let read = crate::archive::bundle::read(bundle.as_slice(), bundle.len() as u64).unwrap();
        assert_eq!((read.archive_name.as_slice(), read.archive.length, read.has_end_mark), (&b"a.tar"[..], 4, true));
        assert_eq!(read.companions.len(), 2);
        assert_eq!(plain_name(b"x.tar.xz.age"), b"x.tar.xz");
    }
}
