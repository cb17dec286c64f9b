//! X25519, one pair of types for each end; exchanged while pairing, used by sealed sessions.

use super::{BadKey, b64};
use rand::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::fmt;
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::Zeroizing;

/// The secret of two X25519 keys. Wiped when it is dropped; never prints.
pub struct DhSecret(SharedSecret);

impl DhSecret {
    /// Its 32 bytes, for a key derivation.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for DhSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DhSecret(***)")
    }
}

/// A public key with which every secret is all zeroes is nobody's. As private keys are multiples of
/// the cofactor, one of them shows it for all.
fn public_key(bytes: [u8; 32]) -> Result<PublicKey, BadKey> {
    let key = PublicKey::from(bytes);
    let probe = StaticSecret::from([0x40; 32]).diffie_hellman(&key);
    if probe.was_contributory() { Ok(key) } else { Err(BadKey) }
}

macro_rules! key_pair {
    ($secret:ident, $public:ident, $other:ident, $whose:literal) => {
        #[doc = concat!("The private X25519 key of ", $whose, ". Wiped when it is dropped; never prints.")]
        pub struct $secret(StaticSecret);

        impl $secret {
            /// A new key.
            pub fn generate(rng: &mut impl CryptoRng) -> Self {
                let mut bytes = Zeroizing::new([0; 32]);
                rng.fill_bytes(&mut *bytes);
                Self::from_bytes(&bytes)
            }

            /// The key of 32 bytes. Every 32 bytes are one.
            pub fn from_bytes(bytes: &[u8; 32]) -> Self {
                Self(StaticSecret::from(*bytes))
            }

            /// Its bytes, to be stored where only the owner reads.
            pub fn reveal_bytes(&self) -> Zeroizing<[u8; 32]> {
                Zeroizing::new(self.0.to_bytes())
            }

            /// The public key that goes with it.
            pub fn public_key(&self) -> $public {
                $public(PublicKey::from(&self.0))
            }

            /// The secret that it shares with the other end's key (RFC 7748 section 6.1).
            pub fn agree(&self, other: &$other) -> Result<DhSecret, BadKey> {
                let secret = self.0.diffie_hellman(&other.0);
                if secret.was_contributory() { Ok(DhSecret(secret)) } else { Err(BadKey) }
            }
        }

        impl fmt::Debug for $secret {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($secret), "(***)"))
            }
        }

        #[doc = concat!("The public X25519 key of ", $whose, ". JSON: base64url without padding.")]
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $public(PublicKey);

        impl $public {
            /// The key of 32 bytes, unless it would give an all-zero secret.
            pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, BadKey> {
                public_key(*bytes).map(Self)
            }

            /// Its 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }
        }

        impl fmt::Debug for $public {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($public), "({})"), b64::encode(self.as_bytes()))
            }
        }

        impl Serialize for $public {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                b64::serialize(self.as_bytes(), to)
            }
        }

        impl<'de> Deserialize<'de> for $public {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let bytes: [u8; 32] = b64::deserialize(from)?;
                Self::from_bytes(&bytes).map_err(D::Error::custom)
            }
        }
    };
}

key_pair!(AgentDhKey, AgentDhPublicKey, BrowserDhPublicKey, "an agent");
key_pair!(BrowserDhKey, BrowserDhPublicKey, AgentDhPublicKey, "a browser");
