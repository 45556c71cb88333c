//! The tar profile: which streams are read, and what each becomes.
//!
//! There is one reader and one effective entry for each member; everything later works on that value. The reader
//! is stricter than any general one: what another program could read differently is refused.
//!
//! **The whole archive is refused** for
//! * a header with a wrong checksum, a magic that is neither ustar's nor GNU's, junk behind the NUL of a text
//!   field, a number with anything but octal digits (base-256 is for GNU headers only), a negative size;
//! * an entry type other than file (`0`, NUL), hard link (`1`), symbolic link (`2`), device or FIFO (`3` `4` `6`),
//!   directory (`5`), PAX (`x`, and `g` with nothing but comments) and GNU long names (`L`, `K`): volume, dump and
//!   multi-volume records, contiguous files, GNU's old sparse type and vendor types among them;
//! * a body on an entry that has none; a file or link whose name ends in a slash;
//! * PAX records with a malformed length, without newline, with an empty key, with a key given twice, with a key
//!   this profile does not know, or with a number that does not fit;
//! * a PAX size that differs from the header's (except that a header too small for the size has 0 in it);
//! * two extended names for one entry, an extension header that applies to nothing, NUL in a name;
//! * a name that climbs with `..`, is absolute or too long (see [`RelPath::from_archive`]);
//! * one path twice, or something below a path that is not a directory;
//! * no entry at all, a lone zero block, a missing end marker, anything but zeros behind it.
//!
//! **One entry is refused, by name, and the rest goes on** for devices, FIFOs, hard links to something that is not a
//! file of the archive, and access control lists that cannot be read exactly (names instead of numbers).
//!
//! **Attributes are left out, by name,** when a restore never sets them (`security.selinux`, `trusted.*`, …).
//!
//! Decoded are PAX sparse files (GNU.sparse 0.0, 0.1 and 1.0), `SCHILY.xattr.*`, `LIBARCHIVE.xattr.*` and
//! `SCHILY.acl.access`/`default`. Ignored are names of users and groups (numbers count), `atime`, `ctime`, and the
//! source's device, inode and link numbers. An entry for the root itself (`./`) is passed over: a backup never
//! changes the root's own mode.
//!
//! [`RelPath::from_archive`]: proxsave_proto::RelPath::from_archive

mod acl;
mod member;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;
mod walk;

pub use member::{Attributes, Kind, Member};
pub use walk::Walker;

use std::io;

/// Why a stream is not in the profile.
#[derive(Debug)]
pub enum TarError {
    /// It breaks a rule.
    Format {
        /// The entry, if its name is known.
        name: Option<Vec<u8>>,
        /// Byte of the stream where the header or block begins.
        offset: u64,
        /// The rule.
        why: String,
    },
    /// A bound is passed.
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: u64,
        /// The option that raises it.
        option: &'static str,
    },
    /// The stream below failed.
    Io(io::Error),
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A rule that a header or record breaks, before it is known where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

impl<T: Into<String>> From<T> for Broken {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}
