//! Cages: capabilities, Landlock, seccomp, limits; shared by all workers.
