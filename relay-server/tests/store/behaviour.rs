//! Users, tokens, hosts and browser sessions, the same on both databases.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use relay_protocol::api::{AccessRole, HostStatus};
use relay_server::store::{Identity, Store, StoreError};
use uuid::Uuid;

use crate::bench::{Bench, signed_in, user};

crate::on_both_databases!(
    it_opens_alone,
    users_are_added_once,
    tokens_are_made_listed_and_revoked,
    a_session_is_live_until_it_is_revoked_or_forgotten,
    many_sessions_are_asked_at_once,
    a_host_is_its_owners_and_its_machines,
    hosts_are_listed_by_name,
    a_host_is_renamed_and_deleted_by_its_owner_alone,
    a_shared_host_is_for_members_while_they_are_members,
    hosts_that_exist_are_told_from_those_that_do_not,
    a_browser_session_needs_access_and_a_live_sign_in,
    browser_sessions_are_removed_after_their_lifetime,
    a_browser_session_ends_with_anything_it_hangs_on,
    browser_sessions_are_listed_touched_and_revoked,
    the_same_machine_twice_at_once_is_one_host,
    two_stores_open_the_same_empty_database_at_once,
    a_database_that_does_not_answer_is_given_up,
);

const YEAR: u64 = 365 * 24 * 60 * 60;

fn is_conflict<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict(_)))
}

async fn it_opens_alone(bench: Bench) {
    assert_eq!(bench.store.identity(), Identity::Own);
    assert_eq!(bench.store.notices(), Vec::<String>::new());
    bench.store.ping().await.unwrap();
    let again = bench.another().await;
    again.ping().await.unwrap();
}

async fn users_are_added_once(bench: Bench) {
    let store = &bench.store;
    let zoe = store.add_user(" Zoe@Example.org ").await.unwrap();
    assert_eq!(zoe.email, "zoe@example.org");
    let ann = user(store, "ann").await;
    assert!(is_conflict(store.add_user("ZOE@example.org").await));
    assert_eq!(store.users().await.unwrap(), vec![ann, zoe]);
}

async fn tokens_are_made_listed_and_revoked(bench: Bench) {
    let store = &bench.store;
    assert!(is_conflict(store.create_token("nobody@example.org", "x", 1).await));
    assert_eq!(store.tokens().await.unwrap(), vec![], "nothing is left of it");
    let ann = user(store, "ann").await;
    let first = store.create_token("Ann@example.org", "laptop", 4_000_000_000).await.unwrap();
    assert_eq!(
        (first.user_id, first.email.as_str(), first.name.as_str()),
        (ann.id, "ann@example.org", "laptop")
    );
    assert_eq!((first.expires_at, first.last_used_at, first.revoked_at), (4_000_000_000, None, None));
    bench.age("auth_sessions", "created_at", 10).await;
    let second = store.create_token("ann@example.org", "desktop", 4_000_000_000).await.unwrap();
    assert!((second.created_at - first.created_at).abs() < 60);
    let ids =
        |tokens: Vec<relay_server::store::TokenRow>| tokens.into_iter().map(|t| t.id).collect::<Vec<_>>();
    assert_eq!(ids(store.tokens().await.unwrap()), [second.id, first.id], "newest first");

    assert!(store.revoke_token(first.id).await.unwrap());
    assert!(!store.revoke_token(first.id).await.unwrap(), "only once");
    assert!(!store.revoke_token(Uuid::new_v4()).await.unwrap());
    let listed = store.tokens().await.unwrap();
    assert!(listed[0].revoked_at.is_none() && listed[1].revoked_at.is_some());
}

async fn last_used(store: &Store) -> Option<i64> {
    store.tokens().await.unwrap()[0].last_used_at
}

async fn a_session_is_live_until_it_is_revoked_or_forgotten(bench: Bench) {
    let store = &bench.store;
    let (ann, session) = signed_in(store, "ann").await;
    let bob = user(store, "bob").await.id;
    assert_eq!(last_used(store).await, None);
    assert!(!store.auth_session_live(session, bob).await.unwrap(), "it is not Bob's");
    assert!(!store.auth_session_live(Uuid::new_v4(), ann).await.unwrap());
    assert_eq!(last_used(store).await, None, "no use of it was made");
    assert!(store.auth_session_live(session, ann).await.unwrap());

    let noted = last_used(store).await.expect("the use was noted");
    bench.age("auth_sessions", "last_used_at", 40).await;
    assert!(store.auth_session_live(session, ann).await.unwrap());
    assert_eq!(last_used(store).await, Some(noted - 40), "not again within the minute");
    bench.age("auth_sessions", "last_used_at", 40).await;
    assert!(store.auth_session_live(session, ann).await.unwrap());
    assert!(last_used(store).await.unwrap() >= noted, "after the minute");

    // Age alone does not end a session that is used; 365 days without use do.
    bench.age("auth_sessions", "created_at", 2 * YEAR).await;
    bench.age("auth_sessions", "last_used_at", YEAR - 3600).await;
    assert!(store.auth_session_live(session, ann).await.unwrap());
    bench.age("auth_sessions", "last_used_at", YEAR + 3600).await;
    assert!(!store.auth_session_live(session, ann).await.unwrap());

    // One that was never used counts from when it was made.
    let never = store.create_token("bob@example.org", "x", 1).await.unwrap().id;
    bench.age("auth_sessions", "created_at", YEAR + 3600).await;
    assert!(!store.auth_session_live(never, bob).await.unwrap());

    let revoked = store.create_token("bob@example.org", "x", 1).await.unwrap().id;
    assert!(store.auth_session_live(revoked, bob).await.unwrap());
    store.revoke_token(revoked).await.unwrap();
    assert!(!store.auth_session_live(revoked, bob).await.unwrap());
}

async fn many_sessions_are_asked_at_once(bench: Bench) {
    let store = &bench.store;
    let (ann, live) = signed_in(store, "ann").await;
    let (bob, revoked) = signed_in(store, "bob").await;
    let (cas, old) = signed_in(store, "cas").await;
    let sql = format!("update auth_sessions set last_used_at = created_at where id = {}", bench.id(old));
    bench.sql(&sql).await;
    bench.age("auth_sessions", "last_used_at", YEAR + 3600).await;
    store.revoke_token(revoked).await.unwrap();
    let pairs = [(live, ann), (revoked, bob), (old, cas), (Uuid::new_v4(), ann)];
    assert_eq!(store.auth_sessions_live(&pairs).await.unwrap(), HashSet::from([live]));
    assert_eq!(store.auth_sessions_live(&[(live, bob)]).await.unwrap(), HashSet::new(), "not Bob's");
    assert_eq!(store.auth_sessions_live(&[]).await.unwrap(), HashSet::new());
    assert!(store.tokens().await.unwrap().iter().all(|t| t.id != live || t.last_used_at.is_none()));
}

async fn a_host_is_its_owners_and_its_machines(bench: Bench) {
    let store = &bench.store;
    let (ann, bob) = (user(store, "ann").await.id, user(store, "bob").await.id);
    let host = store.upsert_host(ann, "machine", "Laptop", Some("1.0")).await.unwrap();
    assert_eq!(store.upsert_host(ann, "machine", "Other", Some("1.1")).await.unwrap(), host);
    assert_ne!(store.upsert_host(ann, "machine 2", "Laptop", None).await.unwrap(), host);
    assert_ne!(store.upsert_host(bob, "machine", "Laptop", None).await.unwrap(), host);
    assert!(is_conflict(store.upsert_host(Uuid::new_v4(), "machine", "Laptop", None).await));

    let row = store.host(host).await.unwrap().unwrap();
    assert_eq!((row.id, row.owner, row.name.as_str(), row.last_seen_at), (host, ann, "Laptop", None));
    assert_eq!(store.host(Uuid::new_v4()).await.unwrap(), None);
    let version =
        async || store.hosts(ann).await.unwrap().into_iter().find(|h| h.id == host).unwrap().agent_version;
    assert_eq!(version().await.as_deref(), Some("1.1"));
    store.upsert_host(ann, "machine", "Other", None).await.unwrap();
    assert_eq!(version().await.as_deref(), Some("1.1"), "an agent that does not tell keeps what was told");

    assert_eq!(store.host_access(host, ann).await.unwrap(), Some(AccessRole::Owner));
    assert_eq!(store.host_access(host, bob).await.unwrap(), None);
    assert_eq!(store.host_access(Uuid::new_v4(), ann).await.unwrap(), None);
}

async fn hosts_are_listed_by_name(bench: Bench) {
    let store = &bench.store;
    let (ann, bob) = (user(store, "ann").await.id, user(store, "bob").await.id);
    for name in ["beta", "Alpha", "gamma", "\u{c4}rger", "Beta 2"] {
        store.upsert_host(ann, name, name, None).await.unwrap();
    }
    store.upsert_host(bob, "m", "Bob's", None).await.unwrap();
    let hosts = store.hosts(ann).await.unwrap();
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["Alpha", "beta", "Beta 2", "gamma", "\u{c4}rger"]);
    let first = &hosts[0];
    assert_eq!(
        (first.status, first.role, first.last_seen_at),
        (HostStatus::Offline, AccessRole::Owner, None)
    );
    assert!(first.machine_id == "Alpha" && first.created_at > 1_700_000_000);
}

async fn a_host_is_renamed_and_deleted_by_its_owner_alone(bench: Bench) {
    let store = &bench.store;
    let (ann, ann_session) = signed_in(store, "ann").await;
    let bob = user(store, "bob").await.id;
    let host = store.upsert_host(ann, "machine", "Laptop", None).await.unwrap();
    let session = store.create_browser_session(host, ann, ann_session).await.unwrap().id;

    assert!(!store.rename_host(host, bob, "Mine").await.unwrap());
    assert!(store.rename_host(host, ann, "Desk").await.unwrap());
    assert!(!store.rename_host(Uuid::new_v4(), ann, "Desk").await.unwrap());
    store.upsert_host(ann, "machine", "Laptop", None).await.unwrap();
    assert_eq!(store.host(host).await.unwrap().unwrap().name, "Desk", "a reconnect keeps the chosen name");

    assert!(!store.delete_host(host, bob).await.unwrap());
    assert_eq!(store.live_browser_sessions(&[session]).await.unwrap().len(), 1, "and took nothing away");
    assert!(store.delete_host(host, ann).await.unwrap());
    assert!(!store.delete_host(host, ann).await.unwrap());
    assert_eq!(store.host(host).await.unwrap(), None);
    assert_eq!(store.live_browser_sessions(&[session]).await.unwrap(), vec![]);
    assert!(!store.revoke_browser_session(session, ann).await.unwrap(), "the row itself is gone");
}

async fn a_shared_host_is_for_members_while_they_are_members(bench: Bench) {
    let store = &bench.store;
    let (ann, bob, cas) =
        (user(store, "ann").await.id, user(store, "bob").await.id, user(store, "cas").await.id);
    let (team, other) = (Uuid::new_v4(), Uuid::new_v4());
    bench.join(team, ann).await;
    bench.join(team, bob).await;
    bench.join(other, cas).await;
    let host = store.upsert_host(ann, "m", "Shared", None).await.unwrap();
    store.upsert_host(ann, "m2", "Private", None).await.unwrap();
    assert_eq!(store.host_access(host, bob).await.unwrap(), None, "not shared yet");
    bench.share(host, team).await;
    assert_eq!(
        store.host_access(host, ann).await.unwrap(),
        Some(AccessRole::Owner),
        "the owner stays the owner"
    );
    assert_eq!(store.host_access(host, bob).await.unwrap(), Some(AccessRole::Member));
    assert_eq!(store.host_access(host, cas).await.unwrap(), None, "another organization");
    let seen: Vec<_> = store.hosts(bob).await.unwrap().into_iter().map(|h| (h.name, h.role)).collect();
    assert_eq!(seen, [("Shared".to_owned(), AccessRole::Member)]);
    assert!(!store.rename_host(host, bob, "Mine").await.unwrap());
    assert!(!store.delete_host(host, bob).await.unwrap());
    bench.sql("delete from organization_member_metadata").await;
    assert_eq!(store.host_access(host, bob).await.unwrap(), None);
    assert_eq!(store.hosts(bob).await.unwrap(), vec![]);
}

async fn hosts_that_exist_are_told_from_those_that_do_not(bench: Bench) {
    let store = &bench.store;
    let ann = user(store, "ann").await.id;
    let kept = store.upsert_host(ann, "kept", "Kept", None).await.unwrap();
    let deleted = store.upsert_host(ann, "deleted", "Deleted", None).await.unwrap();
    let asked = [kept, Uuid::new_v4(), deleted, kept];
    assert_eq!(store.existing_hosts(&asked).await.unwrap(), HashSet::from([kept, deleted]));
    assert!(store.delete_host(deleted, ann).await.unwrap());
    assert_eq!(store.existing_hosts(&asked).await.unwrap(), HashSet::from([kept]));
    assert_eq!(store.existing_hosts(&[]).await.unwrap(), HashSet::new());
}

async fn browser_sessions_are_removed_after_their_lifetime(bench: Bench) {
    let store = &bench.store;
    let (ann, sign_in) = signed_in(store, "ann").await;
    let host = store.upsert_host(ann, "m", "Laptop", None).await.unwrap();
    let old = store.create_browser_session(host, ann, sign_in).await.unwrap();
    bench.age("relay_browser_sessions", "created_at", 3600).await;
    let fresh = store.create_browser_session(host, ann, sign_in).await.unwrap();
    let (now, day) = (fresh.created_at, 24 * 3600);
    let lifetime = std::time::Duration::from_secs(1800);
    assert_eq!(store.forget_browser_sessions(now, lifetime).await.unwrap(), 0, "a day of grace");
    assert_eq!(store.forget_browser_sessions(now + day, lifetime).await.unwrap(), 1);
    let left = store.live_browser_sessions(&[old.id, fresh.id]).await.unwrap();
    assert_eq!(left.iter().map(|session| session.id).collect::<Vec<_>>(), [fresh.id]);
    assert_eq!(store.forget_browser_sessions(now, std::time::Duration::MAX).await.unwrap(), 0);
}

async fn a_browser_session_needs_access_and_a_live_sign_in(bench: Bench) {
    let store = &bench.store;
    let (ann, ann_session) = signed_in(store, "ann").await;
    let (bob, bob_session) = signed_in(store, "bob").await;
    let host = store.upsert_host(ann, "m", "Laptop", None).await.unwrap();
    let made = store.create_browser_session(host, ann, ann_session).await.unwrap();
    assert_eq!((made.host_id, made.user_id, made.auth_session_id), (host, ann, ann_session));
    assert_eq!((made.role, made.last_used_at), (AccessRole::Owner, None));
    assert_eq!(store.live_browser_sessions(&[made.id]).await.unwrap(), vec![made]);

    assert!(is_conflict(store.create_browser_session(host, bob, bob_session).await), "not Bob's host");
    assert!(is_conflict(store.create_browser_session(host, ann, bob_session).await), "not Ann's sign-in");
    assert!(
        is_conflict(store.create_browser_session(Uuid::new_v4(), ann, ann_session).await),
        "no such host"
    );
    store.revoke_token(ann_session).await.unwrap();
    assert!(is_conflict(store.create_browser_session(host, ann, ann_session).await), "signed out");
    assert_eq!(store.browser_sessions(bob).await.unwrap(), vec![]);
}

async fn a_browser_session_ends_with_anything_it_hangs_on(bench: Bench) {
    let store = &bench.store;
    let ann = user(store, "ann").await.id;
    let (bob, sign_in) = signed_in(store, "bob").await;
    let team = Uuid::new_v4();
    let host = store.upsert_host(ann, "m", "Shared", None).await.unwrap();
    bench.share(host, team).await;
    bench.join(team, bob).await;
    let session = store.create_browser_session(host, bob, sign_in).await.unwrap();
    assert_eq!(session.role, AccessRole::Member);
    let alive = async || !store.live_browser_sessions(&[session.id]).await.unwrap().is_empty();
    assert!(alive().await);

    bench.sql("delete from organization_member_metadata").await;
    assert!(!alive().await, "no longer a member");
    bench.join(team, bob).await;
    assert!(alive().await);
    bench.sql("update hosts set shared_with_organization_id = null").await;
    assert!(!alive().await, "no longer shared");
    bench.share(host, team).await;
    bench.age("auth_sessions", "created_at", YEAR + 60).await;
    assert!(!alive().await, "the sign-in was not used for a year");
    assert!(store.browser_sessions(bob).await.unwrap().is_empty());
    let fresh = store.create_token("bob@example.org", "x", 1).await.unwrap().id;
    let session = store.create_browser_session(host, bob, fresh).await.unwrap();
    store.revoke_token(fresh).await.unwrap();
    assert_eq!(store.live_browser_sessions(&[session.id]).await.unwrap(), vec![], "signed out");
}

async fn browser_sessions_are_listed_touched_and_revoked(bench: Bench) {
    let store = &bench.store;
    let (ann, sign_in) = signed_in(store, "ann").await;
    let bob = user(store, "bob").await.id;
    let host = store.upsert_host(ann, "m", "Laptop", None).await.unwrap();
    let first = store.create_browser_session(host, ann, sign_in).await.unwrap().id;
    bench.age("relay_browser_sessions", "created_at", 10).await;
    let second = store.create_browser_session(host, ann, sign_in).await.unwrap().id;
    let listed =
        async || store.browser_sessions(ann).await.unwrap().into_iter().map(|s| s.id).collect::<Vec<_>>();
    assert_eq!(listed().await, [second, first], "newest first");
    let both: HashSet<Uuid> = store
        .live_browser_sessions(&[first, Uuid::new_v4(), second])
        .await
        .unwrap()
        .iter()
        .map(|s| s.id)
        .collect();
    assert_eq!(both, HashSet::from([first, second]));
    assert_eq!(store.live_browser_sessions(&[]).await.unwrap(), vec![]);

    store.touch_browser_sessions(&[first]).await.unwrap();
    store.touch_browser_sessions(&[]).await.unwrap();
    let used = store.browser_sessions(ann).await.unwrap();
    assert!(used[0].last_used_at.is_none() && used[1].last_used_at.is_some());

    assert!(!store.revoke_browser_session(first, bob).await.unwrap(), "not Bob's");
    assert!(store.revoke_browser_session(first, ann).await.unwrap());
    assert!(!store.revoke_browser_session(first, ann).await.unwrap());
    assert_eq!(listed().await, [second]);
    assert_eq!(store.live_browser_sessions(&[first]).await.unwrap(), vec![]);
}

async fn the_same_machine_twice_at_once_is_one_host(bench: Bench) {
    let ann = user(&bench.store, "ann").await.id;
    let other = bench.another().await;
    let mut tasks = tokio::task::JoinSet::new();
    for turn in 0..32 {
        let store = if turn % 2 == 0 { bench.store.clone() } else { other.clone() };
        tasks.spawn(async move { store.upsert_host(ann, "machine", "Laptop", Some("1")).await.unwrap() });
    }
    let ids: HashSet<Uuid> = tasks.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(bench.store.hosts(ann).await.unwrap().len(), 1);
}

async fn two_stores_open_the_same_empty_database_at_once(_: Bench) {
    let folder = tempfile::tempdir().unwrap();
    let server = crate::bench::server();
    let database = crate::bench::unique("race");
    server.createdb(&database);
    let sqlite = format!("sqlite:{}", folder.path().join("relay.db").display());
    for url in [sqlite, server.url(&database)] {
        let options = relay_server::store::StoreOptions::new(url.parse().unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let options = options.clone();
            tasks.spawn(async move { Store::open(&options).await.unwrap() });
        }
        let stores = tasks.join_all().await;
        user(&stores[0], "ann").await;
        assert_eq!(stores[5].users().await.unwrap().len(), 1, "{url}");
    }
}

async fn a_database_that_does_not_answer_is_given_up(bench: Bench) {
    let ann = user(&bench.store, "ann").await.id;
    let host = bench.store.upsert_host(ann, "m", "Laptop", None).await.unwrap();
    let blocker = bench.block_hosts().await;
    let started = Instant::now();
    let refused = bench.store.rename_host(host, ann, "Other").await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    blocker.release().await;
    assert!(bench.store.rename_host(host, ann, "Other").await.unwrap(), "and works again by itself");
}
