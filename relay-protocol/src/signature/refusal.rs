//! Signed refusals of exchanges over the relay (PROTOCOL.md section 5.3): as every signed response, but the
//! request has no signature that could be covered. What binds the refusal to it is the header
//! `relay-exchange`, which repeats the prelude of what was refused.
//!
//! A relay can bring an old refusal of the same exchange, and none of another one: a browser that believes
//! it knows what the agent found then, not that the exchange had not come before.

use super::{
    SignatureError,
    base::{Asked, Message},
    request::Made,
    response::{Verified, sign_message, target_components, verify_message},
};
use crate::{
    exchange::{PATH, Prelude},
    headers::RELAY_EXCHANGE,
    keys::{Sign, Verify},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use uuid::Uuid;

/// A refusal as it is signed or was received. The request is always the same: `POST /_relay/exchange`.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// The status, 400 or more.
    pub status: StatusCode,
    /// The headers; `Content-Digest` (sha-256) and [`RELAY_EXCHANGE`] among them.
    pub headers: &'a HeaderMap,
    /// What was refused: to be filled from what was sent, not from what the answer says.
    pub prelude: &'a Prelude,
    /// The host that refuses: the `keyid`.
    pub host_id: Uuid,
}

impl<'a> Refusal<'a> {
    fn message(&self) -> Message<'a> {
        let request = Asked::Unsigned { method: &Method::POST, path: PATH, query: None };
        Message { status: Some(self.status), request: Some(request), ..Message::new(self.headers) }
    }

    /// Whether it says that it refuses what was sent.
    fn fits(&self) -> bool {
        let mut named = self.headers.get_all(&RELAY_EXCHANGE).iter();
        let right = named.next().is_some_and(|value| value.as_bytes() == self.prelude.to_b64().as_bytes());
        right && named.next().is_none() && self.status.as_u16() >= 400
    }
}

/// The value of [`RELAY_EXCHANGE`] for a refusal of this exchange.
pub fn header_value(prelude: &Prelude) -> HeaderValue {
    // base64url always is a header's value.
    HeaderValue::try_from(prelude.to_b64()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Signs a refusal; put the result into the headers by [`Made::insert`].
///
/// # Errors
/// [`SignatureError::Uncovered`] without `Content-Digest` or the header of this exchange, and for a status
/// that refuses nothing; [`SignatureError::Malformed`] with more headers than a signature may cover.
pub fn sign(refusal: &Refusal<'_>, created: i64, key: &impl Sign) -> Result<Made, SignatureError> {
    if !refusal.fits() {
        return Err(SignatureError::Uncovered("relay-exchange"));
    }
    sign_message(&refusal.message(), &target_components(), refusal.host_id, created, key)
}

/// Verifies a refusal, for peers in Rust and for tests. The body's digest is still to be checked. `None`
/// when there is no signature of label `relay`: the relay's own answer.
///
/// # Errors
/// As for a response. A refusal of another exchange, and an answer that is none, are
/// [`SignatureError::Invalid`].
pub fn verify(refusal: &Refusal<'_>, key: &impl Verify) -> Result<Option<Verified>, SignatureError> {
    let message = refusal.message();
    let Some(verified) = verify_message(&message, &target_components(), refusal.host_id, key)? else {
        return Ok(None);
    };
    if !verified.covers(&RELAY_EXCHANGE) {
        return Err(SignatureError::Uncovered("relay-exchange"));
    }
    if refusal.fits() { Ok(Some(verified)) } else { Err(SignatureError::Invalid) }
}
