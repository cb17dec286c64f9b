//! The relay as a library: what `relay-server` runs and what the tests drive.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`config`] | settings, read and checked once |
//! | [`proxy`] | from a browser's request to the local server and back |
//! | [`tunnel`] | the tunnels that agents hold open |
//! | [`server`] | all of it put together |
//! | [`limits`] | rates and counts per address |
//! | [`shutdown`] | serving, draining, ended |
//! | [`http`] | from accepted sockets to answered requests |
//! | [`auth`], [`identity`] | tokens, and the command line of a relay with users of its own |
//! | [`frames`] | the frame broker |
//! | [`backplane`], [`forward`] | several relays: what they know of each other, requests passed on |
//! | [`outbound`] | what the relay calls |
//! | [`pool`] | warm HTTP connections, in tunnels and to other relays |
//! | [`admin`] | the operator's interface |
//! | [`service_manager`] | what systemd is told |
//! | [`store`] | SQLite or PostgreSQL |
//! | [`clock`] | time in whole numbers |
//! | [`telemetry`] | log lines |
//! | [`cli`] | the command line |

pub mod admin;
pub mod auth;
pub mod backplane;
pub mod cli;
pub mod clock;
pub mod config;
pub mod forward;
pub mod frames;
pub mod http;
pub mod identity;
pub mod limits;
pub mod outbound;
pub mod pool;
pub mod proxy;
pub mod server;
pub mod service_manager;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod tunnel;
