//! Renewal and the limit, against a real SQLite store.
#![allow(clippy::unwrap_used)]

use sqlx::{ConnectOptions, Executor};

use super::*;
use crate::store::StoreOptions;

struct World {
    dir: tempfile::TempDir,
    sessions: Sessions,
    user: Uuid,
    sign_in: Uuid,
    host: Uuid,
}

async fn world(max_entries: usize) -> World {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("relay.db").display());
    let store = Store::open(&StoreOptions::new(url.parse().unwrap())).await.unwrap();
    let user = store.add_user("ann@example.org").await.unwrap().id;
    let sign_in = store.create_token("ann@example.org", "test", unix_now() + 3600).await.unwrap().id;
    let host = store.upsert_host(user, "machine", "Laptop", None).await.unwrap();
    let mut sessions = Arc::into_inner(Sessions::new(store, Duration::from_secs(3600))).unwrap();
    sessions.max_entries = max_entries;
    // The cache has a past, so that an entry can be old.
    sessions.start -= KEEP;
    World { dir, sessions, user, sign_in, host }
}

impl World {
    async fn session(&self) -> Uuid {
        let made = self.sessions.store.create_browser_session(self.host, self.user, self.sign_in).await;
        made.unwrap().id
    }

    async fn begin(&self, id: Uuid) -> Result<Exchange, Refused> {
        self.sessions.begin(id, || Ok(())).await
    }

    async fn sql(&self, sql: &'static str) {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.dir.path().join("relay.db"));
        options.connect().await.unwrap().execute(sql).await.unwrap();
    }
}

#[tokio::test]
async fn sessions_are_renewed_where_their_use_cannot_be_written() {
    let world = world(10).await;
    let (stays, revoked) = (world.session().await, world.session().await);
    let (stays, revoked) = (world.begin(stays).await.unwrap(), world.begin(revoked).await.unwrap());
    world
        .sql(
            "create trigger full before update of last_used_at on relay_browser_sessions \
             begin select raise(abort, 'no room'); end",
        )
        .await;
    assert!(world.sessions.store.touch_browser_sessions(&[stays.session().id]).await.is_err());
    assert!(world.sessions.store.revoke_browser_session(revoked.session().id, world.user).await.unwrap());
    stays.session().checked.store(0, Relaxed);
    world.sessions.renew_once().await.unwrap();
    assert!(revoked.session().ended.is_cancelled());
    assert!(!stays.session().ended.is_cancelled());
    assert!(stays.session().checked.load(Relaxed) > 0);
}

#[tokio::test]
async fn no_session_is_begun_that_could_not_be_ended() {
    let world = world(1).await;
    let (one, two) = (world.session().await, world.session().await);
    let full = Refused::Unavailable("too many sessions in use".to_owned());
    let first = world.begin(one).await.unwrap();
    assert_eq!(world.begin(two).await.unwrap_err(), full);
    let entry = first.session().clone();
    entry.checked.store(0, Relaxed);
    assert_eq!(world.begin(two).await.unwrap_err(), full, "it is old, and under way");
    drop(world.begin(one).await.unwrap());
    drop(first);
    assert_eq!(world.begin(two).await.unwrap_err(), full, "it is not under way, and warm");
    entry.checked.store(0, Relaxed);
    let second = world.begin(two).await.unwrap();
    world.sessions.end(two);
    assert!(second.session().ended.is_cancelled());
}

#[tokio::test]
async fn a_changed_role_replaces_the_entry_at_the_limit_too() {
    let world = world(1).await;
    let id = world.session().await;
    let before = world.begin(id).await.unwrap();
    let mut row = world.sessions.store.live_browser_sessions(&[id]).await.unwrap().remove(0);
    row.role = AccessRole::Member;
    let after = world.sessions.keep(&row, world.sessions.now()).unwrap();
    assert!(before.session().ended.is_cancelled());
    assert_eq!(after.session().role, AccessRole::Member);
    assert_eq!(world.begin(id).await.unwrap().session().role, AccessRole::Member);
}
