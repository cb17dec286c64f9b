//! The key that relays sign passed-on requests with.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::config::SecretText;

/// Names the use, so that nothing signed for the bus is anything here, and the other way round.
const INFO: &[u8] = b"sidecar-relay forwarded request v1";

/// Derived from the secret that all relays share.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

impl Key {
    /// From the shared secret. `None` never occurs with the lengths that stand here.
    pub fn derive(shared: &SecretText) -> Option<Self> {
        Hmac::new_from_slice(shared.derive(INFO)?.as_slice()).ok().map(Self)
    }

    /// The signature over these parts, one after the other.
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.over(parts).finalize().into_bytes().into()
    }

    /// Whether it is that signature; in constant time.
    pub fn verifies(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        self.over(parts).verify_slice(signature).is_ok()
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}
