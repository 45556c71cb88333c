//! The user database, and becoming one of its users for good.
#![allow(unsafe_code, reason = "getpwnam_r and getgrouplist have no safe form")]

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::{CStr, CString};
use std::io;

/// A user, as the user database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: CString,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// Looks a user up by name. `None` when there is no such user.
///
/// # Errors
/// When the user database cannot be read.
pub fn by_name(name: &CStr) -> io::Result<Option<User>> {
    let mut buffer = vec![0 as libc::c_char; 64 * 1024];
    // SAFETY: an all-zero passwd (null pointers, zero ids) is a valid value; it is only read after it was filled.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: `name` is NUL-terminated; `entry`, `buffer` and `found` are valid for writing for the whole call, and
    // the length given is the buffer's.
    let code =
        unsafe { libc::getpwnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    match (code, found.is_null()) {
        (0, false) => Ok(Some(User { name: name.to_owned(), uid: entry.pw_uid, gid: entry.pw_gid })),
        (0 | libc::ENOENT | libc::ESRCH, true) => Ok(None),
        (code, _) => Err(io::Error::from_raw_os_error(code)),
    }
}

/// All groups of a user.
///
/// # Errors
/// When there are more than 65,536.
pub fn groups(user: &User) -> io::Result<Vec<u32>> {
    let mut groups = vec![0 as libc::gid_t; 65_536];
    let mut count = 65_536;
    // SAFETY: the name is NUL-terminated; `groups` has room for `count` numbers; both are valid for writing.
    let code = unsafe { libc::getgrouplist(user.name.as_ptr(), user.gid, groups.as_mut_ptr(), &raw mut count) };
    if code < 0 {
        return Err(io::Error::other("the user is in too many groups"));
    }
    groups.truncate(usize::try_from(count).unwrap_or_default());
    Ok(groups)
}

/// Becomes a user for good: groups, group, user, all three ids of each, no capability, no new privileges. Call it
/// while the process has a single thread: the ids are the calling thread's.
///
/// # Errors
/// When any of it does not hold afterwards; the process must then end.
pub fn become_for_good(user: &User) -> io::Result<()> {
    let uid = (user.uid != 0 && user.uid != u32::MAX).then(|| Uid::from_raw(user.uid));
    let gid = (user.gid != u32::MAX).then(|| Gid::from_raw(user.gid));
    let (Some(uid), Some(gid)) = (uid, gid) else {
        return Err(io::Error::other("that is not an ordinary user"));
    };
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("other threads are running already"));
    }
    let groups: Vec<Gid> = groups(user)?.into_iter().filter(|gid| *gid != u32::MAX).map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    let left = rustix::thread::capabilities(None)?;
    if !(left.effective | left.permitted | left.inheritable).is_empty() {
        return Err(io::Error::other("capabilities are left"));
    }
    rustix::thread::set_no_new_privs(true)?;
    let (uids, gids) = all_ids()?;
    let held = uids == [user.uid; 3] && gids == [user.gid; 3];
    let back = rustix::thread::set_thread_uid(Uid::ROOT).is_ok();
    if held && !back { Ok(()) } else { Err(io::Error::other("the change of user did not hold")) }
}

/// Real, effective and saved ids of user and group.
fn all_ids() -> io::Result<([u32; 3], [u32; 3])> {
    let ([mut r, mut e, mut s], [mut rg, mut eg, mut sg]) = ([0; 3], [0; 3]);
    // SAFETY: all six pointers are to local numbers of the right type, valid for writing.
    let codes = unsafe {
        (libc::getresuid(&raw mut r, &raw mut e, &raw mut s), libc::getresgid(&raw mut rg, &raw mut eg, &raw mut sg))
    };
    if codes == (0, 0) { Ok(([r, e, s], [rg, eg, sg])) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_and_nobody_else_by_its_name() {
        let root = by_name(c"root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(groups(&root).unwrap().contains(&0));
        assert_eq!(by_name(c"no-such-user-here").unwrap(), None);
    }

    #[test]
    fn becoming_root_is_refused() {
        let root = User { name: c"root".to_owned(), uid: 0, gid: 0 };
        assert!(become_for_good(&root).is_err());
    }
}
