//! Every real backup, through the real pair: root helper, operator without any right.

use proxsave_tests::expect::{faults_in_export, faults_in_root};
use proxsave_tests::fixtures::{self, Fixture};
use proxsave_tests::lab::Lab;
use proxsave_tests::snapshot::Snapshot;
use std::sync::Mutex;

/// How many restores run at a time.
const LANES: usize = 2;

fn restore_and_compare(fixture: &Fixture, populated: bool) -> Vec<String> {
    let lab = Lab::new();
    if populated {
        lab.populate();
    }
    let backup = lab.take(fixture);
    let listing = fixture.listing();
    let host = listing.roles();
    let before = lab.snapshot();
    let outcome = lab.restore(&backup, host.key(), &lab.secret_options(fixture));
    if outcome.code != Some(0) {
        return vec![format!("exit {:?}: {}{}{}", outcome.code, outcome.stdout, outcome.stderr, outcome.helper)];
    }
    let mut faults = faults_in_root(&listing, host, &before, &lab.snapshot());
    faults.extend(faults_in_export(&listing, host, &Snapshot::of(&lab.exports())));
    let audit = lab.audit_verify();
    if audit.code != Some(0) {
        faults.push(format!("the audit log does not verify: {audit:?}"));
    }
    faults
}

fn restore_all(set: &[Fixture]) -> usize {
    let queue = Mutex::new(set.iter().flat_map(|fixture| [(fixture, false), (fixture, true)]).collect::<Vec<_>>());
    let (done, faults) = (Mutex::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let Some((fixture, populated)) = queue.lock().unwrap().pop() else { break };
                    let found = restore_and_compare(fixture, populated);
                    if !found.is_empty() {
                        let shown: Vec<_> = found.iter().take(10).cloned().collect();
                        faults.lock().unwrap().push(format!(
                            "{} ({}): {} faults\n  {}",
                            fixture.dir,
                            if populated { "live root" } else { "empty root" },
                            found.len(),
                            shown.join("\n  ")
                        ));
                    }
                    *done.lock().unwrap() += 1;
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} restores are wrong:\n{}", faults.len(), faults.join("\n"));
    done.into_inner().unwrap()
}

#[test]
fn the_shipped_backups_come_back_exactly() {
    assert_eq!(restore_all(&fixtures::shipped()), 2 * 14);
}

/// The larger set is not part of the repository; `.ci/run` names it.
#[test]
fn the_larger_set_comes_back_exactly() {
    let Some(set) = fixtures::larger() else {
        eprintln!("PROXSAVE_FIXTURES is not set: the larger set is not tested");
        return;
    };
    assert_eq!(restore_all(&set), 2 * 29);
}

#[test]
fn a_second_restore_changes_nothing() {
    let lab = Lab::new();
    lab.populate();
    let fixture = fixtures::shipped_one("s26");
    let backup = lab.take(&fixture);
    lab.restore(&backup, "pve", &[]).assert_ok();
    let before = lab.snapshot();
    std::fs::rename(lab.exports(), lab.home().join("export-1")).unwrap();
    lab.restore(&backup, "pve", &[]).assert_ok();
    let changes = before.changes(&lab.snapshot());
    let real: Vec<_> = changes.iter().filter(|change| change.what != ["ino"]).collect();
    assert!(real.is_empty(), "{real:?}");
}
