//! Keys, named by what they are for, so that the wrong one does not compile.
//!
//! Private keys are wiped when they are dropped, and neither print nor compare. Public keys come from the
//! other side, who may be lying: what cannot be an honest key is refused where it is read, so that a value
//! of one of these types is one that can be used. Randomness comes in as a parameter.

pub mod b64;
mod dh;
mod signing;

pub use dh::{AgentDhKey, AgentDhPublicKey, BrowserDhKey, BrowserDhPublicKey, DhSecret};
pub use signing::{AgentSigningKey, AgentVerifyingKey, BrowserSigningKey, BrowserVerifyingKey, Sign, Verify};

/// The bytes of an Ed25519 signature.
pub type SignatureBytes = [u8; 64];

/// A public key that no honest peer has: of the wrong length, no point, not in its one encoding, or of
/// small order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key is not one that can be used")]
pub struct BadKey;

/// The signature was not made by this key over these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is wrong")]
pub struct WrongSignature;

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn each_end_verifies_what_the_same_end_signed() {
        let mut rng = StdRng::seed_from_u64(7);
        let key = AgentSigningKey::generate(&mut rng);
        let signature = key.sign(b"message");
        assert_eq!(key.verifying_key().verify(b"message", &signature), Ok(()));
        assert_eq!(key.verifying_key().verify(b"massage", &signature), Err(WrongSignature));
        let again = AgentSigningKey::from_seed(&key.reveal_seed());
        assert_eq!(again.verifying_key(), key.verifying_key());
        let other = BrowserSigningKey::generate(&mut rng).verifying_key();
        assert_eq!(other.verify(b"message", &signature), Err(WrongSignature));
    }

    #[test]
    fn a_signature_with_a_scalar_above_the_order_is_refused() {
        let key = BrowserSigningKey::from_seed(&[3; 32]);
        let mut signature = key.sign(b"m");
        // Adds the group's order to s, which a lax reader takes for the same signature.
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut carry = 0;
        for (byte, add) in signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = (sum & 0xff) as u8;
            carry = sum >> 8;
        }
        assert_eq!(key.verifying_key().verify(b"m", &signature), Err(WrongSignature));
    }

    #[test]
    fn secrets_do_not_print() {
        let mut rng = StdRng::seed_from_u64(7);
        let (agent, browser) = (AgentDhKey::generate(&mut rng), BrowserDhKey::generate(&mut rng));
        let secret = agent.agree(&browser.public_key()).unwrap();
        assert_eq!(secret.as_bytes(), browser.agree(&agent.public_key()).unwrap().as_bytes());
        let signing = AgentSigningKey::generate(&mut rng);
        assert_eq!(
            format!("{agent:?} {browser:?} {secret:?} {signing:?}"),
            "AgentDhKey(***) BrowserDhKey(***) DhSecret(***) AgentSigningKey(***)"
        );
    }

    #[test]
    fn public_keys_are_read_in_one_form_only() {
        let key = AgentSigningKey::from_seed(&[5; 32]).verifying_key();
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<AgentVerifyingKey>(&json).unwrap(), key);
        for text in [format!("{}=", b64::encode(key.as_bytes())), b64::encode([1; 31]), b64::encode([0; 32])]
        {
            assert!(serde_json::from_str::<AgentVerifyingKey>(&format!("\"{text}\"")).is_err(), "{text}");
        }
        // -y of a small point, and y = 1 + p: encodings of the identity that are not its own.
        for last in [0x7f, 0xff] {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (0xee, last);
            assert_eq!(AgentVerifyingKey::from_bytes(&bytes), Err(BadKey));
        }
        let mut one = [0; 32];
        one[0] = 1;
        for small in [[0; 32], one] {
            assert_eq!(BrowserDhPublicKey::from_bytes(&small), Err(BadKey));
        }
    }
}
