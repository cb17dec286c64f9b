//! The agent of Sidecar Relay: dials out to a relay, and serves what the relay authorised from a
//! local HTTP server or from inside this program.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use local_agent_client::{Agent, LocalTarget, TokenSource};
//!
//! let agent = Agent::builder(
//!     "https://relay.example".parse()?,
//!     TokenSource::File("token".into()),
//!     "http://127.0.0.1:3000".parse::<LocalTarget>()?,
//! )
//! .state_dir("state")
//! .build()?;
//! agent.run(tokio_util::sync::CancellationToken::new()).await;
//! # Ok(())
//! # }
//! ```
//!
//! Floors, each using only those below it:
//!
//! | module | what it does |
//! | --- | --- |
//! | [`agent`] | puts everything together |
//! | [`relays`] | which relay each of several connections goes to |
//! | [`session`] | when to dial, when to leave, how long to wait |
//! | [`tunnel`] | one tunnel and its streams |
//! | [`serve`] | one stream: an HTTP/1.1 connection |
//! | [`peer`] | data channels from browsers, past the relay |
//! | [`gate`] | one request: whose it is, and whether it is to be believed; the agent's own paths |
//! | [`cookies`] | what the local server sets in exchanges, by paired browser |
//! | [`forward`] | one request: header and path policy, the pool to the local server |
//! | [`dial`] | one WebSocket to the relay: proxy, TLS, handshake |
//! | [`login`] | signing in at the relay, and staying so |
//! | [`control`] | commands and the local page, on loopback |
//! | [`trust`] | the agent's keys, the paired browsers, pairing codes |
//! | [`refusal`], [`state`], [`status`], [`token`], [`backoff`], [`clock`] | what they stand on |
//! | [`qr`] | links to scan |
//! | [`platform`] | the only place that asks which system this is |

pub mod agent;
pub mod backoff;
pub mod clock;
pub mod control;
pub mod cookies;
pub mod dial;
pub mod forward;
pub mod gate;
pub mod login;
pub mod peer;
pub mod platform;
pub mod qr;
pub mod refusal;
pub mod relays;
pub mod serve;
pub mod session;
pub mod state;
pub mod status;
pub mod token;
pub mod trust;
pub mod tunnel;

pub use agent::{Agent, BuildError, Builder};
pub use dial::RelayUrl;
pub use forward::{LocalTarget, RequestBody};
pub use status::Status;
pub use token::{Token, TokenSource};
pub use trust::{Require, Trust};
