//! Which headers pass, which go, and which are made anew.

use http::Method;
use system_tests::{
    RelayOptions, Stack,
    client::{empty, full},
    local::Recorder,
    raw::{Head, RawConn, exchange},
    tokens::{self, SECRET},
};

async fn seen_with(stack: &Stack, recorder: &Recorder, headers: &[(&str, &str)]) -> Head {
    let mut request = stack.request("GET", "/x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let reply = stack.fetch(request.body(empty()).unwrap()).await;
    assert_eq!(reply.text(), "ok", "{headers:?}");
    recorder.last().0
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relays_token_goes_and_the_apps_credentials_stay() {
    let recorder = Recorder::start().await;
    let options = RelayOptions::default()
        .env("RELAY_JWT_SECRET", SECRET)
        .env("RELAY_PRIVATE_COOKIES", "app_session,vk_*");
    let stack = Stack::with(&recorder.server.url(), options, |a| a).await;
    let bearer = format!("Bearer {}", stack.token);
    let lower = format!("bearer {}", stack.token);
    let mut claims = tokens::read(&stack.token);
    claims["exp"] = serde_json::json!(tokens::now() - 86_400);
    let expired = format!("Bearer {}", tokens::sign(SECRET, jsonwebtoken::Algorithm::HS256, &claims));
    for ours in [&bearer, &lower, &expired] {
        let head = seen_with(&stack, &recorder, &[("authorization", ours)]).await;
        assert_eq!(head.all("authorization"), Vec::<String>::new(), "{ours}");
    }
    let theirs = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhcHAifQ.c2lnbmF0dXJlLW9mLXRoZS1hcHA";
    for app in ["Basic dXNlcjpwYXNz", "Bearer opaque-token", "Digest username=\"x\"", theirs] {
        let head = seen_with(&stack, &recorder, &[("authorization", app)]).await;
        assert_eq!(head.all("authorization"), [app]);
    }
    let head = seen_with(&stack, &recorder, &[("cookie", "a=1; b=\"2\"; c")]).await;
    assert_eq!(head.all("cookie").join("; "), "a=1; b=\"2\"; c");
    let cookies = "a=1; app_session=secret; vk_refresh=secret; app_session2=x; Vk=y";
    let head = seen_with(&stack, &recorder, &[("cookie", cookies)]).await;
    assert_eq!(head.all("cookie").join("; "), "a=1; app_session2=x; Vk=y");
    let head = seen_with(&stack, &recorder, &[("cookie", "app_session=secret")]).await;
    assert!(head.all("cookie").is_empty(), "{}", head.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_headers_end_at_the_relay_in_both_directions() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-private\r\nx-private: 1\r\nkeep-alive: timeout=7\r\n\
                  proxy-authenticate: Basic\r\nx-public: 1\r\ncontent-length: 2\r\n\r\nok";
    let recorder = Recorder::answering(answer).await;
    let stack = Stack::start(&recorder.server.url()).await;
    let request = format!(
        "GET {}/x HTTP/1.1\r\nhost: r\r\nconnection: close, X-One\r\nconnection: x-two\r\nx-one: 1\r\nX-Two: 2\r\n\
         x-three: 3\r\nkeep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nproxy-authorization: Basic eA==\r\n\
         te: gzip\r\nupgrade: h2c\r\n\r\n",
        stack.prefix()
    );
    let (reply, body) = exchange(stack.addr(), request).await.unwrap();
    assert_eq!((reply.status(), body.bytes.as_slice()), (200, &b"ok"[..]));
    let head = recorder.last().0;
    for gone in ["x-one", "x-two", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade"] {
        assert!(head.all(gone).is_empty(), "{gone} reached the local server: {}", head.text());
    }
    assert_eq!(head.all("x-three"), ["3"]);
    for gone in ["x-private", "proxy-authenticate"] {
        assert!(reply.all(gone).is_empty(), "{gone} reached the browser: {}", reply.text());
    }
    assert!(!reply.all("keep-alive").iter().any(|v| v.contains('7')), "{}", reply.text());
    assert_eq!(reply.all("x-public"), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_cannot_name_away_what_the_message_means() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let request = format!(
        "POST {}/x HTTP/1.1\r\nhost: r\r\nconnection: close, content-length, cookie, authorization, x-relayed, \
         x-vk-relayed, x-forwarded-for, x-forwarded-proto, x-forwarded-host, x-forwarded-prefix, host\r\n\
         cookie: a=1\r\nauthorization: Basic eA==\r\ncontent-length: 5\r\n\r\nhello",
        stack.prefix()
    );
    let (reply, _) = exchange(stack.addr(), request).await.unwrap();
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let (head, body) = recorder.last();
    assert_eq!(body.bytes, b"hello");
    for name in [
        "x-relayed",
        "x-vk-relayed",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-prefix",
        "host",
    ] {
        assert_eq!(head.all(name).len(), 1, "{name} was named away: {}", head.text());
    }
    assert_eq!(
        (head.all("cookie"), head.all("authorization")),
        (vec!["a=1".into()], vec!["Basic eA==".into()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_marks_of_a_relayed_request_are_always_there_and_always_ours() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let forged = [("x-relayed", "0"), ("x-relayed", "no"), ("X-VK-Relayed", "0")];
    for headers in [&[][..], &forged] {
        let head = seen_with(&stack, &recorder, headers).await;
        assert_eq!(head.all("x-relayed"), ["1"], "{}", head.text());
        assert_eq!(head.all("x-vk-relayed"), ["1"], "{}", head.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_and_origin_are_the_local_servers() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let local = recorder.server.addr.to_string();
    let own = format!("http://{}", stack.addr());
    let head = seen_with(&stack, &recorder, &[("origin", &own)]).await;
    assert_eq!(head.all("host"), [local.as_str()]);
    assert_eq!(head.all("origin"), [format!("http://{local}")]);
    assert_eq!(head.all("x-forwarded-host"), [stack.addr().to_string()]);
    let head = seen_with(&stack, &recorder, &[("origin", "https://other.example")]).await;
    assert_eq!(head.all("origin"), ["https://other.example"], "somebody else's origin stays what it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_headers_of_a_stranger_are_not_believed() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let spoof = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-user", "evil"),
        ("X-Forwarded-Client-Cert", "evil"),
        ("x_forwarded_email", "evil"),
        ("x-forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6;proto=https"),
    ];
    let head = seen_with(&stack, &recorder, &spoof).await;
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(head.all("x-forwarded-host"), [stack.addr().to_string()]);
    assert!(!head.text().contains("evil"), "{}", head.text());
    assert!(
        !head.text().contains("6.6.6.6"),
        "a local server that trusts its proxy is lied to: {}",
        head.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_right_most_untrusted_address_counts() {
    let recorder = Recorder::start().await;
    let options = RelayOptions::default().env("RELAY_TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8");
    let stack = Stack::with(&recorder.server.url(), options, |a| a).await;
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[("x-forwarded-for", "203.0.113.9")], "203.0.113.9"),
        (&[("x-forwarded-for", "6.6.6.6, 203.0.113.9")], "203.0.113.9"),
        (&[("x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.1.2.3")], "203.0.113.9"),
        (&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.9,10.0.0.1")], "203.0.113.9"),
        (&[("x-forwarded-for", "203.0.113.9, nonsense")], "127.0.0.1"),
    ];
    for (headers, client) in cases {
        let head = seen_with(&stack, &recorder, headers).await;
        let values = head.all("x-forwarded-for").join(", ");
        let first = values.split(',').next().unwrap().trim();
        assert_eq!(first, client, "{headers:?} became {values}");
        assert!(!values.contains("6.6.6.6"), "{headers:?} became {values}");
    }
    let https = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "relay.example.com"),
    ];
    let head = seen_with(&stack, &recorder, &https).await;
    assert_eq!(head.all("x-forwarded-proto"), ["https"]);
    assert_eq!(head.all("x-forwarded-host"), ["relay.example.com"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_and_end_to_end_headers_pass_untouched() {
    let answer = "HTTP/1.1 207 Multi-Status\r\nx-vk-resp-ts: 1\r\nx-vk-resp-nonce: n\r\nx-vk-resp-signature: s/+=\r\n\
                  etag: W/\"a\"\r\ncontent-security-policy: default-src 'self'\r\nx-odd: \r\nwww-authenticate: Basic realm=\"app\"\r\n\
                  link: <a>; rel=preload\r\nlink: <b>; rel=preload\r\nserver: app\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\ncontent-length: 2\r\n\r\nok";
    let recorder = Recorder::answering(answer).await;
    let stack = Stack::start(&recorder.server.url()).await;
    let sent = [
        ("x-vk-sig-ts", "1700000000"),
        ("x-vk-sig-nonce", "abc"),
        ("x-vk-sig-signature", "a+/b=="),
        ("accept", "a, b;q=0.1"),
        ("if-none-match", "W/\"x\""),
        ("range", "bytes=0-1"),
        ("user-agent", "test/1 (x; y)"),
        ("x-empty", ""),
    ];
    let mut request = stack.request("GET", "/x");
    for (name, value) in sent {
        request = request.header(name, value);
    }
    stack.fetch(request.body(empty()).unwrap()).await;
    let head = recorder.last().0;
    for (name, value) in sent {
        assert_eq!(head.all(name), [value], "{name}");
    }
    assert!(head.all("accept-encoding").is_empty(), "nobody asked for an encoding: {}", head.text());
    let reply = stack.get("/x").await;
    assert_eq!(reply.status.as_u16(), 207);
    for (name, value) in [
        ("x-vk-resp-ts", "1"),
        ("x-vk-resp-nonce", "n"),
        ("x-vk-resp-signature", "s/+="),
        ("etag", "W/\"a\""),
        ("content-security-policy", "default-src 'self'"),
        ("x-odd", ""),
        ("www-authenticate", "Basic realm=\"app\""),
        ("date", "Mon, 01 Jan 2024 00:00:00 GMT"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    let links: Vec<_> = reply.headers.get_all("link").iter().collect();
    assert_eq!(links, ["<a>; rel=preload", "<b>; rel=preload"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn header_bytes_beyond_ascii_pass_as_they_are() {
    let mut answer = b"HTTP/1.1 200 OK\r\nx-odd: \xe9\xff caf\xc3\xa9\r\ncontent-length: 2\r\n\r\n".to_vec();
    answer.extend(b"ok");
    let recorder = Recorder::answering(answer).await;
    let stack = Stack::start(&recorder.server.url()).await;
    let mut request =
        format!("GET {}/x HTTP/1.1\r\nhost: r\r\nconnection: close\r\nx-odd: ", stack.prefix()).into_bytes();
    request.extend(b"\xfe\xe9 caf\xc3\xa9\r\n\r\n");
    let (head, _) = exchange(stack.addr(), request).await.unwrap();
    let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|w| w == part);
    assert!(has(&head.bytes, b"x-odd: \xe9\xff caf\xc3\xa9"), "{}", head.text());
    assert!(has(&recorder.last().0.bytes, b"x-odd: \xfe\xe9 caf\xc3\xa9"), "{}", recorder.last().0.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_would_rule_the_relays_origin_go() {
    let rules = [
        ("strict-transport-security", "max-age=1"),
        ("clear-site-data", "\"*\""),
        ("service-worker-allowed", "/"),
        ("alt-svc", "h3=\":443\""),
        ("public-key-pins", "pin-sha256=\"x\""),
        ("public-key-pins-report-only", "pin-sha256=\"x\""),
        ("expect-ct", "max-age=1"),
        ("nel", "{}"),
        ("report-to", "{}"),
        ("reporting-endpoints", "a=\"https://evil.example\""),
    ];
    let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n".to_owned();
    for (name, value) in rules {
        answer += &format!("{name}: {value}\r\n");
    }
    let recorder = Recorder::answering(answer + "\r\nok").await;
    let stack = Stack::start(&recorder.server.url()).await;
    let reply = stack.get("/x").await;
    // The first five are named by PROTOCOL.md; the others hold for a whole origin just as well.
    for (name, _) in rules {
        assert_eq!(reply.header(name), None, "{name}");
    }
}

/// A browser's rule (RFC 6265 section 5.1.4).
fn path_matches(request: &str, cookie: &str) -> bool {
    request == cookie
        || request.strip_prefix(cookie).is_some_and(|rest| cookie.ends_with('/') || rest.starts_with('/'))
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_of_the_app_come_back_to_it_and_to_no_other_host() {
    let cookies = [
        "a=1; Path=/",
        "b=2",
        "c=3; path=/x; HttpOnly; SameSite=Lax",
        "d=4; Domain=example.com; Path=/; Max-Age=60",
        "e=5; Path=x",
        "f=6; PATH=\"/\"; Expires=Wed, 21 Oct 2099 07:28:00 GMT",
        "g=7; Path=/; Path=/x",
    ];
    let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n".to_owned();
    for cookie in cookies {
        answer += &format!("set-cookie: {cookie}\r\n");
    }
    let recorder = Recorder::answering(answer + "\r\nok").await;
    let stack = Stack::start(&recorder.server.url()).await;
    let reply = stack.get("/x/login").await;
    let set: Vec<_> = reply.headers.get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(set.len(), cookies.len(), "{set:?}");
    for (given, set) in cookies.iter().zip(&set) {
        assert_eq!(set.split(';').next(), given.split(';').next(), "name, value and order stay");
        let lower = set.to_ascii_lowercase();
        assert!(!lower.contains("domain="), "{given} became {set}");
        let path = set
            .split(';')
            .filter_map(|a| a.trim().split_once('='))
            .rfind(|(n, _)| n.eq_ignore_ascii_case("path"));
        // Without a path a browser takes the folder of the request, which lies below the prefix.
        let Some((_, path)) = path else {
            // One that does not begin with a slash counts as none.
            assert!(!given.to_ascii_lowercase().contains("path=/"), "{given} became {set}");
            continue;
        };
        let host = format!("/v1/relay/h/{}", stack.host);
        assert!(
            path == host || path.starts_with(&format!("{host}/")),
            "{given} became {set}: another host would get it"
        );
        let sent = stack.path("/x/login");
        assert!(path_matches(&sent, path), "{given} became {set}: it does not come back to {sent}");
    }
    assert!(set[2].contains("HttpOnly") && set[2].contains("SameSite=Lax"), "{set:?}");
    assert!(
        set[3].contains("Max-Age=60") && set[5].contains("Expires=Wed, 21 Oct 2099 07:28:00 GMT"),
        "{set:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn locations_of_the_local_server_are_mapped_and_others_are_not() {
    let here = system_tests::LocalServer::raw(|mut conn| async move {
        while let Some(head) = conn.head().await {
            let location = head.header("x-answer").unwrap_or_default();
            let answer = format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            conn.write(answer).await.ok();
        }
    })
    .await;
    let stack = Stack::start(&here.url()).await;
    let prefix = stack.prefix();
    let own = format!("http://{}", stack.addr());
    let cases = [
        ("/x".to_owned(), vec![format!("{prefix}/x"), format!("{own}{prefix}/x")]),
        ("/".to_owned(), vec![format!("{prefix}/"), format!("{own}{prefix}/")]),
        (
            "/x?next=/y#z".to_owned(),
            vec![format!("{prefix}/x?next=/y#z"), format!("{own}{prefix}/x?next=/y#z")],
        ),
        (format!("{}/x", here.url()), vec![format!("{prefix}/x"), format!("{own}{prefix}/x")]),
        (
            here.url(),
            vec![prefix.clone(), format!("{prefix}/"), format!("{own}{prefix}"), format!("{own}{prefix}/")],
        ),
        (format!("{own}/x"), vec![format!("{prefix}/x"), format!("{own}{prefix}/x"), format!("{own}/x")]),
        ("y/z".to_owned(), vec!["y/z".to_owned()]),
        ("?q=1".to_owned(), vec!["?q=1".to_owned()]),
        ("../up".to_owned(), vec!["../up".to_owned()]),
        ("https://elsewhere.example/x".to_owned(), vec!["https://elsewhere.example/x".to_owned()]),
        ("//elsewhere.example/x".to_owned(), vec!["//elsewhere.example/x".to_owned()]),
        ("mailto:a@example.com".to_owned(), vec!["mailto:a@example.com".to_owned()]),
        ("not a url \\ at all".to_owned(), vec!["not a url \\ at all".to_owned()]),
    ];
    for (given, expected) in cases {
        let request = stack.request("GET", "/from").header("x-answer", &given).body(empty()).unwrap();
        let reply = stack.fetch(request).await;
        let location = reply.header("location").unwrap_or_else(|| panic!("{given}: {reply:?}")).to_owned();
        assert!(expected.contains(&location), "{given} became {location}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_token_does_not_open_the_proxied_path_and_is_not_needed_there() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let wrong = format!("/v1/relay/h/{}/s/{}/x", stack.host, uuid::Uuid::new_v4());
    let reply = stack.relay.api(Method::GET, &wrong, &stack.token).await;
    reply.is_problem(relay_protocol::problem::Code::SessionExpired);
    let post = stack.request("POST", "/x").body(full("b")).unwrap();
    assert_eq!(stack.fetch(post).await.text(), "ok");
    assert_eq!(recorder.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_and_long_headers_pass_below_the_limit() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let mut conn = RawConn::connect(stack.addr()).await;
    let mut request = format!("GET {}/x HTTP/1.1\r\nhost: r\r\n", stack.prefix());
    for n in 0..60 {
        request += &format!("x-many-{n}: {}\r\n", "v".repeat(500));
    }
    conn.write(request + "\r\n").await.unwrap();
    let head = conn.head().await.expect("an answer");
    assert_eq!(head.status(), 200, "{}", head.text());
    assert_eq!(recorder.last().0.all("x-many-59"), ["v".repeat(500)]);
}
