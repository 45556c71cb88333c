//! Finding backups in directories.
