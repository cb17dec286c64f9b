//! The two messages, by `snow`. Payloads are empty, so each message has one length.
//!
//! What is held here of secrets is wiped: the static keys that are handed to `snow`, and what `Split()` gave. `snow`
//! does not wipe its own copies (static and ephemeral keys, psk, chaining key), which stay in freed memory
//! until something else is written there.

use super::{HandshakeError, Profile, SessionKeys};
use crate::{
    keys::{AgentDhKey, AgentDhPublicKey, BrowserDhKey, BrowserDhPublicKey},
    pairing::Psk,
};
use snow::{Builder, HandshakeState};
use std::fmt;
use uuid::Uuid;
use zeroize::Zeroize;

/// The first message: ephemeral key, sealed static key, tag.
pub const FIRST_LEN: usize = 32 + (32 + 16) + 16;

/// The second message: ephemeral key and tag.
pub const SECOND_LEN: usize = 32 + 16;

/// Where IKpsk2 mixes the psk in: at the end of the second message.
const PSK_POSITION: u8 = 2;

impl From<snow::Error> for HandshakeError {
    /// Which step failed is nobody's to know.
    fn from(_: snow::Error) -> Self {
        Self::NotOpened
    }
}

/// What both ends must agree on before they begin: messages for another host or browser do not open.
fn prologue(host_id: Uuid, client_id: Uuid) -> String {
    format!("relay-sealed/1 {host_id} {client_id}")
}

fn builder<'a>(
    profile: Profile,
    psk: &'a Psk,
    key: &'a [u8; 32],
    prologue: &'a str,
    ephemeral: Option<&'a [u8; 32]>,
) -> Result<Builder<'a>, HandshakeError> {
    let mut builder = Builder::new(profile.protocol_name().parse()?)
        .prologue(prologue.as_bytes())?
        .local_private_key(key)?;
    if profile == Profile::NoiseIkPsk2 {
        builder = builder.psk(PSK_POSITION, psk.reveal_bytes())?;
    }
    Ok(match ephemeral {
        Some(fixed) => builder.fixed_ephemeral_key_for_testing_only(fixed),
        None => builder,
    })
}

/// An ephemeral key that would give an all-zero secret is no honest peer's. WebCrypto refuses it as well.
fn check_ephemeral(message: &[u8]) -> Result<(), HandshakeError> {
    let key = message.first_chunk::<32>().ok_or(HandshakeError::Length)?;
    BrowserDhPublicKey::from_bytes(key).map(drop).map_err(|_| HandshakeError::NotOpened)
}

/// Reads a message that must have exactly `N` bytes, and an empty payload with it.
fn read<const N: usize>(noise: &mut HandshakeState, message: &[u8]) -> Result<(), HandshakeError> {
    if message.len() != N {
        return Err(HandshakeError::Length);
    }
    check_ephemeral(message)?;
    noise.read_message(message, &mut [])?;
    Ok(())
}

fn write<const N: usize>(noise: &mut HandshakeState) -> Result<[u8; N], HandshakeError> {
    let mut message = [0; N];
    let written = noise.write_message(&[], &mut message)?;
    if written == N { Ok(message) } else { Err(HandshakeError::Length) }
}

fn split(mut noise: HandshakeState) -> Result<SessionKeys, HandshakeError> {
    let mut hash: [u8; 32] = noise.get_handshake_hash().try_into().map_err(|_| HandshakeError::NotOpened)?;
    // Wiped where they lie: to move them into something that wipes would leave a copy behind.
    let mut raw = noise.dangerously_get_raw_split();
    let keys = SessionKeys::from_split(&raw.0, &raw.1, &hash);
    raw.zeroize();
    hash.zeroize();
    Ok(keys)
}

/// The agent's end.
#[derive(Debug, Clone, Copy)]
pub struct Responder<'a> {
    /// What the browser chose.
    pub profile: Profile,
    /// The agent's key of the pairing.
    pub key: &'a AgentDhKey,
    /// The paired browser's key: no other is answered.
    pub browser: &'a BrowserDhPublicKey,
    /// The secret of the pairing.
    pub psk: &'a Psk,
    /// This host.
    pub host_id: Uuid,
    /// The paired browser.
    pub client_id: Uuid,
}

impl Responder<'_> {
    /// Answers the first message with the second, and has the keys.
    pub fn respond(&self, message: &[u8]) -> Result<([u8; SECOND_LEN], SessionKeys), HandshakeError> {
        self.run(message, None)
    }

    /// The same with an ephemeral key that is known: for vectors and nothing else, because whoever knows it
    /// reads the session.
    #[doc(hidden)]
    pub fn respond_for_vectors(
        &self,
        message: &[u8],
        ephemeral: &[u8; 32],
    ) -> Result<([u8; SECOND_LEN], SessionKeys), HandshakeError> {
        self.run(message, Some(ephemeral))
    }

    fn run(
        &self,
        message: &[u8],
        ephemeral: Option<&[u8; 32]>,
    ) -> Result<([u8; SECOND_LEN], SessionKeys), HandshakeError> {
        let prologue = prologue(self.host_id, self.client_id);
        let key = self.key.reveal_bytes();
        let mut noise = builder(self.profile, self.psk, &key, &prologue, ephemeral)?.build_responder()?;
        read::<FIRST_LEN>(&mut noise, message)?;
        if noise.get_remote_static() != Some(self.browser.as_bytes()) {
            return Err(HandshakeError::OtherKey);
        }
        let answer = write(&mut noise)?;
        Ok((answer, split(noise)?))
    }
}

/// What the browser's end begins with.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// What to speak.
    pub profile: Profile,
    /// The browser's key of the pairing.
    pub key: &'a BrowserDhKey,
    /// The paired agent's key.
    pub agent: &'a AgentDhPublicKey,
    /// The secret of the pairing.
    pub psk: &'a Psk,
    /// The host.
    pub host_id: Uuid,
    /// This browser, as the agent knows it.
    pub client_id: Uuid,
}

/// The browser's end, between the two messages.
pub struct Initiator(HandshakeState);

impl Initiator {
    /// Makes the first message.
    pub fn start(start: &Start<'_>) -> Result<(Self, [u8; FIRST_LEN]), HandshakeError> {
        Self::run(start, None)
    }

    /// The same with an ephemeral key that is known: for vectors and nothing else.
    #[doc(hidden)]
    pub fn start_for_vectors(
        start: &Start<'_>,
        ephemeral: &[u8; 32],
    ) -> Result<(Self, [u8; FIRST_LEN]), HandshakeError> {
        Self::run(start, Some(ephemeral))
    }

    fn run(
        start: &Start<'_>,
        ephemeral: Option<&[u8; 32]>,
    ) -> Result<(Self, [u8; FIRST_LEN]), HandshakeError> {
        let prologue = prologue(start.host_id, start.client_id);
        let key = start.key.reveal_bytes();
        let mut noise = builder(start.profile, start.psk, &key, &prologue, ephemeral)?
            .remote_public_key(start.agent.as_bytes())?
            .build_initiator()?;
        let message = write(&mut noise)?;
        Ok((Self(noise), message))
    }

    /// Takes the second message, and has the keys.
    pub fn finish(mut self, message: &[u8]) -> Result<SessionKeys, HandshakeError> {
        read::<SECOND_LEN>(&mut self.0, message)?;
        split(self.0)
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Initiator(***)")
    }
}
