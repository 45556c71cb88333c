//! Exports of make-believe backups.

use super::*;
use crate::planner::testing::{dir, file_with, hardlink, index, link, meta, path};
use std::os::unix::fs::PermissionsExt as _;

fn all(index: &Index) -> Vec<Exported> {
    let count = u32::try_from(index.entries.len()).unwrap();
    (0..count).map(|entry| Exported { entry, category: CategoryId::PveConfigExport }).collect()
}

fn place() -> (tempfile::TempDir, ExportDir) {
    // Outside of every directory that exports refuse.
    let outer = tempfile::tempdir().unwrap();
    let dir = ExportDir::create(&outer.path().join("exports"), "20260101-000000", b"/nowhere", None).unwrap();
    (outer, dir)
}

#[test]
fn everything_arrives_private_and_recorded() {
    let index = index(vec![
        dir("etc/pve", 0o755),
        file_with("etc/pve/a", b"one", meta(0o4755)),
        hardlink("etc/pve/b", "etc/pve/a"),
        file_with("etc/pve/empty", b"", meta(0o644)),
        link("etc/pve/l", "/etc/shadow"),
    ]);
    let (_outer, place) = place();
    let mut exporter = Exporter::begin(place, &index, &all(&index)).unwrap();
    let wanted = exporter.contents();
    assert_eq!(wanted.len(), 1, "both names of one file need one content: {wanted:?}");
    exporter.take(wanted[0].ordinal, &mut &b"one"[..]).unwrap();
    let (dir, counts) = exporter.finish().unwrap();
    assert_eq!(counts, [(CategoryId::PveConfigExport, 5)]);
    let mode = |name: &str| std::fs::symlink_metadata(dir.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("etc"), mode("etc/pve"), mode("etc/pve/a")), (0o700, 0o700, 0o700, 0o600));
    assert_eq!(std::fs::read(dir.join("etc/pve/b")).unwrap(), b"one");
    assert_eq!(std::fs::read_link(dir.join("etc/pve/l")).unwrap(), Path::new("/etc/shadow"));
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join(RECORD)).unwrap()).unwrap();
    let entries = record["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 5);
    assert_eq!((&entries[1]["path"], &entries[1]["mode"]), (&"etc/pve/a".into(), &"4755".into()));
}

#[test]
fn wrong_short_or_missing_contents_are_errors() {
    let index = index(vec![file_with("etc/pve/a", b"one", meta(0o644))]);
    for content in [&b"two"[..], b"on"] {
        let (_outer, place) = place();
        let mut exporter = Exporter::begin(place, &index, &all(&index)).unwrap();
        let ordinal = exporter.contents()[0].ordinal;
        assert!(matches!(exporter.take(ordinal, &mut &*content), Err(ExportError::Content { .. })));
    }
    let (_outer, place) = place();
    let exporter = Exporter::begin(place, &index, &all(&index)).unwrap();
    assert!(matches!(exporter.finish(), Err(ExportError::Missing { missing: 1, .. })));
}

#[test]
fn nothing_is_written_through_a_link_of_the_backup() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let index = index(vec![link("etc/pve", target), file_with("etc/pve/a", b"", meta(0o644))]);
    let (_outer, place) = place();
    assert!(matches!(Exporter::begin(place, &index, &all(&index)), Err(ExportError::Write { .. })));
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(path("etc/pve/a").to_string(), "/etc/pve/a");
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let outer = tempfile::tempdir().unwrap();
    std::fs::set_permissions(outer.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = ExportDir::create(outer.path(), "x", b"/nowhere", None);
    assert!(matches!(refused, Err(ExportError::Place { .. })));
}

#[test]
fn a_content_can_have_more_names_than_files_can_be_open() {
    // For the whole test program, which needs far fewer.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let less = rustix::process::Rlimit { current: Some(1024), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, less).unwrap();
    let mut entries = vec![file_with("etc/pve/a", b"one", meta(0o644))];
    entries.extend((0..1100).map(|at| hardlink(&format!("etc/pve/b{at:04}"), "etc/pve/a")));
    let index = index(entries);
    let (_outer, place) = place();
    let mut exporter = Exporter::begin(place, &index, &all(&index)).unwrap();
    exporter.take(exporter.contents()[0].ordinal, &mut &b"one"[..]).unwrap();
    let (dir, _) = exporter.finish().unwrap();
    assert_eq!(std::fs::read(dir.join("etc/pve/b1099")).unwrap(), b"one");
}
