//! The store on both databases: one list of behaviours that each must show, what is particular to a
//! PostgreSQL database that a web app shares, and the commands for users and tokens.
//!
//! PostgreSQL is a real server, started here: Debian's `postgresql` must be installed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod behaviour;
mod bench;
mod commands;
mod identities;
#[path = "../support/postgres.rs"]
mod postgres;
mod presence;
mod restricted;
mod sign_in;
mod webapp;
