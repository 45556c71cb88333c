//! Modes, categories, globs: what of a backup is wanted.
