//! The header policy of the agent (PROTOCOL.md section 2), one pure function per direction.
//!
//! A request comes from the relay, which may have changed everything in it; the marks that tell
//! the local server so are always overwritten. A response comes from the local server, which knows itself by
//! its local address; where it names that address, only the path is passed on, because the relay
//! maps paths under the prefix that the browser sees.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use relay_protocol::headers::{
    Hop, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_RELAY_CLIENT_ID, X_RELAYED, X_VK_RELAYED, restore_hop,
    strip_hop_by_hop,
};

/// What the policy has to know.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `Host` of what is forwarded: the authority of the local server.
    pub authority: HeaderValue,
    /// The local server's origin, such as `http://127.0.0.1:3000`.
    pub origin: String,
    /// The origin of the relay's URL.
    pub relay_origin: String,
    /// Leaves `Host`, `Origin` and `Referer` as the browser sent them.
    pub preserve_host: bool,
}

/// Whose request it is, and so what of it is to be believed.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Nobody's that is known.
    Unknown,
    /// The paired browser of this id signed it. What origin it used is the relay's to tell, which is in the hands
    /// of the request.
    Signed(HeaderValue),
    /// It came out of an exchange of the paired browser of this id: what the relay says of origins counts nothing
    /// beside what the agent itself was told of the relay.
    Exchange(HeaderValue),
}

/// Rewrites a request's headers. Returns what its hop-by-hop headers asked for, already told again.
pub fn request(policy: &Policy, caller: Caller, headers: &mut HeaderMap) -> Hop {
    let hop = strip_hop_by_hop(headers);
    restore_hop(headers, &hop);
    headers.insert(X_RELAYED, HeaderValue::from_static("1"));
    headers.insert(X_VK_RELAYED, HeaderValue::from_static("1"));
    let relay_tells = !matches!(caller, Caller::Exchange(_));
    match caller {
        Caller::Signed(client) | Caller::Exchange(client) => drop(headers.insert(X_RELAY_CLIENT_ID, client)),
        Caller::Unknown => drop(headers.remove(X_RELAY_CLIENT_ID)),
    }
    if policy.preserve_host && headers.contains_key(header::HOST) {
        return hop;
    }
    headers.insert(header::HOST, policy.authority.clone());
    if !policy.preserve_host {
        rewrite_origin(policy, relay_tells, headers, header::ORIGIN);
        rewrite_origin(policy, relay_tells, headers, header::REFERER);
    }
    hop
}

/// Replaces the origin in the value of `name` by the local server's when it is the relay's own: a
/// page that was loaded through the relay is, to the local server, one of its own pages. Any other
/// origin stays, so that the local server can refuse it. `relay_tells` says whether the origin that the relay tells
/// is the relay's own too.
fn rewrite_origin(policy: &Policy, relay_tells: bool, headers: &mut HeaderMap, name: HeaderName) {
    let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) else { return };
    let Some((origin, path)) = split_origin(value) else { return };
    let browsers = || {
        let part = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let text = format!("{}://{}", part(X_FORWARDED_PROTO)?, part(X_FORWARDED_HOST)?);
        split_origin(&text).filter(|(_, rest)| rest.is_empty()).map(|(origin, _)| origin)
    };
    let relays = split_origin(&policy.relay_origin).is_some_and(|(relay, _)| relay == origin);
    if (relays || relay_tells && browsers().as_ref() == Some(&origin))
        && let Ok(rewritten) = HeaderValue::from_str(&format!("{}{path}", policy.origin))
    {
        headers.insert(name, rewritten);
    }
}

/// Rewrites a response's headers. `host` is the `Host` that the request carried to the local server.
/// Returns what the hop-by-hop headers said, for an upgrade to be told again.
pub fn response(policy: &Policy, host: Option<&HeaderValue>, headers: &mut HeaderMap) -> Hop {
    let hop = strip_hop_by_hop(headers);
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let mapped = headers
            .get(&name)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| to_path(policy, host, value));
        if let Some(path) = mapped.and_then(|path| HeaderValue::from_str(&path).ok()) {
            headers.insert(name, path);
        }
    }
    hop
}

/// The path of `location` when its origin is the local server's.
fn to_path(policy: &Policy, host: Option<&HeaderValue>, location: &str) -> Option<String> {
    let scheme = policy.origin.split_once("://")?.0;
    // `//host/path` means the scheme of the page, which to the local server is its own.
    let absolute =
        if location.starts_with("//") { format!("{scheme}:{location}") } else { location.to_owned() };
    let (origin, rest) = split_origin(&absolute)?;
    let sent = host.and_then(|host| host.to_str().ok()).map(|host| format!("{scheme}://{host}"));
    let ours = [Some(policy.origin.as_str()), sent.as_deref()];
    ours.into_iter().flatten().filter_map(split_origin).find(|(own, _)| *own == origin)?;
    Some(match rest {
        // `//evil.example` as a path must not become an authority.
        rest if rest.starts_with("//") => format!("/.{rest}"),
        rest if rest.starts_with('/') => rest.to_owned(),
        rest => format!("/{rest}"),
    })
}

/// An origin in its one spelling: lower case, without the scheme's own port.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// Splits `http(s)://authority` from what follows it. `None` for everything else, user
/// information among it: that is never an origin.
fn split_origin(value: &str) -> Option<(Origin, &str)> {
    let (scheme, rest) = value.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    let authority: http::uri::Authority = authority.parse().ok()?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return None;
    }
    let port = match authority.port_u16() {
        Some(port) => Some(port),
        None if authority.as_str().len() > authority.host().len() => return None,
        None => None,
    };
    let origin = Origin {
        scheme,
        host: authority.host().to_ascii_lowercase(),
        port: port.filter(|port| *port != default),
    };
    Some((origin, path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            authority: HeaderValue::from_static("127.0.0.1:3000"),
            origin: "http://127.0.0.1:3000".to_owned(),
            relay_origin: "https://relay.example".to_owned(),
            preserve_host: false,
        }
    }

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn the_marks_are_always_ours() {
        let mut headers = map(&[
            ("x-relayed", "0"),
            ("x-relayed", "no"),
            ("X-VK-Relayed", ""),
            ("x-relay-client-id", "another"),
            ("connection", "x-relayed"),
        ]);
        let client = HeaderValue::from_static("the-one");
        request(&policy(), Caller::Signed(client), &mut headers);
        assert_eq!(all(&headers, "x-relay-client-id"), ["the-one"]);
        assert_eq!(all(&headers, "x-relayed"), ["1"]);
        assert_eq!(all(&headers, "x-vk-relayed"), ["1"]);
        let mut preserved =
            map(&[("host", "relay.example"), ("x-relayed", "0"), ("x-relay-client-id", "me")]);
        request(&Policy { preserve_host: true, ..policy() }, Caller::Unknown, &mut preserved);
        assert_eq!(all(&preserved, "x-relayed"), ["1"]);
        assert!(!preserved.contains_key("x-relay-client-id"));
    }

    #[test]
    fn the_request_policy() {
        type Pairs<'a> = &'a [(&'a str, &'a str)];
        // (came, preserved?, expected of these names)
        let cases: &[(Pairs, bool, Pairs)] = &[
            (&[("host", "relay.example")], false, &[("host", "127.0.0.1:3000")]),
            (&[("host", "relay.example")], true, &[("host", "relay.example")]),
            (&[], true, &[("host", "127.0.0.1:3000")]),
            (&[("host", "a"), ("host", "b")], false, &[("host", "127.0.0.1:3000")]),
            // The relay's origin becomes the local one, in any spelling of it.
            (&[("origin", "https://relay.example")], false, &[("origin", "http://127.0.0.1:3000")]),
            (&[("origin", "HTTPS://Relay.Example:443")], false, &[("origin", "http://127.0.0.1:3000")]),
            (&[("origin", "https://relay.example")], true, &[("origin", "https://relay.example")]),
            // Every other origin stays.
            (&[("origin", "https://evil.example")], false, &[("origin", "https://evil.example")]),
            (&[("origin", "https://relay.example.evil")], false, &[("origin", "https://relay.example.evil")]),
            (&[("origin", "http://relay.example")], false, &[("origin", "http://relay.example")]),
            (&[("origin", "https://relay.example:8443")], false, &[("origin", "https://relay.example:8443")]),
            (&[("origin", "https://u@relay.example")], false, &[("origin", "https://u@relay.example")]),
            (&[("origin", "null")], false, &[("origin", "null")]),
            // What the browser used, as the relay tells it.
            (
                &[
                    ("origin", "https://h.pages.example"),
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-host", "h.pages.example"),
                ],
                false,
                &[("origin", "http://127.0.0.1:3000"), ("x-forwarded-host", "h.pages.example")],
            ),
            (
                &[
                    ("origin", "https://evil.example"),
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-host", "h.pages.example"),
                ],
                false,
                &[("origin", "https://evil.example")],
            ),
            (
                &[("referer", "https://relay.example/a?b=%2F")],
                false,
                &[("referer", "http://127.0.0.1:3000/a?b=%2F")],
            ),
            (&[("referer", "https://other.example/a")], false, &[("referer", "https://other.example/a")]),
            // Hop by hop.
            (
                &[("connection", "x-a"), ("x-a", "1"), ("x-b", "2")],
                false,
                &[("x-b", "2"), ("x-a", ""), ("connection", "")],
            ),
            (
                &[("connection", "Upgrade"), ("upgrade", "websocket")],
                false,
                &[("connection", "upgrade"), ("upgrade", "websocket")],
            ),
            (
                &[("te", "trailers"), ("trailer", "x-sum")],
                false,
                &[("te", "trailers"), ("connection", "te"), ("trailer", "x-sum")],
            ),
            (
                &[("expect", "100-continue"), ("content-length", "3")],
                false,
                &[("expect", "100-continue"), ("content-length", "3")],
            ),
            (
                &[("authorization", "Bearer app"), ("cookie", "a=b")],
                false,
                &[("authorization", "Bearer app"), ("cookie", "a=b")],
            ),
        ];
        for (came, preserve_host, expected) in cases {
            let mut headers = map(came);
            request(&Policy { preserve_host: *preserve_host, ..policy() }, Caller::Unknown, &mut headers);
            for (name, value) in *expected {
                assert_eq!(all(&headers, name).join(","), *value, "{name} from {came:?}");
            }
        }
    }

    #[test]
    fn of_an_exchange_no_origin_counts_that_only_the_relay_tells() {
        for (origin, host, by_exchange, by_signature) in [
            ("https://relay.example", "relay.example", "http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("https://relay.example", "evil.example", "http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("https://evil.example", "evil.example", "https://evil.example", "http://127.0.0.1:3000"),
            ("https://evil.example", "relay.example", "https://evil.example", "https://evil.example"),
        ] {
            for name in ["origin", "referer"] {
                let client = || HeaderValue::from_static("the-one");
                for (caller, expected) in
                    [(Caller::Exchange(client()), by_exchange), (Caller::Signed(client()), by_signature)]
                {
                    let mut headers =
                        map(&[(name, origin), ("x-forwarded-proto", "https"), ("x-forwarded-host", host)]);
                    request(&policy(), caller.clone(), &mut headers);
                    assert_eq!(all(&headers, name), [expected], "{name} {origin} {host} {caller:?}");
                    assert_eq!(all(&headers, "x-relay-client-id"), ["the-one"]);
                }
            }
        }
    }

    #[test]
    fn locations_of_the_local_server_become_paths() {
        for (location, expected) in [
            ("http://127.0.0.1:3000/a/b?c#d", "/a/b?c#d"),
            ("http://127.0.0.1:3000", "/"),
            ("http://127.0.0.1:3000?x=1", "/?x=1"),
            ("HTTP://127.0.0.1:3000/A", "/A"),
            ("//127.0.0.1:3000/a", "/a"),
            ("http://name.test/a", "/a"),
            ("http://name.test:80/a", "/a"),
            ("http://127.0.0.1:3000//evil.example/x", "/.//evil.example/x"),
            ("https://127.0.0.1:3000/a", "https://127.0.0.1:3000/a"),
            ("http://127.0.0.1:3001/a", "http://127.0.0.1:3001/a"),
            ("http://127.0.0.1:3000@evil.example/", "http://127.0.0.1:3000@evil.example/"),
            ("http://127.0.0.1:3000.evil.example/", "http://127.0.0.1:3000.evil.example/"),
            (
                "https://login.example/?next=http://127.0.0.1:3000/",
                "https://login.example/?next=http://127.0.0.1:3000/",
            ),
            ("//evil.example/a", "//evil.example/a"),
            ("/a", "/a"),
            ("a", "a"),
            ("", ""),
        ] {
            for name in ["location", "content-location"] {
                let mut headers = map(&[(name, location)]);
                response(&policy(), Some(&HeaderValue::from_static("name.test")), &mut headers);
                assert_eq!(all(&headers, name), [expected], "{name}: {location}");
            }
        }
    }

    #[test]
    fn responses_lose_only_what_is_hop_by_hop() {
        let came = [
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            // Beside a transfer coding a length is a lie.
            ("content-length", "0"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("trailer", "x-sum"),
            ("x-vk-resp-signature", "s"),
        ];
        let mut headers = map(&came);
        assert_eq!(response(&policy(), None, &mut headers), Hop::default());
        let mut expected = map(&came[4..]);
        assert_eq!(headers, expected);
        expected.clear();
        let mut upgrade = map(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(response(&policy(), None, &mut upgrade).upgrade.unwrap(), "websocket");
    }
}
