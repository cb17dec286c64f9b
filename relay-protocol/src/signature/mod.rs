//! Signed requests and responses: HTTP Message Signatures (RFC 9421) and Content-Digest (RFC 9530) as
//! PROTOCOL.md sections 4.2, 4.3, 4.5 and 5.3 use them.
//!
//! Everything that is read here may come from an attacker: it is bounded and parsed strictly, and what is
//! not understood is refused. [`input`] reads the fields, [`base`] builds the text that is signed, both for
//! RFC 9421 in general; [`request`], [`response`] and [`refusal`] are the `relay` profile on top.
//!
//! An agent, for each request, in this order (each failure has its code):
//! ```text
//! let signed = request::Signed::from_headers(&headers)?;       // None: signature_missing
//! let covered = signed.cover(&parts)?;                         // bad_request, uncovered
//! let key = sessions.get(covered.key_id())?;                   // signing_session_expired, not_paired
//! let verified = covered.verify(&parts, &key)?;                // signature_invalid
//! verified.check_time(now)?;                                   // clock_skew
//! nonces.remember(verified.nonce(), verified.created(), now)?; // replayed, rate_limited
//! ```

pub mod base;
pub mod digest;
pub mod input;
mod nonce;
mod query;
pub mod refusal;
pub mod request;
pub mod response;

pub use nonce::{MAX_NONCES, NonceMemory};
pub use query::{append_query, split_query};

use crate::problem;

/// The label of the signatures of this protocol.
pub const LABEL: &str = "relay";

/// How far `created` may be from the agent's clock, in seconds, either way.
pub const TIME_WINDOW: i64 = 60;

/// Why a signed message was refused, in the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The fields cannot be read, or have parameters that they must not have. The text says where.
    #[error("{0}")]
    Malformed(&'static str),
    /// Something that must be covered is not.
    #[error("the signature does not cover {0}")]
    Uncovered(&'static str),
    /// The signature does not fit the message (also: something that it covers is not there).
    #[error("the signature is wrong")]
    Invalid,
    /// Made too long ago, or in the future.
    #[error("the signature was made too long ago, or in the future")]
    ClockSkew,
    /// The nonce has been used.
    #[error("the signature has been used")]
    Replayed,
    /// As many nonces as are remembered have come within the window.
    #[error("too many requests at a time")]
    TooManyNonces,
}

impl SignatureError {
    /// The code of the problem that tells it.
    pub const fn code(self) -> problem::Code {
        match self {
            Self::Malformed(_) => problem::Code::BadRequest,
            Self::Uncovered(_) => problem::Code::Uncovered,
            Self::Invalid => problem::Code::SignatureInvalid,
            Self::ClockSkew => problem::Code::ClockSkew,
            Self::Replayed => problem::Code::Replayed,
            Self::TooManyNonces => problem::Code::RateLimited,
        }
    }
}
