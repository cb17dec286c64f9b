//! Who gets a request, and what of it.

use http::{Method, StatusCode};
use relay_protocol::api::CreatedSession;
use relay_protocol::problem::Code;
use system_tests::client::{self, empty, fetch};
use system_tests::edge::{BROWSER, Edge, NAMELESS, ORIGIN, PROTOCOLS, Program, Protocol, SIGNED_IN, USER};
use system_tests::local::{Recorder, app};
use system_tests::{LocalServer, relay::bearer};

/// Paths that one program may read as the relay's and another as the web app's.
const AMBIGUOUS: [&str; 8] = [
    "/v1/relay/../admin",
    "/v1/relay/%2e%2e/admin",
    "/v1/relay/..%2fadmin",
    "/v1/relay/x/../../../admin",
    "//v1/relay/..//admin",
    "/v1/relay;/../admin",
    "/V1/RELAY/../admin",
    "/v1/relay%2f..%2f..%2fadmin",
];

pub async fn every_path_reaches_whom_it_belongs_to(program: Program) {
    let local = LocalServer::router(app()).await;
    let edge = Edge::start(program, &local.url()).await;
    let begun = (edge.web_app.count(), edge.identity.asked().len());

    for protocol in PROTOCOLS {
        let reply = edge.get(protocol, &edge.path("/hello")).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::OK, "hello".to_owned()), "{protocol:?}");
        edge.get(protocol, "/v1/relay/hosts").await.is_problem(Code::Unauthorized);
        edge.get(protocol, "/v1/relay").await.is_problem(Code::NotFound);
        for path in AMBIGUOUS {
            // Whoever gets it, the web app does not get it from somebody who is not signed in.
            edge.get(protocol, path).await;
            assert_eq!(edge.web_app.count(), begun.0, "{protocol:?} {path}");
        }
    }
    let create = bearer(Method::POST, &format!("/v1/relay/create/{}", edge.host), &edge.token);
    let created = fetch(edge.http1_addr(), create.body(empty()).unwrap()).await;
    created.json::<CreatedSession>();
    let asked = edge.identity.asked().split_off(begun.1);
    assert!(!asked.iter().any(|path| path == "/v1/relay" || path.starts_with("/v1/relay/h")), "{asked:?}");

    for protocol in PROTOCOLS {
        for path in ["/", "/health", "/api/v1/relay/hosts", "/login?next=/v1/relay/"] {
            let count = edge.web_app.count();
            let refused = edge.get(protocol, path).await;
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{protocol:?} {path}");
            assert_eq!(edge.web_app.count(), count, "{protocol:?} {path}");
            let request = edge.request("GET", path).header("cookie", SIGNED_IN).header("x-auth-user", "root");
            let reply = edge.fetch(protocol, request.body(empty()).unwrap()).await;
            assert_eq!((reply.status, reply.header("x-from")), (StatusCode::OK, Some("web-app")), "{path}");
            let (head, _) = edge.web_app.last();
            assert_eq!(head.target(), path.as_bytes(), "{protocol:?}");
            assert_eq!(head.all("x-auth-user"), [USER], "{protocol:?} {path}");
            assert_eq!(head.all("x-forwarded-proto"), ["https"], "{protocol:?} {path}");
            assert_eq!(edge.identity.asked().last().map(String::as_str), Some(path), "{protocol:?}");
        }
    }

    // Signed in, and nothing said of who that is: the browser does not say it instead.
    let nameless = edge.request("GET", "/").header("cookie", NAMELESS).header("x-auth-user", "root");
    let reply = edge.fetch(Protocol::Http1, nameless.body(empty()).unwrap()).await;
    assert_eq!(reply.header("x-from"), Some("web-app"), "{reply:?}");
    let named = edge.web_app.last().0.all("x-auth-user");
    assert!(named.iter().all(String::is_empty), "{named:?}");

    let plain = client::request(Method::GET, "/v1/relay/hosts", empty());
    let redirect = fetch(edge.plain_addr(), plain).await;
    assert!([301, 308].contains(&redirect.status.as_u16()), "{redirect:?}");
    let location = redirect.header("location").unwrap_or_default();
    assert!(location.starts_with("https://127.0.0.1") && location.ends_with("/v1/relay/hosts"), "{location}");
}

pub async fn requests_and_answers_pass_as_they_are(program: Program) {
    let page = "<p>packed by nobody</p>".repeat(200);
    let long = "y".repeat(24 * 1024);
    let answer = format!(
        "HTTP/1.1 200 Fine\r\ncontent-type: text/html\r\ncontent-length: {}\r\netag: \"strong\"\r\n\
         set-cookie: a=1\r\nset-cookie: b=2\r\nx-vk-resp-ts: 17\r\nx-vk-resp-nonce: n\r\n\
         x-vk-resp-signature: s\r\nx-long: {long}\r\n\r\n{page}",
        page.len()
    );
    let local = Recorder::answering(answer).await;
    let edge = Edge::start(program, &local.server.url()).await;
    let target = "/a%2Fb%20c//d/%E2%82%AC/;p?q=%2F+%26&empty&a=b%3Dc";
    // Traefik makes one of the two slashes, as its configuration tells.
    let written = if program == Program::Traefik { target.replace("//", "/") } else { target.to_owned() };
    let cookie = format!("large={}", "x".repeat(40 * 1024));
    for protocol in PROTOCOLS {
        let request = edge
            .request("PATCH", &edge.path(target))
            .header("x-vk-sig-ts", "1700000000")
            .header("x-vk-sig-nonce", "0123")
            .header("x-vk-sig-signature", "aGVsbG8=")
            .header("signature-input", "sig1=(\"@method\" \"@path\");created=1;keyid=\"k\"")
            .header("authorization", "Basic bG9jYWw6c2VydmVy")
            .header("accept-encoding", "gzip, br")
            .header("origin", ORIGIN)
            .header("cookie", &cookie);
        let reply = edge.fetch(protocol, request.body(client::full("body")).unwrap()).await;
        let (head, body) = local.last();
        assert!(head.start_line().starts_with("PATCH "), "{}", head.start_line());
        assert_eq!(String::from_utf8_lossy(&head.target()), written, "{protocol:?}");
        assert_eq!(body.bytes, b"body", "{protocol:?}");
        for (name, value) in [
            ("x-vk-sig-ts", "1700000000"),
            ("x-vk-sig-nonce", "0123"),
            ("x-vk-sig-signature", "aGVsbG8="),
            ("signature-input", "sig1=(\"@method\" \"@path\");created=1;keyid=\"k\""),
            ("accept-encoding", "gzip, br"),
            ("cookie", &cookie),
            ("x-forwarded-proto", "https"),
        ] {
            assert_eq!(head.all(name), [value], "{protocol:?} {name}");
        }
        assert_eq!(reply.status, StatusCode::OK, "{protocol:?}");
        assert_eq!(reply.text(), page, "{protocol:?}: as the agent sent it");
        for (name, value) in [
            ("content-encoding", None),
            ("etag", Some("\"strong\"")),
            ("x-vk-resp-ts", Some("17")),
            ("x-vk-resp-nonce", Some("n")),
            ("x-vk-resp-signature", Some("s")),
            ("x-long", Some(long.as_str())),
            ("access-control-allow-origin", Some(ORIGIN)),
        ] {
            assert_eq!(reply.header(name), value, "{protocol:?} {name}");
            assert!(reply.headers.get_all(name).iter().count() <= 1, "{protocol:?} {name}");
        }
        assert_eq!(reply.headers.get_all("set-cookie").iter().count(), 2, "{protocol:?}");
        let exposed = reply.header("access-control-expose-headers").unwrap_or_default();
        assert!(exposed.to_ascii_lowercase().contains("x-vk-resp-signature"), "{protocol:?} {exposed}");
    }

    // Whoever asks for nothing packed gets nothing packed. Traefik asks by itself, and unpacks; its configuration tells.
    edge.get(Protocol::Http1, &edge.path("/")).await;
    let asked = (program == Program::Traefik).then(|| "gzip".to_owned());
    assert_eq!(local.last().0.header("accept-encoding"), asked);
    let count = local.count();

    let preflight = edge
        .request("OPTIONS", &edge.path("/"))
        .header("origin", ORIGIN)
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "x-vk-sig-ts");
    let reply = edge.fetch(Protocol::H2, preflight.body(empty()).unwrap()).await;
    assert!(reply.status.is_success(), "{reply:?}");
    assert_eq!(reply.header("access-control-allow-origin"), Some(ORIGIN));
    assert_eq!(local.count(), count, "the relay answers preflights by itself");
}

pub async fn the_relay_sees_the_browsers_address_and_nobody_forges_it(program: Program) {
    let local = LocalServer::router(app()).await;
    let edge = Edge::start(program, &local.url()).await;
    let seen = format!("{BROWSER}, 127.0.0.1");
    for protocol in PROTOCOLS {
        for claims in [
            &[][..],
            &[
                ("x-forwarded-for", "203.0.113.9"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "evil"),
            ],
            &[("x-forwarded-for", "203.0.113.9, 127.0.0.1"), ("x-real-ip", "203.0.113.9")],
            &[("forwarded", "for=203.0.113.9;proto=http;host=evil")],
        ] {
            let mut request = edge.request("GET", &edge.path("/echo"));
            for (name, value) in claims {
                request = request.header(*name, *value);
            }
            let reply = edge.fetch(protocol, request.body(empty()).unwrap()).await;
            let echo: serde_json::Value = reply.json();
            let header = |name: &str| -> Vec<String> {
                let all = echo["headers"].as_array().unwrap().iter().filter(|pair| pair[0] == name);
                all.map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
            };
            assert_eq!(header("x-forwarded-for"), [seen.as_str()], "{protocol:?} {claims:?}");
            assert_eq!(header("x-forwarded-proto"), ["https"], "{protocol:?} {claims:?}");
            let hosts = header("x-forwarded-host");
            assert!(
                hosts.len() == 1 && hosts[0].starts_with("localhost"),
                "{protocol:?} {claims:?} {hosts:?}"
            );
        }
    }
}
