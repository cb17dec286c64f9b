//! `Content-Digest` (RFC 9530) with `sha-256`, `sha-512` or both, checked while a body streams.

use super::SignatureError;
use aws_lc_rs::digest::{Context, SHA256, SHA512};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{
    BareItemFromInput, KeyRef, Parser,
    visitor::{DictionaryVisitor, EntryVisitor, InnerListVisitor, ItemVisitor, Never, ParameterVisitor},
};
use subtle::ConstantTimeEq;

/// `Content-Digest`.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// The most bytes of the field: both digests need 150.
const MAX_FIELD: usize = 512;

/// The body is not the one that was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body does not fit its digest")]
pub struct DigestMismatch;

impl DigestMismatch {
    /// The code of the problem that tells it.
    pub const fn code(self) -> crate::problem::Code {
        crate::problem::Code::DigestMismatch
    }
}

/// The digests that a message announces. At least one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContentDigest {
    sha256: Option<[u8; 32]>,
    sha512: Option<[u8; 64]>,
}

impl ContentDigest {
    /// Reads the field; `None` when there is none.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`] for bad syntax, an algorithm that is not checked here, or one twice.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, SignatureError> {
        const MALFORMED: SignatureError = SignatureError::Malformed("Content-Digest cannot be read");
        let mut values = headers.get_all(&CONTENT_DIGEST).iter();
        let Some(first) = values.next() else { return Ok(None) };
        let Some(second) = values.next() else { return Self::parse(first.as_bytes()).map(Some) };
        if values.next().is_some() || first.len() + second.len() > MAX_FIELD {
            return Err(MALFORMED);
        }
        Self::parse(&[first.as_bytes(), b", ", second.as_bytes()].concat()).map(Some)
    }

    /// Reads the value of the field.
    pub fn parse(field: &[u8]) -> Result<Self, SignatureError> {
        let mut digest = Reading::default();
        let short = field.len() <= MAX_FIELD;
        let parsed = short && Parser::new(field).parse_dictionary_with_visitor(&mut digest).is_ok();
        if parsed && digest.0 != Self::default() {
            Ok(digest.0)
        } else {
            Err(SignatureError::Malformed("Content-Digest cannot be read"))
        }
    }

    /// The value of the field for a body, with `sha-256`.
    pub fn field_sha256(body: &[u8]) -> HeaderValue {
        let mut text = String::with_capacity(56);
        text.push_str("sha-256=:");
        STANDARD.encode_string(aws_lc_rs::digest::digest(&SHA256, body), &mut text);
        text.push(':');
        // Base64 is always a header's value.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Begins to check a body.
    pub fn verifier(&self) -> DigestVerifier {
        DigestVerifier {
            sha256: self.sha256.map(|expected| (Context::new(&SHA256), expected)),
            sha512: self.sha512.map(|expected| (Context::new(&SHA512), expected)),
        }
    }
}

/// Checks a body as it comes.
#[derive(Clone)]
pub struct DigestVerifier {
    sha256: Option<(Context, [u8; 32])>,
    sha512: Option<(Context, [u8; 64])>,
}

impl DigestVerifier {
    /// The next piece.
    pub fn update(&mut self, piece: &[u8]) {
        if let Some((context, _)) = &mut self.sha256 {
            context.update(piece);
        }
        if let Some((context, _)) = &mut self.sha512 {
            context.update(piece);
        }
    }

    /// The end: whether every digest that was announced is right.
    pub fn finish(self) -> Result<(), DigestMismatch> {
        let right = |context: Context, expected: &[u8]| bool::from(context.finish().as_ref().ct_eq(expected));
        let first = self.sha256.is_none_or(|(context, expected)| right(context, &expected));
        let second = self.sha512.is_none_or(|(context, expected)| right(context, &expected));
        if first && second { Ok(()) } else { Err(DigestMismatch) }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

enum Slot<'a> {
    Sha256(&'a mut Option<[u8; 32]>),
    Sha512(&'a mut Option<[u8; 64]>),
}

/// A digest while it is read.
#[derive(Default)]
struct Reading(ContentDigest);

impl<'de> DictionaryVisitor<'de> for Reading {
    type Error = Refused;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Refused> {
        match key.as_str() {
            "sha-256" if self.0.sha256.is_none() => Ok(Slot::Sha256(&mut self.0.sha256)),
            "sha-512" if self.0.sha512.is_none() => Ok(Slot::Sha512(&mut self.0.sha512)),
            _ => Err(Refused),
        }
    }
}

impl<'de> ItemVisitor<'de> for Slot<'_> {
    type Error = Refused;

    fn bare_item(self, item: BareItemFromInput<'de>) -> Result<impl ParameterVisitor<'de>, Refused> {
        let bytes = item.as_byte_sequence().ok_or(Refused)?;
        match self {
            Slot::Sha256(slot) => *slot = Some(bytes.try_into().map_err(|_| Refused)?),
            Slot::Sha512(slot) => *slot = Some(bytes.try_into().map_err(|_| Refused)?),
        }
        Ok(NoParameters)
    }
}

impl<'de> EntryVisitor<'de> for Slot<'_> {
    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, Refused> {
        Err::<Never, _>(Refused)
    }
}

struct NoParameters;

impl<'de> ParameterVisitor<'de> for NoParameters {
    type Error = Refused;

    fn parameter(&mut self, _: &'de KeyRef, _: BareItemFromInput<'de>) -> Result<(), Refused> {
        Err(Refused)
    }
}
