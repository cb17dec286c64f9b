//! Hosts: machines with an agent, each owned by a user and perhaps shared with an organization.

use std::collections::HashSet;

use relay_protocol::api::{AccessRole, Host, HostStatus};
use sqlx::FromRow;
use uuid::Uuid;

use super::Store;
use super::db::{Arg, Db, Step};
use super::error::StoreError;

/// A host, for whoever was already found to have access to it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct HostRow {
    /// The host's id.
    pub id: Uuid,
    /// Whose it is.
    pub owner: Uuid,
    /// What it is called.
    pub name: String,
    /// When a tunnel was last known to be open, Unix seconds.
    pub last_seen_at: Option<i64>,
}

/// A host as a user's list shows it.
#[derive(FromRow)]
struct Listed {
    id: Uuid,
    name: String,
    machine_id: String,
    status: String,
    last_seen_at: Option<i64>,
    agent_version: Option<String>,
    own: bool,
    created_at: i64,
}

/// The role of somebody who has access.
pub(super) fn role(own: bool) -> AccessRole {
    if own { AccessRole::Owner } else { AccessRole::Member }
}

/// The one rule of access: a user may use a host `h` as its owner, or as a member of the organization
/// that it is shared with. The argument is the SQL that gives the user.
macro_rules! may_use {
    ($user:literal) => {
        concat!(
            "(h.owner_user_id = ",
            $user,
            " or exists (select 1 from {organization_member_metadata} m \
             where m.organization_id = h.shared_with_organization_id and m.user_id = ",
            $user,
            "))"
        )
    };
}
pub(super) use may_use;

impl Store {
    /// The id of the owner's host with this machine id, which is made when it is new. The name counts
    /// only then: a person may have chosen another since. A new version replaces the old one.
    /// [`StoreError::Conflict`] when there is no such user.
    pub async fn upsert_host(
        &self,
        owner: Uuid,
        machine_id: &str,
        name: &str,
        agent_version: Option<&str>,
    ) -> Result<Uuid, StoreError> {
        let ids = self
            .db()
            .fetch::<(Uuid,)>(
                "insert into {hosts} as h \
                 (id, owner_user_id, machine_id, name, agent_version, created_at, updated_at) \
                 select $1, u.id, $3, $4, $5, {now}, {now} from {users} u where u.id = $2 \
                 on conflict (owner_user_id, machine_id) do update set \
                 agent_version = coalesce(excluded.agent_version, h.agent_version), updated_at = {now} \
                 returning id",
                &[
                    Arg::Id(Uuid::new_v4()),
                    Arg::Id(owner),
                    Arg::Text(machine_id),
                    Arg::Text(name),
                    Arg::MaybeText(agent_version),
                ],
            )
            .await?;
        ids.first().map(|(id,)| *id).ok_or_else(|| StoreError::Conflict("there is no such user".to_owned()))
    }

    /// How this user may use this host; none when not at all, or when there is no such host.
    pub async fn host_access(&self, host: Uuid, user: Uuid) -> Result<Option<AccessRole>, StoreError> {
        let rows = self
            .db()
            .fetch::<(bool,)>(
                concat!("select h.owner_user_id = $2 from {hosts} h where h.id = $1 and ", may_use!("$2")),
                &[Arg::Id(host), Arg::Id(user)],
            )
            .await?;
        Ok(rows.first().map(|(own,)| role(*own)))
    }

    /// The hosts that this user may use, by name.
    pub async fn hosts(&self, user: Uuid) -> Result<Vec<Host>, StoreError> {
        let rows = self
            .db()
            .fetch::<Listed>(
                concat!(
                    "select h.id, h.name, h.machine_id, h.status, {unix:h.last_seen_at} as last_seen_at, \
                     h.agent_version, (h.owner_user_id = $1) as own, {unix:h.created_at} as created_at \
                     from {hosts} h where ",
                    may_use!("$1")
                ),
                &[Arg::Id(user)],
            )
            .await?;
        let mut hosts = rows.into_iter().map(Host::try_from).collect::<Result<Vec<_>, _>>()?;
        // Here and not by the database, whose collation may be any.
        hosts.sort_by_cached_key(|host| (host.name.to_lowercase(), host.id));
        Ok(hosts)
    }

    /// One host, whoever asks: callers have checked access.
    pub async fn host(&self, host: Uuid) -> Result<Option<HostRow>, StoreError> {
        let rows = self
            .db()
            .fetch::<HostRow>(
                "select h.id, h.owner_user_id as owner, h.name, {unix:h.last_seen_at} as last_seen_at \
                 from {hosts} h where h.id = $1",
                &[Arg::Id(host)],
            )
            .await?;
        Ok(rows.into_iter().next())
    }

    /// Those of these hosts that are there.
    pub async fn existing_hosts(&self, hosts: &[Uuid]) -> Result<HashSet<Uuid>, StoreError> {
        if hosts.is_empty() {
            return Ok(HashSet::new());
        }
        let rows = self
            .db()
            .fetch::<(Uuid,)>("select h.id from {hosts} h where h.id {in:$1}", &[Arg::Ids(hosts)])
            .await?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// Renames the owner's host. False when it is not there or not the owner's.
    pub async fn rename_host(&self, host: Uuid, owner: Uuid, name: &str) -> Result<bool, StoreError> {
        let template =
            "update {hosts} set name = $3, updated_at = {now} where id = $1 and owner_user_id = $2";
        Ok(self.db().execute(template, &[Arg::Id(host), Arg::Id(owner), Arg::Text(name)]).await? > 0)
    }

    /// Deletes the owner's host with its browser sessions. False when it is not there or not the
    /// owner's.
    pub async fn delete_host(&self, host: Uuid, owner: Uuid) -> Result<bool, StoreError> {
        let args = &[Arg::Id(host), Arg::Id(owner)];
        let lock =
            Step { template: "select 1 from {hosts} where id = $1 and owner_user_id = $2 {lock}", args };
        let sessions = Step {
            template: "delete from {relay_browser_sessions} where host_id = $1 \
                       and exists (select 1 from {hosts} h where h.id = $1 and h.owner_user_id = $2)",
            args,
        };
        let tunnels = Step {
            template: "delete from {tunnels} where host_id = $1 \
                       and exists (select 1 from {hosts} h where h.id = $1 and h.owner_user_id = $2)",
            args,
        };
        let delete = Step { template: "delete from {hosts} where id = $1 and owner_user_id = $2", args };
        let steps = if self.shared_presence() {
            vec![lock, sessions, tunnels, delete]
        } else {
            vec![lock, sessions, delete]
        };
        Ok(self.db().transaction(&steps).await?.last().is_some_and(|deleted| *deleted > 0))
    }

    /// Whether there is a table of tunnels: always, but for a PostgreSQL user without a schema.
    pub(super) fn shared_presence(&self) -> bool {
        match self.db().db {
            Db::Sqlite(_) => true,
            Db::Postgres(db) => db.tables().shared_presence(),
        }
    }
}

impl TryFrom<Listed> for Host {
    type Error = StoreError;

    fn try_from(row: Listed) -> Result<Self, StoreError> {
        let status = match row.status.as_str() {
            "online" => HostStatus::Online,
            "offline" => HostStatus::Offline,
            other => return Err(StoreError::Corrupt(format!("a host has the status {other:?}"))),
        };
        Ok(Self {
            id: row.id,
            name: row.name,
            machine_id: row.machine_id,
            status,
            last_seen_at: row.last_seen_at,
            agent_version: row.agent_version,
            role: role(row.own),
            created_at: row.created_at,
        })
    }
}
