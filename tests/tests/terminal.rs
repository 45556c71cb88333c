//! The journey in a terminal of 80 by 24, keys and all.

use proxsave_tests::backup::{Backup, Codec};
use proxsave_tests::fixtures;
use proxsave_tests::lab::{Helper, Lab};
use proxsave_tests::mutate::Rng;
use proxsave_tests::tarball::Tar;
use proxsave_tests::terminal::Terminal;

const PASSPHRASE: &str = "Staple-Battery-2026!";

/// A lab with two backups, the newer one under a passphrase, and a helper.
fn scene() -> (Lab, Helper) {
    let lab = Lab::new();
    lab.populate();
    let _ = lab.take(&fixtures::shipped_one("s05"));
    let _ = lab.take(&fixtures::shipped_one("s09"));
    let helper = lab.helper_with(&[]);
    (lab, helper)
}

fn restore<'a>(lab: &'a Lab, helper: &Helper) -> Terminal<'a> {
    let (from, socket) = (lab.backups().display().to_string(), helper.socket.display().to_string());
    Terminal::start(lab, &["restore", "--from", &from, "--host-role", "pve", "--socket", &socket])
}

/// As far as the question for a mode.
fn opened(terminal: &Terminal<'_>) {
    terminal.asked("  x cancel");
    terminal.press(&["Enter"]).asked("Passphrase or age identity of the backup");
    terminal.enter(PASSPHRASE).until("modes", |screen| screen.contains("> full"));
}

#[test]
fn from_the_first_question_to_the_report() {
    let (lab, helper) = scene();
    let terminal = restore(&lab, &helper);
    let screen = terminal.asked("  x cancel");
    assert!(screen.lines().all(|line| line.chars().count() <= 80) && screen.contains("> 2026-11-22 01:42:18"));
    terminal.press(&["Enter"]).asked("Passphrase or age identity of the backup");
    terminal.enter("not the passphrase").asked("Passphrase or age identity, try 2 of 3");
    terminal.enter(PASSPHRASE).until("modes", |screen| screen.contains("> full"));
    // Into the categories and back out of them.
    terminal.press(&["Down", "Down", "Down", "Enter"]);
    terminal.until("categories", |screen| screen.contains("Which categories") && screen.contains("> [ ]"));
    terminal
        .press(&["Escape"])
        .until("modes again", |screen| screen.contains("> full") && !screen.contains("Which categories"));
    // The plan, a page at a time; the window changes its size between two pages.
    let page = terminal.press(&["Enter"]).asked("-- more");
    assert!(page.contains("Plan for ") && page.trim_end().lines().count() <= 24, "{page}");
    terminal.resize(70, 12).press(&["Space"]).asked("-- more");
    let page = terminal.press(&["Space"]).asked("-- more");
    assert!(page.lines().count() <= 12, "{page}");
    terminal.resize(80, 24).press(&["q"]).asked("Export directory");
    assert!(terminal.screen().contains("In all ") && terminal.screen().contains("NOT applied"));
    // Back to the modes, and here again.
    terminal.enter("back").until("modes once more", |screen| screen.contains("> full"));
    terminal.press(&["Enter"]).asked("-- more");
    terminal.press(&["q"]).asked("Export directory");
    terminal.enter("/etc").until("no place", |screen| screen.contains("cannot be the export directory"));
    terminal.enter("").asked("Type RESTORE to start");
    terminal.enter("back").asked("Export directory");
    terminal.enter("exports").asked("Type RESTORE to start");
    let before = lab.snapshot();
    terminal.enter("restore").until("no", |screen| screen.contains("Not started. The word is RESTORE."));
    assert_eq!(before.changes(&lab.snapshot()), []);
    terminal.enter("RESTORE");
    let all = terminal.ended(0);
    for text in ["That passphrase does not open this backup.", "Result: done", "Export directory: ", "Audit log head "]
    {
        assert!(all.contains(text), "no {text:?} in:\n{all}");
    }
    for secret in ["not the passphrase", PASSPHRASE] {
        assert!(!all.contains(secret), "a secret is shown:\n{all}");
    }
    assert_ne!(std::fs::read(lab.root().join("etc/ssh/sshd_config")).unwrap(), b"# live\n");
    assert!(lab.home().join("exports").is_dir());
}

/// Stops at a question; nothing is changed, and that is said.
#[track_caller]
fn stops(lab: &Lab, helper: &Helper, keys: &[&str], way: impl Fn(&Terminal<'_>)) {
    let before = lab.snapshot();
    let terminal = restore(lab, helper);
    way(&terminal);
    terminal.press(keys);
    let all = terminal.ended(130);
    assert!(all.contains("nothing was written to the root"), "{all}");
    assert_eq!(before.changes(&lab.snapshot()), []);
}

#[test]
fn ctrl_c_and_cancel_at_every_question() {
    let (lab, helper) = scene();
    let (lab, helper) = (&lab, &helper);
    stops(lab, helper, &["C-c"], |terminal| drop(terminal.asked("  x cancel")));
    stops(lab, helper, &["Up", "Enter"], |terminal| drop(terminal.asked("  x cancel")));
    let secret = |terminal: &Terminal<'_>| {
        terminal.asked("  x cancel");
        terminal.press(&["Enter"]).asked("Passphrase or age identity");
    };
    stops(lab, helper, &["C-c"], secret);
    stops(lab, helper, &["Enter"], secret);
    stops(lab, helper, &["C-c"], opened);
    stops(lab, helper, &["C-c"], |terminal| {
        opened(terminal);
        terminal.press(&["Down", "Down", "Down", "Enter"]);
        terminal.until("categories", |screen| screen.contains("> [ ]"));
    });
    let paging = |terminal: &Terminal<'_>| {
        opened(terminal);
        terminal.press(&["Enter"]).asked("-- more");
    };
    stops(lab, helper, &["C-c"], paging);
    let last = |terminal: &Terminal<'_>| {
        paging(terminal);
        terminal.press(&["q"]).asked("Export directory");
        terminal.enter("").asked("Type RESTORE to start");
    };
    stops(lab, helper, &["C-c"], last);
    stops(lab, helper, &["c", "a", "n", "c", "e", "l", "Enter"], last);
}

#[test]
fn ctrl_c_while_it_writes() {
    let lab = Lab::new();
    lab.populate();
    let mut rng = Rng::new(4);
    let block: Vec<u8> = (0..1 << 17).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    let mut tar = Tar::new();
    for index in 0..160u32 {
        tar.file(format!("./home/anna/{index}"), [&index.to_le_bytes()[..], &block].concat());
    }
    let backup = Backup { codec: Codec::None, ..Backup::default() }.write(&lab.backups(), &tar.finish());
    let helper = lab.helper_with(&[]);
    let (backup, socket) = (backup.display().to_string(), helper.socket.display().to_string());
    let before = lab.snapshot();
    let words =
        ["restore", &backup, "--mode", "full", "--host-role", "pve", "--confirm", "RESTORE", "--accept-warnings"];
    let terminal = Terminal::start(&lab, &[&words[..], &["--socket", &socket]].concat());
    // Not every line of the plan fits on one page.
    terminal.asked("-- more");
    terminal.press(&["q"]).until("the bar", |screen| screen.contains("Writing ["));
    terminal.press(&["C-c"]);
    let all = terminal.ended(130);
    assert!(all.contains("Result: stopped by the operator"), "{all}");
    assert!(all.contains("Nothing was written to the root.") && all.contains("only 0 of 160 written"), "{all}");
    drop(terminal);
    assert_eq!(before.changes(&lab.snapshot()), []);
}
