//! SPAKE2 as the `spake2` crate does it, with the checks that the crate leaves to its caller.
//!
//! The points are checked, `K` is not: only who knows the code can make it the identity, and refusing that
//! would tell an attacker whether a code is right without a guess being counted.

use super::{
    PairingError,
    code::Code,
    schedule::{BROWSER_IDENTITY, agent_identity},
};
use curve25519_dalek::edwards::CompressedEdwardsY;
use rand::CryptoRng;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use uuid::Uuid;
use zeroize::Zeroizing;

/// The length of a SPAKE2 message: the side and a compressed point.
pub const MESSAGE_LEN: usize = 33;

/// A SPAKE2 message.
pub type Message = [u8; MESSAGE_LEN];

/// Which end speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Browser,
    Agent,
}

/// One end's half of an exchange.
pub(super) struct Exchange {
    state: Spake2<Ed25519Group>,
}

impl Exchange {
    pub(super) fn start(
        side: Side,
        code: &Code,
        host_id: Uuid,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Message), PairingError> {
        let password = Password::new(code.digits());
        let browser = Identity::new(BROWSER_IDENTITY.as_bytes());
        let agent = Identity::new(agent_identity(host_id).as_bytes());
        let (state, message) = match side {
            Side::Browser => Spake2::start_a_with_rng(&password, &browser, &agent, Older(rng)),
            Side::Agent => Spake2::start_b_with_rng(&password, &browser, &agent, Older(rng)),
        };
        let message = message.try_into().map_err(|_| PairingError::BadMessage)?;
        Ok((Self { state }, message))
    }

    /// The shared key. The message has been checked.
    pub(super) fn finish(self, message: &Message) -> Result<Zeroizing<[u8; 32]>, PairingError> {
        let key = Zeroizing::new(self.state.finish(message).map_err(|_| PairingError::BadMessage)?);
        let key: [u8; 32] = key.as_slice().try_into().map_err(|_| PairingError::BadMessage)?;
        Ok(Zeroizing::new(key))
    }
}

/// A message of `from`: its letter, then a point in its one encoding that is not of small order.
pub(super) fn check(from: Side, message: &[u8]) -> Result<Message, PairingError> {
    let message: Message = message.try_into().map_err(|_| PairingError::BadMessage)?;
    let [side, point @ ..] = message;
    let expected = match from {
        Side::Browser => b'A',
        Side::Agent => b'B',
    };
    let compressed = CompressedEdwardsY(point);
    let point = compressed.decompress().ok_or(PairingError::BadMessage)?;
    if side != expected || point.is_small_order() || point.compress() != compressed {
        return Err(PairingError::BadMessage);
    }
    Ok(message)
}

/// Our generator as the crate wants it: its version of the traits is an older one.
struct Older<'a, R>(&'a mut R);

impl<R: CryptoRng> rand_core::RngCore for Older<'_, R> {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        self.0.fill_bytes(to);
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill_bytes(to);
        Ok(())
    }
}

impl<R: CryptoRng> rand_core::CryptoRng for Older<'_, R> {}
