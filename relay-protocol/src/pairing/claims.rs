//! What each end says of itself while pairing: JSON whose very bytes are proved, then parsed.

use crate::keys::{AgentDhPublicKey, AgentVerifyingKey, BrowserDhPublicKey, BrowserVerifyingKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// The most bytes that claims may have.
pub const MAX_CLAIMS: usize = 4096;

/// The most characters of one text in them.
pub const MAX_TEXT: usize = 100;

/// The most features that an agent may list; more than any version will have.
const MAX_FEATURES: usize = 32;

/// Why claims cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Longer than [`MAX_CLAIMS`].
    #[error("the claims are too long")]
    TooLong,
    /// Not the JSON that is expected, or a key that cannot be used.
    #[error("the claims are malformed, or hold a key that cannot be used")]
    Malformed,
    /// A text is too long or has control characters.
    #[error("a text in the claims is too long or has control characters")]
    BadText,
    /// They speak of another host.
    #[error("the claims are for another host")]
    OtherHost,
}

/// Whether a text may be kept and shown: at most [`MAX_TEXT`] characters (code points), none of them a
/// control character.
pub fn is_text(text: &str) -> bool {
    // A character has at most four bytes.
    text.len() <= 4 * MAX_TEXT && text.chars().count() <= MAX_TEXT && !text.chars().any(char::is_control)
}

/// What the browser says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserClaims {
    /// The host that it means to pair with.
    pub host_id: Uuid,
    /// What it is.
    pub client: ClientInfo,
    /// It will sign by this key.
    pub ed25519: BrowserVerifyingKey,
    /// Sealed sessions will begin with this one.
    pub x25519: BrowserDhPublicKey,
}

/// A browser as a person recognises it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// The id that it proposes.
    pub id: Uuid,
    /// Its name, for example `Anna's phone`.
    pub name: String,
    /// For example `Firefox 140`.
    pub browser: String,
    /// For example `Android 16`.
    pub os: String,
    /// For example `phone`.
    pub device: String,
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentClaims {
    /// Its host.
    pub host_id: Uuid,
    /// What it is.
    pub agent: AgentInfo,
    /// It will sign by this key.
    pub ed25519: AgentVerifyingKey,
    /// Sealed sessions will begin with this one.
    pub x25519: AgentDhPublicKey,
    /// The id under which it knows the browser from now on.
    pub client_id: Uuid,
}

/// The program that speaks for the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it can do beyond version 1.
    pub features: Vec<String>,
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClaimsError> {
    if bytes.len() > MAX_CLAIMS {
        return Err(ClaimsError::TooLong);
    }
    serde_json::from_slice(bytes).map_err(|_| ClaimsError::Malformed)
}

fn texts<'a>(mut texts: impl Iterator<Item = &'a String>) -> Result<(), ClaimsError> {
    if texts.all(|text| is_text(text)) { Ok(()) } else { Err(ClaimsError::BadText) }
}

/// What was checked when it was made and fits a limit by its parts always has a JSON text.
fn to_json(claims: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(claims).unwrap_or_default()
}

impl BrowserClaims {
    /// Parses the bytes that were proved.
    pub fn parse(bytes: &[u8], host_id: Uuid) -> Result<Self, ClaimsError> {
        let claims: Self = parse(bytes)?;
        let client = &claims.client;
        texts([&client.name, &client.browser, &client.os, &client.device].into_iter())?;
        if claims.host_id == host_id { Ok(claims) } else { Err(ClaimsError::OtherHost) }
    }

    /// The bytes to be proved.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl AgentClaims {
    /// Parses the bytes that were proved.
    pub fn parse(bytes: &[u8], host_id: Uuid) -> Result<Self, ClaimsError> {
        let claims: Self = parse(bytes)?;
        let agent = &claims.agent;
        if agent.features.len() > MAX_FEATURES {
            return Err(ClaimsError::Malformed);
        }
        texts([&agent.name, &agent.version].into_iter().chain(&agent.features))?;
        if claims.host_id == host_id { Ok(claims) } else { Err(ClaimsError::OtherHost) }
    }

    /// The bytes to be proved.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}
