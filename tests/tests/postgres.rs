//! PostgreSQL: alone, beside a web app whichever starts first, with a role that may do little, and
//! when it goes away.

use std::time::Duration;

use http::{Method, StatusCode};
use relay_protocol::{
    api::{AccessRole, HostStatus},
    problem::Code,
};
use serde_json::json;
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, RelayOptions, SOON, Stack,
    client::{self, fetch, get, try_fetch},
    eventually,
    local::app,
    postgres::{Postgres, WEB_APP, web_user},
    stack::HOST,
    throttle::{Rate, Throttle},
    tokens::{self, SECRET},
    within,
};
use uuid::Uuid;

/// How long a revocation, or the loss of a membership, may take to be felt.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

fn beside_the_app(url: &str) -> RelayOptions {
    RelayOptions::default().database(url).env("VIBEKANBAN_REMOTE_JWT_SECRET", SECRET)
}

/// An agent, a session, a request: the whole way. Returns them for more.
async fn end_to_end(relay: &Relay, token: &str, local: &LocalServer) -> (Agent, Uuid, Uuid) {
    let agent = Agent::start(AgentOptions::new(&relay.url(), &local.url(), token, HOST)).await;
    let host = relay.await_host(token, HOST, HostStatus::Online).await.id;
    let session = relay.create_session(token, host).await;
    let reply = fetch(relay.addr, get(&path(host, session, "/hello"))).await;
    assert_eq!(reply.text(), "hello", "{reply:?}");
    (agent, host, session)
}

fn path(host: Uuid, session: Uuid, local: &str) -> String {
    format!("/v1/relay/h/{host}/s/{session}{local}")
}

/// The web app's own migration history, and the tables that it can see in its schema.
async fn apps_view(postgres: &Postgres, database: &str) -> (String, String) {
    let history =
        "SELECT string_agg(version::text || description, ',' ORDER BY version) FROM public._sqlx_migrations";
    let tables = "SELECT string_agg(table_name || ':' || (SELECT string_agg(column_name || data_type, ',' ORDER BY ordinal_position) \
                  FROM information_schema.columns c WHERE c.table_schema = 'public' AND c.table_name = t.table_name), ' ' ORDER BY table_name) \
                  FROM information_schema.tables t WHERE table_schema = 'public'";
    (postgres.text(database, history).await, postgres.text(database, tables).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_on_postgres_everything_works_and_outlives_a_restart() {
    let postgres = Postgres::start().await;
    let url = postgres.database("alone").await;
    let local = LocalServer::router(app()).await;
    let options = RelayOptions::default().database(&url).env("RELAY_JWT_SECRET", SECRET);
    let mut stack = Stack::with(&local.url(), options, |a| a).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");
    // Whatever is ours lies in a schema of our own.
    let public = "SELECT count(*)::text FROM information_schema.tables WHERE table_schema = 'public'";
    let own = "SELECT count(*)::text FROM information_schema.tables WHERE table_schema = 'relay'";
    assert_eq!(postgres.text("alone", public).await, "0");
    assert_ne!(postgres.text("alone", own).await, "0");

    stack.relay.restart().await;
    eventually("the session goes on", SOON, || async { stack.get("/hello").await.text() == "hello" }).await;
    assert_eq!(stack.relay.hosts(&stack.token).await.len(), 1);
    let id = tokens::read(&stack.token)["session_id"].as_str().unwrap().to_owned();
    assert!(stack.relay.cli(&["token", "revoke", &id]).await.status.success());
    eventually("the revocation is felt", REVOKED_WITHIN, || async {
        stack.get("/hello").await.status == StatusCode::UNAUTHORIZED
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_web_app_first_then_the_relay_then_both_again() {
    let postgres = Postgres::start().await;
    let url = postgres.database("shared").await;
    postgres.execute("shared", WEB_APP).await;
    let before = apps_view(&postgres, "shared").await;
    let (user, session) = web_user(&postgres, "shared", "a@example.com").await;
    let token = tokens::good(user, session);
    let local = LocalServer::router(app()).await;
    let mut relay = Relay::start(beside_the_app(&url)).await;
    let (_agent, host, browser) = end_to_end(&relay, &token, &local).await;
    assert_eq!(apps_view(&postgres, "shared").await, before, "the relay changed what is the web app's");
    // The rows are where the web app looks for them.
    let row = format!(
        "SELECT owner_user_id || ' ' || name || ' ' || status || ' ' || (agent_version IS NOT NULL)::text \
         || ' ' || (last_seen_at > now() - interval '1 minute')::text FROM hosts WHERE id = '{host}'"
    );
    assert_eq!(postgres.text("shared", &row).await, format!("{user} {HOST} online true true"));
    let row = format!(
        "SELECT host_id || ' ' || user_id || ' ' || auth_session_id FROM relay_browser_sessions WHERE id = '{browser}'"
    );
    assert_eq!(postgres.text("shared", &row).await, format!("{host} {user} {session}"));
    let used = format!(
        "SELECT (last_used_at > now() - interval '1 minute')::text FROM auth_sessions WHERE id = '{session}'"
    );
    assert_eq!(postgres.text("shared", &used).await, "true");

    // The web app upgrades: a later migration of its own, in its own history.
    postgres
        .execute(
            "shared",
            "INSERT INTO public._sqlx_migrations VALUES (20250202000000, 'more', now(), true, '\\x01', 1); \
             ALTER TABLE hosts ADD COLUMN color TEXT; CREATE TABLE relay_stuff (id INT PRIMARY KEY);",
        )
        .await;
    let before = apps_view(&postgres, "shared").await;
    relay.restart().await;
    relay.await_host(&token, HOST, HostStatus::Online).await;
    eventually("the session goes on", SOON, || async {
        fetch(relay.addr, get(&path(host, browser, "/hello"))).await.text() == "hello"
    })
    .await;
    assert_eq!(apps_view(&postgres, "shared").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_first_then_the_web_app_without_a_restart() {
    let postgres = Postgres::start().await;
    let url = postgres.database("early").await;
    let mut relay = Relay::start(beside_the_app(&url)).await;
    let nobody = tokens::good(Uuid::new_v4(), Uuid::new_v4());
    let refused = relay.api(Method::GET, "/v1/relay/hosts", &nobody).await;
    assert!(matches!(refused.status.as_u16(), 401 | 503), "{refused:?}");

    // The web app's migrations apply as if we were not there.
    postgres.execute("early", WEB_APP).await;
    let before = apps_view(&postgres, "early").await;
    let (user, session) = web_user(&postgres, "early", "a@example.com").await;
    let token = tokens::good(user, session);
    eventually("the relay sees the web app's users", Duration::from_secs(60), || async {
        relay.api(Method::GET, "/v1/relay/hosts", &token).await.status.is_success()
    })
    .await;
    let local = LocalServer::router(app()).await;
    let (_agent, host, browser) = end_to_end(&relay, &token, &local).await;
    assert_eq!(postgres.text("early", "SELECT count(*)::text FROM public.hosts").await, "1");
    relay.restart().await;
    relay.await_host(&token, HOST, HostStatus::Online).await;
    eventually("the session goes on", SOON, || async {
        fetch(relay.addr, get(&path(host, browser, "/hello"))).await.text() == "hello"
    })
    .await;
    assert_eq!(apps_view(&postgres, "early").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_create_nothing_is_enough_and_the_log_says_what_is_off() {
    let postgres = Postgres::start().await;
    postgres.database("narrow").await;
    postgres.execute("narrow", WEB_APP).await;
    postgres
        .execute(
            "narrow",
            "CREATE ROLE narrow LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC; \
             GRANT SELECT ON users, auth_sessions, organization_member_metadata TO narrow; \
             GRANT UPDATE (last_used_at) ON auth_sessions TO narrow; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON hosts, relay_browser_sessions TO narrow;",
        )
        .await;
    let (user, session) = web_user(&postgres, "narrow", "a@example.com").await;
    let token = tokens::good(user, session);
    let relay = Relay::start(beside_the_app(&postgres.url_as("narrow", "narrow"))).await;
    let local = LocalServer::router(app()).await;
    let (agent, host, browser) = end_to_end(&relay, &token, &local).await;
    let log = relay.log().to_lowercase();
    assert!(
        log.lines().any(|l| l.contains("warn") && l.contains("schema")),
        "what is off is not said:\n{log}"
    );
    let name = json!({"name": "renamed"});
    let hosts = format!("/v1/relay/hosts/{host}");
    assert!(relay.api_json(Method::PATCH, &hosts, &token, name).await.status.is_success());
    drop(agent);
    relay.await_host(&token, "renamed", HostStatus::Offline).await;
    fetch(relay.addr, get(&path(host, browser, "/hello"))).await.is_problem(Code::HostOffline);
    assert!(relay.api(Method::DELETE, &hosts, &token).await.status.is_success());
    assert_eq!(postgres.text("narrow", "SELECT count(*)::text FROM hosts").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_the_organization_share_a_host_until_they_leave_it() {
    let postgres = Postgres::start().await;
    let url = postgres.database("org").await;
    postgres.execute("org", WEB_APP).await;
    let (owner, owner_session) = web_user(&postgres, "org", "owner@example.com").await;
    let (member, member_session) = web_user(&postgres, "org", "member@example.com").await;
    let (stranger, stranger_session) = web_user(&postgres, "org", "stranger@example.com").await;
    let organization = Uuid::new_v4();
    let elsewhere = Uuid::new_v4();
    postgres
        .execute(
            "org",
            &format!(
                "INSERT INTO organizations VALUES ('{organization}', 'us'), ('{elsewhere}', 'them'); \
                 INSERT INTO organization_member_metadata (organization_id, user_id) VALUES \
                 ('{organization}', '{owner}'), ('{organization}', '{member}'), ('{elsewhere}', '{stranger}');"
            ),
        )
        .await;
    let (owner, member, stranger) = (
        tokens::good(owner, owner_session),
        (member, tokens::good(member, member_session)),
        tokens::good(stranger, stranger_session),
    );
    let relay = Relay::start(beside_the_app(&url)).await;
    let local = LocalServer::router(app()).await;
    let (_agent, host, owners) = end_to_end(&relay, &owner, &local).await;
    let create = format!("/v1/relay/create/{host}");
    assert!(relay.hosts(&member.1).await.is_empty(), "a host that is not shared is its owner's");
    relay.api(Method::POST, &create, &member.1).await.is_problem(Code::HostAccessDenied);

    postgres
        .execute(
            "org",
            &format!("UPDATE hosts SET shared_with_organization_id = '{organization}' WHERE id = '{host}'"),
        )
        .await;
    let seen = relay.hosts(&member.1).await;
    assert_eq!((seen.len(), seen[0].id, seen[0].role), (1, host, AccessRole::Member));
    let session = relay.create_session(&member.1, host).await;
    let api = client::request(Method::GET, &path(host, session, "/hello"), client::empty());
    let reply = fetch(relay.addr, api).await;
    assert_eq!(reply.text(), "hello", "{reply:?}");
    assert!(relay.hosts(&stranger).await.is_empty());
    relay.api(Method::POST, &create, &stranger).await.is_problem(Code::HostAccessDenied);
    // Using is not owning.
    let hosts = format!("/v1/relay/hosts/{host}");
    for reply in [
        relay.api_json(Method::PATCH, &hosts, &member.1, json!({"name": "x"})).await,
        relay.api(Method::DELETE, &hosts, &member.1).await,
    ] {
        assert!(matches!(reply.problem().code, Code::HostAccessDenied | Code::NotFound), "{reply:?}");
    }
    // A page of somebody else's host does not open on the shared origin by default.
    let page = http::Request::get(path(host, session, "/hello"))
        .header("accept", "text/html")
        .header("sec-fetch-dest", "document")
        .header("sec-fetch-mode", "navigate")
        .body(client::empty())
        .unwrap();
    let reply = fetch(relay.addr, page).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{reply:?}");

    postgres
        .execute("org", &format!("DELETE FROM organization_member_metadata WHERE user_id = '{}'", member.0))
        .await;
    eventually("the membership's end is felt", REVOKED_WITHIN, || async {
        !fetch(relay.addr, get(&path(host, session, "/hello"))).await.status.is_success()
    })
    .await;
    relay.api(Method::POST, &create, &member.1).await.is_problem(Code::HostAccessDenied);
    assert_eq!(fetch(relay.addr, get(&path(host, owners, "/hello"))).await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_web_app_revokes_or_forgets_ends_here_too() {
    let postgres = Postgres::start().await;
    let url = postgres.database("revoke").await;
    postgres.execute("revoke", WEB_APP).await;
    let (user, session) = web_user(&postgres, "revoke", "a@example.com").await;
    let (_, unused) = {
        let (user, session) = web_user(&postgres, "revoke", "long-gone@example.com").await;
        let old = format!(
            "UPDATE auth_sessions SET created_at = now() - interval '800 days', \
             last_used_at = now() - interval '366 days' WHERE id = '{session}'"
        );
        postgres.execute("revoke", &old).await;
        (user, tokens::good(user, session))
    };
    let token = tokens::good(user, session);
    let relay = Relay::start(beside_the_app(&url)).await;
    relay.api(Method::GET, "/v1/relay/hosts", &unused).await.is_problem(Code::Unauthorized);
    let local = LocalServer::router(app()).await;
    let (agent, host, browser) = end_to_end(&relay, &token, &local).await;
    let page = path(host, browser, "/hello");

    // A browser session that is older than it may be.
    let old = Uuid::new_v4();
    let aged = format!(
        "INSERT INTO relay_browser_sessions (id, host_id, user_id, auth_session_id, created_at) \
         VALUES ('{old}', '{host}', '{user}', '{session}', now() - interval '400 days')"
    );
    postgres.execute("revoke", &aged).await;
    fetch(relay.addr, get(&path(host, old, "/hello"))).await.is_problem(Code::SessionExpired);
    assert!(relay.sessions(&token).await.iter().all(|s| s.id != old));

    // The web app signs the user out.
    let out = format!("UPDATE auth_sessions SET revoked_at = now() WHERE id = '{session}'");
    postgres.execute("revoke", &out).await;
    eventually("the revocation is felt", REVOKED_WITHIN, || async {
        fetch(relay.addr, get(&page)).await.status == StatusCode::UNAUTHORIZED
    })
    .await;
    fetch(relay.addr, get(&page)).await.is_problem(Code::SessionExpired);
    relay.api(Method::GET, "/v1/relay/hosts", &token).await.is_problem(Code::Unauthorized);
    eventually("the tunnel has ended", SOON, || async { !agent.is_connected().await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_rows_that_say_online_are_put_right_at_start() {
    let postgres = Postgres::start().await;
    let url = postgres.database("stale").await;
    postgres.execute("stale", WEB_APP).await;
    let (user, session) = web_user(&postgres, "stale", "a@example.com").await;
    let stale = format!(
        "INSERT INTO hosts (owner_user_id, machine_id, name, status, last_seen_at) \
         VALUES ('{user}', 'gone', 'gone', 'online', now() - interval '1 hour')"
    );
    postgres.execute("stale", &stale).await;
    let relay = Relay::start(beside_the_app(&url)).await;
    let token = tokens::good(user, session);
    relay.await_host(&token, "gone", HostStatus::Offline).await;
    assert_eq!(postgres.text("stale", "SELECT status FROM hosts").await, "offline");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_refuses_what_is_unknown_and_comes_back_by_itself() {
    let postgres = Postgres::start().await;
    let url = postgres.database("away").await;
    let target: std::net::SocketAddr = {
        let rest = url.split('@').nth(1).unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    };
    let link = Throttle::start(target, Rate::default()).await;
    let through = url.replace(&target.to_string(), &link.addr.to_string());
    let options = RelayOptions::default()
        .database(&through)
        .env("RELAY_JWT_SECRET", SECRET)
        .env("RELAY_DATABASE_TIMEOUT", "1s");
    let local = LocalServer::router(app()).await;
    let stack = Stack::with(&local.url(), options, |a| a).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");

    link.block(true);
    let hosts =
        within("an answer", SOON, stack.relay.api(Method::GET, "/v1/relay/hosts", &stack.token)).await;
    hosts.is_problem(Code::StoreUnavailable);
    let guessed = path(stack.host, Uuid::new_v4(), "/hello");
    let unknown = within("an answer", SOON, try_fetch(stack.addr(), get(&guessed))).await.unwrap();
    unknown.is_problem(Code::StoreUnavailable);
    // An outage is no revocation: the tunnel stays, and it fails closed once the truth is too old.
    eventually("the tunnel stays", SOON, || async { stack.agent.is_connected().await }).await;
    eventually("a session that cannot be checked is refused", SOON, || async {
        stack.get("/hello").await.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    stack.get("/hello").await.is_problem(Code::StoreUnavailable);

    link.block(false);
    eventually("it works again", SOON, || async { stack.get("/hello").await.text() == "hello" }).await;
    assert!(stack.relay.api(Method::GET, "/v1/relay/hosts", &stack.token).await.status.is_success());
    eventually("the tunnel stays", SOON, || async { stack.agent.is_connected().await }).await;
}
