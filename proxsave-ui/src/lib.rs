//! The operator's side of ProxSave.
//!
//! It finds backups, opens them, shows what a restore would change, asks, and hands a plan and contents to the root
//! helper. It needs no privilege for any of that, and gives up what it has.
//!
//! # What it promises
//!
//! * **Never as root.** Started by root (`--launch direct`) it becomes an ordinary user, for good, before it reads any
//!   input.
//! * **Untrusted bytes stay in a cage.** Archives, manifests and ciphertext are read by a child that holds nothing but
//!   descriptors ([`decoder`]). The main process holds the keys and the connection to the helper, and gets from
//!   the child only typed results within stated bounds.
//! * **Nothing is shown, asked or sent from an archive before its hash matched.** The second pass hashes again.
//! * **Secrets never stand in an argument** or the value of an environment variable, and long-term keys never enter
//!   the child ([`secrets`]).
//! * **What is shown is what happens.** The plan that the operator confirms is the one the helper gets, by its hash; what
//!   is left out or exported is named with the reason.
//! * **Names from a backup are escaped** before they reach a terminal, a report or a log.
//!
//! # What it refuses
//!
//! Archives outside the written tar profile, over a limit, or damaged anywhere; and to go on by itself where a warning
//! needs an answer.
//!
//! # How to read it
//!
//! The command line ([`cli`]) leads to one module for each command ([`commands`]). A restore goes through: finding and
//! describing backups ([`archive`]), opening them ([`secrets`], [`decoder`]), choosing ([`selection`], [`dialogue`]),
//! planning ([`planner`]), the helper ([`helper_client`]), and what is not applied ([`export`]). System calls that need
//! `unsafe` are in [`sys`] alone.

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
