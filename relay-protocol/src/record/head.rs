//! The payloads that have a form of their own: HEAD, END, ERROR and CLOSE.

use super::{MAX_HEAD, RecordError};
use crate::problem::Problem;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

/// The most header fields in a HEAD or trailers; more than any server sends.
const MAX_FIELDS: usize = 1024;

/// The most bytes of the reason of a CLOSE (RFC 6455 section 5.5).
const MAX_REASON: usize = 123;

/// Header fields as JSON: each byte of a value one code point.
#[derive(Serialize, Deserialize)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(crate) fn encode(headers: &HeaderMap) -> Self {
        let value = |value: &HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
        Self(headers.iter().map(|(name, field)| (name.as_str().to_owned(), value(field))).collect())
    }

    pub(crate) fn decode(self) -> Result<HeaderMap, RecordError> {
        if self.0.len() > MAX_FIELDS {
            return Err(RecordError::BadPayload);
        }
        let mut headers = HeaderMap::with_capacity(self.0.len());
        for (name, value) in self.0 {
            let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| RecordError::BadPayload)?;
            let bytes: Result<Vec<u8>, _> = value.chars().map(u8::try_from).collect();
            let bytes = bytes.map_err(|_| RecordError::BadPayload)?;
            let value =
                HeaderValue::from_maybe_shared(Bytes::from(bytes)).map_err(|_| RecordError::BadPayload)?;
            if field.as_str() != name {
                return Err(RecordError::BadPayload);
            }
            headers.append(field, value);
        }
        Ok(headers)
    }
}

#[derive(Serialize, Deserialize)]
struct HeadJson {
    status: u16,
    headers: Fields,
}

#[derive(Serialize, Deserialize)]
struct TrailersJson {
    trailers: Fields,
}

fn to_json(value: &impl Serialize) -> Bytes {
    // Strings and numbers always have a JSON text.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// What HEAD says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
}

impl Head {
    /// The payload.
    ///
    /// # Errors
    /// [`RecordError::BadLength`] when the headers are more than a HEAD may have.
    pub fn encode(&self) -> Result<Bytes, RecordError> {
        let payload =
            to_json(&HeadJson { status: self.status.as_u16(), headers: Fields::encode(&self.headers) });
        if payload.len() <= MAX_HEAD { Ok(payload) } else { Err(RecordError::BadLength) }
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let json: HeadJson = serde_json::from_slice(payload).map_err(|_| RecordError::BadPayload)?;
        let status = StatusCode::from_u16(json.status).map_err(|_| RecordError::BadPayload)?;
        Ok(Self { status, headers: json.headers.decode()? })
    }
}

/// The payload of END.
pub fn encode_trailers(trailers: &HeaderMap) -> Bytes {
    if trailers.is_empty() {
        return Bytes::new();
    }
    to_json(&TrailersJson { trailers: Fields::encode(trailers) })
}

/// Reads the payload of END.
pub fn decode_trailers(payload: &[u8]) -> Result<HeaderMap, RecordError> {
    if payload.is_empty() {
        return Ok(HeaderMap::new());
    }
    let json: TrailersJson = serde_json::from_slice(payload).map_err(|_| RecordError::BadPayload)?;
    json.trailers.decode()
}

/// The payload of ERROR.
pub fn encode_error(problem: &Problem) -> Bytes {
    problem.to_json().into()
}

/// Reads the payload of ERROR.
pub fn decode_error(payload: &[u8]) -> Result<Problem, RecordError> {
    serde_json::from_slice(payload).map_err(|_| RecordError::BadPayload)
}

/// Whether a CLOSE may name a code (RFC 6455 section 7.4): 1004 to 1006 and 1015 stand for closes that no
/// message made, others below 3000 are nobody's.
pub const fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// What CLOSE says when it says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The close code.
    pub code: u16,
    /// The reason, at most 123 bytes.
    pub reason: String,
}

impl Close {
    /// The payload; a reason that is too long is cut between characters.
    pub fn encode(close: Option<&Self>) -> Bytes {
        let Some(Self { code, reason }) = close else { return Bytes::new() };
        let mut end = reason.len().min(MAX_REASON);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = reason.get(..end).unwrap_or_default();
        [&code.to_be_bytes(), reason.as_bytes()].concat().into()
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, RecordError> {
        let Some((code, reason)) = payload.split_first_chunk::<2>() else {
            return if payload.is_empty() { Ok(None) } else { Err(RecordError::BadPayload) };
        };
        let (code, reason) = (u16::from_be_bytes(*code), std::str::from_utf8(reason));
        let reason = reason.map_err(|_| RecordError::BadPayload)?;
        if !is_close_code(code) || reason.len() > MAX_REASON {
            return Err(RecordError::BadPayload);
        }
        Ok(Some(Self { code, reason: reason.to_owned() }))
    }
}
