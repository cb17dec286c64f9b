//! The signing sessions (PROTOCOL.md section 4.1). Pure: the time comes in.
//!
//! A session is what lets a browser's requests be told from a replay, and what ends them: its token ends
//! whatever is under way on its behalf, and is itself ended by the browser's when that is revoked. Only
//! browsers that proved their key get here, so the table is bounded by their number.

use parking_lot::Mutex;
use relay_protocol::{keys::BrowserVerifyingKey, signature::NonceMemory};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Seconds that a session lives from its last use.
pub const IDLE: i64 = 3600;
/// Seconds that a session lives from its making, however much it is used.
pub const LIFE: i64 = 24 * 3600;
/// Sessions of one browser: one for each tab or worker that somebody keeps open, and some left behind.
pub const PER_BROWSER: usize = 16;
/// Seconds from one [`Sessions::sweep`] to the next at the most: what is under way counts as use, and is
/// noted then.
pub const SWEEP: u64 = 15;

/// One session.
#[derive(Debug)]
pub struct Session {
    /// The `keyid` of its requests.
    pub id: Uuid,
    /// The browser that it belongs to.
    pub browser: Uuid,
    /// What its requests are signed with.
    pub key: BrowserVerifyingKey,
    /// The nonces of its requests.
    pub nonces: Mutex<NonceMemory>,
    /// Ends what is under way.
    pub ended: CancellationToken,
    made: i64,
    used: AtomicI64,
    open: AtomicUsize,
}

impl Session {
    /// When it ends at the latest if it is not used any more.
    pub fn expires_at(&self) -> i64 {
        self.used.load(Relaxed).saturating_add(IDLE).min(self.made.saturating_add(LIFE))
    }

    /// Notes that it is in use from now on, until what is returned is dropped.
    pub fn begin(self: &Arc<Self>, now: i64) -> InUse {
        self.used.fetch_max(now, Relaxed);
        self.open.fetch_add(1, Relaxed);
        InUse(self.clone())
    }

    fn is_over(&self, now: i64) -> bool {
        let idle = self.open.load(Relaxed) == 0 && now >= self.used.load(Relaxed).saturating_add(IDLE);
        self.ended.is_cancelled() || idle || now >= self.made.saturating_add(LIFE)
    }
}

/// Something of a session that is under way.
#[derive(Debug)]
pub struct InUse(Arc<Session>);

impl InUse {
    /// Of which session.
    pub fn session(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// All sessions of an agent.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<Uuid, Arc<Session>>>);

impl Sessions {
    /// Makes a session. One more than [`PER_BROWSER`] ends the browser's that was unused
    /// for longest, those with something under way last. `revoked` is the browser's
    /// own token.
    pub fn open(
        &self,
        id: Uuid,
        browser: Uuid,
        key: BrowserVerifyingKey,
        revoked: &CancellationToken,
        now: i64,
    ) -> Arc<Session> {
        let session = Arc::new(Session {
            id,
            browser,
            key,
            nonces: Mutex::default(),
            ended: revoked.child_token(),
            made: now,
            used: AtomicI64::new(now),
            open: AtomicUsize::new(0),
        });
        let mut table = self.0.lock();
        drop_over(&mut table, now);
        let count = table.values().filter(|other| other.browser == browser).count();
        let used =
            |other: &&Arc<Session>| (other.open.load(Relaxed) > 0, other.used.load(Relaxed), other.made);
        let oldest = table.values().filter(|other| other.browser == browser).min_by_key(used);
        if let (true, Some(id)) = (count >= PER_BROWSER, oldest.map(|oldest| oldest.id))
            && let Some(oldest) = table.remove(&id)
        {
            oldest.ended.cancel();
        }
        table.insert(id, session.clone());
        session
    }

    /// The session of this id, while it lives.
    pub fn find(&self, id: Uuid, now: i64) -> Option<Arc<Session>> {
        let mut table = self.0.lock();
        let session = table.get(&id)?;
        if !session.is_over(now) {
            return Some(session.clone());
        }
        session.ended.cancel();
        table.remove(&id);
        None
    }

    /// How many live.
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Ends what is over, and notes the use of what is under way.
    pub fn sweep(&self, now: i64) {
        let mut table = self.0.lock();
        drop_over(&mut table, now);
        for session in table.values().filter(|session| session.open.load(Relaxed) > 0) {
            session.used.fetch_max(now, Relaxed);
        }
    }

    /// Ends all of them: the agent ends.
    pub fn end_all(&self) {
        self.0.lock().drain().for_each(|(_, session)| session.ended.cancel());
    }
}

fn drop_over(table: &mut HashMap<Uuid, Arc<Session>>, now: i64) {
    table.retain(|_, session| {
        let over = session.is_over(now);
        if over {
            session.ended.cancel();
        }
        !over
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use relay_protocol::keys::BrowserSigningKey;

    const NOW: i64 = 1_700_000_000;

    fn key() -> BrowserVerifyingKey {
        BrowserSigningKey::from_seed(&[7; 32]).verifying_key()
    }

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn open(sessions: &Sessions, n: u128, now: i64) -> Arc<Session> {
        sessions.open(id(n), id(0), key(), &CancellationToken::new(), now)
    }

    #[test]
    fn a_session_lives_an_hour_from_its_last_use_and_a_day_in_all() {
        let sessions = Sessions::default();
        let session = open(&sessions, 1, NOW);
        assert_eq!(session.expires_at(), NOW + IDLE);
        assert!(sessions.find(id(1), NOW + IDLE - 1).is_some(), "looking is no use");
        drop(session.begin(NOW + 100));
        assert_eq!(session.expires_at(), NOW + 100 + IDLE);
        assert!(sessions.find(id(1), NOW + 100 + IDLE - 1).is_some());
        assert!(sessions.find(id(1), NOW + 100 + IDLE).is_none());
        assert!(session.ended.is_cancelled());
        assert!(sessions.find(id(1), NOW).is_none(), "what is gone stays gone");

        let session = open(&sessions, 2, NOW);
        let mut now = NOW;
        while now < NOW + LIFE - IDLE {
            now += IDLE / 2;
            drop(sessions.find(id(2), now).unwrap().begin(now));
        }
        assert_eq!(session.expires_at(), NOW + LIFE);
        assert!(sessions.find(id(2), NOW + LIFE - 1).is_some());
        assert!(sessions.find(id(2), NOW + LIFE).is_none());
    }

    #[test]
    fn what_is_under_way_keeps_a_session_for_a_day_and_no_longer() {
        let sessions = Sessions::default();
        let session = open(&sessions, 1, NOW);
        let download = session.begin(NOW);
        sessions.sweep(NOW + 3 * IDLE);
        assert!(!session.ended.is_cancelled());
        assert_eq!(session.expires_at(), NOW + 4 * IDLE);
        drop(download);
        assert!(sessions.find(id(1), NOW + 4 * IDLE - 1).is_some());
        let _download = session.begin(NOW + 3 * IDLE);
        sessions.sweep(NOW + LIFE - 1);
        assert!(!session.ended.is_cancelled());
        sessions.sweep(NOW + LIFE);
        assert!(session.ended.is_cancelled());
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn one_session_too_many_ends_the_browsers_oldest() {
        let sessions = Sessions::default();
        let other = sessions.open(id(100), id(9), key(), &CancellationToken::new(), NOW - 50);
        let mine: Vec<_> = (0..PER_BROWSER).map(|n| open(&sessions, n as u128, NOW + n as i64)).collect();
        assert_eq!(sessions.count(), PER_BROWSER + 1);
        assert!(mine.iter().all(|session| !session.ended.is_cancelled()));
        open(&sessions, 50, NOW + 60);
        assert_eq!(sessions.count(), PER_BROWSER + 1);
        assert!(mine[0].ended.is_cancelled() && !mine[1].ended.is_cancelled());
        assert!(sessions.find(id(0), NOW + 60).is_none() && sessions.find(id(1), NOW + 60).is_some());
        assert!(!other.ended.is_cancelled(), "another browser's are not concerned");
        // The one that was used is kept, and so is the one that something goes on with.
        let under_way = mine[1].begin(NOW + 1);
        drop(mine[2].begin(NOW + 60));
        open(&sessions, 52, NOW + 60);
        assert!(
            mine[3].ended.is_cancelled() && !mine[1].ended.is_cancelled() && !mine[2].ended.is_cancelled()
        );
        drop(under_way);
        // One that is over makes room by itself.
        mine[1].ended.cancel();
        open(&sessions, 51, NOW + 61);
        assert!(!mine[2].ended.is_cancelled());
    }

    #[test]
    fn revoking_the_browser_ends_its_sessions_and_no_other() {
        let sessions = Sessions::default();
        let (revoked, stays) = (CancellationToken::new(), CancellationToken::new());
        let gone = sessions.open(id(1), id(1), key(), &revoked, NOW);
        sessions.open(id(2), id(2), key(), &stays, NOW);
        revoked.cancel();
        assert!(gone.ended.is_cancelled());
        assert!(sessions.find(id(1), NOW).is_none() && sessions.find(id(2), NOW).is_some());
        assert_eq!(sessions.count(), 1);
        gone.ended.cancel();
        assert!(!stays.is_cancelled());
        sessions.end_all();
        assert_eq!(sessions.count(), 0);
    }
}
