//! From a backup's index, a selection and the live state to a plan.
