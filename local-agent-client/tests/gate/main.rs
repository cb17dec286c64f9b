//! Signed exchanges through a tunnel in memory to local servers on real sockets: what PROTOCOL.md sections 3
//! and 4 promise of an agent. The browser is the system tests' own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod bodies;
mod checks;
#[path = "../../../tests/src/client.rs"]
#[allow(dead_code, missing_docs)]
mod client;
#[path = "../common/mod.rs"]
mod common;
mod own;
#[path = "../../../tests/src/records.rs"]
#[allow(dead_code, missing_docs)]
mod records;
mod setup;
#[path = "../../../tests/src/signed.rs"]
#[allow(dead_code, missing_docs)]
mod signed;
mod websockets;
