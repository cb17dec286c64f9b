//! The JSON bodies below `/_relay/pairing`, and the version that each names (PROTOCOL.md section 7).

use super::spake::Message;
use crate::{keys::b64, problem};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use uuid::Uuid;

/// The version of pairing and session messages.
pub const VERSION: u32 = 1;

/// Whether a message of version `v` can be answered; the code says which side to upgrade.
pub fn check_version(v: u32) -> Result<(), problem::Code> {
    match v.cmp(&VERSION) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(problem::Code::AgentOutdated),
        Ordering::Less => Err(problem::Code::BrowserOutdated),
    }
}

/// `GET /_relay/hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub v: u32,
    /// The host that answers.
    pub host_id: Uuid,
    /// The program that answers.
    pub agent: HelloAgent,
    /// What it can do beyond version 1.
    pub features: Vec<String>,
    /// `paired` or `relay`.
    pub trust: String,
    /// `sealed` when nothing else is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<String>,
}

/// The program of a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAgent {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// `POST /_relay/pairing/start`, the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    /// [`VERSION`].
    pub v: u32,
    /// What the browser can do beyond version 1.
    #[serde(default)]
    pub features: Vec<String>,
    /// SPAKE2's message A, unchecked.
    #[serde(with = "b64")]
    pub message: Vec<u8>,
}

/// `POST /_relay/pairing/start`, the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartResponse {
    /// [`VERSION`].
    pub v: u32,
    /// Names the start in what follows.
    pub pairing_id: Uuid,
    /// SPAKE2's message B.
    #[serde(with = "b64")]
    pub message: Message,
}

/// `POST /_relay/pairing/finish`, request and answer alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishMessage {
    /// The start that it finishes.
    pub pairing_id: Uuid,
    /// The claims, as the bytes that are proved and parsed.
    #[serde(with = "b64")]
    pub claims: Vec<u8>,
    /// The proof, unchecked.
    #[serde(with = "b64")]
    pub proof: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_says_which_side_to_upgrade() {
        assert_eq!(check_version(1), Ok(()));
        assert_eq!(check_version(2), Err(problem::Code::AgentOutdated));
        assert_eq!(check_version(0), Err(problem::Code::BrowserOutdated));
    }

    #[test]
    fn unknown_fields_are_ignored_and_messages_have_one_encoding() {
        let request: StartRequest = serde_json::from_str(r#"{"v":1,"message":"QQ","x":1}"#).unwrap();
        assert_eq!((request.message.as_slice(), request.features.len()), (&b"A"[..], 0));
        for message in ["QQ==", "QR", "Q", "Q+", "Q Q"] {
            let text = format!(r#"{{"v":1,"message":"{message}"}}"#);
            assert!(serde_json::from_str::<StartRequest>(&text).is_err(), "{message}");
        }
    }
}
