//! The sealed session's handshake (PROTOCOL.md section 5.1): Noise, two messages, both ends, without I/O.
//!
//! It runs inside the signed request that makes a session, so the relay between the ends can carry it, keep
//! it and bring it again, and nothing more: what it brings does not open, or gives keys that only the two
//! ends have. The browser is the initiator and its static key must be the paired one: whoever else holds a
//! key of his own is refused, although his handshake would succeed.
//!
//! Agent: [`Responder::respond`]. Browser (Rust peers and tests): [`Initiator::start`], then
//! [`Initiator::finish`]. Both end with [`SessionKeys`], from which every exchange gets keys of its own.

mod handshake;
mod keys;

pub use handshake::{FIRST_LEN, Initiator, Responder, SECOND_LEN, Start};
pub use keys::{KeyError, SessionKeys};

use crate::{keys::b64, problem};
use serde::{Deserialize, Serialize};

/// How long a sealed session takes new exchanges after its making, in seconds.
pub const REKEY_AFTER: i64 = 3600;

/// Which Noise protocol a handshake speaks. JSON: its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Profile {
    /// IK alone: the static keys vouch for the ends.
    #[serde(rename = "noise-ik")]
    NoiseIk,
    /// IK with the psk of the pairing: what browsers use.
    #[serde(rename = "noise-ikpsk2")]
    NoiseIkPsk2,
}

impl Profile {
    /// Every profile, for tables and tests.
    pub const ALL: [Self; 2] = [Self::NoiseIk, Self::NoiseIkPsk2];

    /// The profile of a name; `None` is a `bad_request`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.as_str() == name)
    }

    /// Its name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoiseIk => "noise-ik",
            Self::NoiseIkPsk2 => "noise-ikpsk2",
        }
    }

    /// The name of the Noise protocol.
    pub const fn protocol_name(self) -> &'static str {
        match self {
            Self::NoiseIk => "Noise_IK_25519_AESGCM_SHA256",
            Self::NoiseIkPsk2 => "Noise_IKpsk2_25519_AESGCM_SHA256",
        }
    }
}

/// The member `noise` of a session's request and of its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoiseMessage {
    /// What it speaks. An unknown name is not one, so that the request is a `bad_request`.
    pub profile: Profile,
    /// The handshake message. Its length is the handshake's to check.
    #[serde(with = "b64")]
    pub message: Vec<u8>,
}

/// Why a handshake was refused. The peer learns only that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The message has not the one length that it may have.
    #[error("the handshake message has another length")]
    Length,
    /// The message does not open, or its key is nobody's: other keys, another host or browser, or altered.
    #[error("the handshake message does not open")]
    NotOpened,
    /// The initiator has another static key than the paired one.
    #[error("the handshake was made with another key than the paired one")]
    OtherKey,
}

impl HandshakeError {
    /// The code of the problem that tells it.
    pub const fn code(self) -> problem::Code {
        problem::Code::HandshakeFailed
    }
}

#[cfg(test)]
mod tests;
