//! Talking to a person: questions, tables, progress.
