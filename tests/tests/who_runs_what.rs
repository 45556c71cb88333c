//! Which process runs as whom, with which rights, while a restore runs; and what the helper is not built from.

use proxsave_tests::backup::Backup;
use proxsave_tests::lab::{Lab, OPERATOR, wait};
use proxsave_tests::mutate::Rng;
use proxsave_tests::procs::{self, Proc};
use proxsave_tests::tarball::Tar;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The six capabilities of the writer: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, and SETFCAP and DAC_READ_SEARCH at most.
const WRITER_AT_MOST: u32 = 6;

/// Restores 48 MiB of random bytes and looks at all processes all the while.
fn watch() -> Vec<Proc> {
    let lab = Lab::new();
    lab.populate();
    let mut rng = Rng::new(1);
    let mut tar = Tar::new();
    for index in 0..12 {
        let body: Vec<u8> = (0..1 << 19).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        tar.file(format!("./home/anna/big{index}"), body);
    }
    let path = Backup::default().write(&lab.backups(), &tar.finish());
    let helper = lab.helper();
    let mut command = lab.restore_command(&path, "pve", &helper);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
    let here = lab.path().display().to_string();
    // A process shows several states; each is kept, so that the last (its caged one) can be judged.
    let mut seen: BTreeMap<u32, Proc> = BTreeMap::new();
    let (helper_pid, ui_pid) = (helper.pid(), child.id());
    while child.try_wait().unwrap().is_none() {
        for process in procs::family(helper_pid).into_iter().chain(procs::family(ui_pid)) {
            // `/proc/PID/exe` cannot be read of a process that is not dumpable unless one is root: the test is.
            if !process.is_zombie() && process.exe.starts_with(&here) {
                seen.insert(process.pid, process);
            }
        }
    }
    assert!(wait(&mut child, Duration::from_secs(1)).is_some_and(|status| status.success()));
    let _ = helper.finish();
    seen.into_values().collect()
}

#[test]
fn rights_while_a_restore_runs() {
    let seen = watch();
    let (helper, ui): (Vec<_>, Vec<_>) = seen.iter().partition(|p| p.exe.contains("proxsave-helper"));
    assert!(ui.len() >= 2, "front-end and decoder: {ui:#?}");
    for process in &ui {
        assert_eq!(process.uids(), [OPERATOR; 4], "{process:#?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(process.caps(set), 0, "{set} of {process:#?}");
        }
    }
    assert!(ui.iter().any(|p| p.status["Seccomp"] == "2" && p.status["NoNewPrivs"] == "1"), "no decoder: {ui:#?}");
    let gates: Vec<_> = helper.iter().filter(|p| p.uids()[0] != 0).collect();
    assert!(!gates.is_empty(), "no gate: {helper:#?}");
    for gate in gates {
        assert!(gate.uids().iter().all(|uid| ![0, 65534, OPERATOR].contains(uid)), "{gate:#?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(gate.caps(set), 0, "{set} of {gate:#?}");
        }
        assert_eq!((&*gate.status["Seccomp"], &*gate.status["NoNewPrivs"]), ("2", "1"), "{gate:#?}");
    }
    let roots: Vec<_> = helper.iter().filter(|p| p.uids()[0] == 0).collect();
    for process in &roots {
        assert_eq!(process.threads.len(), 1, "a thread in a root process: {process:#?}");
    }
    let is_writer = |p: &Proc| {
        let bits = p.caps("CapEff").count_ones();
        (2..=WRITER_AT_MOST).contains(&bits) && p.status["Seccomp"] == "2" && p.status["NoNewPrivs"] == "1"
    };
    let writers: Vec<_> = roots.iter().filter(|process| is_writer(process)).collect();
    assert!(!writers.is_empty(), "no writer with six capabilities: {roots:#?}");
}

fn tree(package: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--package", package])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_helper_has_no_decoder_in_it() {
    let names: Vec<String> =
        tree("proxsave-helper").lines().filter_map(|l| Some(l.split(' ').next()?.into())).collect();
    assert!(names.len() > 20 && names.iter().any(|name| name == "proxsave-proto"));
    for banned in [
        "age",
        "age-core",
        "tar",
        "astral-tokio-tar",
        "zstd",
        "zstd-safe",
        "flate2",
        "bzip2",
        "liblzma",
        "xz2",
        "lzma-rs",
        "miniz_oxide",
        "lz4",
        "brotli",
        "hyper",
        "reqwest",
        "ureq",
        "curl",
        "h2",
        "rustls",
        "openssl",
        "scrypt",
    ] {
        assert!(!names.iter().any(|name| name == banned), "the helper depends on {banned}");
    }
    // The check can fail: the front-end has what the helper must not.
    let ui = tree("proxsave-ui");
    assert!(["age ", "tar ", "zstd "].iter().all(|name| ui.lines().any(|line| line.starts_with(name))));
}
