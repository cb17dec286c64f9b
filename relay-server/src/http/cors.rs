//! Which web pages of other origins may read answers (the Fetch standard, section 3.2).
//!
//! The answer depends on the origin being on the operator's list or the relay's own, and never on
//! what asks: an origin is compared, not mirrored. What a local server says about CORS is removed,
//! because it speaks for an origin that is not its own.

use axum::body::Body;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use relay_protocol::headers::X_RELAY_CSRF;
use relay_protocol::problem::Code;

use super::client_addr::ClientInfo;
use super::problem;
use crate::config::Config;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// Browsers ask again after ten minutes, so that a change of the list is felt.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
/// Names in a list that others wrote: pages ask for a handful of headers, and answers carry some more.
const MAX_NAMES: usize = 64;
/// Nor more than this many bytes of them.
const MAX_NAME_BYTES: usize = 4096;
/// What scripts may read besides the few that they always may, and besides what the answer carries: some of it comes
/// later, and some of it is looked for in vain.
const EXPOSED: &str = "signature, signature-input, content-digest, x-relay-records, x-vk-resp-ts, x-vk-resp-nonce, x-vk-resp-signature, x-request-id, x-relay-host-id, retry-after";

/// The operator's choice.
#[derive(Debug, Clone)]
pub struct Policy {
    /// In the form in which browsers write them.
    allowed: Vec<String>,
    /// The relay's own origin, when it was told its URL.
    own: Option<String>,
    /// The origin that the portal has for itself.
    portal: Option<String>,
}

/// What a request's origin is to the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The request names no origin.
    NoOrigin,
    /// Its pages may read the answer.
    Allowed(HeaderValue),
    /// They may not.
    Refused,
}

impl Policy {
    /// From the configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            allowed: config.allowed_origins.clone(),
            own: config.public_url.as_ref().map(|url| url.origin().ascii_serialization()),
            portal: config.portal_origin.as_ref().map(|portal| portal.origin.clone()),
        }
    }

    /// Whether this is the origin of the relay's own pages, which may use the cookie.
    pub fn is_portal(&self, origin: &HeaderValue, client: &ClientInfo) -> bool {
        let Ok(text) = origin.to_str() else { return false };
        match self.portal.as_ref().or(self.own.as_ref()) {
            Some(own) => text == own,
            None => is_own(text, client),
        }
    }

    /// Decides about the origin that the request names.
    pub fn decide(&self, headers: &HeaderMap, client: &ClientInfo) -> Decision {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else { return Decision::NoOrigin };
        // Two origins are none.
        let text = match (origin.to_str(), origins.next()) {
            (Ok(text), None) => text,
            _ => return Decision::Refused,
        };
        let own = match &self.own {
            Some(own) => text == own,
            None => is_own(text, client),
        };
        if own || self.allowed.iter().any(|allowed| allowed == text) {
            Decision::Allowed(origin.clone())
        } else {
            Decision::Refused
        }
    }
}

/// Whether the origin is the one under which the request itself came.
fn is_own(origin: &str, client: &ClientInfo) -> bool {
    let Some(host) = &client.host else { return false };
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    let (default_port, scheme_matches) = match scheme {
        "https" => (":443", client.scheme.as_str() == "https"),
        "http" => (":80", client.scheme.as_str() == "http"),
        _ => return false,
    };
    let host = host.as_str().strip_suffix(default_port).unwrap_or(host.as_str());
    scheme_matches && rest.eq_ignore_ascii_case(host)
}

/// Whether the request is a question about another request, which the relay answers itself.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight.
pub fn preflight(headers: &HeaderMap, decision: &Decision) -> Response<Body> {
    let mut response = match decision {
        Decision::Allowed(_) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Decision::NoOrigin | Decision::Refused => problem::refuse(
            Code::OriginNotAllowed,
            "This page's origin may not call the relay. Whoever runs the relay can add it to RELAY_ALLOWED_ORIGINS.",
        ),
    };
    let answer = response.headers_mut();
    apply(answer, decision);
    if matches!(decision, Decision::Allowed(_)) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        if let Some(names) = requested_headers(headers) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
    }
    // The answer also depends on what was asked for.
    answer.append(
        header::VARY,
        HeaderValue::from_static("access-control-request-method, access-control-request-headers"),
    );
    response
}

/// The header names that the page asks for, as far as they are names.
fn requested_headers(headers: &HeaderMap) -> Option<HeaderValue> {
    let names = name_list(headers, &header::ACCESS_CONTROL_REQUEST_HEADERS);
    let text = join("", names.iter());
    if text.is_empty() { None } else { HeaderValue::try_from(text).ok() }
}

/// A list of names after those of ours, as far as there is room.
fn join<'a>(ours: &str, names: impl Iterator<Item = &'a HeaderName>) -> String {
    let mut text = ours.to_owned();
    for name in names.take(MAX_NAMES) {
        if text.len() - ours.len() + name.as_str().len() + 2 > MAX_NAME_BYTES {
            break;
        }
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(name.as_str());
    }
    text
}

/// The well-formed names of a comma-separated list. `*` is a name to the parser and none here:
/// beside credentials it stands for itself. `x-relay-csrf` is for the relay's own pages, which need not ask.
fn name_list(headers: &HeaderMap, list: &HeaderName) -> Vec<HeaderName> {
    headers
        .get_all(list)
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b','))
        .filter_map(|item| HeaderName::from_bytes(item.trim_ascii()).ok())
        .filter(|name| name.as_str() != "*" && *name != X_RELAY_CSRF)
        .collect()
}

/// Writes the decision onto a response. Every `Access-Control-*` header that was there goes; what the answer carries
/// besides is exposed to allowed pages, because a signature may cover any of it.
pub fn apply(headers: &mut HeaderMap, decision: &Decision) {
    let gone: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    if *decision != Decision::NoOrigin {
        vary_by_origin(headers);
    }
    if let Decision::Allowed(origin) = decision {
        let exposed = exposed(headers);
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// The fixed list, and the names of what the answer carries. By name: beside credentials `*` stands for itself.
fn exposed(headers: &HeaderMap) -> HeaderValue {
    let carried = headers.keys().filter(|name| {
        let name = name.as_str();
        // Scripts never see cookies, whatever is exposed.
        !["set-cookie", "set-cookie2", "*"].contains(&name) && !EXPOSED.split(", ").any(|ours| ours == name)
    });
    HeaderValue::try_from(join(EXPOSED, carried)).unwrap_or(HeaderValue::from_static(EXPOSED))
}

fn vary_by_origin(headers: &mut HeaderMap) {
    let says = |line: &HeaderValue| {
        line.as_bytes().split(|b| *b == b',').any(|item| {
            matches!(item.trim_ascii(), b"*") || item.trim_ascii().eq_ignore_ascii_case(b"origin")
        })
    };
    if !headers.get_all(header::VARY).iter().any(says) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
