//! SIGKILL at random moments: what is at a target's name is always whole, and the next helper leaves no trace.

use proxsave_proto::Digest;
use proxsave_tests::backup::Backup;
use proxsave_tests::lab::{Lab, kill_group, wait};
use proxsave_tests::mutate::Rng;
use proxsave_tests::procs;
use proxsave_tests::snapshot::Snapshot;
use proxsave_tests::tarball::Tar;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Files of a backup.
const FILES: usize = 120;

/// How many kills: `PROXSAVE_KILLS`, else 200.
fn rounds() -> usize {
    std::env::var("PROXSAVE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// Two backups of the same names with other contents and modes; some names are only in one.
fn contents(version: u8) -> BTreeMap<String, Vec<u8>> {
    let mut rng = Rng::new(u64::from(version) + 77);
    (0..FILES)
        .filter(|index| index % 10 != usize::from(version))
        .map(|index| {
            let size = 1000 + rng.below(60_000);
            let body = (0..size).map(|_| rng.next_u64() as u8).collect();
            (format!("home/anna/{}/f{index}", index % 7), body)
        })
        .collect()
}

fn backup(lab: &Lab, version: u8) -> std::path::PathBuf {
    let mut tar = Tar::new();
    for (name, body) in contents(version) {
        tar.entry(b'0', format!("./{name}").as_bytes(), 0o600 + u64::from(version) * 0o44, b"", &body);
    }
    Backup { second: version, ..Backup::default() }.write(&lab.backups(), &tar.finish())
}

/// Every file below the tree is wholly of one of the two backups or of the live host.
fn assert_whole(tree: &Snapshot, known: &BTreeMap<String, Vec<(Digest, u32)>>, round: usize) {
    for (path, item) in &tree.0 {
        let Ok(name) = std::str::from_utf8(path) else { continue };
        if item.kind != "file" || name.split('/').any(|part| part.starts_with(".pxs-")) {
            continue;
        }
        if let Some(versions) = known.get(name) {
            let found = (item.sha256.unwrap(), item.mode);
            assert!(versions.contains(&found), "round {round}: {name} is neither backup's: {item:?}");
            assert_eq!((item.uid, item.gid, item.mtime), (0, 0, (1_700_000_000, 0)), "round {round}: {name}: {item:?}");
        }
    }
}

/// Fails when a process of the lab outlives its session.
fn assert_all_gone(lab: &Path, round: usize) {
    let start = Instant::now();
    loop {
        let here = lab.display().to_string();
        let left: Vec<_> = procs::all().into_iter().filter(|p| p.exe.starts_with(&here) && !p.is_zombie()).collect();
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "round {round}: still running: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn killed_at_random_moments() {
    let lab = Lab::new();
    lab.populate();
    let backups = [backup(&lab, 0), backup(&lab, 1)];
    let mut known: BTreeMap<String, Vec<(Digest, u32)>> = BTreeMap::new();
    for version in [0u8, 1] {
        for (name, body) in contents(version) {
            known.entry(name).or_default().push((Digest::of(&body), 0o600 + u32::from(version) * 0o44));
        }
    }
    // How long an undisturbed restore takes bounds the random moments.
    let start = Instant::now();
    lab.restore(&backups[0], "pve", &[]).assert_ok();
    let usual = start.elapsed();
    let live = lab.snapshot();
    let (mut rng, mut struck, mut with_leftovers) = (Rng::new(2026), 0, 0);
    for round in 0..rounds() {
        let mut helper = lab.helper();
        let _ = std::fs::remove_dir_all(lab.exports());
        let mut command = lab.restore_command(&backups[(round + 1) % 2], "pve", &helper);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the front-end starts");
        std::thread::sleep(usual.mul_f64(rng.below(1000) as f64 / 900.0));
        if child.try_wait().unwrap().is_none() {
            struck += 1;
        }
        match rng.below(4) {
            0 => kill_group(child.id()),
            1 => helper.kill(),
            _ => {
                // One process of the session alone: gate, broker, writer, prober, decoder, front-end.
                let mut family = procs::family(helper.pid());
                family.extend(procs::family(child.id()));
                let victim = &family[rng.below(family.len())];
                let pid = rustix::process::Pid::from_raw(i32::try_from(victim.pid).unwrap()).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        assert!(wait(&mut child, Duration::from_secs(60)).is_some(), "round {round}: the front-end hangs");
        // Kills what is left of it, as a helper that nobody connected to waits for ever.
        let helper_log = helper.log();
        assert!(!helper_log.contains("panicked at"), "{helper_log}");
        if round % 2 == 0 {
            drop(helper);
        } else {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(5) && !procs::family(helper.pid()).is_empty() {
                std::thread::sleep(Duration::from_millis(10));
                if procs::family(helper.pid()).iter().all(procs::Proc::is_zombie) {
                    break;
                }
            }
            drop(helper);
        }
        assert_all_gone(lab.path(), round);
        let tree = lab.snapshot();
        assert_whole(&tree, &known, round);
        if !tree.leftovers().is_empty() {
            with_leftovers += 1;
        }
        for change in live.changes(&tree) {
            let name = String::from_utf8_lossy(&change.path).into_owned();
            let ours = name.starts_with("home/anna") || name.contains(".pxs-");
            assert!(ours || change.what == ["mtime"], "round {round}: {change:?}");
        }
        assert_eq!(lab.audit_verify().code, Some(0), "round {round}: {:?}", lab.audit_verify());
    }
    println!("{} rounds, {struck} struck a running restore, {with_leftovers} left staging names", rounds());
    assert!(struck > 0 || rounds() == 0, "no kill came in time");
    let _ = std::fs::remove_dir_all(lab.exports());
    lab.restore(&backups[0], "pve", &[]).assert_ok();
    assert_eq!(lab.snapshot().leftovers(), Vec::<String>::new());
}
