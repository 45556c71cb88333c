//! The state directory.

use super::ServeError;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Opens the state directory, and makes it (0700) where `make` says so.
///
/// # Errors
/// When it cannot be opened or made, or anybody but root could change what is in it.
pub fn open_state(path: &Path, make: bool) -> Result<OwnedFd, ServeError> {
    let failed = |why: &dyn std::fmt::Display| ServeError::path("--state", path, why);
    if make {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| failed(&error))?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(&errno))?;
    let stat = rustix::fs::fstat(&dir).map_err(|errno| failed(&errno))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(failed(&format!("it belongs to user {}; give a directory of root's own", stat.st_uid)));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(failed(&"others can write in it; take that right away (chmod go-w)"));
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_a_directory_of_our_own_will_do() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/state");
        assert!(open_state(&dir, false).is_err());
        open_state(&dir, true).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o770)).unwrap();
        assert!(open_state(&dir, true).unwrap_err().to_string().contains("chmod go-w"));
        let file = temp.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(open_state(&file, false).is_err());
    }
}
