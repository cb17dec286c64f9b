//! Peers: the same engine plays the browser, over real UDP on loopback.
#![cfg(feature = "webrtc")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod browser;
mod hostile;
mod life;
mod traffic;
