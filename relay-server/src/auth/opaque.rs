//! Secrets that are nothing but random bytes: one-time links, device codes, refresh tokens.
//!
//! They have 256 bits, so that a plain SHA-256 keeps them as well as anything slower would, and looking
//! one up by its hash tells nothing by how long it takes.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Random bytes in each.
const BYTES: usize = 32;
/// Their length as text.
const CHARS: usize = 43;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("the system gave no random bytes: {0}")]
pub struct NoRandomness(String);

impl NoRandomness {
    pub(super) fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Such a secret. Prints as stars and is wiped.
pub struct Opaque(Zeroizing<String>);

impl Opaque {
    /// A new one.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn random() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        OsRng.try_fill_bytes(bytes.as_mut()).map_err(NoRandomness::of)?;
        Ok(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_ref()))))
    }

    /// The text itself, for the one answer that tells it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the store keeps of it.
    pub fn hash(&self) -> String {
        hash(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the store keeps of this text; none when no such secret looks like it.
pub fn hash(text: &str) -> Option<String> {
    let fine =
        text.len() == CHARS && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    fine.then(|| URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_is_another_and_tells_itself_only_when_asked() {
        let (one, two) = (Opaque::random().unwrap(), Opaque::random().unwrap());
        assert_ne!(one.reveal(), two.reveal());
        assert_eq!(one.hash(), hash(one.reveal()).unwrap());
        assert_ne!(one.hash(), two.hash());
        assert_ne!(one.hash(), one.reveal());
        assert_eq!(format!("{one:?}"), "***");
    }

    #[test]
    fn what_looks_otherwise_is_none() {
        let good = "a".repeat(CHARS);
        assert!(hash(&good).is_some());
        for bad in ["", "a", &"a".repeat(CHARS + 1), &"a".repeat(CHARS - 1), &format!("{}=", &good[1..])] {
            assert_eq!(hash(bad), None, "{bad}");
        }
    }
}
