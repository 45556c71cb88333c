//! Paths below a restore root: checked components, never text that a kernel could read differently.

use crate::escape::Escaped;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The longest single name Linux file systems take (`NAME_MAX`).
pub const MAX_COMPONENT: usize = 255;
/// The longest path that is accepted, in bytes (`PATH_MAX` less the final NUL).
pub const MAX_PATH: usize = 4095;

/// A path below a root: zero or more names, none of which is empty, `.`, `..`, or holds a slash or NUL.
///
/// Stored joined by single slashes, so ordering for sorting must go by components: [`Ord`] does.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Box<[u8]>);

/// Why bytes are not an acceptable path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `..` climbs; it is refused, never resolved (CVE-2007-4559 and its kin).
    #[error("the name climbs with \"..\"")]
    Climbs,
    /// A leading slash. Stripping it is how CVE-2021-32804 began.
    #[error("the name is absolute")]
    Absolute,
    /// Tools that cut at NUL would see another name.
    #[error("the name holds a NUL byte")]
    Nul,
    /// Longer than [`MAX_COMPONENT`].
    #[error("a part of the name is longer than {MAX_COMPONENT} bytes")]
    LongComponent,
    /// Longer than [`MAX_PATH`].
    #[error("the name is longer than {MAX_PATH} bytes")]
    Long,
    /// Nothing is left: the root itself, where an entry is wanted.
    #[error("the name is empty")]
    Empty,
    /// Not in the one canonical spelling (only on the wire, where both ends are ours).
    #[error("the path is not in canonical form")]
    NotCanonical,
}

impl RelPath {
    /// The root itself: no components.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Reads a name as archives spell it: `./` in front, empty and `.` parts and a trailing slash are dropped;
    /// what climbs, is absolute, too long or holds NUL is refused. May give the root (for `./`).
    ///
    /// # Errors
    /// The reason, as a [`PathError`].
    pub fn from_archive(name: &[u8]) -> Result<Self, PathError> {
        if name.contains(&0) {
            return Err(PathError::Nul);
        }
        if name.first() == Some(&b'/') {
            return Err(PathError::Absolute);
        }
        let mut joined = Vec::with_capacity(name.len());
        for part in name.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(PathError::Climbs),
                part if part.len() > MAX_COMPONENT => return Err(PathError::LongComponent),
                part => {
                    if !joined.is_empty() {
                        joined.push(b'/');
                    }
                    joined.extend_from_slice(part);
                }
            }
        }
        if joined.len() > MAX_PATH {
            return Err(PathError::Long);
        }
        Ok(Self(joined.into()))
    }

    /// Reads the canonical spelling only: what [`RelPath::as_bytes`] gives.
    ///
    /// # Errors
    /// [`PathError::NotCanonical`] for another spelling of a good path, else the reason.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, PathError> {
        let path = Self::from_archive(bytes)?;
        if path.as_bytes() == bytes { Ok(path) } else { Err(PathError::NotCanonical) }
    }

    /// The components joined by `/`, without a leading one; empty for the root.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty())
    }

    /// How many names.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// The path of the first `depth` names; the whole path when it has no more.
    #[must_use]
    pub fn prefix(&self, depth: usize) -> RelPath {
        let Some(slash) = depth.checked_sub(1) else { return RelPath::root() };
        let mut ends = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let whole = || self.clone();
        ends.nth(slash).and_then(|(end, _)| self.0.get(..end)).map_or_else(whole, |bytes| RelPath(bytes.into()))
    }

    /// The last name and the path of its directory; `None` for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(RelPath, &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => {
                let (dir, name) = (self.0.get(..slash)?, self.0.get(slash + 1..)?);
                Some((RelPath(dir.into()), name))
            }
            None => Some((RelPath::root(), &self.0)),
        }
    }

    /// The directory this path is in; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<RelPath> {
        self.split_last().map(|(dir, _)| dir)
    }

    /// The last name; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// This path with one more name.
    ///
    /// # Errors
    /// When `name` is not one acceptable component, or the whole would be too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        if name.is_empty() || name == b"." {
            return Err(PathError::Empty);
        }
        if name.contains(&b'/') {
            return Err(PathError::NotCanonical);
        }
        let mut whole = self.0.to_vec();
        if !whole.is_empty() {
            whole.push(b'/');
        }
        whole.extend_from_slice(name);
        Self::from_canonical(&whole)
    }

    /// Whether this is `other` or lies below it, by whole components (`etc/pve-x` is not below `etc/pve`).
    #[must_use]
    pub fn starts_with(&self, other: &RelPath) -> bool {
        other.is_root()
            || self.0.strip_prefix(&*other.0).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
    }

    /// The ancestors from the nearest directory up to and including the root.
    pub fn ancestors(&self) -> impl Iterator<Item = RelPath> {
        std::iter::successors(self.parent(), RelPath::parent)
    }
}

impl Ord for RelPath {
    /// By components, without splitting: a slash sorts before every other byte (there is no NUL). Plans and their
    /// checks live on this, so what two paths have in common is passed over in words.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (a, b) = (&*self.0, &*other.0);
        let same = a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0).take_while(|(x, y)| x == y).count() * 16;
        let (a, b) = (a.get(same..).unwrap_or_default(), b.get(same..).unwrap_or_default());
        match a.iter().zip(b).find(|(x, y)| x != y) {
            Some((x, y)) => {
                let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
                rank(*x).cmp(&rank(*y))
            }
            None => a.len().cmp(&b.len()),
        }
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", Escaped(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&Escaped(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            crate::escape::unescape(&text).ok_or_else(|| serde::de::Error::custom("not an escaped path"))?
        } else {
            Vec::<u8>::deserialize(deserializer)?
        };
        Self::from_canonical(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> RelPath {
        RelPath::from_archive(text.as_bytes()).unwrap()
    }

    #[test]
    fn archive_spellings_become_one_path() {
        assert_eq!(path("./etc//hosts/").as_bytes(), b"etc/hosts");
        assert_eq!(path(".").as_bytes(), b"");
        assert_eq!(path("..foo/a..b/...").as_bytes(), b"..foo/a..b/...");
    }

    #[test]
    fn what_climbs_is_refused_not_repaired() {
        for bad in ["..", "../etc", "etc/../../x", "etc/..", "./.."] {
            assert_eq!(RelPath::from_archive(bad.as_bytes()), Err(PathError::Climbs), "{bad}");
        }
        for bad in ["/etc", "//etc", "////etc/passwd"] {
            assert_eq!(RelPath::from_archive(bad.as_bytes()), Err(PathError::Absolute), "{bad}");
        }
        assert_eq!(RelPath::from_archive(b"etc/ho\0sts"), Err(PathError::Nul));
        assert_eq!(RelPath::from_archive(&[b'a'; 256]), Err(PathError::LongComponent));
        assert_eq!(RelPath::from_archive("a/".repeat(2100).as_bytes()), Err(PathError::Long));
    }

    #[test]
    fn containment_is_by_component() {
        assert!(path("etc/pve/a").starts_with(&path("etc/pve")));
        assert!(path("etc/pve").starts_with(&path("etc/pve")));
        assert!(!path("etc/pve-x").starts_with(&path("etc/pve")));
        assert!(path("a").starts_with(&RelPath::root()));
    }

    #[test]
    fn a_prefix_is_the_first_names() {
        let whole = path("a/bc/d");
        let prefixes: Vec<String> = (0..5).map(|depth| whole.prefix(depth).to_string()).collect();
        assert_eq!(prefixes, ["/", "/a", "/a/bc", "/a/bc/d", "/a/bc/d"]);
        assert_eq!(RelPath::root().prefix(3), RelPath::root());
    }

    #[test]
    fn order_is_depth_first_by_component() {
        let mut paths = [path("a/b"), path("a-b"), path("a"), path("a/a/z")];
        paths.sort();
        assert_eq!(paths.map(|p| p.to_string()), ["/a", "/a/a/z", "/a/b", "/a-b"]);
    }

    #[test]
    fn the_wire_takes_only_the_canonical_spelling() {
        let wire = postcard::to_stdvec(&b"etc/./hosts".to_vec()).unwrap();
        assert!(postcard::from_bytes::<RelPath>(&wire).is_err());
        let wire = postcard::to_stdvec(&path("etc/hosts")).unwrap();
        assert_eq!(postcard::from_bytes::<RelPath>(&wire).unwrap(), path("etc/hosts"));
    }

    proptest! {
        #[test]
        fn the_quick_order_is_the_components_order(a in "[ab./-]{0,40}", b in "[ab./-]{0,40}", same in "[a/]{0,40}") {
            let one = RelPath::from_archive(format!("x{same}{a}").as_bytes());
            let other = RelPath::from_archive(format!("x{same}{b}").as_bytes());
            if let (Ok(a), Ok(b)) = (one, other) {
                prop_assert_eq!(a.cmp(&b), a.components().cmp(b.components()));
            }
        }

        #[test]
        fn no_bytes_make_a_path_that_leaves_the_root(bytes in proptest::collection::vec(
            prop_oneof![Just(b'.'), Just(b'/'), Just(b'a'), any::<u8>()], 0..60)) {
            if let Ok(path) = RelPath::from_archive(&bytes) {
                for part in path.components() {
                    prop_assert!(!part.is_empty() && part != b"." && part != b".." && !part.contains(&0));
                }
                prop_assert_eq!(RelPath::from_canonical(path.as_bytes()), Ok(path.clone()));
                if let Some((dir, name)) = path.split_last() {
                    prop_assert_eq!(dir.join(name), Ok(path));
                }
            }
        }
    }
}
