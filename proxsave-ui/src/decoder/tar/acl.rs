//! POSIX access control lists: from the text that archives carry to the kernel's attribute.
//!
//! Text (star, GNU tar, bsdtar): entries separated by commas or newlines, `tag:qualifier:permissions`, where a
//! named user or group may have its number behind the permissions (`user:anna:rw-:1000`). Attribute
//! (`posix_acl_xattr.h`): a little-endian u32 version 2, then for each entry tag (u16), permissions (u16), id (u32).

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;
const MASK: u16 = 0x10;

/// Translates the text. The error is the end of a sentence that begins "its access control list".
pub fn encode(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not text".to_owned())?;
    let mut entries: Vec<(u16, u32, u16)> = Vec::new();
    for part in text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
        let part = part.split('#').next().unwrap_or_default().trim();
        if !part.is_empty() {
            entries.push(entry(part)?);
        }
    }
    entries.sort_unstable();
    if entries.windows(2).any(|pair| matches!(pair, [(a, b, _), (c, d, _)] if (a, b) == (c, d))) {
        return Err("names somebody twice".to_owned());
    }
    let has = |tag: u16| entries.iter().any(|(found, _, _)| *found == tag);
    if ![0x01, 0x04, 0x20].into_iter().all(has) {
        return Err("lacks the owner, the group or the others".to_owned());
    }
    if (has(0x02) || has(0x08)) && !has(MASK) {
        return Err("lacks the mask".to_owned());
    }
    let mut out = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(permissions.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    Ok(out)
}

fn entry(part: &str) -> Result<(u16, u32, u16), String> {
    let malformed = || "is malformed".to_owned();
    let mut fields = part.split(':');
    let tag = fields.next().ok_or_else(malformed)?;
    // "other::r--" and "other:r--" are both written.
    let rest: Vec<&str> = fields.collect();
    let (qualifier, permissions, number) = match (tag, rest.as_slice()) {
        ("mask" | "m" | "other" | "o", [permissions]) => ("", *permissions, None),
        (_, [qualifier, permissions]) => (*qualifier, *permissions, None),
        (_, [qualifier, permissions, number]) => (*qualifier, *permissions, Some(*number)),
        _ => return Err(malformed()),
    };
    let (own, named) = match tag {
        "user" | "u" => (0x01, 0x02),
        "group" | "g" => (0x04, 0x08),
        "mask" | "m" if qualifier.is_empty() => (MASK, MASK),
        "other" | "o" if qualifier.is_empty() => (0x20, 0x20),
        _ => return Err(malformed()),
    };
    let permissions = bits(permissions).ok_or_else(malformed)?;
    if qualifier.is_empty() {
        return if number.is_none() { Ok((own, NO_ID, permissions)) } else { Err(malformed()) };
    }
    let id = match number {
        Some(number) => number.parse().ok(),
        None => qualifier.parse().ok(),
    };
    match id.filter(|id| *id != NO_ID) {
        Some(id) => Ok((named, id, permissions)),
        None => Err("has a user or group by name, without its number".to_owned()),
    }
}

fn bits(text: &str) -> Option<u16> {
    let [r, w, x] = text.as_bytes() else { return None };
    let bit = |found: u8, letter: u8, value: u16| match found {
        b'-' => Some(0),
        found if found == letter => Some(value),
        _ => None,
    };
    Some(bit(*r, b'r', 4)? | bit(*w, b'w', 2)? | bit(*x, b'x', 1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_form_comes_out() {
        let value = encode(b"user::rw-,user:anna:r--:1000,group::r--,mask::r--,other::---").unwrap();
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "02000000",
                "01000600ffffffff",
                "02000400e8030000",
                "04000400ffffffff",
                "10000400ffffffff",
                "20000000ffffffff"
            )
        );
    }

    #[test]
    fn what_is_not_exact_is_refused() {
        for bad in [
            "user::rw-,group::r--",
            "user::rw-,user:anna:r--,group::r--,mask::r--,other::---",
            "user::rw-,user:1000:r--,group::r--,other::---",
            "user::rw-,user::rw-,group::r--,other::---",
            "user::rwz,group::r--,other::---",
            "user::rw-,group::r--,other::---,cat:1:r--",
            "user::rw-,user:4294967295:r--,group::r--,mask::r--,other::---",
            "",
        ] {
            assert!(encode(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(encode(b"user::rw-\ngroup::r--\nother::---\n").is_ok());
    }
}
