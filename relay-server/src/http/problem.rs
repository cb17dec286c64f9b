//! Problems as responses (RFC 9457).
//!
//! A response made here carries its [`Problem`] as an extension until [`finish`] has written the
//! request's id into it, so that nobody has to hand the id down to where an error happens.

use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use relay_protocol::headers::X_REQUEST_ID;
use relay_protocol::problem::{CONTENT_TYPE, Code, Problem};

use super::request_id::RequestId;

/// Seconds after which it is worth asking again, for the codes where waiting helps.
const fn retry_after(code: Code) -> Option<&'static str> {
    match code {
        // A tunnel that was lost is back within seconds; the offline page asks as often.
        Code::HostOffline
        | Code::Draining
        | Code::StoreUnavailable
        | Code::ProviderUnavailable
        | Code::RelaysUnavailable => Some("5"),
        // Streams end all the time.
        Code::TooManyStreams => Some("1"),
        // The rates are per minute and refill evenly.
        Code::RateLimited | Code::TooManyConnections | Code::TooManyTunnels => Some("10"),
        _ => None,
    }
}

/// The response that tells this problem.
pub fn respond(problem: Problem) -> Response<Body> {
    let mut response = Response::new(Body::from(problem.to_json()));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = retry_after(problem.code) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    match problem.code {
        // RFC 9110 section 15.5.2 asks for it with every 401; callers tell them apart by the code.
        code if code.status() == StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // RFC 9110 section 15.5.22 asks for the protocol that would do, RFC 6455 section 4.4 for its version.
        Code::UpgradeRequired => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        _ => {}
    }
    response.extensions_mut().insert(problem);
    response
}

/// Shorthand for [`respond`] with a new problem.
pub fn refuse(code: Code, detail: impl Into<String>) -> Response<Body> {
    respond(Problem::new(code, detail))
}

/// Puts the request's id on any response, and into the body when it tells a problem.
pub fn finish(response: &mut Response<Body>, id: &RequestId) {
    response.headers_mut().insert(X_REQUEST_ID, id.header().clone());
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        problem.request_id = Some(id.as_str().to_owned());
        // A length that was already computed would be the old text's.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(problem.to_json());
    }
}

/// A problem as the error of a handler.
#[derive(Debug)]
pub struct Refusal(pub Box<Problem>, Option<Duration>);

impl Refusal {
    /// A refusal with this code and a text that tells the person what to do.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)), None)
    }

    /// The same, with the time after which it is worth asking again.
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0, Some(wait))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let mut response = respond(*self.0);
        if let Some(wait) = self.1 {
            let seconds = wait.as_secs_f64().ceil() as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_problem_carries_its_headers_and_the_id_once_it_is_known() {
        let mut response = refuse(Code::HostOffline, "Start the agent.");
        finish(&mut response, &RequestId::from_text("abc").unwrap());
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "5");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-request-id"], "abc");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem.request_id.as_deref(), Some("abc"));
        assert_eq!(problem.detail, "Start the agent.");
    }

    #[tokio::test]
    async fn other_responses_keep_their_bodies() {
        let mut response = Response::new(Body::from("text"));
        finish(&mut response, &RequestId::from_text("abc").unwrap());
        assert_eq!(response.headers()["x-request-id"], "abc");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "text");
    }

    #[test]
    fn a_refusal_may_know_the_wait() {
        let wait = |refusal: Refusal| refusal.into_response().headers()["retry-after"].clone();
        let refusal = || Refusal::new(Code::RateLimited, "x");
        assert_eq!(wait(refusal()), "10");
        assert_eq!(wait(refusal().after(Duration::from_secs(30))), "30");
        assert_eq!(wait(refusal().after(Duration::from_millis(1500))), "2");
        assert_eq!(wait(refusal().after(Duration::ZERO)), "1");
    }

    #[test]
    fn retry_after_stands_where_waiting_helps() {
        for code in Code::ALL {
            let response = refuse(*code, "x");
            let waiting = matches!(code.status().as_u16(), 429 | 503);
            assert_eq!(response.headers().contains_key("retry-after"), waiting, "{code:?}");
            assert_eq!(
                response.headers().contains_key("www-authenticate"),
                code.status() == StatusCode::UNAUTHORIZED,
                "{code:?}"
            );
        }
    }
}
