//! Backups as files: formats, discovery, opening.
