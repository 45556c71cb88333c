//! A dry run writes nothing but its audit lines, and the audit log shows when a line is gone.

use proxsave_tests::fixtures;
use proxsave_tests::lab::Lab;

fn audit(lab: &Lab) -> String {
    std::fs::read_to_string(lab.state().join("audit.jsonl")).unwrap()
}

#[test]
fn a_dry_run_changes_only_the_audit_log() {
    let lab = Lab::new();
    lab.populate();
    let fixture = fixtures::shipped_one("s08");
    let path = lab.take(&fixture);
    let before = lab.snapshot();
    let mut options = lab.secret_options(&fixture);
    options.push("--dry-run".into());
    lab.restore(&path, "pve", &options).assert_ok();
    assert_eq!(before.changes(&lab.snapshot()), []);
    let log = audit(&lab);
    assert!(log.contains("dry"), "the log does not name the dry run: {log}");
    assert_eq!(lab.audit_verify().code, Some(0));
    let left: Vec<_> = std::fs::read_dir(lab.state())
        .unwrap()
        .flat_map(|entry| {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => std::fs::read_dir(entry.path()).unwrap().map(|e| e.unwrap().path()).collect(),
                false => vec![],
            }
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_line_that_is_gone_or_changed_shows() {
    let lab = Lab::new();
    lab.populate();
    let path = lab.take(&fixtures::shipped_one("s26"));
    lab.restore(&path, "pve", &[]).assert_ok();
    assert_eq!(lab.audit_verify().code, Some(0), "{:?}", lab.audit_verify());
    let log = audit(&lab);
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.len() > 10, "a line for each file is expected: {log}");
    let file = lab.state().join("audit.jsonl");
    for skip in [0, 1, lines.len() / 2, lines.len() - 2] {
        let rest: String =
            lines.iter().enumerate().filter(|(i, _)| *i != skip).map(|(_, l)| format!("{l}\n")).collect();
        std::fs::write(&file, rest).unwrap();
        let verdict = lab.audit_verify();
        verdict.assert_refused();
    }
    let changed = log.replacen("home", "hame", 1);
    assert_ne!(changed, log);
    std::fs::write(&file, changed).unwrap();
    lab.audit_verify().assert_refused();
    std::fs::write(&file, &log).unwrap();
    assert_eq!(lab.audit_verify().code, Some(0));
}
