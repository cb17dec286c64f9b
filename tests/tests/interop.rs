//! Peers that know nothing of the sub-protocol, and peers that know more than we do.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use relay_protocol::{
    api::HostStatus,
    problem::Code,
    tunnel::{Control, SUBPROTOCOL},
};
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, RelayOptions, SOON, Stack,
    client::{self, Body, Reply, empty, fetch, full, get, websocket},
    eventually,
    local::{Recorder, app},
    noise,
    plain_agent::{PlainAgent, PlainOptions},
    plain_relay::PlainRelay,
    raw::RawConn,
    sha256,
    stack::{EMAIL, HOST},
    within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Error, Message};

/// What an existing agent serves: `/digest`, `/echo-path`, an upgrade at `/up`, and `/hello`.
async fn serve(mut request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().to_string();
    match request.uri().path() {
        "/digest" => {
            let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            Response::new(full(format!("{} {}", body.len(), sha256(&body))))
        }
        "/up" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.expect("the upgrade"));
                let mut byte = [0];
                while io.read_exact(&mut byte).await.is_ok() {
                    byte[0] = byte[0].wrapping_add(1);
                    io.write_all(&byte).await.ok();
                    io.flush().await.ok();
                }
            });
            Response::builder()
                .status(101)
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "plus-one")
                .body(empty())
                .unwrap()
        }
        "/large" => Response::new(full(noise(5, 1_000_000))),
        _ => Response::new(full(path)),
    }
}

async fn relay_and_token() -> (Relay, String) {
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    (relay, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_agent_works_with_our_relay() {
    for (name, keep_alive, text) in
        [("persistent", true, false), ("one-each", false, false), ("as-text", true, true)]
    {
        let (relay, token) = relay_and_token().await;
        let mut options = PlainOptions::new(name);
        options.keep_alive = keep_alive;
        options.text = text;
        let agent = PlainAgent::connect(relay.addr, &token, options, serve).await.expect("a tunnel");
        let host = relay.await_host(&token, name, HostStatus::Online).await;
        assert_eq!(agent.host_id.as_deref(), Some(host.id.to_string().as_str()), "{name}");
        assert_eq!(
            (host.machine_id.as_str(), host.agent_version.as_deref()),
            (format!("machine-{name}").as_str(), Some("0.0.1"))
        );
        let session = relay.create_session(&token, host.id).await;
        let path = |local: &str| format!("/v1/relay/h/{}/s/{session}{local}", host.id);

        for n in 0..30 {
            let local = format!("//a%2F{n}?q");
            assert_eq!(fetch(relay.addr, get(&path(&local))).await.text(), local, "{name}");
        }
        let body = noise(9, 500_000);
        let request = client::request(Method::POST, &path("/digest"), full(body.clone()));
        let reply = within(name, SOON, fetch(relay.addr, request)).await;
        assert_eq!(reply.text(), format!("500000 {}", sha256(&body)), "{name}");
        let large = within(name, SOON, fetch(relay.addr, get(&path("/large")))).await;
        assert_eq!(sha256(&large.body), sha256(&noise(5, 1_000_000)), "{name}");

        let mut all = tokio::task::JoinSet::new();
        for n in 0..40 {
            let (addr, path) = (relay.addr, path(&format!("/n/{n}")));
            all.spawn(async move { (n, fetch(addr, get(&path)).await.text()) });
        }
        while let Some(done) = within(name, SOON, all.join_next()).await {
            let (n, text) = done.unwrap();
            assert_eq!(text, format!("/n/{n}"), "{name}");
        }

        let mut conn = RawConn::connect(relay.addr).await;
        let upgrade = format!(
            "GET {} HTTP/1.1\r\nhost: r\r\nconnection: upgrade\r\nupgrade: plus-one\r\n\r\n",
            path("/up")
        );
        conn.write(upgrade).await.unwrap();
        let head = within(name, SOON, conn.head()).await.expect("an answer");
        assert_eq!(head.status(), 101, "{name}: {}", head.text());
        for byte in [1_u8, 2, 3] {
            conn.write([byte]).await.unwrap();
            assert_eq!(within(name, SOON, conn.take(1)).await, [byte + 1], "{name}");
        }
        drop(agent);
        relay.await_host(&token, name, HostStatus::Offline).await;
        fetch(relay.addr, get(&path("/hello"))).await.is_problem(Code::HostOffline);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_opens_streams_and_asks_and_forwards_no_token_of_its_own() {
    let (relay, token) = relay_and_token().await;
    let (seen, mut requests) = tokio::sync::mpsc::channel(8);
    let handler = move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            seen.send((request.version(), request.uri().to_string(), request.headers().clone())).await.ok();
            Response::new(full("ok"))
        }
    };
    let _agent =
        PlainAgent::connect(relay.addr, &token, PlainOptions::new(HOST), handler).await.expect("a tunnel");
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let session = relay.create_session(&token, host).await;
    let request = Request::get(format!("/v1/relay/h/{host}/s/{session}/x"))
        .header("authorization", format!("Bearer {token}"))
        .header("x-vk-sig-ts", "1")
        .body(empty())
        .unwrap();
    assert_eq!(fetch(relay.addr, request).await.text(), "ok");
    let (version, uri, headers) = requests.recv().await.unwrap();
    assert_eq!((version, uri.as_str()), (http::Version::HTTP_11, "/x"));
    assert_eq!(headers.get("x-vk-sig-ts"), Some(&HeaderValue::from_static("1")));
    assert!(headers.get("authorization").is_none(), "{headers:?}");
    assert!(headers.contains_key("host"), "HTTP/1.1 needs one: {headers:?}");
    assert!(!format!("{headers:?}").contains(&session.to_string()), "{headers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_works_with_a_relay_that_does_not_know_the_subprotocol() {
    for text in [false, true] {
        let recorder = Recorder::start().await;
        let relay = PlainRelay::start(text).await;
        let agent = Agent::spawn(
            AgentOptions::new(&relay.url(), &recorder.server.url(), "an-opaque-token", HOST)
                .env("RUST_LOG", "info"),
        );
        let dialled = relay.agent(1).await;
        assert!(dialled.target.starts_with("/v1/relay/connect?"), "{}", dialled.target);
        for key in ["machine_id=", "name=workshop", "agent_version="] {
            assert!(dialled.target.contains(key), "{key} in {}", dialled.target);
        }
        assert!(!dialled.target.contains("an-opaque-token"));
        assert_eq!(dialled.headers["authorization"], "Bearer an-opaque-token");
        assert_eq!(dialled.headers["sec-websocket-protocol"], SUBPROTOCOL);

        // One stream for one request, and one stream for many.
        let response =
            within("an answer", SOON, relay.send(client::request(Method::GET, "/a//b?c", empty()))).await;
        assert_eq!(Reply::collect(response).await.unwrap().text(), "ok");
        let mut connection = relay.connection().await;
        for n in 0..10 {
            let request = client::request(Method::POST, &format!("/n/{n}"), full("body"));
            let response = within("an answer", SOON, connection.send(request)).await.unwrap();
            assert_eq!(Reply::collect(response).await.unwrap().text(), "ok");
        }
        let (head, body) = recorder.last();
        assert_eq!((head.start_line().as_str(), body.bytes.as_slice()), ("POST /n/9 HTTP/1.1", &b"body"[..]));
        assert_eq!((head.all("x-relayed"), head.all("x-vk-relayed")), (vec!["1".into()], vec!["1".into()]));
        assert_eq!(head.all("host"), [recorder.server.addr.to_string()]);

        // The token stays out of the log, and the agent comes back after a loss.
        relay.cut().await;
        relay.agent(2).await;
        let response =
            within("an answer", SOON, relay.send(client::request(Method::GET, "/again", empty()))).await;
        assert_eq!(Reply::collect(response).await.unwrap().text(), "ok");
        assert!(!agent.process.log().contains("an-opaque-token"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_carries_bodies_and_upgrades_in_the_plain_form() {
    let local = LocalServer::router(app()).await;
    let relay = PlainRelay::start(false).await;
    let _agent = Agent::spawn(AgentOptions::new(&relay.url(), &local.url(), "t", HOST));
    relay.agent(1).await;
    let body = noise(11, 3_000_000);
    let response =
        within("an answer", SOON, relay.send(client::request(Method::PUT, "/digest", full(body.clone()))))
            .await;
    assert_eq!(Reply::collect(response).await.unwrap().text(), format!("3000000 {}", sha256(&body)));
    let response = relay.send(client::request(Method::GET, "/big/200000", empty())).await;
    assert_eq!(Reply::collect(response).await.unwrap().body.len(), 200_000);

    let request = Request::get("/ws")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(empty())
        .unwrap();
    let response = within("the switch", SOON, relay.send(request)).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    let mut ws = tokio_tungstenite::WebSocketStream::from_raw_socket(io, role, None).await;
    for size in [0, 5, 100_000] {
        ws.send(Message::Binary(noise(1, size))).await.unwrap();
        let back = within("the echo", SOON, ws.next()).await.unwrap().unwrap();
        assert_eq!(back, Message::Binary(noise(1, size)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_stalls_on_one_stream_serves_the_others_in_the_plain_form() {
    // The bare session at the other end stalls when one of its streams is not read (the first of the
    // known defects of the multiplexer); ours must not stall the other way round.
    let local = LocalServer::router(app()).await;
    let relay = PlainRelay::start(false).await;
    let _agent = Agent::spawn(AgentOptions::new(&relay.url(), &local.url(), "t", HOST));
    relay.agent(1).await;
    // An upload whose local server does not read: the agent holds at most a window of it.
    let stuck = LocalServer::raw(|mut conn| async move {
        conn.head().await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        drop(conn);
    })
    .await;
    let second = PlainRelay::start(false).await;
    let _other = Agent::spawn(AgentOptions::new(&second.url(), &stuck.url(), "t", "stuck"));
    second.agent(1).await;
    let (sender, body) = client::channel();
    let mut upload = second.connection().await;
    let upload =
        tokio::spawn(async move { upload.send(client::request(Method::POST, "/x", body)).await.is_ok() });
    let feed = async {
        for _ in 0..256 {
            sender.send(hyper::body::Frame::data(Bytes::from(vec![7; 64 * 1024]))).await.ok();
        }
    };
    let fed = tokio::time::timeout(Duration::from_secs(5), feed).await;
    assert!(fed.is_err(), "16 MiB went nowhere: there is no backpressure");
    upload.abort();
    for _ in 0..20 {
        let response =
            within("an answer", SOON, relay.send(client::request(Method::GET, "/hello", empty()))).await;
        assert_eq!(Reply::collect(response).await.unwrap().text(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_says_what_is_missing() {
    let (relay, token) = relay_and_token().await;
    let connect = "/v1/relay/connect?machine_id=m&name=n&agent_version=1";
    relay.api(Method::GET, connect, &token).await.is_problem(Code::UpgradeRequired);
    let bearer = format!("Bearer {token}");
    let good = [("authorization", bearer.as_str())];
    let long = "x".repeat(500);
    for (path, headers, status) in [
        (connect.to_owned(), &[][..], 401),
        (connect.to_owned(), &[("authorization", "Bearer x")][..], 401),
        ("/v1/relay/connect?name=n&agent_version=1".to_owned(), &good[..], 400),
        ("/v1/relay/connect?machine_id=&name=n".to_owned(), &good[..], 400),
        (format!("/v1/relay/connect?machine_id={long}&name=n"), &good[..], 400),
        (format!("/v1/relay/connect?machine_id=m&name={long}"), &good[..], 400),
        ("/v1/relay/connect?machine_id=m%00&name=n".to_owned(), &good[..], 400),
    ] {
        match websocket(relay.addr, &path, headers).await {
            Err(Error::Http(response)) => assert_eq!(response.status().as_u16(), status, "{path}"),
            Err(other) => panic!("{path}: {other}"),
            Ok(_) => panic!("{path} is taken"),
        }
    }
    // Nothing of it has left a trace.
    assert!(relay.hosts(&token).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subprotocol_is_selected_only_when_it_is_offered_and_newer_ends_are_understood() {
    let (relay, token) = relay_and_token().await;
    let bearer = format!("Bearer {token}");
    for (offered, selected) in [
        ("relay.tunnel.v1", Some("relay.tunnel.v1")),
        ("relay.tunnel.v9, relay.tunnel.v1", Some("relay.tunnel.v1")),
        ("relay.tunnel.v9", None),
        ("RELAY.TUNNEL.V1", None),
    ] {
        let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", offered)];
        let connect = "/v1/relay/connect?machine_id=m&name=n&agent_version=1";
        let (ws, response) = match websocket(relay.addr, connect, &headers).await {
            Ok(pair) => pair,
            // The client library insists on a selection; the relay that selects none is right.
            Err(Error::Protocol(_)) if selected.is_none() => continue,
            Err(other) => panic!("{offered}: {other}"),
        };
        let got = response.headers().get("sec-websocket-protocol").map(|v| v.to_str().unwrap());
        assert_eq!(got, selected, "{offered}");
        let mut ws = ws;
        let first = within("the hello", SOON, ws.next()).await.unwrap().unwrap();
        let Message::Text(text) = first else { panic!("the hello comes first: {first:?}") };
        let Control::Hello(hello) = Control::parse(&text).unwrap() else { panic!("{text}") };
        assert_eq!((hello.v, hello.name.as_str(), hello.has("drain")), (1, "relay-server", true));
        let clock = i64::try_from(hello.time_ms.expect("the relay's clock") / 1000).unwrap();
        assert!((clock - system_tests::tokens::now()).abs() < 60);

        // A newer agent says more; what is not known is ignored, what is no message ends the tunnel.
        let newer = r#"{"type":"hello","v":2,"name":"newer","version":"9.9","features":["drain","telepathy"],"more":{}}"#;
        ws.send(Message::text(newer)).await.unwrap();
        ws.send(Message::text(r#"{"type":"something-new","x":[1,2]}"#)).await.unwrap();
        let host = relay.await_host(&token, "n", HostStatus::Online).await;
        assert_eq!(host.machine_id, "m");
        ws.send(Message::text("this is no control message")).await.unwrap();
        let close = within("the close", SOON, async {
            loop {
                match ws.next().await {
                    Some(Ok(Message::Close(frame))) => return frame.map(|f| u16::from(f.code)),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                }
            }
        })
        .await;
        assert_eq!(close, Some(1002), "{offered}");
        drop(ws);
        relay.await_host(&token, "n", HostStatus::Offline).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_breaks_the_multiplexing_loses_its_tunnel_and_nobody_elses() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let bearer = format!("Bearer {}", stack.token);
    let garbage: [Vec<u8>; 4] = [
        vec![0xff; 64],
        // A data frame of 4 GiB for a stream that does not exist.
        [&[0_u8, 0, 0, 0, 0, 0, 0, 7][..], &[0xff; 4]].concat(),
        // The agent opens a stream, which is the relay's to do.
        vec![0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
        vec![0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    for (n, bytes) in garbage.into_iter().enumerate() {
        let connect = format!("/v1/relay/connect?machine_id=evil-{n}&name=evil-{n}&agent_version=1");
        let (mut ws, _) = websocket(stack.addr(), &connect, &[("authorization", &bearer)]).await.unwrap();
        ws.send(Message::Binary(bytes.into())).await.unwrap();
        assert_eq!(stack.get("/hello").await.text(), "hello");
        drop(ws);
        stack.relay.await_host(&stack.token, &format!("evil-{n}"), HostStatus::Offline).await;
    }
    eventually("the good one is online", SOON, || async {
        stack.relay.find_host(&stack.token, HOST).await.is_some_and(|h| h.status == HostStatus::Online)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_tunnel_of_a_host_is_preferred_and_the_older_one_takes_over() {
    let (relay, token) = relay_and_token().await;
    let say = |word: &'static str| move |_: Request<Incoming>| async move { Response::new(full(word)) };
    let old = PlainAgent::connect(relay.addr, &token, PlainOptions::new(HOST), say("old")).await.unwrap();
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let session = relay.create_session(&token, host).await;
    let path = format!("/v1/relay/h/{host}/s/{session}/");
    assert_eq!(fetch(relay.addr, get(&path)).await.text(), "old");
    let new = PlainAgent::connect(relay.addr, &token, PlainOptions::new(HOST), say("new")).await.unwrap();
    assert_eq!(old.host_id, new.host_id, "one machine is one host");
    eventually("the newest answers", SOON, || async { fetch(relay.addr, get(&path)).await.text() == "new" })
        .await;
    drop(new);
    eventually("the older one takes over", SOON, || async {
        fetch(relay.addr, get(&path)).await.text() == "old"
    })
    .await;
    assert_eq!(relay.find_host(&token, HOST).await.unwrap().status, HostStatus::Online);
    drop(old);
    relay.await_host(&token, HOST, HostStatus::Offline).await;
}
