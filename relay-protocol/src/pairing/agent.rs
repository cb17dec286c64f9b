//! The agent's end of pairing. One value for each start; every step takes the one before.

use super::{
    AgentClaims, AgentConfirmKey, BrowserClaims, Code, FinishMessage, KeySchedule, Message, PairingError,
    Psk, Transcript,
    spake::{self, Exchange, Side},
};
use rand::CryptoRng;
use uuid::Uuid;

/// A start that was answered. It holds the keys already: nothing of the code is kept.
#[derive(Debug)]
pub struct AgentStart {
    host_id: Uuid,
    keys: KeySchedule,
}

impl AgentStart {
    /// Answers a browser's message A by message B.
    ///
    /// # Errors
    /// [`PairingError::BadMessage`]; it tells nothing of the code and is no guess.
    pub fn new(
        code: &Code,
        host_id: Uuid,
        message_a: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Message), PairingError> {
        let message_a = spake::check(Side::Browser, message_a)?;
        let (exchange, message_b) = Exchange::start(Side::Agent, code, host_id, rng)?;
        let key = exchange.finish(&message_a)?;
        let keys = KeySchedule::derive(&Transcript::new(host_id, &message_a, &message_b), &key);
        Ok((Self { host_id, keys }, message_b))
    }

    /// Verifies the browser's proof, then reads what it proves. Takes the start: there is no second guess.
    ///
    /// # Errors
    /// [`PairingError::WrongProof`] burns the code. [`PairingError::Claims`] after a right proof uses it up.
    pub fn finish(self, message: &FinishMessage) -> Result<Proved, PairingError> {
        let FinishMessage { pairing_id, claims, proof } = message;
        self.keys.browser.verify(*pairing_id, claims, proof)?;
        let browser = BrowserClaims::parse(claims, self.host_id)?;
        Ok(Proved {
            browser,
            psk: self.keys.psk,
            pairing_id: *pairing_id,
            browser_claims: claims.clone(),
            confirm: self.keys.agent,
        })
    }
}

/// A browser that has proved that it knows the code. It is paired once the agent has stored it.
#[derive(Debug)]
pub struct Proved {
    /// What it says of itself.
    pub browser: BrowserClaims,
    /// The secret that both keep.
    pub psk: Psk,
    pairing_id: Uuid,
    browser_claims: Vec<u8>,
    confirm: AgentConfirmKey,
}

impl Proved {
    /// The answer that proves the agent's claims to the browser.
    pub fn answer(&self, claims: &AgentClaims) -> FinishMessage {
        let claims = claims.to_json();
        let proof = self.confirm.prove(self.pairing_id, &self.browser_claims, &claims).to_vec();
        FinishMessage { pairing_id: self.pairing_id, claims, proof }
    }
}
