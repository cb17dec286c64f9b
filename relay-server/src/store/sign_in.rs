//! People who sign in: passwords, one-time links, and the auth sessions that signing in makes.
//!
//! Nothing here holds a secret that lets anybody in: of a password its argon2id hash, of a link's or a
//! refresh token's random bytes the SHA-256. What may be used once is used by one statement that only one
//! caller can win; all that follows from it hangs on the mark which that statement left.

use sqlx::FromRow;
use uuid::Uuid;

use super::Store;
use super::db::{Arg, Step};
use super::error::StoreError;

/// Somebody who may sign in.
#[derive(Clone, PartialEq, Eq, FromRow)]
pub struct Account {
    /// The user.
    pub id: Uuid,
    /// In lower case.
    pub email: String,
    /// The argon2id hash, when there is a password.
    pub password_hash: Option<String>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("id", &self.id).field("email", &self.email).finish_non_exhaustive()
    }
}

/// How an auth session came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignInKind {
    /// A person signed in with a browser.
    Browser,
    /// A device was let in.
    Device,
    /// `relay-server token create`, or a program with a provider's token.
    Token,
}

/// An auth session to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewSignIn<'a> {
    /// Its id.
    pub id: Uuid,
    /// What to call it in lists.
    pub name: &'a str,
    /// When its cookie ends unless it is renewed, in Unix seconds.
    pub expires_at: i64,
}

/// A live auth session as its user's list shows it. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSessionRow {
    /// Its id.
    pub id: Uuid,
    /// What it is called.
    pub name: String,
    /// How it came about.
    pub kind: SignInKind,
    /// When it was made.
    pub created_at: i64,
    /// When it was last used, to the minute.
    pub last_used_at: Option<i64>,
}

#[derive(FromRow)]
struct Listed {
    id: Uuid,
    name: String,
    kind: String,
    created_at: i64,
    last_used_at: Option<i64>,
}

impl TryFrom<Listed> for AuthSessionRow {
    type Error = StoreError;

    fn try_from(row: Listed) -> Result<Self, StoreError> {
        let kind = match row.kind.as_str() {
            "browser" => SignInKind::Browser,
            "device" => SignInKind::Device,
            "token" => SignInKind::Token,
            other => return Err(StoreError::Corrupt(format!("an auth session of the kind `{other}`"))),
        };
        let Listed { id, name, created_at, last_used_at, .. } = row;
        Ok(Self { id, name, kind, created_at, last_used_at })
    }
}

const ACCOUNT: &str = "select u.id, u.email, c.password_hash from {users} u \
     left join {credentials} c on c.user_id = u.id where u.id = $1";

impl Store {
    /// Whoever has this address, in whatever case it is written.
    pub async fn account_by_email(&self, email: &str) -> Result<Option<Account>, StoreError> {
        let template = "select u.id, u.email, c.password_hash from {users} u \
                        left join {credentials} c on c.user_id = u.id where u.email = $1";
        let email = email.trim().to_lowercase();
        Ok(self.db().fetch::<Account>(template, &[Arg::Text(&email)]).await?.into_iter().next())
    }

    /// The user of this id.
    pub async fn account(&self, user: Uuid) -> Result<Option<Account>, StoreError> {
        Ok(self.db().fetch::<Account>(ACCOUNT, &[Arg::Id(user)]).await?.into_iter().next())
    }

    /// Sets a password's hash in place of `known`, the one that the caller has verified (none: there was
    /// no password). False when somebody else has changed it meanwhile.
    pub async fn change_password(
        &self,
        user: Uuid,
        known: Option<&str>,
        hash: &str,
    ) -> Result<bool, StoreError> {
        let changed = match known {
            Some(known) => {
                let template = "update {credentials} set password_hash = $3, changed_at = {now} \
                                where user_id = $1 and password_hash = $2";
                self.db().execute(template, &[Arg::Id(user), Arg::Text(known), Arg::Text(hash)]).await?
            }
            None => {
                let template = "insert into {credentials} (user_id, password_hash, changed_at) \
                                select u.id, $2, {now} from {users} u where u.id = $1 \
                                on conflict (user_id) do nothing";
                self.db().execute(template, &[Arg::Id(user), Arg::Text(hash)]).await?
            }
        };
        Ok(changed > 0)
    }

    /// Sets a password's hash whatever was there: for whoever runs the relay. [`StoreError::Conflict`]
    /// when there is no such user.
    pub async fn reset_password(&self, email: &str, hash: &str) -> Result<(), StoreError> {
        self.require_own_identity().await?;
        let user = self.known_account(email).await?.id;
        let template = "insert into {credentials} (user_id, password_hash, changed_at) values ($1, $2, {now}) \
                        on conflict (user_id) do update set password_hash = $2, changed_at = {now}";
        self.db().execute(template, &[Arg::Id(user), Arg::Text(hash)]).await.map(drop)
    }

    /// Keeps the hash of a new one-time link. [`StoreError::Conflict`] when there is no such user.
    pub async fn add_login_link(&self, email: &str, token_hash: &str) -> Result<(), StoreError> {
        self.require_own_identity().await?;
        let user = self.known_account(email).await?.id;
        let template = "insert into {login_links} (token_hash, user_id, expires_at) \
                        values ($1, $2, {from_now:login_link})";
        self.db().execute(template, &[Arg::Text(token_hash), Arg::Id(user)]).await.map(drop)
    }

    pub(super) async fn known_account(&self, email: &str) -> Result<Account, StoreError> {
        self.account_by_email(email).await?.ok_or_else(|| {
            let email = email.trim().to_lowercase();
            StoreError::Conflict(format!(
                "there is no user {email}. Add one with: relay-server user add {email}"
            ))
        })
    }

    /// Signs in with a one-time link, which is used up by it. None when it is unknown, used or expired.
    pub async fn sign_in_by_link(
        &self,
        token_hash: &str,
        new: NewSignIn<'_>,
    ) -> Result<Option<Account>, StoreError> {
        let affected = self
            .db()
            .transaction(&[
                Step {
                    template: "update {login_links} set auth_session_id = $2 where token_hash = $1 \
                               and auth_session_id is null and expires_at > {now}",
                    args: &[Arg::Text(token_hash), Arg::Id(new.id)],
                },
                Step {
                    template: "insert into {auth_sessions} (id, user_id, created_at) \
                               select $1, u.id, {now} from {login_links} l join {users} u on u.id = l.user_id \
                               where l.auth_session_id = $1",
                    args: &[Arg::Id(new.id)],
                },
                Step { template: ADD_BROWSER, args: &browser_args(&new) },
            ])
            .await?;
        if affected.last().copied().unwrap_or(0) == 0 {
            return Ok(None);
        }
        let template = "select u.id, u.email, c.password_hash from {auth_sessions} s \
                        join {users} u on u.id = s.user_id left join {credentials} c on c.user_id = u.id \
                        where s.id = $1";
        Ok(self.db().fetch::<Account>(template, &[Arg::Id(new.id)]).await?.into_iter().next())
    }

    /// Signs in a user who has proved who they are. `proof` is the hash that the password was verified
    /// against: false when it is not the user's any more.
    pub async fn sign_in_by_password(
        &self,
        user: Uuid,
        proof: &str,
        new: NewSignIn<'_>,
    ) -> Result<bool, StoreError> {
        let affected = self
            .db()
            .transaction(&[
                Step {
                    template: "insert into {auth_sessions} (id, user_id, created_at) \
                               select $1, c.user_id, {now} from {credentials} c \
                               where c.user_id = $2 and c.password_hash = $3",
                    args: &[Arg::Id(new.id), Arg::Id(user), Arg::Text(proof)],
                },
                Step { template: ADD_BROWSER, args: &browser_args(&new) },
            ])
            .await?;
        Ok(affected.last().copied().unwrap_or(0) > 0)
    }

    /// Lets a browser's sign-in go on until `expires_at`. False when it is no browser's, or has ended: a
    /// token that was made to end does not grow older by being put into a cookie.
    pub async fn extend_sign_in(&self, session: Uuid, expires_at: i64) -> Result<bool, StoreError> {
        let template = "update {sign_ins} set expires_at = {time:$2} \
                        where auth_session_id = $1 and kind = 'browser'";
        Ok(self.db().execute(template, &[Arg::Id(session), Arg::Int(expires_at)]).await? > 0)
    }

    /// Whether a person signed in with a browser for this auth session.
    pub async fn is_browser_sign_in(&self, session: Uuid) -> Result<bool, StoreError> {
        let template =
            "select count(*) from {sign_ins} i where i.auth_session_id = $1 and i.kind = 'browser'";
        let found = self.db().fetch::<(i64,)>(template, &[Arg::Id(session)]).await?;
        Ok(found.first().is_some_and(|(count,)| *count > 0))
    }

    /// The live auth sessions of a user, newest first.
    pub async fn auth_sessions(&self, user: Uuid) -> Result<Vec<AuthSessionRow>, StoreError> {
        let rows = self
            .db()
            .fetch::<Listed>(
                "select s.id, coalesce(i.name, t.name, p.name, '') as name, coalesce(i.kind, 'token') as kind, \
                 {unix:s.created_at} as created_at, {unix:s.last_used_at} as last_used_at \
                 from {auth_sessions} s left join {sign_ins} i on i.auth_session_id = s.id \
                 left join {tokens} t on t.auth_session_id = s.id \
                 left join {provider_sessions} p on p.auth_session_id = s.id \
                 where s.user_id = $1 and s.revoked_at is null \
                 and coalesce(s.last_used_at, s.created_at) > {ago:auth_session} \
                 and (i.expires_at is null or i.expires_at > {now}) \
                 and (t.expires_at is null or t.expires_at > {now}) \
                 order by s.created_at desc, s.id",
                &[Arg::Id(user)],
            )
            .await?;
        rows.into_iter().map(AuthSessionRow::try_from).collect()
    }

    /// Ends an auth session of this user. False when there is none that has not ended yet.
    pub async fn end_auth_session(&self, session: Uuid, user: Uuid) -> Result<bool, StoreError> {
        let template = "update {auth_sessions} set revoked_at = {now} \
                        where id = $1 and user_id = $2 and revoked_at is null";
        Ok(self.db().execute(template, &[Arg::Id(session), Arg::Id(user)]).await? > 0)
    }

    /// The user of a refresh token, and its auth session, while that is live. Notes the use.
    pub async fn refresh(
        &self,
        token_hash: &str,
        client_id: &str,
    ) -> Result<Option<(Uuid, Uuid)>, StoreError> {
        let template = "select s.user_id, s.id from {refresh_tokens} r \
                        join {auth_sessions} s on s.id = r.auth_session_id \
                        where r.token_hash = $1 and r.client_id = $2";
        let found =
            self.db().fetch::<(Uuid, Uuid)>(template, &[Arg::Text(token_hash), Arg::Text(client_id)]).await?;
        let Some((user, session)) = found.into_iter().next() else { return Ok(None) };
        Ok(self.auth_session_live(session, user).await?.then_some((user, session)))
    }

    /// Removes links, device logins and the sessions of sign-ins some time after their end, and refresh
    /// tokens whose session has ended. Returns how many rows it changed. [`StoreError::NotReady`] where the
    /// sessions are a web app's: those are not ours to end.
    pub async fn forget_ended_sign_ins(&self) -> Result<u64, StoreError> {
        let affected = self
            .db()
            .transaction(&[
                Step { template: "delete from {login_links} where expires_at < {ago:keep_ended}", args: &[] },
                Step {
                    template: "delete from {device_logins} where expires_at < {ago:keep_ended}",
                    args: &[],
                },
                Step {
                    template: "delete from {refresh_tokens} where not exists (select 1 from {own:auth_sessions} s \
                               where s.id = auth_session_id and s.revoked_at is null \
                               and coalesce(s.last_used_at, s.created_at) > {ago:auth_session})",
                    args: &[],
                },
                // A browser that did not come back: the cookie is worth nothing any more, nor what hangs on it.
                Step {
                    template: "update {own:auth_sessions} set revoked_at = {now} where revoked_at is null \
                               and id in (select i.auth_session_id from {sign_ins} i \
                               where i.expires_at < {ago:keep_ended})",
                    args: &[],
                },
                Step {
                    template: "delete from {own:auth_sessions} where revoked_at < {ago:keep_sessions} \
                               and id in (select i.auth_session_id from {sign_ins} i)",
                    args: &[],
                },
                Step {
                    template: "delete from {sign_ins} where not exists (select 1 from {own:auth_sessions} s \
                               where s.id = auth_session_id)",
                    args: &[],
                },
            ])
            .await?;
        let of_providers = self.forget_provider_sessions().await?;
        Ok(affected.iter().sum::<u64>() + of_providers)
    }
}

/// Notes what a browser's new auth session is, if it was made. Arguments: see [`browser_args`].
pub(super) const ADD_BROWSER: &str = "insert into {sign_ins} (auth_session_id, kind, name, expires_at) \
     select s.id, 'browser', $2, {time:$3} from {auth_sessions} s where s.id = $1";

pub(super) fn browser_args<'a>(new: &NewSignIn<'a>) -> [Arg<'a>; 3] {
    [Arg::Id(new.id), Arg::Text(new.name), Arg::Int(new.expires_at)]
}
