//! What kind of host the root looks like, and why.
