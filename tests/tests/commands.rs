//! The other commands of the front-end, and a plan that is carried out later.

use proxsave_tests::backup::Backup;
use proxsave_tests::fixtures;
use proxsave_tests::lab::{Lab, wait};
use proxsave_tests::mutate::Rng;
use proxsave_tests::tarball::Tar;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn verify_accepts_every_shipped_backup() {
    let lab = Lab::new();
    for fixture in fixtures::shipped() {
        let backup = lab.take(&fixture);
        let mut command = lab.ui(&["verify", "--json", "--no-input"]);
        command.arg(backup).args(lab.secret_options(&fixture));
        let outcome = lab.run(command);
        assert_eq!(outcome.code, Some(0), "{}: {outcome:?}", fixture.dir);
        let _ = outcome.json();
    }
}

#[test]
fn list_finds_all_below_a_folder() {
    let lab = Lab::new();
    let set = fixtures::shipped();
    for fixture in &set {
        let _ = lab.take(fixture);
    }
    let mut command = lab.ui(&["list", "--json"]);
    command.arg(lab.backups());
    let outcome = lab.run(command);
    outcome.assert_ok();
    for fixture in &set {
        assert!(outcome.stdout.contains(&fixture.archive), "{} is not listed: {outcome:?}", fixture.archive);
    }
    let at = |name: &str| outcome.stdout.find(name).unwrap();
    assert!(
        at("pve1.lab.example-backup-20261122-015035") < at("pve1.lab.example-backup-20261122-014113"),
        "newest first"
    );
}

#[test]
fn decrypt_writes_a_plain_bundle_and_never_over_something() {
    let lab = Lab::new();
    lab.populate();
    let fixture = fixtures::shipped_one("s08");
    let backup = lab.take(&fixture);
    let out = lab.home().join("plain.tar.zst.bundle.tar");
    let decrypt = || {
        let mut command = lab.ui(&["decrypt", "--no-input"]);
        command.arg(&backup).arg("-o").arg(&out).args(lab.secret_options(&fixture));
        lab.run(command)
    };
    decrypt().assert_ok();
    let bytes = std::fs::read(&out).unwrap();
    decrypt().assert_refused();
    assert_eq!(std::fs::read(&out).unwrap(), bytes);
    let mut command = lab.ui(&["verify", "--no-input"]);
    command.arg(&out);
    lab.run(command).assert_ok();
    lab.restore(&out, "pve", &[]).assert_ok();
}

/// `restore --plan FILE`, unattended.
fn carry_out(lab: &Lab, plan: &Path, backup: &Path) -> proxsave_tests::lab::Outcome {
    let helper = lab.helper();
    let mut command = lab.ui(&["restore", "--no-input", "--confirm", "RESTORE", "--accept-warnings", "--json"]);
    command.arg(backup).arg("--plan").arg(plan);
    command.arg("--export-dir").arg(lab.exports()).arg("--socket").arg(&helper.socket);
    let outcome = lab.run(command);
    let _ = helper.finish();
    outcome
}

#[test]
fn a_plan_is_carried_out_as_it_is_or_not_at_all() {
    let lab = Lab::new();
    lab.populate();
    let mut tar = Tar::new();
    tar.file("./home/anna/live.txt", "from the backup").file("./home/anna/new", "new");
    tar.file("./etc/pve/storage.cfg", "dir: x\n").dir("./home/anna/live");
    std::fs::write(lab.root().join("home/anna/live"), "a file where the backup has a directory").unwrap();
    let backup = Backup::default().write(&lab.backups(), &tar.finish());
    let plan = |name: &str| {
        let file = lab.home().join(name);
        let helper = lab.helper();
        let mut command = lab.ui(&["plan", "--mode", "full", "--host-role", "pve", "--no-input", "--accept-warnings"]);
        command.arg("--json").arg(&backup).arg("-o").arg(&file).arg("--socket").arg(&helper.socket);
        let outcome = lab.run(command);
        outcome.assert_ok();
        let _ = helper.finish();
        (file, outcome.json())
    };
    let before = lab.snapshot();
    let ((first, shown), (second, _)) = (plan("first.plan"), plan("second.plan"));
    assert_eq!(before.changes(&lab.snapshot()), []);
    let outcome = carry_out(&lab, &first, &backup);
    // The directory that could not be made is told of, as it was in the plan.
    assert_eq!(outcome.code, Some(8), "{outcome:?}");
    let report = outcome.json();
    assert_eq!(shown["plan_hash"], report["plan_hash"]);
    let counts = |value: &serde_json::Value| {
        let all = value["categories"].as_array().unwrap().iter();
        let one = |category: &serde_json::Value| {
            ["category", "new", "changed", "same", "exported", "refused"].map(|key| category[key].to_string())
        };
        all.map(one).collect::<Vec<_>>()
    };
    assert_eq!(counts(&shown), counts(&report));
    assert_eq!(
        (&report["skipped"][0]["path"], &report["exported"][0]["entries"]),
        (&"/home/anna/live".into(), &1.into())
    );
    assert_eq!(std::fs::read(lab.root().join("home/anna/live.txt")).unwrap(), b"from the backup");
    // The second was made for a tree that is no more.
    let after = lab.snapshot();
    carry_out(&lab, &second, &backup).assert_refused();
    assert_eq!(after.changes(&lab.snapshot()), []);
}

fn remove_restored(lab: &Lab) {
    for index in 0..200 {
        let _ = std::fs::remove_file(lab.root().join(format!("home/anna/{index}")));
    }
}

#[test]
fn interrupted_at_random_moments() {
    let lab = Lab::new();
    lab.populate();
    let mut rng = Rng::new(9);
    let mut tar = Tar::new();
    for index in 0..200 {
        let body: Vec<u8> = (0..20_000).map(|_| rng.next_u64() as u8).collect();
        tar.file(format!("./home/anna/{index}"), body);
    }
    let backup = Backup::default().write(&lab.backups(), &tar.finish());
    let mut stopped = 0;
    // The first round only tells how long a restore takes here.
    let mut whole = Duration::ZERO;
    for round in 0..13 {
        let before = lab.snapshot();
        let helper = lab.helper();
        let _ = std::fs::remove_dir_all(lab.exports());
        let mut command = lab.restore_command(&backup, "pve", &helper);
        let begun = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        if round == 0 {
            assert!(wait(&mut child, Duration::from_secs(30)).expect("it ends").success());
            whole = begun.elapsed();
            assert!(!helper.finish().contains("panicked at"));
            remove_restored(&lab);
            continue;
        }
        std::thread::sleep(whole.mul_f64(rng.below(1000) as f64 / 1000.0));
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        // As a terminal does: to the whole foreground group, the decoder included.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::INT);
        let status = wait(&mut child, Duration::from_secs(30)).expect("it ends");
        // Before the program has set up its handler the signal itself ends it, which a shell calls 130 too.
        assert!(matches!(status.code(), None | Some(0 | 130)), "round {round}: {status}");
        let log = helper.finish();
        assert!(!log.contains("panicked at"), "{log}");
        let after = lab.snapshot();
        assert_eq!(after.leftovers(), Vec::<String>::new(), "round {round}");
        if status.code() != Some(0) {
            stopped += 1;
            let made = before.changes(&after).iter().filter(|change| change.what == ["made"]).count();
            assert!(made == 0 || made == 200, "round {round}: {made} of 200 files");
        }
        if round % 4 == 3 {
            remove_restored(&lab);
        }
    }
    assert!(stopped > 0, "no interrupt came in time");
}
