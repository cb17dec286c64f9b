//! What a person sees who opens a host by its address without being paired.
//!
//! The page comes from the agent and runs nothing: whoever wants in opens the relay's portal, which
//! signs.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

/// Nothing is loaded, nothing runs, nobody frames it.
const CSP: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<meta name=\"color-scheme\" content=\"light dark\">
<title>This host takes signed requests only</title>
<h1>This host takes signed requests only</h1>
<p>Its owner lets in only browsers that were paired with it, and only by requests that such a browser has signed.
A link that is opened by itself is not signed.</p>
<p>Open <a href=\"/\">the relay's portal</a>, and the host from there. If this browser is not paired yet, the portal
asks for the code that the host shows.</p>
</html>
";

/// Whether a person opened it: a browser that wants a page, and no script.
pub fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    *method == Method::GET
        && text(header::ACCEPT).is_some_and(|accept| accept.to_ascii_lowercase().contains("text/html"))
        && headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
}

/// The page.
pub fn page() -> Response<String> {
    let mut response = Response::new(PAGE.to_owned());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_people_get_the_page() {
        for (method, accept, mode, page) in [
            (Method::GET, Some("text/html,*/*;q=0.8"), Some("navigate"), true),
            (Method::GET, Some("text/html"), None, true),
            (Method::GET, Some("Text/HTML"), None, true),
            (Method::GET, Some("text/html"), Some("cors"), false),
            (Method::GET, Some("*/*"), Some("navigate"), false),
            (Method::GET, None, None, false),
            (Method::POST, Some("text/html"), Some("navigate"), false),
        ] {
            let mut headers = HeaderMap::new();
            accept.map(|accept| headers.insert("accept", HeaderValue::from_static(accept)));
            mode.map(|mode| headers.insert("sec-fetch-mode", HeaderValue::from_static(mode)));
            assert_eq!(is_navigation(&method, &headers), page, "{method} {accept:?} {mode:?}");
        }
    }

    #[test]
    fn the_page_runs_nothing() {
        let page = page();
        assert!(
            page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none';")
        );
        assert!(!page.body().contains("<script") && !page.body().contains("style"));
    }
}
