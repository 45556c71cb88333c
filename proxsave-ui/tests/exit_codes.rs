//! The program's exit codes and where it says what.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::process::{Command, Output, Stdio};

fn ui(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_proxsave-ui")).args(words).stdin(Stdio::null()).output().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_is_a_result_and_a_wrong_command_line_an_error() {
    let help = ui(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for part in ["list", "show", "verify", "decrypt", "plan", "restore", "130"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for words in [&[][..], &["no-such"], &["restore", "x", "--mode", "half"], &["show"]] {
        let wrong = ui(words);
        assert_eq!(wrong.status.code(), Some(2), "{words:?}: {}", err(&wrong));
        assert!(wrong.stdout.is_empty() && !wrong.stderr.is_empty());
    }
}

#[test]
fn nothing_found_and_unusable_backups_have_codes() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    assert_eq!(ui(&["list", at]).status.code(), Some(3));
    let missing = format!("{at}/missing.tar\x1b[2J");
    let output = ui(&["show", &missing]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(!err(&output).contains('\x1b'), "names are escaped: {}", err(&output));
    let junk = dir.path().join("junk.tar.xz");
    std::fs::write(&junk, "this is no archive").unwrap();
    let output = ui(&["verify", junk.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5), "{}", err(&output));
}

#[test]
fn root_is_told_what_to_do_and_others_that_nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let output = ui(&["restore", "x.tar", "--no-input", "--socket", socket.to_str().unwrap()]);
    if rustix::process::geteuid().is_root() {
        assert_eq!(output.status.code(), Some(2), "{}", err(&output));
        assert!(err(&output).contains("--run-as"), "{}", err(&output));
    } else {
        assert_eq!(output.status.code(), Some(1), "the backup is not there: {}", err(&output));
    }
    let word = ui(&["restore", "x.tar", "--launch", "direct", "--run-as", "no-such-user-here"]);
    assert_eq!(word.status.code(), Some(2), "{}", err(&word));
}

#[test]
fn with_json_a_failure_is_a_document_too() {
    for command in ["show", "verify", "plan", "restore"] {
        let failed = ui(&[command, "/nonexistent/backup.tar", "--json", "--no-input"]);
        let document: serde_json::Value = serde_json::from_slice(&failed.stdout).unwrap();
        assert_eq!(document["exit_code"], failed.status.code().unwrap(), "{command}");
        let text = document["error"].as_str().unwrap();
        assert!(!text.is_empty() && err(&failed).contains(text), "{command}: {text}");
    }
    let nothing = ui(&["list", "/nonexistent", "--json"]);
    assert!(serde_json::from_slice::<serde_json::Value>(&nothing.stdout).is_ok());
}
