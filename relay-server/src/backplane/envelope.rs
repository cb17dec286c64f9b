//! One frame on the bus, signed (contract: frames, "Several relays"). Pure.
//!
//! The signature is HMAC-SHA256 over the lines workspaceId, runtimeTargetId, machineId, sourceRelayId,
//! targetRelayId, direction, issuedAtMs and payload, joined by `\n`, empty where absent; base64url without padding.
//! Only the payload, which is the last, may hold a line break itself: anywhere else it would move the borders
//! between the fields, so such a frame is neither signed nor believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::Direction;

/// Length of a workspace's or a target's id at most.
pub const MAX_ID: usize = 128;
/// Length of a relay's id at most (RELAY_ID).
const MAX_RELAY_ID: usize = 64;
/// Length of a machine's id at most.
const MAX_MACHINE: usize = 256;
/// What the other fields of a frame take in JSON, names and punctuation included, and some more.
pub(super) const MAX_ENVELOPE: usize = 2048;

/// A signature's bytes.
pub(super) type Tag = [u8; 32];

/// What relays sign with.
#[derive(Clone)]
pub(super) struct Key(Hmac<Sha256>);

impl Key {
    /// The bytes of RELAY_BUS_HMAC_KEY as they are.
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    /// Over lines, joined by `\n`.
    pub(super) fn sign<'a>(&self, lines: impl IntoIterator<Item = &'a str>) -> Tag {
        self.over(lines).finalize().into_bytes().into()
    }

    /// In constant time.
    pub(super) fn verify<'a>(&self, lines: impl IntoIterator<Item = &'a str>, tag: &Tag) -> bool {
        self.over(lines).verify_slice(tag).is_ok()
    }

    fn over<'a>(&self, lines: impl IntoIterator<Item = &'a str>) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for (index, line) in lines.into_iter().enumerate() {
            if index > 0 {
                mac.update(b"\n");
            }
            mac.update(line.as_bytes());
        }
        mac
    }
}

/// A signature as text.
pub(super) fn tag_text(tag: &Tag) -> String {
    URL_SAFE_NO_PAD.encode(tag)
}

/// A signature from its text: base64url without padding and nothing else.
pub(super) fn tag_of(text: &str) -> Option<Tag> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// The frame as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope {
    pub(super) workspace_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) runtime_target_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) machine_id: Option<String>,
    pub(super) source_relay_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) target_relay_id: Option<String>,
    pub(super) direction: Direction,
    pub(super) payload: String,
    pub(super) issued_at_ms: i64,
    #[serde(default)]
    pub(super) signature: String,
}

impl Envelope {
    /// Signs it; `None` when a field could be taken for two.
    pub(super) fn sign(mut self, key: &Key) -> Option<Self> {
        self.plain().then(|| {
            self.signature = tag_text(&key.sign(self.lines(&self.issued_at_ms.to_string())));
            self
        })
    }

    /// Its signature, if that is good.
    pub(super) fn verify(&self, key: &Key) -> Option<Tag> {
        let tag = tag_of(&self.signature)?;
        (self.plain() && key.verify(self.lines(&self.issued_at_ms.to_string()), &tag)).then_some(tag)
    }

    fn lines<'a>(&'a self, issued_at_ms: &'a str) -> [&'a str; 8] {
        [
            &self.workspace_id,
            self.runtime_target_id.as_deref().unwrap_or_default(),
            self.machine_id.as_deref().unwrap_or_default(),
            &self.source_relay_id,
            self.target_relay_id.as_deref().unwrap_or_default(),
            self.direction.as_str(),
            issued_at_ms,
            &self.payload,
        ]
    }

    /// Whether every field but the payload is what it says. Absent may be written as empty.
    fn plain(&self) -> bool {
        let or_empty = |field: &Option<String>, good: fn(&str) -> bool| {
            field.as_deref().is_none_or(|text| text.is_empty() || good(text))
        };
        is_id(&self.workspace_id)
            && or_empty(&self.runtime_target_id, is_id)
            && or_empty(&self.machine_id, is_machine)
            && is_relay_id(&self.source_relay_id)
            && or_empty(&self.target_relay_id, is_relay_id)
            && self.issued_at_ms >= 0
    }
}

/// Whether this is a workspace's or a target's id; admission takes no other.
pub fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// Whether a relay can be called so.
pub(super) fn is_relay_id(text: &str) -> bool {
    (1..=MAX_RELAY_ID).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Machines are named by claims, in whatever alphabet; only nothing that ends a line.
pub(super) fn is_machine(text: &str) -> bool {
    (1..=MAX_MACHINE).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// How long a text is in JSON, quotes included.
pub(super) fn json_length(text: &str) -> usize {
    let escaped: usize = text
        .bytes()
        .map(|b| match b {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum();
    escaped + 2
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
