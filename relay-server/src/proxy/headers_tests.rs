use super::*;

const H: &str = "0d1f0c57-3b4e-4a7f-9e38-0a4b4c5d6e7f";
const S: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect()
}

/// The request policy with a relay token `OURS` and a private cookie `session`.
fn requested(pairs: &[(&str, &str)]) -> (HeaderMap, Hop) {
    let path = format!("{}{H}/s/{S}/page", path::PREFIX);
    let mut headers = map(pairs);
    let hop = request(
        &mut headers,
        Request {
            forwarded_for: HeaderValue::from_static("203.0.113.9"),
            scheme: "https",
            host: Some(HeaderValue::from_static("relay.example")),
            target: path::split(&path).unwrap(),
            request_id: HeaderValue::from_static("req-1"),
        },
        |token| token == "OURS",
        |cookie| cookie == "session",
    );
    (headers, hop)
}

#[test]
fn a_request_loses_what_is_the_relays_and_keeps_what_is_the_apps() {
    for (given, name, left) in [
        (("authorization", "Bearer OURS"), "authorization", vec![]),
        (("authorization", "bearer   OURS"), "authorization", vec![]),
        (("authorization", "Bearer\tOURS"), "authorization", vec![]),
        (("authorization", "Bearer theirs"), "authorization", vec!["Bearer theirs"]),
        (("authorization", "Basic OURS"), "authorization", vec!["Basic OURS"]),
        (("cookie", "a=1; relay_session=x; b=2"), "cookie", vec!["a=1; b=2"]),
        (("cookie", "__Host-relay_session=x"), "cookie", vec![]),
        (("cookie", "__Secure-relay_t=x;session=y; Session=z"), "cookie", vec!["Session=z"]),
        (("cookie", "a=1;b=2"), "cookie", vec!["a=1;b=2"]),
        (("x-vk-sig-signature", "abc"), "x-vk-sig-signature", vec!["abc"]),
        (("forwarded", "for=1.2.3.4"), "forwarded", vec![]),
        (("x-real-ip", "1.2.3.4"), "x-real-ip", vec![]),
        (("x-relayed", "0"), "x-relayed", vec![]),
        (("x-relay-admin-token", "t"), "x-relay-admin-token", vec![]),
        (("x-forwarded-for", "1.2.3.4"), "x-forwarded-for", vec!["203.0.113.9"]),
        (("x-forwarded-proto", "http"), "x-forwarded-proto", vec!["https"]),
        (("x-forwarded-host", "evil"), "x-forwarded-host", vec!["relay.example"]),
        (
            ("x-forwarded-prefix", "/evil"),
            "x-forwarded-prefix",
            vec!["/v1/relay/h/0d1f0c57-3b4e-4a7f-9e38-0a4b4c5d6e7f"],
        ),
        (("x-forwarded-port", "22"), "x-forwarded-port", vec![]),
        (("x-forwarded-server", "evil"), "x-forwarded-server", vec![]),
        (("X-Forwarded-User", "root"), "x-forwarded-user", vec![]),
        (("x-forwarded-email", "root@localhost"), "x-forwarded-email", vec![]),
        (("x-forwarded-ssl", "on"), "x-forwarded-ssl", vec![]),
        (("x-forwarded-uri", "/admin"), "x-forwarded-uri", vec![]),
        (("x-forwarded-client-cert", "By=x"), "x-forwarded-client-cert", vec![]),
        (("x-forwarded", "for=1.2.3.4"), "x-forwarded", vec![]),
        (("x_forwarded_user", "root"), "x_forwarded_user", vec![]),
        (("x-forwarded_user", "root"), "x-forwarded_user", vec![]),
        (("x_forwarded-for", "1.2.3.4"), "x_forwarded-for", vec![]),
        (("x_forwarded", "for=1.2.3.4"), "x_forwarded", vec![]),
        (("x_real_ip", "1.2.3.4"), "x_real_ip", vec![]),
        (("x-forward", "mine"), "x-forward", vec!["mine"]),
        (("x-request-id", "mine"), "x-request-id", vec!["req-1"]),
        (("accept", "*/*"), "x-request-id", vec!["req-1"]),
    ] {
        let (headers, _) = requested(&[given]);
        assert_eq!(values(&headers, name), left, "from {given:?}");
    }
}

#[test]
fn a_cookie_that_tells_the_session_goes_and_the_others_stay() {
    let (headers, _) = requested(&[("cookie", &format!("landing=%2Fs%2F{S}%2Fpage; login=1"))]);
    assert_eq!(values(&headers, "cookie"), ["login=1"]);
}

#[test]
fn several_cookie_lines_become_one() {
    let (headers, _) = requested(&[("cookie", "a=1"), ("cookie", "session=2; b=3")]);
    assert_eq!(values(&headers, "cookie"), ["a=1; b=3"]);
}

#[test]
fn the_session_id_stays_here_in_whatever_header_it_came() {
    let prefix = format!("/v1/relay/h/{H}/s/{S}");
    for (given, left) in [
        (format!("https://relay.example{prefix}/a?b=c"), Some("https://relay.example/a?b=c")),
        (format!("https://relay.example{prefix}"), Some("https://relay.example/")),
        (format!("https://relay.example{prefix}?q"), Some("https://relay.example/?q")),
        (format!("https://relay.example/v1/relay/h/{H}/s/{H}/x"), Some("https://relay.example/x")),
        ("https://relay.example/other".to_owned(), Some("https://relay.example/other")),
        ("https://relay.example".to_owned(), Some("https://relay.example")),
        (format!("https://relay.example/?next={prefix}"), None),
        (S.to_uppercase(), None),
    ] {
        let (headers, _) = requested(&[("referer", &given)]);
        assert_eq!(headers.get("referer").map(|v| v.to_str().unwrap()), left, "{given}");
    }
    let (headers, _) = requested(&[("x-original-uri", &format!("{prefix}/page")), ("x-other", "kept")]);
    assert!(!headers.contains_key("x-original-uri") && headers.contains_key("x-other"));
}

#[test]
fn an_upgrade_and_trailers_are_told_to_the_next_hop() {
    let (headers, hop) = requested(&[
        ("connection", "Upgrade, x-gone"),
        ("upgrade", "websocket"),
        ("x-gone", "1"),
        ("te", "trailers"),
    ]);
    assert_eq!(hop, Hop { upgrade: Some(HeaderValue::from_static("websocket")), trailers: true });
    assert!(
        !headers.contains_key("x-gone") && !headers.contains_key("connection") && !headers.contains_key("te")
    );
}

fn responded(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = map(pairs);
    let prefix = format!("/v1/relay/h/{H}/s/{S}");
    let public_prefix = format!("/v1/relay/h/{H}");
    response(
        &mut headers,
        Response { prefix: &prefix, public_prefix: &public_prefix, scheme: "https", host: "relay.example" },
    );
    headers
}

#[test]
fn locations_are_mapped_under_the_prefix() {
    let p = format!("/v1/relay/h/{H}/s/{S}");
    for (given, mapped) in [
        ("/login".to_owned(), format!("{p}/login")),
        ("/".to_owned(), format!("{p}/")),
        ("/?a=b#c".to_owned(), format!("{p}/?a=b#c")),
        ("/../../../health".to_owned(), format!("{p}/health")),
        ("/a/b/%2E%2e/./c?../x#../y".to_owned(), format!("{p}/a/c?../x#../y")),
        ("/a/..".to_owned(), format!("{p}/")),
        ("/a//b/...".to_owned(), format!("{p}/a//b/...")),
        ("relative".to_owned(), "relative".to_owned()),
        ("../up".to_owned(), "../up".to_owned()),
        ("?q".to_owned(), "?q".to_owned()),
        (format!("{p}/already"), format!("{p}/already")),
        (p.clone(), p.clone()),
        (format!("/v1/relay/h/{H}/told"), format!("{p}/told")),
        (format!("/v1/relay/h/{H}"), format!("{p}/")),
        (format!("/v1/relay/h/{H}x"), format!("{p}/v1/relay/h/{H}x")),
        ("https://relay.example/x".to_owned(), format!("https://relay.example{p}/x")),
        ("https://RELAY.example".to_owned(), format!("https://relay.example{p}/")),
        ("//relay.example/x".to_owned(), format!("{p}/x")),
        ("https://relay.example.evil/x".to_owned(), "https://relay.example.evil/x".to_owned()),
        ("https://elsewhere.example/x".to_owned(), "https://elsewhere.example/x".to_owned()),
        ("//elsewhere.example/x".to_owned(), "//elsewhere.example/x".to_owned()),
    ] {
        assert_eq!(
            values(&responded(&[("location", &given)]), "location"),
            [mapped.as_str()],
            "from {given}"
        );
        assert_eq!(
            values(&responded(&[("content-location", &given)]), "content-location"),
            [mapped.as_str()]
        );
    }
}

#[test]
fn cookies_are_kept_under_the_prefix() {
    let p = format!("/v1/relay/h/{H}/s/{S}");
    for (given, mapped) in [
        ("a=1", Some("a=1".to_owned())),
        ("a=1; Path=/", Some(format!("a=1; Path={p}/"))),
        ("a=1; path=/sub; HttpOnly; Secure", Some(format!("a=1; Path={p}/sub; HttpOnly; Secure"))),
        ("a=1; Domain=example.com; SameSite=Lax", Some("a=1; SameSite=Lax".to_owned())),
        ("a=1; Path=relative; Max-Age=3", Some("a=1; Max-Age=3".to_owned())),
        (
            "a=b=c; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
            Some("a=b=c; Expires=Wed, 21 Oct 2026 07:28:00 GMT".to_owned()),
        ),
        ("relay_session=x; Path=/", None),
        (" __Host-relay_session=x; Path=/", None),
        ("__HOST-relay_session=x", None),
        ("=relay_session=x", None),
        ("relay_session", None),
    ] {
        let headers = responded(&[("set-cookie", given)]);
        assert_eq!(
            values(&headers, "set-cookie"),
            mapped.iter().map(String::as_str).collect::<Vec<_>>(),
            "from {given}"
        );
    }
    let two = responded(&[("set-cookie", "a=1"), ("set-cookie", "b=2")]);
    assert_eq!(values(&two, "set-cookie"), ["a=1", "b=2"]);
}

#[test]
fn nothing_rules_the_relays_origin() {
    for name in [
        "strict-transport-security",
        "clear-site-data",
        "service-worker-allowed",
        "alt-svc",
        "public-key-pins",
        "public-key-pins-report-only",
        "report-to",
        "reporting-endpoints",
        "nel",
        "connection",
        "keep-alive",
    ] {
        let headers = responded(&[(name, "x-named"), ("x-vk-resp-signature", "s")]);
        assert!(!headers.contains_key(name), "{name} passed");
        assert!(headers.contains_key("x-vk-resp-signature"));
    }
    for (given, left) in [
        ("unsafe-url", "strict-origin-when-cross-origin"),
        ("no-referrer, Unsafe-URL", "strict-origin-when-cross-origin"),
        ("no-referrer", "no-referrer"),
    ] {
        assert_eq!(values(&responded(&[("referrer-policy", given)]), "referrer-policy"), [left]);
    }
}
