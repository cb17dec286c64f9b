//! The header policy, one pure function per direction (PROTOCOL.md section 2.4).
//!
//! Towards the local server: nothing of the relay's own (its token, its cookies, the session id in any
//! header) and nothing that the caller claims about itself. Towards the browser: nothing that would rule
//! the relay's whole origin, because every host shares it.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use relay_protocol::headers::{
    Hop, RULES_THE_ORIGIN, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_FORWARDED_PROTO,
    X_RELAYED, X_REQUEST_ID, X_VK_RELAYED, strip_hop_by_hop, tells_the_path,
};

use uuid::Uuid;

use super::path;
use crate::auth::credential::bearer_value;
use crate::forward::FORWARDED;

/// What the beginning of the relay's own cookie names looks like.
const OWN_COOKIES: [&str; 3] = ["relay_", "__Host-relay_", "__Secure-relay_"];

/// Claims about the caller that only the relay makes, and the relay's own secrets.
const NEVER_FORWARDED: [HeaderName; 6] = [
    header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
    X_RELAYED,
    X_VK_RELAYED,
    HeaderName::from_static("x-relay-admin-token"),
    FORWARDED,
];

/// What the relay knows about a request beyond its headers.
pub struct Request<'a> {
    /// What goes on as `X-Forwarded-For`.
    pub forwarded_for: HeaderValue,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The authority that the browser used.
    pub host: Option<HeaderValue>,
    /// The taken apart path.
    pub target: path::Target<'a>,
    /// The request's id, for local servers that log it.
    pub request_id: HeaderValue,
}

/// Applies the policy to a request's headers. `own_token` tells whether a bearer token is one of the
/// relay's; `private_cookie` names further cookies to withhold. Returns what the next hop is told anew.
pub fn request(
    headers: &mut HeaderMap,
    request: Request<'_>,
    own_token: impl Fn(&str) -> bool,
    private_cookie: impl Fn(&str) -> bool,
) -> Hop {
    let hop = strip_hop_by_hop(headers);
    for name in &NEVER_FORWARDED {
        if headers.contains_key(name) {
            headers.remove(name);
        }
    }
    drop_forwarded(headers);
    if headers.get_all(header::AUTHORIZATION).iter().any(|v| bearer_value(v).is_some_and(&own_token)) {
        headers.remove(header::AUTHORIZATION);
    }
    if headers.contains_key(header::COOKIE) {
        withhold_cookies(headers, request.target.session, |name| {
            is_own_cookie(name) || std::str::from_utf8(name).is_ok_and(&private_cookie)
        });
    }
    if let Some(referer) = headers.get(header::REFERER).and_then(|v| v.to_str().ok()).map(cut_prefixes) {
        match HeaderValue::from_str(&referer) {
            Ok(value) => headers.insert(header::REFERER, value),
            Err(_) => headers.remove(header::REFERER),
        };
    }
    withhold_session(headers, request.target.session);
    headers.insert(X_FORWARDED_FOR, request.forwarded_for);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(request.scheme));
    if let Some(host) = request.host {
        headers.insert(X_FORWARDED_HOST, host);
    }
    if let Ok(prefix) = HeaderValue::from_str(request.target.public_prefix()) {
        headers.insert(X_FORWARDED_PREFIX, prefix);
    }
    headers.insert(X_REQUEST_ID, request.request_id);
    hop
}

/// Takes out all that proxies say of a caller (`X-Forwarded-User`, `-Ssl`, `-Uri`, …): some local server believes
/// every one of them, and some read `_` as `-`.
fn drop_forwarded(headers: &mut HeaderMap) {
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| ["x-forwarded", "x_forwarded"].iter().any(|claim| name.as_str().starts_with(claim)))
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
}

fn is_own_cookie(name: &[u8]) -> bool {
    // Browsers read the prefixes of RFC 6265bis in either case.
    let begins =
        |own: &str| name.get(..own.len()).is_some_and(|part| part.eq_ignore_ascii_case(own.as_bytes()));
    OWN_COOKIES.iter().any(|own| begins(own))
}

/// Takes out the cookies that are named, and those that tell the session: pages like to note where they were.
fn withhold_cookies(headers: &mut HeaderMap, session: Uuid, withheld: impl Fn(&[u8]) -> bool) {
    let mut kept = Vec::new();
    let mut changed = headers.get_all(header::COOKIE).iter().count() > 1;
    for line in headers.get_all(header::COOKIE) {
        for pair in
            line.as_bytes().split(|b| *b == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
        {
            let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
            if withheld(name) || tells(pair, session) {
                changed = true;
            } else {
                if !kept.is_empty() {
                    kept.extend_from_slice(b"; ");
                }
                kept.extend_from_slice(pair);
            }
        }
    }
    if changed {
        headers.remove(header::COOKIE);
        if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::from_bytes(&kept)) {
            headers.insert(header::COOKIE, value);
        }
    }
}

/// A referring page under a session's prefix is told as the local server knows it: the origin stays the
/// relay's (the agent maps it), the prefix goes.
fn cut_prefixes(referer: &str) -> String {
    let path_at =
        referer.find("://").and_then(|at| referer.get(at + 3..)?.find('/').map(|slash| at + 3 + slash));
    let Some((origin, path)) = path_at.and_then(|at| referer.split_at_checked(at)) else {
        return referer.to_owned();
    };
    match path::split(path) {
        Some(target) if target.lacks_slash() => format!("{origin}/{}", target.rest),
        Some(target) => format!("{origin}{}", target.rest),
        None => referer.to_owned(),
    }
}

/// Proxies in front like to tell the original path in headers of their own: whatever carries the session
/// id stays here.
fn withhold_session(headers: &mut HeaderMap, session: Uuid) {
    let telling: Vec<HeaderName> = headers
        .iter()
        .filter(|(_, value)| tells(value.as_bytes(), session))
        .map(|(name, _)| name.clone())
        .collect();
    for name in telling {
        headers.remove(name);
    }
}

/// Whether the session's id stands in a text, in either case.
fn tells(text: &[u8], session: Uuid) -> bool {
    let mut buffer = Uuid::encode_buffer();
    let id = session.hyphenated().encode_lower(&mut buffer).as_bytes();
    text.len() >= id.len() && text.windows(id.len()).any(|part| part.eq_ignore_ascii_case(id))
}

/// What the relay knows about a response beyond its headers.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// The session's prefix as the caller wrote it.
    pub prefix: &'a str,
    /// The prefix without the session, as the local server was told it.
    pub public_prefix: &'a str,
    /// `http` or `https`, as the browser used it.
    pub scheme: &'a str,
    /// The relay's authority as the browser used it; empty when it is not known.
    pub host: &'a str,
}

/// Applies the policy to a response's headers. Returns what hop-by-hop headers said.
pub fn response(headers: &mut HeaderMap, response: Response<'_>) -> Hop {
    let hop = strip_hop_by_hop(headers);
    for name in &RULES_THE_ORIGIN {
        if headers.contains_key(name) {
            headers.remove(name);
        }
    }
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let mapped = headers.get(&name).and_then(|v| v.to_str().ok()).and_then(|v| map_location(v, response));
        if let Some(value) = mapped.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    }
    if headers.contains_key(header::SET_COOKIE) {
        let cookies: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
        headers.remove(header::SET_COOKIE);
        for cookie in cookies.iter().filter_map(|cookie| map_cookie(cookie, response)) {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
    // The path of every page here holds a session id: no other site may be sent it.
    if headers.get_all(header::REFERRER_POLICY).iter().any(tells_the_path) {
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin"));
    }
    hop
}

/// A path of the local server as the browser has to ask for it; `None` where nothing is to be changed.
fn map_path(path: &str, response: Response<'_>) -> Option<String> {
    let under = |prefix: &str| {
        path.strip_prefix(prefix)
            .filter(|rest| matches!(rest.as_bytes().first(), None | Some(b'/' | b'?' | b'#')))
    };
    if under(response.prefix).is_some() {
        return None;
    }
    let rest = under(response.public_prefix).unwrap_or(path);
    let slash = if rest.starts_with('/') { "" } else { "/" };
    Some(format!("{}{slash}{}", response.prefix, without_dots(rest)))
}

/// A path without `.` and `..` segments (RFC 3986 section 5.2.4): under the prefix they would lead out of it.
fn without_dots(path: &str) -> String {
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (path, tail) = path.split_at_checked(end).unwrap_or((path, ""));
    let dots = |segment: &str| segment.to_ascii_lowercase().replace("%2e", ".");
    if !path.split('/').any(|segment| matches!(dots(segment).as_str(), "." | "..")) {
        return format!("{path}{tail}");
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment).as_str() {
            "." => {}
            // The first segment is the empty one before the first slash.
            ".." => kept.truncate(kept.len().saturating_sub(1).max(1)),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    format!("{}{tail}", kept.join("/"))
}

fn map_location(location: &str, response: Response<'_>) -> Option<String> {
    let host = response.host;
    if let Some(after) = location.strip_prefix("//") {
        // A network path: the same scheme, possibly our own host.
        let (authority, path) =
            after.find(['/', '?', '#']).and_then(|at| after.split_at_checked(at)).unwrap_or((after, ""));
        return authority.eq_ignore_ascii_case(host).then(|| map_path(path, response)).flatten();
    }
    if location.starts_with('/') {
        return map_path(location, response);
    }
    let origin = format!("{}://{host}", response.scheme);
    let head = location.get(..origin.len())?;
    let path = location.get(origin.len()..)?;
    let ours = head.eq_ignore_ascii_case(&origin)
        && matches!(path.as_bytes().first(), None | Some(b'/' | b'?' | b'#'));
    if ours { map_path(path, response).map(|path| format!("{origin}{path}")) } else { None }
}

/// A cookie as the browser may keep it: on the relay's host only, under the session's prefix. `None` for
/// one that would pass for a cookie of the relay.
fn map_cookie(cookie: &HeaderValue, response: Response<'_>) -> Option<HeaderValue> {
    let mut parts = cookie.as_bytes().split(|b| *b == b';');
    let pair = parts.next()?.trim_ascii();
    let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
    // Without a name the value comes back as one (`Cookie: relay_session=…`).
    if name.is_empty() || is_own_cookie(name) {
        return None;
    }
    let mut mapped = pair.to_vec();
    for attribute in parts.map(<[u8]>::trim_ascii) {
        let (key, value) = match attribute.iter().position(|b| *b == b'=') {
            Some(at) => (attribute.get(..at)?.trim_ascii(), attribute.get(at + 1..)?.trim_ascii()),
            None => (attribute, &b""[..]),
        };
        if key.eq_ignore_ascii_case(b"domain") {
            continue;
        }
        if key.eq_ignore_ascii_case(b"path") {
            // Without a leading slash it is ignored (RFC 6265 section 5.2.4): the default path is under the prefix.
            let Some(path) = std::str::from_utf8(value).ok().filter(|path| path.starts_with('/')) else {
                continue;
            };
            mapped.extend_from_slice(b"; Path=");
            mapped.extend_from_slice(map_path(path, response).as_deref().unwrap_or(path).as_bytes());
            continue;
        }
        mapped.extend_from_slice(b"; ");
        mapped.extend_from_slice(attribute);
    }
    HeaderValue::from_bytes(&mapped).ok()
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
