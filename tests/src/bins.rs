//! Finds the two programs under test.

use std::path::{Path, PathBuf};

/// The path of one of the programs, built by the same `cargo` profile as this test.
///
/// `PROXSAVE_BIN_DIR` names another folder (the benchmark uses it for release builds).
///
/// # Panics
/// With what to do, when it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let dir = match std::env::var_os("PROXSAVE_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => target_dir(),
    };
    let path = dir.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first, or use tests/run", path.display());
    path
}

/// `target/PROFILE`: test executables lie in its `deps`.
fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("this test's own path");
    let deps = exe.parent().expect("an executable lies in a folder");
    if deps.file_name().is_some_and(|name| name == "deps") {
        deps.parent().map(Path::to_path_buf).expect("deps lies in a folder")
    } else {
        deps.to_path_buf()
    }
}
