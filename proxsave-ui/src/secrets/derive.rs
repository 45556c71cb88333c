//! The X25519 identity that ProxSave derives from a passphrase.
//!
//! scrypt with N = 2^15, r = 8, p = 1 over the passphrase (white space at its ends removed) and the bytes of the
//! whole salt text; the 32 bytes clamped as for X25519, and spelt as an age identity. A file made for such a
//! recipient looks like any other: nothing in it says that a passphrase was used, or which salt.

use age::x25519;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::{Zeroize as _, Zeroizing};

/// The fixed salt of ProxSave before 0.25.
pub const SALT_V1: &str = "proxsave/age-passphrase/v1";
/// The fixed salt of its predecessor.
pub const SALT_LEGACY: &str = "proxmox-backup-go/age-passphrase/v1";

const LOG_N: u8 = 15;
const R: u32 = 8;
const P: u32 = 1;

/// Why no identity could be derived. Both cannot happen with the fixed parameters above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no identity could be derived from the passphrase")]
pub struct DeriveError;

/// The salts to try for a backup, in order: the manifest's, then the fixed ones; trimmed, empty and equal ones dropped.
#[must_use]
pub fn salts(manifest: Option<&str>) -> Vec<String> {
    let mut salts: Vec<String> = Vec::with_capacity(3);
    for salt in [manifest.unwrap_or_default(), SALT_V1, SALT_LEGACY] {
        let salt = salt.trim();
        if !salt.is_empty() && !salts.iter().any(|known| known == salt) {
            salts.push(salt.to_owned());
        }
    }
    salts
}

/// Derives the identity for one salt. Takes 32 MiB while it runs, and some tenths of a second.
///
/// # Errors
/// [`DeriveError`], which the fixed parameters exclude.
pub fn identity(passphrase: &SecretString, salt: &str) -> Result<x25519::Identity, DeriveError> {
    let mut key = Zeroizing::new([0u8; 32]);
    let parameters = scrypt::Params::new(LOG_N, R, P, key.len()).map_err(|_| DeriveError)?;
    let secret = passphrase.expose_secret().trim().as_bytes();
    scrypt::scrypt(secret, salt.as_bytes(), &parameters, key.as_mut_slice()).map_err(|_| DeriveError)?;
    if let [first, .., last] = key.as_mut_slice() {
        *first &= 0xf8;
        *last = *last & 0x7f | 0x40;
    }
    let prefix = bech32::Hrp::parse("age-secret-key-").map_err(|_| DeriveError)?;
    let mut text = bech32::encode_upper::<bech32::Bech32>(prefix, key.as_slice()).map_err(|_| DeriveError)?;
    let identity = text.parse().map_err(|_| DeriveError);
    text.zeroize();
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers: passphrase, salt, identity, recipient.
    const KNOWN: [[&str; 4]; 3] = [
        [
            "Correct-Horse-42",
            SALT_V1,
            "AGE-SECRET-KEY-1UQ9Z4TXHNJQ44LN3KTVF7HL4R0PURFHW82GJ00M6MSD6URXG7FXQG0SJ5T",
            "age1ufnnhqymtruyt9j3dujjd8yu6s95tnc4tr0c2x0pdttycg3aedjqn9mqmc",
        ],
        [
            "Correct-Horse-42",
            SALT_LEGACY,
            "AGE-SECRET-KEY-16QAC0Z5SEQVJGYK89K3YS4XY3GL937DWX3FP8AGMZHPU4VRQ8AWQHJJLGZ",
            "age1c6n0hhx2ynp62sahl8rw4mu0k68cn9df638her04susqaqwzfskscu2fnn",
        ],
        [
            "Correct-Horse-42",
            "proxsave/age-passphrase/v2:000102030405060708090a0b0c0d0e0f",
            "AGE-SECRET-KEY-19PEQWY4LH25WLJ9XCSPJQC6ERVJDJNQZ4AFYPMKH2LUCNHJZ2AZSA8984S",
            "age1wwu24t062u59zzhd53zkfk992et84tk2fat6vey2fxfhfgccqukqauu2f6",
        ],
    ];
    /// Keys of the sample archives.
    const SAMPLES: [[&str; 4]; 5] = [
        [
            "Staple-Battery-2026!",
            "proxsave/age-passphrase/v2:ae2f5d082ae54fbd344e4626c0b76c40",
            "AGE-SECRET-KEY-19QCWJF3E0G89G47YQ02SPPUQGFYMTCD92YM079YADXEQH9YWYPLS4F8XYX",
            "age180qqr6qx2wj8eughc3gtuyjsnect4rf6eshahtsdm9fu2yam3qwqmwnlx6",
        ],
        [
            "Staple-Battery-2026!",
            "proxsave/age-passphrase/v2:15dfbc0fcee4a0c57c71ec24a78d2cc4",
            "AGE-SECRET-KEY-1TZ2XQT94Y8U5L38XAGK630GYN0AHG4DHML3XDMRUJAAUGEJFAPXQD5JQ22",
            "age1ctw2gpvlv27qkn07ddrs7xet7c9d0au3dn6paczj9u0u3k9k3edq42kjcj",
        ],
        [
            "Staple-Battery-2026!",
            "proxsave/age-passphrase/v2:3273f6d1ac8740bb30e554312b560711",
            "AGE-SECRET-KEY-15QPTT0L6090Y36YX7Z2LSWM2MUJU23JTJUNX0Y2925UXN0V3L49QR7VFRL",
            "age17jsv9rh3j5u9rw88pnx5e5624kv6q2v47wlzse8ud4jk8ee36dvqpm6ut6",
        ],
        [
            "Older.Phrase-2019",
            SALT_V1,
            "AGE-SECRET-KEY-1EZ37W8ZFQJ9MMS07UUTHRUJV0CXWMNER2RUR4VY4NG23C5X7ZDESMXEJFV",
            "age1lq5fmhyyexe59th7qcdksm4qu0vaucjan4p7awp5k73agvdjjaxq7pg6rz",
        ],
        [
            "Older.Phrase-2019",
            SALT_LEGACY,
            "AGE-SECRET-KEY-1YPT4RHNRMJ9MFYZ0X3WLMJM8XVKTZTCU7979A7KC6EQSCE8R5AESAVE6A2",
            "age1jkjxandty3nt9y6wnm3vwrtx5ya4h778zhgrnsy9usmc2weq5vvqsecfk4",
        ],
    ];

    #[test]
    fn known_answers() {
        for [passphrase, salt, secret, recipient] in KNOWN.into_iter().chain(SAMPLES) {
            let derived = identity(&SecretString::from(passphrase), salt).unwrap();
            assert_eq!(derived.to_string().expose_secret(), secret);
            assert_eq!(derived.to_public().to_string(), recipient);
        }
    }

    #[test]
    fn white_space_at_the_ends_does_not_count() {
        let [passphrase, salt, secret, _] = KNOWN[0];
        let derived = identity(&SecretString::from(format!("\t {passphrase} \r\n")), salt).unwrap();
        assert_eq!(derived.to_string().expose_secret(), secret);
    }

    #[test]
    fn salts_are_trimmed_told_apart_and_in_order() {
        assert_eq!(salts(None), [SALT_V1, SALT_LEGACY]);
        assert_eq!(salts(Some("  ")), [SALT_V1, SALT_LEGACY]);
        assert_eq!(salts(Some(" new \n")), ["new", SALT_V1, SALT_LEGACY]);
        assert_eq!(salts(Some(SALT_LEGACY)), [SALT_LEGACY, SALT_V1]);
    }
}
