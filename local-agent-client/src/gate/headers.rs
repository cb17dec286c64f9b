//! Which headers pass where a signature protects the exchange, one pure function per direction
//! (PROTOCOL.md sections 4.2 to 4.4).
//!
//! The relay may add, change and remove headers. Towards the local server only those pass that the
//! browser signed, and a few that browsers set where no script sees them. Towards the browser only those are
//! signed that the relay leaves alone.

use http::{
    Uri,
    header::{self, Entry, HeaderMap, HeaderName, HeaderValue},
    uri::PathAndQuery,
};
use relay_protocol::{
    headers::{RULES_THE_ORIGIN, X_REQUEST_ID, strip_trailers, tells_the_path},
    signature::request::may_be_uncovered,
};

/// Stay with the agent, covered or not. `Connection` would let the relay name covered headers away, and
/// `Upgrade` would lead past the signature.
const AGENTS_OWN: [&str; 5] = ["signature", "signature-input", "connection", "upgrade", "x-relay-records"];

/// The content codings of the Compression Standard's `DecompressionStream`, and none.
const SCRIPTABLE_CODINGS: [&[u8]; 3] = [b"gzip", b"deflate", b"identity"];

/// Leaves of a signed request's headers what may reach the local server. `covers` tells what the
/// signature covers.
///
/// A covered header that came in several lines leaves in one, as it was signed: the relay could have
/// split it, and not every server reads further than the first.
pub fn request(headers: &mut HeaderMap, covers: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().cloned().collect();
    for name in names {
        let text = name.as_str();
        let covered = covers(&name);
        if AGENTS_OWN.contains(&text) || !(covered || passes_uncovered(&name)) {
            headers.remove(&name);
        } else if covered {
            join(headers, name);
        }
    }
}

/// Cuts what a browser offers to decode to what a script in it can decode: the body of a record stream is
/// decoded by a script, and browsers offer `br` and `zstd` where they let none do it. What the caller itself has
/// signed stays.
pub fn only_scriptable_codings(headers: &mut HeaderMap) {
    let offered = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b','));
    let kept: Vec<&[u8]> = offered
        .map(<[u8]>::trim_ascii)
        .filter(|offer| {
            let coding = offer.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
            SCRIPTABLE_CODINGS.iter().any(|known| coding.eq_ignore_ascii_case(known))
        })
        .collect();
    let kept = if kept.is_empty() { b"identity".to_vec() } else { kept.join(&b", "[..]) };
    if let (true, Ok(value)) = (headers.contains_key(header::ACCEPT_ENCODING), HeaderValue::from_bytes(&kept))
    {
        headers.insert(header::ACCEPT_ENCODING, value);
    }
}

/// `Host` is the hop's, and the policy sees to it.
fn passes_uncovered(name: &HeaderName) -> bool {
    may_be_uncovered(name) || *name == header::HOST
}

/// Takes a `?` away that nothing follows. `/p?` and `/p` are signed alike, so that the relay decides which it is,
/// and a local server may see a difference.
pub fn without_bare_query(uri: &mut Uri) {
    if uri.query() != Some("") {
        return;
    }
    if let Ok(target) = uri.path().parse::<PathAndQuery>() {
        *uri = Uri::from(target);
    }
}

fn join(headers: &mut HeaderMap, name: HeaderName) {
    let Entry::Occupied(mut entry) = headers.entry(name) else { return };
    if entry.iter().nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = entry.iter().map(|value| value.as_bytes().trim_ascii()).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b", "[..])) {
        entry.insert(joined);
    }
}

/// Takes out of a response what must not be inside a signed answer. Gives the cookies, which go
/// beside it, where the browser's own jar takes them.
pub fn response(headers: &mut HeaderMap) -> Vec<HeaderValue> {
    let gone: Vec<HeaderName> = headers
        .keys()
        .filter(|name| RULES_THE_ORIGIN.contains(name) || name.as_str().starts_with("access-control-"))
        .cloned()
        .collect();
    for name in gone {
        headers.remove(name);
    }
    if headers.get_all(header::REFERRER_POLICY).iter().any(tells_the_path) {
        let policy = HeaderValue::from_static("strict-origin-when-cross-origin");
        headers.insert(header::REFERRER_POLICY, policy);
    }
    match headers.entry(header::SET_COOKIE) {
        Entry::Occupied(entry) => entry.remove_entry_mult().1.collect(),
        Entry::Vacant(_) => Vec::new(),
    }
}

/// Whether a response tells the browser to forget its cookies (Clear Site Data, section 3.1). What else it may name is
/// kept by the origin that the browser sees, which is not this local server's.
pub fn clears_cookies(headers: &HeaderMap) -> bool {
    let lines = headers.get_all("clear-site-data").iter();
    let mut types = lines.flat_map(|line| line.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    types.any(|name| name == b"\"cookies\"" || name == b"\"*\"")
}

/// The trailers that a head announces (RFC 9110 section 6.6.2).
pub fn announced_trailers(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::TRAILER).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|b| *b == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

/// Leaves of a response's trailers what was announced and may be one (PROTOCOL.md section 2.4): what is taken out of
/// a head must not come in again at the end, cookies above all.
pub fn trailers(mut trailers: HeaderMap, announced: &[HeaderName]) -> HeaderMap {
    strip_trailers(&mut trailers);
    response(&mut trailers);
    let unannounced: Vec<HeaderName> =
        trailers.keys().filter(|name| !announced.contains(name)).cloned().collect();
    for name in unannounced {
        trailers.remove(name);
    }
    trailers
}

/// Prepares the headers of a response that is signed as it stands: what the relay adds to them would
/// break the signature.
pub fn signed_response(headers: &mut HeaderMap) {
    headers.remove(X_REQUEST_ID);
    for name in ["signature", "signature-input", "content-digest"] {
        headers.remove(name);
    }
    let any = |line: &HeaderValue| {
        let mut items = line.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
        items.any(|item| item == b"*" || item.eq_ignore_ascii_case(b"origin"))
    };
    // The relay's answers differ by origin, and it says so where nobody else does.
    if headers.contains_key(header::VARY) && !headers.get_all(header::VARY).iter().any(any) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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
    fn trailers_bring_in_nothing_that_a_head_may_not() {
        let head =
            map(&[("trailer", "X-Sum, set-cookie,access-control-allow-origin"), ("trailer", "x-more, ä")]);
        let sent = map(&[
            ("x-sum", "1"),
            ("x-sum", "2"),
            ("x-more", "3"),
            ("x-unannounced", "4"),
            ("set-cookie", "a=b"),
            ("access-control-allow-origin", "*"),
            ("strict-transport-security", "z"),
            ("x-relay-client-id", "7"),
            ("authorization", "a"),
        ]);
        let kept = trailers(sent, &announced_trailers(&head));
        assert_eq!(kept, map(&[("x-sum", "1"), ("x-sum", "2"), ("x-more", "3")]));
        assert!(trailers(map(&[("x-sum", "1")]), &announced_trailers(&map(&[]))).is_empty());
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_script_is_offered_only_what_it_can_decode() {
        for (offered, kept) in [
            ("gzip, deflate, br, zstd", "gzip, deflate"),
            ("br;q=1.0, GZIP;q=0.5, *;q=0.1", "GZIP;q=0.5"),
            ("br, zstd", "identity"),
            ("", "identity"),
            ("identity", "identity"),
        ] {
            let mut headers = map(&[("accept-encoding", offered)]);
            only_scriptable_codings(&mut headers);
            assert_eq!(headers.get("accept-encoding").unwrap(), kept, "{offered}");
        }
        let mut none = map(&[("accept", "*/*")]);
        only_scriptable_codings(&mut none);
        assert!(!none.contains_key("accept-encoding"));
    }

    #[test]
    fn only_what_is_covered_or_listed_reaches_the_local_server() {
        // (name, passes uncovered, passes covered)
        for (name, uncovered, covered) in [
            ("x-app", false, true),
            ("authorization", false, true),
            ("content-type", false, true),
            ("content-digest", false, true),
            ("content-encoding", false, true),
            ("range", false, true),
            ("if-none-match", false, true),
            ("expect", false, true),
            ("x-http-method-override", false, true),
            ("x-original-url", false, true),
            ("x_forwarded_for", false, true),
            ("accept", true, true),
            ("cookie", true, true),
            ("origin", true, true),
            ("te", true, true),
            ("sec-fetch-mode", true, true),
            ("sec-websocket-key", true, true),
            ("x-forwarded-prefix", true, true),
            ("x-forwarded-user", false, true),
            ("x-forwarded-port", false, true),
            ("sec-x_y", false, true),
            ("x-request-id", true, true),
            ("content-length", true, true),
            ("signature", false, false),
            ("signature-input", false, false),
            ("connection", false, false),
            ("upgrade", false, false),
            ("x-relay-records", false, false),
        ] {
            for (is_covered, passes) in [(false, uncovered), (true, covered)] {
                let mut headers = map(&[(name, "1")]);
                request(&mut headers, |_| is_covered);
                assert_eq!(!headers.is_empty(), passes, "{name}, covered: {is_covered}");
            }
        }
    }

    #[test]
    fn a_question_mark_alone_is_no_query() {
        for (came, goes) in [("/p?", "/p"), ("/p", "/p"), ("/p?a", "/p?a"), ("/p??", "/p??"), ("/?", "/")] {
            let mut uri: Uri = came.parse().unwrap();
            without_bare_query(&mut uri);
            assert_eq!(uri.to_string(), goes, "{came}");
        }
    }

    #[test]
    fn covered_headers_arrive_as_they_were_signed() {
        let mut headers =
            map(&[("x-a", " 1"), ("x-a", "2 "), ("x-b", "3"), ("cookie", "a=1"), ("cookie", "b=2")]);
        request(&mut headers, |name| name.as_str().starts_with("x-"));
        let all = |name| headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("x-a"), ["1, 2"]);
        assert_eq!(all("x-b"), ["3"]);
        assert_eq!(all("cookie"), ["a=1", "b=2"]);
    }

    #[test]
    fn what_rules_the_origin_stays_here_and_cookies_go_beside() {
        let mut headers = map(&[
            ("content-type", "text/plain"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("clear-site-data", "\"*\""),
            ("strict-transport-security", "max-age=1"),
            ("service-worker-allowed", "/"),
            ("access-control-allow-origin", "*"),
            ("referrer-policy", "unsafe-url"),
        ]);
        assert_eq!(response(&mut headers), ["a=1", "b=2"]);
        assert_eq!(names(&headers), ["content-type", "referrer-policy"]);
        assert_eq!(headers["referrer-policy"], "strict-origin-when-cross-origin");
        let mut plain = map(&[("referrer-policy", "no-referrer")]);
        assert!(response(&mut plain).is_empty());
        assert_eq!(plain["referrer-policy"], "no-referrer");
    }

    #[test]
    fn what_clears_cookies() {
        for (value, expected) in [
            ("\"cookies\"", true),
            ("\"*\"", true),
            ("\"cache\", \"cookies\"", true),
            ("\"cache\",\"storage\"", false),
            ("cookies", false),
            ("*", false),
            ("\"Cookies\"", false),
            ("", false),
        ] {
            assert_eq!(clears_cookies(&map(&[("clear-site-data", value)])), expected, "{value}");
        }
        let lines = map(&[("clear-site-data", "\"cache\""), ("clear-site-data", "\"cookies\"")]);
        assert!(clears_cookies(&lines) && !clears_cookies(&map(&[])));
    }

    #[test]
    fn what_the_relay_would_add_is_there_or_not_signed() {
        for (vary, expected) in [
            (None, vec![]),
            (Some("accept"), vec!["accept", "origin"]),
            (Some("a, Origin"), vec!["a, Origin"]),
            (Some("*"), vec!["*"]),
        ] {
            let mut headers = map(&[("x-request-id", "1"), ("content-digest", "x"), ("signature", "y")]);
            vary.map(|vary| headers.insert("vary", HeaderValue::from_static(vary)));
            signed_response(&mut headers);
            assert_eq!(headers.get_all("vary").iter().collect::<Vec<_>>(), expected);
            assert!(headers.keys().all(|name| name == "vary"));
        }
    }
}
