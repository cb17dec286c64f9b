//! Ed25519, one pair of types for each end. Verification is strict: one signature for one message and key.

use super::{BadKey, SignatureBytes, WrongSignature, b64};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rand::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::{fmt, sync::Arc};
use zeroize::Zeroizing;

/// Something that signs: the signing key of one of the two ends.
pub trait Sign {
    /// The Ed25519 signature over `message`.
    fn sign(&self, message: &[u8]) -> SignatureBytes;
}

/// Something that verifies: the verifying key of one of the two ends.
pub trait Verify {
    /// Whether `signature` is this key's over `message`, strictly (RFC 8032 section 5.1.7 without cofactor,
    /// canonical, nothing of small order).
    fn verify(&self, message: &[u8], signature: &SignatureBytes) -> Result<(), WrongSignature>;
}

impl<T: Sign + ?Sized> Sign for &T {
    fn sign(&self, message: &[u8]) -> SignatureBytes {
        (**self).sign(message)
    }
}

impl<T: Sign + ?Sized> Sign for Arc<T> {
    fn sign(&self, message: &[u8]) -> SignatureBytes {
        (**self).sign(message)
    }
}

impl<T: Verify + ?Sized> Verify for &T {
    fn verify(&self, message: &[u8], signature: &SignatureBytes) -> Result<(), WrongSignature> {
        (**self).verify(message, signature)
    }
}

impl<T: Verify + ?Sized> Verify for Arc<T> {
    fn verify(&self, message: &[u8], signature: &SignatureBytes) -> Result<(), WrongSignature> {
        (**self).verify(message, signature)
    }
}

/// Public keys have one encoding each, and none is of small order: under such a key one signature is good
/// for many messages.
fn verifying_key(bytes: &[u8; 32]) -> Result<VerifyingKey, BadKey> {
    let key = VerifyingKey::from_bytes(bytes).map_err(|_| BadKey)?;
    let canonical = key.to_edwards().compress().to_bytes() == *bytes;
    if canonical && !key.is_weak() { Ok(key) } else { Err(BadKey) }
}

macro_rules! key_pair {
    ($signing:ident, $verifying:ident, $whose:literal) => {
        #[doc = concat!("The private Ed25519 key of ", $whose, ". Wiped when it is dropped; never prints.")]
        pub struct $signing(SigningKey);

        impl $signing {
            /// A new key.
            pub fn generate(rng: &mut impl CryptoRng) -> Self {
                let mut seed = Zeroizing::new([0; 32]);
                rng.fill_bytes(&mut *seed);
                Self::from_seed(&seed)
            }

            /// The key of a seed (RFC 8032 section 5.1.5). Every seed is one.
            pub fn from_seed(seed: &[u8; 32]) -> Self {
                Self(SigningKey::from_bytes(seed))
            }

            /// The seed, to be stored where only the owner reads.
            pub fn reveal_seed(&self) -> Zeroizing<[u8; 32]> {
                Zeroizing::new(self.0.to_bytes())
            }

            /// The public key that goes with it.
            pub fn verifying_key(&self) -> $verifying {
                $verifying(self.0.verifying_key())
            }
        }

        impl Sign for $signing {
            fn sign(&self, message: &[u8]) -> SignatureBytes {
                self.0.sign(message).to_bytes()
            }
        }

        impl fmt::Debug for $signing {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($signing), "(***)"))
            }
        }

        #[doc = concat!("The public Ed25519 key of ", $whose, ". JSON: base64url without padding.")]
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $verifying(VerifyingKey);

        impl $verifying {
            /// The key of 32 bytes, unless no honest peer has it.
            pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, BadKey> {
                verifying_key(bytes).map(Self)
            }

            /// Its 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }
        }

        impl Verify for $verifying {
            fn verify(&self, message: &[u8], signature: &SignatureBytes) -> Result<(), WrongSignature> {
                let signature = Signature::from_bytes(signature);
                self.0.verify_strict(message, &signature).map_err(|_| WrongSignature)
            }
        }

        impl fmt::Debug for $verifying {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($verifying), "({})"), b64::encode(self.as_bytes()))
            }
        }

        impl Serialize for $verifying {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                b64::serialize(self.as_bytes(), to)
            }
        }

        impl<'de> Deserialize<'de> for $verifying {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let bytes: [u8; 32] = b64::deserialize(from)?;
                Self::from_bytes(&bytes).map_err(D::Error::custom)
            }
        }
    };
}

key_pair!(AgentSigningKey, AgentVerifyingKey, "an agent");
key_pair!(BrowserSigningKey, BrowserVerifyingKey, "a browser");
