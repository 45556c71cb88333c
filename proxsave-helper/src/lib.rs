//! The root side of ProxSave.
//!
//! placeholder

pub mod audit;
pub mod broker;
pub mod cage;
pub mod caller;
pub mod check;
pub mod cli;
pub mod facts;
pub mod gate;
pub mod journal;
pub mod policy;
pub mod probe;
pub mod root;
pub mod serve;
pub mod sys;
pub mod writer;
