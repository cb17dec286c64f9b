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
