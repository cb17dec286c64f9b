//! Which hosts are online where there is no table of tunnels.
//!
//! A PostgreSQL user that may not have a schema of its own leaves us `hosts.status` alone. Then the
//! tunnels of this process decide, which is right as long as there is one relay; [`Store::notices`]
//! says so. There is no row to lock here, so every write is followed by another look at what is open,
//! and by another write when that has changed: the last write to arrive is one that was looked at.

use std::collections::HashSet;

use uuid::Uuid;

use super::Store;
use super::db::Arg;
use super::error::StoreError;
use super::presence::SET_ONLINE;

const SET_OFFLINE: &str = "update {hosts} set status = 'offline', last_seen_at = {now} \
     where id {in:$1} and status = 'online'";
const SET_OTHERS_OFFLINE: &str =
    "update {hosts} set status = 'offline' where status = 'online' and not (id {in:$1})";

impl Store {
    /// No tunnel is open yet, so no host is online.
    pub(super) async fn start_alone(&self) -> Result<u64, StoreError> {
        self.db().execute(SET_OTHERS_OFFLINE, &[Arg::Ids(&[])]).await
    }

    /// Writes whether this host has a tunnel open here, until that is what is written.
    pub(super) async fn settle_alone(&self, host: Uuid) -> Result<(), StoreError> {
        loop {
            let open = self.has_open(host);
            let template = if open { SET_ONLINE } else { SET_OFFLINE };
            self.db().execute(template, &[Arg::Ids(&[host])]).await?;
            if self.has_open(host) == open {
                return Ok(());
            }
        }
    }

    /// Writes all hosts at once, and so makes good what single writes could not.
    pub(super) async fn confirm_alone(&self) -> Result<(), StoreError> {
        let before = self.open_hosts();
        let hosts: Vec<Uuid> = before.iter().copied().collect();
        self.db().execute(SET_ONLINE, &[Arg::Ids(&hosts)]).await?;
        self.db().execute(SET_OTHERS_OFFLINE, &[Arg::Ids(&hosts)]).await?;
        let after = self.open_hosts();
        for changed in after.symmetric_difference(&before) {
            self.settle_alone(*changed).await?;
        }
        Ok(())
    }

    fn open_hosts(&self) -> HashSet<Uuid> {
        self.inner.open.lock().values().copied().collect()
    }

    fn has_open(&self, host: Uuid) -> bool {
        self.inner.open.lock().values().any(|open| *open == host)
    }
}
