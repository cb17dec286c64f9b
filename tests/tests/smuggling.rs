//! Two readers of one byte stream must never disagree on where a message ends. Every case is sent as
//! raw bytes; whatever the relay makes of it, nobody may get a second request or response out of it.

use system_tests::{
    LocalServer, SOON, Stack,
    client::get,
    local::Recorder,
    raw::{RawConn, exchange},
    within,
};

/// Must never be seen as a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";

/// Request heads (after the request line) with bodies. Each is refused.
fn refused() -> Vec<(&'static str, String)> {
    let inner = SMUGGLED;
    let len = inner.len();
    vec![
        (
            "content-length and transfer-encoding",
            format!(
                "host: r\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
                5 + len
            ),
        ),
        (
            "transfer-encoding and content-length",
            format!("host: r\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n{inner}"),
        ),
        ("two lengths", format!("host: r\r\ncontent-length: 0\r\ncontent-length: {len}\r\n\r\n{inner}")),
        ("a list of lengths", format!("host: r\r\ncontent-length: 0, {len}\r\n\r\n{inner}")),
        ("a length with a sign", format!("host: r\r\ncontent-length: +{len}\r\n\r\n{inner}")),
        ("a negative length", format!("host: r\r\ncontent-length: -1\r\n\r\n{inner}")),
        ("a length in hexadecimal", format!("host: r\r\ncontent-length: 0x{len:x}\r\n\r\n{inner}")),
        (
            "a length beyond 64 bits",
            format!("host: r\r\ncontent-length: 18446744073709551617\r\n\r\n{inner}"),
        ),
        ("an empty length", format!("host: r\r\ncontent-length: \r\n\r\n{inner}")),
        ("an unknown coding", format!("host: r\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n{inner}")),
        (
            "chunked that is not last",
            format!("host: r\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"),
        ),
        (
            "a coding in disguise",
            format!("host: r\r\ntransfer-encoding: \x0bchunked\r\ncontent-length: {len}\r\n\r\n{inner}"),
        ),
        (
            "space before the colon",
            format!("host: r\r\ntransfer-encoding : chunked\r\ncontent-length: {len}\r\n\r\n{inner}"),
        ),
        ("tab before the colon", format!("host: r\r\ncontent-length\t: {len}\r\n\r\n{inner}")),
        ("obs-fold", format!("host: r\r\nx-a: 1\r\n content-length: {len}\r\n\r\n{inner}")),
        (
            "a folded coding",
            format!("host: r\r\ntransfer-encoding:\r\n chunked\r\ncontent-length: {len}\r\n\r\n{inner}"),
        ),
        ("a name with a space", format!("host: r\r\nx content-length: {len}\r\n\r\n{inner}")),
        ("NUL in a value", format!("host: r\r\nx-a: \0\r\n\r\n{inner}")),
        ("a bare CR in a value", format!("host: r\r\nx-a: 1\rcontent-length: {len}\r\n\r\n{inner}")),
        ("no name", "host: r\r\n: 1\r\n\r\n".to_owned()),
        ("no colon", "host: r\r\nx-a\r\n\r\n".to_owned()),
        ("no host", "x-a: 1\r\n\r\n".to_owned()),
        ("two hosts", "host: r\r\nhost: evil.example\r\n\r\n".to_owned()),
        (
            "a chunk size with a sign",
            format!("host: r\r\ntransfer-encoding: chunked\r\n\r\n+0\r\n\r\n{inner}"),
        ),
        (
            "a chunk size with a prefix",
            format!("host: r\r\ntransfer-encoding: chunked\r\n\r\n0x0\r\n\r\n{inner}"),
        ),
        (
            "a chunk size that overflows",
            format!("host: r\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\n\r\n{inner}"),
        ),
        ("a negative chunk size", format!("host: r\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n{inner}")),
        (
            "a chunk longer than its size",
            format!("host: r\r\ntransfer-encoding: chunked\r\n\r\n1\r\naa\r\n0\r\n\r\n{inner}"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_are_refused_and_nothing_is_smuggled() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let mut taken = Vec::new();
    for (what, rest) in refused() {
        let bytes = format!("POST {} HTTP/1.1\r\n{rest}", stack.path("/outer"));
        let answer = within(what, SOON, exchange(stack.addr(), bytes)).await;
        match answer {
            // RFC 9112 section 6.1: where both framings are given, the coding may win; then the
            // connection ends, and one framing alone goes on.
            Some((head, _)) if head.status() == 200 && what.contains(" and ") => {
                assert_eq!(head.header("connection").as_deref(), Some("close"), "{what}: {}", head.text());
                let (seen, body) = recorder.last();
                assert_eq!(
                    seen.all("content-length").len() + seen.all("transfer-encoding").len(),
                    1,
                    "{what}: {}",
                    seen.text()
                );
                assert!(body.complete && body.bytes.is_empty(), "{what}: {body:?}");
            }
            Some((head, _)) if (400..600).contains(&head.status()) => {}
            Some((head, _)) => taken.push(format!("{what}: {}", head.start_line())),
            None => {}
        }
        for (head, _) in recorder.all() {
            assert!(!head.start_line().contains("smuggled"), "{what}: {}", head.text());
        }
        // The shared connections behind the relay are still in step.
        assert_eq!(stack.get("/check").await.text(), "ok", "{what}");
        assert_eq!(recorder.last().0.target(), b"/check", "{what}");
    }
    assert!(taken.is_empty(), "requests that must be refused were taken: {taken:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_end_in_a_bare_newline_do_not_split_a_request() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    for rest in [
        format!("host: r\nconnection: close\n\n{SMUGGLED}"),
        format!(
            "host: r\r\nx-a: 1\ncontent-length: {}\r\nconnection: close\r\n\r\n{SMUGGLED}",
            SMUGGLED.len()
        ),
        format!("host: r\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\n\n{SMUGGLED}"),
    ] {
        let bytes = format!("POST {} HTTP/1.1\r\n{rest}", stack.path("/outer"));
        within("an answer or an end", SOON, exchange(stack.addr(), bytes)).await;
        for (head, body) in recorder.all() {
            assert!(!head.start_line().contains("smuggled"), "{rest:?}: {}", head.text());
            // What was forwarded says by itself where it ends.
            assert!(body.complete, "{rest:?}");
        }
        assert_eq!(stack.get("/check").await.text(), "ok", "{rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_lengths_said_twice_become_one_or_are_refused() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let bytes = format!(
        "POST {} HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab{SMUGGLED}",
        stack.path("/outer")
    );
    let answer = exchange(stack.addr(), bytes).await;
    if answer.is_some_and(|(head, _)| head.status() == 200) {
        let (head, body) = recorder.last();
        assert_eq!((head.all("content-length").len(), body.bytes.as_slice()), (1, &b"ab"[..]));
    }
    assert!(recorder.all().iter().all(|(head, _)| !head.start_line().contains("smuggled")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_behind_a_body_is_the_callers_next_request() {
    // Pipelining is legal: the second request is one of its own, checked like the first.
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let bytes = format!(
        "POST {} HTTP/1.1\r\nhost: r\r\ncontent-length: 2\r\n\r\nabGET /smuggled HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n",
        stack.path("/outer")
    );
    let mut conn = RawConn::connect(stack.addr()).await;
    conn.write(bytes).await.unwrap();
    let first = conn.head().await.expect("the first answer");
    assert_eq!(first.status(), 200);
    conn.response_body(&first).await;
    let second = conn.head().await.expect("the second answer");
    assert_eq!(second.status(), 404, "the second is the relay's own path: {}", second.text());
    assert_eq!(recorder.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_refused_leaves_no_open_tunnel_behind() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let mut conn = RawConn::connect(stack.addr()).await;
    conn.write(format!(
        "GET {} HTTP/1.1\r\nhost: r\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 7\r\n\r\n{SMUGGLED}",
        stack.path("/outer")
    ))
    .await
    .unwrap();
    let head = conn.head().await.expect("an answer");
    assert_ne!(head.status(), 101, "{}", head.text());
    conn.response_body(&head).await;
    assert!(recorder.all().iter().all(|(head, _)| !head.start_line().contains("smuggled")));
}

#[tokio::test(flavor = "multi_thread")]
async fn surplus_of_a_response_never_becomes_the_next_ones() {
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";
    let cases = [
        format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{evil}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{evil}"),
        format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n{evil}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{evil}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: {}\r\n\r\nok{evil}", evil.len() + 2),
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{evil}",
            evil.len()
        ),
        format!("HTTP/1.1 200 OK\r\nx-a: 1\r\n content-length: 9\r\ncontent-length: 2\r\n\r\nok{evil}"),
    ];
    for answer in cases {
        let bytes = answer.clone();
        let local = LocalServer::raw(move |mut conn| {
            let answer = bytes.clone();
            async move {
                while let Some(head) = conn.head().await {
                    let reply = match head.target().as_slice() {
                        b"/honest" => "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhonest",
                        _ => answer.as_str(),
                    };
                    if conn.write(reply).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let stack = Stack::start(&local.url()).await;
        for _ in 0..5 {
            // Whatever becomes of the malformed one is its own caller's matter.
            let first = system_tests::client::try_fetch(stack.addr(), get(&stack.path("/evil"))).await;
            if let Ok(first) = first {
                assert!(!first.text().contains("EVIL"), "{answer:?}: {first:?}");
            }
            let honest = within("an answer", SOON, stack.get("/honest")).await;
            assert!(honest.status.is_server_error() || honest.text() == "honest", "{answer:?}: {honest:?}");
        }
    }
}
