//! The sessions (PROTOCOL.md sections 4.1 and 5.1). Pure: the time comes in.
//!
//! A session is signed or sealed for its whole life. A sealed one takes nothing but exchanges, and new ones only
//! until its keys are to be replaced; what is under way then goes on, and the session is over with it.
//!
//! A session is what lets a browser's requests be told from a replay, and what ends them: its token ends
//! whatever is under way on its behalf, and is itself ended by the browser's when that is revoked. Only
//! browsers that proved their key get here, so the table is bounded by their number.

use parking_lot::Mutex;
use relay_protocol::{
    exchange::Numbers,
    keys::BrowserVerifyingKey,
    sealed::{REKEY_AFTER, SessionKeys},
    signature::NonceMemory,
};
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

/// What protects a session's requests.
#[derive(Debug, Clone)]
pub enum Form {
    /// The browser's signatures.
    Signed,
    /// Keys that only the two ends have.
    Sealed(SessionKeys),
}

/// Whose session it is to be.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The browser.
    pub browser: Uuid,
    /// What it signs with.
    pub key: BrowserVerifyingKey,
    /// Ends with the browser.
    pub revoked: CancellationToken,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// The `keyid` of its requests.
    pub id: Uuid,
    /// The browser that it belongs to.
    pub browser: Uuid,
    /// What its requests are signed with.
    pub key: BrowserVerifyingKey,
    /// What protects its requests.
    pub form: Form,
    /// The nonces of its signed requests.
    pub nonces: Mutex<NonceMemory>,
    /// The numbers of its exchanges.
    pub numbers: Mutex<Numbers>,
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

    /// Whether it is sealed.
    pub fn is_sealed(&self) -> bool {
        matches!(self.form, Form::Sealed(_))
    }

    /// Until when it takes new exchanges, where that is not as long as it lives.
    pub fn rekey_at(&self) -> Option<i64> {
        self.is_sealed().then(|| self.made.saturating_add(REKEY_AFTER))
    }

    /// Whether it takes new exchanges, as far as the time tells.
    pub fn takes_exchanges(&self, now: i64) -> bool {
        self.rekey_at().is_none_or(|at| now < at)
    }

    /// Notes that it is in use from now on, until what is returned is dropped.
    pub fn begin(self: &Arc<Self>, now: i64) -> InUse {
        self.used.fetch_max(now, Relaxed);
        self.open.fetch_add(1, Relaxed);
        InUse(self.clone())
    }

    /// Whether it takes nothing new any more: a sealed one whose time is over, or whose numbers are used up.
    fn is_spent(&self, now: i64) -> bool {
        !self.takes_exchanges(now) || self.numbers.lock().is_used_up()
    }

    fn is_over(&self, now: i64) -> bool {
        let unused = now >= self.used.load(Relaxed).saturating_add(IDLE);
        // Whatever takes nothing new and has nothing under way would only take a place.
        let idle = self.open.load(Relaxed) == 0 && (unused || self.is_spent(now));
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
    /// for longest, those with something under way last.
    pub fn open(&self, id: Uuid, owner: Owner, form: Form, now: i64) -> Arc<Session> {
        let Owner { browser, key, revoked } = owner;
        let numbers = match &form {
            Form::Signed => Numbers::signed(),
            Form::Sealed(_) => Numbers::sealed(),
        };
        let session = Arc::new(Session {
            id,
            browser,
            key,
            form,
            nonces: Mutex::default(),
            numbers: Mutex::new(numbers),
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

    /// How many live, and how many of them are sealed.
    pub fn count(&self) -> (usize, usize) {
        let table = self.0.lock();
        (table.len(), table.values().filter(|session| session.is_sealed()).count())
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

    fn owner(browser: u128, revoked: &CancellationToken) -> Owner {
        Owner { browser: id(browser), key: key(), revoked: revoked.clone() }
    }

    fn open(sessions: &Sessions, n: u128, now: i64) -> Arc<Session> {
        sessions.open(id(n), owner(0, &CancellationToken::new()), Form::Signed, now)
    }

    #[test]
    fn a_sealed_session_takes_new_exchanges_for_an_hour_and_lives_on() {
        let sessions = Sessions::default();
        let form = Form::Sealed(SessionKeys::from_split(&[1; 32], &[2; 32], &[3; 32]));
        let sealed = sessions.open(id(1), owner(0, &CancellationToken::new()), form, NOW);
        let signed = open(&sessions, 2, NOW);
        assert_eq!((sealed.rekey_at(), signed.rekey_at()), (Some(NOW + REKEY_AFTER), None));
        assert_eq!(sessions.count(), (2, 1));
        for (at, takes) in [(0, true), (REKEY_AFTER - 1, true), (REKEY_AFTER, false), (LIFE - 1, false)] {
            assert_eq!(sealed.takes_exchanges(NOW + at), takes, "{at}");
            assert!(signed.takes_exchanges(NOW + at), "{at}");
        }
        let _download = sealed.begin(NOW + REKEY_AFTER - 1);
        sessions.sweep(NOW + LIFE - 1);
        assert!(!sealed.ended.is_cancelled(), "what is under way goes on");
    }

    #[test]
    fn a_spent_session_takes_no_place_once_nothing_is_under_way() {
        let sessions = Sessions::default();
        let sealed = |n: u128| {
            let form = Form::Sealed(SessionKeys::from_split(&[1; 32], &[2; 32], &[3; 32]));
            sessions.open(id(n), owner(0, &CancellationToken::new()), form, NOW)
        };
        let spent: Vec<_> = (0..PER_BROWSER as u128).map(sealed).collect();
        // In use a moment ago all of them, and one still.
        let later = NOW + REKEY_AFTER;
        spent.iter().for_each(|session| drop(session.begin(later - 1)));
        let download = spent[3].begin(later - 1);
        sessions.sweep(later - 1);
        assert_eq!(sessions.count().0, PER_BROWSER);
        sessions.sweep(later);
        assert_eq!(sessions.count().0, 1);
        assert!(spent[0].ended.is_cancelled() && !spent[3].ended.is_cancelled());
        // One session more than there are places, of which one is only waited for.
        let live: Vec<_> = (100..100 + PER_BROWSER as u128 - 1).map(|n| open(&sessions, n, later)).collect();
        drop(download);
        open(&sessions, 200, later);
        assert!(spent[3].ended.is_cancelled() && live.iter().all(|session| !session.ended.is_cancelled()));
        assert!(sessions.find(id(3), later).is_none());
    }

    #[test]
    fn a_session_whose_numbers_are_used_up_is_over() {
        let sessions = Sessions::default();
        let form = Form::Sealed(SessionKeys::from_split(&[1; 32], &[2; 32], &[3; 32]));
        let session = sessions.open(id(1), owner(0, &CancellationToken::new()), form, NOW);
        *session.numbers.lock() = Numbers::with_limit(2);
        let under_way = session.begin(NOW);
        for number in [7, 8] {
            assert!(sessions.find(id(1), NOW).is_some());
            session.numbers.lock().take(number).unwrap();
        }
        assert!(sessions.find(id(1), NOW).is_some(), "something is under way");
        drop(under_way);
        assert!(sessions.find(id(1), NOW).is_none());
        assert!(session.ended.is_cancelled());
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
        assert_eq!(sessions.count().0, 0);
    }

    #[test]
    fn one_session_too_many_ends_the_browsers_oldest() {
        let sessions = Sessions::default();
        let other = sessions.open(id(100), owner(9, &CancellationToken::new()), Form::Signed, NOW - 50);
        let mine: Vec<_> = (0..PER_BROWSER).map(|n| open(&sessions, n as u128, NOW + n as i64)).collect();
        assert_eq!(sessions.count().0, PER_BROWSER + 1);
        assert!(mine.iter().all(|session| !session.ended.is_cancelled()));
        open(&sessions, 50, NOW + 60);
        assert_eq!(sessions.count().0, PER_BROWSER + 1);
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
        let gone = sessions.open(id(1), owner(1, &revoked), Form::Signed, NOW);
        sessions.open(id(2), owner(2, &stays), Form::Signed, NOW);
        revoked.cancel();
        assert!(gone.ended.is_cancelled());
        assert!(sessions.find(id(1), NOW).is_none() && sessions.find(id(2), NOW).is_some());
        assert_eq!(sessions.count().0, 1);
        gone.ended.cancel();
        assert!(!stays.is_cancelled());
        sessions.end_all();
        assert_eq!(sessions.count().0, 0);
    }
}
