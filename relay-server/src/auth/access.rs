//! Which browser sessions may be used now, answered from memory.
//!
//! A session is asked for on every proxied request, and a database query would cost more than the whole
//! request. So an entry lives in memory while the session is in use, one query every two seconds renews
//! all entries in use, and an entry that was not renewed for five seconds counts for nothing: a
//! revocation anywhere is felt within that time, one on this relay at once. When the database does not
//! answer, what is under way goes on and what is new is refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;
use relay_protocol::api::AccessRole;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::metrics;
use crate::clock::{millis, unix_now};
use crate::store::{BrowserSession, Store, StoreError};

/// How often the entries in use are renewed.
const RENEW: Duration = Duration::from_secs(2);
/// How old an answer of the database may be.
const VOID: Duration = Duration::from_secs(5);
/// How long an entry stays that nobody uses.
const KEEP: Duration = Duration::from_secs(60);
/// How often `last_used_at` is written.
const TOUCH: Duration = Duration::from_secs(60);
/// How long that may take: no renewal may wait for it until entries count for nothing.
const TOUCH_WAIT: Duration = Duration::from_secs(1);
/// Entries at the most. A session without an entry could not be ended, so none beyond it is begun.
const MAX_ENTRIES: usize = 100_000;

/// A live browser session.
#[derive(Debug)]
pub struct Session {
    /// Its id.
    pub id: Uuid,
    /// The host that it reaches.
    pub host: Uuid,
    /// The sign-in that it hangs on.
    pub auth_session: Uuid,
    /// How its user comes to use the host.
    pub role: AccessRole,
    /// When it ends at the latest, in Unix seconds.
    pub expires_at: i64,
    /// Cancelled when the session ends: what is under way ends with it.
    pub ended: CancellationToken,
    /// Milliseconds since the cache was made.
    checked: AtomicU64,
    used: AtomicU64,
    touched: AtomicU64,
    under_way: AtomicUsize,
    revoked: AtomicBool,
}

/// Why a session may not be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Unknown, expired or revoked.
    Ended,
    /// The database does not answer, or too many sessions are in use.
    Unavailable(String),
}

/// Something under way in a session. While it lives, the session is renewed.
#[derive(Debug)]
pub struct Exchange(Arc<Session>);

impl Exchange {
    /// To be called with the entries locked: nobody then drops the entry as unused in between.
    fn begin(session: &Arc<Session>) -> Self {
        session.under_way.fetch_add(1, Relaxed);
        Self(session.clone())
    }

    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

/// The sessions in use.
pub struct Sessions {
    store: Store,
    lifetime: Duration,
    max_entries: usize,
    start: Instant,
    entries: RwLock<HashMap<Uuid, Arc<Session>>>,
    /// Sessions that ended here, and when: an answer that the database gave before does not count.
    graves: parking_lot::Mutex<HashMap<Uuid, u64>>,
    metrics: metrics::Sessions,
}

impl Sessions {
    /// No sessions yet; each lives this long after it was made.
    pub fn new(store: Store, lifetime: Duration) -> Arc<Self> {
        Arc::new(Self {
            store,
            lifetime,
            max_entries: MAX_ENTRIES,
            start: Instant::now(),
            entries: RwLock::default(),
            graves: parking_lot::Mutex::default(),
            metrics: metrics::Sessions::new(),
        })
    }

    /// When a session that was made then ends.
    pub fn expires_at(&self, created_at: i64) -> i64 {
        expires_at(created_at, self.lifetime)
    }

    /// How many are in memory.
    pub fn in_memory(&self) -> usize {
        self.entries.read().len()
    }

    fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    /// The session, without a query while it is warm. `admit` is asked before a query is made, so that
    /// guessing costs the guesser's budget and not the database's.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn begin<E: From<Refused>>(
        &self,
        id: Uuid,
        admit: impl FnOnce() -> Result<(), E>,
    ) -> Result<Exchange, E> {
        let now = self.now();
        let warm = self
            .entries
            .read()
            .get(&id)
            .filter(|s| now.saturating_sub(s.checked.load(Relaxed)) < millis(VOID))
            .map(Exchange::begin);
        let exchange = match warm {
            Some(exchange) => exchange,
            None => {
                admit()?;
                self.ask(id).await?
            }
        };
        let session = exchange.session();
        if session.revoked.load(Relaxed) || session.expires_at <= unix_now() {
            return Err(Refused::Ended.into());
        }
        session.used.store(now, Relaxed);
        Ok(exchange)
    }

    async fn ask(&self, id: Uuid) -> Result<Exchange, Refused> {
        let asked = self.now();
        let found = self.store.live_browser_sessions(&[id]).await.map_err(|error| {
            self.metrics.failed.increment(1);
            unavailable(error)
        })?;
        let row = found.into_iter().find(|row| row.id == id);
        match row {
            Some(row) if self.expires_at(row.created_at) > unix_now() => {
                self.metrics.found.increment(1);
                self.keep(&row, asked)
            }
            _ => {
                self.metrics.unknown.increment(1);
                self.forget(id);
                Err(Refused::Ended)
            }
        }
    }

    /// Notes what the database said when it was asked at `asked`. Refused when the session has ended since,
    /// and when there is no place for another.
    fn keep(&self, row: &BrowserSession, asked: u64) -> Result<Exchange, Refused> {
        let mut entries = self.entries.write();
        if self.graves.lock().get(&row.id).is_some_and(|ended| *ended >= asked) {
            return Err(Refused::Ended);
        }
        if let Some(known) = entries.get(&row.id).filter(|s| s.role == row.role) {
            known.checked.fetch_max(asked, Relaxed);
            return Ok(Exchange::begin(known));
        }
        if entries.len() >= self.max_entries && !entries.contains_key(&row.id) {
            // What is not under way and would be asked for anew is no loss.
            let now = self.now();
            entries.retain(|_, session| {
                session.under_way.load(Relaxed) > 0
                    || now.saturating_sub(session.checked.load(Relaxed)) < millis(VOID)
            });
            if entries.len() >= self.max_entries {
                return Err(Refused::Unavailable("too many sessions in use".to_owned()));
            }
        }
        let session = Arc::new(Session {
            id: row.id,
            host: row.host_id,
            auth_session: row.auth_session_id,
            role: row.role,
            expires_at: self.expires_at(row.created_at),
            ended: CancellationToken::new(),
            checked: AtomicU64::new(asked),
            used: AtomicU64::new(asked),
            touched: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            revoked: AtomicBool::new(false),
        });
        let exchange = Exchange::begin(&session);
        if let Some(replaced) = entries.insert(row.id, session) {
            // The role changed: what began under the other one ends.
            end(&replaced);
        }
        Ok(exchange)
    }

    /// Ends a session here at once: it was revoked.
    pub fn end(&self, id: Uuid) {
        self.graves.lock().insert(id, self.now());
        self.forget(id);
    }

    fn forget(&self, id: Uuid) {
        if let Some(session) = self.entries.write().remove(&id) {
            end(&session);
        }
    }

    /// Ends every session of a host that was deleted.
    pub fn end_host(&self, host: Uuid) {
        self.end_where(|session| session.host == host);
    }

    /// Ends every session of a sign-in that has ended.
    pub fn end_sign_in(&self, auth_session: Uuid) {
        self.end_where(|session| session.auth_session == auth_session);
    }

    fn end_where(&self, ends: impl Fn(&Session) -> bool) {
        let now = self.now();
        self.entries.write().retain(|id, session| {
            let stays = !ends(session);
            if !stays {
                self.graves.lock().insert(*id, now);
                end(session);
            }
            stays
        });
    }

    /// Renews the entries in use until `stop`.
    pub async fn renew(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(RENEW);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            match self.renew_once().await {
                Ok(()) => self.metrics.renewed.increment(1),
                Err(error) => {
                    self.metrics.not_renewed.increment(1);
                    tracing::warn!(%error, "browser sessions could not be renewed");
                }
            }
        }
    }

    async fn renew_once(&self) -> Result<(), StoreError> {
        let asked = self.now();
        let since = |at: &AtomicU64| asked.saturating_sub(at.load(Relaxed));
        // No query takes longer than an answer counts.
        self.graves.lock().retain(|_, ended| asked.saturating_sub(*ended) < millis(KEEP));
        let (mut in_use, mut to_touch) = (Vec::new(), Vec::new());
        self.entries.write().retain(|id, session| {
            let active = session.under_way.load(Relaxed) > 0;
            if session.expires_at <= unix_now() {
                end(session);
                return false;
            }
            if active || since(&session.used) < millis(VOID) {
                in_use.push(*id);
                let touched = session.touched.load(Relaxed);
                if touched == 0 || asked.saturating_sub(touched) >= millis(TOUCH) {
                    to_touch.push(session.clone());
                }
            }
            active || since(&session.used) < millis(KEEP)
        });
        for ids in in_use.chunks(500) {
            let live: HashMap<Uuid, BrowserSession> =
                self.store.live_browser_sessions(ids).await?.into_iter().map(|row| (row.id, row)).collect();
            for id in ids {
                match live.get(id) {
                    Some(row) => drop(self.keep(row, asked)),
                    None => self.forget(*id),
                }
            }
        }
        self.touch(&to_touch, asked).await;
        Ok(())
    }

    /// Writes that these were used. Nothing hangs on it, so failing is no reason to end anything.
    async fn touch(&self, sessions: &[Arc<Session>], asked: u64) {
        let live = || sessions.iter().filter(|session| !session.revoked.load(Relaxed));
        let ids: Vec<Uuid> = live().map(|session| session.id).collect();
        if ids.is_empty() {
            return;
        }
        live().for_each(|session| session.touched.store(asked.max(1), Relaxed));
        match tokio::time::timeout(TOUCH_WAIT, self.store.touch_browser_sessions(&ids)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last use of browser sessions could not be written"),
            Err(_) => tracing::warn!("the last use of browser sessions could not be written in time"),
        }
    }
}

/// When a session that was made then and lives this long ends.
pub fn expires_at(created_at: i64, lifetime: Duration) -> i64 {
    created_at.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX))
}

fn end(session: &Session) {
    session.revoked.store(true, Relaxed);
    session.ended.cancel();
}

fn unavailable(error: StoreError) -> Refused {
    Refused::Unavailable(error.to_string())
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
