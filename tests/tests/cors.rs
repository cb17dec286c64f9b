//! Which origins' pages may call the relay, and what a preflight is answered.

use http::{Method, Request};
use system_tests::{
    Relay, RelayOptions, Reply, Stack,
    client::{empty, fetch},
    local::Recorder,
};

const APP: &str = "https://app.example.com";

fn allowing(origins: &str) -> RelayOptions {
    RelayOptions::default().env("RELAY_ALLOWED_ORIGINS", origins)
}

async fn preflight(stack: &Stack, path: &str, origin: &str) -> Reply {
    let request = Request::builder()
        .method(Method::OPTIONS)
        .uri(path)
        .header("origin", origin)
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "authorization,content-type,x-vk-sig-ts")
        .body(empty())
        .unwrap();
    fetch(stack.addr(), request).await
}

fn list(reply: &Reply, name: &str) -> Vec<String> {
    reply
        .headers
        .get_all(name)
        .iter()
        .flat_map(|v| {
            v.to_str().unwrap().split(',').map(|s| s.trim().to_ascii_lowercase()).collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_origin_may_call_everything_with_credentials() {
    let recorder = Recorder::start().await;
    let stack =
        Stack::with(&recorder.server.url(), allowing(&format!("https://x.example.com,{APP}")), |a| a).await;
    for path in [
        "/v1/relay/hosts".to_owned(),
        "/v1/relay/ice-servers".to_owned(),
        format!("/v1/relay/create/{}", stack.host),
        format!("/v1/relay/sessions/{}", stack.session),
        stack.path("/api/x"),
    ] {
        let reply = preflight(&stack, &path, APP).await;
        assert!(reply.status.is_success(), "{path}: {reply:?}");
        assert_eq!(reply.header("access-control-allow-origin"), Some(APP), "{path}");
        assert_eq!(reply.header("access-control-allow-credentials"), Some("true"), "{path}");
        assert!(
            list(&reply, "access-control-allow-methods").contains(&"put".to_owned()),
            "{path}: {reply:?}"
        );
        let headers = list(&reply, "access-control-allow-headers");
        for name in ["authorization", "content-type", "x-vk-sig-ts"] {
            assert!(headers.contains(&name.to_owned()), "{path}: {name} in {headers:?}");
        }
        assert!(list(&reply, "vary").contains(&"origin".to_owned()), "{path}: {reply:?}");
    }
    assert_eq!(recorder.count(), 0, "preflights are the relay's to answer");

    let request = stack.request("GET", "/api/x").header("origin", APP).body(empty()).unwrap();
    let reply = stack.fetch(request).await;
    assert_eq!(reply.text(), "ok");
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
    assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
    let exposed = list(&reply, "access-control-expose-headers");
    for name in ["x-vk-resp-ts", "x-vk-resp-nonce", "x-vk-resp-signature"] {
        assert!(exposed.contains(&name.to_owned()), "{name} in {exposed:?}");
    }
    // An error must be as readable as a success: a 401 is what makes the page refresh its token.
    let request = Request::builder().uri("/v1/relay/hosts").header("origin", APP).body(empty()).unwrap();
    let refused = fetch(stack.addr(), request).await;
    assert_eq!(refused.status, http::StatusCode::UNAUTHORIZED);
    assert_eq!(refused.header("access-control-allow-origin"), Some(APP));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_origin_is_mirrored() {
    let recorder = Recorder::start().await;
    let stack = Stack::with(&recorder.server.url(), allowing(APP), |a| a).await;
    for origin in [
        "https://evil.example",
        "null",
        "https://app.example.com.evil.example",
        "https://evil.example/https://app.example.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://sub.app.example.com",
        "HTTPS://APP.EXAMPLE.COM.",
        "*",
    ] {
        for path in ["/v1/relay/hosts".to_owned(), stack.path("/x")] {
            let reply = preflight(&stack, &path, origin).await;
            assert_eq!(reply.header("access-control-allow-origin"), None, "{origin} {path}: {reply:?}");
            assert_eq!(reply.header("access-control-allow-credentials"), None, "{origin} {path}: {reply:?}");
            let request = Request::builder().uri(path.as_str()).header("origin", origin);
            let reply = fetch(stack.addr(), request.body(empty()).unwrap()).await;
            assert_eq!(reply.header("access-control-allow-origin"), None, "{origin} {path}: {reply:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_allowed_to_other_origins_unless_it_is_configured() {
    let relay = Relay::start(RelayOptions::default()).await;
    let request = Request::builder().uri("/v1/relay/hosts").header("origin", APP).body(empty()).unwrap();
    let reply = fetch(relay.addr, request).await;
    assert_eq!(reply.header("access-control-allow-origin"), None, "{reply:?}");
    // The relay's own pages are at home.
    let own = format!("http://{}", relay.addr);
    let token = relay.user_with_token("a@example.com").await;
    let request = Request::builder()
        .uri("/v1/relay/hosts")
        .header("origin", own)
        .header("authorization", format!("Bearer {token}"))
        .body(empty())
        .unwrap();
    assert!(fetch(relay.addr, request).await.status.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_servers_own_answer_to_origins_does_not_add_to_the_relays() {
    let answer = "HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\ncontent-length: 2\r\n\r\nok";
    let recorder = Recorder::answering(answer).await;
    let stack = Stack::with(&recorder.server.url(), allowing(APP), |a| a).await;
    for origin in [APP, "https://evil.example"] {
        let request = stack.request("GET", "/x").header("origin", origin).body(empty()).unwrap();
        let reply = stack.fetch(request).await;
        let values: Vec<_> = reply.headers.get_all("access-control-allow-origin").iter().collect();
        match origin {
            APP => assert_eq!(values, [APP], "two values are none to a browser"),
            _ => assert!(values.is_empty(), "a local server opens the relay's origin: {values:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_without_an_origin_belongs_to_the_local_server() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let reply = stack.fetch(stack.request("OPTIONS", "/dav/").body(empty()).unwrap()).await;
    assert_eq!(reply.text(), "ok");
    assert_eq!(recorder.last().0.start_line(), "OPTIONS /dav/ HTTP/1.1");
}
