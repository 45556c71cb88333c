//! Globs over whole paths, component by component.

use proxsave_proto::category::glob;
use proxsave_proto::escape::escape;
use proxsave_proto::{PathError, RelPath};
use serde::{Deserialize, Serialize};

/// A glob over paths below the root.
///
/// It is a list of names separated by slashes; a leading `/` or `./` says nothing. `*`, `?`, `[a-z]` and `[!a]`
/// stay within one name, `**` stands for any number of names, none included. A path matches when it, or a
/// directory it lies in, matches the whole glob: `etc/ssh` is the directory and all below it, `**/*.conf` is
/// every such file. Case counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathGlob(Vec<Vec<u8>>);

/// Why a text is no glob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is not a path pattern: {why}", escape(.text))]
pub struct GlobError {
    text: Vec<u8>,
    why: PathError,
}

impl PathGlob {
    /// Reads a glob.
    ///
    /// # Errors
    /// When it is empty, climbs with `..` or holds NUL.
    pub fn new(text: &[u8]) -> Result<Self, GlobError> {
        let error = |why| GlobError { text: text.to_vec(), why };
        let trimmed = text.iter().position(|b| *b != b'/').and_then(|start| text.get(start..)).unwrap_or_default();
        let checked = RelPath::from_archive(trimmed).map_err(error)?;
        let parts: Vec<Vec<u8>> = checked.components().map(<[u8]>::to_vec).collect();
        if parts.is_empty() { Err(error(PathError::Empty)) } else { Ok(Self(parts)) }
    }

    /// Whether a path, or a directory it lies in, matches. Takes time proportional to the product of both
    /// lengths at worst.
    #[must_use]
    pub fn matches(&self, path: &RelPath) -> bool {
        let names: Vec<&[u8]> = path.components().collect();
        let (mut at_part, mut at_name) = (0, 0);
        // Where to go on when what follows the latest `**` fails: it then takes one name more.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let Some(part) = self.0.get(at_part) else { return true };
            if part.as_slice() == b"**" {
                at_part += 1;
                if at_part == self.0.len() {
                    return true;
                }
                retry = Some((at_part, at_name));
                continue;
            }
            if names.get(at_name).is_some_and(|name| glob::matches(part, name)) {
                at_part += 1;
                at_name += 1;
                continue;
            }
            match retry {
                Some((part, name)) if name < names.len() => {
                    retry = Some((part, name + 1));
                    (at_part, at_name) = (part, name + 1);
                }
                _ => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is(glob: &str, path: &str) -> bool {
        PathGlob::new(glob.as_bytes()).unwrap().matches(&RelPath::from_archive(path.as_bytes()).unwrap())
    }

    #[test]
    fn globs_match_by_component_and_take_what_is_below() {
        for (glob, path, want) in [
            ("etc/ssh", "etc/ssh", true),
            ("etc/ssh", "etc/ssh/keys/a", true),
            ("/etc/ssh/", "etc/ssh/a", true),
            ("./etc/ssh", "etc/ssh-old", false),
            ("etc/ssh", "etc", false),
            ("etc/*.conf", "etc/a.conf", true),
            ("etc/*.conf", "etc/x/a.conf", false),
            ("*.conf", "etc/a.conf", false),
            ("**/*.conf", "a.conf", true),
            ("**/*.conf", "etc/x/a.conf", true),
            ("home/**/.cache", "home/anna/x/.cache/y", true),
            ("home/**/.cache", "home/.cache", true),
            ("home/**/.cache", "home/anna/cache", false),
            ("a/**/b/**/c", "a/1/b/2/3/c", true),
            ("a/**/b/**/c", "a/1/2/c/b", false),
            ("home/**", "home", true),
            ("**", "anything/at/all", true),
            ("home/[ab]*", "home/bert", true),
            ("home/[!ab]*", "home/bert", false),
        ] {
            assert_eq!(is(glob, path), want, "{glob} {path}");
        }
    }

    #[test]
    fn what_cannot_match_is_refused() {
        for bad in ["", "/", ".", "../x", "a/../b", "a\0b"] {
            assert!(PathGlob::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_glob_ends_without_panic(glob in "[ab*?/\\[\\]]{1,24}", path in "[ab/]{1,30}") {
            if let (Ok(glob), Ok(path)) =
                (PathGlob::new(glob.as_bytes()), RelPath::from_archive(path.trim_start_matches('/').as_bytes())) {
                let _ = glob.matches(&path);
            }
        }

        #[test]
        fn a_path_is_matched_behind_two_stars(path in "[ab]{1,3}(/[ab]{1,3}){0,4}", last in "[ab]{1,3}") {
            let whole = format!("{path}/{last}");
            let behind = format!("**/{last}");
            prop_assert!(is(&behind, &whole));
        }
    }
}
