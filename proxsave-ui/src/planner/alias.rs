//! The directories that are links on every Debian since the merged /usr.

use proxsave_proto::RelPath;

/// Each link and what it leads to.
const ALIASES: &[(&str, &str)] = &[
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib32", "usr/lib32"),
    ("lib64", "usr/lib64"),
    ("libx32", "usr/libx32"),
    ("var/run", "run"),
    ("var/lock", "run/lock"),
];

/// The path that something below an alias really has; `None` for any other path, the alias itself included (the
/// link is nothing that a restore touches by another name).
pub(super) fn real(path: &RelPath) -> Option<RelPath> {
    ALIASES.iter().find_map(|(link, to)| {
        let rest = path.as_bytes().strip_prefix(link.as_bytes())?.strip_prefix(b"/")?;
        RelPath::from_canonical(&[to.as_bytes(), b"/", rest].concat()).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_an_alias_is_translated() {
        let of = |text: &str| real(&RelPath::from_archive(text.as_bytes()).unwrap()).map(|path| path.to_string());
        assert_eq!(of("lib/systemd/system/a"), Some("/usr/lib/systemd/system/a".to_owned()));
        assert_eq!(of("sbin/x"), Some("/usr/sbin/x".to_owned()));
        assert_eq!(of("var/run/a"), Some("/run/a".to_owned()));
        for other in ["lib", "library/x", "usr/lib/x", "var/lib/x", "var/run"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
