//! The relay ends and comes back behind a proxy that stays.

use std::sync::Arc;

use axum::{Router, routing::get};
use http::StatusCode;
use nix::sys::signal::Signal;
use system_tests::client::{Reply, empty};
use system_tests::edge::{Edge, PROTOCOLS, Program, SIGNED_IN};
use system_tests::{LocalServer, SOON, eventually, within};
use tokio::sync::Semaphore;

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
