//! Who may speak to the local control server at all. Pure.
//!
//! A loopback port is reachable by every web page that a browser on this machine shows: by its address
//! (cross-site requests) and by any name that its owner points there (DNS rebinding). Browsers tell on
//! themselves by `Host`, `Origin` and `Sec-Fetch-Site`; whatever does not fit is refused before anything is looked at.

use http::{HeaderMap, HeaderName, Method, Uri, header};

/// Fetch Metadata.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// It was meant for another name.
    #[error("this server answers only by its own address")]
    Host,
    /// A page of another origin made it.
    #[error(
        "pages of other origins are not answered; paste a link into the address bar instead of following it"
    )]
    Origin,
}

/// Checks where a request comes from and whom it was meant for.
///
/// # Errors
/// When it is not for `port` on this machine by its own names, or comes from a foreign page.
pub fn check(port: u16, uri: &Uri, headers: &HeaderMap) -> Result<(), Foreign> {
    let host = one(headers, header::HOST).map_err(|()| Foreign::Host)?.ok_or(Foreign::Host)?;
    let own = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{port}"));
    if uri.authority().is_some() || !own.iter().any(|own| own == host) {
        return Err(Foreign::Host);
    }
    match one(headers, header::ORIGIN) {
        Ok(None) => {}
        Ok(Some(origin)) if origin.strip_prefix("http://") == Some(host) => {}
        _ => return Err(Foreign::Origin),
    }
    match one(headers, SEC_FETCH_SITE) {
        Ok(None | Some("same-origin" | "none")) => Ok(()),
        _ => Err(Foreign::Origin),
    }
}

/// Whether a browser vouches that a page of this server made a request that changes something. Needed where
/// a cookie speaks for the person: browsers add cookies by themselves.
pub fn is_vouched(method: &Method, headers: &HeaderMap) -> bool {
    method.is_safe() || headers.contains_key(header::ORIGIN)
}

/// A header that may stand once.
fn one(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, ()> {
    let mut all = headers.get_all(name).iter();
    let first = all.next();
    if all.next().is_some() {
        return Err(());
    }
    first.map(|value| value.to_str().map_err(|_| ())).transpose()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_and_commands_are_looked_at() {
        let (host, origin) = (Err(Foreign::Host), Err(Foreign::Origin));
        // (headers, verdict)
        for (pairs, expected) in [
            (vec![("host", "127.0.0.1:7")], Ok(())),
            (vec![("host", "localhost:7")], Ok(())),
            (vec![("host", "[::1]:7")], Ok(())),
            (vec![], host),
            // DNS rebinding, and what looks like us.
            (vec![("host", "evil.example:7")], host),
            (vec![("host", "127.0.0.1.evil.example:7")], host),
            (vec![("host", "127.0.0.1")], host),
            (vec![("host", "127.0.0.1:8")], host),
            (vec![("host", "127.1:7")], host),
            (vec![("host", "0.0.0.0:7")], host),
            (vec![("host", "user@127.0.0.1:7")], host),
            (vec![("host", "127.0.0.1:7"), ("host", "evil.example")], host),
            // Pages.
            (vec![("host", "127.0.0.1:7"), ("origin", "http://127.0.0.1:7")], Ok(())),
            (vec![("host", "localhost:7"), ("origin", "http://127.0.0.1:7")], origin),
            (vec![("host", "127.0.0.1:7"), ("origin", "http://127.0.0.1:3000")], origin),
            (vec![("host", "127.0.0.1:7"), ("origin", "https://127.0.0.1:7")], origin),
            (vec![("host", "127.0.0.1:7"), ("origin", "https://evil.example")], origin),
            (vec![("host", "127.0.0.1:7"), ("origin", "null")], origin),
            (vec![("host", "127.0.0.1:7"), ("origin", "")], origin),
            (
                vec![
                    ("host", "127.0.0.1:7"),
                    ("origin", "http://127.0.0.1:7"),
                    ("origin", "https://evil.example"),
                ],
                origin,
            ),
            (vec![("host", "127.0.0.1:7"), ("sec-fetch-site", "same-origin")], Ok(())),
            (vec![("host", "127.0.0.1:7"), ("sec-fetch-site", "none")], Ok(())),
            // Another port of this machine is the same site and another origin.
            (vec![("host", "127.0.0.1:7"), ("sec-fetch-site", "same-site")], origin),
            (vec![("host", "127.0.0.1:7"), ("sec-fetch-site", "cross-site")], origin),
            (vec![("host", "127.0.0.1:7"), ("sec-fetch-site", "")], origin),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &pairs {
                headers.append(*name, value.parse().unwrap());
            }
            assert_eq!(check(7, &"/".parse().unwrap(), &headers), expected, "{pairs:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1:7".parse().unwrap());
        assert_eq!(check(7, &"http://evil.example/".parse().unwrap(), &headers), host);
    }

    #[test]
    fn what_changes_something_needs_an_origin_beside_a_cookie() {
        let mut headers = HeaderMap::new();
        assert!(is_vouched(&Method::GET, &headers));
        assert!(!is_vouched(&Method::POST, &headers) && !is_vouched(&Method::DELETE, &headers));
        headers.insert("origin", "http://127.0.0.1:7".parse().unwrap());
        assert!(is_vouched(&Method::POST, &headers));
    }
}
