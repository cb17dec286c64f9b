//! Pairing by six digits (PROTOCOL.md section 3), both ends, without I/O.
//!
//! The relay between the two ends reads and may change every message; whoever it is gets one guess at a
//! code. SPAKE2 turns the code into a key that shows nothing of it, proofs by that key confirm the
//! public keys of both ends, and every value has a type of its own.
//!
//! Agent: [`AgentStart::new`] for each start, then [`AgentStart::finish`], then [`Proved::answer`].
//! Browser (Rust peers and tests): [`BrowserStart::new`], [`BrowserStart::prove`], [`BrowserProved::finish`].
//! How long codes live, how many starts they allow and who is told is the agent's business.

mod agent;
mod browser;
mod claims;
mod code;
mod fingerprint;
mod message;
mod schedule;
mod sealed;
mod spake;

pub use agent::{AgentStart, Proved};
pub use browser::{BrowserPaired, BrowserProved, BrowserStart};
pub use claims::{
    AgentClaims, AgentInfo, BrowserClaims, ClaimsError, ClientInfo, MAX_CLAIMS, MAX_TEXT, is_text,
};
pub use code::{Code, NotACode};
pub use fingerprint::Fingerprint;
pub use message::{FinishMessage, Hello, HelloAgent, StartRequest, StartResponse, VERSION, check_version};
pub use schedule::{
    AgentConfirmKey, BROWSER_IDENTITY, BrowserConfirmKey, KeySchedule, Proof, Psk, Transcript, agent_identity,
};
pub use sealed::{
    NotSealed, SEALED_CODE_LEN, open_code, open_code_with_salt, seal_code, seal_code_with_salt,
};
pub use spake::{MESSAGE_LEN, Message};

use crate::problem;

/// Why one step of pairing was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairingError {
    /// A SPAKE2 message that is no point of the right side, or one of small order. No guess.
    #[error("the message is not one of this protocol")]
    BadMessage,
    /// The proof is wrong: another code was typed, or somebody is in between. Burns the code.
    #[error("the proof is wrong")]
    WrongProof,
    /// The proof was right, and what it proves cannot be used. Uses the code up.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
}

impl PairingError {
    /// The code of the problem that tells it.
    pub const fn code(self) -> problem::Code {
        match self {
            Self::BadMessage | Self::Claims(_) => problem::Code::BadRequest,
            Self::WrongProof => problem::Code::PairingFailed,
        }
    }
}
