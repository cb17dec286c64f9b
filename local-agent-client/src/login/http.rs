//! One request to the relay's sign-in interface. The relay may be something else than a relay: the answer
//! is bounded and has a deadline, and no redirect is followed.

use super::LoginError;
use crate::{
    dial::{
        Route,
        refusal::{printable, retry_after},
    },
    token::Token,
};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use url::form_urlencoded;

/// For TLS, the request and its answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Bytes of an answer; tokens are the longest part of any.
const MAX_ANSWER: usize = 64 * 1024;

/// What the relay answered. Does not print: it may be a token.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
}

/// An error of RFC 6749 section 5.2.
#[derive(Deserialize)]
struct OAuthError {
    error: String,
    error_description: Option<String>,
}

impl Answer {
    /// The error's code, as RFC 6749 has it.
    pub(super) fn error(&self) -> Option<String> {
        serde_json::from_slice::<OAuthError>(&self.body).ok().map(|error| printable(&error.error))
    }

    /// When the relay wants to be asked again.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let value = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?;
        retry_after(value, SystemTime::now())
    }

    /// What a person reads of an answer that nobody expected.
    pub(super) fn describe(&self) -> String {
        let oauth = serde_json::from_slice::<OAuthError>(&self.body).ok();
        let problem = || {
            let problem = serde_json::from_slice::<serde_json::Value>(&self.body).ok()?;
            Some(problem.get("detail")?.as_str()?.to_owned())
        };
        let said = oauth.map(|oauth| oauth.error_description.unwrap_or(oauth.error)).or_else(problem);
        match said {
            Some(said) => format!("{}: {}", self.status.as_u16(), printable(&said)),
            None => format!("status {}", self.status.as_u16()),
        }
    }
}

/// Posts a form.
pub(super) async fn post(
    route: &Route<'_>,
    path: &str,
    token: Option<&Token>,
    form: &[(&str, &str)],
) -> Result<Answer, LoginError> {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let mut request = Request::post(route.relay.path(path))
        .header(header::HOST, route.relay.authority())
        .header(header::USER_AGENT, concat!("local-agent-client/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, token.header()?);
    }
    let request = request.body(Full::new(Bytes::from(body)));
    let request = request.map_err(|error| LoginError::Unreachable(error.to_string()))?;
    let wire = route.connect().await.map_err(|error| LoginError::Unreachable(error.to_string()))?;
    let exchange = async {
        let wire = route.secure(wire).await.map_err(|error| LoginError::Unreachable(error.to_string()))?;
        let broken = |error: hyper::Error| LoginError::Unreachable(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await.map_err(broken)?;
        let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
        let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                LoginError::NotARelay("its answer is too long")
            } else {
                LoginError::Unreachable(error.to_string())
            }
        })?;
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    };
    timeout(ANSWER, exchange)
        .await
        .map_err(|_| LoginError::Unreachable(format!("no answer within {ANSWER:?}")))?
}
