//! What happens when a part fails: the caller sees an error and never a short success, nothing hangs,
//! and everything works again by itself.

use std::{
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use http::StatusCode;
use nix::sys::signal::Signal;
use relay_protocol::{
    api::{Health, HostStatus},
    problem::Code,
    tunnel::{Control, SUBPROTOCOL},
};
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, RelayOptions, SOON, Stack,
    client::{self, Connection, next_data, try_fetch, websocket},
    eventually,
    local::app,
    raw::{RawConn, exchange},
    stack::{EMAIL, HOST},
    throttle::{Rate, Throttle},
    within,
};
use tokio::sync::Notify;

/// Within this a dead or frozen peer is noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

/// A little above, for a request that was sent at the worst moment.
const NEVER_HANGS: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_local_server_that_dies_in_a_body_is_an_error_and_never_a_short_success() {
    let deaths: [(&str, &str); 5] = [
        ("content-length", "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nsome of it"),
        (
            "chunked, between chunks",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nsome of it\r\n",
        ),
        ("chunked, in a chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nsome of it"),
        (
            "chunked, in the last one",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nsome of it\r\n0\r\n",
        ),
        (
            "chunked, a broken size",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nsome of it\r\nzz\r\n",
        ),
    ];
    for (what, answer) in deaths {
        for reset in [false, true] {
            let local = LocalServer::raw(move |mut conn| async move {
                conn.head().await;
                conn.write(answer).await.ok();
                if reset {
                    // Long enough that the bytes were read, so that the reset does not overtake them.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    conn.reset();
                }
            })
            .await;
            let stack = Stack::start(&local.url()).await;
            let request = client::get(&stack.path("/x"));
            let reply = within(what, SOON, try_fetch(stack.addr(), request)).await;
            match reply {
                Err(_) => {}
                Ok(reply) => assert!(reply.status.is_server_error(), "{what}, reset {reset}: {reply:?}"),
            }
            // The same seen by a client that looks at the bytes: no last chunk may come.
            let request =
                format!("GET {} HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n", stack.path("/x"));
            if let Some((head, body)) = within(what, SOON, exchange(stack.addr(), request)).await {
                assert!(head.status() >= 500 || !body.complete, "{what}, reset {reset}: {}", head.text());
            }
            // And over h2, where a clean END_STREAM would be the lie.
            let uri = format!("http://{}{}", stack.addr(), stack.path("/x"));
            let mut h2 = client::h2(stack.addr()).await;
            let request = http::Request::get(uri).body(client::empty()).unwrap();
            let response = within(what, SOON, h2.send_request(request)).await;
            if let Ok(response) = response
                && response.status() == StatusCode::OK
            {
                let end = within(what, SOON, client::Reply::collect(response)).await;
                assert!(end.is_err(), "{what}, reset {reset}: {end:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_server_that_breaks_off_before_its_answer_is_said_to_have_failed() {
    for answer in [
        "",
        "HTTP/1.1 2",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "nonsense\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        let local = LocalServer::raw(move |mut conn| async move {
            conn.head().await;
            conn.write(answer).await.ok();
        })
        .await;
        let stack = Stack::start(&local.url()).await;
        let post = stack.request("POST", "/x").body(client::full("once")).unwrap();
        let reply = within(answer, SOON, try_fetch(stack.addr(), post)).await.expect("an answer");
        assert_eq!(reply.problem().code, Code::LocalServerFailed, "{answer:?}: {reply:?}");
        assert_eq!(local.counts.accepted(), 1, "{answer:?}: a POST was sent twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_server_that_is_down_is_named_and_works_again_when_it_is_up() {
    let local = LocalServer::router(app()).await;
    let addr = local.addr;
    let stack = Stack::start(&local.url()).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");
    local.stop().await;
    for _ in 0..3 {
        let reply = within("an answer", SOON, stack.get("/hello")).await;
        reply.is_problem(Code::LocalServerUnreachable);
    }
    let post = stack.request("POST", "/digest").body(client::full("body")).unwrap();
    stack.fetch(post).await.is_problem(Code::LocalServerUnreachable);
    let navigation = stack.request("GET", "/").header("accept", "text/html").body(client::empty()).unwrap();
    assert_eq!(stack.fetch(navigation).await.status, StatusCode::BAD_GATEWAY);
    eventually("the tunnel stays", SOON, || async { stack.agent.is_connected().await }).await;
    let _again = LocalServer::router_on(addr, app()).await;
    assert_eq!(within("an answer", SOON, stack.get("/hello")).await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_ends_its_requests_and_comes_back() {
    let local = LocalServer::raw(|mut conn| async move {
        let head = conn.head().await.expect("a request");
        if head.target() == b"/stream" {
            conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.ok();
        }
        if head.target() == b"/hello" {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.ok();
        }
        conn.rest().await;
    })
    .await;
    let mut stack = Stack::start(&local.url()).await;
    let mut body = client::send(stack.addr(), client::get(&stack.path("/stream"))).await.unwrap().into_body();
    assert_eq!(next_data(&mut body).await.unwrap().unwrap(), "a");
    let waiting = tokio::spawn(try_fetch(stack.addr(), client::get(&stack.path("/never"))));
    eventually("both are there", SOON, || async { local.counts.open() == 2 }).await;

    stack.agent.process.kill();
    let end = within("the stream's end", NOTICED_WITHIN, next_data(&mut body)).await;
    assert!(matches!(end, Some(Err(_))), "a stream that broke looks complete: {end:?}");
    let reply = within("the request's end", NOTICED_WITHIN, waiting).await.unwrap().expect("an answer");
    reply.is_problem(Code::TunnelLost);
    stack.relay.await_host(&stack.token, HOST, HostStatus::Offline).await;
    stack.get("/hello").await.is_problem(Code::HostOffline);

    stack.agent.respawn();
    stack.relay.await_host(&stack.token, HOST, HostStatus::Online).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");
    assert_eq!(stack.relay.hosts(&stack.token).await.len(), 1, "it is the same host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_lets_no_request_hang_and_serves_again_when_it_thaws() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");
    stack.agent.signal(Signal::SIGSTOP);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..8 {
        all.spawn(try_fetch(stack.addr(), client::get(&stack.path("/hello"))));
    }
    while let Some(done) = within("an answer", NEVER_HANGS, all.join_next()).await {
        let reply = done.unwrap().expect("an answer");
        let code = reply.problem().code;
        assert!(matches!(code, Code::AgentUnresponsive | Code::TunnelLost | Code::HostOffline), "{code:?}");
    }
    stack.relay.await_host(&stack.token, HOST, HostStatus::Offline).await;
    within("offline is said at once", Duration::from_secs(5), stack.get("/hello"))
        .await
        .is_problem(Code::HostOffline);
    stack.agent.signal(Signal::SIGCONT);
    stack.relay.await_host(&stack.token, HOST, HostStatus::Online).await;
    eventually("it serves again", SOON, || async { stack.get("/hello").await.text() == "hello" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_freeze_loses_nothing() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");
    stack.agent.signal(Signal::SIGSTOP);
    let waiting = tokio::spawn(try_fetch(stack.addr(), client::get(&stack.path("/hello"))));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished(), "two seconds are no reason to give up");
    stack.agent.signal(Signal::SIGCONT);
    assert_eq!(within("the answer", SOON, waiting).await.unwrap().unwrap().text(), "hello");
    eventually("the tunnel stays", SOON, || async { stack.agent.is_connected().await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_relay_that_comes_back_finds_its_agents_again() {
    let local = LocalServer::router(app()).await;
    let mut stack = Stack::start(&local.url()).await;
    for _ in 0..3 {
        stack.relay.process.kill();
        stack.relay.restart().await;
        eventually("the host serves again", SOON, || async {
            stack.get("/hello").await.status == StatusCode::OK
        })
        .await;
        stack.relay.await_host(&stack.token, HOST, HostStatus::Online).await;
    }
    stack.agent.connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_online_when_the_relay_was_killed_is_put_right_at_start() {
    let local = LocalServer::router(app()).await;
    let mut stack = Stack::start(&local.url()).await;
    stack.relay.await_host(&stack.token, HOST, HostStatus::Online).await;
    stack.relay.process.kill();
    stack.agent.process.kill();
    stack.relay.restart().await;
    let host = stack.relay.find_host(&stack.token, HOST).await.unwrap();
    assert_eq!(host.status, HostStatus::Offline, "a stale row says online");
    stack.get("/hello").await.is_problem(Code::HostOffline);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconnect_while_the_old_socket_is_half_open_serves_at_once_and_stays() {
    let local = LocalServer::router(app()).await;
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    let link = Throttle::start(relay.addr, Rate::default()).await;
    let mut agent = Agent::start(AgentOptions::new(&link.url(), &local.url(), &token, HOST)).await;
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let session = relay.create_session(&token, host).await;
    let path = format!("/v1/relay/h/{host}/s/{session}/hello");
    assert_eq!(client::fetch(relay.addr, client::get(&path)).await.text(), "hello");

    // The network goes away without a word; the agent dials anew, the relay knows of nothing.
    link.freeze();
    agent.respawn();
    eventually("the agent has dialled", SOON, || async { link.connections() >= 2 }).await;
    agent.connected().await;
    let reply = within(
        "the new tunnel serves",
        Duration::from_secs(5),
        client::fetch(relay.addr, client::get(&path)),
    )
    .await;
    assert_eq!(reply.text(), "hello", "{reply:?}");

    // Only now the relay learns that the old one has ended.
    link.cut_frozen();
    for _ in 0..40 {
        let reply = client::fetch(relay.addr, client::get(&path)).await;
        assert_eq!(reply.text(), "hello", "the late end of the old tunnel took the new one along: {reply:?}");
        let status = relay.find_host(&token, HOST).await.unwrap().status;
        assert_eq!(status, HostStatus::Online, "the late end of the old tunnel marked the host offline");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_goes_silent_is_noticed_by_both_ends() {
    let local = LocalServer::router(app()).await;
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    let link = Throttle::start(relay.addr, Rate::default()).await;
    let mut agent = Agent::start(AgentOptions::new(&link.url(), &local.url(), &token, HOST)).await;
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let session = relay.create_session(&token, host).await;
    let path = format!("/v1/relay/h/{host}/s/{session}/hello");
    link.freeze();
    let reply =
        within("an answer", NEVER_HANGS, try_fetch(relay.addr, client::get(&path))).await.expect("an answer");
    let code = reply.problem().code;
    assert!(matches!(code, Code::AgentUnresponsive | Code::TunnelLost), "{code:?}");
    // New connections pass: the agent finds its way back without being told anything.
    eventually("the agent has dialled anew", NEVER_HANGS, || async { link.connections() >= 2 }).await;
    eventually("the host serves again", SOON, || async {
        client::fetch(relay.addr, client::get(&path)).await.text() == "hello"
    })
    .await;
    agent.connected().await;
}

/// A local server whose `/slow` answers when it is told to, and the count of requests that wait there.
async fn slow_server() -> (LocalServer, Arc<Notify>, Arc<AtomicUsize>) {
    let (go, waiting) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (Arc::clone(&go), Arc::clone(&waiting));
    let router = app().merge(Router::new().route(
        "/slow",
        get(move || async move {
            let (first, rest) = (Bytes::from_static(b"first "), Bytes::from_static(b"last"));
            let stream = futures_util::stream::unfold(0, move |n| {
                let (gate, count, first, rest) =
                    (Arc::clone(&gate), Arc::clone(&count), first.clone(), rest.clone());
                async move {
                    match n {
                        0 => Some((Ok::<_, std::convert::Infallible>(first), 1)),
                        1 => {
                            count.fetch_add(1, Ordering::SeqCst);
                            gate.notified().await;
                            Some((Ok(rest), 2))
                        }
                        _ => None,
                    }
                }
            });
            Body::from_stream(stream)
        }),
    ));
    (LocalServer::router(router).await, go, waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_in_flight_refuses_what_is_new_and_tells_the_agents() {
    let (local, go, waiting) = slow_server().await;
    let mut stack = Stack::start(&local.url()).await;
    // An agent that knows the sub-protocol and watches what it is told.
    let offer =
        [("sec-websocket-protocol", SUBPROTOCOL), ("authorization", &format!("Bearer {}", stack.token))];
    let connect = "/v1/relay/connect?machine_id=watcher&name=watcher&agent_version=9";
    let (mut watcher, response) = websocket(stack.addr(), connect, &offer).await.expect("a tunnel");
    assert_eq!(response.headers()["sec-websocket-protocol"], SUBPROTOCOL);
    let told = tokio::spawn(async move {
        use futures_util::StreamExt;
        use tokio_tungstenite::tungstenite::Message;
        let mut said = Vec::new();
        // The relay tells only those who list the feature.
        let hello = relay_protocol::tunnel::Hello::new("watcher", "9", None);
        futures_util::SinkExt::send(&mut watcher, Message::text(Control::Hello(hello).to_text()))
            .await
            .unwrap();
        while let Some(Ok(message)) = watcher.next().await {
            if let Message::Text(text) = message {
                let control = Control::parse(&text).expect("a control message");
                let last = matches!(control, Control::Drain { .. });
                said.push(control);
                if last {
                    break;
                }
            }
        }
        said
    });
    let in_flight = tokio::spawn(try_fetch(stack.addr(), client::get(&stack.path("/slow"))));
    eventually("the request is under way", SOON, || async { waiting.load(Ordering::SeqCst) == 1 }).await;
    let mut kept = Connection::open(stack.addr()).await.unwrap();
    let warm = kept.send(client::get(&stack.path("/hello"))).await.unwrap();
    assert_eq!(client::Reply::collect(warm).await.unwrap().text(), "hello");

    stack.relay.signal(Signal::SIGTERM);
    let addr = stack.addr();
    eventually("/health says that it drains", SOON, || async {
        match try_fetch(addr, client::get("/health")).await {
            Ok(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE => {
                let health: Health = reply.json();
                health.status == "draining" && !health.ok
            }
            _ => false,
        }
    })
    .await;
    let refused =
        within("a refusal", SOON, try_fetch(addr, client::get(&stack.path("/hello")))).await.unwrap();
    refused.is_problem(Code::Draining);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    let said = within("the agents are told", SOON, told).await.unwrap();
    assert!(
        matches!(said.first(), Some(Control::Hello(h)) if h.has("drain") && h.time_ms.is_some()),
        "{said:?}"
    );
    assert!(matches!(said.last(), Some(Control::Drain { .. })), "{said:?}");
    assert!(stack.relay.process.exited().is_none(), "it waits for what is in flight");

    go.notify_waiters();
    let reply = within("the answer in flight", SOON, in_flight).await.unwrap().expect("it finishes");
    assert_eq!(reply.text(), "first last");
    let status = stack.relay.process.wait(SOON).await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_nothing_to_do_ends_soon_after_sigterm() {
    let local = LocalServer::router(app()).await;
    let mut stack = Stack::start(&local.url()).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");
    stack.relay.signal(Signal::SIGTERM);
    // Far below the 30 s that requests in flight would get, with an idle tunnel and an idle connection.
    let status = stack.relay.process.wait(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    stack.relay.restart().await;
    eventually("the agent is back", SOON, || async { stack.get("/hello").await.status == StatusCode::OK })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_finish_is_cut_when_the_drains_time_is_over() {
    let (local, _go, waiting) = slow_server().await;
    let options = RelayOptions::default().env("RELAY_DRAIN_TIMEOUT", "2s");
    let mut stack = Stack::with(&local.url(), options, |a| a).await;
    let in_flight = tokio::spawn(try_fetch(stack.addr(), client::get(&stack.path("/slow"))));
    eventually("the request is under way", SOON, || async { waiting.load(Ordering::SeqCst) == 1 }).await;
    stack.relay.signal(Signal::SIGTERM);
    let status = stack.relay.process.wait(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    let end = within("its end", SOON, in_flight).await.unwrap();
    assert!(end.is_err(), "a body that was cut looks complete: {end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_relay_at_once() {
    let (local, _go, waiting) = slow_server().await;
    let mut stack = Stack::start(&local.url()).await;
    let in_flight = tokio::spawn(try_fetch(stack.addr(), client::get(&stack.path("/slow"))));
    eventually("the request is under way", SOON, || async { waiting.load(Ordering::SeqCst) == 1 }).await;
    stack.relay.signal(Signal::SIGTERM);
    let addr = stack.addr();
    eventually("it drains", SOON, || async {
        try_fetch(addr, client::get("/health"))
            .await
            .is_ok_and(|r| r.status == StatusCode::SERVICE_UNAVAILABLE)
    })
    .await;
    assert!(stack.relay.process.exited().is_none());
    stack.relay.signal(Signal::SIGINT);
    stack.relay.process.wait(Duration::from_secs(5)).await;
    assert!(within("its end", SOON, in_flight).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_asked_to_end_ends_cleanly_and_is_offline_at_once() {
    let local = LocalServer::router(app()).await;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut stack = Stack::start(&local.url()).await;
        stack.agent.signal(signal);
        let status = stack.agent.process.wait(SOON).await;
        assert_eq!(status.code(), Some(0), "{signal}: {status}");
        stack.relay.await_host(&stack.token, HOST, HostStatus::Offline).await;
        let status = stack.agent.status().await;
        assert!(status.is_none_or(|s| s["connected"] == false), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_relays_port_disturbs_nobody() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let garbage: [Vec<u8>; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"GET http://[::1 HTTP/1.1\r\nhost: [\r\n\r\n".to_vec(),
        vec![0; 4096],
        b"\r\n\r\n\r\n".to_vec(),
    ];
    for bytes in garbage {
        let mut conn = RawConn::connect(stack.addr()).await;
        conn.write(&bytes).await.ok();
        conn.reset();
        assert_eq!(stack.get("/hello").await.text(), "hello");
    }
}
