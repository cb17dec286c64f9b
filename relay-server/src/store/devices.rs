//! Devices that ask to be let in (RFC 8628).
//!
//! Anybody may ask, so what is asked is bounded: some questions per address, some per network, some in all.
//! When there are too many in all, the oldest question of the network that has the most makes room, and in it
//! of the address that has the most, so that whoever asks from everywhere crowds out themself before
//! anybody else.

use sqlx::FromRow;
use uuid::Uuid;

use super::Store;
use super::db::{Arg, Step};
use super::error::StoreError;

/// Pending questions per address. A household or an office sets up a handful of machines at a time.
const MAX_PER_ADDRESS: i64 = 16;
/// Pending questions per network: some of its addresses at a time. Sixteen networks fill all places.
const MAX_PER_NETWORK: i64 = 64;
/// Pending questions in all: some hundred KiB of rows.
const MAX_PENDING: i64 = 1024;

/// A device's question.
#[derive(Clone, Copy)]
pub struct NewDevice<'a> {
    /// SHA-256 of what the device will ask with.
    pub device_code_hash: &'a str,
    /// What the person types: eight letters.
    pub user_code: &'a str,
    /// Who asks, as it calls itself.
    pub client_id: &'a str,
    /// What the device calls itself.
    pub name: &'a str,
    /// From where it asks, for the person.
    pub address: &'a str,
    /// From where it asks, for counting. The first 14 characters name the network ([`RateKey::text`]).
    ///
    /// [`RateKey::text`]: crate::http::client_addr::RateKey::text
    pub rate_key: &'a str,
}

/// Whether a question may be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It waits for a person now.
    Pending,
    /// The address or its network has too many that wait.
    TooMany,
    /// The user code is in use; another one will do.
    CodeTaken,
}

/// A pending question as the person sees it. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct DeviceRow {
    /// What the device calls itself.
    pub name: String,
    /// From where it asks.
    pub address: String,
    /// When it asked.
    pub created_at: i64,
    /// Until when it waits.
    pub expires_at: i64,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DevicePoll {
    /// There is none, it is another client's, or it was granted before.
    Unknown,
    /// Nobody has decided yet.
    Pending,
    /// Nobody has decided yet, and the device asks too often.
    SlowDown,
    /// A person said no.
    Denied,
    /// Nobody decided in time.
    Expired,
    /// A person said yes.
    Approved,
}

#[derive(FromRow)]
struct Polled {
    status: String,
    used: bool,
    expired: bool,
    slowed: bool,
}

impl Polled {
    fn outcome(&self) -> DevicePoll {
        match (self.status.as_str(), self.used, self.expired) {
            (_, true, _) => DevicePoll::Unknown,
            ("denied", ..) => DevicePoll::Denied,
            (_, _, true) => DevicePoll::Expired,
            ("approved", ..) => DevicePoll::Approved,
            _ if self.slowed => DevicePoll::SlowDown,
            _ => DevicePoll::Pending,
        }
    }
}

/// A device that was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLogin {
    /// Whose device it is now.
    pub user: Uuid,
    /// Its auth session.
    pub auth_session: Uuid,
}

impl Store {
    /// Puts a question.
    pub async fn add_device_login(&self, new: NewDevice<'_>) -> Result<Admission, StoreError> {
        let mine = self
            .db()
            .fetch::<(i64, i64)>(
                "select coalesce(sum(case when d.rate_key = $1 then 1 else 0 end), 0), count(*) \
                 from {device_logins} d where substr(d.rate_key, 1, 14) = substr($1, 1, 14) \
                 and d.status = 'pending' and d.expires_at > {now}",
                &[Arg::Text(new.rate_key)],
            )
            .await?;
        let full =
            |(address, network): &(i64, i64)| *address >= MAX_PER_ADDRESS || *network >= MAX_PER_NETWORK;
        if mine.first().is_some_and(full) {
            return Ok(Admission::TooMany);
        }
        let affected = self
            .db()
            .transaction(&[
                Step { template: MAKE_ROOM, args: &[Arg::Int(MAX_PENDING)] },
                Step {
                    template: "insert into {device_logins} (id, device_code_hash, user_code, client_id, name, \
                               address, rate_key, next_poll_at, created_at, expires_at) \
                               values ($1, $2, $3, $4, $5, $6, $7, {now}, {now}, {from_now:device_login}) \
                               on conflict (user_code) do nothing",
                    args: &[
                        Arg::Id(Uuid::new_v4()),
                        Arg::Text(new.device_code_hash),
                        Arg::Text(new.user_code),
                        Arg::Text(new.client_id),
                        Arg::Text(new.name),
                        Arg::Text(new.address),
                        Arg::Text(new.rate_key),
                    ],
                },
            ])
            .await?;
        Ok(if affected.last() == Some(&1) { Admission::Pending } else { Admission::CodeTaken })
    }

    /// The pending question with this user code.
    pub async fn device_login(&self, user_code: &str) -> Result<Option<DeviceRow>, StoreError> {
        let template = "select d.name, d.address, {unix:d.created_at} as created_at, \
                        {unix:d.expires_at} as expires_at from {device_logins} d \
                        where d.user_code = $1 and d.status = 'pending' and d.expires_at > {now}";
        Ok(self.db().fetch::<DeviceRow>(template, &[Arg::Text(user_code)]).await?.into_iter().next())
    }

    /// Decides a pending question. False when there is none.
    pub async fn decide_device_login(
        &self,
        user_code: &str,
        user: Uuid,
        approve: bool,
    ) -> Result<bool, StoreError> {
        let template = "update {device_logins} set status = $3, user_id = $2 \
                        where user_code = $1 and status = 'pending' and expires_at > {now}";
        let status = if approve { "approved" } else { "denied" };
        let args = [Arg::Text(user_code), Arg::Id(user), Arg::Text(status)];
        Ok(self.db().execute(template, &args).await? > 0)
    }

    /// What became of the question, and whether the device asks too often.
    pub async fn poll_device_login(
        &self,
        device_code_hash: &str,
        client_id: &str,
    ) -> Result<DevicePoll, StoreError> {
        let rows = self
            .db()
            .fetch::<Polled>(
                "update {device_logins} set slowed = (next_poll_at > {now}), \
                 next_poll_at = {from_now:device_poll} where device_code_hash = $1 and client_id = $2 \
                 returning status, (auth_session_id is not null) as used, (expires_at <= {now}) as expired, slowed",
                &[Arg::Text(device_code_hash), Arg::Text(client_id)],
            )
            .await?;
        Ok(rows.first().map_or(DevicePoll::Unknown, Polled::outcome))
    }

    /// Lets an approved device in, once, and keeps the hash of its refresh token. None when it is not
    /// approved, has expired, or was let in already.
    pub async fn grant_device_login(
        &self,
        device_code_hash: &str,
        client_id: &str,
        refresh_token_hash: &str,
    ) -> Result<Option<DeviceLogin>, StoreError> {
        let session = Uuid::new_v4();
        self.db()
            .transaction(&[
                Step {
                    template: "update {device_logins} set auth_session_id = $3 where device_code_hash = $1 \
                               and client_id = $2 and status = 'approved' and auth_session_id is null \
                               and expires_at > {now}",
                    args: &[Arg::Text(device_code_hash), Arg::Text(client_id), Arg::Id(session)],
                },
                Step {
                    template: "insert into {auth_sessions} (id, user_id, created_at) \
                               select $1, u.id, {now} from {device_logins} d join {users} u on u.id = d.user_id \
                               where d.auth_session_id = $1",
                    args: &[Arg::Id(session)],
                },
                Step {
                    template: "insert into {sign_ins} (auth_session_id, kind, name) \
                               select s.id, 'device', d.name from {auth_sessions} s \
                               join {device_logins} d on d.auth_session_id = s.id where s.id = $1",
                    args: &[Arg::Id(session)],
                },
                Step {
                    template: "insert into {refresh_tokens} (token_hash, auth_session_id, client_id) \
                               select $2, s.id, d.client_id from {auth_sessions} s \
                               join {device_logins} d on d.auth_session_id = s.id where s.id = $1",
                    args: &[Arg::Id(session), Arg::Text(refresh_token_hash)],
                },
            ])
            .await?;
        let template = "select s.user_id from {auth_sessions} s where s.id = $1";
        let made = self.db().fetch::<(Uuid,)>(template, &[Arg::Id(session)]).await?;
        Ok(made.first().map(|(user,)| DeviceLogin { user: *user, auth_session: session }))
    }
}

/// Removes the oldest pending question of the address that has the most in the network that has the most, when
/// there are as many as there may be. Among those with equally many the oldest question goes. Anybody may ask, so
/// they are counted in one pass.
const MAKE_ROOM: &str = "delete from {device_logins} where id in ( \
       select x.id from ( \
         select d.id, d.created_at, \
           count(*) over (partition by substr(d.rate_key, 1, 14)) as network, \
           count(*) over (partition by d.rate_key) as waiting, \
           count(*) over () as everybody \
         from {device_logins} d where d.status = 'pending' and d.expires_at > {now}) x \
       where x.everybody >= $1 \
       order by x.network desc, x.waiting desc, x.created_at, x.id limit 1)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_question() {
        use DevicePoll::*;
        // status, used, expired, slowed
        let cases = [
            ("pending", false, false, false, Pending),
            ("pending", false, false, true, SlowDown),
            ("pending", false, true, false, Expired),
            ("pending", false, true, true, Expired),
            ("approved", false, false, true, Approved),
            ("approved", false, true, false, Expired),
            ("approved", true, false, false, Unknown),
            ("denied", false, false, false, Denied),
            ("denied", false, true, true, Denied),
        ];
        for (status, used, expired, slowed, outcome) in cases {
            let polled = Polled { status: status.to_owned(), used, expired, slowed };
            assert_eq!(polled.outcome(), outcome, "{status} {used} {expired} {slowed}");
        }
    }
}
