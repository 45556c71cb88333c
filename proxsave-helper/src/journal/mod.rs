//! Open transactions on disk, and what a later helper sweeps.
