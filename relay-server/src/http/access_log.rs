//! One line per request, written when its response's head is ready.
//!
//! What is logged may be read by more people than may use a host: the session id in a path opens
//! that session, so only its beginning is written, and queries, where apps put tokens, not at all.

use std::borrow::Cow;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use http_body::Body;
use relay_protocol::RELAY_PREFIX;

use super::client_addr::ClientInfo;
use super::request_id::RequestId;

/// Characters of a session id that are written: enough to tell sessions apart, too few to use one.
const SESSION_CHARS: usize = 8;

/// What stands before a user code.
const DEVICES: &str = "/v1/auth/device/";

/// The target of the log's events, for filters.
pub const TARGET: &str = "relay::access";

/// Whether anybody would see a line, so that nothing is prepared in vain.
pub fn enabled() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::INFO)
}

/// What is known of a request before it is answered.
#[derive(Debug)]
pub struct Entry {
    method: Method,
    path: String,
}

impl Entry {
    /// Keeps what the log tells of the request.
    pub fn new(method: &Method, path: &str) -> Self {
        Self { method: method.clone(), path: redact(path).into_owned() }
    }

    /// Writes the line.
    pub fn write<B: Body>(
        &self,
        response: &Response<B>,
        client: &ClientInfo,
        id: &RequestId,
        took: Duration,
    ) {
        tracing::info!(
            target: TARGET,
            method = %self.method,
            path = %self.path,
            status = response.status().as_u16(),
            bytes = bytes_out(&self.method, response),
            ms = (took.as_secs_f64() * 1e6).round() / 1e3,
            client = %client.addr,
            request_id = id.as_str(),
            host_id = host_id(&self.path),
        );
    }
}

/// The length of the body, when it is known beforehand.
fn bytes_out<B: Body>(method: &Method, response: &Response<B>) -> Option<u64> {
    let none = *method == Method::HEAD || response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if none { None } else { response.body().size_hint().exact() }
}

/// `/h/{host}/s/{session}/…` below the relay's prefix, cut at the session.
fn session_path(path: &str) -> Option<(&str, &str, &str)> {
    let host_and_rest = path.strip_prefix(RELAY_PREFIX)?.strip_prefix("/h/")?;
    let (host, rest) = host_and_rest.split_once('/')?;
    Some((host, rest.strip_prefix("s/")?, path))
}

/// The path with all but the beginning of a session id taken out.
pub fn redact(path: &str) -> Cow<'_, str> {
    // `DELETE /v1/relay/sessions/{id}` names one as well.
    let session = session_path(path)
        .map(|(_, session, _)| session)
        .or_else(|| path.strip_prefix(RELAY_PREFIX)?.strip_prefix("/sessions/"));
    // A user code lets in whoever types it before the person does.
    if path.get(..DEVICES.len()).is_some_and(|start| start.eq_ignore_ascii_case(DEVICES)) {
        return if path == "/v1/auth/device/code" { path.into() } else { format!("{DEVICES}…").into() };
    }
    let Some(session) = session else { return hide_later_ids(path) };
    let end = session.find('/').unwrap_or(session.len());
    let kept = session.char_indices().nth(SESSION_CHARS).map_or(session.len(), |(index, _)| index).min(end);
    if kept == end {
        return Cow::Borrowed(path);
    }
    let start = path.len() - session.len();
    match (path.get(..start + kept), session.get(end..)) {
        (Some(before), Some(after)) => Cow::Owned(format!("{before}…{after}")),
        _ => Cow::Borrowed(RELAY_PREFIX),
    }
}

/// A path that is nearly a proxied one holds a session id that works: of several ids only the first is told.
fn hide_later_ids(path: &str) -> Cow<'_, str> {
    let is_id = |text: &str| uuid::Uuid::try_parse(text).is_ok() && text.len() >= 32;
    if path.split('/').filter(|segment| is_id(segment)).count() < 2 {
        return Cow::Borrowed(path);
    }
    let mut ids = 0;
    let segments = path.split('/').map(|segment| {
        ids += usize::from(is_id(segment));
        if ids > 1 && is_id(segment) {
            format!("{}…", segment.get(..SESSION_CHARS).unwrap_or_default())
        } else {
            segment.to_owned()
        }
    });
    Cow::Owned(segments.collect::<Vec<_>>().join("/"))
}

fn host_id(path: &str) -> Option<&str> {
    session_path(path).map(|(host, _, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_cut_wherever_it_stands() {
        let host = "6f1c2d3e-0000-4000-8000-000000000001";
        let session = "0123456789abcdef";
        let id = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
        let cases = [
            (
                format!("/v1/relay/h/{host}/s/{session}/app/x"),
                format!("/v1/relay/h/{host}/s/01234567…/app/x"),
            ),
            (format!("/v1/relay/h/{host}/s/{session}"), format!("/v1/relay/h/{host}/s/01234567…")),
            (format!("/v1/relay/h/{host}/s/{session}/"), format!("/v1/relay/h/{host}/s/01234567…/")),
            (format!("/v1/relay/h/{host}/s/short/x"), format!("/v1/relay/h/{host}/s/short/x")),
            (format!("/v1/relay/sessions/{session}"), "/v1/relay/sessions/01234567…".to_owned()),
            (format!("/v1/relay/h/{host}/s/ää2345678ää/x"), format!("/v1/relay/h/{host}/s/ää234567…/x")),
            ("/v1/relay/hosts".to_owned(), "/v1/relay/hosts".to_owned()),
            ("/v1/auth/device/code".to_owned(), "/v1/auth/device/code".to_owned()),
            ("/v1/auth/device/WDJB-MJHT".to_owned(), "/v1/auth/device/…".to_owned()),
            (format!("//v1/relay/h/{id}/s/{id}/x"), format!("//v1/relay/h/{id}/s/7c9e6679…/x")),
            (format!("/v1/relay/h/{id}/S//{id}"), format!("/v1/relay/h/{id}/S//7c9e6679…")),
            (format!("/v1/relay/hosts/{id}"), format!("/v1/relay/hosts/{id}")),
            ("/health".to_owned(), "/health".to_owned()),
            ("//".to_owned(), "//".to_owned()),
        ];
        for (path, expected) in cases {
            assert_eq!(redact(&path), expected);
        }
        assert_eq!(host_id(&format!("/v1/relay/h/{host}/s/{session}/x")), Some(host));
        assert_eq!(host_id("/v1/relay/hosts"), None);
    }
}
