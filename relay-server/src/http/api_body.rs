//! Bodies of the relay's own API: small, and here in time.

use std::time::Duration;

use axum::body::{self, Body};
use bytes::Bytes;
use relay_protocol::problem::Code;
use serde::de::DeserializeOwned;

use super::problem::Refusal;

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Bytes at the most.
    pub bytes: usize,
    /// How long it may take to arrive.
    pub within: Duration,
}

/// Reads a body to its end.
///
/// # Errors
/// `body_too_large`, `request_timeout`, or `bad_request` when it broke off.
pub async fn read(body: Body, limits: BodyLimits) -> Result<Bytes, Refusal> {
    let reading = tokio::time::timeout(limits.within, body::to_bytes(body, limits.bytes));
    match reading.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let too_large =
                std::error::Error::source(&error).is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
            Err(if too_large {
                Refusal::new(Code::BodyTooLarge, format!("The body may have {} bytes.", limits.bytes))
            } else {
                Refusal::new(Code::BadRequest, "The body broke off.")
            })
        }
        Err(_) => Err(Refusal::new(Code::RequestTimeout, "The body did not arrive in time. Send it again.")),
    }
}

/// Reads a body as JSON; `shape` tells what it has to look like.
///
/// # Errors
/// As [`read`], and `bad_request` when it has another shape.
pub async fn json<T: DeserializeOwned>(body: Body, limits: BodyLimits, shape: &str) -> Result<T, Refusal> {
    // The parser's own message may quote what is secret.
    serde_json::from_slice(&read(body, limits).await?)
        .map_err(|_| Refusal::new(Code::BadRequest, format!("The body has to be JSON: {shape}.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;

    #[tokio::test(start_paused = true)]
    async fn large_slow_and_broken_bodies_are_refused() {
        let limits = BodyLimits { bytes: 8, within: Duration::from_secs(10) };
        let code = |result: Result<Bytes, Refusal>| result.map_err(|refusal| refusal.0.code);
        assert_eq!(code(read(Body::from("12345678"), limits).await), Ok(Bytes::from("12345678")));
        assert_eq!(code(read(Body::from("123456789"), limits).await), Err(Code::BodyTooLarge));
        let silent = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>();
        assert_eq!(code(read(Body::new(StreamBody::new(silent)), limits).await), Err(Code::RequestTimeout));
        let broken =
            futures_util::stream::iter([Err::<http_body::Frame<Bytes>, _>(std::io::Error::other("x"))]);
        assert_eq!(code(read(Body::new(StreamBody::new(broken)), limits).await), Err(Code::BadRequest));
        let shape =
            json::<u32>(Body::from("\"secret\""), BodyLimits { bytes: 64, ..limits }, "a number").await;
        assert!(shape.is_err_and(|refusal| !refusal.0.detail.contains("secret")));
    }
}
