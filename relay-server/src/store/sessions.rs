//! Browser sessions: the right of one signed-in user to reach one host by a path.
//!
//! A session is live only while three things hold: it is not revoked, the sign-in that made it is
//! live, and its user may still use the host. All three are asked in one statement.

use std::time::Duration;

use relay_protocol::api::AccessRole;
use sqlx::FromRow;
use uuid::Uuid;

use super::Store;
use super::db::Arg;
use super::error::StoreError;
use super::hosts::{may_use, role};

/// A live browser session. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrowserSession {
    /// The id that stands in the path.
    pub id: Uuid,
    /// The host that it reaches.
    pub host_id: Uuid,
    /// Whose session it is.
    pub user_id: Uuid,
    /// The sign-in that it hangs on.
    pub auth_session_id: Uuid,
    /// How its user may use the host now.
    pub role: AccessRole,
    /// When it was made.
    pub created_at: i64,
    /// When it was last used, as [`Store::touch_browser_sessions`] noted.
    pub last_used_at: Option<i64>,
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    host_id: Uuid,
    user_id: Uuid,
    auth_session_id: Uuid,
    own: bool,
    created_at: i64,
    last_used_at: Option<i64>,
}

impl From<Row> for BrowserSession {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            host_id: row.host_id,
            user_id: row.user_id,
            auth_session_id: row.auth_session_id,
            role: role(row.own),
            created_at: row.created_at,
            last_used_at: row.last_used_at,
        }
    }
}

/// The live sessions that meet a condition.
macro_rules! live_where {
    ($condition:literal) => {
        concat!(
            "select b.id, b.host_id, b.user_id, b.auth_session_id, \
             (h.owner_user_id = b.user_id) as own, {unix:b.created_at} as created_at, \
             {unix:b.last_used_at} as last_used_at from {relay_browser_sessions} b \
             join {hosts} h on h.id = b.host_id \
             join {auth_sessions} s on s.id = b.auth_session_id and s.user_id = b.user_id \
             where b.revoked_at is null and s.revoked_at is null \
             and coalesce(s.last_used_at, s.created_at) > {ago:auth_session} and ",
            may_use!("b.user_id"),
            " and ",
            $condition
        )
    };
}

impl Store {
    /// Makes a session. [`StoreError::Conflict`] when the user may not use the host or the sign-in is
    /// not live: nothing is made then.
    pub async fn create_browser_session(
        &self,
        host: Uuid,
        user: Uuid,
        auth_session: Uuid,
    ) -> Result<BrowserSession, StoreError> {
        let id = Uuid::new_v4();
        self.db()
            .execute(
                concat!(
                    "insert into {relay_browser_sessions} (id, host_id, user_id, auth_session_id, created_at) \
                     select $1, h.id, s.user_id, s.id, {now} from {hosts} h \
                     join {auth_sessions} s on s.id = $4 and s.user_id = $3 \
                     where h.id = $2 and s.revoked_at is null \
                     and coalesce(s.last_used_at, s.created_at) > {ago:auth_session} and ",
                    may_use!("s.user_id")
                ),
                &[Arg::Id(id), Arg::Id(host), Arg::Id(user), Arg::Id(auth_session)],
            )
            .await?;
        self.live_browser_sessions(&[id]).await?.into_iter().next().ok_or_else(|| {
            StoreError::Conflict("this user may not use this host, or is no longer signed in".to_owned())
        })
    }

    /// Those of the sessions that are live, in no particular order.
    pub async fn live_browser_sessions(&self, ids: &[Uuid]) -> Result<Vec<BrowserSession>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.db().fetch::<Row>(live_where!("b.id {in:$1}"), &[Arg::Ids(ids)]).await?;
        Ok(rows.into_iter().map(BrowserSession::from).collect())
    }

    /// The live sessions of a user, newest first, 500 at the most.
    pub async fn browser_sessions(&self, user: Uuid) -> Result<Vec<BrowserSession>, StoreError> {
        let rows = self
            .db()
            .fetch::<Row>(
                live_where!("b.user_id = $1 order by b.created_at desc, b.id limit 500"),
                &[Arg::Id(user)],
            )
            .await?;
        Ok(rows.into_iter().map(BrowserSession::from).collect())
    }

    /// Revokes a session of this user. False when there is none that is not revoked yet.
    pub async fn revoke_browser_session(&self, id: Uuid, user: Uuid) -> Result<bool, StoreError> {
        let template = "update {relay_browser_sessions} set revoked_at = {now} \
                        where id = $1 and user_id = $2 and revoked_at is null";
        Ok(self.db().execute(template, &[Arg::Id(id), Arg::Id(user)]).await? > 0)
    }

    /// Removes sessions that were made a lifetime and a day before `now` (Unix seconds), some at a time.
    /// Returns how many. The day is for relays that share the database and let sessions live longer.
    pub async fn forget_browser_sessions(&self, now: i64, lifetime: Duration) -> Result<u64, StoreError> {
        const DAY: i64 = 24 * 60 * 60;
        let life = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        // Times before 1970 are none, and all databases can compare with 0.
        let before = now.saturating_sub(life).saturating_sub(DAY).max(0);
        let template = "delete from {relay_browser_sessions} where id in (select b.id \
                        from {relay_browser_sessions} b where b.created_at < {time:$1} limit 1000)";
        self.db().execute(template, &[Arg::Int(before)]).await
    }

    /// Notes that these sessions are in use.
    pub async fn touch_browser_sessions(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let template = "update {relay_browser_sessions} set last_used_at = {now} where id {in:$1}";
        self.db().execute(template, &[Arg::Ids(ids)]).await.map(drop)
    }
}
