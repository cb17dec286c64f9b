//! The harness of the whole-system tests: real processes, real sockets, real databases.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`process`] | a child process with its captured log, signals, memory and open files |
//! | [`relay`], [`agent`], [`postgres`] | the programs under test and the database beside them |
//! | [`fleet`] | several relays with one database |
//! | [`redis`] | Redis servers, to be killed and frozen, over TLS, behind a Sentinel |
//! | [`stack`] | all of it at once, with a session ready to use |
//! | [`oidc`] | an OpenID Connect provider, and people who sign in with it |
//! | [`sign_in`] | people with a browser, devices, and the database behind them |
//! | [`client`], [`raw`] | what a browser, or somebody who pretends to be one, sends |
//! | [`local`] | local servers, well-behaved and otherwise |
//! | [`platform`] | a stand-in platform: validate, presence, bus, key set, and every way to fail at it |
//! | [`broker`] | daemons, clients and workers of `/ws`, and every frame of its contract |
//! | [`plain_agent`], [`plain_relay`] | independent peers in the plain form, written from the documents alone |
//! | [`signed`], [`sealed`], [`records`] | a paired browser in Rust, which verifies all that it believes: PROTOCOL.md sections 4 and 5, and the records of both |
//! | [`hostile`] | a relay that reads, alters, replays and drops what passes |
//! | [`front`] | what tells agents which relay is behind it |
//! | [`turn`] | a TURN server: coturn |
//! | [`metrics`] | what `/metrics` says, read strictly |
//! | [`throttle`] | a link that is slow, or freezes without closing |
//! | [`tokens`] | tokens as a web app (or a forger) would make them |
//!
//! Whatever fails in here panics with the reason: there is no test without it.

pub mod agent;
pub mod broker;
pub mod client;
pub mod fleet;
pub mod front;
pub mod hostile;
pub mod local;
pub mod metrics;
pub mod oidc;
pub mod plain_agent;
pub mod plain_relay;
pub mod platform;
pub mod postgres;
pub mod process;
pub mod raw;
pub mod records;
pub mod redis;
pub mod relay;
pub mod sealed;
pub mod sign_in;
pub mod signed;
pub mod stack;
pub mod throttle;
pub mod tokens;
pub mod turn;
mod wire;

pub use agent::{Agent, AgentOptions};
pub use client::{Reply, fetch};
pub use local::LocalServer;
pub use relay::{Relay, RelayOptions};
pub use stack::Stack;

use std::time::Duration;

/// How long anything that should happen soon may take on a slow and busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// How long up to a gibibyte may take on a slow machine with unoptimised binaries.
pub const TRANSFER: Duration = Duration::from_secs(300);

/// How often a condition is looked at again.
pub const POLL: Duration = Duration::from_millis(20);

/// Looks at a condition until it holds, and panics with `what` when it does not within the time.
pub async fn eventually<F, Fut>(what: &str, within: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = tokio::time::Instant::now() + within;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits for a future, and panics with `what` when it takes longer than `within`.
pub async fn within<T>(what: &str, within: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(within, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {within:?}: {what}"),
    }
}

/// SHA-256 as hexadecimal text.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

/// Bytes as hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that do not compress and differ at every offset, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> bytes::Bytes {
    use rand::{RngCore, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}
