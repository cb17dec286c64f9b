//! The tunnels that agents hold open: accepting them, finding them, and keeping connections in them.
//!
//! ```text
//!  connect ──► Registry ◄── proxy        (which tunnel serves this host?)
//!     │            │
//!     ▼            ▼
//!  presence      Tunnel ── Pool           (idle HTTP/1.1 connections over its streams)
//! ```
//!
//! Whoever connects has shown a token of the host's owner; what it sends afterwards is as untrusted as
//! anything from outside.

pub mod connect;
pub mod metrics;
pub mod others;
pub mod pool;
pub mod presence;
pub mod registry;

pub use registry::{Registry, Tunnel};
