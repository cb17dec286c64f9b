//! Signed tokens of others (RFC 7515, 7517, 7519), checked against their published keys. Pure.
//!
//! The token was written by anyone. What it says about itself chooses nothing but one of our three algorithms
//! and one key of the set: the key has to be of the algorithm's own type, for signatures, and not meant for another
//! algorithm. Keys and addresses inside a token (`jwk`, `jku`, `x5u`, `x5c`) are never looked at, and a header
//! that asks for something more to be understood (`crit`, `b64`) refuses the token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Longer tokens are refused unread.
pub const MAX_TOKEN_BYTES: usize = 4096;
/// A provider has a handful of keys, during a rotation twice as many.
const MAX_KEYS: usize = 64;
/// A longer name of a key is none.
const MAX_KID: usize = 256;
/// Bytes of a coordinate of P-256, and of a public key of Ed25519.
const POINT: usize = 32;

/// Why a token is refused. For logs and tests; to the caller all of them are one 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Longer than any token of this kind.
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not three parts of base64url with JSON objects, or a claim is of another kind than it has to be.
    #[error("the token is malformed")]
    Malformed,
    /// None of RS256, ES256 and EdDSA.
    #[error("the token's algorithm is not taken")]
    Algorithm,
    /// The header asks for an extension.
    #[error("the token's header asks for an extension")]
    Critical,
    /// No key of the set, or more than one, is meant for it.
    #[error("no key fits the token")]
    Key,
    /// Not signed with the key that it names.
    #[error("the token's signature is wrong")]
    Signature,
    /// It has no end.
    #[error("the token has no expiry")]
    Endless,
    /// Past its end.
    #[error("the token has expired")]
    Expired,
    /// Before its beginning.
    #[error("the token is not valid yet")]
    NotYet,
    /// Made by somebody else.
    #[error("the token is of another issuer")]
    Issuer,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
}

/// What a token has to say besides being signed and in its time.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The `iss`, to the letter.
    pub issuer: Option<String>,
    /// What `aud` is, or holds.
    pub audience: Option<String>,
    /// How far the clock of whoever made the token may be from ours.
    pub leeway_seconds: u32,
}

/// The algorithms that are taken. Ed25519 is the name of RFC 9864 for what everybody calls EdDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alg {
    Rs256,
    Es256,
    EdDsa,
}

impl Alg {
    fn read(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }

    fn library(self) -> Algorithm {
        match self {
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

/// A key as it stands in a set, as far as it matters here.
#[derive(Deserialize)]
struct Published {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// A key that verifies signatures of one algorithm.
struct Key {
    kid: Option<String>,
    alg: Alg,
    key: DecodingKey,
}

impl Key {
    fn read(published: &Value) -> Option<Self> {
        let key = Published::deserialize(published).ok()?;
        let for_signatures = key.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && key.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let (alg, decoding) = match (key.kty.as_str(), key.crv.as_deref()) {
            ("RSA", _) => (Alg::Rs256, DecodingKey::from_rsa_components(&key.n?, &key.e?).ok()?),
            ("EC", Some("P-256")) => {
                (Alg::Es256, DecodingKey::from_ec_components(&point(key.x?)?, &point(key.y?)?).ok()?)
            }
            ("OKP", Some("Ed25519")) => (Alg::EdDsa, DecodingKey::from_ed_components(&point(key.x?)?).ok()?),
            _ => return None,
        };
        let meant = key.alg.as_deref().is_none_or(|name| Alg::read(name) == Some(alg));
        (for_signatures && meant).then_some(Self { kid: key.kid, alg, key: decoding })
    }
}

/// Base64url of as many bytes as a point's coordinate has.
fn point(text: String) -> Option<String> {
    (URL_SAFE_NO_PAD.decode(&text).ok()?.len() == POINT).then_some(text)
}

/// Published keys. What is of no use among them is left out.
pub struct KeySet {
    keys: Vec<Key>,
    /// Names of keys that are there and of no use: asking anew would not help.
    unusable: Vec<String>,
}

/// Why a key set is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSet {
    /// No object with an array `keys`.
    #[error("it is no key set")]
    Malformed,
    /// Too many.
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
}

impl KeySet {
    /// The keys of a set (RFC 7517 section 5).
    ///
    /// # Errors
    /// [`BadSet`]. A key that cannot be used is no error.
    pub fn read(set: &Value) -> Result<Self, BadSet> {
        let published = set.get("keys").and_then(Value::as_array).ok_or(BadSet::Malformed)?;
        if published.len() > MAX_KEYS {
            return Err(BadSet::TooMany);
        }
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        for key in published {
            match Key::read(key) {
                Some(key) => keys.push(key),
                None => unusable.extend(key.get("kid").and_then(Value::as_str).map(str::to_owned)),
            }
        }
        Ok(Self { keys, unusable })
    }

    /// How many keys can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none can.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a newer set may have the key for this token, and this one has not.
    pub fn may_lack(&self, token: &Token<'_>) -> bool {
        match &token.kid {
            Some(kid) => {
                !self.keys.iter().any(|key| key.kid.as_ref() == Some(kid)) && !self.unusable.contains(kid)
            }
            None => !self.keys.iter().any(|key| key.alg == token.alg),
        }
    }

    /// The claims of a token that is signed with one of these keys and says what it has to, at this time.
    ///
    /// # Errors
    /// [`BadToken`].
    pub fn verify(&self, token: &Token<'_>, rules: &Rules, now: i64) -> Result<Map<String, Value>, BadToken> {
        let fits = |key: &&Key| {
            key.alg == token.alg && token.kid.as_ref().is_none_or(|kid| key.kid.as_ref() == Some(kid))
        };
        let mut fitting = self.keys.iter().filter(fits);
        let (Some(key), None) = (fitting.next(), fitting.next()) else { return Err(BadToken::Key) };
        let good = jsonwebtoken::crypto::verify(
            token.signature,
            token.signed.as_bytes(),
            &key.key,
            token.alg.library(),
        );
        match good {
            Ok(true) => {}
            Ok(false) => return Err(BadToken::Signature),
            Err(_) => return Err(BadToken::Malformed),
        }
        let claims: Map<String, Value> = decode(token.payload)?;
        rules.check(&claims, now)?;
        Ok(claims)
    }
}

/// A token, taken apart and not believed yet.
pub struct Token<'a> {
    alg: Alg,
    kid: Option<String>,
    /// The header's `typ`.
    pub typ: Option<String>,
    signed: &'a str,
    payload: &'a str,
    signature: &'a str,
}

/// What matters of a header. A name that stands there twice makes it malformed.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    b64: bool,
}

/// Whether the name stands there, whatever its value is, `null` too.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(value).map(|_| true)
}

impl<'a> Token<'a> {
    /// Takes a token apart (RFC 7515 section 7.1).
    ///
    /// # Errors
    /// [`BadToken`].
    pub fn read(token: &'a str) -> Result<Self, BadToken> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(BadToken::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(BadToken::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(BadToken::Malformed)?;
        if payload.contains('.') {
            return Err(BadToken::Malformed);
        }
        let header: Header = decode(header)?;
        if header.crit || header.b64 {
            return Err(BadToken::Critical);
        }
        let alg = Alg::read(&header.alg).ok_or(BadToken::Algorithm)?;
        if header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID) {
            return Err(BadToken::Key);
        }
        Ok(Self { alg, kid: header.kid, typ: header.typ, signed, payload, signature })
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, BadToken> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| BadToken::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| BadToken::Malformed)
}

impl Rules {
    /// Checks the claims that every token has (RFC 7519 section 4.1).
    fn check(&self, claims: &Map<String, Value>, now: i64) -> Result<(), BadToken> {
        let (now, leeway) = (now as f64, f64::from(self.leeway_seconds));
        let exp = time(claims, "exp")?.ok_or(BadToken::Endless)?;
        if now > exp + leeway {
            return Err(BadToken::Expired);
        }
        if time(claims, "nbf")?.is_some_and(|nbf| nbf > now + leeway) {
            return Err(BadToken::NotYet);
        }
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(BadToken::Issuer);
        }
        if let Some(audience) = &self.audience
            && !is_for(claims, audience)
        {
            return Err(BadToken::Audience);
        }
        Ok(())
    }
}

/// Whether `aud` is this, or a list that holds it.
pub fn is_for(claims: &Map<String, Value>, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    }
}

/// A time in Unix seconds, which may have a fraction (RFC 7519 section 2).
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, BadToken> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().filter(|time| time.is_finite()).map(Some).ok_or(BadToken::Malformed),
    }
}

/// The claims of a token, unverified: for deciding whom it was made for before it goes anywhere,
/// and so also those of a token that is too long or in other ways no good.
pub fn claims_unverified(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_, payload) = (parts.next()?, parts.next()?);
    decode(payload.trim_end_matches('=')).ok()
}

#[cfg(test)]
#[path = "jws_tests.rs"]
pub(crate) mod tests;
