//! Who the caller is: by the kernel's word or root's, never by its own.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::path::Path;

/// The largest user or group database that is read for a name, in bytes.
const MAX_DATABASE: u64 = 16 << 20;

/// The process at the other end, as it was when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User id. The only part that rights hang on.
    pub uid: u32,
    /// Process id, in our namespace, at the time of connecting; for the log only, since it can be reused.
    pub pid: Option<u32>,
    /// Name in the host's `/etc/passwd`, where it has one; for display only.
    pub name: Option<String>,
}

impl Caller {
    /// Asks the kernel (`SO_PEERCRED`) who made the other end of a Unix socket.
    ///
    /// # Errors
    /// When it is no Unix socket, or the kernel does not say.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let cred = rustix::net::sockopt::socket_peercred(socket)?;
        let uid = cred.uid.as_raw();
        let pid = u32::try_from(cred.pid.as_raw_nonzero().get()).ok();
        Ok(Self { uid, pid, name: user_name(uid) })
    }

    /// The user for whom root started this process, which it says with `--for-user`: from here on that user is who
    /// calls, with that user's rights and no more. Root itself stays root.
    #[must_use]
    pub fn on_behalf_of(self, uid: u32) -> Self {
        Self { uid, pid: self.pid, name: user_name(uid) }
    }

    /// As it is told to the front-end.
    #[must_use]
    pub fn to_message(&self) -> proxsave_proto::message::Caller {
        proxsave_proto::message::Caller { uid: self.uid, name: self.name.clone() }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "user {} ({})", proxsave_proto::escape::escape(name.as_bytes()), self.uid),
            None => write!(f, "user {}", self.uid),
        }
    }
}

/// The name of a user in the host's `/etc/passwd`. Not by NSS, which would load libraries and talk to the network.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    let text = read_database(Path::new("/etc/passwd")).ok()?;
    records(&text).find(|record| record.id == uid).map(|record| record.name.to_owned())
}

/// The id of a user in the host's `/etc/passwd`, by name.
#[must_use]
pub fn user_id(name: &str) -> Option<u32> {
    let text = read_database(Path::new("/etc/passwd")).ok()?;
    records(&text).find(|record| record.name == name).map(|record| record.id)
}

/// The id of a group in the host's `/etc/group`, by name.
#[must_use]
pub fn group_id(name: &str) -> Option<u32> {
    let text = read_database(Path::new("/etc/group")).ok()?;
    records(&text).find(|record| record.name == name).map(|record| record.id)
}

/// One line of a user or group database: both have the name first and the number third.
struct Record<'a> {
    name: &'a str,
    id: u32,
}

fn records(text: &str) -> impl Iterator<Item = Record<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        // Lines that begin with + or - are NIS directives, not users.
        let plain = !name.is_empty() && !name.starts_with(['+', '-', '#']);
        Some(Record { name, id: id.parse().ok()? }).filter(|_| plain)
    })
}

fn read_database(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_DATABASE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_kernel_says_who_is_there() {
        let (near, _far) = UnixStream::pair().unwrap();
        let caller = Caller::of(&near).unwrap();
        assert_eq!(caller.uid, rustix::process::geteuid().as_raw());
        assert_eq!(caller.pid, Some(std::process::id()));
        assert!(Caller::of(File::open("/dev/null").unwrap()).is_err());
    }

    #[test]
    fn databases_are_read_by_field_and_nothing_else_counts() {
        let text = "root:x:0:0:root:/root:/bin/sh\n+nis:x:5:::\n#c:x:6:\nbad\nalice:x:1000:1000::/:/\nx:y:z:\n";
        let found: Vec<_> = records(text).map(|record| (record.name, record.id)).collect();
        assert_eq!(found, [("root", 0), ("alice", 1000)]);
        assert_eq!(user_id("root"), Some(0));
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_id("no such user here"), None);
    }

    #[test]
    fn a_hostile_name_is_shown_escaped() {
        let caller = Caller { uid: 7, pid: None, name: Some("a\x1b[2J".to_owned()) };
        assert_eq!(caller.to_string(), "user a\\x1b[2J (7)");
    }
}
