//! Requests for a host whose tunnel another relay holds: passed on to that relay, or the browser sent there.
//!
//! ```text
//!  browser ──► relay A: session, host, cookie place ──► Backplane::host() ──► relay B: the same checks ──► tunnel
//!                 │                                                              ▲
//!                 ├── 307 to B's public address, where allowed ──► browser ──────┤
//!                 └── the request as it came, and `x-relay-forwarded` ───────────┘   (B's internal address, pooled)
//! ```
//!
//! A authorises the request as if the tunnel were its own, and then sends it to the same path of B: end-to-end
//! headers as they came, and one signed header ([`envelope`]) that tells B who really calls. B believes that header
//! and no other: client address, scheme, host and request id are taken from it, so that B counts, maps and logs as
//! A would. B authorises by itself, from the database that both share, serves from its own tunnels alone, and so a
//! request goes one hop at most. B has mapped `Location` and `Set-Cookie` for the browser already; A passes the
//! answer on.
//!
//! Everybody who reaches B can send the header. It counts with a good signature over method, path, query and itself,
//! for this relay by name, within [`FRESH`], and once ([`replay`]); anything else is refused, and nobody's header
//! reaches a local server.
//!
//! Each answer of B to such a request carries a [`Word`] of B's own, which replaces what a local server may have
//! written there. An answer without it is no relay's (a proxy in between, B's full house), and is not shown to a
//! browser. When B cannot be reached, does not have the tunnel (any more) or is about to end, A asks for the holders
//! anew and tries one other, once, and only if nothing of the request's body was read: so that A may know, bodies wait
//! for B's `100 Continue`, which B says when it has a stream to put the body in. Whatever was sent and not answered is
//! never sent twice.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`envelope`], [`key`], [`replay`] | the signed header |
//! | [`arrival`] | at B: who may pass requests on |
//! | [`pass`], [`relays`], [`body`] | at A: choosing, connecting, sending |
//! | [`on_the_way`] | at A: how much there may be of it at once |
//! | [`redirect`] | at A: who may be sent elsewhere, and where |
//! | [`metrics`] | what is counted |

pub mod arrival;
pub mod body;
pub mod envelope;
pub mod key;
pub mod metrics;
pub mod on_the_way;
pub mod pass;
pub mod redirect;
pub mod relays;
pub mod replay;

use std::time::Duration;

use http::HeaderName;

pub use arrival::Door;
pub use pass::Forwarder;

/// On a request: who passed it on, signed. On its answer: a [`Word`].
pub const FORWARDED: HeaderName = HeaderName::from_static("x-relay-forwarded");

/// How far apart the signing and the arrival of a request may be, by the clocks of two relays.
pub const FRESH: Duration = Duration::from_secs(15);

/// What a relay says of a request that was passed on to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// This is the answer, be it the local server's or the relay's own.
    Answered,
    /// No tunnel of the host is here. Nothing of the body was read.
    Moved,
    /// This relay is about to end. Nothing of the body was read.
    Draining,
    /// The header counts for nothing here.
    Refused,
}

impl Word {
    const ALL: [Word; 4] = [Word::Answered, Word::Moved, Word::Draining, Word::Refused];

    /// As the header has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Word::Answered => "answered",
            Word::Moved => "moved",
            Word::Draining => "draining",
            Word::Refused => "refused",
        }
    }

    /// What the header says.
    pub fn read(value: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|word| word.as_str().as_bytes() == value)
    }
}
