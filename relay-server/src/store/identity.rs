//! Users and tokens. Ours when the relay runs alone; beside a web app they are its, and we only ask
//! whether a token's session is live.

use std::collections::HashSet;

use sqlx::FromRow;
use uuid::Uuid;

use super::db::{Arg, Db, Step};
use super::error::StoreError;
use super::{Identity, Store};

/// A person who may own hosts.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, serde::Serialize)]
pub struct User {
    /// The `sub` of the person's tokens.
    pub id: Uuid,
    /// In lower case.
    pub email: String,
    /// Unix seconds.
    pub created_at: i64,
}

/// A token of ours, without the token itself, which is nowhere stored. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, serde::Serialize)]
pub struct TokenRow {
    /// The auth session's id: the token's `session_id`.
    pub id: Uuid,
    /// Whose it is.
    pub user_id: Uuid,
    /// The e-mail address of that user.
    pub email: String,
    /// What the person called it.
    pub name: String,
    /// When it was made.
    pub created_at: i64,
    /// When it was last used, to the minute.
    pub last_used_at: Option<i64>,
    /// The token's `exp`.
    pub expires_at: i64,
    /// When it was revoked.
    pub revoked_at: Option<i64>,
}

/// One token as the table knows it; `$n` begins the condition.
macro_rules! tokens_where {
    ($condition:literal) => {
        concat!(
            "select s.id, s.user_id, u.email, t.name, {unix:s.created_at} as created_at, \
             {unix:s.last_used_at} as last_used_at, {unix:t.expires_at} as expires_at, \
             {unix:s.revoked_at} as revoked_at \
             from {tokens} t join {auth_sessions} s on s.id = t.auth_session_id \
             join {users} u on u.id = s.user_id where ",
            $condition,
            " order by s.created_at desc, s.id"
        )
    };
}

impl Store {
    /// Adds a user. [`StoreError::Conflict`] when the address is taken or the users are a web app's.
    pub async fn add_user(&self, email: &str) -> Result<User, StoreError> {
        self.require_own_identity().await?;
        let email = email.trim().to_lowercase();
        let added = self
            .db()
            .fetch::<User>(
                "insert into {users} (id, email, created_at, updated_at) values ($1, $2, {now}, {now}) \
                 on conflict (email) do nothing returning id, email, {unix:created_at} as created_at",
                &[Arg::Id(Uuid::new_v4()), Arg::Text(&email)],
            )
            .await?;
        added
            .into_iter()
            .next()
            .ok_or_else(|| StoreError::Conflict(format!("there is a user {email} already")))
    }

    /// All users, by address.
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        self.db()
            .fetch("select id, email, {unix:created_at} as created_at from {users} order by email, id", &[])
            .await
    }

    /// Makes the row behind a token of this user, good until `expires_at` (Unix seconds). The caller
    /// signs the token itself.
    pub async fn create_token(
        &self,
        email: &str,
        name: &str,
        expires_at: i64,
    ) -> Result<TokenRow, StoreError> {
        self.require_own_identity().await?;
        let email = email.trim().to_lowercase();
        let session = Uuid::new_v4();
        self.db()
            .transaction(&[
                Step {
                    template: "insert into {auth_sessions} (id, user_id, created_at) \
                               select $1, u.id, {now} from {users} u where u.email = $2",
                    args: &[Arg::Id(session), Arg::Text(&email)],
                },
                Step {
                    template: "insert into {tokens} (auth_session_id, name, expires_at) \
                               select s.id, $2, {time:$3} from {auth_sessions} s where s.id = $1",
                    args: &[Arg::Id(session), Arg::Text(name), Arg::Int(expires_at)],
                },
            ])
            .await?;
        let rows = self.db().fetch::<TokenRow>(tokens_where!("s.id = $1"), &[Arg::Id(session)]).await?;
        rows.into_iter().next().ok_or_else(|| {
            StoreError::Conflict(format!(
                "there is no user {email}. Add one with: relay-server user add {email}"
            ))
        })
    }

    /// All tokens, newest first, also those that are revoked or past their time.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.require_own_identity().await?;
        self.db().fetch(tokens_where!("true"), &[]).await
    }

    /// Revokes a token. False when there is no such token that is not revoked yet.
    pub async fn revoke_token(&self, id: Uuid) -> Result<bool, StoreError> {
        self.require_own_identity().await?;
        let template = "update {auth_sessions} set revoked_at = {now} \
                        where id = $1 and revoked_at is null";
        Ok(self.db().execute(template, &[Arg::Id(id)]).await? > 0)
    }

    /// Whether a token's session is live: it exists, is not revoked, belongs to this user and was used
    /// (or made) in the last 365 days. Notes the use, at most once a minute; that the note could not be
    /// taken does not make a live session dead.
    pub async fn auth_session_live(&self, session: Uuid, user: Uuid) -> Result<bool, StoreError> {
        let live = self
            .db()
            .fetch::<(bool,)>(
                "select s.last_used_at is null or s.last_used_at < {ago:touch} from {auth_sessions} s \
                 where s.id = $1 and s.user_id = $2 and s.revoked_at is null \
                 and coalesce(s.last_used_at, s.created_at) > {ago:auth_session}",
                &[Arg::Id(session), Arg::Id(user)],
            )
            .await?;
        let Some((untouched,)) = live.first() else { return Ok(false) };
        if *untouched {
            let template = "update {auth_sessions} set last_used_at = {now} where id = $1 \
                            and revoked_at is null and (last_used_at is null or last_used_at < {ago:touch})";
            if let Err(error) = self.db().execute(template, &[Arg::Id(session)]).await {
                tracing::warn!(%error, "the use of a token could not be noted");
            }
        }
        Ok(true)
    }

    /// The sessions among these pairs of session and user that are live, without noting a use: for the
    /// regular look at open tunnels.
    pub async fn auth_sessions_live(&self, pairs: &[(Uuid, Uuid)]) -> Result<HashSet<Uuid>, StoreError> {
        if pairs.is_empty() {
            return Ok(HashSet::new());
        }
        let ids: Vec<Uuid> = pairs.iter().map(|(session, _)| *session).collect();
        let live = self
            .db()
            .fetch::<(Uuid, Uuid)>(
                "select s.id, s.user_id from {auth_sessions} s where s.id {in:$1} \
                 and s.revoked_at is null and coalesce(s.last_used_at, s.created_at) > {ago:auth_session}",
                &[Arg::Ids(&ids)],
            )
            .await?;
        let live: HashSet<(Uuid, Uuid)> = live.into_iter().collect();
        Ok(pairs.iter().filter(|pair| live.contains(pair)).map(|(session, _)| *session).collect())
    }

    /// Looks anew (the last look may be seconds old) whether users and tokens are ours.
    pub(super) async fn require_own_identity(&self) -> Result<(), StoreError> {
        if let Db::Postgres(db) = self.db().db {
            db.find_tables().await?;
        }
        match self.identity() {
            Identity::Own => Ok(()),
            Identity::WebApp => Err(StoreError::Conflict(
                "users and tokens are the web app's in this database: manage them there".to_owned(),
            )),
        }
    }
}
