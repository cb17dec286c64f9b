//! Every file of vectors, by name. Seeds and random bytes are constants: nothing here is secret.

mod exchange;
mod pairing;
mod record;
mod record_sealed;
mod request;
mod response;
mod sealed;
mod yamux;

use relay_protocol::keys::{AgentSigningKey, BrowserSigningKey};
use serde_json::Value;
use uuid::Uuid;

pub const HOST: Uuid = Uuid::from_u128(0x0d1f_0c57_3b4e_4a7f_9e38_0a4b_4c5d_6e7f);
pub const SESSION: Uuid = Uuid::from_u128(0x7c9e_6679_7425_40de_944b_e07f_c1f9_0ae7);
pub const BROWSER_SEED: [u8; 32] = [0x31; 32];
pub const AGENT_SEED: [u8; 32] = [0x32; 32];
pub const NOW: i64 = 1_800_000_000;

pub fn files() -> Vec<(&'static str, Value)> {
    vec![
        ("spake2.json", pairing::spake2()),
        ("pairing.json", pairing::pairing()),
        ("fingerprint.json", pairing::fingerprint()),
        ("sealed_code.json", pairing::sealed_code()),
        ("signature_request.json", request::request()),
        ("websocket_query.json", request::websocket_query()),
        ("content_digest.json", request::content_digest()),
        ("signature_response.json", response::response()),
        ("rfc9421_b26.json", response::rfc9421_b26()),
        ("record_signed.json", record::record_signed()),
        ("record_payload.json", record::record_payload()),
        ("yamux.json", yamux::yamux()),
        ("noise_handshake.json", sealed::noise_handshake()),
        ("record_key.json", sealed::record_key()),
        ("record_sealed.json", record_sealed::record_sealed()),
        ("exchange_signed.json", record_sealed::exchange_signed()),
        ("exchange_prelude.json", exchange::exchange_prelude()),
        ("exchange_numbers.json", exchange::exchange_numbers()),
        ("request_head.json", exchange::request_head()),
        ("exchange_refusal.json", exchange::exchange_refusal()),
    ]
}

pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn browser_key() -> BrowserSigningKey {
    BrowserSigningKey::from_seed(&BROWSER_SEED)
}

pub fn agent_key() -> AgentSigningKey {
    AgentSigningKey::from_seed(&AGENT_SEED)
}

/// Gives one byte for ever. For both versions of the traits.
pub struct Fixed(pub u8);

impl rand::RngCore for Fixed {
    fn next_u32(&mut self) -> u32 {
        u32::from_le_bytes([self.0; 4])
    }

    fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes([self.0; 8])
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        to.fill(self.0);
    }
}

impl rand::CryptoRng for Fixed {}

impl rand_core::RngCore for Fixed {
    fn next_u32(&mut self) -> u32 {
        u32::from_le_bytes([self.0; 4])
    }

    fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes([self.0; 8])
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        to.fill(self.0);
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), rand_core::Error> {
        to.fill(self.0);
        Ok(())
    }
}

impl rand_core::CryptoRng for Fixed {}
