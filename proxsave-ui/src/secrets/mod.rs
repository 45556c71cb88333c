//! Identities and passphrases: where they come from, and how they open a file.
//!
//! A secret comes from a file, an inherited descriptor, a credential directory of systemd, or a prompt without
//! echo; never from the command line and never from the value of an environment variable, which other processes
//! can read. Long-term keys stay in the main process: the caged decoder forwards the stanzas of a file's header,
//! [`Identities::unwrap`] tries them, and only that one file's key goes back.
//!
//! What a secret may be:
//!
//! * one or several age identities (`AGE-SECRET-KEY-1…`, in any letter case, `#` comment lines between), or a file of
//!   them that age itself encrypted with a passphrase;
//! * an OpenSSH private key, ed25519 or RSA, with or without its own passphrase;
//! * anything else is a passphrase. It stands for the X25519 identities that ProxSave derives from it with the
//!   salts it has used over time ([`mod@derive`]), and for age's own passphrase recipient.
//!
//! About RSA keys: the `rsa` crate's private key operation takes a time that depends on the key (RUSTSEC-2023-0071,
//! without a fixed version). An attack needs many decryptions measured closely from outside. Here one
//! stanza of a file is decrypted in a run that an operator started, no caller can ask for more or time it over a network,
//! and the crate blinds the operation; so RSA keys are supported, and X25519 or ed25519 remain the better choice.
//!
//! Nothing here shows a secret in `Debug`, `Display` or an error; memory that held one is wiped.

pub mod derive;
mod identities;
mod secret;
mod source;
mod unlock;

pub use identities::{DEFAULT_MAX_WORK_FACTOR, Identities, StanzaKinds, UnwrapError, Unwrapped};
pub use secret::{AskSecret, Expected, Question, Secret, SecretError};
pub use source::{IDENTITY_CREDENTIAL, Loaded, PASSPHRASE_CREDENTIAL, SecretSources, SourceError};
pub use unlock::{MAX_ATTEMPTS, Unlock, UnlockError};

#[cfg(test)]
mod tests;
