//! The id under which one request is logged, answered and, in a problem, told to the person.

use http::HeaderValue;
use uuid::Builder;

/// Longer ids of proxies are replaced: the id goes into every log line.
const MAX_LEN: usize = 64;

/// A request's id: 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The proxy's id when a trusted one sent a good one, else a new one.
    pub fn choose(incoming: Option<&HeaderValue>, from_trusted: bool) -> Self {
        incoming
            .filter(|value| from_trusted && good(value.as_bytes()))
            .map_or_else(Self::random, |value| Self(value.clone()))
    }

    /// From a text, if it is a good id.
    pub fn from_text(text: &str) -> Option<Self> {
        good(text.as_bytes()).then(|| HeaderValue::from_str(text).ok().map(Self)).flatten()
    }

    /// A new one. From the thread's generator and not the system's: an id is no secret, and one
    /// is made for every request.
    pub fn random() -> Self {
        let id = Builder::from_random_bytes(rand::random()).into_uuid();
        let mut buffer = uuid::Uuid::encode_buffer();
        let text = id.simple().encode_lower(&mut buffer);
        Self(HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-")))
    }

    /// As a header's value.
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("-")
    }
}

fn good(id: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_trusted_proxy_names_a_request_and_only_well() {
        let long = "a".repeat(65);
        let cases = [
            ("trace-1.a_B", true, true),
            ("trace-1.a_B", false, false),
            ("", true, false),
            ("two words", true, false),
            ("a,b", true, false),
            (long.as_str(), true, false),
        ];
        for (text, trusted, kept) in cases {
            let value = HeaderValue::from_str(text).unwrap();
            let id = RequestId::choose(Some(&value), trusted);
            assert_eq!(id.as_str() == text, kept, "{text} {trusted}");
            assert!(good(id.as_str().as_bytes()));
        }
        assert_ne!(RequestId::choose(None, true), RequestId::choose(None, true));
        assert_eq!(RequestId::random().as_str().len(), 32);
    }
}
