//! What a request brings to say who it is from: a Bearer token, or the portal's cookie. Pure.
//!
//! A browser adds cookies by itself, whoever's page asked. So the cookie counts only beside a header that no
//! foreign page can add without being asked about it first (`x-relay-csrf`, which CORS never allows), and
//! only when the page, if the browser names it, is one of the relay's own. A Bearer token was put there on
//! purpose, and goes first: whoever sends a bad one is not let in by a cookie.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use relay_protocol::headers::X_RELAY_CSRF;

use crate::http::client_addr::{ClientInfo, Scheme};

/// The cookie's name over https. The prefix makes browsers refuse one that came otherwise.
const SECURE_COOKIE: &str = "__Host-relay_session";
/// Its name over plain http, where browsers take no prefix: for trying out on loopback.
const PLAIN_COOKIE: &str = "relay_session";

/// What the request brings.
#[derive(Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// A token in `Authorization`.
    Bearer(Token<'a>),
    /// A token in the cookie, on a request that may use it.
    Cookie(Token<'a>),
    /// The cookie, on a request that a foreign page may have made.
    Forged,
    /// Nothing, or nothing that can be read.
    Missing,
}

/// A token, not yet verified. Prints as stars.
#[derive(PartialEq, Eq, Clone, Copy)]
pub struct Token<'a>(pub &'a str);

impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The credential of a request. `own_origin` tells whether an `Origin` is the relay's own.
pub fn of<'a>(
    headers: &'a HeaderMap,
    scheme: Scheme,
    own_origin: impl FnOnce(&HeaderValue) -> bool,
) -> Credential<'a> {
    if headers.contains_key(header::AUTHORIZATION) {
        return bearer(headers).map_or(Credential::Missing, |token| Credential::Bearer(Token(token)));
    }
    let Some(token) = cookie(headers, cookie_name(scheme)) else { return Credential::Missing };
    let marked = single(headers, &X_RELAY_CSRF).is_some_and(|value| value == "1");
    if marked && from_own_page(headers, own_origin) {
        Credential::Cookie(Token(token))
    } else {
        Credential::Forged
    }
}

/// Whether the page that made the request, if the browser names one, is the relay's own.
pub fn from_own_page(headers: &HeaderMap, own_origin: impl FnOnce(&HeaderValue) -> bool) -> bool {
    !headers.contains_key(header::ORIGIN) || single(headers, &header::ORIGIN).is_some_and(own_origin)
}

/// The one Bearer token of the request (RFC 6750 section 2.1). Several are none.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    single(headers, &header::AUTHORIZATION).and_then(bearer_value)
}

/// The token of one `Authorization` header. A token has no blanks in it; those around it do not count.
pub fn bearer_value(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once([' ', '\t'])?;
    let token = token.trim_matches([' ', '\t']);
    let fine = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains([' ', '\t']);
    fine.then_some(token)
}

/// The cookie's name for who uses this scheme.
pub const fn cookie_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Https => SECURE_COOKIE,
        Scheme::Http => PLAIN_COOKIE,
    }
}

/// `Set-Cookie` for this token; an empty one that has lived for 0 s takes the cookie away. `None` when the
/// token is no header value, which none of ours is.
pub fn set_cookie(scheme: Scheme, token: &str, seconds: u64) -> Option<HeaderValue> {
    let secure = if scheme == Scheme::Https { "; Secure" } else { "" };
    let name = cookie_name(scheme);
    let text = format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The value of the cookie. Two of one name are none: a local server may have planted one of them.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => Some(value),
        _ => None,
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => value,
        _ => None,
    }
}

/// Whether the request came to this host, as the browser named it. The default port need not be named.
pub fn came_to(client: &ClientInfo, authority: &str) -> bool {
    let default_port = match client.scheme {
        Scheme::Https => ":443",
        Scheme::Http => ":80",
    };
    client.host.as_ref().is_some_and(|host| {
        let host = host.as_str();
        host.strip_suffix(default_port).unwrap_or(host).eq_ignore_ascii_case(authority)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_bearer_token_stands_alone() {
        let read = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("authorization", *line)).collect();
            bearer(&map(&lines)).map(ToOwned::to_owned)
        };
        assert_eq!(read(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(read(&["bEARER  abc "]).as_deref(), Some("abc"));
        assert_eq!(read(&["Bearer\tabc"]).as_deref(), Some("abc"));
        for bad in
            [&[][..], &["abc"], &["Bearer "], &["Bearer a b"], &["Basic abc"], &["Bearer a", "Bearer b"]]
        {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_cookie_counts_only_on_requests_of_the_relays_own_pages() {
        const OWN: (&str, &str) = ("origin", "https://relay.example");
        const CSRF: (&str, &str) = ("x-relay-csrf", "1");
        const SECURE: (&str, &str) = ("cookie", "a=1; __Host-relay_session=S; b=2");
        const PLAIN: (&str, &str) = ("cookie", "relay_session=P");
        let (s, p) = (Credential::Cookie(Token("S")), Credential::Cookie(Token("P")));
        use Credential::{Bearer, Forged, Missing};
        use Scheme::{Http, Https};
        let cases: &[(Scheme, &[(&str, &str)], &Credential<'_>)] = &[
            (Https, &[SECURE, CSRF], &s),
            (Https, &[SECURE, CSRF, OWN], &s),
            (Http, &[PLAIN, CSRF], &p),
            (Https, &[SECURE], &Forged),
            (Https, &[SECURE, OWN], &Forged),
            (Https, &[SECURE, ("x-relay-csrf", "")], &Forged),
            (Https, &[SECURE, ("x-relay-csrf", "true")], &Forged),
            (Https, &[SECURE, CSRF, CSRF], &Forged),
            (Https, &[SECURE, CSRF, ("origin", "https://evil.example")], &Forged),
            (Https, &[SECURE, CSRF, ("origin", "null")], &Forged),
            (Https, &[SECURE, CSRF, OWN, OWN], &Forged),
            // A cookie of the other scheme's name is somebody else's.
            (Https, &[PLAIN, CSRF], &Missing),
            (Http, &[SECURE, CSRF], &Missing),
            (Https, &[SECURE, SECURE, CSRF], &Missing),
            (Https, &[("cookie", "__Host-relay_session="), CSRF], &Missing),
            (Https, &[("cookie", "__host-relay_session=S"), CSRF], &Missing),
            (Https, &[CSRF], &Missing),
            (Https, &[], &Missing),
            // Authorization goes first, whatever it holds.
            (Https, &[SECURE, CSRF, ("authorization", "Bearer T")], &Bearer(Token("T"))),
            (Https, &[SECURE, ("authorization", "Bearer T")], &Bearer(Token("T"))),
            (Https, &[SECURE, CSRF, ("authorization", "Basic T")], &Missing),
            (Https, &[("authorization", "Bearer T"), ("authorization", "Bearer T")], &Missing),
        ];
        for (scheme, pairs, expected) in cases {
            let headers = map(pairs);
            let found = of(&headers, *scheme, |origin| origin == "https://relay.example");
            assert_eq!(found, **expected, "{scheme:?} {pairs:?}");
        }
        assert_eq!(format!("{s:?}"), "Cookie(***)");
    }

    #[test]
    fn cookies_are_set_as_strictly_as_the_scheme_allows() {
        let text =
            |scheme, token, seconds| set_cookie(scheme, token, seconds).unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            text(Scheme::Https, "T", 60),
            "__Host-relay_session=T; Path=/; HttpOnly; SameSite=Strict; Max-Age=60; Secure"
        );
        assert_eq!(text(Scheme::Http, "", 0), "relay_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
        let set = set_cookie(Scheme::Http, "T", 60).unwrap();
        assert!(!format!("{set:?}").contains('T'), "a sensitive value does not print");
    }
}
