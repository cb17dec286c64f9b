//! The path reaches the local server byte for byte, and the session id never does.

use http::Request;
use system_tests::{
    Stack,
    client::empty,
    local::Recorder,
    raw::{RawConn, exchange},
};

/// What stands behind the prefix, and what the local server must see.
const EXACT: &[(&str, &str)] = &[
    ("", "/"),
    ("/", "/"),
    ("?a=1", "/?a=1"),
    ("/?", "/?"),
    ("/a", "/a"),
    ("/a/", "/a/"),
    ("/a//b", "/a//b"),
    ("//", "//"),
    ("//a", "//a"),
    ("///a//", "///a//"),
    ("//evil.example/x", "//evil.example/x"),
    ("/a%2Fb", "/a%2Fb"),
    ("/a%2fb", "/a%2fb"),
    ("/%2F", "/%2F"),
    ("/a/../b", "/a/../b"),
    ("/..", "/.."),
    ("/./a/.", "/./a/."),
    ("/%2e%2e/%2E", "/%2e%2e/%2E"),
    ("/%00", "/%00"),
    ("/%ff%FE", "/%ff%FE"),
    ("/a%", "/a%"),
    ("/a%zz", "/a%zz"),
    ("/a?b=%20&c=+&d=//../%2F", "/a?b=%20&c=+&d=//../%2F"),
    ("/a??b=?", "/a??b=?"),
    ("/a;v=1,2;w='x'", "/a;v=1,2;w='x'"),
    ("/a:b@c!$&'()*+,;=~-._", "/a:b@c!$&'()*+,;=~-._"),
    ("/a|b", "/a|b"),
    ("/a\\b", "/a\\b"),
    ("/[x]^", "/[x]^"),
    ("/a?q={k:[1]}|\\^", "/a?q={k:[1]}|\\^"),
    ("/http://x.example/y", "/http://x.example/y"),
    ("/v1/relay/hosts", "/v1/relay/hosts"),
    ("/%C3%A9", "/%C3%A9"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_path_behind_the_prefix_arrives_byte_for_byte() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    for (given, expected) in EXACT {
        let request =
            format!("GET {}{given} HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n", stack.prefix());
        let before = recorder.count();
        let (head, _) = exchange(stack.addr(), request).await.unwrap_or_else(|| panic!("{given}: no answer"));
        assert_eq!(head.status(), 200, "{given}: {}", head.text());
        assert_eq!(recorder.count(), before + 1, "{given}");
        let target = String::from_utf8(recorder.last().0.target()).unwrap();
        assert_eq!(&target, expected, "{given}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_no_target_may_hold_are_refused_or_kept_but_never_changed() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    // Not the number sign: a target has no fragment, and a parser may stop there.
    for byte in (0x01..=0x20_u8).chain(0x7f..=0xff).chain(*b"\"<>`{}") {
        let before = recorder.count();
        let mut request = format!("GET {}/a", stack.prefix()).into_bytes();
        request.push(byte);
        request.extend_from_slice(b"b HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n");
        let status = exchange(stack.addr(), request).await.map(|(head, _)| head.status());
        match status {
            Some(200) => {
                let target = recorder.last().0.target();
                assert_eq!(target, [b"/a", &[byte][..], b"b"].concat(), "byte {byte:#x} was changed");
            }
            Some(400..=499) | None => assert_eq!(recorder.count(), before, "byte {byte:#x}"),
            other => panic!("byte {byte:#x}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_in_absolute_form_is_the_same_path() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let request = format!(
        "GET http://{}{}//x?y HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        stack.addr(),
        stack.prefix(),
        stack.addr()
    );
    let (head, _) = exchange(stack.addr(), request).await.unwrap();
    assert_eq!(head.status(), 200, "{}", head.text());
    assert_eq!(recorder.last().0.target(), b"//x?y");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_id_never_reaches_the_local_server() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let own = format!("http://{}", stack.addr());
    let page = format!("{own}{}/page?q=1", stack.prefix());
    let upper = page.to_uppercase().replace("HTTP://", "http://");
    let request: Request<_> = stack
        .request("POST", "/x")
        .header("origin", &own)
        .header("referer", &page)
        .header("x-forwarded-uri", stack.path("/x"))
        .header("x-original-url", stack.path("/x"))
        .header("x-forwarded-prefix", stack.prefix())
        .header("x-request-id", stack.session.to_string())
        .body(empty())
        .unwrap();
    assert_eq!(stack.fetch(request).await.text(), "ok");
    let referer = recorder.last().0.header("referer");
    let with_upper = stack.request("GET", "/y").header("referer", &upper).body(empty()).unwrap();
    assert_eq!(stack.fetch(with_upper).await.text(), "ok");
    for (head, body) in recorder.all() {
        let everything = head.text() + &String::from_utf8_lossy(&body.bytes);
        assert!(
            !everything.to_lowercase().contains(&stack.session.to_string()),
            "the local server sees the session: {everything}"
        );
        let prefix = head.header("x-forwarded-prefix").expect("X-Forwarded-Prefix is set");
        assert_eq!(prefix.trim_end_matches('/'), format!("/v1/relay/h/{}", stack.host));
    }
    // What is left of the referrer is the page as the local server knows it.
    let local = format!("http://{}/page?q=1", recorder.server.addr);
    assert!(referer.is_none() || referer == Some(local), "{referer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_one_connection_keep_their_own_paths() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let mut conn = RawConn::connect(stack.addr()).await;
    let mut batch = String::new();
    for n in 0..20 {
        batch += &format!("GET {}/n/{n} HTTP/1.1\r\nhost: r\r\n\r\n", stack.prefix());
    }
    conn.write(batch).await.unwrap();
    for n in 0..20 {
        let head = conn.head().await.unwrap_or_else(|| panic!("no answer to {n}"));
        assert_eq!(head.status(), 200, "{n}");
        assert_eq!(conn.response_body(&head).await.bytes, b"ok", "{n}");
    }
    let targets: Vec<_> =
        recorder.all().iter().map(|(h, _)| String::from_utf8(h.target()).unwrap()).collect();
    assert_eq!(targets, (0..20).map(|n| format!("/n/{n}")).collect::<Vec<_>>());
}
