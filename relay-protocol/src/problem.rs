//! Errors as both ends tell them: RFC 9457 problem details with a stable `code`.

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// The media type of a problem (RFC 9457 section 3).
pub const CONTENT_TYPE: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $status:ident, $title:literal;)+) => {
        /// A stable error code. Callers decide by it, never by the texts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[doc = $doc])+ #[serde(rename = $text)] $name,)+ }

        impl Code {
            /// Every code, for tables and tests.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];
            /// The code as it stands in a problem, in snake case.
            pub const fn as_str(self) -> &'static str { match self { $(Code::$name => $text,)+ } }
            /// The HTTP status that goes with it.
            pub const fn status(self) -> StatusCode { match self { $(Code::$name => StatusCode::$status,)+ } }
            /// A short title for people, the same for every occurrence.
            pub const fn title(self) -> &'static str { match self { $(Code::$name => $title,)+ } }
        }
    };
}

codes! {
    /// The request was not one that this interface understands.
    BadRequest = "bad_request", BAD_REQUEST, "The request is malformed";
    /// No token, or one that is malformed, expired, revoked or signed by somebody else.
    Unauthorized = "unauthorized", UNAUTHORIZED, "A valid token is needed";
    /// The browser session is unknown, expired or revoked.
    SessionExpired = "session_expired", UNAUTHORIZED, "The browser session has ended";
    /// A wrong address or password, or a link that is used up or expired.
    SignInFailed = "sign_in_failed", UNAUTHORIZED, "Signing in failed";
    /// A cookie on a request that a foreign page may have made.
    CsrfRefused = "csrf_refused", FORBIDDEN, "The request may come from a foreign page";
    /// The agent takes only signed requests.
    SignatureMissing = "signature_missing", UNAUTHORIZED, "A signature is needed";
    /// The signature does not fit the request.
    SignatureInvalid = "signature_invalid", UNAUTHORIZED, "The signature is wrong";
    /// The signing session is unknown, expired or revoked.
    SigningSessionExpired = "signing_session_expired", UNAUTHORIZED, "The signing session has ended";
    /// The signing session ended, or was revoked, while the request was under way; it may have been done.
    SigningSessionEnded = "signing_session_ended", UNAUTHORIZED, "The signing session ended meanwhile";
    /// The signature was made too long ago, or in the future.
    ClockSkew = "clock_skew", UNAUTHORIZED, "The clocks differ too much";
    /// The signature has been used.
    Replayed = "replayed", UNAUTHORIZED, "The request has been seen before";
    /// The agent does not know the browser, or not any more.
    NotPaired = "not_paired", UNAUTHORIZED, "The browser is not paired";
    /// The proof was wrong: another code was typed, or somebody is in between.
    PairingFailed = "pairing_failed", UNAUTHORIZED, "Pairing failed";
    /// The signature leaves out what it must cover.
    Uncovered = "uncovered", BAD_REQUEST, "The signature covers too little";
    /// The body is not the one that was signed.
    DigestMismatch = "digest_mismatch", BAD_REQUEST, "The body does not fit its digest";
    /// The handshake of a sealed session does not open, or was made with another key than the paired one.
    HandshakeFailed = "handshake_failed", BAD_REQUEST, "The handshake failed";
    /// The agent takes only sealed exchanges.
    SealedRequired = "sealed_required", FORBIDDEN, "A sealed session is needed";
    /// No code is shown at the moment.
    PairingNotOpen = "pairing_not_open", CONFLICT, "No pairing code is shown";
    /// The code was not used in time.
    PairingExpired = "pairing_expired", GONE, "The pairing code has expired";
    /// The caller may not use this host.
    HostAccessDenied = "host_access_denied", FORBIDDEN, "This host is not yours to use";
    /// A request for active content of a host on an origin that it must not share.
    SharedOriginRefused = "shared_origin_refused", FORBIDDEN, "A host's pages do not open on this origin";
    /// A request that claims to be passed on by another relay, and is not, or not for this one, or not now.
    ForwardRefused = "forward_refused", FORBIDDEN, "No other relay passed this request on";
    /// A browser of an origin that is not allowed.
    OriginNotAllowed = "origin_not_allowed", FORBIDDEN, "This origin is not allowed";
    /// No such path.
    NotFound = "not_found", NOT_FOUND, "There is nothing here";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed";
    /// The body is larger than this interface takes.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The request target is longer than allowed.
    UriTooLong = "uri_too_long", URI_TOO_LONG, "The request target is too long";
    /// The agent or the relay is too old for the other.
    AgentOutdated = "agent_outdated", UPGRADE_REQUIRED, "An upgrade is needed";
    /// The browser's side is too old for the agent.
    BrowserOutdated = "browser_outdated", UPGRADE_REQUIRED, "The browser's side is too old";
    /// The connect path was called without a WebSocket upgrade.
    UpgradeRequired = "upgrade_required", UPGRADE_REQUIRED, "A WebSocket upgrade is needed";
    /// Too many requests of this kind from this address.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests";
    /// Too many connections at once from this address.
    TooManyConnections = "too_many_connections", TOO_MANY_REQUESTS, "Too many connections";
    /// The host has as many tunnels as it may have.
    TooManyTunnels = "too_many_tunnels", TOO_MANY_REQUESTS, "Too many tunnels for this host";
    /// The request's head is larger than allowed.
    HeaderTooLarge = "header_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's header is too large";
    /// The head of the request did not arrive in time.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request did not arrive in time";
    /// Something inside this program went wrong.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something went wrong here";
    /// The local server refused the connection or could not be reached.
    LocalServerUnreachable = "local_server_unreachable", BAD_GATEWAY, "The local server cannot be reached";
    /// The local server ended the connection before it had answered.
    LocalServerFailed = "local_server_failed", BAD_GATEWAY, "The local server broke off";
    /// The answer is too large or too slow to be signed as one piece.
    ResponseTooLarge = "response_too_large", BAD_GATEWAY, "The answer is too large for this form";
    /// The tunnel ended while the request was under way.
    TunnelLost = "tunnel_lost", BAD_GATEWAY, "The connection to the host was lost";
    /// The relay that holds the host's tunnel cannot be reached, or broke off; the request may have been done.
    RelayUnreachable = "relay_unreachable", BAD_GATEWAY, "The host's relay cannot be reached";
    /// The host has no tunnel.
    HostOffline = "host_offline", SERVICE_UNAVAILABLE, "The host is offline";
    /// Every stream that the tunnel may have is in use.
    TooManyStreams = "too_many_streams", SERVICE_UNAVAILABLE, "The host is busy";
    /// The relay is about to end and takes no new requests.
    Draining = "draining", SERVICE_UNAVAILABLE, "The relay is restarting";
    /// The database does not answer.
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "The relay's database does not answer";
    /// The identity provider whose token it is cannot be asked for its keys.
    ProviderUnavailable = "provider_unavailable", SERVICE_UNAVAILABLE, "The identity provider does not answer";
    /// Which of several relays holds the host's tunnel cannot be found out.
    RelaysUnavailable = "relays_unavailable", SERVICE_UNAVAILABLE, "The relays cannot find each other";
    /// The agent is connected and does not answer.
    AgentUnresponsive = "agent_unresponsive", GATEWAY_TIMEOUT, "The agent does not answer";
    /// The local server took the request and did not answer in time.
    ResponseTimeout = "response_timeout", GATEWAY_TIMEOUT, "The local server took too long";
}

/// A problem as it goes over the wire (RFC 9457 section 3.1, with `code` and `request_id`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: `code` tells the kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short title, the same for every occurrence of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: Code,
    /// What happened this time, and what the person can do.
    pub detail: String,
    /// The id under which the relay logged the request, when there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    /// With `clock_skew`: the agent's clock, Unix seconds (PROTOCOL.md section 4.1).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent_time: Option<i64>,
}

impl Problem {
    /// A problem of this kind with a text that tells the person what to do.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: code.title().to_owned(),
            status: code.status().as_u16(),
            code,
            detail: detail.into(),
            request_id: None,
            agent_time: None,
        }
    }

    /// The JSON text. Never fails: a problem holds nothing that JSON cannot.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_snake_case_and_unique() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code:?}");
            assert!(seen.insert(code.as_str()), "{code:?} twice");
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
    }

    #[test]
    fn a_problem_reads_as_rfc_9457_says() {
        let problem = Problem::new(Code::HostOffline, "Start the agent.");
        let json: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type":"about:blank","title":"The host is offline","status":503,"code":"host_offline","detail":"Start the agent."})
        );
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }
}
