//! Which headers of an exchange reach the local server (PROTOCOL.md section 5.2). Pure.
//!
//! What the browser says stands in its HEAD, protected as a whole; so all of it passes but what is the hops'
//! own, the agent's to say, or the jar's. Of the outer request, which the relay may have made up, only that
//! passes which tells of the relay itself.

use super::super::headers::only_scriptable_codings;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use relay_protocol::headers::{
    X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_FORWARDED_PROTO, X_RELAYED, X_REQUEST_ID,
    strip_hop_by_hop,
};
use std::borrow::Cow;
use uuid::Uuid;

/// What the relay sets, and the agent where there is no relay on the way.
const OF_THE_RELAY: [HeaderName; 5] =
    [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_REQUEST_ID];

/// Where the relay shows hosts.
const PREFIX: &str = "/v1/relay/h/";

/// Whether a header of HEAD stays with the agent. What belongs to the hops goes before.
fn stays(name: &HeaderName) -> bool {
    let text = name.as_str();
    [header::HOST, header::CONTENT_LENGTH, header::EXPECT, header::COOKIE, header::FORWARDED, X_RELAYED]
        .contains(name)
        || ["signature", "signature-input", "x-real-ip"].contains(&text)
        || ["x-forwarded-", "x-relay-"].iter().any(|prefix| text.starts_with(prefix))
}

/// A `Referer` without the path under which the relay shows this host, which names a session of the relay's: it is
/// nothing that a local server may know. `None` when it cannot be taken out.
fn withhold_session(referer: &str) -> Option<Cow<'_, str>> {
    let Some(at) = referer.find(PREFIX) else { return Some(Cow::Borrowed(referer)) };
    let (origin, path) = referer.split_at_checked(at)?;
    let authority = origin.split_once("://")?.1;
    if authority.contains(['/', '?', '#']) {
        return None;
    }
    let mut parts = path.strip_prefix(PREFIX)?.splitn(3, '/');
    let (host, s, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (session, rest) = rest.split_at_checked(end)?;
    let known = s == "s" && [host, session].iter().all(|id| Uuid::try_parse(id).is_ok());
    if !known || rest.contains(PREFIX) {
        return None;
    }
    let slash = if rest.starts_with('/') { "" } else { "/" };
    Some(Cow::Owned(format!("{origin}{slash}{rest}")))
}

/// The headers for the local server: those of HEAD that pass, what the `outer` request tells of the relay, the
/// relay's `host` as the agent itself knows it, and the jar's `cookie`.
pub fn request(
    mut headers: HeaderMap,
    outer: &HeaderMap,
    host: Option<HeaderValue>,
    cookie: Option<HeaderValue>,
) -> HeaderMap {
    // What its `Connection` and `TE` asked for ends here.
    strip_hop_by_hop(&mut headers);
    let gone: Vec<HeaderName> = headers.keys().filter(|name| stays(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    only_scriptable_codings(&mut headers);
    if let Some(referer) = headers.remove(header::REFERER)
        && let Some(told) = referer.to_str().ok().and_then(withhold_session)
        && let Ok(told) = HeaderValue::from_str(&told)
    {
        headers.insert(header::REFERER, told);
    }
    for name in OF_THE_RELAY {
        if let Some(value) = outer.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    // Counts only under --preserve-host; it is the same over every path, and never what the relay says.
    if let Some(host) = host {
        headers.insert(header::HOST, host);
    }
    if let Some(cookie) = cookie {
        headers.insert(header::COOKIE, cookie);
    }
    headers
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn what_passes_of_head_and_of_the_outer_request() {
        // (name, passes from HEAD, passes from the outer request)
        for (name, inner, outer) in [
            ("accept", true, false),
            ("authorization", true, false),
            ("content-type", true, false),
            ("content-digest", true, false),
            ("x-app", true, false),
            ("origin", true, false),
            ("referer", true, false),
            ("sec-fetch-mode", true, false),
            ("sec-websocket-protocol", true, false),
            ("trailer", true, false),
            ("traceparent", true, false),
            ("user-agent", true, false),
            ("x-request-id", true, true),
            ("x-forwarded-for", false, true),
            ("x-forwarded-proto", false, true),
            ("x-forwarded-host", false, true),
            ("x-forwarded-prefix", false, true),
            ("x-forwarded-user", false, false),
            ("x_forwarded_for", false, false),
            ("connection", false, false),
            ("keep-alive", false, false),
            ("proxy-connection", false, false),
            ("proxy-authorization", false, false),
            ("te", false, false),
            ("transfer-encoding", false, false),
            ("upgrade", false, false),
            ("host", false, false),
            ("content-length", false, false),
            ("expect", false, false),
            ("cookie", false, false),
            ("signature", false, false),
            ("signature-input", false, false),
            ("forwarded", false, false),
            ("x-real-ip", false, false),
            ("x_real_ip", false, false),
            ("x-relay-client-id", false, false),
            ("x_relay_client_id", false, false),
            ("x-relay-records", false, false),
            ("x-relay-anything", false, false),
            ("x-relayed", false, false),
            ("x_relayed", false, false),
        ] {
            let (given, empty) = (map(&[(name, "1")]), HeaderMap::new());
            assert_eq!(
                request(given.clone(), &empty, None, None).contains_key(name),
                inner,
                "{name} in HEAD"
            );
            assert_eq!(request(empty, &given, None, None).contains_key(name), outer, "{name} outside");
        }
    }

    #[test]
    fn no_session_of_the_relay_is_told() {
        const H: &str = "/v1/relay/h/0d9b3f6e-5c1a-4e52-9d5e-3f1f2a4b5c6d";
        const S: &str = "7A1E1B0C-98f0-4c43-8f0e-1d2c3b4a5968";
        let own = format!("https://relay.example{H}/s/{S}");
        for (referer, expected) in [
            (format!("{own}/a/b?c=d"), Some("https://relay.example/a/b?c=d")),
            (format!("{own}/"), Some("https://relay.example/")),
            (own.clone(), Some("https://relay.example/")),
            (format!("{own}?q"), Some("https://relay.example/?q")),
            ("https://relay.example/portal".to_owned(), Some("https://relay.example/portal")),
            ("https://other.example/a".to_owned(), Some("https://other.example/a")),
            ("https://other.example".to_owned(), Some("https://other.example")),
            (format!("https://relay.example{H}/s/{S}x/a"), None),
            (format!("https://relay.example{H}/x/{S}"), None),
            (format!("https://relay.example{H}"), None),
            (format!("https://relay.example/?next={H}/s/{S}"), None),
            (format!("{own}/a?next={H}/s/{S}"), None),
            (format!("/base{H}/s/{S}"), None),
        ] {
            let headers = request(map(&[("referer", &referer)]), &HeaderMap::new(), None, None);
            let left = headers.get("referer").map(|value| value.to_str().unwrap());
            assert_eq!(left, expected, "{referer}");
        }
    }

    #[test]
    fn what_connection_names_is_the_hops_own() {
        let inner = map(&[("connection", "x-app, x-b"), ("x-app", "1"), ("x-b", "2"), ("x-c", "3")]);
        assert_eq!(request(inner, &HeaderMap::new(), None, None), map(&[("x-c", "3")]));
    }

    #[test]
    fn the_relay_and_the_jar_have_the_last_word() {
        let inner = map(&[
            ("x-request-id", "mine"),
            ("cookie", "forged=1"),
            ("accept-encoding", "gzip, br"),
            ("x-app", "1"),
            ("x-app", "2"),
        ]);
        let outer = map(&[
            ("x-request-id", "relay"),
            ("x-forwarded-host", "evil.example"),
            ("cookie", "outer=1"),
            ("x-app", "3"),
        ]);
        let value = |text| Some(HeaderValue::from_static(text));
        let headers = request(inner, &outer, value("relay.example"), value("jar=1"));
        let all =
            |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-request-id"), ["relay"]);
        assert_eq!(all("cookie"), ["jar=1"]);
        assert_eq!(all("accept-encoding"), ["gzip"]);
        assert_eq!(all("x-app"), ["1", "2"]);
        assert_eq!(all("host"), ["relay.example"]);
    }
}
