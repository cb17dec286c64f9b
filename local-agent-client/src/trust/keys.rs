//! The agent's own keys, in `keys.json`: an Ed25519 key that signs its answers and an X25519 key for
//! sealed sessions. Paired browsers know the host by them, so they are made once and never again
//! because reading them failed: that would turn every paired browser away.

use super::{SecretText, TrustError};
use crate::state::StateDir;
use rand::{TryRngCore, rngs::OsRng};
use relay_protocol::keys::{AgentDhKey, AgentSigningKey};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The file in the state folder.
const FILE: &str = "keys.json";
/// The form of the file that this version writes, and the only one that it reads.
const FORM: u32 = 1;

/// The agent's keys. Cheap to clone; never prints them.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Signs what the agent answers.
    pub signing: Arc<AgentSigningKey>,
    /// For sealed sessions.
    pub dh: Arc<AgentDhKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: u32,
    ed25519: SecretText,
    x25519: SecretText,
}

impl Keys {
    /// Reads the keys from the state folder; makes them at the first start. Where browsers are `known` already there
    /// must have been keys, so none are made.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood, and is left as it is then; when it is missing and must
    /// not be; or when new keys cannot be written.
    pub fn open(state: &StateDir, known: bool) -> Result<Self, TrustError> {
        let damaged = |reason| TrustError::Damaged { path: state.path().join(FILE), reason };
        match state.read(FILE)? {
            Some(text) => parse(&text).map_err(damaged),
            None if known => Err(TrustError::KeysMissing(state.path().join(FILE))),
            None => {
                let keys = Self::generate();
                let file = File {
                    v: FORM,
                    ed25519: SecretText::new(&keys.signing.reveal_seed()),
                    x25519: SecretText::new(&keys.dh.reveal_bytes()),
                };
                let text = serde_json::to_vec_pretty(&file).map_err(|error| damaged(error.to_string()))?;
                state.replace(FILE, &Zeroizing::new(text))?;
                Ok(keys)
            }
        }
    }

    /// New keys, for programs without a state folder. Browsers that were paired with others turn away.
    pub fn generate() -> Self {
        let mut random = OsRng.unwrap_err();
        Self {
            signing: Arc::new(AgentSigningKey::generate(&mut random)),
            dh: Arc::new(AgentDhKey::generate(&mut random)),
        }
    }
}

fn parse(text: &[u8]) -> Result<Keys, String> {
    // What serde says of a damaged file might quote it.
    let file: File = serde_json::from_slice(text)
        .map_err(|error| format!("line {} is not as it was written", error.line()))?;
    if file.v != FORM {
        return Err(format!("it is of form {}, and this version knows only {FORM}", file.v));
    }
    let bytes = |text: &SecretText, which| text.bytes().ok_or_else(|| format!("its {which} key is not one"));
    Ok(Keys {
        signing: Arc::new(AgentSigningKey::from_seed(&*bytes(&file.ed25519, "ed25519")?)),
        dh: Arc::new(AgentDhKey::from_bytes(&*bytes(&file.x25519, "x25519")?)),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn they_are_made_once_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let state = StateDir::open(dir.path()).unwrap();
        let public = |keys: &Keys| (keys.signing.verifying_key(), keys.dh.public_key());
        assert!(matches!(Keys::open(&state, true), Err(TrustError::KeysMissing(_))));
        assert!(!file.exists());
        let made = public(&Keys::open(&state, false).unwrap());
        assert_eq!(public(&Keys::open(&state, true).unwrap()), made);
        let good = std::fs::read_to_string(&file).unwrap();
        for damaged in [
            String::new(),
            "{}".to_owned(),
            good[..good.len() / 2].to_owned(),
            good.replace("\"v\": 1", "\"v\": 2"),
            good.replace("\"ed25519\": \"", "\"ed25519\": \"A"),
            good.replace("\"v\": 1", "\"v\": 1, \"more\": true"),
        ] {
            assert_ne!(damaged, good);
            std::fs::write(&file, &damaged).unwrap();
            let error = Keys::open(&state, false).unwrap_err();
            assert!(matches!(error, TrustError::Damaged { .. }), "{error}");
            assert!(
                error.to_string().contains("keys.json") && error.to_string().contains("backup"),
                "{error}"
            );
            assert_eq!(std::fs::read_to_string(&file).unwrap(), damaged, "left as it is");
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(
            matches!(Keys::open(&state, false).unwrap_err(), TrustError::State(_)),
            "unreadable is not missing"
        );
    }

    #[test]
    fn they_do_not_print() {
        let keys = Keys::generate();
        let printed = format!("{keys:?}");
        let secret = SecretText::new(&keys.signing.reveal_seed());
        let text = serde_json::to_string(&secret).unwrap();
        assert!(!printed.contains(text.trim_matches('"')), "{printed}");
        assert_eq!(format!("{secret:?}"), "SecretText(***)");
    }
}
