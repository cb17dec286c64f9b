//! Relays and databases that go away in the middle, and come back.

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use nix::sys::signal::Signal;
use relay_protocol::api::HostStatus;
use relay_protocol::problem::Code;
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, SOON,
    client::{self, fetch, full, next_data, websocket},
    eventually,
    fleet::{Across, Fleet, address},
    local::app,
    stack::HOST,
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
    let state = across.agent.state_dir();
    across.agent.process.kill();
    let next = AgentOptions::new(&third.url(), &local.url(), &across.token, HOST);
    let _next = Agent::spawn(next.arg("--state-dir").arg(&state.display().to_string()));
    eventually("the host is found at the third relay", SOON, || async {
        across.get("/hello").await.text() == "hello"
    })
    .await;
    let posted = across.request("POST", "/digest").body(full("1234")).unwrap();
    assert!(across.fetch(posted).await.text().starts_with("4 "));
    // And at the very relay that the browser calls.
    let nearest = AgentOptions::new(&across.near.url(), &local.url(), &across.token, HOST);
    let _nearest = Agent::start(nearest.arg("--state-dir").arg(&state.display().to_string())).await;
    assert_eq!(across.get("/hello").await.text(), "hello");
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
    let far = Relay::start(fleet.options("far", listen)).await;
    let link = Throttle::start(listen, Rate::default()).await;
    drop(far);
    let options = fleet.options("far", listen).env("RELAY_INTERNAL_URL", link.url());
    let far = Relay::start(options).await;
    let across = Across::between(fleet, near, far, &local.url(), |agent| agent).await;
    assert_eq!(across.get("/hello").await.text(), "hello");
    let (mut ws, _) = websocket(across.near.addr, &across.path("/ws"), &[]).await.unwrap();
    link.block(true);
    link.cut();
    let broken = within("the end", SOON, ws.next()).await;
    assert!(!matches!(broken, Some(Ok(Message::Text(_)))));
    let reply =
        within("an answer", SOON, client::try_fetch(across.near.addr, client::get(&across.path("/x"))));
    reply.await.unwrap().is_problem(Code::RelayUnreachable);
    // The host is as online as it was.
    assert!(across.near.find_host(&across.token, HOST).await.is_some_and(|h| h.status == HostStatus::Online));
    link.block(false);
    eventually("it works again", SOON, || async { across.get("/hello").await.text() == "hello" }).await;
    let fleet = &across.fleet;
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
    let _ = fleet;
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
    link.cut();
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
