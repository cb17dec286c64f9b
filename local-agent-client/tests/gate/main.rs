//! Signed requests and exchanges of both forms, through a tunnel in memory to local servers on real sockets: what
//! PROTOCOL.md sections 3 to 5 promise of an agent. The browser is the system tests' own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod beginnings;
mod bodies;
mod checks;
#[path = "../../../tests/src/client.rs"]
#[allow(dead_code, missing_docs)]
mod client;
#[path = "../common/mod.rs"]
mod common;
mod cookies;
mod ending;
mod exchanges;
mod inside;
mod own;
#[path = "../../../tests/src/records.rs"]
#[allow(dead_code, missing_docs)]
mod records;
mod refusals;
#[path = "../../../tests/src/sealed.rs"]
#[allow(dead_code, missing_docs)]
mod sealed;
mod sealed_sessions;
mod sealed_websockets;
mod setup;
#[path = "../../../tests/src/signed.rs"]
#[allow(dead_code, missing_docs)]
mod signed;
mod streams;
/// What the shared browser asks of its crate.
mod tokens {
    pub use local_agent_client::status::now;
}
mod uploads;
mod websockets;
