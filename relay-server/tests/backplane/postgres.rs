//! What is particular to PostgreSQL.

use relay_server::backplane::Unavailable;
use relay_server::store::{DatabaseUrl, Store, StoreOptions};
use system_tests::postgres::Postgres;
use uuid::Uuid;

use crate::peers::{Peer, pair, until};
use crate::world::set;

const JWT: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

fn settings(url: &str) -> Vec<(String, String)> {
    vec![
        set("RELAY_BACKPLANE_MODE", "server"),
        set("SERVER_DATABASE_URL", url),
        set("RELAY_JWT_SECRET", JWT),
        set("RELAY_DATABASE_CONNECTIONS", "2"),
    ]
}

/// Hosts are found by the tunnels that the store knows of, and only at relays that live.
#[tokio::test]
async fn hosts_are_found_in_the_relays_own_database() {
    let postgres = Postgres::start().await;
    let url = postgres.database("own").await;
    let (a, mut b) = (Peer::start("a", &settings(&url)).await, Peer::start("b", &settings(&url)).await);
    a.reaches(&mut b, Some("b")).await;
    let store = Store::open(&StoreOptions::new(url.parse::<DatabaseUrl>().unwrap())).await.unwrap();
    let user = store.add_user("ann@example.org").await.unwrap();
    let host = store.upsert_host(user.id, "machine", "Laptop", None).await.unwrap();
    assert_eq!(b.backplane.host(host, true).await.unwrap(), []);
    let tunnel = Uuid::new_v4();
    store.tunnel_opened("a", tunnel, host).await.unwrap();
    until("the host is at a", async || {
        b.backplane.host(host, true).await.is_ok_and(|found| found.len() == 1)
    })
    .await;
    let found = b.backplane.host(host, false).await.unwrap();
    assert_eq!(found[0].internal.as_ref().unwrap().as_str(), "http://a.internal:8080/");
    assert_eq!(a.backplane.host(host, true).await.unwrap(), [], "another relay");
    until("b knows of a", async || b.backplane.others().await.is_ok_and(|others| others.len() == 1)).await;

    // An address that no relay has sealed is no address.
    postgres.execute("own", "update relay.relays set internal = 'http://evil.example/' where id = 'a'").await;
    until("nobody is led astray", async || b.backplane.host(host, true).await == Ok(Vec::new())).await;
    store.tunnel_closed("a", tunnel, host).await.unwrap();
}

/// Whoever can write to the tables and has no key takes no daemon away.
#[tokio::test]
async fn what_no_relay_sealed_takes_no_daemon_away() {
    let postgres = Postgres::start().await;
    let url = postgres.database("own").await;
    let (mut a, c) = (Peer::start("a", &settings(&url)).await, Peer::start("c", &settings(&url)).await);
    let daemon = pair("daemon");
    a.open(&daemon, 1);
    c.finds(&daemon, Some("a")).await;
    for record in
        [r#"replace(record, '"relay":"a"', '"relay":"x"')"#, "'nothing'", "repeat('x', 100000)", "null"]
    {
        let forge = format!(
            "update relay.workspace_relay_presences set relay_id = 'x', connection_id = gen_random_uuid(), \
             generation = 9223372036854775807, seen_at = now() + interval '1 day', record = {record}"
        );
        postgres.execute("own", &forge).await;
        until("nobody is led astray", async || c.backplane.daemon(&daemon).await == Ok(None)).await;
        a.open(&daemon, 1);
        c.finds(&daemon, Some("a")).await;
        a.lost_nothing();
    }
}

/// Who may not have the tables is told so, and is not held up; as soon as they are there they are used.
#[tokio::test]
async fn without_a_schema_nothing_is_known_until_there_is_one() {
    let postgres = Postgres::start().await;
    postgres.database("limited").await;
    postgres
        .execute("limited", "create role limited login; revoke create on schema public from public")
        .await;
    let url = postgres.url_as("limited", "limited");
    let (a, b) = (Peer::start("a", &settings(&url)).await, Peer::start("b", &settings(&url)).await);
    let daemon = pair("daemon");
    assert_eq!(b.backplane.daemon(&daemon).await, Err(Unavailable));
    a.open(&daemon, 1);
    postgres.execute("limited", "create schema relay authorization limited").await;
    b.finds(&daemon, Some("a")).await;
}

/// Payloads that no notification could hold.
#[tokio::test]
async fn large_frames_go_through_the_table() {
    let postgres = Postgres::start().await;
    let url = postgres.database("own").await;
    let (a, mut b) = (Peer::start("a", &settings(&url)).await, Peer::start("b", &settings(&url)).await);
    a.reaches(&mut b, Some("b")).await;
    let frames = pair("large");
    for number in 0..6 {
        let payload = format!("{number}{}", "x".repeat(900_000));
        a.send(&frames, Some("b"), &payload).await.unwrap();
    }
    for number in 0..6 {
        let frame = b.frame_of(&frames).await;
        assert!(frame.payload.len() == 900_001 && frame.payload.starts_with(&number.to_string()));
    }
}

/// The table is emptied and its numbers begin anew while everybody is connected.
#[tokio::test]
async fn numbers_that_begin_anew_make_nobody_deaf() {
    let postgres = Postgres::start().await;
    let url = postgres.database("own").await;
    let (a, mut b) = (Peer::start("a", &settings(&url)).await, Peer::start("b", &settings(&url)).await);
    a.reaches(&mut b, Some("b")).await;
    // More than are sent while the way is tried.
    for number in 0..500 {
        a.send(&pair("many"), Some("b"), &number.to_string()).await.unwrap();
    }
    for _ in 0..500 {
        b.frame().await;
    }
    postgres.execute("own", "truncate relay.relay_bus_frames restart identity").await;
    a.reaches(&mut b, Some("b")).await;
}

/// Frames of many relays at once: nobody's is missed because another's got a higher number first.
#[tokio::test]
async fn many_relays_write_at_once_and_nothing_is_missed() {
    let postgres = Postgres::start().await;
    let url = postgres.database("own").await;
    let mut reader = Peer::start("reader", &settings(&url)).await;
    let mut writers = Vec::new();
    for number in 0..4 {
        let writer = Peer::start(&format!("writer-{number}"), &settings(&url)).await;
        writer.reaches(&mut reader, Some("reader")).await;
        writers.push(writer);
    }
    const EACH: usize = 200;
    for number in 0..EACH {
        for (index, writer) in writers.iter().enumerate() {
            writer.send(&pair(&format!("w{index}")), Some("reader"), &number.to_string()).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    let mut next = vec![0; writers.len()];
    for _ in 0..EACH * writers.len() {
        let frame = reader.frame().await;
        let index: usize = frame.pair.workspace.strip_prefix('w').unwrap().parse().unwrap();
        assert_eq!(*frame.payload, *next[index].to_string(), "of writer {index}");
        next[index] += 1;
    }
}
