//! People whom an OpenID Connect provider knows: who they are here, and the auth sessions that begin with its
//! word.
//!
//! A provider's token is good for as long as it says, so what the relay can end is the auth session that it hangs
//! on. There is one for each session at the provider that tokens name (`sid`), else one for each of its
//! clients. Once ended here it stays ended for the tokens that were made before; a session at the provider stays
//! ended for good, because a stolen refresh token goes on making tokens for it.

use sqlx::FromRow;
use uuid::Uuid;

use super::Store;
use super::db::{Arg, Step};
use super::error::StoreError;
use super::sign_in::{ADD_BROWSER, Account, NewSignIn, browser_args};

/// Somebody at a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person<'a> {
    /// The provider.
    pub issuer: &'a str,
    /// Who, in its words.
    pub subject: &'a str,
}

impl<'a> Person<'a> {
    fn args(self) -> [Arg<'a>; 2] {
        [Arg::Text(self.issuer), Arg::Text(self.subject)]
    }
}

/// What a token of the provider stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grounds<'a> {
    /// A session there.
    Session(&'a str),
    /// A client of it, by tokens that name no session.
    Client(&'a str),
}

impl Grounds<'_> {
    /// The key of the auth session.
    fn key(&self) -> String {
        match self {
            Self::Session(id) => format!("session {id}"),
            Self::Client(id) => format!("client {id}"),
        }
    }
}

/// What became of somebody who came for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// A user now.
    User(Uuid),
    /// Somebody else here has the address: linking the two takes whoever runs the relay.
    EmailTaken,
}

#[derive(FromRow)]
struct Known {
    auth_session_id: Uuid,
    live: bool,
}

impl Store {
    /// The user whom somebody at a provider is here.
    pub async fn user_of_identity(&self, who: Person<'_>) -> Result<Option<Uuid>, StoreError> {
        let template = "select u.id from {identities} n join {users} u on u.id = n.user_id \
                        where n.issuer = $1 and n.subject = $2";
        Ok(self.db().fetch::<(Uuid,)>(template, &who.args()).await?.first().map(|(user,)| *user))
    }

    /// Makes a user of somebody who has none yet. An address that is taken is never a reason to be its owner.
    pub async fn adopt_identity(&self, who: Person<'_>, email: &str) -> Result<Adopted, StoreError> {
        let (user, email) = (Uuid::new_v4(), email.trim().to_lowercase());
        let Person { issuer, subject } = who;
        self.db()
            .transaction(&[
                Step {
                    template: "insert into {users} (id, email, created_at, updated_at) \
                               select $1, $2, {now}, {now} where not exists (select 1 from {identities} n \
                               where n.issuer = $3 and n.subject = $4) on conflict (email) do nothing",
                    args: &[Arg::Id(user), Arg::Text(&email), Arg::Text(issuer), Arg::Text(subject)],
                },
                Step {
                    template: "insert into {identities} (issuer, subject, user_id, created_at) \
                               select $1, $2, u.id, {now} from {users} u where u.id = $3 \
                               on conflict (issuer, subject) do nothing",
                    args: &[Arg::Text(issuer), Arg::Text(subject), Arg::Id(user)],
                },
                // Somebody else was first with the same person.
                Step {
                    template: "delete from {users} where id = $1 and not exists \
                               (select 1 from {identities} n where n.user_id = $1)",
                    args: &[Arg::Id(user)],
                },
            ])
            .await?;
        Ok(self.user_of_identity(who).await?.map_or(Adopted::EmailTaken, Adopted::User))
    }

    /// Lets somebody at a provider be this user. [`StoreError::Conflict`] when there is no such user, or when
    /// they are another user already.
    pub async fn link_identity(&self, email: &str, who: Person<'_>) -> Result<(), StoreError> {
        self.require_own_identity().await?;
        let user = self.known_account(email).await?.id;
        let template = "insert into {identities} (issuer, subject, user_id, created_at) \
                        values ($1, $2, $3, {now}) on conflict (issuer, subject) do nothing";
        let args = [Arg::Text(who.issuer), Arg::Text(who.subject), Arg::Id(user)];
        self.db().execute(template, &args).await?;
        match self.user_of_identity(who).await? {
            Some(linked) if linked == user => Ok(()),
            _ => Err(StoreError::Conflict(
                "this subject is another user already. Undo that first with: relay-server user unlink"
                    .to_owned(),
            )),
        }
    }

    /// Undoes that, and ends every auth session that began with it. False when there was nothing to undo.
    pub async fn unlink_identity(&self, who: Person<'_>) -> Result<bool, StoreError> {
        self.require_own_identity().await?;
        let args = who.args();
        let affected = self
            .db()
            .transaction(&[
                Step {
                    template: "update {own:auth_sessions} set revoked_at = {now} where revoked_at is null \
                               and id in (select p.auth_session_id from {provider_sessions} p \
                               where p.issuer = $1 and p.subject = $2)",
                    args: &args,
                },
                Step {
                    template: "delete from {provider_sessions} where issuer = $1 and subject = $2",
                    args: &args,
                },
                Step { template: "delete from {identities} where issuer = $1 and subject = $2", args: &args },
            ])
            .await?;
        Ok(affected.last().copied().unwrap_or(0) > 0)
    }

    /// The auth session of a token that the provider made then, which is begun when there is none. `None` when it
    /// has ended, or when nobody here is this person.
    pub async fn provider_session(
        &self,
        who: Person<'_>,
        grounds: Grounds<'_>,
        issued_at: i64,
        name: &str,
    ) -> Result<Option<Uuid>, StoreError> {
        let key = grounds.key();
        if let Some(known) = self.known_session(who, &key).await?.filter(|known| known.live) {
            return Ok(Some(known.auth_session_id));
        }
        let renews = i64::from(matches!(grounds, Grounds::Client(_)));
        let id = Uuid::new_v4();
        self.db()
            .transaction(&[
                Step {
                    // One that was not used for too long, or that was ended before this token was made.
                    template: "delete from {provider_sessions} where issuer = $1 and subject = $2 and grounds = $3 \
                               and not exists (select 1 from {own:auth_sessions} s where s.id = auth_session_id \
                               and (s.revoked_at is not null or coalesce(s.last_used_at, s.created_at) > {ago:auth_session}) \
                               and ($4 = 0 or s.revoked_at is null or s.revoked_at >= {time:$5}))",
                    args: &[
                        Arg::Text(who.issuer),
                        Arg::Text(who.subject),
                        Arg::Text(&key),
                        Arg::Int(renews),
                        Arg::Int(issued_at),
                    ],
                },
                Step {
                    template: "insert into {provider_sessions} (issuer, subject, grounds, auth_session_id, name) \
                               select n.issuer, n.subject, $3, $4, $5 from {identities} n \
                               join {users} u on u.id = n.user_id where n.issuer = $1 and n.subject = $2 \
                               on conflict (issuer, subject, grounds) do nothing",
                    args: &[
                        Arg::Text(who.issuer),
                        Arg::Text(who.subject),
                        Arg::Text(&key),
                        Arg::Id(id),
                        Arg::Text(name),
                    ],
                },
                Step { template: BEGIN, args: &[Arg::Id(id)] },
            ])
            .await?;
        let known = self.known_session(who, &key).await?.filter(|known| known.live);
        Ok(known.map(|known| known.auth_session_id))
    }

    async fn known_session(&self, who: Person<'_>, key: &str) -> Result<Option<Known>, StoreError> {
        let template = "select p.auth_session_id, (s.revoked_at is null and \
                        coalesce(s.last_used_at, s.created_at) > {ago:auth_session}) as live \
                        from {provider_sessions} p join {own:auth_sessions} s on s.id = p.auth_session_id \
                        join {identities} n on n.issuer = p.issuer and n.subject = p.subject and n.user_id = s.user_id \
                        where p.issuer = $1 and p.subject = $2 and p.grounds = $3";
        let args = [Arg::Text(who.issuer), Arg::Text(who.subject), Arg::Text(key)];
        Ok(self.db().fetch::<Known>(template, &args).await?.into_iter().next())
    }

    /// Signs in a person with a browser whom the provider vouches for. `None` when nobody here is that person.
    pub async fn sign_in_by_identity(
        &self,
        who: Person<'_>,
        new: NewSignIn<'_>,
    ) -> Result<Option<Account>, StoreError> {
        let grounds = format!("browser {}", new.id);
        let affected = self
            .db()
            .transaction(&[
                Step {
                    template: "insert into {provider_sessions} (issuer, subject, grounds, auth_session_id, name) \
                               select n.issuer, n.subject, $3, $4, $5 from {identities} n \
                               join {users} u on u.id = n.user_id where n.issuer = $1 and n.subject = $2",
                    args: &[
                        Arg::Text(who.issuer),
                        Arg::Text(who.subject),
                        Arg::Text(&grounds),
                        Arg::Id(new.id),
                        Arg::Text(new.name),
                    ],
                },
                Step { template: BEGIN, args: &[Arg::Id(new.id)] },
                Step { template: ADD_BROWSER, args: &browser_args(&new) },
            ])
            .await?;
        if affected.last().copied().unwrap_or(0) == 0 {
            return Ok(None);
        }
        match self.user_of_identity(who).await? {
            Some(user) => self.account(user).await,
            None => Ok(None),
        }
    }

    /// Removes what is left of auth sessions that are gone, and those that ended or were last used so long ago
    /// that no token of theirs can be about.
    pub(super) async fn forget_provider_sessions(&self) -> Result<u64, StoreError> {
        let affected = self
            .db()
            .transaction(&[
                Step {
                    template: "delete from {own:auth_sessions} where coalesce(last_used_at, created_at) < {ago:auth_session} \
                               and id in (select p.auth_session_id from {provider_sessions} p)",
                    args: &[],
                },
                Step {
                    template: "delete from {provider_sessions} where not exists (select 1 from {own:auth_sessions} s \
                               where s.id = auth_session_id)",
                    args: &[],
                },
            ])
            .await?;
        Ok(affected.iter().sum())
    }
}

/// Begins the auth session of a row that was written for it.
const BEGIN: &str = "insert into {own:auth_sessions} (id, user_id, created_at) \
     select p.auth_session_id, n.user_id, {now} from {provider_sessions} p \
     join {identities} n on n.issuer = p.issuer and n.subject = p.subject where p.auth_session_id = $1";
