//! Which frames pass, whose they are, and that they arrive as they came.

use serde_json::{Value, json};
use system_tests::broker::Socket;
use system_tests::broker::frames::{
    self, IK, PSK2, e2ee, event, key_exchange_init, key_exchange_init_v2, key_exchange_response,
    key_exchange_response_v2, key_update_required, offer_request, offer_response, psk2, redeem_refusal,
    redeem_request, redeem_response,
};

use super::{TARGET, WORKSPACE, World, claims, meet};
use system_tests::broker::Dial;

/// Asks for a session and is given it.
async fn exchange(daemon: &mut Socket, client: &mut Socket, request: &str, session: &str) {
    client.send(&key_exchange_init(request)).await;
    daemon.expect(&key_exchange_init(request)).await;
    let response = key_exchange_response(request, session);
    daemon.send(&response).await;
    client.expect(&response).await;
}

/// A pairing client of the same pair.
async fn pairing_client(world: &World) -> Socket {
    world.client_with(json!({"scope": "pairing"})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_frame_passes_in_its_direction_byte_for_byte() {
    let world = World::start().await;
    let (mut daemon, mut client) = world.pair().await;
    let mut pairing = pairing_client(&world).await;
    // Spaces, order, escapes and unknown keys are the sender's.
    let odd = r#" { "ciphertext" : "\u0061b\/", "x":[1.0,1e2,{"y":null}],"iv":"i","tag":"t","seq":2,"epoch":1,"sessionId":"met","profile":"noise-ik","version":2,"type":"e2ee" } "#;
    client.send_text(odd).await;
    assert_eq!(daemon.text().await, odd);
    daemon.send_text(odd).await;
    assert_eq!(client.text().await, odd);

    for (n, (init, response)) in [
        (key_exchange_init("k1"), key_exchange_response("k1", "s1")),
        (key_exchange_init_v2("k2"), key_exchange_response_v2("k2", "s2")),
        (psk2(key_exchange_init("k3")), psk2(key_exchange_response("k3", "s3"))),
        (psk2(key_exchange_init_v2("k4")), psk2(key_exchange_response_v2("k4", "s4"))),
    ]
    .into_iter()
    .enumerate()
    {
        client.send(&init).await;
        daemon.expect(&init).await;
        daemon.send(&response).await;
        client.expect(&response).await;
        let session = format!("s{}", n + 1);
        daemon.send(&key_update_required(&session)).await;
        client.expect(&key_update_required(&session)).await;
    }
    for (request, response) in [
        (offer_request("p1"), offer_response("p1")),
        (redeem_request("p2"), redeem_response("p2")),
        (redeem_request("p3"), redeem_refusal("p3")),
    ] {
        pairing.send(&request).await;
        daemon.expect(&request).await;
        daemon.send(&response).await;
        pairing.expect(&response).await;
    }
    client.nothing_came();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_of_the_contract_is_dropped_and_nothing_is_answered() {
    let world = World::start().await;
    let (mut daemon, mut client) = world.pair().await;
    let change = |mut frame: Value, name: &str, value: Value| {
        match value {
            Value::Null => drop(frame.as_object_mut().unwrap().remove(name)),
            value => frame[name] = value,
        }
        frame.to_string()
    };
    let of_client = [
        String::new(),
        "null".to_owned(),
        "[]".to_owned(),
        "\"e2ee\"".to_owned(),
        "{}".to_owned(),
        "{".to_owned(),
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        format!("{}{}", e2ee("met", 1), e2ee("met", 2)),
        e2ee("met", 1).to_string().replacen('{', "{\"type\":\"ping\",", 1),
        json!({"type": "ping"}).to_string(),
        json!({"type": "relay_status", "code": "DAEMON_UNAVAILABLE"}).to_string(),
        change(e2ee("met", 1), "type", json!("E2EE")),
        change(e2ee("met", 1), "version", json!(1)),
        change(e2ee("met", 1), "version", json!("2")),
        change(e2ee("met", 1), "profile", json!("none")),
        change(e2ee("met", 1), "profile", json!(null)),
        change(e2ee("met", 1), "sessionId", json!("")),
        change(e2ee("met", 1), "epoch", json!(0)),
        change(e2ee("met", 1), "seq", json!(-1)),
        change(e2ee("met", 1), "seq", json!(1.5)),
        change(e2ee("met", 1), "iv", json!("")),
        change(e2ee("met", 1), "tag", json!(7)),
        change(e2ee("met", 1), "ciphertext", json!(null)),
        change(key_exchange_init("r"), "version", json!(4)),
        change(key_exchange_init("r"), "requestId", json!("")),
        change(key_exchange_init("r"), "encryptedClientStatic", json!(null)),
        change(key_exchange_init("r"), "profile", json!(PSK2)),
        change(key_exchange_init_v2("r"), "clientProof", json!(null)),
        // A daemon's to say.
        key_exchange_response("r", "met").to_string(),
        key_update_required("met").to_string(),
        offer_response("r").to_string(),
        redeem_response("r").to_string(),
        event("agent-session:a", 1).to_string(),
        frames::transport_response("r").to_string(),
        // A worker's, and a pairing client's.
        frames::transport_request("r", "/").to_string(),
        offer_request("r").to_string(),
        redeem_request("r").to_string(),
    ];
    for text in &of_client {
        client.send_text(text.clone()).await;
    }
    client
        .try_send(tokio_tungstenite::tungstenite::Message::binary(e2ee("met", 1).to_string()))
        .await
        .unwrap();
    client.send(&e2ee("met", 77)).await;
    daemon.expect(&e2ee("met", 77)).await;

    for text in [
        key_exchange_init("r").to_string(),
        offer_request("r").to_string(),
        frames::subscribe("agent-session:a", "r").to_string(),
        change(key_update_required("met"), "nextEpoch", json!(0)),
        change(key_update_required("met"), "sessionId", json!(null)),
        change(e2ee("met", 1), "seq", json!(0)),
        json!({"type": "relay_status", "code": "RELAY_REDIRECT", "relayWsBaseUrl": "wss://evil"}).to_string(),
        json!({"schema": "viewport.session_events.subscribed/v1", "channel": "agent-session:a"}).to_string(),
    ] {
        daemon.send_text(text).await;
    }
    daemon.send(&e2ee("met", 78)).await;
    client.expect(&e2ee("met", 78)).await;
    daemon.nothing_came();
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_say_what_a_client_sends() {
    let world = World::start().await;
    let (mut daemon, _client) = world.pair().await;
    let mut pairing = pairing_client(&world).await;
    pairing.send(&e2ee("s", 1)).await;
    pairing.send(&key_exchange_init("r")).await;
    pairing.send(&frames::subscribe("agent-session:a", "r")).await;
    pairing.send(&offer_request("p")).await;
    daemon.expect(&offer_request("p")).await;
    pairing.nothing_came();

    let more = json!({"scope": "session-events", "sessionChannels": ["agent-session:a"]});
    let mut listener = world.client_with(more).await;
    listener.send(&e2ee("s", 1)).await;
    listener.send(&key_exchange_init("r")).await;
    listener.send(&offer_request("r")).await;
    listener.send(&frames::subscribe("agent-session:a", "r")).await;
    let answer = listener.frame().await;
    assert_eq!(answer["schema"], json!("viewport.session_events.subscribed/v1"));
    pairing.send(&offer_request("q")).await;
    daemon.expect(&offer_request("q")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_to_whoever_asked_and_the_session_with_it() {
    let world = World::start().await;
    let (mut daemon, mut first) = world.pair().await;
    let mut second = world.client().await;
    meet(&mut daemon, &mut second, "met-2").await;
    first.send(&key_exchange_init("r1")).await;
    daemon.expect(&key_exchange_init("r1")).await;
    second.send(&key_exchange_init("r2")).await;
    daemon.expect(&key_exchange_init("r2")).await;
    // In the other order, and an answer twice and one that nobody asked for.
    for (request, session) in [("r2", "s2"), ("r1", "s1"), ("r1", "s2"), ("r3", "s1")] {
        daemon.send(&key_exchange_response(request, session)).await;
    }
    for (session, seq) in [("s1", 10), ("s2", 20), ("nobodys", 30), ("s1", 11), ("s2", 21)] {
        daemon.send(&e2ee(session, seq)).await;
    }
    first.expect(&key_exchange_response("r1", "s1")).await;
    first.expect(&e2ee("s1", 10)).await;
    first.expect(&e2ee("s1", 11)).await;
    second.expect(&key_exchange_response("r2", "s2")).await;
    second.expect(&e2ee("s2", 20)).await;
    second.expect(&e2ee("s2", 21)).await;

    // Another's session: what is said in it is dropped, and it stays the other's.
    first.send(&e2ee("s2", 40)).await;
    first.send(&e2ee("s1", 41)).await;
    daemon.expect(&e2ee("s1", 41)).await;
    daemon.send(&e2ee("s2", 42)).await;
    second.expect(&e2ee("s2", 42)).await;
    // A request that is outstanding is nobody else's.
    first.send(&key_exchange_init("same")).await;
    daemon.expect(&key_exchange_init("same")).await;
    second.send(&key_exchange_init_v2("same")).await;
    second.send(&e2ee("s2", 43)).await;
    daemon.expect(&e2ee("s2", 43)).await;
    daemon.send(&key_exchange_response("same", "s3")).await;
    first.expect(&key_exchange_response("same", "s3")).await;
    // An answer may move a session.
    second.send(&key_exchange_init("mine-now")).await;
    daemon.expect(&key_exchange_init("mine-now")).await;
    daemon.send(&key_exchange_response("mine-now", "s1")).await;
    second.expect(&key_exchange_response("mine-now", "s1")).await;
    daemon.send(&e2ee("s1", 50)).await;
    second.expect(&e2ee("s1", 50)).await;
    first.nothing_came();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_leaves_behind_is_free() {
    let world = World::start().await;
    let (mut daemon, mut first) = world.pair().await;
    exchange(&mut daemon, &mut first, "r", "s").await;
    first.leave().await;
    let mut again = world.client().await;
    meet(&mut daemon, &mut again, "s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_are_pairs_and_never_one_joined_string() {
    let world = World::start().await;
    // Joined with any of the characters that ids may have they would be the same.
    let mut daemons = Vec::new();
    let mut clients = Vec::new();
    let names =
        [("a", "b:c"), ("a:b", "c"), ("a.b", "c"), ("a", "b.c"), ("a-b", "c"), ("a_b", "c"), ("A", "b:c")];
    for (workspace, target) in names {
        let dial = |role: &str| {
            let mut all = claims(role, Some(target), json!({}));
            all["workspaceId"] = json!(workspace);
            Dial::new(role, workspace, Some(target), &world.platform.grant(all))
        };
        daemons.push(dial("workspace-daemon").connect(world.addr()).await);
        clients.push(dial("client").connect(world.addr()).await);
    }
    for (daemon, client) in daemons.iter_mut().zip(&mut clients) {
        meet(daemon, client, "session").await;
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&e2ee("session", n as u64 + 1)).await;
    }
    for (n, daemon) in daemons.iter_mut().enumerate() {
        daemon.expect(&e2ee("session", n as u64 + 1)).await;
        daemon.nothing_came();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_a_client_is_told_and_may_try_again() {
    let world = World::start().await;
    let mut client = world.client().await;
    client.send(&e2ee("s", 1)).await;
    let status = client.status("DAEMON_UNAVAILABLE").await;
    assert_eq!(status["retryable"], json!(true));
    assert_eq!((&status["workspaceId"], &status["runtimeTargetId"]), (&json!(WORKSPACE), &json!(TARGET)));
    let mut daemon = world.daemon().await;
    meet(&mut daemon, &mut client, "s").await;
    daemon.leave().await;
    // Of the same there is one a second.
    loop {
        client.send(&key_exchange_init("r")).await;
        if let Some(frame) = client.frame_within(system_tests::POLL * 20).await {
            assert_eq!(frame["code"], json!("DAEMON_UNAVAILABLE"));
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_are_kept() {
    let world = World::start().await;
    for (expected, other) in [(IK, psk2(e2ee("s", 1))), (PSK2, e2ee("s", 1))] {
        for frame in [
            other.clone(),
            if expected == IK { psk2(key_exchange_init("r")) } else { key_exchange_init("r") },
        ] {
            let mut client = world.client_with(json!({"e2eeProfile": expected})).await;
            client.send(&frame).await;
            let (code, reason) = client.closed().await;
            assert_eq!(code, 4008, "{expected}: {reason}");
            assert!(reason.contains("profile"), "{reason}");
        }
    }
    // A daemon may be stronger than it has to be, and not weaker.
    let mut daemon = world.daemon_dial(json!({"e2eeProfile": IK})).connect(world.addr()).await;
    let mut client = world.client().await;
    meet(&mut daemon, &mut client, "s").await;
    daemon.send(&psk2(e2ee("s", 5))).await;
    client.expect(&psk2(e2ee("s", 5))).await;
    daemon.leave().await;
    let mut daemon = world.daemon_dial(json!({"e2eeProfile": PSK2})).connect(world.addr()).await;
    daemon.send(&e2ee("s", 1)).await;
    let (code, reason) = daemon.closed().await;
    assert_eq!(code, 4008, "{reason}");
    assert!(reason.contains("profile"), "{reason}");
}
