//! The page that a person sees instead of a host that is offline.
//!
//! It holds no script and needs nothing from elsewhere: it is answered on an origin that pages of
//! local servers share. The host's name was chosen by whoever runs the agent, and is escaped.

use axum::body::Body;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

/// Seconds until the page asks again, and `Retry-After`.
const RETRY: &str = "5";

/// Only the page's own style is allowed; nobody may frame it.
const CSP: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
);

/// Whether the request is a person opening a page, and not a script or a program.
pub fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let mode = headers.get("sec-fetch-mode").map(HeaderValue::as_bytes);
    method == Method::GET && accepts_html(headers) && matches!(mode, None | Some(b"navigate"))
}

/// Whether `Accept` names HTML.
pub fn accepts_html(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b','))
        .filter_map(|item| item.split(|b| *b == b';').next())
        .any(|media| media.trim_ascii().eq_ignore_ascii_case(b"text/html"))
}

/// The page. `last_seen` are Unix seconds, as is `now`.
pub fn page(host_name: &str, last_seen: Option<i64>, now: i64) -> Response<Body> {
    let mut response = Response::new(Body::from(html(host_name, last_seen, now)));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::RETRY_AFTER, HeaderValue::from_static(RETRY)),
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ] {
        headers.insert(name, value);
    }
    response
}

fn html(host_name: &str, last_seen: Option<i64>, now: i64) -> String {
    let name = escape(host_name);
    let seen = match last_seen {
        Some(at) => format!("It was last seen {}.", ago(now.saturating_sub(at))),
        None => "It has not been seen yet.".to_owned(),
    };
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="{RETRY}">
<title>{name} is offline</title>
<style>
body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 18vh auto 0; padding: 0 1.5rem;
  color: #1b1f24; background: #fff; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }}
p {{ color: #4b5563; }}
@media (prefers-color-scheme: dark) {{ body {{ color: #e6e8eb; background: #14171a; }} p {{ color: #a7afb9; }} }}
</style>
</head>
<body>
<main>
<h1>{name} is offline</h1>
<p role="status">{seen} Check that the machine is awake and the agent runs on it.</p>
<p>This page tries again every {RETRY} seconds.</p>
</main>
</body>
</html>
"#
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Neither control characters nor those that turn the direction of the text around.
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {}
            c => out.push(c),
        }
    }
    out
}

/// In the largest unit that fits. The page cannot know the reader's time zone.
fn ago(seconds: i64) -> String {
    let (count, unit) = match seconds.max(0) {
        s @ 0..60 => (s, "second"),
        s @ 60..3600 => (s / 60, "minute"),
        s @ 3600..86_400 => (s / 3600, "hour"),
        s => (s / 86_400, "day"),
    };
    match count {
        0 => "just now".to_owned(),
        1 => format!("1 {unit} ago"),
        n => format!("{n} {unit}s ago"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_navigation_is_a_get_for_html() {
        let cases: &[(Method, &str, Option<&str>, bool)] = &[
            (Method::GET, "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", Some("navigate"), true),
            (Method::GET, "application/json, Text/HTML;q=0.5", None, true),
            (Method::GET, "text/html", Some("cors"), false),
            (Method::GET, "text/html", Some("no-cors"), false),
            (Method::POST, "text/html", Some("navigate"), false),
            (Method::GET, "*/*", Some("navigate"), false),
            (Method::GET, "text/event-stream", None, false),
            (Method::GET, "text/html-not", None, false),
        ];
        for (method, accept, mode, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
            if let Some(mode) = mode {
                headers.insert("sec-fetch-mode", HeaderValue::from_str(mode).unwrap());
            }
            assert_eq!(is_navigation(method, &headers), *expected, "{method} {accept} {mode:?}");
        }
        assert!(!is_navigation(&Method::GET, &HeaderMap::new()));
    }

    #[test]
    fn the_page_escapes_the_name_and_tells_the_time() {
        let text = html("<script>alert('x')</script> & \u{202e}\"co\"\n", Some(1000), 1000 + 7200);
        assert!(
            text.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;co&quot; is offline")
        );
        assert!(!text.contains("<script") && !text.contains('\u{202e}'));
        assert!(text.contains("It was last seen 2 hours ago."));
        assert!(text.contains(r#"<meta http-equiv="refresh" content="5">"#));
        assert!(html("a", None, 0).contains("It has not been seen yet."));
    }

    #[test]
    fn times_ago() {
        let cases = [
            (-5, "just now"),
            (0, "just now"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "1 minute ago"),
            (7199, "1 hour ago"),
            (86_400 * 3, "3 days ago"),
        ];
        for (seconds, text) in cases {
            assert_eq!(ago(seconds), text);
        }
    }

    #[test]
    fn nothing_on_the_page_may_run() {
        let response = page("a", None, 0);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "5");
        let csp = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(csp.starts_with("default-src 'none'") && !csp.contains("script"));
    }
}
