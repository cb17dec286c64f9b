//! Which hosts are online: the truth behind `hosts.status`.
//!
//! Each open tunnel has a row of its own with the relay that holds it and when it was last confirmed.
//! A host is online while one of its rows is fresh. Closing removes only its own row and looks whether
//! another is left, so a late close never erases a successor, on whichever relay that came in. Every
//! write locks the host's row first: what it then reads is what is there (without the lock PostgreSQL
//! would answer "is another left?" from before the successor).
//!
//! A PostgreSQL user that may not have a schema has no such table: then it goes as in `alone`.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::Store;
use super::db::{Arg, Step};
use super::error::StoreError;

const LOCK_HOSTS: &str = "select 1 from {hosts} where id {in:$1} order by id {lock}";
pub(super) const SET_ONLINE: &str =
    "update {hosts} set status = 'online', last_seen_at = {now} where id {in:$1}";

/// The host `h` has no tunnel that was confirmed of late.
macro_rules! no_fresh_tunnel {
    () => {
        "not exists (select 1 from {tunnels} t where t.host_id = h.id and t.seen_at >= {ago:tunnel})"
    };
}

impl Store {
    /// To be called once before the first tunnel: forgets what an earlier run of this relay left, and
    /// puts right the hosts that say online without a fresh tunnel on any relay. Returns how many.
    pub async fn relay_started(&self, relay_id: &str) -> Result<u64, StoreError> {
        if !self.shared_presence() {
            return self.start_alone().await;
        }
        let affected = self
            .db()
            .transaction(&[
                Step {
                    template: "select id from {hosts} where status = 'online' order by id {lock}",
                    args: &[],
                },
                Step {
                    template: "delete from {tunnels} where relay_id = $1 or seen_at < {ago:tunnel}",
                    args: &[Arg::Text(relay_id)],
                },
                Step {
                    template: concat!(
                        "update {hosts} as h set status = 'offline' where h.status = 'online' and ",
                        no_fresh_tunnel!()
                    ),
                    args: &[],
                },
            ])
            .await?;
        Ok(affected.last().copied().unwrap_or(0))
    }

    /// A tunnel is open: its host is online.
    pub async fn tunnel_opened(
        &self,
        relay_id: &str,
        connection: Uuid,
        host: Uuid,
    ) -> Result<(), StoreError> {
        self.inner.open.lock().insert(connection, host);
        if self.shared_presence() {
            self.write_open(relay_id, &[(connection, host)]).await
        } else {
            self.settle_alone(host).await
        }
    }

    /// A tunnel is closed: its host is offline unless another tunnel of it is open.
    pub async fn tunnel_closed(
        &self,
        relay_id: &str,
        connection: Uuid,
        host: Uuid,
    ) -> Result<(), StoreError> {
        self.inner.open.lock().remove(&connection);
        if self.shared_presence() {
            self.write_closed(relay_id, &[(connection, host)]).await
        } else {
            self.settle_alone(host).await
        }
    }

    /// These tunnels, and no others, are open here: makes good what this store was not told, then
    /// confirms them as [`Store::tunnels_alive`] does. Whoever calls this tells of openings and closings
    /// too, in order; a close that is told later still counts.
    pub async fn tunnels_are(&self, relay_id: &str, tunnels: &[(Uuid, Uuid)]) -> Result<(), StoreError> {
        let gone: Vec<(Uuid, Uuid)> = {
            let mut known = self.inner.open.lock();
            let now: HashMap<Uuid, Uuid> = tunnels.iter().copied().collect();
            let before = std::mem::replace(&mut *known, now);
            before.into_iter().filter(|(connection, host)| known.get(connection) != Some(host)).collect()
        };
        // Where there is no table the confirmation writes all hosts. A row that cannot be removed now
        // is confirmed no more, and so expires.
        if self.shared_presence() && !gone.is_empty() {
            self.write_closed(relay_id, &gone).await?;
        }
        self.tunnels_alive(relay_id, tunnels).await
    }

    /// Confirms the tunnels that are open here, which is due every 20 s, and expires those of any relay
    /// that were not confirmed for 45 s. Tunnels of which this store was not told, or which closed in
    /// the meantime, are left out.
    pub async fn tunnels_alive(&self, relay_id: &str, tunnels: &[(Uuid, Uuid)]) -> Result<(), StoreError> {
        if !self.shared_presence() {
            return self.confirm_alone().await;
        }
        let open: Vec<(Uuid, Uuid)> = {
            let known = self.inner.open.lock();
            tunnels.iter().filter(|(connection, host)| known.get(connection) == Some(host)).copied().collect()
        };
        if !open.is_empty() {
            self.write_open(relay_id, &open).await?;
        }
        self.expire().await
    }

    /// Writes that these tunnels are open, then looks again: one that was closed while this was on its
    /// way must not stay behind.
    async fn write_open(&self, relay_id: &str, tunnels: &[(Uuid, Uuid)]) -> Result<(), StoreError> {
        let connections: Vec<Uuid> = tunnels.iter().map(|(connection, _)| *connection).collect();
        let hosts: Vec<Uuid> = tunnels.iter().map(|(_, host)| *host).collect();
        self.db()
            .transaction(&[
                Step { template: LOCK_HOSTS, args: &[Arg::Ids(&hosts)] },
                Step { template: SET_ONLINE, args: &[Arg::Ids(&hosts)] },
                Step {
                    template: "insert into {tunnels} (connection_id, relay_id, host_id, connected_at, seen_at) \
                               select z.connection_id, $1, z.host_id, {now}, {now} from {zip:$2,$3} \
                               join {hosts} h on h.id = z.host_id \
                               where true on conflict (connection_id) do update set seen_at = {now}",
                    args: &[Arg::Text(relay_id), Arg::Ids(&connections), Arg::Ids(&hosts)],
                },
            ])
            .await?;
        let closed: Vec<(Uuid, Uuid)> = {
            let known = self.inner.open.lock();
            tunnels.iter().filter(|(connection, _)| !known.contains_key(connection)).copied().collect()
        };
        if closed.is_empty() { Ok(()) } else { self.write_closed(relay_id, &closed).await }
    }

    async fn write_closed(&self, relay_id: &str, tunnels: &[(Uuid, Uuid)]) -> Result<(), StoreError> {
        let connections: Vec<Uuid> = tunnels.iter().map(|(connection, _)| *connection).collect();
        let hosts: Vec<Uuid> = tunnels.iter().map(|(_, host)| *host).collect();
        let steps = [
            Step { template: LOCK_HOSTS, args: &[Arg::Ids(&hosts)] },
            Step {
                template: "delete from {tunnels} where connection_id {in:$1} and relay_id = $2 \
                           and host_id {in:$3}",
                args: &[Arg::Ids(&connections), Arg::Text(relay_id), Arg::Ids(&hosts)],
            },
            Step {
                template: concat!(
                    "update {hosts} as h set status = 'offline', last_seen_at = {now} \
                     where h.id {in:$1} and h.status = 'online' and ",
                    no_fresh_tunnel!()
                ),
                args: &[Arg::Ids(&hosts)],
            },
        ];
        self.db().transaction(&steps).await.map(drop)
    }

    /// Removes the rows of relays that went away, and with the last of them a host's online status.
    async fn expire(&self) -> Result<(), StoreError> {
        let stale = self
            .db()
            .fetch::<(Uuid,)>("select host_id from {tunnels} where seen_at < {ago:tunnel}", &[])
            .await?;
        if stale.is_empty() {
            return Ok(());
        }
        let hosts: HashSet<Uuid> = stale.into_iter().map(|(host,)| host).collect();
        let hosts: Vec<Uuid> = hosts.into_iter().collect();
        let args = &[Arg::Ids(&hosts)];
        self.db()
            .transaction(&[
                Step { template: LOCK_HOSTS, args },
                Step {
                    template: "delete from {tunnels} where host_id {in:$1} and seen_at < {ago:tunnel}",
                    args,
                },
                Step {
                    template: concat!(
                        "update {hosts} as h set status = 'offline' where h.id {in:$1} \
                         and h.status = 'online' and ",
                        no_fresh_tunnel!()
                    ),
                    args,
                },
            ])
            .await
            .map(drop)
    }
}
