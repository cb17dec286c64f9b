//! Peers: the same engine plays the browser, over real UDP on loopback.
#![cfg(feature = "webrtc")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod browser;
#[path = "../../../tests/src/client.rs"]
#[allow(dead_code, missing_docs)]
mod client;
#[path = "../common/mod.rs"]
mod common;
mod exchanges;
mod hostile;
mod life;
#[path = "../../../tests/src/records.rs"]
#[allow(dead_code, missing_docs)]
mod records;
#[path = "../gate/setup.rs"]
#[allow(dead_code, missing_docs)]
mod setup;
#[path = "../../../tests/src/signed.rs"]
#[allow(dead_code, missing_docs)]
mod signed;
mod traffic;
