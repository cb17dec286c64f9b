//! Tables for origins, preflights, and what becomes of a local server's own headers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::super::client_addr::{Scheme, client_info};
use super::*;

fn policy(own: Option<&str>) -> Policy {
    Policy {
        allowed: vec!["https://app.example".into(), "http://localhost:3000".into()],
        own: own.map(Into::into),
        portal: None,
    }
}

fn client(scheme: Scheme, host: &str) -> ClientInfo {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
    let mut info = client_info("203.0.113.9:1".parse().unwrap(), None, &headers, &[]);
    info.scheme = scheme;
    info
}

fn with(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

#[test]
fn an_origin_is_compared_and_never_mirrored() {
    let https = client(Scheme::Https, "relay.example");
    let http = client(Scheme::Http, "localhost:8082");
    let cases: &[(Option<&str>, &ClientInfo, &str, bool)] = &[
        (None, &https, "https://app.example", true),
        (None, &https, "http://localhost:3000", true),
        (None, &https, "https://relay.example", true),
        (None, &https, "http://relay.example", false),
        (None, &https, "https://relay.example:8443", false),
        (None, &http, "http://localhost:8082", true),
        (None, &http, "http://localhost", false),
        (None, &https, "https://evil.example", false),
        (None, &https, "https://app.example.evil", false),
        (None, &https, "https://app.example/", false),
        (None, &https, "HTTPS://APP.EXAMPLE", false),
        (None, &https, "null", false),
        (None, &https, "", false),
        (None, &https, "*", false),
        (Some("https://public.example"), &https, "https://public.example", true),
        // Once the URL is known, what a request says of itself does not count.
        (Some("https://public.example"), &https, "https://relay.example", false),
    ];
    for (own, client, origin, allowed) in cases {
        let decision = policy(*own).decide(&with(&[("origin", origin)]), client);
        let expected = if *allowed {
            Decision::Allowed(HeaderValue::from_str(origin).unwrap())
        } else {
            Decision::Refused
        };
        assert_eq!(decision, expected, "{origin} {own:?}");
    }
    assert_eq!(policy(None).decide(&HeaderMap::new(), &https), Decision::NoOrigin);
    let two = with(&[("origin", "https://app.example"), ("origin", "https://evil.example")]);
    assert_eq!(policy(None).decide(&two, &https), Decision::Refused);
    assert!(matches!(
        policy(None).decide(
            &with(&[("origin", "https://relay.example")]),
            &client(Scheme::Https, "relay.example:443")
        ),
        Decision::Allowed(_)
    ));
}

#[test]
fn the_cookie_is_for_the_relays_own_pages() {
    let https = client(Scheme::Https, "relay.example");
    let portal =
        |own: Option<&str>, portal: Option<&str>| Policy { portal: portal.map(Into::into), ..policy(own) };
    let (public, alone) = (Some("https://public.example"), Some("https://portal.example"));
    for (own, portal_origin, origin, is) in [
        (None, None, "https://relay.example", true),
        (None, None, "http://relay.example", false),
        (None, None, "https://app.example", false),
        (public, None, "https://public.example", true),
        (public, None, "https://relay.example", false),
        (public, alone, "https://portal.example", true),
        (public, alone, "https://public.example", false),
        (None, alone, "https://relay.example", false),
        (None, None, "null", false),
    ] {
        let policy = portal(own, portal_origin);
        assert_eq!(policy.is_portal(&HeaderValue::from_static(origin), &https), is, "{own:?} {origin}");
    }
}

#[test]
fn only_a_question_about_another_request_is_a_preflight() {
    let asked = with(&[("origin", "https://a"), ("access-control-request-method", "PUT")]);
    assert!(is_preflight(&Method::OPTIONS, &asked));
    assert!(!is_preflight(&Method::GET, &asked));
    assert!(!is_preflight(&Method::OPTIONS, &with(&[("origin", "https://a")])));
    assert!(!is_preflight(&Method::OPTIONS, &with(&[("access-control-request-method", "PUT")])));
}

#[test]
fn preflights_are_answered_for_allowed_origins_and_refused_to_others() {
    let asked = with(&[
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "content-type, X-VK-Sig-Ts, bad name, *, X-Relay-CSRF,,x-last"),
    ]);
    let allowed = preflight(&asked, &Decision::Allowed(HeaderValue::from_static("https://app.example")));
    assert_eq!(allowed.status(), 204);
    let headers = allowed.headers();
    assert_eq!(headers["access-control-allow-origin"], "https://app.example");
    assert_eq!(headers["access-control-allow-credentials"], "true");
    assert_eq!(headers["access-control-allow-methods"], METHODS);
    assert_eq!(headers["access-control-allow-headers"], "content-type, x-vk-sig-ts, x-last");
    assert_eq!(headers["access-control-max-age"], "600");
    assert!(headers.get_all("vary").iter().any(|line| line == "origin"));

    let refused = preflight(&asked, &Decision::Refused);
    assert_eq!(refused.status(), 403);
    assert!(refused.headers().keys().all(|name| !name.as_str().starts_with("access-control-")));
    assert!(refused.headers().get_all("vary").iter().any(|line| line == "origin"));
}

#[test]
fn what_is_echoed_is_bounded() {
    let many = (0..10_000).map(|n| format!("x-{n}")).collect::<Vec<_>>().join(",");
    let names = requested_headers(&with(&[("access-control-request-headers", &many)])).unwrap();
    assert_eq!(names.to_str().unwrap().split(", ").count(), MAX_NAMES);
    let long = vec!["x".repeat(3000); 3].join(",");
    let names = requested_headers(&with(&[("access-control-request-headers", &long)])).unwrap();
    assert_eq!(names.len(), 3000);
}

#[test]
fn a_local_server_sets_no_policy() {
    let theirs = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-private-network", "true"),
        ("access-control-expose-headers", "X-Secret, *, bad name"),
        ("content-type", "text/plain"),
        ("vary", "accept-encoding"),
    ];
    let mut allowed = with(&theirs);
    apply(&mut allowed, &Decision::Allowed(HeaderValue::from_static("https://app.example")));
    assert_eq!(allowed["access-control-allow-origin"], "https://app.example");
    let exposed = allowed["access-control-expose-headers"].to_str().unwrap();
    assert!(!exposed.contains("x-secret") && !exposed.contains('*'), "{exposed}");
    assert_eq!(exposed.len(), format!("{EXPOSED}, content-type, vary").len(), "{exposed}");
    assert!(!allowed.contains_key("access-control-allow-private-network"));
    assert_eq!(allowed.get_all("vary").iter().collect::<Vec<_>>(), ["accept-encoding", "origin"]);

    for (decision, vary) in [(Decision::Refused, 2), (Decision::NoOrigin, 1)] {
        let mut headers = with(&theirs);
        apply(&mut headers, &decision);
        assert!(headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{decision:?}");
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(headers.get_all("vary").iter().count(), vary, "{decision:?}");
    }

    let mut varied = with(&[("vary", "Accept, Origin")]);
    apply(&mut varied, &Decision::Refused);
    assert_eq!(varied.get_all("vary").iter().count(), 1);
}

#[test]
fn all_that_an_answer_carries_is_exposed_to_allowed_pages_but_cookies() {
    let allowed = Decision::Allowed(HeaderValue::from_static("https://app.example"));
    let exposed = |mut headers: HeaderMap| {
        apply(&mut headers, &allowed);
        let text = headers["access-control-expose-headers"].to_str().unwrap().to_owned();
        text.strip_prefix(EXPOSED).unwrap().split(", ").skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    for (carried, expected) in [
        (&[][..], &["vary"][..]),
        (&["X-Total", "etag"], &["x-total", "etag", "vary"]),
        (&["set-cookie", "Set-Cookie2", "*", "x-total"], &["x-total", "vary"]),
        // Those of the fixed list are not named twice, and what came twice is not either.
        (&["signature", "retry-after", "x-a", "x-a"], &["x-a", "vary"]),
    ] {
        let pairs: Vec<_> = carried.iter().map(|name| (*name, "1")).collect();
        assert_eq!(exposed(with(&pairs)), expected, "{carried:?}");
    }

    let mut many = HeaderMap::new();
    for n in 0..1000 {
        many.insert(HeaderName::try_from(format!("x-{n}")).unwrap(), HeaderValue::from_static("1"));
    }
    assert_eq!(exposed(many.clone()).len(), MAX_NAMES);
    let mut long = HeaderMap::new();
    for n in 0..3 {
        let name = format!("x-{n}-{}", "x".repeat(1500));
        long.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_static("1"));
    }
    assert_eq!(exposed(long).len(), 2, "4 KiB and no more");
    for decision in [Decision::Refused, Decision::NoOrigin] {
        apply(&mut many, &decision);
        assert!(!many.contains_key("access-control-expose-headers"), "{decision:?}");
    }
}
