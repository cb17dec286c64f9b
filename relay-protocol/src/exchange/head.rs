//! HEAD of a request: method, target and headers as the local server will see them.
//!
//! It comes from a paired browser, which may be anybody's program: nothing in it may make the local server
//! read another request than the one that was checked.

use crate::record::{Fields, MAX_HEAD, RecordError};
use bytes::Bytes;
use http::{HeaderMap, Method, uri::PathAndQuery};
use serde::{Deserialize, Serialize};

/// The most characters of a method; the longest that is registered has 17.
pub const MAX_METHOD: usize = 64;

#[derive(Serialize, Deserialize)]
struct Json {
    method: String,
    target: String,
    headers: Fields,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    websocket: bool,
}

/// What of a HEAD cannot be used. The words quote nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Longer than [`MAX_HEAD`].
    #[error("it is larger than the 256 KiB that it may have")]
    TooLarge,
    /// No JSON object with the members that a HEAD has.
    #[error(
        "it is not a JSON object with `method` and `target` as strings, `headers` as an array of pairs of strings, and at most `websocket` as true or false, each once"
    )]
    Json,
    /// The method.
    #[error("`method` is not a token of 1 to 64 characters, or is CONNECT or TRACE")]
    Method,
    /// The target.
    #[error(
        "`target` does not begin with `/`, has more than 65,534 bytes, or has something other than visible ASCII in it, or a `#`"
    )]
    Target,
    /// Headers.
    #[error(
        "`headers` has too many entries, a name that is not a lower-case token, or a value with control characters or with code points above U+00FF"
    )]
    Headers,
    /// A WebSocket by another method.
    #[error("`websocket` goes with the method GET alone")]
    WebSocket,
}

/// What HEAD of a request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// The method; never CONNECT or TRACE.
    pub method: Method,
    /// Path and query, byte for byte as the browser gave them; at most 65,534 bytes.
    pub target: PathAndQuery,
    /// The headers. Those that the agent leaves out are still among them.
    pub headers: HeaderMap,
    /// Whether it opens a WebSocket. The method is GET then.
    pub websocket: bool,
}

impl RequestHead {
    /// The payload.
    ///
    /// # Errors
    /// [`RecordError::BadLength`] when it is more than a HEAD may have; [`RecordError::BadPayload`] when no
    /// agent would take it.
    pub fn encode(&self) -> Result<Bytes, RecordError> {
        let json = Json {
            method: self.method.as_str().to_owned(),
            target: self.target.as_str().to_owned(),
            headers: Fields::encode(&self.headers),
            websocket: self.websocket,
        };
        // Strings and numbers always have a JSON text.
        let payload = Bytes::from(serde_json::to_vec(&json).unwrap_or_default());
        if payload.len() > MAX_HEAD {
            return Err(RecordError::BadLength);
        }
        Self::decode(&payload).map(|_| payload)
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`RecordError::BadPayload`].
    pub fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        Self::read(payload).map_err(|_| RecordError::BadPayload)
    }

    /// Reads a payload, and tells what is wrong with it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(payload: &[u8]) -> Result<Self, HeadError> {
        if payload.len() > MAX_HEAD {
            return Err(HeadError::TooLarge);
        }
        // A struct is also read from an array, which is not the form that is written down.
        if payload.trim_ascii_start().first() != Some(&b'{') {
            return Err(HeadError::Json);
        }
        let json: Json = serde_json::from_slice(payload).map_err(|_| HeadError::Json)?;
        let method = method(&json.method).ok_or(HeadError::Method)?;
        let target = target(json.target).ok_or(HeadError::Target)?;
        let headers = json.headers.decode().map_err(|_| HeadError::Headers)?;
        if json.websocket && method != Method::GET {
            return Err(HeadError::WebSocket);
        }
        Ok(Self { method, target, headers, websocket: json.websocket })
    }
}

/// A token. CONNECT asks for a tunnel and TRACE for the headers back: neither is for a browser, in any case.
fn method(text: &str) -> Option<Method> {
    let refused = ["CONNECT", "TRACE"].iter().any(|name| name.eq_ignore_ascii_case(text));
    if refused || text.len() > MAX_METHOD { None } else { Method::from_bytes(text.as_bytes()).ok() }
}

/// Visible ASCII from the first `/` on: what ends a target or a line in HTTP/1.1 is not in it. A fragment,
/// which the parser would drop, shows in what it keeps.
fn target(text: String) -> Option<PathAndQuery> {
    if !text.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let parsed = PathAndQuery::try_from(text.as_str()).ok()?;
    (parsed.as_str() == text).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, target: &str) -> Result<RequestHead, RecordError> {
        let json = serde_json::json!({"method": method, "target": target, "headers": []});
        RequestHead::decode(json.to_string().as_bytes())
    }

    #[test]
    fn targets_stay_byte_for_byte() {
        for good in ["/", "/a%2Fb//../c?x=%00&y=/?", "//evil.example/", "/?", "/a;b=c,d|e~f", "/{id}\"?`"] {
            assert_eq!(head("GET", good).unwrap().target.as_str(), good);
        }
        let bad =
            ["", "a", "*", "?a", "http://a/", "/a b", "/a#b", "/#", "/a\r\nb", "/a\u{0}", "/a\u{7f}", "/ä"];
        for bad in bad {
            assert_eq!(head("GET", bad), Err(RecordError::BadPayload), "{bad}");
        }
        assert!(head("GET", &format!("/{}", "a".repeat(65_533))).is_ok());
        assert_eq!(head("GET", &format!("/{}", "a".repeat(65_534))), Err(RecordError::BadPayload));
    }

    #[test]
    fn what_is_wrong_has_a_name() {
        let long = format!("{{\"method\":\"{}\"}}", "A".repeat(MAX_HEAD));
        for (head, expected) in [
            (long.as_str(), HeadError::TooLarge),
            ("nonsense", HeadError::Json),
            ("[\"GET\",\"/\",[]]", HeadError::Json),
            (r#"{"method":"GET","target":"/"}"#, HeadError::Json),
            (r#"{"method":"GET","method":"GET","target":"/","headers":[]}"#, HeadError::Json),
            (r#"{"method":"G T","target":"/","headers":[]}"#, HeadError::Method),
            (r#"{"method":"GET","target":"x","headers":[]}"#, HeadError::Target),
            (r#"{"method":"GET","target":"/","headers":[["X-Upper","1"]]}"#, HeadError::Headers),
            (r#"{"method":"GET","target":"/","headers":[["x","\n"]]}"#, HeadError::Headers),
            (r#"{"method":"POST","target":"/","headers":[],"websocket":true}"#, HeadError::WebSocket),
        ] {
            assert_eq!(RequestHead::read(head.as_bytes()), Err(expected), "{expected:?}");
        }
    }

    #[test]
    fn methods_are_tokens() {
        for good in ["GET", "PROPFIND", "m-search", &"A".repeat(MAX_METHOD)] {
            assert_eq!(head(good, "/").unwrap().method.as_str(), good);
        }
        for bad in ["", "GET ", "G T", "GET\r\n", "CONNECT", "connect", "Trace", &"A".repeat(MAX_METHOD + 1)]
        {
            assert_eq!(head(bad, "/"), Err(RecordError::BadPayload), "{bad}");
        }
    }

    #[test]
    fn what_no_agent_takes_is_not_written() {
        let good = head("GET", "/").unwrap();
        assert!(good.encode().is_ok());
        let wrong = RequestHead { method: Method::POST, websocket: true, ..good.clone() };
        assert_eq!(wrong.encode(), Err(RecordError::BadPayload));
        let mut headers = HeaderMap::new();
        headers.insert("x-a", "a".repeat(MAX_HEAD).parse().unwrap());
        assert_eq!(RequestHead { headers, ..good }.encode(), Err(RecordError::BadLength));
    }
}
