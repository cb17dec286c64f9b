//! A paired browser, the relay, the agent and a local server, all real: what the agent's own tests see in
//! memory holds through the relay too.

use axum::{Router, body::Body as AxumBody, http::HeaderMap, response::IntoResponse, routing::get};
use bytes::Bytes;
use http::Request;
use relay_protocol::{problem::Code, record::Kind};
use serde_json::Value;
use system_tests::{LocalServer, SOON, Stack, local, noise, sha256, signed::Failure, within};
use tokio::sync::mpsc;

#[tokio::test(flavor = "multi_thread")]
async fn signed_requests_pass_the_relay_in_both_forms() {
    let router = local::app().route(
        "/rich",
        get(|| async {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("location", "/made"),
                ("set-cookie", "a=1; Path=/"),
                ("vary", "accept"),
                ("access-control-allow-origin", "*"),
                ("strict-transport-security", "max-age=1"),
                ("referrer-policy", "unsafe-url"),
                ("x-app", "1"),
            ] {
                headers.insert(name, value.parse().expect("a value"));
            }
            (headers, "rich").into_response()
        }),
    );
    let server = LocalServer::router(router).await;
    let stack = Stack::paired(&server.url()).await;
    stack.get("/hello").await.is_problem(Code::SignatureMissing);
    let browser = stack.browser().await;
    let session = browser.session().await.expect("a session");
    let request = Request::post("/echo?a=%2F&b").header("x-app", "1").header("content-type", "text/plain");
    let answer = session.fetch(request.body(Bytes::from_static(b"hello")).unwrap()).await.expect("an answer");
    let echoed: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!((&echoed["target"], &echoed["body"]), (&"/echo?a=%2F&b".into(), &"hello".into()));
    let headers = echoed["headers"].to_string();
    assert!(
        headers.contains(&browser.client_id.to_string()) && headers.contains("x-forwarded-prefix"),
        "{headers}"
    );
    assert!(!headers.contains(&stack.session.to_string()), "{headers}");
    // In one piece: what the relay maps or sets breaks no signature, with an origin and without.
    for origin in [None, Some(stack.relay.url())] {
        let request = Request::get("/rich").body(Bytes::new()).unwrap();
        let mut signed = browser.sign(session.id, request);
        if let Some(origin) = &origin {
            signed.request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let answer = signed.send_buffered(&browser).await.expect("an answer that verifies");
        assert_eq!((answer.text().as_str(), &answer.headers["x-app"]), ("rich", &"1".parse().unwrap()));
        let cookie = answer.outer["set-cookie"].to_str().unwrap();
        assert!(cookie.contains(&format!("Path={}", stack.prefix())), "{cookie}");
    }
    let records = session.get("/rich").await.expect("an answer");
    assert_eq!(records.headers["location"], "/made", "nothing is prefixed where the relay cannot see");
    assert!(records.outer.contains_key("set-cookie") && !records.headers.contains_key("set-cookie"));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_downloads_and_websockets_pass_the_relay() {
    const SIZE: usize = 8 << 20;
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    let session = browser.session().await.expect("a session");
    let body = noise(1, SIZE);
    let request = Request::put("/digest").body(body.clone()).unwrap();
    assert_eq!(session.fetch(request).await.expect("an answer").text(), format!("{SIZE} {}", sha256(&body)));
    let big = session.get(&format!("/big/{SIZE}")).await.expect("an answer");
    assert_eq!(format!("{SIZE} {}", sha256(&big.body)), local::big_digest(SIZE as u64).await);
    let mut socket = session.websocket("/ws", None).await.expect("a WebSocket");
    let message = noise(2, 1 << 20);
    socket.send(Kind::Binary, message.clone()).await.expect("sent");
    assert_eq!(within("the echo", SOON, socket.next()).await.expect("a record").payload, message);
    within("the close", SOON, socket.close()).await.expect("a close");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_on_the_machine_ends_what_is_under_way() {
    let (events, receiver) = mpsc::channel::<Bytes>(1);
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
    let stream = move || async move {
        let mut receiver = receiver.lock().unwrap().take().expect("one request");
        AxumBody::from_stream(futures_util::stream::poll_fn(move |cx| {
            receiver.poll_recv(cx).map(|piece| piece.map(Ok::<_, std::io::Error>))
        }))
    };
    let server = LocalServer::router(Router::new().route("/events", get(stream))).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    let session = browser.session().await.expect("a session");
    let signed = session.sign(Request::get("/events").body(Bytes::new()).unwrap());
    let mut stream = within("the head", SOON, session.open(&signed)).await.expect("a stream");
    events.send("one".into()).await.expect("taken");
    assert_eq!(within("an event", SOON, stream.next()).await.expect("a record").payload, "one");
    let mut revoke = stack.agent.command(&["browsers", "revoke", &browser.client_id.to_string()]);
    let revoked = tokio::task::spawn_blocking(move || revoke.output()).await.unwrap().expect("it runs");
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    let ended = within("the end", SOON, stream.next()).await.expect_err("it is cut off");
    assert_eq!(ended, Failure::Agent(Code::SigningSessionEnded));
    within("the local server hears of it", SOON, events.closed()).await;
    assert_eq!(browser.session().await.err().expect("refused"), Failure::Agent(Code::NotPaired));
}
