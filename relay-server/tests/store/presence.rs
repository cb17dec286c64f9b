//! Which hosts are online, with one relay and with several, the same on both databases.

use std::time::Duration;

use relay_protocol::api::HostStatus;
use relay_server::store::Store;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::bench::{Bench, user};

crate::on_both_databases!(
    a_host_is_online_while_a_tunnel_is_open,
    a_late_close_after_a_successor_keeps_the_host_online,
    a_tunnel_is_closed_by_its_own_relay_alone,
    a_start_puts_right_what_a_crash_left,
    a_start_leaves_the_tunnels_of_other_relays,
    confirming_restores_refreshes_and_expires,
    confirming_does_not_bring_back_what_was_closed,
    telling_all_that_is_open_makes_good_what_was_not_told,
    a_deleted_host_leaves_no_tunnel_behind,
    opens_and_closes_in_any_order_end_with_the_truth,
);

async fn host(bench: &Bench) -> (Uuid, Uuid) {
    let owner = user(&bench.store, "ann").await.id;
    (owner, bench.store.upsert_host(owner, "machine", "Laptop", None).await.unwrap())
}

async fn online(store: &Store, owner: Uuid) -> bool {
    store.hosts(owner).await.unwrap()[0].status == HostStatus::Online
}

async fn a_host_is_online_while_a_tunnel_is_open(bench: Bench) {
    let (ann, host) = host(&bench).await;
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let other = bench.another().await;
    assert!(!online(&bench.store, ann).await);
    bench.store.tunnel_opened("a", one, host).await.unwrap();
    assert!(online(&bench.store, ann).await);
    assert!(bench.store.host(host).await.unwrap().unwrap().last_seen_at.is_some());
    other.tunnel_opened("b", two, host).await.unwrap();
    bench.store.tunnel_closed("a", one, host).await.unwrap();
    assert!(online(&bench.store, ann).await, "the other relay still has one");
    other.tunnel_closed("b", two, host).await.unwrap();
    assert!(!online(&bench.store, ann).await);
}

async fn a_late_close_after_a_successor_keeps_the_host_online(bench: Bench) {
    let (ann, host) = host(&bench).await;
    let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
    bench.store.tunnel_opened("a", old, host).await.unwrap();
    bench.store.tunnel_opened("a", new, host).await.unwrap();
    bench.store.tunnel_closed("a", old, host).await.unwrap();
    bench.store.tunnel_closed("a", old, host).await.unwrap();
    assert!(online(&bench.store, ann).await);
    bench.store.tunnel_closed("a", new, host).await.unwrap();
    assert!(!online(&bench.store, ann).await);
}

async fn a_tunnel_is_closed_by_its_own_relay_alone(bench: Bench) {
    let (ann, host) = host(&bench).await;
    let connection = Uuid::new_v4();
    bench.store.tunnel_opened("a", connection, host).await.unwrap();
    bench.another().await.tunnel_closed("b", connection, host).await.unwrap();
    assert!(online(&bench.store, ann).await);
}

async fn a_start_puts_right_what_a_crash_left(bench: Bench) {
    let (ann, host) = host(&bench).await;
    bench.sql("update hosts set status = 'online'").await;
    assert_eq!(bench.store.relay_started("a").await.unwrap(), 1, "online without any tunnel");
    assert!(!online(&bench.store, ann).await);

    bench.store.tunnel_opened("a", Uuid::new_v4(), host).await.unwrap();
    let next_run = bench.another().await;
    assert_eq!(next_run.relay_started("a").await.unwrap(), 1, "its own, from the last run");
    assert!(!online(&next_run, ann).await);
    assert_eq!(next_run.relay_started("a").await.unwrap(), 0);

    bench.store.tunnel_opened("b", Uuid::new_v4(), host).await.unwrap();
    bench.age("tunnels", "seen_at", 46).await;
    assert_eq!(next_run.relay_started("a").await.unwrap(), 1, "another relay's that was not confirmed");
    assert!(!online(&next_run, ann).await);
}

async fn a_start_leaves_the_tunnels_of_other_relays(bench: Bench) {
    let (ann, host) = host(&bench).await;
    bench.store.tunnel_opened("a", Uuid::new_v4(), host).await.unwrap();
    assert_eq!(bench.another().await.relay_started("b").await.unwrap(), 0);
    assert!(online(&bench.store, ann).await);
    bench.age("tunnels", "seen_at", 30).await;
    assert_eq!(bench.another().await.relay_started("b").await.unwrap(), 0, "two confirmations may be lost");
    assert!(online(&bench.store, ann).await);
}

async fn confirming_restores_refreshes_and_expires(bench: Bench) {
    let (ann, host) = host(&bench).await;
    let mine = Uuid::new_v4();
    bench.store.tunnel_opened("a", mine, host).await.unwrap();
    bench.sql("delete from tunnels").await;
    bench.sql("update hosts set status = 'offline', last_seen_at = null").await;
    bench.store.tunnels_alive("a", &[(mine, host)]).await.unwrap();
    assert!(online(&bench.store, ann).await, "lost rows are written again");
    assert!(bench.store.hosts(ann).await.unwrap()[0].last_seen_at.is_some());

    bench.age("tunnels", "seen_at", 40).await;
    bench.store.tunnels_alive("a", &[(mine, host)]).await.unwrap();
    bench.age("tunnels", "seen_at", 40).await;
    let other = bench.another().await;
    other.tunnels_alive("b", &[]).await.unwrap();
    assert!(online(&bench.store, ann).await, "80 s old, and confirmed 40 s ago");
    bench.age("tunnels", "seen_at", 6).await;
    other.tunnels_alive("b", &[]).await.unwrap();
    assert!(!online(&bench.store, ann).await, "its relay is gone");
}

async fn confirming_does_not_bring_back_what_was_closed(bench: Bench) {
    let (ann, host) = host(&bench).await;
    let closed = Uuid::new_v4();
    bench.store.tunnel_opened("a", closed, host).await.unwrap();
    bench.store.tunnel_closed("a", closed, host).await.unwrap();
    bench.store.tunnels_alive("a", &[(closed, host)]).await.unwrap();
    assert!(!online(&bench.store, ann).await, "a list from before the close");
}

async fn telling_all_that_is_open_makes_good_what_was_not_told(bench: Bench) {
    let (ann, host) = host(&bench).await;
    let other = bench.store.upsert_host(ann, "second", "Second", None).await.unwrap();
    let online = async || {
        let hosts = bench.store.hosts(ann).await.unwrap();
        hosts.into_iter().filter(|h| h.status == HostStatus::Online).map(|h| h.id).collect::<Vec<_>>()
    };
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    bench.store.tunnels_are("a", &[(one, host)]).await.unwrap();
    assert_eq!(online().await, [host], "its opening was not told");
    bench.age("tunnels", "seen_at", 40).await;
    bench.store.tunnels_are("a", &[(one, host)]).await.unwrap();
    bench.age("tunnels", "seen_at", 40).await;
    bench.another().await.tunnels_alive("b", &[]).await.unwrap();
    assert_eq!(online().await, [host], "and it is confirmed from then on");
    bench.store.tunnels_are("a", &[(two, other)]).await.unwrap();
    assert_eq!(online().await, [other], "the first one's close was not told");
    bench.store.tunnels_are("a", &[(two, host)]).await.unwrap();
    assert_eq!(online().await, [host], "it was another host's");
    bench.store.tunnel_closed("a", two, host).await.unwrap();
    assert!(online().await.is_empty());
    // The list was made before the close, which is told after it.
    bench.store.tunnel_opened("a", one, host).await.unwrap();
    bench.store.tunnels_are("a", &[(one, host)]).await.unwrap();
    bench.store.tunnel_closed("a", one, host).await.unwrap();
    bench.store.tunnels_alive("a", &[(one, host)]).await.unwrap();
    assert!(online().await.is_empty());
}

async fn a_deleted_host_leaves_no_tunnel_behind(bench: Bench) {
    let (ann, host) = host(&bench).await;
    let connection = Uuid::new_v4();
    bench.store.tunnel_opened("a", connection, host).await.unwrap();
    assert!(bench.store.delete_host(host, ann).await.unwrap());
    bench.store.tunnels_alive("a", &[(connection, host)]).await.unwrap();
    bench.store.tunnel_closed("a", connection, host).await.unwrap();
    assert_eq!(bench.store.relay_started("a").await.unwrap(), 0);
    // A row that was left would make a host of the same id online: none may be there.
    let (owner, id) = (bench.id(ann), bench.id(host));
    bench
        .sql(&format!(
            "insert into hosts (id, owner_user_id, machine_id, name, status, created_at, updated_at) \
             select {id}, {owner}, 'm', 'n', 'online', created_at, created_at from users"
        ))
        .await;
    assert_eq!(bench.store.relay_started("b").await.unwrap(), 1);
}

/// Two relays open and close tunnels of one host as fast as they can, each also confirming what it
/// has. When all is closed the host is offline, when one is left it is online.
async fn opens_and_closes_in_any_order_end_with_the_truth(bench: Bench) {
    let (ann, host) = host(&bench).await;
    let relays = [("a", bench.store.clone()), ("b", bench.another().await)];
    for round in 0..8 {
        let survivor = Uuid::new_v4();
        let mut tasks = tokio::task::JoinSet::new();
        for turn in 0..8 {
            let (relay, store) = relays[turn % 2].clone();
            tasks.spawn(async move {
                let connection = Uuid::new_v4();
                store.tunnel_opened(relay, connection, host).await.unwrap();
                let confirmed = [(connection, host)];
                let (closed, alive) = tokio::join!(
                    store.tunnel_closed(relay, connection, host),
                    store.tunnels_alive(relay, &confirmed)
                );
                closed.unwrap();
                alive.unwrap();
            });
        }
        let one_stays = round % 2 == 0;
        if one_stays {
            let (relay, store) = relays[0].clone();
            tasks.spawn(async move { store.tunnel_opened(relay, survivor, host).await.unwrap() });
        }
        tasks.join_all().await;
        assert_eq!(online(&bench.store, ann).await, one_stays, "round {round}");
        if one_stays {
            bench.store.tunnel_closed("a", survivor, host).await.unwrap();
        }
    }
}

/// Another relay's open is under way, not committed, when the last tunnel of this relay closes: the
/// close must wait for it and then see it.
#[tokio::test]
async fn a_close_sees_the_successor_that_is_just_being_written() {
    let bench = Bench::postgres().await;
    let (ann, host) = host(&bench).await;
    let old = Uuid::new_v4();
    bench.store.tunnel_opened("a", old, host).await.unwrap();
    let mut opening = bench.connection().await;
    let written = format!(
        "begin; update relay.hosts set status = 'online' where id = '{host}'; \
         insert into relay.tunnels values ('{}', 'b', '{host}', now(), now())",
        Uuid::new_v4()
    );
    opening.execute(AssertSqlSafe(written)).await.unwrap();
    let store = bench.store.clone();
    let closing = tokio::spawn(async move { store.tunnel_closed("a", old, host).await });
    bench.somebody_waits().await;
    opening.execute("commit").await.unwrap();
    closing.await.unwrap().unwrap();
    assert!(online(&bench.store, ann).await);
}

/// A tunnel closes while its confirmation is on the way, and the close itself is given up before the
/// database took it: the confirmation must not leave it open.
#[tokio::test]
async fn a_confirmation_looks_again_for_what_closed_meanwhile() {
    let bench = Bench::postgres().await;
    let (ann, host) = host(&bench).await;
    let connection = Uuid::new_v4();
    bench.store.tunnel_opened("a", connection, host).await.unwrap();
    let blocker = bench.block_hosts().await;
    let store = bench.store.clone();
    let confirming = tokio::spawn(async move { store.tunnels_alive("a", &[(connection, host)]).await });
    bench.somebody_waits().await;
    let closing = bench.store.tunnel_closed("a", connection, host);
    assert!(tokio::time::timeout(Duration::from_millis(50), closing).await.is_err());
    blocker.release().await;
    confirming.await.unwrap().unwrap();
    assert!(!online(&bench.store, ann).await);
}
