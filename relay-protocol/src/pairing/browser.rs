//! The browser's end of pairing, for peers in Rust and for tests.

use super::{
    AgentClaims, AgentConfirmKey, BrowserClaims, Code, FinishMessage, KeySchedule, Message, PairingError,
    Psk, StartResponse, Transcript,
    spake::{self, Exchange, Side},
};
use rand::CryptoRng;
use uuid::Uuid;

/// A start that was sent.
pub struct BrowserStart {
    host_id: Uuid,
    message_a: Message,
    exchange: Exchange,
}

impl BrowserStart {
    /// Begins; message A goes to the agent.
    pub fn new(
        code: &Code,
        host_id: Uuid,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Message), PairingError> {
        let (exchange, message_a) = Exchange::start(Side::Browser, code, host_id, rng)?;
        Ok((Self { host_id, message_a, exchange }, message_a))
    }

    /// Takes the agent's answer and proves the browser's claims.
    pub fn prove(
        self,
        answer: &StartResponse,
        claims: &BrowserClaims,
    ) -> Result<(BrowserProved, FinishMessage), PairingError> {
        let message_b = spake::check(Side::Agent, &answer.message)?;
        let key = self.exchange.finish(&message_b)?;
        let keys = KeySchedule::derive(&Transcript::new(self.host_id, &self.message_a, &message_b), &key);
        let pairing_id = answer.pairing_id;
        let claims = claims.to_json();
        let proof = keys.browser.prove(pairing_id, &claims).to_vec();
        let message = FinishMessage { pairing_id, claims: claims.clone(), proof };
        let proved =
            BrowserProved { host_id: self.host_id, pairing_id, claims, confirm: keys.agent, psk: keys.psk };
        Ok((proved, message))
    }
}

/// A proof that was sent. Nothing is to be stored yet.
#[derive(Debug)]
pub struct BrowserProved {
    host_id: Uuid,
    pairing_id: Uuid,
    claims: Vec<u8>,
    confirm: AgentConfirmKey,
    psk: Psk,
}

impl BrowserProved {
    /// Verifies the agent's proof, then reads what it proves.
    pub fn finish(self, answer: &FinishMessage) -> Result<BrowserPaired, PairingError> {
        if answer.pairing_id != self.pairing_id {
            return Err(PairingError::WrongProof);
        }
        self.confirm.verify(self.pairing_id, &self.claims, &answer.claims, &answer.proof)?;
        Ok(BrowserPaired { agent: AgentClaims::parse(&answer.claims, self.host_id)?, psk: self.psk })
    }
}

/// A pairing as the browser keeps it.
#[derive(Debug)]
pub struct BrowserPaired {
    /// What the agent says of itself.
    pub agent: AgentClaims,
    /// The secret that both keep.
    pub psk: Psk,
}
