//! Somebody swaps directories for symlinks in the target tree while restores run: nothing outside changes.

use proxsave_tests::backup::Backup;
use proxsave_tests::lab::Lab;
use proxsave_tests::snapshot::Snapshot;
use proxsave_tests::tarball::Tar;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How many restores: `PROXSAVE_RACES`, else 200.
fn rounds() -> usize {
    std::env::var("PROXSAVE_RACES").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

#[test]
fn directories_that_become_links() {
    let lab = Lab::new();
    lab.populate();
    let outside = lab.path().join("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    for name in ["f1", "sub/f2", "victim"] {
        std::fs::write(outside.join(name), "outside").unwrap();
    }
    let anna = lab.root().join("home/anna");
    std::fs::create_dir_all(anna.join("d/sub")).unwrap();
    symlink(&outside, anna.join("link")).unwrap();
    symlink("../../../outside/sub", anna.join("link2")).unwrap();
    let mut backups = Vec::new();
    for version in 0..2u8 {
        let mut tar = Tar::new();
        for index in 0..30 {
            tar.file(format!("./home/anna/d/f{index}"), format!("{version} {index}"));
            tar.file(format!("./home/anna/d/sub/f{index}"), format!("{version} sub {index}"));
            tar.file(format!("./home/anna/d/new{index}/x"), "x");
        }
        backups.push(Backup { second: version, ..Backup::default() }.write(&lab.backups(), &tar.finish()));
    }
    let before = Snapshot::of(&outside);
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut restored, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The pauses let some plans be made and some be carried out, at any point of which a swap can fall.
            let mut pause = 0u64;
            while !stop.load(Ordering::Relaxed) {
                for (a, b) in [("d", "link"), ("d/sub", "link2")] {
                    for _ in 0..2 {
                        let _ = renameat_with(CWD, anna.join(a), CWD, anna.join(b), RenameFlags::EXCHANGE);
                        swaps.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_micros(pause % 3000));
                        pause = pause.wrapping_mul(7).wrapping_add(131);
                    }
                }
                std::thread::sleep(Duration::from_micros(pause % 60_000));
            }
        });
        for round in 0..rounds() {
            let outcome = lab.restore(&backups[round % 2], "pve", &[]);
            if outcome.code == Some(0) {
                restored += 1;
            } else {
                refused += 1;
            }
            let changes = before.changes(&Snapshot::of(&outside));
            if !changes.is_empty() {
                stop.store(true, Ordering::Relaxed);
                panic!("round {round}: outside changed: {changes:?}\n{outcome:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{restored} restored, {refused} refused, {} swaps", swaps.load(Ordering::Relaxed));
    assert!(swaps.load(Ordering::Relaxed) > 100 || rounds() < 10);
    let _ = lab.restore(&backups[0], "pve", &[]);
    assert_eq!(lab.snapshot().leftovers(), Vec::<String>::new());
}
