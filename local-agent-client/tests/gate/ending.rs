//! The agent's own end: what is under way gets to know it.

use crate::{
    answers::channel_body,
    client,
    common::{app, pair_of, soon},
    exchanges::{both, get},
    records::Stream,
    setup::Setup,
    signed::Failure,
    websockets::router,
};
use futures_util::StreamExt;
use http::header;
use http_body_util::{BodyExt, Full};
use local_agent_client::tunnel::Mode;
use relay_protocol::problem::Code;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn an_answer_that_goes_on_says_that_the_session_ended() {
    let (events, router) = channel_body();
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    let session = &both(&browser).await[0];
    let pair = pair_of(setup.gate.clone()).await;
    let whole = session.seal(&get("/"));
    let mut outer = session.outer(client::empty());
    outer.headers_mut().insert(header::HOST, "relay.example".parse().unwrap());
    let body = Full::new(whole.bytes.clone()).map_err(|never| match never {}).boxed_unsync();
    let mut relay = pair.exchange().await;
    let response = soon(relay.sender.send_request(outer.map(|_| body))).await.unwrap();
    let stream = soon(Stream::begin(response, session.opener(&whole.prelude))).await.unwrap();
    // Half a minute passes at once from here on: nothing but the agent's patience is waited for.
    tokio::time::pause();
    let ended = tokio::spawn(pair.live.end(Mode::Stop));
    assert_eq!(stream.collect().await.unwrap_err(), Failure::Agent(Code::SigningSessionEnded));
    ended.await.unwrap();
    drop(events);
}

#[tokio::test]
async fn a_websocket_is_closed_before_the_tunnel_is() {
    let (told, _ended) = mpsc::channel(16);
    let setup = Setup::new(app(router(told)).await).await;
    let browser = setup.browser().await;
    let session = &both(&browser).await[0];
    let pair = pair_of(setup.gate.clone()).await;
    let (path, _exchange) = session.seal_upgrade("/echo", None);
    let stream = soon(pair.relay.open()).await.unwrap();
    let upgrade = tokio_tungstenite::client_async(format!("ws://relay.example{path}"), stream);
    let (mut socket, _) = soon(upgrade).await.unwrap();
    assert!(matches!(soon(socket.next()).await, Some(Ok(Message::Binary(_)))), "its HEAD");
    tokio::time::pause();
    let ended = tokio::spawn(pair.live.end(Mode::Stop));
    let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 1008);
    while let Some(Ok(_)) = socket.next().await {}
    ended.await.unwrap();
}
