//! Signed responses (PROTOCOL.md section 4.3). Method, target and signature of the request are part of what
//! is signed: a response fits one request only, and a relay that sends the bytes of a signature along with
//! another request gets nothing that fits the one it was made for.

use super::{
    LABEL, SignatureError,
    base::{self, Answered, Asked, Message},
    digest::CONTENT_DIGEST,
    input::{self, Component, Name, Params, Parsed, SignatureInput},
    request::Made,
};
use crate::keys::{Sign, Verify};
use http::{HeaderMap, HeaderName, StatusCode, header};
use uuid::Uuid;

/// Headers of a response that are not covered: the relay maps them, or they are the hops' own.
const NOT_COVERED: [HeaderName; 10] = [
    header::LOCATION,
    header::CONTENT_LOCATION,
    header::SET_COOKIE,
    header::CONTENT_LENGTH,
    header::DATE,
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whether a response's signature leaves a header out.
pub fn is_left_out(name: &HeaderName) -> bool {
    NOT_COVERED.contains(name) || *name == input::SIGNATURE || *name == input::SIGNATURE_INPUT
}

/// A response as it is signed or was received.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The status.
    pub status: StatusCode,
    /// The headers; `Content-Digest` (sha-256) among them.
    pub headers: &'a HeaderMap,
    /// The request that is answered.
    pub request: Answered<'a>,
    /// The host that answers: the `keyid`.
    pub host_id: Uuid,
}

impl<'a> Parts<'a> {
    fn message(&self) -> Message<'a> {
        Message {
            status: Some(self.status),
            request: Some(Asked::Signed(self.request)),
            ..Message::new(self.headers)
        }
    }
}

fn of_request(name: Name) -> Component {
    Component { name, key: None, req: true }
}

/// What is covered of every request.
pub(super) fn target_components() -> [Component; 3] {
    [of_request(Name::Method), of_request(Name::Path), of_request(Name::Query)]
}

/// What is covered of a signed request.
pub fn request_components() -> [Component; 5] {
    let member = |name| Component { key: Some(LABEL.to_owned()), ..of_request(Name::Field(name)) };
    let [method, path, query] = target_components();
    [method, path, query, member(input::SIGNATURE_INPUT), member(input::SIGNATURE)]
}

/// Signs a response; put the result into the headers by [`Made::insert`]. What the relay would drop or set
/// itself must be gone from the headers before.
///
/// # Errors
/// [`SignatureError::Uncovered`] without `Content-Digest`; [`SignatureError::Malformed`] with more headers
/// than a signature may cover.
pub fn sign(parts: &Parts<'_>, created: i64, key: &impl Sign) -> Result<Made, SignatureError> {
    sign_message(&parts.message(), &request_components(), parts.host_id, created, key)
}

/// Signs what answers a request, of which these components are covered.
pub(super) fn sign_message(
    message: &Message<'_>,
    request: &[Component],
    host_id: Uuid,
    created: i64,
    key: &impl Sign,
) -> Result<Made, SignatureError> {
    if !message.headers.contains_key(&CONTENT_DIGEST) {
        return Err(SignatureError::Uncovered("content-digest"));
    }
    let mut components = vec![Name::Status.into(), CONTENT_DIGEST.into()];
    components.extend_from_slice(request);
    let first = components.len();
    let others = message.headers.keys().filter(|name| !is_left_out(name) && **name != CONTENT_DIGEST);
    components.extend(others.cloned().map(Component::from));
    // The map keeps no order; a stable one makes two signatures over the same thing alike.
    if let Some(fields) = components.get_mut(first..) {
        fields.sort_unstable_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    }
    if components.len() > input::MAX_COMPONENTS {
        return Err(SignatureError::Malformed("the response has too many headers to be signed"));
    }
    let params = Params {
        created: Some(created),
        keyid: Some(host_id.to_string()),
        alg: Some("ed25519".to_owned()),
        ..Params::default()
    };
    let input = SignatureInput::new(components, params);
    let signature = key.sign(&base::build(&input, message)?);
    Ok(Made { input, signature })
}

/// A response's signature that is right.
#[derive(Debug, Clone)]
pub struct Verified {
    input: SignatureInput,
}

impl Verified {
    /// When it was made, by the agent's clock.
    pub fn created(&self) -> i64 {
        self.input.params().created.unwrap_or_default()
    }

    /// Whether a header is covered. One that is not comes from the relay.
    pub fn covers(&self, name: &HeaderName) -> bool {
        self.input.covers(name)
    }
}

/// Verifies a response, for peers in Rust and for tests. The body's digest is still to be checked. `None`
/// when there is no signature of label `relay`: the relay's own answer.
///
/// # Errors
/// As for a request; a `keyid` that is not the host's is [`SignatureError::Invalid`].
pub fn verify(parts: &Parts<'_>, key: &impl Verify) -> Result<Option<Verified>, SignatureError> {
    verify_message(&parts.message(), &request_components(), parts.host_id, key)
}

/// Verifies what answers a request, of which these components must be covered.
pub(super) fn verify_message(
    message: &Message<'_>,
    request: &[Component],
    host_id: Uuid,
    key: &impl Verify,
) -> Result<Option<Verified>, SignatureError> {
    let Some(Parsed { input, signature }) = Parsed::from_headers(message.headers, LABEL)? else {
        return Ok(None);
    };
    let Params { created, expires, keyid, nonce, alg, tag } = input.params();
    let plain = expires.is_none() && nonce.is_none() && tag.is_none() && created.is_some();
    if !plain || alg.as_deref() != Some("ed25519") || keyid.is_none() {
        return Err(SignatureError::Malformed("the parameters of the signature are not those of a response"));
    }
    let has = |component: &Component| input.components().contains(component);
    if !has(&Name::Status.into()) {
        return Err(SignatureError::Uncovered("@status"));
    }
    if !has(&CONTENT_DIGEST.into()) {
        return Err(SignatureError::Uncovered("content-digest"));
    }
    if !request.iter().all(has) {
        return Err(SignatureError::Uncovered("the whole request"));
    }
    if keyid.as_deref() != Some(host_id.to_string().as_str()) {
        return Err(SignatureError::Invalid);
    }
    let base = base::build(&input, message)?;
    key.verify(&base, &signature).map_err(|_| SignatureError::Invalid)?;
    Ok(Some(Verified { input }))
}
