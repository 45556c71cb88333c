//! Identities and passphrases: where they come from, how they open a file.
