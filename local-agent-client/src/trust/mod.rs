//! Whom this machine trusts: the agent's keys, the paired browsers, and how one gets paired
//! (PROTOCOL.md section 3).
//!
//! The relay and everybody behind it may be lying; what counts here is what was proved by a code that the
//! owner read from this machine's own screen. Nothing here opens a socket: requests come by
//! [`crate::forward`] (from the relay) and by [`crate::control`] (from this machine).
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`keys`] | the agent's own keys |
//! | [`browsers`] | the paired browsers |
//! | [`codes`] | the life of codes; pure |
//! | [`pairing`] | all of it as one, for whoever answers requests |
//! | [`host`] | the id under which the relay knows this host |

pub mod browsers;
pub mod codes;
pub mod host;
pub mod keys;
pub mod pairing;

pub use browsers::{Browser, Browsers, NewBrowser};
pub use codes::{FailedGuesses, Issuer, LIFE, Outcome, TooManyCodes};
pub use keys::Keys;
pub use pairing::{Issued, Pairing, PairingError, View};

use crate::state::StateError;
use relay_protocol::{keys::b64, problem::Code};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use zeroize::{Zeroize, Zeroizing};

/// Whose requests reach the local server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those that a paired browser signed.
    #[default]
    Paired,
    /// All that the relay authorised, for local servers that verify for themselves. Signed ones are verified
    /// all the same.
    Relay,
}

impl Trust {
    /// `paired` or `relay`, as PROTOCOL.md and the command line have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paired => "paired",
            Self::Relay => "relay",
        }
    }
}

/// What a paired browser has to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Require {
    /// Either form of session.
    #[default]
    Nothing,
    /// Sealed sessions, so that the relay reads nothing of what is signed today (PROTOCOL.md section 5.1).
    Sealed,
}

impl Require {
    /// As PROTOCOL.md and the command line have it; nothing where there is nothing to say.
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Sealed => Some("sealed"),
        }
    }
}

/// Why keys or browsers cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file holds something else than what was written.
    #[error(
        "{path} cannot be used: {reason}. Put it back from a backup; or move it away, and every browser has to be paired anew"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why, without quoting it.
        reason: String,
    },
    /// The keys are gone, and with them what the paired browsers know this host by.
    #[error(
        "{0} is missing although browsers are paired. Put it back from a backup; or move browsers.json away too, and every browser has to be paired anew"
    )]
    KeysMissing(PathBuf),
    /// There is no room for another browser.
    #[error("{} browsers are paired already; revoke one that is not used any more", browsers::MAX_BROWSERS)]
    Full,
    /// Who vouched for the browser was revoked meanwhile.
    #[error("the browser that showed the code was revoked")]
    IssuerRevoked,
    /// There is no browser of this id.
    #[error("there is no paired browser of this id")]
    NoSuchBrowser,
    /// The name is not one.
    #[error("a browser's name has 1 to {} printable characters", relay_protocol::pairing::MAX_TEXT)]
    Name,
}

impl TrustError {
    /// The code of the problem that tells it.
    pub const fn code(&self) -> Code {
        match self {
            Self::State(_) | Self::Damaged { .. } | Self::KeysMissing(_) => Code::Internal,
            Self::Full => Code::RateLimited,
            Self::IssuerRevoked => Code::PairingNotOpen,
            Self::NoSuchBrowser => Code::NotFound,
            Self::Name => Code::BadRequest,
        }
    }
}

/// 32 secret bytes as they stand in a file: base64url. Wiped when dropped, never prints.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct SecretText(String);

impl SecretText {
    fn new(bytes: &[u8; 32]) -> Self {
        Self(b64::encode(bytes))
    }

    fn bytes(&self) -> Option<Zeroizing<[u8; 32]>> {
        b64::decode_array(&self.0).ok().map(Zeroizing::new)
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(***)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
