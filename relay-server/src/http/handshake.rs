//! The opening handshake of a WebSocket (RFC 6455 section 4.2), as the server's side reads and answers it.
//! Pure.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use relay_protocol::problem::Code;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::problem::Refusal;

/// Checks the request (RFC 6455 section 4.2.1) and gives the accept key.
///
/// # Errors
/// `upgrade_required`, `bad_request`.
pub fn accept_key(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    if method != Method::GET
        || !lists(headers, &header::CONNECTION, "upgrade")
        || !lists(headers, &header::UPGRADE, "websocket")
    {
        return Err(no_upgrade());
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v.as_bytes() != b"13") {
        return Err(Refusal::new(
            Code::UpgradeRequired,
            "Only version 13 of the WebSocket protocol is spoken here.",
        ));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes()));
    let key = key.ok_or_else(|| {
        Refusal::new(
            Code::BadRequest,
            "Sec-WebSocket-Key has to be 16 bytes in base64 (RFC 6455 section 4.1).",
        )
    })?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| no_upgrade())
}

/// Sixteen bytes in base64, whatever they are.
fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|key| key.len() == 16)
}

fn lists(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
}

/// The `101` (RFC 6455 section 4.2.2). No extension is ever accepted.
pub fn switching(key: HeaderValue, protocol: Option<HeaderValue>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// Somebody came without a WebSocket.
pub fn no_upgrade() -> Refusal {
    Refusal::new(
        Code::UpgradeRequired,
        "A WebSocket is spoken here; check that the proxies in between pass Upgrade.",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_websocket_handshake_passes() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let headers = |without: Option<&str>| -> HeaderMap {
            let kept = good.iter().filter(|(name, _)| Some(*name) != without);
            kept.map(|(n, v)| (header::HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
        };
        // The key and its answer are the example of RFC 6455 section 1.3.
        let key = accept_key(&Method::GET, &headers(None)).unwrap();
        assert_eq!(key, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (name, _) in good {
            assert!(accept_key(&Method::GET, &headers(Some(name))).is_err(), "without {name}");
        }
        assert!(accept_key(&Method::POST, &headers(None)).is_err());
        for key in
            ["", "short", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "*GhlIHNhbXBsZSBub25jZQ=="]
        {
            let mut headers = headers(None);
            headers.insert("sec-websocket-key", HeaderValue::from_static(key));
            let refusal = accept_key(&Method::GET, &headers).unwrap_err();
            assert_eq!(refusal.0.code, Code::BadRequest, "{key}");
        }
        let answer = switching(key, Some(HeaderValue::from_static("x")));
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "x");
        assert!(!answer.headers().contains_key("sec-websocket-extensions"));
    }
}
