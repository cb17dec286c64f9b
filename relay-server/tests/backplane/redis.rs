//! What is particular to Redis.

use relay_server::backplane::Unavailable;
use system_tests::redis::{Redis, Sentinel};
use uuid::Uuid;

use crate::peers::{Peer, pair, until};
use crate::world::set;

fn settings(url: &str) -> Vec<(String, String)> {
    vec![set("RELAY_BACKPLANE_MODE", "redis"), set("RELAY_BACKPLANE_URL", url)]
}

async fn works(a: &mut Peer, b: &mut Peer) {
    let daemon = pair("daemon");
    let connection = a.open(&daemon, 1);
    b.finds(&daemon, Some("a")).await;
    a.reaches(b, Some("b")).await;
    b.reaches(a, None).await;
    a.backplane.daemon_closed(&daemon, connection);
    b.finds(&daemon, None).await;
}

#[tokio::test]
async fn over_tls_with_roots_of_its_own_and_not_without() {
    let redis = Redis::over_tls().await;
    let mut settings = settings(&redis.url());
    let stranger = Peer::start("stranger", &settings).await;
    assert_eq!(stranger.backplane.daemon(&pair("daemon")).await, Err(Unavailable));
    settings.push(set("RELAY_REDIS_CA", redis.ca().unwrap().to_str().unwrap()));
    let (mut a, mut b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    works(&mut a, &mut b).await;
}

#[tokio::test]
async fn with_a_password_in_the_url_and_not_without() {
    let redis = Redis::with_password("s3cret:p@ss").await;
    let stranger = Peer::start("stranger", &settings(&redis.url())).await;
    assert_eq!(stranger.backplane.daemon(&pair("daemon")).await, Err(Unavailable));
    let settings = settings(&format!("redis://:s3cret%3Ap%40ss@127.0.0.1:{}/1", redis.port));
    let (mut a, mut b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    works(&mut a, &mut b).await;
}

/// The master is killed; the Sentinel makes the replica the next one, and the relays find it.
#[tokio::test]
async fn behind_a_sentinel_the_next_master_is_found() {
    let mut first = Redis::start().await;
    let second = Redis::replica_of(&first).await;
    let sentinel = Sentinel::start("pair", &first).await;
    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/pair", sentinel.port);
    let (mut a, mut b) = (Peer::start("a", &settings(&url)).await, Peer::start("b", &settings(&url)).await);
    works(&mut a, &mut b).await;
    let daemon = pair("survivor");
    a.open(&daemon, 1);
    b.finds(&daemon, Some("a")).await;
    first.kill();
    until("the replica is the master", async || second.cli(&["role"]).await.starts_with("master")).await;
    b.finds(&daemon, Some("a")).await;
    works(&mut a, &mut b).await;
}

/// A server that froze keeps its connections open and says nothing.
#[tokio::test]
async fn a_frozen_server_is_as_one_that_is_away() {
    let redis = Redis::start().await;
    let settings = settings(&redis.url());
    let (mut a, mut b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    works(&mut a, &mut b).await;
    let daemon = pair("daemon");
    a.open(&daemon, 1);
    redis.freeze();
    b.is_unavailable(&daemon).await;
    assert!(b.backplane.daemon(&daemon).await.is_err(), "at once, while it is known to be away");
    redis.thaw();
    b.finds(&daemon, Some("a")).await;
    a.reaches(&mut b, Some("b")).await;
}

#[tokio::test]
async fn the_higher_generation_wins_and_of_equal_ones_the_newer() {
    let redis = Redis::start().await;
    let settings = settings(&redis.url());
    let (a, mut b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    let c = Peer::start("c", &settings).await;
    let daemon = pair("daemon");
    a.open(&daemon, i64::MAX - 1);
    c.finds(&daemon, Some("a")).await;
    let weaker = b.open(&daemon, i64::MAX - 2);
    b.loses(weaker).await;
    c.finds(&daemon, Some("a")).await;
    b.backplane.daemon_closed(&daemon, weaker);
    b.open(&daemon, i64::MAX - 1);
    c.finds(&daemon, Some("b")).await;
    a.open(&daemon, i64::MAX);
    c.finds(&daemon, Some("a")).await;
}

/// Whoever can write to Redis and has no key takes no daemon away, whatever is written.
#[tokio::test]
async fn what_no_relay_sealed_takes_no_daemon_away() {
    let redis = Redis::start().await;
    let settings = settings(&redis.url());
    let (mut a, c) = (Peer::start("a", &settings).await, Peer::start("c", &settings).await);
    let other = pair("other");
    a.open(&other, 9);
    c.finds(&other, Some("a")).await;
    let (key, sealed) =
        ("relay:daemon:6:daemon:rt:1", redis.cli(&["get", "relay:daemon:5:other:rt:1"]).await);
    let greatest = "99999999999999999999";
    let of_another_relay = sealed.replace("\"relay\":\"a\"", "\"relay\":\"x\"");
    assert_ne!(sealed, of_another_relay);
    let long = "x".repeat(100_000);
    let forged: [&[&str]; 7] = [
        &[
            "hset",
            key,
            "relay",
            "x",
            "connection",
            "z",
            "generation",
            greatest,
            "since",
            "0",
            "record",
            &sealed,
        ],
        &["hset", key, "relay", "x"],
        &["set", key, &of_another_relay],
        &["set", key, &sealed],
        &["set", key, "\u{7f}nothing"],
        &["set", key, &long],
        &["rpush", key, "x"],
    ];
    let daemon = pair("daemon");
    for forged in forged {
        redis.cli(forged).await;
        assert_eq!(c.backplane.daemon(&daemon).await, Ok(None), "{:?}", &forged[..2]);
        let connection = a.open(&daemon, 1);
        c.finds(&daemon, Some("a")).await;
        a.lost_nothing();
        a.backplane.daemon_closed(&daemon, connection);
        until("it is let go", async || redis.cli(&["exists", key]).await == "0").await;
        c.finds(&daemon, None).await;
    }

    // Neither are the rosters poisoned.
    let host = Uuid::new_v4();
    redis.cli(&["set", &format!("relay:host:{host}"), "x"]).await;
    assert_eq!(c.backplane.host(host, true).await, Ok(Vec::new()));
    a.backplane.host_opened(host, Uuid::new_v4());
    until("the host is at a", async || {
        c.backplane.host(host, true).await.is_ok_and(|found| found.len() == 1)
    })
    .await;
}

/// Pairs whose ids would be one text when they are joined.
#[tokio::test]
async fn ids_with_colons_are_not_mixed_up() {
    let redis = Redis::start().await;
    let settings = settings(&redis.url());
    let (a, b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    let mut one = pair("w:rt");
    one.target = Some("1".into());
    let mut two = pair("w");
    two.target = Some("rt:1".into());
    let mut three = pair("w:rt:1");
    three.target = None;
    a.open(&one, 1);
    b.finds(&one, Some("a")).await;
    assert_eq!(b.backplane.daemon(&two).await.unwrap(), None);
    assert_eq!(b.backplane.daemon(&three).await.unwrap(), None);
}

#[tokio::test]
async fn hosts_and_relays_are_found_while_they_are_there() {
    let redis = Redis::start().await;
    let settings = settings(&redis.url());
    let (a, b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    let c = Peer::start("c", &settings).await;
    until("c knows of both", async || c.backplane.others().await.is_ok_and(|others| others.len() == 2)).await;
    let (host, one, two) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let at = async || -> Vec<String> {
        let found = c.backplane.host(host, true).await.unwrap_or_default();
        found.iter().map(|holder| holder.relay.to_string()).collect()
    };
    assert_eq!(at().await, Vec::<String>::new());
    a.backplane.host_opened(host, one);
    until("a has it", async || at().await == ["a"]).await;
    b.backplane.host_opened(host, two);
    until("both have it, the newest first", async || at().await == ["b", "a"]).await;
    let again = Uuid::new_v4();
    a.backplane.host_opened(host, again);
    until("a has the newest", async || at().await == ["a", "b"]).await;
    a.backplane.host_closed(host, again);
    until("its older one is left", async || at().await == ["b", "a"]).await;
    a.backplane.host_closed(host, one);
    until("b alone has it", async || at().await == ["b"]).await;
    b.end().await;
    until("nobody has it", async || at().await.is_empty()).await;
    until("a alone is left", async || c.backplane.others().await.is_ok_and(|others| others.len() == 1)).await;

    // Somebody who can write to Redis and has no key leads nobody astray.
    let key = format!("relay:host:{host}");
    let forged = format!(
        "{:020}{:020}{{\"relay\":\"evil\",\"public_ws\":\"\",\"internal\":\"http://evil/\",\"seal\":\"\"}}",
        i64::MAX,
        1
    );
    redis.cli(&["hset", &key, "evil", &forged]).await;
    a.backplane.host_opened(host, one);
    until("a has it", async || at().await == ["a"]).await;
}

/// A relay is gone, and what it wrote still stands: who sends a frame there hears it with the next one.
#[tokio::test]
async fn where_nobody_listens_nobody_is() {
    let redis = Redis::start().await;
    let settings = settings(&redis.url());
    let (a, b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    let daemon = pair("daemon");
    a.open(&daemon, 1);
    b.finds(&daemon, Some("a")).await;
    b.send(&daemon, Some("gone"), "{}").await.unwrap();
    b.is_unavailable(&daemon).await;
    b.finds(&daemon, Some("a")).await;
}

/// Everything in Redis ends by itself, under the prefix that was set.
#[tokio::test]
async fn every_key_has_an_end_and_the_prefix() {
    let redis = Redis::start().await;
    let mut settings = settings(&redis.url());
    settings.push(set("RELAY_REDIS_KEY_PREFIX", "mine:"));
    let (a, b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    a.open(&pair("daemon"), 1);
    a.backplane.host_opened(Uuid::new_v4(), Uuid::new_v4());
    b.finds(&pair("daemon"), Some("a")).await;
    until("all is there", async || redis.cli(&["dbsize"]).await == "3").await;
    for key in redis.cli(&["keys", "*"]).await.lines() {
        assert!(key.starts_with("mine:"), "{key}");
        let left: i64 = redis.cli(&["pttl", key]).await.parse().unwrap();
        assert!((1..=45_000).contains(&left), "{key}: {left}");
    }
}
