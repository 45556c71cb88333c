//! The prober: looks at targets, reads nothing but what it hashes, writes nothing.
