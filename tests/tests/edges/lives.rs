//! What lasts longer than a proxy's patience, and a relay that ends and comes back behind a proxy that stays.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Response, StatusCode};
use hyper::body::Frame;
use nix::sys::signal::Signal;
use system_tests::client::{Reply, channel, empty, next_data, websocket};
use system_tests::edge::{Edge, PROTOCOLS, Program, Protocol, SIGNED_IN};
use system_tests::local::app;
use system_tests::{LocalServer, SOON, eventually, sha256, within};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;

/// Beyond the minute that Traefik gives an upload and nginx gives silence, unless they are told otherwise.
const LONG: Duration = Duration::from_secs(70);

pub async fn seventy_seconds_are_not_too_long(program: Program) {
    let answer = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&answer);
    let events = get(move || async move {
        let stream = futures_util::stream::unfold(0, move |n| {
            let gate = Arc::clone(&gate);
            async move {
                if n > 0 {
                    gate.acquire().await.unwrap().forget();
                }
                Some((Ok::<_, Infallible>(Bytes::from(format!("data: {n}\n\n"))), n + 1))
            }
        });
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(Body::from_stream(stream))
            .unwrap()
    });
    let local = LocalServer::router(app().route("/events", events)).await;
    let edge = Edge::start(program, &local.url()).await;
    let uploads = PROTOCOLS.map(|protocol| upload(&edge, protocol));
    let silences = PROTOCOLS.map(|protocol| silence(&edge, protocol, &answer));
    let [first, second] = uploads;
    let [third, fourth] = silences;
    tokio::join!(first, second, third, fourth, idle_socket(&edge));
}

/// A body of which a little comes every second.
async fn upload(edge: &Edge, protocol: Protocol) {
    let (pieces, body) = channel();
    let request = edge.request("POST", &edge.path("/digest")).body(body).unwrap();
    let write = async {
        for _ in 0..LONG.as_secs() {
            // Whoever does not take it any more has answered, and that is looked at below.
            pieces.send(Frame::data(Bytes::from_static(b"."))).await.ok();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        drop(pieces);
    };
    let (answer, ()) = tokio::join!(edge.send(protocol, request), write);
    let whole = ".".repeat(usize::try_from(LONG.as_secs()).unwrap());
    let told = Reply::collect(answer).await.unwrap().text();
    assert_eq!(told, format!("{} {}", whole.len(), sha256(whole.as_bytes())), "{protocol:?}");
}

/// An event stream between whose first two events nothing is said.
async fn silence(edge: &Edge, protocol: Protocol, answer: &Semaphore) {
    let request = edge.request("GET", &edge.path("/events")).body(empty()).unwrap();
    let mut events = edge.send(protocol, request).await.into_body();
    assert_eq!(next_data(&mut events).await.unwrap().unwrap(), "data: 0\n\n", "{protocol:?}");
    tokio::time::sleep(LONG).await;
    answer.add_permits(1);
    let event = within("an event after the silence", SOON, next_data(&mut events)).await;
    assert_eq!(event.expect("not cut").unwrap(), "data: 1\n\n", "{protocol:?}");
}

/// A WebSocket on which nothing is said.
async fn idle_socket(edge: &Edge) {
    let (mut socket, _) = websocket(edge.http1_addr(), &edge.path("/ws"), &[]).await.unwrap();
    tokio::time::sleep(LONG).await;
    socket.send(Message::text("still here")).await.unwrap();
    let echo = within("an echo after the silence", SOON, socket.next()).await.expect("not cut").unwrap();
    assert_eq!(echo, Message::text("still here"));
}

pub async fn a_restart_of_the_relay_is_survived(program: Program) {
    let (arrived, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (come, gate) = (Arc::clone(&arrived), Arc::clone(&release));
    let slow = get(move || async move {
        come.add_permits(1);
        gate.acquire().await.unwrap().forget();
        "slow"
    });
    let router = Router::new().route("/hello", get(|| async { "hello" })).route("/slow", slow);
    let local = LocalServer::router(router).await;
    let mut edge = Edge::start(program, &local.url()).await;

    // What is under way is finished.
    let [first, second] = PROTOCOLS.map(|protocol| {
        let request = edge.request("GET", &edge.path("/slow")).body(empty()).unwrap();
        edge.send(protocol, request)
    });
    let end = async {
        within("both arrive", SOON, arrived.acquire_many(2)).await.unwrap().forget();
        edge.relay.signal(Signal::SIGTERM);
        let draining = || async { edge.relay.log().contains("draining") };
        eventually("the relay drains", SOON, draining).await;
        release.add_permits(2);
    };
    let (first, second, ()) = tokio::join!(first, second, end);
    for (protocol, answer) in PROTOCOLS.into_iter().zip([first, second]) {
        let reply = Reply::collect(answer).await.unwrap();
        assert_eq!((reply.status, reply.text()), (StatusCode::OK, "slow".to_owned()), "{protocol:?}");
    }
    assert!(edge.relay.process.wait(SOON).await.success());

    // Meanwhile the relay's paths fail plainly, and the web app goes on.
    for protocol in PROTOCOLS {
        let reply = edge.get(protocol, &edge.path("/hello")).await;
        assert!(reply.status.is_server_error(), "{protocol:?} {reply:?}");
        let request = edge.request("GET", "/").header("cookie", SIGNED_IN).body(empty()).unwrap();
        assert_eq!(edge.fetch(protocol, request).await.header("x-from"), Some("web-app"), "{protocol:?}");
    }

    // It is back, and so is the agent, and the session still counts.
    edge.relay.restart().await;
    for protocol in PROTOCOLS {
        let served = || async { edge.get(protocol, &edge.path("/hello")).await.text() == "hello" };
        eventually("requests are served again", SOON, served).await;
    }
}
