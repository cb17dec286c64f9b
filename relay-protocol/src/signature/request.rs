//! Signed requests (PROTOCOL.md sections 4.2 and 4.5).

use super::{
    LABEL, SignatureError, TIME_WINDOW,
    base::{self, Message},
    input::{self, Component, Name, Params, Parsed, SignatureInput},
};
use crate::keys::{Sign, SignatureBytes, Verify};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use sha2::{Digest, Sha256};

/// The most components that a request's signature may cover.
pub const MAX_COMPONENTS: usize = 64;

/// `Content-Digest` (RFC 9530).
pub use super::digest::CONTENT_DIGEST;

/// The lengths that a nonce may have: 16 bytes in base64 are 22 characters.
const NONCE_LEN: std::ops::RangeInclusive<usize> = 22..=64;

/// Key ids are UUIDs; anything longer is nothing that a table should be asked for.
const MAX_KEY_ID: usize = 64;

/// What tells the signature of an upgrade, which the query carries, from one in headers (section 4.5).
const WEBSOCKET: &str = "websocket";

/// Headers that go to the local server without being covered, besides `sec-*`: browsers
/// and relays set them where no script reaches.
const MAY_BE_UNCOVERED: [HeaderName; 21] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::COOKIE,
    header::DNT,
    header::ORIGIN,
    header::PRAGMA,
    HeaderName::from_static("priority"),
    header::REFERER,
    header::TE,
    header::TRAILER,
    header::USER_AGENT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    // What the relay sets. No other of this family: local servers take a name of a user from some.
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-prefix"),
    crate::headers::X_REQUEST_ID,
    // The hops' own: the framing of this hop.
    header::CONTENT_LENGTH,
];

/// Whether a header may go to the local server without being covered. None with a `_`: many servers take it
/// for a `-`.
pub fn may_be_uncovered(name: &HeaderName) -> bool {
    let text = name.as_str();
    MAY_BE_UNCOVERED.contains(name)
        || *name == header::TRANSFER_ENCODING
        || (text.starts_with("sec-") && !text.contains('_'))
}

/// A request as the agent receives it: the target is what follows the relay's prefix, without the query's
/// signature (section 4.5).
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path, byte for byte.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Whether a body follows: its length is not known to be 0.
    pub has_body: bool,
}

impl<'a> Parts<'a> {
    fn message(&self) -> Message<'a> {
        Message {
            method: Some(self.method),
            path: Some(self.path),
            query: self.query,
            ..Message::new(self.headers)
        }
    }
}

/// Where a request's signature stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    Headers,
    Query,
}

/// A request's signature of this protocol, read but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    parsed: Parsed,
    created: i64,
    carried: Carried,
}

impl Signed {
    /// Reads the signature from the headers; `None` when there is none of label `relay`.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`]: syntax, parameters, components that are not of this protocol.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, SignatureError> {
        match Parsed::from_headers(headers, LABEL)? {
            Some(parsed) => Self::new(parsed, Carried::Headers).map(Some),
            None => Ok(None),
        }
    }

    /// From a query: `input` is what stands in `Signature-Input` after `relay=`.
    pub(super) fn from_query(input: &[u8], signature: SignatureBytes) -> Result<Self, SignatureError> {
        if input.len() > input::MAX_FIELD {
            return Err(SignatureError::Malformed("a signature field is too long"));
        }
        let field = [LABEL.as_bytes(), b"=", input].concat();
        let input = input::parse_input(&field, LABEL)?
            .ok_or(SignatureError::Malformed("relay-signature-input cannot be read"))?;
        Self::new(Parsed { input, signature }, Carried::Query)
    }

    fn new(parsed: Parsed, carried: Carried) -> Result<Self, SignatureError> {
        let created = check_profile(&parsed.input, carried).map_err(SignatureError::Malformed)?;
        Ok(Self { parsed, created, carried })
    }

    /// What it covers, and its parameters.
    pub fn input(&self) -> &SignatureInput {
        &self.parsed.input
    }

    /// The 64 bytes.
    pub fn signature(&self) -> &SignatureBytes {
        &self.parsed.signature
    }

    /// Client id or session id, not believed yet.
    pub fn key_id(&self) -> &str {
        self.parsed.input.params().keyid.as_deref().unwrap_or_default()
    }

    /// Checks that everything is covered that must be.
    ///
    /// # Errors
    /// [`SignatureError::Uncovered`]
    pub fn cover(&self, parts: &Parts<'_>) -> Result<Covered<'_>, SignatureError> {
        let names = [(Name::Method, "@method"), (Name::Path, "@path"), (Name::Query, "@query")];
        for (name, text) in names {
            if !self.parsed.input.components().iter().any(|c| c.name == name) {
                return Err(SignatureError::Uncovered(text));
            }
        }
        if parts.has_body && !self.parsed.input.covers(&CONTENT_DIGEST) {
            return Err(SignatureError::Uncovered("content-digest"));
        }
        let protocol = header::SEC_WEBSOCKET_PROTOCOL;
        let upgrade = self.carried == Carried::Query;
        if upgrade && parts.headers.contains_key(&protocol) && !self.parsed.input.covers(&protocol) {
            return Err(SignatureError::Uncovered("sec-websocket-protocol"));
        }
        Ok(Covered(self))
    }
}

/// The `relay` profile: parameters and components of a request's signature. Returns `created`.
fn check_profile(input: &SignatureInput, carried: Carried) -> Result<i64, &'static str> {
    let Params { created, expires, keyid, nonce, alg, tag } = input.params();
    if expires.is_some() {
        return Err("a parameter of the signature is not one of this protocol");
    }
    match (carried, tag.as_deref()) {
        (Carried::Headers, None) | (Carried::Query, Some(WEBSOCKET)) => {}
        (Carried::Headers, Some(_)) => return Err("a signature in headers has no tag"),
        (Carried::Query, _) => return Err("a signature in a query has the tag websocket"),
    }
    if alg.as_deref() != Some("ed25519") {
        return Err("the algorithm of the signature must be ed25519");
    }
    if !keyid.as_deref().is_some_and(|id| (1..=MAX_KEY_ID).contains(&id.len())) {
        return Err("the signature has no usable keyid");
    }
    if !nonce.as_deref().is_some_and(is_nonce) {
        return Err("the signature has no usable nonce");
    }
    if input.components().len() > MAX_COMPONENTS {
        return Err("the signature covers too many components");
    }
    let known = |component: &Component| match &component.name {
        _ if component.has_parameters() => false,
        Name::Method | Name::Path | Name::Query => true,
        Name::Field(name) if carried == Carried::Query => *name == header::SEC_WEBSOCKET_PROTOCOL,
        Name::Field(name) => *name != input::SIGNATURE && *name != input::SIGNATURE_INPUT,
        Name::Authority | Name::Status => false,
    };
    if !input.components().iter().all(known) {
        return Err("the signature covers a component that is not one of this protocol");
    }
    created.filter(|at| *at >= 0).ok_or("the signature does not say when it was made")
}

fn is_nonce(text: &str) -> bool {
    let in_alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_');
    NONCE_LEN.contains(&text.len()) && text.bytes().all(in_alphabet)
}

/// A signature that covers enough. Its key can be looked up now.
#[derive(Debug, Clone, Copy)]
pub struct Covered<'a>(&'a Signed);

impl<'a> Covered<'a> {
    /// Client id or session id, not believed yet.
    pub fn key_id(self) -> &'a str {
        self.0.key_id()
    }

    /// Verifies the signature over the same request.
    ///
    /// # Errors
    /// [`SignatureError::Invalid`]
    pub fn verify(self, parts: &Parts<'_>, key: &impl Verify) -> Result<Verified<'a>, SignatureError> {
        let base = base::build(&self.0.parsed.input, &parts.message())?;
        key.verify(&base, &self.0.parsed.signature).map_err(|_| SignatureError::Invalid)?;
        Ok(Verified(self.0))
    }
}

/// A signature that is right. Whether the request is fresh is still to be checked.
#[derive(Debug, Clone, Copy)]
pub struct Verified<'a>(&'a Signed);

impl<'a> Verified<'a> {
    /// Checks `created` against the agent's clock, Unix seconds.
    ///
    /// # Errors
    /// [`SignatureError::ClockSkew`]
    pub fn check_time(self, now: i64) -> Result<(), SignatureError> {
        if self.0.created.abs_diff(now) <= TIME_WINDOW.unsigned_abs() {
            Ok(())
        } else {
            Err(SignatureError::ClockSkew)
        }
    }

    /// Client id or session id.
    pub fn key_id(self) -> &'a str {
        self.0.key_id()
    }

    /// When it was made, Unix seconds.
    pub fn created(self) -> i64 {
        self.0.created
    }

    /// The nonce.
    pub fn nonce(self) -> &'a str {
        self.0.parsed.input.params().nonce.as_deref().unwrap_or_default()
    }

    /// SHA-256 of the 64 signature bytes: what records and sealed codes are bound to.
    pub fn signature_hash(self) -> [u8; 32] {
        Sha256::digest(self.0.parsed.signature).into()
    }

    /// Whether the signature covers a header.
    pub fn covers(self, name: &HeaderName) -> bool {
        self.0.parsed.input.covers(name)
    }

    /// Whether a header may go to the local server: it is covered, or need not be. The signature's own
    /// fields never may.
    pub fn may_forward(self, name: &HeaderName) -> bool {
        self.covers(name) || may_be_uncovered(name)
    }
}

/// What a request is signed with.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// By the agent's clock, Unix seconds.
    pub created: i64,
    /// Client id or session id.
    pub key_id: &'a str,
    /// 22 to 64 characters of base64 or base64url, new for each request.
    pub nonce: &'a str,
}

/// The two fields of a signature that was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// What the signature covers.
    pub input: SignatureInput,
    /// Its bytes.
    pub signature: SignatureBytes,
}

impl Made {
    /// `Signature-Input`. `None` if a text in it is none that a header takes.
    pub fn input_field(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{LABEL}={}", self.input.as_str())).ok()
    }

    /// `Signature`.
    pub fn signature_field(&self) -> Option<HeaderValue> {
        let mut text = format!("{LABEL}=");
        input::byte_sequence(&self.signature, &mut text);
        HeaderValue::try_from(text).ok()
    }

    /// Puts both into the headers.
    pub fn insert(&self, headers: &mut HeaderMap) {
        if let (Some(input), Some(signature)) = (self.input_field(), self.signature_field()) {
            headers.insert(input::SIGNATURE_INPUT, input);
            headers.insert(input::SIGNATURE, signature);
        }
    }
}

/// Signs a request: method, path, query and the headers that are named, for peers in Rust and for tests.
///
/// # Errors
/// [`SignatureError::Invalid`] when a header that is named is not there.
pub fn sign(
    parts: &Parts<'_>,
    cover: &[HeaderName],
    stamp: Stamp<'_>,
    key: &impl Sign,
) -> Result<Made, SignatureError> {
    sign_tagged(parts, cover, stamp, None, key)
}

/// Signs the upgrade to a WebSocket, to be carried by the query: method, path, query and the sub-protocols if
/// there are any (section 4.5).
///
/// # Errors
/// None today; as for [`sign`].
pub fn sign_upgrade(parts: &Parts<'_>, stamp: Stamp<'_>, key: &impl Sign) -> Result<Made, SignatureError> {
    let protocol = header::SEC_WEBSOCKET_PROTOCOL;
    let cover = if parts.headers.contains_key(&protocol) { vec![protocol] } else { vec![] };
    sign_tagged(parts, &cover, stamp, Some(WEBSOCKET), key)
}

fn sign_tagged(
    parts: &Parts<'_>,
    cover: &[HeaderName],
    stamp: Stamp<'_>,
    tag: Option<&str>,
    key: &impl Sign,
) -> Result<Made, SignatureError> {
    let derived = [Name::Method, Name::Path, Name::Query].into_iter().map(Component::from);
    let components = derived.chain(cover.iter().cloned().map(Component::from)).collect();
    let params = Params {
        created: Some(stamp.created),
        keyid: Some(stamp.key_id.to_owned()),
        nonce: Some(stamp.nonce.to_owned()),
        alg: Some("ed25519".to_owned()),
        tag: tag.map(str::to_owned),
        ..Params::default()
    };
    let input = SignatureInput::new(components, params);
    let signature = key.sign(&base::build(&input, &parts.message())?);
    Ok(Made { input, signature })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::BrowserSigningKey;

    #[test]
    fn only_what_is_covered_or_excepted_reaches_the_local_server() {
        let mut headers = HeaderMap::new();
        for name in ["x-app", "x-other", "accept", "cookie"] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        let parts =
            Parts { method: &Method::GET, path: "/", query: None, headers: &headers, has_body: false };
        let key = BrowserSigningKey::from_seed(&[1; 32]);
        let stamp = Stamp { created: 1, key_id: "k", nonce: "AAAAAAAAAAAAAAAAAAAAAA" };
        let made = sign(&parts, &[HeaderName::from_static("x-app")], stamp, &key).unwrap();
        let mut carrying = headers.clone();
        made.insert(&mut carrying);
        let signed = Signed::from_headers(&carrying).unwrap().unwrap();
        let verified = signed.cover(&parts).unwrap().verify(&parts, &key.verifying_key()).unwrap();
        for (name, may) in [
            ("x-app", true),
            ("x-other", false),
            ("accept", true),
            ("cookie", true),
            ("sec-fetch-mode", true),
            ("sec-x_y", false),
            ("x-forwarded-for", true),
            ("x-forwarded-proto", true),
            ("x-forwarded-host", true),
            ("x-forwarded-prefix", true),
            ("x-forwarded-user", false),
            ("x-forwarded-port", false),
            ("x_forwarded_for", false),
            ("x-request-id", true),
            ("content-length", true),
            ("authorization", false),
            ("content-type", false),
            ("x-relay-client-id", false),
            ("signature", false),
            ("signature-input", false),
        ] {
            assert_eq!(verified.may_forward(&HeaderName::from_static(name)), may, "{name}");
        }
        assert!(verified.covers(&HeaderName::from_static("x-app")));
    }

    #[test]
    fn what_is_named_and_not_there_cannot_be_signed() {
        let headers = HeaderMap::new();
        let parts =
            Parts { method: &Method::GET, path: "/", query: None, headers: &headers, has_body: false };
        let stamp = Stamp { created: 1, key_id: "k", nonce: "AAAAAAAAAAAAAAAAAAAAAA" };
        let made = sign(&parts, &[header::ACCEPT], stamp, &BrowserSigningKey::from_seed(&[1; 32]));
        assert_eq!(made.err(), Some(SignatureError::Invalid));
    }
}
