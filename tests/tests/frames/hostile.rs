//! Whatever is thrown at `/ws`: the process lives, and those who behave do not notice.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use serde_json::json;
use system_tests::broker::frames::e2ee;
use system_tests::client::{fetch, get};
use system_tests::raw::{RawConn, exchange};
use system_tests::{RelayOptions, SOON, within};
use tokio_tungstenite::tungstenite::Message;

use super::{World, claims};
use system_tests::broker::Dial;

/// No limits on how often, so that everything gets as far as it can.
fn open() -> RelayOptions {
    RelayOptions::default().env("RELAY_UPGRADE_RATE_PER_MINUTE", 1_000_000)
}

async fn all_is_well(
    world: &mut World,
    daemon: &mut system_tests::broker::Socket,
    client: &mut system_tests::broker::Socket,
) {
    assert!(world.relay.process.exited().is_none(), "the relay has ended");
    assert!(!world.relay.log().contains("panicked"), "something panicked");
    assert_eq!(fetch(world.addr(), get("/health")).await.status, 200);
    client.send(&e2ee("met", 7)).await;
    daemon.expect(&e2ee("met", 7)).await;
}

/// Pieces of which targets and hosts are made.
const PIECES: &[&str] = &[
    "/ws",
    "?",
    "&",
    "=",
    "role",
    "client",
    "workspace-daemon",
    "workspaceId",
    "runtimeTargetId",
    "token",
    "%",
    "%00",
    "%2",
    "%zz",
    "%ff%fe",
    "%C3%28",
    "+",
    ";",
    "#",
    "//",
    "/../",
    "\\",
    "[",
    "]",
    "[::1",
    "::",
    "@",
    ":",
    "99999999",
    "\u{0}",
    "\u{1}",
    "\u{7f}",
    " ",
    "\t",
    "\u{80}",
    "\u{2028}",
    "http://",
    "*",
    "a",
    "..",
    "{}",
    "'\"",
    "<script>",
];

fn soup(random: &mut StdRng, most: usize) -> String {
    let count = random.random_range(0..most);
    (0..count).map(|_| *PIECES.choose(random).expect("pieces")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_targets_and_hosts_by_the_thousand() {
    let mut world = World::with(open()).await;
    let (mut daemon, mut client) = world.pair().await;
    let mut random = StdRng::seed_from_u64(1);
    let token = world.platform.grant(claims("client", Some("t"), json!({})));
    for n in 0..3000 {
        let target = match n % 4 {
            0 => format!("/ws?{}", soup(&mut random, 30)),
            1 => format!("/ws?role=client&workspaceId={}", soup(&mut random, 10)),
            2 => soup(&mut random, 10),
            _ => format!("/ws?role=client&workspaceId=w&{}", soup(&mut random, 400)),
        };
        let host = if n % 2 == 0 { "relay.test".to_owned() } else { soup(&mut random, 6) };
        let protocol = soup(&mut random, 5);
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             authorization: Bearer {token}\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
        );
        let mut conn = RawConn::connect(world.addr()).await;
        conn.write(request).await.ok();
        // Whatever it says, it says something or hangs up.
        if let Some(head) = within("an answer or an end", SOON, conn.head()).await {
            let status = head.status();
            assert!(status == 101 || (400..500).contains(&status), "{n}: {status} for {target:?}, {host:?}");
        }
    }
    all_is_well(&mut world, &mut daemon, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_none_or_many_are_refused() {
    let mut world = World::with(open()).await;
    let (mut daemon, mut client) = world.pair().await;
    let token = world.platform.grant(claims("client", Some("target-1"), json!({})));
    let path = format!("/ws?role=client&workspaceId={}&runtimeTargetId=target-1", super::WORKSPACE);
    for hosts in
        ["", "host: a\r\nhost: b\r\n", "host: a b\r\n", "host: [::1\r\n", "host: a/b\r\n", "host: a@b@c\r\n"]
    {
        let request = format!(
            "GET {path} HTTP/1.1\r\n{hosts}connection: close, upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        let (head, _) = within("an answer", SOON, exchange(world.addr(), request)).await.expect("an answer");
        assert!((400..500).contains(&head.status()), "{hosts:?}: {}", head.text());
    }
    all_is_well(&mut world, &mut daemon, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_websocket_after_the_upgrade() {
    let mut world = World::with(open()).await;
    let (mut daemon, mut client) = world.pair().await;
    let mut random = StdRng::seed_from_u64(2);
    let token = world.platform.grant(claims("client", Some("target-1"), json!({})));
    for n in 0..500 {
        let request = format!(
            "GET /ws?role=client&workspaceId={}&runtimeTargetId=target-1 HTTP/1.1\r\nhost: relay.test\r\n\
             connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer {token}\r\n\r\n",
            super::WORKSPACE
        );
        let mut conn = RawConn::connect(world.addr()).await;
        conn.write(request).await.expect("the relay reads");
        let head = within("an answer", SOON, conn.head()).await.expect("an answer");
        // Places of those who have just been cut may not be free yet.
        if head.status() == 429 {
            tokio::time::sleep(system_tests::POLL).await;
            continue;
        }
        assert_eq!(head.status(), 101, "{n}: {}", head.text());
        let mut bytes = vec![0; random.random_range(1..2000)];
        random.fill_bytes(&mut bytes);
        conn.write(&bytes).await.ok();
        if n % 3 == 0 {
            conn.reset();
        }
    }
    all_is_well(&mut world, &mut daemon, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_with_bytes_changed_by_the_thousand() {
    let options = RelayOptions::default()
        .env("RELAY_RUNTIME_RATE_PER_MINUTE", 1_000_000)
        .env("RELAY_RUNTIME_RATE_PER_MINUTE_WORKSPACE", 1_000_000)
        .env("RELAY_DAEMON_RUNTIME_RATE_PER_MINUTE", 1_000_000);
    let mut world = World::with(options).await;
    let (mut daemon, mut client) = world.pair().await;
    let mut fool = world.client().await;
    let mut random = StdRng::seed_from_u64(3);
    let frames = [
        e2ee("s", 1).to_string(),
        system_tests::broker::frames::key_exchange_init("r").to_string(),
        system_tests::broker::frames::subscribe("agent-session:a", "r").to_string(),
        system_tests::broker::frames::event("agent-session:a", 1).to_string(),
    ];
    for n in 0..4000 {
        let mut bytes = frames[n % frames.len()].clone().into_bytes();
        for _ in 0..random.random_range(1..4) {
            if bytes.len() < 2 {
                break;
            }
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[at] = random.random_range(0x20..0x7f),
                1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let text = String::from_utf8(bytes).expect("ASCII");
        let sender = if n % 2 == 0 { &mut fool } else { &mut daemon };
        sender.try_send(Message::text(text)).await.expect("it stays open");
    }
    // What is left of the good ones has reached the daemon; behind it comes the last.
    client.send(&e2ee("met", 6)).await;
    daemon.until(|frame| *frame == e2ee("met", 6)).await;
    assert_eq!(fetch(world.addr(), get("/health")).await.status, 200);
    assert!(world.relay.process.exited().is_none() && !world.relay.log().contains("panicked"));
    // Both are still there.
    super::meet(&mut daemon, &mut fool, "fools").await;
    let mut other = world.client().await;
    super::meet(&mut daemon, &mut other, "other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_leave_in_the_middle_leave_nothing_behind() {
    let mut world = World::with(open()).await;
    let (mut daemon, mut client) = world.pair().await;
    let fds = world.relay.process.fds();
    for n in 0..200 {
        let dial = world.client_dial(json!({}));
        let mut socket = dial.connect(world.addr()).await;
        match n % 3 {
            0 => socket.send(&e2ee(&format!("s{n}"), 1)).await,
            1 => socket.freeze(),
            _ => {}
        }
        drop(socket);
        if n % 10 == 0 {
            drop(Dial::new("client", "w", None, "a-bad-token").try_connect(world.addr()).await);
        }
    }
    system_tests::eventually("their connections are closed", SOON, || async {
        world.relay.process.fds() <= fds + 5
    })
    .await;
    daemon.send(&e2ee("met", 1)).await;
    client.until(|frame| *frame == e2ee("met", 1)).await;
    let mut last = world.client().await;
    super::meet(&mut daemon, &mut last, "last").await;
    assert!(world.relay.process.exited().is_none());
}
