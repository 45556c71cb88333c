//! Opening a backup that a user names.
