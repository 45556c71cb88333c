//! `list`, `show` and `verify`: looking at backups, changing nothing.

use super::{Context, Failure, Reading, text};
use crate::archive::{Backup, Problem};
use crate::cli::{Exit, ListArgs, ShowArgs, VerifyArgs};
use crate::decoder::{Index, IndexNode};
use crate::dialogue::bytes;
use crate::selection::{available, content_len};
use proxsave_proto::escape::escape;
use serde_json::{Value, json};

/// `list`
///
/// # Errors
/// When nothing is found.
pub fn list(context: &mut Context, args: &ListArgs) -> Result<Exit, Failure> {
    let found = context.search(&args.dirs, args.host.as_deref())?;
    for note in &found.notes {
        context.info(note.to_string());
    }
    if args.json {
        let backups: Vec<Value> = found.backups.iter().map(backup_json).collect();
        let bad = |bad: &crate::archive::discover::Bad| json!({"path": text::path(&bad.path), "reason": bad.reason});
        let bad: Vec<Value> = found.bad.iter().map(bad).collect();
        context.print(json!({"backups": backups, "unusable": bad}).to_string())?;
    } else {
        for backup in &found.backups {
            context.print(text::backup_line(backup))?;
            context.print(format!("    {}", text::path(&backup.path)))?;
            for problem in &backup.description.problems {
                let word = if problem.is_fatal() { "unusable" } else { "warning" };
                context.print(format!("    {word}: {problem}"))?;
            }
        }
        for bad in &found.bad {
            context.warn(format!("{} cannot be used: {}", text::path(&bad.path), bad.reason));
        }
    }
    if found.backups.is_empty() {
        let next = match args.dirs.is_empty() {
            true => "in the usual directories; name the one that holds them: proxsave-ui list DIR",
            false if args.host.is_some() => "of that host there; without --host all are listed",
            false => "there; a backup is a .tar, .tar.* or .bundle.tar file, at most a few folders down",
        };
        return Err(Failure::new(Exit::Nothing, format!("no backup was found {next}")));
    }
    Ok(Exit::Ok)
}

/// `show`
///
/// # Errors
/// When the backup cannot be read.
pub fn show(context: &mut Context, args: &ShowArgs) -> Result<Exit, Failure> {
    let reading = context.read(&args.backup, &args.open, false)?;
    let index = &reading.index;
    if args.json {
        let mut object = summary(&reading);
        if args.entries
            && let Some(object) = object.as_object_mut()
        {
            object.insert("entries".to_owned(), index.entries.iter().map(entry_json).collect());
        }
        context.print(object.to_string())?;
        return Ok(Exit::Ok);
    }
    let backup = &reading.opened.backup;
    let mut lines = vec![
        format!("Backup      {}", text::path(&backup.path)),
        format!("Made        {}", text::local_time(backup.created_at)),
        format!("Host        {}", backup.hostname().map_or_else(|| "unknown".to_owned(), |h| escape(h.as_bytes()))),
        format!("Kind        {}", index.roles.roles),
        format!("Stored      {}, SHA-256 {}", bytes(index.stored_bytes), index.sha256),
        format!(
            "Contents    {} entries, {} decompressed ({}{})",
            index.entries.len(),
            bytes(index.plain_bytes),
            index.codec.key(),
            if index.encrypted { ", encrypted" } else { "" }
        ),
        String::new(),
        "Category                   entries        size  comes back".to_owned(),
    ];
    for tally in available(index) {
        let id = tally.category;
        let how = if id.is_written() { "written" } else { "exported, not applied" };
        lines.push(format!("{:<26} {:>7} {:>11}  {how}", id.row().key, tally.entries, bytes(tally.bytes)));
    }
    lines.extend(notes(index));
    if args.entries {
        lines.push(String::new());
        lines.extend(index.entries.iter().map(|entry| entry_line(&entry.path, &entry.node)));
    }
    for line in lines {
        context.print(line)?;
    }
    Ok(Exit::Ok)
}

/// `verify`
///
/// # Errors
/// When anything about the backup is wrong.
pub fn verify(context: &mut Context, args: &VerifyArgs) -> Result<Exit, Failure> {
    let reading = context.read(&args.backup, &args.open, false)?;
    if args.json {
        context.print(summary(&reading).to_string())?;
    } else {
        let index = &reading.index;
        for line in notes(index) {
            context.print(line)?;
        }
        let proof = match reading.opened.backup.description.sha256 {
            Some(_) => "its SHA-256 is the expected one",
            None => "but nothing tells which SHA-256 it should have",
        };
        context.print(format!(
            "The backup is whole: {} entries, {} decompressed; {proof} ({}).",
            index.entries.len(),
            bytes(index.plain_bytes),
            index.sha256
        ))?;
    }
    // The archive is whole, but the rule is that every companion that is there can be read.
    let bad = |problem: &&Problem| matches!(problem, Problem::BadCompanion { .. });
    match reading.opened.backup.description.problems.iter().find(bad) {
        Some(problem) => Err(Failure::new(Exit::BadBackup, format!("a companion file is damaged: {problem}"))),
        None => Ok(Exit::Ok),
    }
}

fn notes(index: &Index) -> Vec<String> {
    let refused = index.refused.iter().map(|note| format!("not restorable: {}: {}", escape(&note.name), note.why));
    let left_out = index.left_out.iter().map(|note| format!("left out: {}: {}", escape(&note.name), note.why));
    refused.chain(left_out).collect()
}

/// A backup as JSON, as far as its files tell.
pub(super) fn backup_json(backup: &Backup) -> Value {
    let description = &backup.description;
    json!({
        "path": text::path(&backup.path),
        "archive": escape(&description.archive_name),
        "source": backup.source,
        "size": backup.size,
        "created_at": text::utc(backup.created_at),
        "hostname": backup.hostname().map(|host| escape(host.as_bytes())),
        "roles": backup.roles().key(),
        "encrypted": backup.is_encrypted(),
        "usable": backup.is_usable(),
        "sha256": description.sha256.map(|hash| hash.to_string()),
        "problems": description.problems.iter().map(|problem| {
            json!({"text": problem.to_string(), "fatal": problem.is_fatal()})
        }).collect::<Vec<_>>(),
        "manifest": description.manifest,
    })
}

fn summary(reading: &Reading) -> Value {
    let index = &reading.index;
    let note = |note: &crate::decoder::Refused| json!({"name": escape(&note.name), "reason": note.why});
    json!({
        "backup": backup_json(&reading.opened.backup),
        "sha256": index.sha256.to_string(),
        "stored_bytes": index.stored_bytes,
        "plain_bytes": index.plain_bytes,
        "encrypted": index.encrypted,
        "codec": index.codec.key(),
        "roles": index.roles.roles.key(),
        "entry_count": index.entries.len(),
        "categories": available(index).iter().map(|tally| json!({
            "category": tally.category.row().key,
            "name": tally.category.row().name,
            "entries": tally.entries,
            "bytes": tally.bytes,
            "written": tally.category.is_written(),
        })).collect::<Vec<_>>(),
        "not_restorable": index.refused.iter().map(note).collect::<Vec<_>>(),
        "left_out": index.left_out.iter().map(note).collect::<Vec<_>>(),
    })
}

fn entry_json(entry: &crate::decoder::IndexEntry) -> Value {
    let meta = entry.node.meta();
    let (kind, more) = match &entry.node {
        IndexNode::File { sha256, .. } => ("file", Some(sha256.to_string())),
        IndexNode::Dir { .. } => ("directory", None),
        IndexNode::Symlink { target, .. } => ("symlink", Some(escape(target))),
        IndexNode::Hardlink { to } => ("hard-link", Some(escape(to.as_bytes()))),
    };
    json!({
        "path": entry.path.to_string(),
        "type": kind,
        "size": content_len(entry),
        "mode": meta.map(|meta| format!("{:04o}", meta.mode)),
        "uid": meta.map(|meta| meta.uid),
        "gid": meta.map(|meta| meta.gid),
        "mtime": meta.and_then(|meta| meta.mtime).map(text::utc),
        if kind == "file" { "sha256" } else { "target" }: more,
        "categories": proxsave_proto::CategoryId::of(&entry.path).map(|id| id.row().key).collect::<Vec<_>>(),
    })
}

fn entry_line(path: &proxsave_proto::RelPath, node: &IndexNode) -> String {
    let (sign, size, more) = match node {
        IndexNode::File { size, .. } => ('-', *size, String::new()),
        IndexNode::Dir { .. } => ('d', 0, String::new()),
        IndexNode::Symlink { target, .. } => ('l', 0, format!(" -> {}", escape(target))),
        IndexNode::Hardlink { to } => ('h', 0, format!(" = {to}")),
    };
    let meta = node.meta().map_or_else(String::new, |meta| format!("{:04o} {}:{}", meta.mode, meta.uid, meta.gid));
    format!("{sign} {meta:<16} {size:>12} {path}{more}")
}
