//! PostgreSQL users that may not create a schema.

use std::time::Duration;

use relay_protocol::api::HostStatus;
use relay_server::store::{Identity, Store, StoreError};
use uuid::Uuid;

use crate::bench::{unique, until};
use crate::webapp::{Shared, TABLES, the_relay_works};

const SOON: Duration = Duration::from_millis(50);

const GRANTS: &str = "grant select on public.users, public.auth_sessions, public.organization_member_metadata to ROLE; \
     grant update (last_used_at) on public.auth_sessions to ROLE; \
     grant select, insert, update, delete on public.hosts, public.relay_browser_sessions to ROLE";

/// A database and a role that may connect and nothing else.
fn restricted() -> (Shared, String) {
    let (shared, role) = (Shared::new(), unique("limited"));
    shared.sql(&format!("create role {role} login; revoke all on schema public from public; grant usage on schema public to {role}"));
    (shared, role)
}

fn grant(shared: &Shared, role: &str) {
    shared.sql(&GRANTS.replace("ROLE", role));
}

fn not_ready<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotReady(_)))
}

#[tokio::test]
async fn the_contract_tables_are_enough() {
    let (shared, role) = restricted();
    shared.sql(TABLES);
    grant(&shared, &role);
    for _ in 0..2 {
        let store = shared.open_as(&role, SOON).await;
        let notices = store.notices().join("\n");
        assert!(notices.contains("run one relay only") && notices.contains("the web app's"), "{notices}");
        assert!(!notices.contains("waiting"), "{notices}");
        the_relay_works(&shared, &store).await;
    }
    assert_eq!(shared.sql("select count(*) from pg_namespace where nspname = 'relay'"), "0");
}

#[tokio::test]
async fn without_any_tables_it_waits_for_them() {
    let (shared, role) = restricted();
    let store = shared.open_as(&role, SOON).await;
    assert_eq!(store.identity(), Identity::WebApp);
    assert!(store.notices()[0].contains("waiting"), "{:?}", store.notices());
    store.ping().await.unwrap();
    let id = Uuid::new_v4();
    assert!(not_ready(store.auth_session_live(id, id).await));
    assert!(not_ready(store.hosts(id).await));
    assert!(not_ready(store.upsert_host(id, "m", "n", None).await));
    assert!(not_ready(store.live_browser_sessions(&[id]).await));
    assert!(not_ready(store.relay_started("a").await));
    assert!(not_ready(store.tunnel_opened("a", id, id).await));

    shared.sql(TABLES);
    until("they are seen", async || {
        let answer = store.hosts(id).await;
        assert!(not_ready(answer.clone()), "there, and not for us: {answer:?}");
        store.notices().iter().all(|notice| !notice.contains("waiting"))
    })
    .await;
    grant(&shared, &role);
    the_relay_works(&shared, &store).await;
}

/// The host's status as the store tells it.
async fn online(store: &Store, user: Uuid) -> bool {
    store.hosts(user).await.unwrap()[0].status == HostStatus::Online
}

#[tokio::test]
async fn presence_is_kept_in_the_process() {
    let (shared, role) = restricted();
    shared.sql(TABLES);
    grant(&shared, &role);
    let store = shared.open_as(&role, SOON).await;
    let (user, _) = shared.web_user("ann");
    let host = store.upsert_host(user, "m", "Laptop", None).await.unwrap();
    shared.sql("update public.hosts set status = 'online'");
    assert_eq!(store.relay_started("a").await.unwrap(), 1);
    assert!(!online(&store, user).await, "what a crash left is put right");

    let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
    store.tunnel_opened("a", old, host).await.unwrap();
    store.tunnel_opened("a", new, host).await.unwrap();
    store.tunnel_closed("a", old, host).await.unwrap();
    assert!(online(&store, user).await, "a late close");
    shared.sql("update public.hosts set status = 'offline'");
    store.tunnels_alive("a", &[(old, host), (new, host)]).await.unwrap();
    assert!(online(&store, user).await, "confirming writes it again");
    store.tunnel_closed("a", new, host).await.unwrap();
    assert!(!online(&store, user).await);
    store.tunnels_alive("a", &[(new, host)]).await.unwrap();
    assert!(!online(&store, user).await, "a list from before the close");

    // A close that the database did not take is made good by the next confirmation.
    let other = store.upsert_host(user, "m2", "Other", None).await.unwrap();
    store.tunnel_opened("a", Uuid::new_v4(), other).await.unwrap();
    shared.sql("update public.hosts set status = 'online'");
    store.tunnels_alive("a", &[]).await.unwrap();
    let listed = store.hosts(user).await.unwrap();
    let status: Vec<_> = listed.iter().map(|host| (host.name.as_str(), host.status)).collect();
    assert_eq!(status, [("Laptop", HostStatus::Offline), ("Other", HostStatus::Online)]);

    // So are an opening and a close that were not told.
    store.tunnels_are("a", &[(Uuid::new_v4(), host)]).await.unwrap();
    let listed = store.hosts(user).await.unwrap();
    let status: Vec<_> = listed.iter().map(|host| (host.name.as_str(), host.status)).collect();
    assert_eq!(status, [("Laptop", HostStatus::Online), ("Other", HostStatus::Offline)]);
}

#[tokio::test]
async fn a_schema_whose_history_is_somebody_elses_is_not_upgraded() {
    let (shared, role) = restricted();
    drop(shared.open_as("postgres", SOON).await);
    shared.sql(TABLES);
    grant(&shared, &role);
    shared.sql(&format!("grant usage, create on schema relay to {role}"));
    the_relay_works(&shared, &shared.open_as(&role, SOON).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_and_closes_in_any_order_end_with_the_truth_in_the_process_too() {
    let (shared, role) = restricted();
    shared.sql(TABLES);
    grant(&shared, &role);
    let store = shared.open_as(&role, SOON).await;
    let (user, _) = shared.web_user("ann");
    let host = store.upsert_host(user, "m", "Laptop", None).await.unwrap();
    for round in 0..20 {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = store.clone();
            tasks.spawn(async move {
                let connection = Uuid::new_v4();
                store.tunnel_opened("a", connection, host).await.unwrap();
                let confirmed = [(connection, host)];
                let (closed, alive) = tokio::join!(
                    store.tunnel_closed("a", connection, host),
                    store.tunnels_alive("a", &confirmed)
                );
                closed.unwrap();
                alive.unwrap();
            });
        }
        let survivor = Uuid::new_v4();
        let one_stays = round % 2 == 0;
        if one_stays {
            let store = store.clone();
            tasks.spawn(async move { store.tunnel_opened("a", survivor, host).await.unwrap() });
        }
        tasks.join_all().await;
        assert_eq!(online(&store, user).await, one_stays, "round {round}");
        if one_stays {
            store.tunnel_closed("a", survivor, host).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_schema_that_was_made_for_the_role_is_used() {
    let (shared, role) = restricted();
    shared.sql(&format!("create schema relay authorization {role}"));
    let store = shared.open_as(&role, SOON).await;
    assert_eq!(store.identity(), Identity::Own);
    assert_eq!(store.notices(), Vec::<String>::new());
    store.add_user("ann@example.org").await.unwrap();
    shared.sql(TABLES);
    grant(&shared, &role);
    let second_start = shared.open_as(&role, SOON).await;
    assert_eq!(second_start.notices().len(), 1, "{:?}", second_start.notices());
    the_relay_works(&shared, &second_start).await;
}

#[tokio::test]
async fn a_schema_that_somebody_else_migrated_is_used_as_it_is() {
    let (shared, role) = restricted();
    drop(shared.open_as("postgres", SOON).await);
    shared.sql(TABLES);
    grant(&shared, &role);
    shared.sql(&format!(
        "grant usage on schema relay to {role}; grant select, insert, update, delete on all tables in schema relay to {role}"
    ));
    let store = shared.open_as(&role, SOON).await;
    assert_eq!(store.notices().len(), 1, "{:?}", store.notices());
    the_relay_works(&shared, &store).await;
}

#[tokio::test]
async fn a_schema_of_that_name_which_is_not_for_us_is_left_alone() {
    let (shared, role) = restricted();
    drop(shared.open_as("postgres", SOON).await);
    shared.sql(TABLES);
    grant(&shared, &role);
    let store = shared.open_as(&role, SOON).await;
    assert!(store.notices().iter().any(|notice| notice.contains("run one relay only")));
    the_relay_works(&shared, &store).await;
}
