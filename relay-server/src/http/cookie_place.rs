//! Where the portal's cookie counts, and so what else may be answered there.
//!
//! A page of a host that opens on such an origin would act as whoever visits it: the cookie goes along with
//! its requests, and the keys of the visitor's browser are within its reach. It does not matter who made the
//! session in the path, because a link opens in anybody's browser. So nothing that runs or shows as a page
//! is answered below a host's prefix there, and nothing that somebody else's page asked for.

use http::header::{self, HeaderMap};

use super::client_addr::{ClientInfo, Scheme};
use super::offline;
use crate::auth::credential::came_to;
use crate::config::Config;
use crate::store::Store;

/// Uses of a response that run as code or show as a page of the origin that they came from.
const ACTIVE: [&str; 14] = [
    "document",
    "iframe",
    "frame",
    "object",
    "embed",
    "fencedframe",
    "script",
    "worker",
    "sharedworker",
    "serviceworker",
    "audioworklet",
    "paintworklet",
    "xslt",
    "manifest",
];

/// The operator's choice.
#[derive(Debug, Clone)]
pub struct CookiePlace {
    portal: bool,
    /// Where alone the portal is, when it has an origin for itself.
    authority: Option<String>,
    /// The scheme that browsers use, when the relay was told. A proxy that it does not know may end TLS.
    scheme: Option<Scheme>,
}

impl CookiePlace {
    /// From the configuration.
    pub fn new(config: &Config) -> Self {
        let portal = config.portal_origin.as_ref();
        let told = portal.map(|portal| portal.origin.starts_with("https://"));
        let https = told.or_else(|| config.public_url.as_ref().map(|url| url.scheme() == "https"));
        Self {
            portal: config.portal,
            authority: portal.map(|portal| portal.authority.clone()),
            scheme: https.map(|https| if https { Scheme::Https } else { Scheme::Http }),
        }
    }

    /// Whether the portal is served at all.
    pub fn portal(&self) -> bool {
        self.portal
    }

    /// Whether the portal and its cookie are good for requests that came so.
    pub fn counts(&self, store: &Store, client: &ClientInfo) -> bool {
        self.portal && store.signs_in() && self.authority.as_ref().is_none_or(|own| came_to(client, own))
    }

    /// Whether the request came to the origin that the portal has for itself.
    pub fn is_portals_own(&self, client: &ClientInfo) -> bool {
        self.authority.as_ref().is_some_and(|own| came_to(client, own))
    }

    /// The scheme that the cookie's name and attributes follow.
    pub fn scheme(&self, client: &ClientInfo) -> Scheme {
        self.scheme.unwrap_or(client.scheme)
    }

    /// Whether a host's answer could act for whoever visits, on an origin where the cookie counts.
    ///
    /// What another site's page loads as an image could be opened from the browser's cache as a page. Where
    /// apps of other origins may call (they do so with CORS, and never to show or run the answer), only that
    /// passes.
    pub fn endangers(&self, headers: &HeaderMap, client: &ClientInfo) -> bool {
        if is_active(headers) {
            return true;
        }
        // A browser alone sets it; what is upgraded is no page, and no cache keeps it.
        if headers.contains_key(header::UPGRADE) {
            return false;
        }
        let foreign = headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin");
        let by_cors = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "cors");
        foreign && (self.is_portals_own(client) || !by_cors)
    }
}

/// Whether the answer would run as code or show as a page of this origin.
pub fn is_active(headers: &HeaderMap) -> bool {
    match headers.get("sec-fetch-dest").and_then(|v| v.to_str().ok()) {
        Some(dest) => ACTIVE.contains(&dest),
        None => offline::accepts_html(headers),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::client_addr::client_info;
    use http::header::{HeaderName, HeaderValue};

    fn client(host: &'static str) -> ClientInfo {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
        client_info("203.0.113.9:1".parse().unwrap(), None, &headers, &[])
    }

    #[test]
    fn what_endangers_the_visitor() {
        let shared = CookiePlace { portal: true, authority: None, scheme: None };
        let own = CookiePlace { authority: Some("portal.example".to_owned()), ..shared.clone() };
        const DEST: &str = "sec-fetch-dest";
        const SITE: &str = "sec-fetch-site";
        const MODE: &str = "sec-fetch-mode";
        // headers, where apps share the origin, where the portal has its own
        let cases: &[(&[(&str, &str)], bool, bool)] = &[
            (&[(DEST, "document")], true, true),
            (&[(DEST, "document"), (SITE, "same-origin")], true, true),
            (&[(DEST, "serviceworker"), (SITE, "same-origin")], true, true),
            (&[(DEST, "document"), ("upgrade", "websocket")], true, true),
            (&[("accept", "text/html,*/*")], true, true),
            (&[], false, false),
            (&[(DEST, "empty"), (SITE, "same-origin")], false, false),
            (&[(DEST, "image"), (SITE, "same-origin")], false, false),
            (&[(DEST, "image"), (SITE, "cross-site"), (MODE, "no-cors")], true, true),
            (&[(DEST, "image"), (SITE, "same-site")], true, true),
            (&[(DEST, "empty"), (SITE, "none")], true, true),
            (&[(DEST, "empty"), (SITE, "cross-site"), (MODE, "cors")], false, true),
            (&[(DEST, "websocket"), (SITE, "cross-site"), ("upgrade", "websocket")], false, false),
        ];
        for (pairs, on_shared, on_own) in cases {
            let headers: HeaderMap = pairs
                .iter()
                .map(|(name, value)| {
                    (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse::<HeaderValue>().unwrap())
                })
                .collect();
            let client = client("portal.example");
            assert_eq!(shared.endangers(&headers, &client), *on_shared, "{pairs:?}");
            assert_eq!(own.endangers(&headers, &client), *on_own, "{pairs:?}");
        }
    }

    #[test]
    fn the_scheme_is_the_one_that_the_relay_was_told() {
        let place = |scheme| CookiePlace { portal: true, authority: None, scheme };
        let plain = client("relay.example");
        assert_eq!(place(None).scheme(&plain), Scheme::Http);
        assert_eq!(place(Some(Scheme::Https)).scheme(&plain), Scheme::Https);
    }
}
