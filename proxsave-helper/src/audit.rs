//! The audit log: what root did, for whom, chained so that a deleted line shows.
