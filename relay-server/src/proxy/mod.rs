//! From a browser's request to the local server and back.
//!
//! [`path`] and [`headers`] decide and are pure; [`forward`] moves; [`body`] watches what moves. The
//! browser is whoever knows a session's id; the local server, and the agent in front of it, are trusted
//! with nothing of the relay.

pub mod body;
pub mod forward;
pub mod headers;
pub mod metrics;
pub mod path;
mod upgrade;

pub use forward::Proxy;
