//! System calls that need `unsafe`, each documented.
