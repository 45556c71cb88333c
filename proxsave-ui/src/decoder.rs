//! The decoder: a caged child that decrypts, decompresses and parses.
