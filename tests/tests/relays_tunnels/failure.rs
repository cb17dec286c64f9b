//! Relays and databases that go away in the middle, and come back.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use nix::sys::signal::Signal;
use relay_protocol::api::HostStatus;
use relay_protocol::problem::Code;
use system_tests::{
    LocalServer, Relay, SOON,
    client::{self, Body, fetch, full, next_data, websocket},
    eventually,
    fleet::{Across, Fleet, address},
    local::app,
    noise,
    plain_agent::{PlainAgent, PlainOptions},
    redis::Redis,
    stack::{EMAIL, HOST},
    throttle::{Rate, Throttle},
    within,
};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_ends_what_is_under_way_and_the_next_takes_over() {
    let local = LocalServer::router(app()).await;
    let mut across = Across::start(&local.url()).await;
    let response =
        client::send(across.near.addr, client::get(&across.path("/big/4000000000"))).await.unwrap();
    let mut body = response.into_body();
    within("the beginning", SOON, next_data(&mut body)).await.unwrap().unwrap();
    let (mut ws, _) = websocket(across.near.addr, &across.path("/ws"), &[]).await.unwrap();
    across.far.process.kill();
    let broken = async {
        loop {
            match next_data(&mut body).await {
                Some(Ok(_)) => {}
                end => break end,
            }
        }
    };
    assert!(matches!(within("the end", SOON, broken).await, Some(Err(_))), "it must not look whole");
    assert!(!matches!(within("the end", SOON, ws.next()).await, Some(Ok(Message::Text(_)))));
    // Its presence is still there: that is no reason to hang or to lie.
    let reply = across.get("/hello").await;
    assert!(matches!(reply.problem().code, Code::RelayUnreachable | Code::HostOffline), "{reply:?}");

    // The same machine comes back at another relay, while the dead one's presence is not void.
    let third = across.fleet.relay("third").await;
    across.agent.move_to(&third.url());
    eventually("the host is found at the third relay", SOON, || async {
        across.get("/hello").await.text() == "hello"
    })
    .await;
    let posted = across.request("POST", "/digest").body(full("1234")).unwrap();
    assert!(across.fetch(posted).await.text().starts_with("4 "));
    // And at the very relay that the browser calls.
    let near = across.near.url();
    across.agent.move_to(&near);
    across.agent.connected().await;
    eventually("the host is found here", SOON, || async { across.get("/hello").await.text() == "hello" })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_drains_finishes_what_is_under_way() {
    let local = LocalServer::router(app()).await;
    let across = Across::start(&local.url()).await;
    let (mut ws, _) = websocket(across.near.addr, &across.path("/ws"), &[]).await.unwrap();
    across.far.signal(Signal::SIGTERM);
    eventually("it drains", SOON, || async { across.far.log().contains("drain") }).await;
    ws.send(Message::text("still there")).await.unwrap();
    let echo = within("an echo", SOON, ws.next()).await.unwrap().unwrap();
    assert_eq!(echo, Message::text("still there"));
    let reply = across.get("/hello").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
    assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_cannot_be_reached_is_told_apart_from_a_host_that_is_offline() {
    let local = LocalServer::router(app()).await;
    let fleet = Fleet::start().await.with(|options| options.env("RELAY_STREAM_OPEN_TIMEOUT", "1s"));
    let near = fleet.relay("near").await;
    let listen = address();
    let link = Throttle::start(listen, Rate::default()).await;
    let options = fleet.options("far", listen).env("RELAY_INTERNAL_URL", link.url());
    let far = Relay::start(options).await;
    let across = Across::between(fleet, near, far, &local.url(), |agent| agent).await;
    assert_eq!(across.get("/hello").await.text(), "hello");
    let (mut ws, _) = websocket(across.near.addr, &across.path("/ws"), &[]).await.unwrap();
    link.block(true);
    let broken = within("the end", SOON, ws.next()).await;
    assert!(!matches!(broken, Some(Ok(Message::Text(_)))));
    let reply =
        within("an answer", SOON, client::try_fetch(across.near.addr, client::get(&across.path("/x"))));
    reply.await.unwrap().is_problem(Code::RelayUnreachable);
    // The host is as online as it was.
    assert!(across.near.find_host(&across.token, HOST).await.is_some_and(|h| h.status == HostStatus::Online));
    link.block(false);
    eventually("it works again", SOON, || async { across.get("/hello").await.text() == "hello" }).await;
    let page = across.request("GET", "/").header("accept", "text/html").body(client::empty()).unwrap();
    across.agent.signal(Signal::SIGKILL);
    across.near.await_host(&across.token, HOST, HostStatus::Offline).await;
    eventually("no relay has it", SOON, || async {
        across.get("/hello").await.problem().code == Code::HostOffline
    })
    .await;
    let page = fetch(across.near.addr, page).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.text().contains("is offline"), "{page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_goes_away_and_comes_back() {
    let local = LocalServer::router(app()).await;
    let fleet = Fleet::start().await;
    let target = {
        let rest = fleet.database.split('@').nth(1).unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    };
    let link = Throttle::start(target, Rate::default()).await;
    let through = fleet.database.replace(&target.to_string(), &link.addr.to_string());
    let behind =
        |id: &str| fleet.options(id, address()).database(&through).env("RELAY_DATABASE_TIMEOUT", "1s");
    let near = Relay::start(behind("near")).await;
    let far = Relay::start(behind("far")).await;
    let across = Across::between(fleet, near, far, &local.url(), |agent| agent).await;
    let (mut ws, _) = websocket(across.near.addr, &across.path("/ws"), &[]).await.unwrap();
    link.block(true);
    for n in 0..3 {
        // What is under way goes on, across relays too.
        let text = Message::text(format!("message {n}"));
        ws.send(text.clone()).await.unwrap();
        assert_eq!(within("an echo", SOON, ws.next()).await.unwrap().unwrap(), text);
    }
    eventually("what cannot be checked is refused", SOON, || async {
        across.get("/hello").await.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    link.block(false);
    eventually("it works again", SOON, || async { across.get("/hello").await.text() == "hello" }).await;
    ws.send(Message::text("and on")).await.unwrap();
    assert_eq!(within("an echo", SOON, ws.next()).await.unwrap().unwrap(), Message::text("and on"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_goes_away_and_comes_back() {
    let local = LocalServer::router(app()).await;
    let mut redis = Redis::start().await;
    let url = redis.url();
    let fleet = Fleet::start()
        .await
        .with(|options| options.env("RELAY_BACKPLANE_MODE", "redis").env("RELAY_BACKPLANE_URL", url));
    let across = Across::with(fleet, &local.url(), |agent| agent).await;
    let here = across.path("/hello");
    let (mut ws, _) = websocket(across.near.addr, &across.path("/ws"), &[]).await.unwrap();
    redis.kill();
    eventually("it is told", SOON, || async {
        let reply = across.get("/hello").await;
        reply.status != StatusCode::OK && reply.problem().code == Code::RelaysUnavailable
    })
    .await;
    let reply = across.get("/hello").await;
    reply.is_problem(Code::RelaysUnavailable);
    assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
    // What is local, and what is under way, goes on.
    assert_eq!(fetch(across.far.addr, client::get(&here)).await.text(), "hello");
    ws.send(Message::text("still there")).await.unwrap();
    assert_eq!(within("an echo", SOON, ws.next()).await.unwrap().unwrap(), Message::text("still there"));
    redis.restart().await;
    // Its memory is empty: the relays tell it anew.
    eventually("it works again", Duration::from_secs(60), || async {
        across.get("/hello").await.text() == "hello"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_read_goes_to_another_relay_and_what_was_read_does_not() {
    async fn answer(request: Request<Incoming>) -> Response<Body> {
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Response::new(full(format!("got {}", body.len())))
    }
    let moved = "HTTP/1.1 503 Moved\r\nx-relay-forwarded: moved\r\ncontent-length: 0\r\n\r\n";
    // One that does not take the body, and one that does.
    for takes in [false, true] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let liar = LocalServer::raw(move |mut conn| {
            let count = Arc::clone(&count);
            async move {
                while let Some(head) = conn.head().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    if takes && head.header("expect").is_some() {
                        let _ = conn.write("HTTP/1.1 100 Continue\r\n\r\n").await;
                        conn.request_body(&head).await;
                    }
                    let _ = conn.write(moved).await;
                }
            }
        })
        .await;
        let fleet = Fleet::start().await;
        let near = fleet.relay("near").await;
        let far = fleet.relay("far").await;
        let left = fleet.relay_behind("left", |_| liar.url()).await;
        let token = near.user_with_token(EMAIL).await;
        let _far = PlainAgent::connect(far.addr, &token, PlainOptions::new(HOST), answer).await.unwrap();
        // Whoever has the newest tunnel is asked first.
        let _left = PlainAgent::connect(left.addr, &token, PlainOptions::new(HOST), answer).await.unwrap();
        let host = near.await_host(&token, HOST, HostStatus::Online).await.id;
        let session = near.create_session(&token, host).await;
        let path = format!("/v1/relay/h/{host}/s/{session}/x");
        eventually("the one without the tunnel is asked first", SOON, || async {
            fetch(near.addr, client::get(&path)).await.text() == "got 0" && asked.load(Ordering::SeqCst) > 0
        })
        .await;
        for body in [full(noise(1, 5000)), StreamBody::new(pieces()).boxed_unsync()] {
            let before = asked.load(Ordering::SeqCst);
            let reply = fetch(near.addr, client::request(Method::POST, &path, body)).await;
            assert_eq!(asked.load(Ordering::SeqCst), before + 1, "{reply:?}");
            if takes {
                reply.is_problem(Code::RelayUnreachable);
            } else {
                assert_eq!(reply.text(), "got 5000", "{reply:?}");
            }
        }
    }
}

fn pieces() -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static {
    futures_util::stream::iter((0..5).map(|n| Ok(Frame::data(noise(n, 1000)))))
}
