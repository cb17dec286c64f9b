//! What a relay and an agent must agree on.
//!
//! Nothing here opens a socket, asks a database or reads a clock of its own: both programs (and
//! their tests) bring those. The normative text is `PROTOCOL.md` beside this crate's manifest.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`tunnel`] | the byte stream inside a WebSocket, its control messages, and the multiplexed streams on it |
//! | [`headers`] | the header names of the protocol and the hop-by-hop rule that both ends apply |
//! | [`problem`] | RFC 9457 errors with their stable codes |
//! | [`keys`] | key types by purpose, Ed25519 and X25519 |
//! | [`pairing`] | pairing by six digits: SPAKE2, proofs, claims, fingerprint |
//! | [`signature`] | signed requests and responses, digests of bodies, used nonces |
//! | [`sealed`] | sealed sessions: the Noise handshake and its keys |
//! | [`record`] | record streams: framing, order, and the signed and the sealed protection |
//! | [`exchange`] | one request and its answer as records: prelude, numbers, head |
//! | [`splice`] | joins two upgraded connections |
//! | [`api`] | the JSON bodies of the relay's HTTP interface |

pub mod api;
pub mod exchange;
pub mod headers;
pub mod keys;
pub mod pairing;
pub mod problem;
pub mod record;
pub mod sealed;
pub mod signature;
pub mod splice;
pub mod tunnel;

/// The base of every path that the relay answers for tunnels and browser sessions.
pub const RELAY_PREFIX: &str = "/v1/relay";

/// The path below which the agent itself answers and never forwards (PROTOCOL.md section 3).
pub const AGENT_PREFIX: &str = "/_relay";
