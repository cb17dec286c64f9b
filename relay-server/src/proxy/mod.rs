//! From a browser's request to the local server and back.
//!
//! [`path`] and [`headers`] decide and are pure; [`forward`] chooses the way, [`local`] and [`send`] go it; [`body`]
//! watches what moves. The
//! browser is whoever knows a session's id; the local server, and the agent in front of it, are trusted
//! with nothing of the relay.

pub mod body;
pub mod forward;
pub mod headers;
mod local;
pub mod metrics;
pub mod path;
pub mod send;
mod upgrade;

pub use forward::Proxy;
