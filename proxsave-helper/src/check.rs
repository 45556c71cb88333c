//! What a plan becomes: `CheckedPlan`, the only thing that can be carried out.
