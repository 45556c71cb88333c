//! Backups in the forms that older or other versions of the public tool left.

use proxsave_tests::backup::{Backup, Codec, Layout};
use proxsave_tests::lab::Lab;
use proxsave_tests::tarball::Tar;

fn tar() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.dir("./home").dir("./home/anna").file("./home/anna/note", "from the backup");
    tar.finish()
}

fn restores(backup: &Backup) {
    let lab = Lab::new();
    lab.populate();
    let path = backup.write(&lab.backups(), &tar());
    lab.restore(&path, "pve", &[]).assert_ok();
    assert_eq!(std::fs::read(lab.root().join("home/anna/note")).unwrap(), b"from the backup");
}

#[test]
fn every_layout_is_read() {
    for layout in
        [Layout::Raw, Layout::ManifestOnly, Layout::Legacy, Layout::Bare, Layout::Bundle, Layout::BundleOldOrder]
    {
        for codec in [Codec::None, Codec::Zstd] {
            restores(&Backup { layout, codec, ..Backup::default() });
        }
    }
}

#[test]
fn a_lone_archive_needs_an_explicit_yes() {
    let lab = Lab::new();
    lab.populate();
    let path = Backup { layout: Layout::Bare, ..Backup::default() }.write(&lab.backups(), &tar());
    let before = lab.snapshot();
    let helper = lab.helper();
    let mut command = lab.ui(&["restore"]);
    command
        .arg(&path)
        .args(["--mode", "full", "--host-role", "pve", "--no-input", "--confirm", "RESTORE", "--json"])
        .arg("--socket")
        .arg(&helper.socket)
        .arg("--export-dir")
        .arg(lab.exports());
    lab.run(command).assert_refused();
    assert_eq!(before.changes(&lab.snapshot()), []);
}
