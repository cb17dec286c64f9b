//! The backplane between relays, over real Redis and PostgreSQL servers and a platform that implements the
//! contract: what holds on all of them, and what is particular to each. Other sides are killed, frozen and started
//! again; whoever can write to the bus forges, replays and reorders.
//!
//! Debian's `redis-server` and `postgresql` must be installed.

// Opening a store and starting a relay are deep futures.
#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod behaviour;
mod outages;
mod peers;
mod platform;
mod postgres;
mod redis;
mod world;
