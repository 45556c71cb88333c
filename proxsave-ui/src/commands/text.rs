//! How things are put into words.

use crate::archive::Backup;
use crate::dialogue::bytes;
use proxsave_proto::digest::Timestamp;
use proxsave_proto::escape::escape;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A path, safe to print.
#[must_use]
pub fn path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// A moment in the operator's time zone.
#[must_use]
pub fn local_time(time: Timestamp) -> String {
    moment(time).map_or_else(
        || format!("{} s", time.secs),
        |moment| moment.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// A moment as RFC 3339, in UTC.
#[must_use]
pub fn utc(time: Timestamp) -> String {
    moment(time).map_or_else(|| format!("@{}.{:09}", time.secs, time.nanos), |moment| moment.to_string())
}

fn moment(time: Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.secs, i32::try_from(time.nanos).ok()?).ok()
}

/// Now, as file names have it: `YYYYMMDD-HHMMSS`, local time.
#[must_use]
pub fn stamp() -> String {
    jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string()
}

/// A backup in one line: time, host, kind, protection, size, name.
#[must_use]
pub fn backup_line(backup: &Backup) -> String {
    let name = backup.path.file_name().map(|name| escape(name.as_bytes())).unwrap_or_default();
    format!(
        "{}  {}  {}  {}  {}  {name}",
        local_time(backup.created_at),
        backup.hostname().map_or_else(|| "(host unknown)".to_owned(), |host| escape(host.as_bytes())),
        backup.roles(),
        if backup.is_encrypted() { "encrypted" } else { "plain" },
        bytes(backup.size),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well_even_when_absurd() {
        assert_eq!(utc(Timestamp { secs: 0, nanos: 5 }), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(utc(Timestamp { secs: i64::MAX, nanos: 0 }), format!("@{}.000000000", i64::MAX));
        assert!(local_time(Timestamp { secs: i64::MIN, nanos: 0 }).ends_with(" s"));
    }
}
