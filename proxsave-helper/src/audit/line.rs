//! One line of the log: its fixed head, the event's fields, and the hash that closes it.

use super::event::Event;
use super::time::rfc3339;
use proxsave_proto::Digest;
use proxsave_proto::digest::Timestamp;
use sha2::{Digest as _, Sha256};

/// The longest line, in bytes without its newline. The longest this program writes has a path of 4,095 bytes and
/// a text of 4,096, each byte of which takes at most five.
pub const MAX_LINE: usize = 64 * 1024;

/// Goes into the hash before the line, so that no other hash of this project can be taken for a line's.
const DOMAIN: &[u8] = b"proxsave audit 1\0";
/// What stands between a line's body and its hash.
const HASH_FIELD: &[u8] = b",\"hash\":\"";
/// Bytes after the body: the field, 64 hex digits, `"}`.
const SEAL_LEN: usize = HASH_FIELD.len() + 64 + 2;

/// What every line says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Its number; the first is 1.
    pub(super) seq: u64,
    /// Hash of the line before; all zeros for the first.
    pub(super) prev: Digest,
    /// Its own hash.
    pub(super) hash: Digest,
    /// Name of the event.
    pub(super) event: String,
}

/// Why bytes are not a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Too long.
    #[error("it is longer than any line of this log")]
    TooLong,
    /// Not of the form that every line has.
    #[error("it is not a line of this log")]
    Form,
    /// The hash is not that of the bytes before it.
    #[error("its text is not what was written: it does not have the hash that closes it")]
    Hash,
}

/// The event's own fields, as they stand in a line: what comes after `"session":"...",` up to the closing brace.
pub(super) fn fields(event: &Event<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let mut json = serde_json::to_vec(event)?;
    // `{"event":...}` without its braces.
    json.pop();
    Ok(json.split_off(1.min(json.len())))
}

/// Appends a whole line with its newline to `out` and gives its hash.
pub(super) fn write(
    out: &mut Vec<u8>,
    seq: u64,
    prev: Digest,
    time: Timestamp,
    session: &str,
    fields: &[u8],
) -> Digest {
    let start = out.len();
    out.extend_from_slice(
        format!("{{\"seq\":{seq},\"time\":\"{}\",\"prev\":\"{prev}\",\"session\":\"{session}\",", rfc3339(time))
            .as_bytes(),
    );
    out.extend_from_slice(fields);
    let hash = hash_of(out.get(start..).unwrap_or_default());
    out.extend_from_slice(HASH_FIELD);
    out.extend_from_slice(hash.to_string().as_bytes());
    out.extend_from_slice(b"\"}\n");
    hash
}

/// Reads a line (without its newline) and checks it against its own hash.
pub(super) fn read(line: &[u8]) -> Result<Head, LineError> {
    if line.len() > MAX_LINE {
        return Err(LineError::TooLong);
    }
    let (body, seal) = line.split_at_checked(line.len().saturating_sub(SEAL_LEN)).ok_or(LineError::Form)?;
    let hex = seal
        .strip_prefix(HASH_FIELD)
        .and_then(|rest| rest.strip_suffix(b"\"}"))
        .and_then(|hex| std::str::from_utf8(hex).ok())
        .ok_or(LineError::Form)?;
    let hash = hash_of(body);
    // Compared as text: the digits' case is part of what was written.
    if hash.to_string() != hex {
        return Err(LineError::Hash);
    }
    let (seq, prev, event) = read_head(body).ok_or(LineError::Form)?;
    Ok(Head { seq, prev, hash, event })
}

fn hash_of(body: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(body);
    Digest(hash.finalize().into())
}

/// The fields that stand at the start of every line, in this order.
fn read_head(body: &[u8]) -> Option<(u64, Digest, String)> {
    let text = std::str::from_utf8(body).ok()?;
    let (seq, rest) = text.strip_prefix("{\"seq\":")?.split_once(",\"time\":\"")?;
    let (_, rest) = rest.split_once("\",\"prev\":\"")?;
    let (prev, rest) = rest.split_once("\",\"session\":\"")?;
    let (_, rest) = rest.split_once("\",\"event\":\"")?;
    let (event, _) = rest.split_once('"')?;
    Some((seq.parse().ok()?, Digest::from_hex(prev)?, event.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Text;

    #[test]
    fn a_line_is_this_text() {
        let event = Event::OutOfOrder { what: Text::from("submit before hello\n") };
        let mut out = Vec::new();
        let time = Timestamp { secs: 0, nanos: 5 };
        let hash = write(&mut out, 7, Digest([0xab; 32]), time, "0011", &fields(&event).unwrap());
        let body = format!(
            "{{\"seq\":7,\"time\":\"1970-01-01T00:00:00.000000005Z\",\"prev\":\"{}\",\"session\":\"0011\",\
             \"event\":\"out-of-order\",\"what\":\"submit before hello\\\\n\"",
            "ab".repeat(32)
        );
        assert_eq!(Digest::of(format!("proxsave audit 1\0{body}").as_bytes()), hash);
        assert_eq!(String::from_utf8(out.clone()).unwrap(), format!("{body},\"hash\":\"{hash}\"}}\n"));
        let parsed: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(parsed["hash"], hash.to_string());
        let head = Head { seq: 7, prev: Digest([0xab; 32]), hash, event: "out-of-order".to_owned() };
        assert_eq!(read(out.trim_ascii_end()), Ok(head));
    }

    #[test]
    fn other_text_is_refused_by_its_fault() {
        assert_eq!(read(b""), Err(LineError::Form));
        assert_eq!(read(b"{\"seq\":1}"), Err(LineError::Form));
        assert_eq!(read(&vec![b' '; MAX_LINE + 1]), Err(LineError::TooLong));
        let mut out = Vec::new();
        write(&mut out, 1, Digest([0; 32]), Timestamp { secs: 0, nanos: 0 }, "s", b"\"event\":\"x\"");
        out.pop();
        let upper = String::from_utf8(out.clone()).unwrap();
        let (body, seal) = upper.split_once(",\"hash\":\"").unwrap();
        let upper = format!("{body},\"hash\":\"{}\"}}", seal[..64].to_uppercase());
        assert_eq!(read(upper.as_bytes()), Err(LineError::Hash));
        for index in 0..out.len() {
            let mut changed = out.clone();
            changed[index] ^= 1;
            assert!(read(&changed).is_err(), "byte {index}");
        }
    }
}
