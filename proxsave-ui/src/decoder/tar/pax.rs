//! PAX extended header records, read strictly into typed values.

use super::Broken;
use super::acl;
use proxsave_proto::digest::Timestamp;
use proxsave_proto::plan::{MAX_XATTR, Xattr};
use std::collections::HashSet;

/// What an extended header says about the entry behind it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pax {
    /// Name.
    pub path: Option<Vec<u8>>,
    /// Link target.
    pub link: Option<Vec<u8>>,
    /// Bytes of the body.
    pub size: Option<u64>,
    /// Owner.
    pub uid: Option<u64>,
    /// Group.
    pub gid: Option<u64>,
    /// Modification time.
    pub mtime: Option<Timestamp>,
    /// Attributes that a restore can set.
    pub xattrs: Vec<Xattr>,
    /// Names of attributes that it never sets.
    pub left_out: Vec<Vec<u8>>,
    /// Why the entry cannot be restored exactly.
    pub refused: Option<String>,
    /// The sparse records.
    pub sparse: SparseRecords,
}

/// The `GNU.sparse.*` records, not yet made into a map.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SparseRecords {
    /// `major`, `minor`.
    pub version: (Option<u64>, Option<u64>),
    /// `name`: the real name (0.1 and 1.0).
    pub name: Option<Vec<u8>>,
    /// `size` (0.x) or `realsize` (1.0).
    pub size: Option<u64>,
    /// `numblocks` (0.x).
    pub blocks: Option<u64>,
    /// `map` (0.1), or the `offset` and `numbytes` records in turn (0.0).
    pub map: Vec<u64>,
}

impl SparseRecords {
    /// Whether there is any.
    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }
}

/// Splits a header's body into its records, `LENGTH KEY=VALUE\n` each.
fn records(mut body: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), Broken>> {
    std::iter::from_fn(move || {
        if body.is_empty() {
            return None;
        }
        let record = split_record(body);
        body = match &record {
            Ok((_, _, rest)) => rest,
            Err(_) => &[],
        };
        Some(record.map(|(key, value, _)| (key, value)))
    })
}

type Split<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn split_record(body: &[u8]) -> Result<Split<'_>, Broken> {
    let malformed = || Broken::from("a PAX record is malformed");
    let blank = body.iter().take(20).position(|byte| *byte == b' ').ok_or_else(malformed)?;
    let digits = body.get(..blank).ok_or_else(malformed)?;
    if digits.first() == Some(&b'0') {
        return Err(malformed());
    }
    let length = usize::try_from(decimal(digits).ok_or_else(malformed)?).map_err(|_| malformed())?;
    let rest = body.get(length..).ok_or_else(malformed)?;
    let record = body.get(blank + 1..length).ok_or_else(malformed)?;
    let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
    let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
    let (key, value) = record.split_at(equals);
    if key.is_empty() || key.contains(&0) {
        return Err(malformed());
    }
    Ok((key, value.get(1..).unwrap_or_default(), rest))
}

/// Checks a global header: it may only hold comments.
pub fn check_global(body: &[u8]) -> Result<(), Broken> {
    for record in records(body) {
        if record?.0 != b"comment" {
            return Err("a global PAX header sets values for all entries behind it".into());
        }
    }
    Ok(())
}

impl Pax {
    /// Reads the records of one extended header.
    pub fn read(body: &[u8]) -> Result<Self, Broken> {
        let mut pax = Self::default();
        let mut seen = HashSet::new();
        let mut acls: [Option<&[u8]>; 2] = [None, None];
        for record in records(body) {
            let (key, value) = record?;
            let repeats = matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes");
            if !seen.insert(key) && !repeats {
                return Err("a PAX record is given twice".into());
            }
            match key {
                b"path" => pax.path = Some(name(value)?),
                b"linkpath" => pax.link = Some(name(value)?),
                b"size" => pax.size = Some(number(value, "size")?),
                b"uid" => pax.uid = Some(number(value, "owner")?),
                b"gid" => pax.gid = Some(number(value, "group")?),
                b"mtime" => pax.mtime = Some(time(value)?),
                b"atime" | b"ctime" | b"LIBARCHIVE.creationtime" => drop(time(value)?),
                b"uname"
                | b"gname"
                | b"comment"
                | b"SCHILY.dev"
                | b"SCHILY.ino"
                | b"SCHILY.nlink"
                | b"LIBARCHIVE.symlinktype" => {}
                b"hdrcharset" => {
                    if !matches!(value, b"BINARY" | b"ISO-IR 10646 2000 UTF-8") {
                        return Err("its names are in a character set that is not known".into());
                    }
                }
                b"SCHILY.acl.access" => acls[0] = Some(value),
                b"SCHILY.acl.default" => acls[1] = Some(value),
                b"SCHILY.fflags" | b"SCHILY.acl.ace" | b"RHT.security.selinux" => pax.left_out.push(key.to_vec()),
                key => {
                    if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                        pax.attribute(attribute.to_vec(), value.to_vec(), false)?;
                    } else if let Some(attribute) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                        let attribute = percent_decode(attribute).ok_or("an attribute's name is malformed")?;
                        let value = base64(value).ok_or("an attribute's value is malformed")?;
                        pax.attribute(attribute, value, true)?;
                    } else if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                        pax.sparse_record(field, value)?;
                    } else {
                        return Err("it has a PAX record of a kind that is not known".into());
                    }
                }
            }
        }
        for (text, attribute) in acls.into_iter().zip(["system.posix_acl_access", "system.posix_acl_default"]) {
            match text.map(acl::encode) {
                None => {}
                Some(Ok(value)) => pax.attribute(attribute.as_bytes().to_vec(), value, true)?,
                Some(Err(why)) => pax.refused = Some(format!("its access control list {why}")),
            }
        }
        pax.xattrs.sort_unstable();
        Ok(pax)
    }

    /// Takes an attribute. A second spelling (`again`) may repeat one, with the same value.
    fn attribute(&mut self, name: Vec<u8>, value: Vec<u8>, again: bool) -> Result<(), Broken> {
        if name.is_empty() || name.contains(&0) || name.len() > 255 || value.len() > MAX_XATTR {
            return Err("an extended attribute's name or value is not possible".into());
        }
        if let Some(known) = self.xattrs.iter().find(|known| known.name == name) {
            return if again && known.value == value {
                Ok(())
            } else {
                Err("an extended attribute is given twice".into())
            };
        }
        if Xattr::is_restorable(&name) {
            self.xattrs.push(Xattr { name, value });
        } else if !self.left_out.contains(&name) {
            self.left_out.push(name);
        }
        Ok(())
    }

    fn sparse_record(&mut self, field: &[u8], value: &[u8]) -> Result<(), Broken> {
        let sparse = &mut self.sparse;
        match field {
            b"major" => sparse.version.0 = Some(number(value, "sparse version")?),
            b"minor" => sparse.version.1 = Some(number(value, "sparse version")?),
            b"name" => sparse.name = Some(name(value)?),
            b"size" | b"realsize" => {
                if sparse.size.replace(number(value, "size")?).is_some() {
                    return Err("its size is given twice".into());
                }
            }
            b"numblocks" => sparse.blocks = Some(number(value, "sparse map")?),
            b"offset" | b"numbytes" => {
                if sparse.map.len().is_multiple_of(2) != (field == b"offset") {
                    return Err("its sparse map is malformed".into());
                }
                sparse.map.push(number(value, "sparse map")?);
            }
            b"map" => {
                if !sparse.map.is_empty() {
                    return Err("its sparse map is given twice".into());
                }
                if !value.is_empty() {
                    sparse.map =
                        value.split(|b| *b == b',').map(|n| number(n, "sparse map")).collect::<Result<_, _>>()?;
                }
            }
            _ => return Err("it has a sparse record of a kind that is not known".into()),
        }
        Ok(())
    }
}

fn name(value: &[u8]) -> Result<Vec<u8>, Broken> {
    if value.contains(&0) {
        return Err("an extended name holds a NUL byte".into());
    }
    if value.is_empty() {
        return Err("an extended name is empty".into());
    }
    Ok(value.to_vec())
}

/// Decimal digits and nothing else.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        digit.is_ascii_digit().then_some(())?;
        value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

fn number(value: &[u8], what: &str) -> Result<u64, Broken> {
    decimal(value)
        .filter(|value| i64::try_from(*value).is_ok())
        .ok_or_else(|| format!("its {what} is not a number that fits").into())
}

/// Seconds with an optional fraction, which may be negative as a whole: `-1.5` is half a second before `-1`.
pub fn time(value: &[u8]) -> Result<Timestamp, Broken> {
    parse_time(value).ok_or_else(|| "a time is not a number that fits".into())
}

fn parse_time(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (value.get(..dot)?, value.get(dot + 1..)?),
        None => (value, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) || fraction.len() > 30 {
        return None;
    }
    let secs = i64::try_from(decimal(whole)?).ok()?;
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0u32, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    match (negative, nanos) {
        (false, _) => Timestamp::new(secs, nanos),
        (true, 0) => Timestamp::new(-secs, 0),
        (true, _) => Timestamp::new((-secs).checked_sub(1)?, 1_000_000_000 - nanos),
    }
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let hi = char::from(bytes.next()?).to_digit(16)?;
                let lo = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(hi * 16 + lo).ok()?
            }
            byte => byte,
        });
    }
    Some(out)
}

/// Base-64 with or without padding, as libarchive writes it.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = match text {
        [rest @ .., b'=', b'='] | [rest @ .., b'='] => rest,
        rest => rest,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    for chunk in text.chunks(4) {
        let mut bits = 0u32;
        for digit in chunk {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = (bits << 6) | u32::from(value);
        }
        let [_, a, b, c] = (bits << (6 * (4 - chunk.len()))).to_be_bytes();
        match chunk.len() {
            4 => out.extend([a, b, c]),
            3 => out.extend([a, b]),
            2 => out.push(a),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let tail = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = tail.len() + 1;
        while length != tail.len() + length.to_string().len() {
            length = tail.len() + length.to_string().len();
        }
        [length.to_string().as_bytes(), &tail].concat()
    }

    #[test]
    fn times_before_1970_round_down() {
        assert_eq!(parse_time(b"-1.5"), Timestamp::new(-2, 500_000_000));
        assert_eq!(parse_time(b"-1"), Timestamp::new(-1, 0));
        assert_eq!(parse_time(b"-0.25"), Timestamp::new(-1, 750_000_000));
        assert_eq!(parse_time(b"1795311734.156547163"), Timestamp::new(1_795_311_734, 156_547_163));
        assert_eq!(parse_time(b"8994000000.1234567899"), Timestamp::new(8_994_000_000, 123_456_789));
        for bad in [&b""[..], b"-", b".5", b"1e9", b"+1", b" 1", b"1.x", b"99999999999999999999", b"--1", b"1.-5"] {
            assert_eq!(parse_time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn malformed_records_refuse_the_header() {
        assert!(Pax::read(&record("path", b"a")).is_ok());
        for bad in [
            &b"0 path=a\n"[..],
            b"010 path=a\n",
            b"+9 path=a\n",
            b"8 path=a",
            b"10 path=aa\n",
            b"12 path=a\n",
            b"8 path=a\n",
            b"99999999999999999999999 path=a\n",
            b"5 p=\n",
            b"4 =\n",
            b"6 patha\n",
            b"path=a\n",
            b"3 \n",
        ] {
            assert!(Pax::read(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_value_may_hold_a_newline_but_not_smuggle_a_record() {
        let value = b"a\n11 uid=123\n";
        let pax = Pax::read(&record("path", value)).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&value[..]));
        assert_eq!(pax.uid, None);
    }

    #[test]
    fn repeated_unknown_and_impossible_records_are_refused() {
        assert!(Pax::read(&[record("uid", b"1"), record("uid", b"1")].concat()).is_err());
        assert!(Pax::read(&record("VENDOR.x", b"1")).is_err());
        assert!(Pax::read(&record("path", b"a\0b")).is_err());
        assert!(Pax::read(&record("size", b"-1")).is_err());
        assert!(Pax::read(&record("size", b"9223372036854775808")).is_err());
        assert!(Pax::read(&record("hdrcharset", b"EBCDIC")).is_err());
        assert!(check_global(&record("comment", b"x")).is_ok());
        assert!(check_global(&record("path", b"x")).is_err());
    }

    #[test]
    fn attributes_are_decoded_or_named() {
        let body = [
            record("SCHILY.xattr.user.note", b"a\0b"),
            record("LIBARCHIVE.xattr.user.note", b"YQBi"),
            record("SCHILY.xattr.security.selinux", b"x"),
            record("SCHILY.acl.access", b"user::rw-,user:1000:r--,group::r--,mask::r--,other::---"),
        ]
        .concat();
        let pax = Pax::read(&body).unwrap();
        assert_eq!(
            pax.xattrs.iter().map(|x| x.name.as_slice()).collect::<Vec<_>>(),
            [&b"system.posix_acl_access"[..], b"user.note"]
        );
        assert_eq!(pax.xattrs[1].value, b"a\0b");
        assert_eq!(pax.left_out, [b"security.selinux".to_vec()]);
        let twice = [record("SCHILY.xattr.user.note", b"a"), record("LIBARCHIVE.xattr.user.note", b"Yg")].concat();
        assert!(Pax::read(&twice).is_err());
        assert!(Pax::read(&record("SCHILY.acl.access", b"user:anna:rw-")).unwrap().refused.is_some());
    }

    #[test]
    fn base64_is_read_with_and_without_padding() {
        assert_eq!(base64(b"YWI="), Some(b"ab".to_vec()));
        assert_eq!(base64(b"YWI"), Some(b"ab".to_vec()));
        assert_eq!(base64(b"YWJj"), Some(b"abc".to_vec()));
        assert_eq!(base64(b"Y"), None);
        assert_eq!(base64(b"Y?=="), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::read(&body);
            let _ = check_global(&body);
        }

        #[test]
        fn near_records_are_read_without_panic(
            length in "[0-9+-]{0,20}", key in "(path|size|mtime|GNU.sparse.map|SCHILY.acl.access)", value in "[0-9,.:a-z-]{0,20}"
        ) {
            let _ = Pax::read(format!("{length} {key}={value}\n").as_bytes());
            let _ = Pax::read(&record(&key, value.as_bytes()));
        }
    }
}
