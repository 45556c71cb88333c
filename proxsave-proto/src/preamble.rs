//! The first bytes on a connection, before any frame: fixed size, so that an older peer gets a sentence instead
//! of garbage.
//!
//! Each side sends 16 bytes at once: the magic `PROXSAVE`, the lowest and the highest protocol version it speaks
//! (u16, little endian, each), and four reserved zero bytes. Both then use the highest version in common.

/// The bytes of a preamble.
pub const LEN: usize = 16;
/// The first eight.
pub const MAGIC: [u8; 8] = *b"PROXSAVE";
/// The lowest protocol version this build speaks.
pub const LOWEST: u16 = 1;
/// The highest.
pub const HIGHEST: u16 = 1;

/// Why a preamble is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// Not the magic: something else is talking.
    #[error("the peer does not speak the ProxSave protocol")]
    Magic,
    /// Malformed range or reserved bytes set.
    #[error("the peer's protocol announcement is malformed")]
    Malformed,
    /// No version in common.
    #[error(
        "the peer speaks protocol {theirs_low} to {theirs_high}, this program {LOWEST} to {HIGHEST}: update the older one"
    )]
    NoCommonVersion {
        /// Their lowest.
        theirs_low: u16,
        /// Their highest.
        theirs_high: u16,
    },
}

/// What this build announces.
#[must_use]
pub fn ours() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    for (slot, byte) in bytes.iter_mut().zip(MAGIC.into_iter().chain(LOWEST.to_le_bytes()).chain(HIGHEST.to_le_bytes()))
    {
        *slot = byte;
    }
    bytes
}

/// Reads the peer's announcement and gives the version to use.
///
/// # Errors
/// See [`PreambleError`].
pub fn agree(bytes: &[u8; LEN]) -> Result<u16, PreambleError> {
    let [magic @ .., l0, l1, h0, h1, r0, r1, r2, r3] = *bytes;
    if magic != MAGIC {
        return Err(PreambleError::Magic);
    }
    let (low, high) = (u16::from_le_bytes([l0, l1]), u16::from_le_bytes([h0, h1]));
    if low == 0 || low > high || [r0, r1, r2, r3] != [0; 4] {
        return Err(PreambleError::Malformed);
    }
    let common = high.min(HIGHEST);
    if common < low.max(LOWEST) {
        return Err(PreambleError::NoCommonVersion { theirs_low: low, theirs_high: high });
    }
    Ok(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preamble_is_these_bytes() {
        assert_eq!(&ours(), b"PROXSAVE\x01\0\x01\0\0\0\0\0");
        assert_eq!(agree(&ours()), Ok(1));
    }

    #[test]
    fn strangers_and_other_versions_get_a_reason() {
        assert_eq!(agree(b"GET / HTTP/1.1\r\n"), Err(PreambleError::Magic));
        assert_eq!(
            agree(b"PROXSAVE\x02\0\x09\0\0\0\0\0"),
            Err(PreambleError::NoCommonVersion { theirs_low: 2, theirs_high: 9 })
        );
        assert_eq!(agree(b"PROXSAVE\x01\0\x09\0\0\0\0\0"), Ok(1));
        assert_eq!(agree(b"PROXSAVE\x02\0\x01\0\0\0\0\0"), Err(PreambleError::Malformed));
        assert_eq!(agree(b"PROXSAVE\x01\0\x01\0\0\0\0\x01"), Err(PreambleError::Malformed));
    }
}
