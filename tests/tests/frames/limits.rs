//! Every limit of `/ws`: what is over it is refused or dropped, and what is under it goes on.

use http::Method;
use relay_protocol::problem::Code;
use serde_json::{Value, json};
use system_tests::broker::frames::{
    e2ee, event, key_exchange_init, offer_request, redeem_request, subscribe, transport_request,
};
use system_tests::broker::{Dial, Socket};
use system_tests::platform::Call;
use system_tests::{RelayOptions, SOON, eventually};
use tokio_tungstenite::tungstenite::Message;

use super::{TARGET, WORKSPACE, World, claims};

fn with(name: &str, value: impl ToString) -> RelayOptions {
    RelayOptions::default().env(name, value)
}

/// Sends so many frames and counts those that arrive, with a last one of another kind behind them.
async fn arrived(
    from: &mut Socket,
    to: &mut Socket,
    frames: impl Iterator<Item = Value>,
    last: &Value,
) -> usize {
    for frame in frames {
        from.send(&frame).await;
    }
    from.send(last).await;
    let mut count = 0;
    loop {
        let frame = to.frame().await;
        if frame == *last {
            return count;
        }
        count += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_of_one_address() {
    let world = World::with(with("RELAY_UPGRADE_RATE_PER_MINUTE", 3)).await;
    for _ in 0..3 {
        world.client().await.leave().await;
    }
    assert_eq!(world.client_dial(json!({})).refused(world.addr()).await, Code::RateLimited);
    assert_eq!(world.platform.asked(Call::Validate).len(), 3, "the platform is not asked about what is over");
}

/// Any web page can make its visitor's browser ask for sockets. That uses up neither what the visitor's tunnels
/// need nor, while the page has nothing that could be a token, what their sockets need.
#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_ask_for_uses_up_nobodys_upgrades() {
    let world = World::with(with("RELAY_UPGRADE_RATE_PER_MINUTE", 3)).await;
    let mut bare = world.client_dial(json!({}));
    bare.token = None;
    let mut nonsense = world.client_dial(json!({}));
    nonsense.query.retain(|(name, _)| name != "workspaceId");
    for _ in 0..10 {
        assert_eq!(bare.refused(world.addr()).await, Code::Unauthorized);
        assert_eq!(nonsense.refused(world.addr()).await, Code::BadRequest);
    }
    // Two of three attempts, and a third that is good.
    let bad = Dial::new("client", WORKSPACE, Some(TARGET), "a-bad-token");
    assert_eq!(bad.refused(world.addr()).await, Code::Unauthorized);
    assert_eq!(bad.refused(world.addr()).await, Code::Unauthorized);
    let _client = world.client().await;
    assert_eq!(bad.refused(world.addr()).await, Code::RateLimited);
    assert_eq!(world.platform.asked(Call::Validate).len(), 3, "the platform is not asked about what is over");
    assert_eq!(bare.refused(world.addr()).await, Code::Unauthorized, "the query and the token come first");
    // The tunnels' upgrades: only the one good socket was charged to them.
    let token = world.relay.user_with_token("ann@example.org").await;
    for code in [Code::UpgradeRequired, Code::UpgradeRequired, Code::RateLimited] {
        let connect = "/v1/relay/connect?machine_id=m&name=n";
        world.relay.api(Method::GET, connect, &token).await.is_problem(code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_one_address() {
    let world = World::with(with("RELAY_MAX_CONNECTIONS_PER_IP", 3)).await;
    let (first, _second, _third) = (world.client().await, world.client().await, world.client().await);
    let dial = world.client_dial(json!({}));
    assert_eq!(dial.refused(world.addr()).await, Code::TooManyConnections);
    first.leave().await;
    // Bad tokens take no place.
    for _ in 0..5 {
        let bad = Dial::new("client", WORKSPACE, Some(TARGET), "a-bad-token");
        assert_eq!(bad.refused(world.addr()).await, Code::Unauthorized);
    }
    eventually("there is room again", SOON, || async { dial.try_connect(world.addr()).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_in_all() {
    let world = World::with(with("RELAY_MAX_TOTAL_CONNECTIONS", 3)).await;
    let (first, _second, _third) = (world.client().await, world.client().await, world.client().await);
    let dial = world.client_dial(json!({}));
    assert_eq!(dial.refused(world.addr()).await, Code::TooManyConnections);
    // How full it is, is nothing for strangers.
    let bad = Dial::new("client", WORKSPACE, Some(TARGET), "a-bad-token");
    assert_eq!(bad.refused(world.addr()).await, Code::Unauthorized);
    first.leave().await;
    eventually("there is room again", SOON, || async { dial.try_connect(world.addr()).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_workers_of_one_pair() {
    let world = World::with(with("RELAY_MAX_CLIENTS_PER_WORKSPACE", 2)).await;
    let (mut daemon, mut client) = world.pair().await;
    let mut worker = world.dial("worker", Some(TARGET), json!({})).connect(world.addr()).await;
    worker.send(&transport_request("r", "/")).await;
    worker.frame().await;
    for role in ["client", "worker"] {
        let (_, reason) = world.dial(role, Some(TARGET), json!({})).closed(world.addr(), 4008).await;
        assert_eq!(reason, "too many clients");
    }
    // Another pair has its own places, and the daemon's is not one of them.
    world.dial("client", Some("target-2"), json!({})).connect(world.addr()).await;
    client.send(&e2ee("met", 5)).await;
    daemon.expect(&e2ee("met", 5)).await;
    worker.leave().await;
    let mut next = world.client().await;
    super::meet(&mut daemon, &mut next, "next").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_exchanges_and_pairing_frames_of_one_client() {
    let options = with("RELAY_KEX_INIT_RATE_PER_MINUTE", 5).env("RELAY_PAIRING_RATE_PER_MINUTE", 4);
    let world = World::with(options).await;
    let mut daemon = world.daemon().await;
    let mut client = world.client_with(json!({"clientId": "one"})).await;
    super::meet(&mut daemon, &mut client, "met").await;
    let inits = (0..20).map(|n| key_exchange_init(&format!("r{n}")));
    let count = arrived(&mut client, &mut daemon, inits, &e2ee("met", 99)).await;
    assert!((5..20).contains(&count), "{count}");
    let status = client.status("RATE_LIMITED").await;
    assert_eq!(status["retryable"], json!(true));
    // Another client has a budget of its own, also by the same address.
    let mut other = world.client_with(json!({"clientId": "other"})).await;
    super::meet(&mut daemon, &mut other, "other").await;
    other.send(&key_exchange_init("another")).await;
    daemon.expect(&key_exchange_init("another")).await;

    let mut pairing = world.client_with(json!({"scope": "pairing"})).await;
    for n in 0..20 {
        pairing.send(&offer_request(&format!("p{n}"))).await;
        pairing.send(&redeem_request(&format!("q{n}"))).await;
    }
    pairing.status("RATE_LIMITED").await;
    client.send(&e2ee("met", 100)).await;
    let mut count = 0;
    loop {
        let frame = daemon.frame().await;
        if frame == e2ee("met", 100) {
            break;
        }
        count += 1;
    }
    // Those that were under the rate went out before the status did.
    assert!((4..20).contains(&count), "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_anew_has_no_new_budget() {
    let world = World::with(with("RELAY_KEX_INIT_RATE_PER_MINUTE", 5)).await;
    let (mut daemon, mut client) = world.pair().await;
    let mut arrived_in_all = 0;
    for round in 0..3 {
        let mut named = world.client_with(json!({"clientId": "the-same"})).await;
        for n in 0..5 {
            named.send(&key_exchange_init(&format!("r{round}-{n}"))).await;
        }
        if round > 0 {
            named.status("RATE_LIMITED").await;
        }
        // What was sent is handled before the close is answered.
        named.leave().await;
        let last = e2ee("met", 100 + round);
        client.send(&last).await;
        loop {
            let frame = daemon.frame().await;
            if frame == last {
                break;
            }
            arrived_in_all += 1;
        }
    }
    assert!((5..10).contains(&arrived_in_all), "{arrived_in_all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_frames_of_one_client_and_of_a_workspace() {
    let options =
        with("RELAY_RUNTIME_RATE_PER_MINUTE", 100).env("RELAY_RUNTIME_RATE_PER_MINUTE_WORKSPACE", 140);
    let world = World::with(options).await;
    let mut daemon = world.daemon().await;
    let mut arrived_of = Vec::new();
    // Each may send 100 a minute, and both together 140.
    for session in ["s1", "s2"] {
        let mut client = world.client_with(json!({"clientId": session})).await;
        super::meet(&mut daemon, &mut client, session).await;
        let frames = (1..=125).map(|seq| e2ee(session, seq));
        // The last is charged as a key exchange.
        let last = key_exchange_init(session);
        arrived_of.push(arrived(&mut client, &mut daemon, frames, &last).await);
        client.until(|frame| frame["code"] == json!("RATE_LIMITED")).await;
    }
    let [first, second] = arrived_of[..] else { panic!("{arrived_of:?}") };
    assert!(first < 125 && second < first, "{first}, {second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_nonsense_is_charged_to_its_sender_alone() {
    let world = World::with(with("RELAY_RUNTIME_RATE_PER_MINUTE", 30)).await;
    let (mut daemon, mut client) = world.pair().await;
    let mut fool = world.client_with(json!({"userId": "fool"})).await;
    for n in 0..200 {
        match n % 3 {
            0 => fool.send_text("{\"type\":\"nonsense\"}").await,
            1 => fool.send_text("\u{1f600}").await,
            _ => fool.try_send(Message::binary(vec![0; 1000])).await.expect("the relay reads"),
        }
    }
    fool.status("RATE_LIMITED").await;
    client.send(&e2ee("met", 5)).await;
    daemon.expect(&e2ee("met", 5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_one_daemon() {
    let world = World::with(with("RELAY_DAEMON_RUNTIME_RATE_PER_MINUTE", 20)).await;
    let (mut daemon, mut client) = world.pair().await;
    for seq in 1..=60 {
        daemon.send(&e2ee("met", seq)).await;
    }
    daemon.until(|frame| frame["code"] == json!("RATE_LIMITED")).await;
    let mut other = world.client().await;
    other.send(&e2ee("other", 1)).await;
    daemon.until(|frame| frame["sessionId"] == json!("other")).await;
    // It is open, and what was under the rate has arrived.
    client.expect(&e2ee("met", 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_as_large_as_may_be_passes_and_a_larger_one_closes_with_1009() {
    let limit = 1024 * 1024;
    let world = World::start().await;
    let (mut daemon, mut client) = world.pair().await;
    let sized = |bytes: usize| {
        let mut frame = e2ee("met", 5);
        frame["ciphertext"] = json!("");
        let rest = bytes - frame.to_string().len();
        frame["ciphertext"] = json!("x".repeat(rest));
        frame.to_string()
    };
    assert_eq!(sized(limit).len(), limit);
    client.send_text(sized(limit)).await;
    assert_eq!(daemon.text().await.len(), limit);
    daemon.send_text(sized(limit)).await;
    assert_eq!(client.text().await.len(), limit);
    client.try_send(Message::text(sized(limit + 1))).await.ok();
    let (code, _) = client.closed().await;
    assert_eq!(code, 1009);
    // Much larger, so that it is still being sent when it is refused.
    let mut other = world.client().await;
    super::meet(&mut daemon, &mut other, "other").await;
    other.try_send(Message::binary(vec![0; 16 << 20])).await.ok();
    assert_eq!(other.closed().await.0, 1009);
    daemon.nothing_came();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_too_slow_is_closed_and_holds_up_nobody() {
    let options =
        with("RELAY_MAX_PENDING_BYTES", "256KiB").env("RELAY_DAEMON_RUNTIME_RATE_PER_MINUTE", 1_000_000);
    let world = World::with(options).await;
    let (mut daemon, mut client) = world.pair().await;
    let channel = "agent-session:a".to_owned();
    let more = json!({"scope": "session-events", "sessionChannels": [channel.clone()]});
    let mut slow = world.client_with(more).await;
    slow.send(&subscribe(&channel, "r")).await;
    slow.frame().await;
    slow.freeze();
    // 16 MiB: more than the sockets of the system take, 4 and 6 MiB as a rule.
    let mut large = event(&channel, 1);
    large["event"]["data"] = json!("x".repeat(256 * 1024 - 200));
    for _ in 0..64 {
        daemon.send(&large).await;
    }
    daemon.send(&e2ee("met", 5)).await;
    client.expect(&e2ee("met", 5)).await;
    slow.thaw();
    let (code, reason) = slow.closed().await;
    assert_eq!((code, reason.as_str()), (4008, "reads too slowly"));
}

/// Files that this process, and the relay after it, may have open.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("the kernel tells it");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
}

/// As many sockets as the contract allows, cheap ones.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_two_thousand_sockets() {
    let sockets_in_all = open_files().saturating_sub(200).min(2000);
    let options = with("RELAY_UPGRADE_RATE_PER_MINUTE", 100_000)
        .env("RELAY_MAX_TOTAL_CONNECTIONS", sockets_in_all)
        .env("RELAY_MAX_CONNECTIONS_PER_IP", 10_000)
        .env("RELAY_MAX_TCP_CONNECTIONS_PER_IP", 10_000);
    let world = World::with(options).await;
    let before = world.relay.process.rss();
    let token = world.platform.grant(claims("client", None, json!({"scope": "session-events"})));
    let mut sockets = Vec::with_capacity(sockets_in_all);
    while sockets.len() < sockets_in_all {
        let target = format!("target-{}", sockets.len() / 50);
        let mut dials = tokio::task::JoinSet::new();
        for _ in 0..50.min(sockets_in_all - sockets.len()) {
            let (dial, addr) = (Dial::new("client", WORKSPACE, Some(&target), &token), world.addr());
            dials.spawn(async move { dial.connect(addr).await });
        }
        sockets.extend(dials.join_all().await);
    }
    let dial = Dial::new("client", WORKSPACE, None, &token);
    assert_eq!(dial.refused(world.addr()).await, Code::TooManyConnections);
    let each = world.relay.process.rss().saturating_sub(before) / sockets_in_all as u64;
    assert!(each < 64 * 1024, "{each} bytes for each socket");
    for socket in &mut sockets {
        socket.send(&subscribe("agent-session:a", "r")).await;
    }
    for socket in &mut sockets {
        assert_eq!(socket.frame().await["code"], json!("CHANNEL_NOT_ALLOWED"));
    }
    drop(sockets);
    eventually("there is room again", SOON * 2, || async { dial.try_connect(world.addr()).await.is_ok() })
        .await;
}
