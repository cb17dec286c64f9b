//! What relays count of each other: frames, requests that are passed on, a forged frame and an outage are counted
//! at the relay where they happened, and what opened has closed in the end.
//!
//! The browser and the client are at the near relay, the host and the daemon at the far one.

use futures_util::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use relay_protocol::problem::Code;
use system_tests::broker::frames::e2ee;
use system_tests::client::{empty, fetch, websocket};
use system_tests::fleet::{Across, Fleet};
use system_tests::local::app;
use system_tests::metrics::table;
use system_tests::{LocalServer, POLL, Relay, SOON, eventually, within};
use tokio_tungstenite::tungstenite::Message;

use crate::world::{Back, World, bus_frame, now_ms, signed};
use crate::{TRIES, meet, on_each, until_told};

on_each!(what_passes_between_relays_is_counted_where_it_happens);

/// Of the near relay and of the far one, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Is {
    /// It has happened there.
    Counted,
    /// It has not.
    Zero,
    /// Either, by how the moments fell.
    Any,
}
use Is::{Any, Counted, Zero};

/// Of all modes. What takes a flood, a race or a defect is not among the labels, and has tests of its own.
const EXPECTED: [(&str, Option<(&str, &str)>, [Is; 2]); 21] = [
    ("relay_backplane_up", None, [Counted, Counted]),
    ("relay_backplane_published_total", None, [Counted, Counted]),
    ("relay_backplane_unpublished_total", Some(("reason", "away")), [Any, Counted]),
    ("relay_backplane_received_total", None, [Counted, Counted]),
    ("relay_backplane_refused_total", Some(("reason", "signature")), [Zero, Counted]),
    ("relay_backplane_presence_writes_total", Some(("result", "ok")), [Counted, Counted]),
    ("relay_backplane_presence_writes_total", Some(("result", "failed")), [Any, Counted]),
    ("relay_backplane_questions_total", Some(("about", "daemon")), [Counted, Any]),
    ("relay_backplane_questions_total", Some(("about", "host")), [Counted, Zero]),
    ("relay_backplane_questions_total", Some(("result", "unavailable")), [Counted, Any]),
    ("relay_backplane_call_seconds", Some(("operation", "publish")), [Counted, Counted]),
    ("relay_backplane_call_seconds", Some(("operation", "presence")), [Counted, Counted]),
    ("relay_backplane_call_seconds", Some(("operation", "question")), [Counted, Any]),
    ("relay_forward_requests_total", Some(("outcome", "answered")), [Counted, Zero]),
    ("relay_forward_redirects_total", None, [Counted, Zero]),
    ("relay_forward_arrivals_total", None, [Zero, Counted]),
    ("relay_forward_arrivals_refused_total", None, [Zero, Counted]),
    ("relay_forward_upgrades_opened_total", None, [Counted, Zero]),
    ("relay_forward_upgrades_closed_total", None, [Zero, Zero]),
    ("relay_forward_head_seconds", None, [Counted, Zero]),
    ("relay_frames_bus_total", Some(("way", "out")), [Counted, Counted]),
];

async fn what_passes_between_relays_is_counted_where_it_happens(mut world: World) {
    let local = LocalServer::router(app()).await;
    // The hosts' database is another one than what is about to fail.
    let options = world.options("of either").admin().env("RELAY_MODE", "dev");
    let options =
        options.env("RELAY_CLIENT_REDIRECT_ENABLED", 1).env("RELAY_REDIRECT_ALLOWED_HOSTS", "127.0.0.1");
    let across = Across::with(Fleet::start().await.with(|_| options), &local.url(), |agent| agent).await;
    let (near, far) = (&across.near, &across.far);
    let passed_on = async || {
        let by_page = across.request("GET", "/hello").header("sec-fetch-mode", "cors").body(empty());
        fetch(near.addr, by_page.unwrap()).await
    };
    let (mut daemon, mut client) = (world.daemon(far).await, world.client(near).await);
    meet(&mut daemon, &mut client, "s").await;

    // Nobody who has no key is believed: neither on the bus, nor with a request.
    let nobodys = bus_frame("x", Some("far"), "client_to_daemon", now_ms(), &e2ee("bad", 1));
    world.inject(&[signed(nobodys, "a key that no relay of these tests has")]).await;
    let refused = ("relay_backplane_refused_total", Some(("reason", "signature")));
    eventually("the forged frame is counted", SOON, || async { count(far, refused).await == 1.0 }).await;
    let forged = across.request("GET", "/hello").header("x-relay-forwarded", "v=1;from=near;to=far;sig=AAAA");
    fetch(far.addr, forged.body(empty()).unwrap()).await.is_problem(Code::ForwardRefused);

    for _ in 0..3 {
        assert_eq!(passed_on().await.text(), "hello");
    }
    assert_eq!(across.get("/hello").await.status, StatusCode::TEMPORARY_REDIRECT);
    let (mut ws, _) = websocket(near.addr, &across.path("/ws"), &[]).await.unwrap();

    let unavailable = ("relay_forward_requests_total", Some(("outcome", "unavailable")));
    let before = count(near, unavailable).await;
    world.kill();
    until_told(&mut client, "s", "BACKPLANE_UNAVAILABLE").await;
    until_told(&mut daemon, "s", "BACKPLANE_UNAVAILABLE").await;
    let newcomer = world.daemon_of(far, "newcomer", 0).await;
    for (relay, what) in [
        (near, ("relay_backplane_questions_total", Some(("result", "unavailable")))),
        (far, ("relay_backplane_unpublished_total", Some(("reason", "away")))),
        (far, ("relay_backplane_presence_writes_total", Some(("result", "failed")))),
    ] {
        let mut tries = 0;
        while count(relay, what).await == 0.0 {
            let sender = if std::ptr::eq(relay, near) { &mut client } else { &mut daemon };
            sender.send(&e2ee("s", 1)).await;
            sender.frame_within(POLL).await;
            tries += 1;
            assert!(tries < TRIES, "{what:?}");
        }
    }
    for relay in [near, far] {
        let up = ("relay_backplane_up", None);
        eventually("the outage shows", SOON, || async { count(relay, up).await == 0.0 }).await;
    }
    if matches!(world.back, Back::Redis(_)) {
        eventually("a host cannot be found", SOON, || async {
            let reply = passed_on().await;
            reply.status != StatusCode::OK && reply.problem().code == Code::RelaysUnavailable
        })
        .await;
        assert!(count(near, unavailable).await > before);
    } else {
        // Hosts are found in their own database.
        assert_eq!(passed_on().await.text(), "hello");
        assert_eq!(count(near, unavailable).await, before);
    }
    // What is under way goes on.
    ws.send(Message::text("still there")).await.unwrap();
    assert_eq!(within("an echo", SOON, ws.next()).await.unwrap().unwrap(), Message::text("still there"));

    world.restart().await;
    meet(&mut daemon, &mut client, "s").await;
    eventually("requests are passed on again", SOON, || async { passed_on().await.text() == "hello" }).await;
    for relay in [near, far] {
        let up = ("relay_backplane_up", None);
        eventually("it is back", SOON, || async { count(relay, up).await == 1.0 }).await;
    }

    let seen = [near.metrics().await, far.metrics().await];
    for (name, label, expected) in EXPECTED {
        for ((seen, expected), relay) in seen.iter().zip(expected).zip(["near", "far"]) {
            let found = seen.sum(name, label);
            let right = match expected {
                Counted => found > 0.0,
                Zero => found == 0.0,
                Any => true,
            };
            assert!(right, "{relay}: {name} {label:?} is {found}");
        }
    }
    // Redis alone is not asked for frames.
    for seen in &seen {
        let pulls = seen.sum("relay_backplane_call_seconds", Some(("operation", "pull")));
        assert_eq!(pulls > 0.0, !matches!(world.back, Back::Redis(_)));
    }
    for row in table(near).await {
        let between = row.name.starts_with("relay_backplane_") || row.name.starts_with("relay_forward_");
        assert!(
            !between || EXPECTED.iter().any(|(name, ..)| *name == row.name),
            "{}: nobody looks",
            row.name
        );
    }

    // All that they have open between them closes, the near relay's connections to the far one with the near relay.
    drop(ws);
    for socket in [client, daemon, newcomer] {
        socket.leave().await;
    }
    let Across { agent, near, far, fleet: _fleet, .. } = across;
    drop(agent);
    all_has_closed(&near).await;
    let passed_on = near.metrics().await.sum("relay_forward_upgrades_closed_total", None);
    assert_eq!(passed_on, 1.0);
    drop(near);
    all_has_closed(&far).await;
    let seen = far.metrics().await;
    for name in ["relay_tunnel_open", "relay_tunnel_hosts_online", "relay_tunnel_streams_open"] {
        assert_eq!(seen.sum(name, None), 0.0, "{name}");
    }
}

/// But for the question itself.
async fn all_has_closed(relay: &Relay) {
    let question =
        [("relay_http_connections_opened_total", ""), ("relay_http_requests_begun_total", "admin")];
    let question = question.map(|(name, label)| (name.to_owned(), label.to_owned(), 1.0));
    eventually("all that opened has closed", SOON, || async { relay.metrics().await.open() == question })
        .await;
}

async fn count(relay: &Relay, (name, label): (&str, Option<(&str, &str)>)) -> f64 {
    relay.metrics().await.sum(name, label)
}
