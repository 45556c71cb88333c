//! Directories full of backups, good and bad.

use super::InProcess;
use crate::archive::{Found, NoteKind, OpenError, Place, SearchLimits, TimeSource, discover, open};
use proxsave_proto::Digest;
use std::fs::File;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, data).unwrap();
        path
    }

    /// A raw backup made at second `second` of an hour; gives the archive's path.
    fn backup(&self, folder: &str, host: &str, second: u32) -> PathBuf {
        let data = [&[0x1f, 0x8b, 8][..], host.as_bytes(), &second.to_be_bytes()].concat();
        let name = format!("{folder}{host}-backup-20260720-0315{second:02}.tar.gz");
        let manifest = serde_json::json!({
            "hostname": host, "created_at": format!("2026-07-20T03:15:{second:02}Z"),
            "sha256": Digest::of(&data).to_string(), "archive_size": data.len(),
        });
        self.file(&format!("{name}.manifest.json"), manifest.to_string().as_bytes());
        self.file(&name, &data)
    }

    fn place(&self, label: &str) -> Place {
        Place { label: label.to_owned(), path: self.0.path().to_owned() }
    }

    fn search(&self) -> Found {
        discover(&[self.place("local")], None, SearchLimits::default(), &mut InProcess)
    }
}

fn names(found: &Found) -> Vec<String> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    found.backups.iter().map(|backup| name(&backup.path)).collect()
}

fn has_note(found: &Found, name: &str, wanted: fn(&NoteKind) -> bool) -> bool {
    found.notes.iter().any(|note| note.path.ends_with(name) && wanted(&note.kind))
}

#[test]
fn newest_first_over_all_places_and_folders() {
    let (one, two) = (Directory::new(), Directory::new());
    one.backup("", "a.lan", 10);
    one.backup("deep/er/", "b.lan", 30);
    two.backup("", "a.lan", 20);
    two.backup("", "c.lan", 20);
    let places = [one.place("local"), two.place("secondary"), one.place("again")];
    let found = discover(&places, None, SearchLimits::default(), &mut InProcess);
    let seen: Vec<_> = found.backups.iter().map(|b| (b.hostname().unwrap(), b.source.as_str())).collect();
    assert_eq!(seen, [("b.lan", "local"), ("a.lan", "secondary"), ("c.lan", "secondary"), ("a.lan", "local")]);
    assert!(found.bad.is_empty() && found.notes.is_empty(), "{found:?}");
    assert!(found.backups.iter().all(|backup| backup.time_source == TimeSource::Manifest && backup.is_usable()));
}

#[test]
fn by_host_with_or_without_domain() {
    let directory = Directory::new();
    directory.backup("", "pve1.lan", 1);
    directory.backup("", "pve10.lan", 2);
    for (host, count) in [("pve1.lan", 1), ("PVE1", 1), ("pve", 0), ("lan", 0), ("pve10", 1)] {
        let found = discover(&[directory.place("")], Some(host), SearchLimits::default(), &mut InProcess);
        assert_eq!(found.backups.len(), count, "{host}");
    }
}

#[test]
fn one_bad_file_does_not_hide_the_others() {
    let directory = Directory::new();
    directory.backup("", "good", 1);
    directory.file("bad-backup-20260720-031500.tar.gz.bundle.tar", b"rubbish\x1b");
    directory.file("empty-backup-20260720-031500.tar.gz", b"");
    let found = directory.search();
    assert_eq!(names(&found), ["good-backup-20260720-031501.tar.gz"]);
    assert_eq!(found.bad.len(), 2);
    for bad in &found.bad {
        assert!(!bad.reason.contains('\u{1b}') && bad.source == "local", "{bad:?}");
    }
}

#[test]
fn what_is_no_backup_is_left_out() {
    let directory = Directory::new();
    directory.file("vzdump-lxc-100-2026_07_20.tar.zst", &[0x28, 0xb5, 0x2f, 0xfd]);
    directory.file("notes.txt", b"x");
    directory.file("some.tar.gz.sha256", b"x");
    directory.file("some.tar.gz", &[0x1f, 0x8b, 8]);
    directory.file("lone-backup-20260720-031500.tar.gz", &[0x1f, 0x8b, 8]);
    directory.file("new-backup-20260720-031500.tar.xz.partial", b"half");
    directory.file("gone-backup-20260720-031500.tar.xz.metadata", b"{}");
    let found = directory.search();
    assert_eq!(names(&found), ["lone-backup-20260720-031500.tar.gz"]);
    assert_eq!(found.backups[0].time_source, TimeSource::File);
    assert!(has_note(&found, "new-backup-20260720-031500.tar.xz.partial", |kind| *kind == NoteKind::Partial));
    assert!(has_note(&found, "gone-backup-20260720-031500.tar.xz.metadata", |kind| *kind == NoteKind::Orphan));
    assert_eq!(found.notes.len(), 2);
}

#[test]
fn links_fifos_and_depth() {
    let directory = Directory::new();
    let archive = directory.backup("folder/", "a", 1);
    symlink(".", directory.path("folder/loop")).unwrap();
    symlink("/", directory.path("folder/root")).unwrap();
    symlink(&archive, directory.path("latest-backup-20260720-031500.tar.gz")).unwrap();
    let fifo = directory.path("fifo-backup-20260720-031500.tar.gz");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    directory.backup(&"d/".repeat(10), "deep", 2);
    let found = directory.search();
    assert_eq!(names(&found), ["a-backup-20260720-031501.tar.gz"]);
    assert!(has_note(&found, "loop", |kind| *kind == NoteKind::Link));
    assert!(has_note(&found, "latest-backup-20260720-031500.tar.gz", |kind| *kind == NoteKind::Link));
    assert!(found.notes.iter().any(|note| note.kind == NoteKind::Depth));
    let few = SearchLimits { entries: 3, ..SearchLimits::default() };
    let found = discover(&[directory.place("")], None, few, &mut InProcess);
    assert!(found.notes.iter().any(|note| note.kind == NoteKind::Entries));
}

#[test]
fn a_place_that_cannot_be_read_is_noted() {
    let directory = Directory::new();
    let missing = Place { label: "secondary".into(), path: directory.path("none\u{1b}") };
    let found = discover(&[missing], None, SearchLimits::default(), &mut InProcess);
    assert!(matches!(found.notes[..], [ref note] if matches!(note.kind, NoteKind::Unreadable(_))));
    assert!(!found.notes[0].to_string().contains('\u{1b}'));
}

#[test]
fn a_backup_is_opened_by_any_of_its_names() {
    let directory = Directory::new();
    let archive = directory.backup("", "a", 1);
    let opened = open(&archive, &mut InProcess).unwrap();
    assert_eq!(opened.backup.size, opened.file.metadata().unwrap().len());
    let companion = directory.path("a-backup-20260720-031501.tar.gz.manifest.json");
    assert_eq!(open(&companion, &mut InProcess).unwrap().backup, opened.backup);
    let link = directory.path("latest");
    symlink(&archive, &link).unwrap();
    assert_eq!(open(&link, &mut InProcess).unwrap().backup, opened.backup);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let directory = Directory::new();
    let partial = directory.file("a-backup-20260720-031500.tar.xz.partial", b"x");
    assert!(matches!(open(&partial, &mut InProcess), Err(OpenError::Partial { .. })));
    assert!(matches!(open(&directory.path("none"), &mut InProcess), Err(OpenError::Io { .. })));
    assert!(matches!(open(directory.0.path(), &mut InProcess), Err(OpenError::NotFile { .. })));
    assert!(matches!(open(Path::new("/"), &mut InProcess), Err(OpenError::NotFile { .. })));
    let rubbish = directory.file("rubbish", b"x");
    assert!(matches!(open(&rubbish, &mut InProcess), Err(OpenError::Describe { .. })));
    directory.file("b-backup-20260720-031500.tar.xz.bundle.tar", b"x");
    let bundled = directory.path("b-backup-20260720-031500.tar.xz");
    assert!(matches!(open(&bundled, &mut InProcess), Err(OpenError::OnlyBundle { .. })));
}

#[test]
fn a_file_of_another_user_says_what_to_do() {
    let directory = Directory::new();
    let archive = directory.backup("", "a", 1);
    std::fs::set_permissions(&archive, std::fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&archive).is_ok() {
        // root reads everything: the error itself has to do.
        let error = open::not_there(&archive, std::io::ErrorKind::PermissionDenied.into());
        assert!(matches!(error, OpenError::Denied { .. }));
        return;
    }
    assert!(matches!(open(&archive, &mut InProcess), Err(OpenError::Denied { .. })));
    let found = directory.search();
    assert!(found.bad.len() == 1 && found.bad[0].reason.contains("copy it"), "{found:?}");
}

#[test]
fn a_companion_that_cannot_be_read_is_a_problem_of_the_backup() {
    let directory = Directory::new();
    let archive = directory.backup("", "a", 1);
    std::fs::create_dir(directory.path("a-backup-20260720-031501.tar.gz.sha256")).unwrap();
    symlink(
        directory.path("a-backup-20260720-031501.tar.gz.manifest.json"),
        directory.path("a-backup-20260720-031501.tar.gz.metadata"),
    )
    .unwrap();
    let opened = open(&archive, &mut InProcess).unwrap();
    let problems: Vec<_> = opened.backup.description.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    for suffix in [".sha256", ".metadata"] {
        assert!(
            problems.iter().any(|problem| problem.contains(&format!("its {suffix} cannot be used"))),
            "{problems:?}"
        );
    }
}
