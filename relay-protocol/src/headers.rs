//! Header names of the protocol, and the one rule that both ends share: hop-by-hop headers end here.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Set to `1` by the agent on every request that it forwards, whatever came in.
pub const X_RELAYED: HeaderName = HeaderName::from_static("x-relayed");
/// The same mark under the name that existing local servers look for.
pub const X_VK_RELAYED: HeaderName = HeaderName::from_static("x-vk-relayed");
/// On the relay's `101` to an agent: the id of the host that the tunnel serves.
pub const X_RELAY_HOST_ID: HeaderName = HeaderName::from_static("x-relay-host-id");
/// On the relay's `101` to an agent: the relay's own id, by which an agent with several tunnels tells relays apart.
pub const X_RELAY_ID: HeaderName = HeaderName::from_static("x-relay-id");
/// On the relay's `101` to an agent: base URLs of other relays that serve the same hosts, comma-separated.
pub const X_RELAY_OTHERS: HeaderName = HeaderName::from_static("x-relay-others");
/// The id under which the relay logged the request. Also the `request_id` of a problem.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `1` beside the portal's cookie: a header that no foreign page can send (PROTOCOL.md section 1.1).
pub const X_RELAY_CSRF: HeaderName = HeaderName::from_static("x-relay-csrf");
/// The path prefix under which the browser sees the local server, without the session id.
pub const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// The address of the browser and the proxies that the relay trusts.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `http` or `https`, as the browser used it.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The authority that the browser used.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The paired browser that signed a request, as the agent tells the local server: set or removed by the
/// agent on everything that it forwards.
pub const X_RELAY_CLIENT_ID: HeaderName = HeaderName::from_static("x-relay-client-id");
/// On a signed refusal of an exchange: the prelude of what was refused (PROTOCOL.md section 5.3).
pub const RELAY_EXCHANGE: HeaderName = HeaderName::from_static("relay-exchange");
/// `1` on a signed request: its answer is to be a record stream (PROTOCOL.md section 4.4).
pub const X_RELAY_RECORDS: HeaderName = HeaderName::from_static("x-relay-records");

/// Response headers by which one local server would rule the whole origin under which the relay shows every
/// host: none of them reaches a browser.
pub const RULES_THE_ORIGIN: [HeaderName; 14] = [
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
    header::ALT_SVC,
    header::PUBLIC_KEY_PINS,
    header::PUBLIC_KEY_PINS_REPORT_ONLY,
    HeaderName::from_static("expect-ct"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("origin-agent-cluster"),
    HeaderName::from_static("accept-ch"),
    // Would let one host bind sessions of the whole origin to a device.
    HeaderName::from_static("secure-session-registration"),
    HeaderName::from_static("sec-session-registration"),
];

/// Whether a `Referrer-Policy` would tell other sites the path of a page.
pub fn tells_the_path(referrer_policy: &HeaderValue) -> bool {
    let text = referrer_policy.as_bytes().to_ascii_lowercase();
    [&b"unsafe-url"[..], b"no-referrer-when-downgrade"]
        .iter()
        .any(|bad| text.windows(bad.len()).any(|window| window == *bad))
}

/// Hop-by-hop header names of RFC 9110 section 7.6.1, with the older ones that still occur.
/// `Trailer` is not one of them: it describes the message, not the connection.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    // Goes with `Upgrade: h2c` (RFC 7540 section 3.2), which goes too.
    HeaderName::from_static("http2-settings"),
];

/// Headers that `Connection` may not name away, because the message would mean something else
/// without them. A sender that tries is smuggling; the header stays.
fn describes_the_message(name: &HeaderName) -> bool {
    [header::HOST, header::AUTHORIZATION, header::COOKIE].contains(name)
        || name.as_str().starts_with("content-")
}

/// Whether an upgrade leads to another HTTP or to TLS: whoever follows would speak past everything that is
/// checked per request, so it is not offered onwards. The request goes on without it.
fn leads_past_checks(protocol: &HeaderValue) -> bool {
    let mut tokens = protocol.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
    tokens.any(|token| {
        let name = token.split(|b| *b == b'/').next().unwrap_or_default();
        [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|bad| name.eq_ignore_ascii_case(bad))
    })
}

/// What the hop-by-hop headers said that the next hop must be told again.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The `Upgrade` value, when `Connection` named `upgrade`.
    pub upgrade: Option<HeaderValue>,
    /// Whether `TE` offered to take trailers.
    pub trailers: bool,
}

/// Removes the hop-by-hop headers and every header that `Connection` names, and returns what the
/// next hop may have to be told anew (RFC 9110 section 7.6.1).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> Hop {
    let mut hop = Hop::default();
    let mut upgrade_named = false;
    let mut named: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"upgrade") {
                upgrade_named = true;
            } else if !token.eq_ignore_ascii_case(b"close")
                && !token.eq_ignore_ascii_case(b"keep-alive")
                && let Ok(name) = HeaderName::from_bytes(token)
                && !describes_the_message(&name)
            {
                named.push(name);
            }
        }
    }
    if upgrade_named {
        hop.upgrade = headers.get(header::UPGRADE).filter(|protocol| !leads_past_checks(protocol)).cloned();
    }
    hop.trailers = headers.get_all(header::TE).iter().any(|value| {
        value.as_bytes().split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // The framing that was read goes before the length that was claimed (RFC 9112 section 6.3).
        headers.remove(header::CONTENT_LENGTH);
    }
    drop_twins(headers);
    for name in named.iter().chain(HOP_BY_HOP.iter()) {
        // Not a plain remove: its cost is felt on the request path when nothing is there.
        if headers.contains_key(name) {
            headers.remove(name);
        }
    }
    hop
}

/// Headers by which a local server, or another relay, tells who asks, and how: never from a caller, in no spelling.
fn vouches(name: &str) -> bool {
    ["x-relayed", "x-vk-relayed", "x-relay-client-id", "x-relay-forwarded", "x-real-ip", "forwarded"]
        .contains(&name)
        || name.starts_with("x-forwarded-")
}

/// Drops `x_relayed` and its like: servers in the tradition of CGI read both spellings as one name.
fn drop_twins(headers: &mut HeaderMap) {
    let twins: Vec<HeaderName> = headers
        .keys()
        .filter(|n| n.as_str().contains('_') && vouches(&n.as_str().replace('_', "-")))
        .cloned()
        .collect();
    for name in twins {
        headers.remove(name);
    }
}

/// Removes from trailers what only a header may say (RFC 9110 section 6.5.1) or only this relay and its
/// agent: servers that merge trailers into the header would believe it.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    drop_twins(trailers);
    let wrong: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            HOP_BY_HOP.contains(name)
                || describes_the_message(name)
                || vouches(name.as_str())
                || [header::SET_COOKIE, header::LOCATION, header::TRAILER, X_REQUEST_ID].contains(name)
        })
        .cloned()
        .collect();
    for name in wrong {
        trailers.remove(name);
    }
}

/// Tells the next hop again what [`strip_hop_by_hop`] returned.
pub fn restore_hop(headers: &mut HeaderMap, hop: &Hop) {
    match (&hop.upgrade, hop.trailers) {
        (Some(protocol), _) => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol.clone());
        }
        (None, true) => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        (None, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    #[test]
    fn hop_by_hop_headers_and_those_that_connection_names_go() {
        let cases: &[(&[(&str, &str)], &[&str])] = &[
            (&[("connection", "close"), ("x-a", "1")], &["x-a"]),
            (&[("connection", "x-a, X-B"), ("x-a", "1"), ("x-b", "2"), ("x-c", "3")], &["x-c"]),
            (&[("connection", "x-a"), ("connection", "x-b"), ("x-a", "1"), ("x-b", "2")], &[]),
            (&[("keep-alive", "timeout=5"), ("proxy-connection", "x"), ("te", "trailers")], &[]),
            (&[("transfer-encoding", "chunked"), ("trailer", "x-sum")], &["trailer"]),
            (&[("proxy-authorization", "secret"), ("accept", "*/*")], &["accept"]),
            // An attempt to have the next hop read another message than the one that was checked.
            (
                &[
                    ("connection", "content-length, host, cookie, authorization"),
                    ("content-length", "3"),
                    ("host", "h"),
                    ("cookie", "a=b"),
                    ("authorization", "x"),
                ],
                &["content-length", "host", "cookie", "authorization"],
            ),
        ];
        for (given, left) in cases {
            let mut headers = map(given);
            strip_hop_by_hop(&mut headers);
            let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            let mut expected = left.to_vec();
            names.sort_unstable();
            expected.sort_unstable();
            assert_eq!(names, expected, "from {given:?}");
        }
    }

    #[test]
    fn an_upgrade_counts_only_when_connection_names_it() {
        let mut named = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(strip_hop_by_hop(&mut named).upgrade, Some(HeaderValue::from_static("websocket")));
        let mut unnamed = map(&[("upgrade", "websocket")]);
        assert_eq!(strip_hop_by_hop(&mut unnamed), Hop::default());
        assert!(unnamed.is_empty());
    }

    #[test]
    fn an_upgrade_past_the_checks_is_not_told_again() {
        for protocol in ["h2c", "H2C", "h2", "HTTP/2.0", "TLS/1.2", "websocket, h2c"] {
            let mut headers = map(&[
                ("connection", "upgrade, http2-settings"),
                ("upgrade", protocol),
                ("http2-settings", "AAM"),
            ]);
            assert_eq!(strip_hop_by_hop(&mut headers).upgrade, None, "{protocol}");
            assert!(headers.is_empty());
        }
        let mut unnamed =
            map(&[("connection", "content-digest"), ("content-digest", "d"), ("http2-settings", "AAM")]);
        strip_hop_by_hop(&mut unnamed);
        assert_eq!(unnamed.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-digest"]);
    }

    #[test]
    fn a_length_beside_a_transfer_coding_goes() {
        let mut headers = map(&[("content-length", "3"), ("transfer-encoding", "chunked"), ("x-a", "1")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-a"]);
    }

    #[test]
    fn twins_and_trailers_vouch_for_nobody() {
        let mut headers = map(&[
            ("x_relayed", "0"),
            ("x-vk_relayed", "0"),
            ("x_relay_client_id", "me"),
            ("x_forwarded_for", "6"),
            ("x_other", "1"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x_other"]);
        let mut trailers = map(&[
            ("x-sum", "1"),
            ("x-relayed", "0"),
            ("x_relayed", "0"),
            ("x-relay-client-id", "me"),
            ("x-forwarded-for", "6"),
            ("cookie", "a=1"),
            ("set-cookie", "a=1"),
            ("content-length", "1"),
            ("host", "h"),
            ("authorization", "x"),
            ("te", "x"),
        ]);
        strip_trailers(&mut trailers);
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);
    }

    #[test]
    fn trailers_are_told_again() {
        let mut headers = map(&[("te", "gzip, trailers"), ("connection", "te")]);
        let hop = strip_hop_by_hop(&mut headers);
        assert!(headers.is_empty());
        restore_hop(&mut headers, &hop);
        assert_eq!(headers.get("te").unwrap(), "trailers");
        assert_eq!(headers.get("connection").unwrap(), "te");
    }
}
