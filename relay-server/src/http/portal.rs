//! The portal's pages: files that were built beforehand and lie inside the program.
//!
//! They are the only pages of the relay's own, and what they may do is written down in their headers: run
//! and style by their own files alone, ask the relay alone, be framed by nobody, share a window with nobody.
//! The file names under `/assets/` change with their content, so browsers keep those for good and ask anew
//! for the page that names them.

use std::borrow::Cow;
use std::collections::HashMap;

use axum::body::Body;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use relay_protocol::problem::Code;

use super::client_addr::{ClientInfo, Scheme};
use super::problem::refuse;

/// As `npm run build` in `browser-pairing` leaves them; none when it was not run before this was built.
#[derive(rust_embed::RustEmbed)]
#[folder = "../browser-pairing/dist/portal"]
#[allow_missing = true]
struct Built;

/// The page, which is also what `/device` shows.
const INDEX: &str = "index.html";
const ASSETS: &str = "assets/";
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
const KEEP: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Bytes of a hash that tell one content from another.
const ETAG_BYTES: usize = 16;

/// What every answer carries besides the content security policy.
const GUARDS: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static(
            "accelerometer=(), autoplay=(), bluetooth=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), \
             hid=(), magnetometer=(), microphone=(), midi=(), payment=(), serial=(), usb=(), xr-spatial-tracking=()",
        ),
    ),
];

/// One file.
struct File {
    body: Bytes,
    kind: &'static str,
    etag: HeaderValue,
}

/// The pages.
pub struct Portal {
    files: HashMap<String, File>,
}

impl Portal {
    /// The files inside this program. None, and a line in the log, when there are none.
    pub fn built() -> Option<Self> {
        let files = Built::iter().filter_map(|path| {
            let file = Built::get(&path)?;
            let body = match file.data {
                Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                Cow::Owned(bytes) => Bytes::from(bytes),
            };
            Some((path.into_owned(), body, file.metadata.sha256_hash()))
        });
        let portal = Self::with(files);
        if portal.is_none() {
            tracing::info!(
                "the portal is not in this build: run `npm ci && npm run build` in browser-pairing, then build relay-server again"
            );
        }
        portal
    }

    /// Of these files: path, content, hash of the content.
    fn with(files: impl Iterator<Item = (String, Bytes, [u8; 32])>) -> Option<Self> {
        let files: HashMap<String, File> =
            files.map(|(path, body, hash)| (path.clone(), File::new(&path, body, hash))).collect();
        files.contains_key(INDEX).then_some(Self { files })
    }

    /// The answer to a request for one of the pages; none for every other path.
    pub fn answer<B>(&self, request: &Request<B>, client: &ClientInfo) -> Option<Response<Body>> {
        let (path, cache) = match request.uri().path() {
            "/" | "/device" => (INDEX, REVALIDATE),
            path => (path.strip_prefix('/').filter(|path| path.starts_with(ASSETS))?, KEEP),
        };
        let file = self.files.get(path)?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = refuse(Code::MethodNotAllowed, "This is a page: it takes GET and HEAD.");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET,HEAD"));
            return Some(refused);
        }
        let known = request
            .headers()
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .any(|line| names(line.as_bytes(), file.etag.as_bytes()));
        let mut response = Response::new(if known { Body::empty() } else { Body::from(file.body.clone()) });
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, cache);
        headers.insert(header::ETAG, file.etag.clone());
        headers.insert(header::CONTENT_SECURITY_POLICY, policy(client));
        headers.extend(GUARDS);
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
        }
        Some(response)
    }
}

impl File {
    fn new(path: &str, body: Bytes, hash: [u8; 32]) -> Self {
        let kind = match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "application/octet-stream",
        };
        let hex: String = hash.iter().take(ETAG_BYTES).map(|byte| format!("{byte:02x}")).collect();
        // Hexadecimal digits between quotes make a header value.
        let etag = HeaderValue::try_from(format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        Self { body, kind, etag }
    }
}

/// Whether a line of `If-None-Match` names this tag (RFC 9110 section 13.1.2: compared weakly).
fn names(line: &[u8], etag: &[u8]) -> bool {
    line.split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .any(|tag| tag.strip_prefix(b"W/").unwrap_or(tag) == etag)
}

/// The content security policy. WebSockets are named beside `'self'`, which older browsers take for http
/// alone.
fn policy(client: &ClientInfo) -> HeaderValue {
    const BEFORE: &str =
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'";
    const AFTER: &str =
        "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";
    let socket = match client.scheme {
        Scheme::Https => "wss",
        Scheme::Http => "ws",
    };
    // An authority may hold characters that end a directive.
    let plain = |host: &&str| {
        host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
    };
    let own = client.host.as_ref().map(|host| host.as_str()).filter(plain);
    let text = match own {
        Some(host) => format!("{BEFORE} {socket}://{host}{AFTER}"),
        None => format!("{BEFORE}{AFTER}"),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::http::client_addr::client_info;
    use http::HeaderMap;
    use http_body_util::BodyExt;

    fn portal() -> Portal {
        let file = |path: &str, body: &'static str, tag: u8| (path.to_owned(), Bytes::from(body), [tag; 32]);
        let files = [
            file("index.html", "<!doctype html>", 1),
            file("assets/main-abc.js", "1", 2),
            file("assets/main-abc.css", "a{}", 3),
            file("assets/logo-abc.svg", "<svg/>", 4),
            file("secret.txt", "not an asset", 5),
        ];
        Portal::with(files.into_iter()).unwrap()
    }

    fn client(scheme: Scheme, host: &'static str) -> ClientInfo {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
        let mut info = client_info("203.0.113.9:1".parse().unwrap(), None, &headers, &[]);
        info.scheme = scheme;
        info
    }

    fn ask(method: &str, path: &str, tag: Option<&str>) -> Option<Response<Body>> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        portal().answer(&request.body(()).unwrap(), &client(Scheme::Https, "relay.example"))
    }

    #[tokio::test]
    async fn pages_are_asked_for_anew_and_their_files_kept() {
        for (path, kind, cache, body) in [
            ("/", "text/html; charset=utf-8", "no-cache", "<!doctype html>"),
            ("/device?user_code=WDJB-MJHT", "text/html; charset=utf-8", "no-cache", "<!doctype html>"),
            (
                "/assets/main-abc.js",
                "text/javascript; charset=utf-8",
                "public, max-age=31536000, immutable",
                "1",
            ),
            ("/assets/main-abc.css", "text/css; charset=utf-8", "public, max-age=31536000, immutable", "a{}"),
            ("/assets/logo-abc.svg", "image/svg+xml", "public, max-age=31536000, immutable", "<svg/>"),
        ] {
            let response = ask("GET", path, None).unwrap();
            assert_eq!(response.status(), 200, "{path}");
            let headers = response.headers().clone();
            assert_eq!(
                (&headers["content-type"], &headers["cache-control"]),
                (&kind.parse().unwrap(), &cache.parse().unwrap())
            );
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["referrer-policy"], "no-referrer");
            assert_eq!(headers["cross-origin-opener-policy"], "same-origin");
            assert!(headers.contains_key("permissions-policy"));
            assert_eq!(
                headers["content-security-policy"],
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' \
                 wss://relay.example; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                 require-trusted-types-for 'script'"
            );
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body, "{path}");
            let tag = headers["etag"].to_str().unwrap();
            for line in [tag.to_owned(), format!("\"x\", W/{tag}")] {
                let again = ask("GET", path, Some(&line)).unwrap();
                assert_eq!(again.status(), 304, "{path} {line}");
                assert_eq!(again.headers()["etag"], tag);
            }
            assert_eq!(ask("GET", path, Some("\"other\"")).unwrap().status(), 200);
            assert_eq!(ask("HEAD", path, None).unwrap().status(), 200);
            let refused = ask("POST", path, None).unwrap();
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["allow"]),
                (405, &"GET,HEAD".parse().unwrap())
            );
        }
    }

    #[test]
    fn everything_else_is_not_the_portals() {
        for path in [
            "/index.html",
            "/secret.txt",
            "/assets/",
            "/assets/none.js",
            "/assets/../index.html",
            "//",
            "/v1/auth/me",
        ] {
            assert!(ask("GET", path, None).is_none(), "{path}");
        }
        assert!(Portal::with([].into_iter()).is_none());
    }

    #[test]
    fn a_host_does_not_write_the_policy() {
        let connect = |scheme, host| {
            let policy = policy(&client(scheme, host)).to_str().unwrap().to_owned();
            policy
                .split("; ")
                .find_map(|part| part.strip_prefix("connect-src ").map(ToOwned::to_owned))
                .unwrap()
        };
        assert_eq!(connect(Scheme::Http, "127.0.0.1:8082"), "'self' ws://127.0.0.1:8082");
        assert_eq!(connect(Scheme::Http, "[::1]:8082"), "'self' ws://[::1]:8082");
        for host in ["a;script-src*", "a,b", "*", "'unsafe-inline'"] {
            assert_eq!(connect(Scheme::Https, host), "'self'", "{host}");
        }
    }
}
