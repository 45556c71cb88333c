//! The operator's side of ProxSave.
//!
//! placeholder

pub mod archive;
pub mod cli;
pub mod commands;
pub mod decoder;
pub mod dialogue;
pub mod export;
pub mod helper_client;
pub mod planner;
pub mod secrets;
pub mod selection;
pub mod sys;
