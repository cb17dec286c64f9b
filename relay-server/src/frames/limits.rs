//! How many frames pass in a minute (contract: frames, "Limits").
//!
//! A budget belongs to a name that the platform vouched for: a client of a pair, a pair, a pair's daemon. It
//! outlives the socket, so that connecting anew fills nothing, and nobody else's frames empty it. What is no
//! frame at all is charged to its sender alone, never to the pair.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashlink::LinkedHashMap;
use parking_lot::Mutex;

use super::Pair;
use super::frame::Kind;
use crate::config::frames::Frames;

/// Budgets that are remembered. Those in use are bounded by the sockets; beyond, some that are not in use are
/// forgotten.
const MAX_BUDGETS: usize = 65_536;
/// Budgets that are looked at for every one that is asked for, so that those which are full again go.
const SWEEP: usize = 4;

/// So many at once, and as many again in a minute, evenly.
#[derive(Debug, Clone)]
pub struct Bucket {
    each: Duration,
    /// When it is full again.
    full_at: Option<Instant>,
}

impl Bucket {
    const FULL: Duration = Duration::from_secs(60);

    /// So many per minute, at least one.
    pub fn per_minute(count: u32) -> Self {
        Self { each: Self::FULL / count.max(1), full_at: None }
    }

    /// Spends one, if there is one left.
    pub fn take(&mut self, now: Instant) -> bool {
        let then = self.full_at.map_or(now, |at| at.max(now)) + self.each;
        let left = then.saturating_duration_since(now) <= Self::FULL;
        if left {
            self.full_at = Some(then);
        }
        left
    }

    /// Whether nothing is missing.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

/// What one client, or a pair's daemon, may send.
#[derive(Debug)]
pub struct Budget {
    key_init: Bucket,
    pairing: Bucket,
    runtime: Bucket,
}

impl Budget {
    /// Spends for a frame, or (`None`) for something that is none.
    pub fn take(&mut self, kind: Option<Kind>, now: Instant) -> bool {
        match kind {
            Some(Kind::KeyInit) => self.key_init.take(now),
            Some(Kind::PairingRequest) => self.pairing.take(now),
            _ => self.runtime.take(now),
        }
    }

    fn is_full(&self, now: Instant) -> bool {
        [&self.key_init, &self.pairing, &self.runtime].iter().all(|bucket| bucket.is_full(now))
    }
}

/// Whose a budget is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Client(Pair, Arc<str>),
    Pair(Pair),
    Daemon(Pair),
}

/// A budget that several sockets may share.
pub type SharedBudget = Arc<Mutex<Budget>>;

/// The budgets of everybody.
pub struct Budgets {
    key_init: u32,
    pairing: u32,
    client: u32,
    pair: u32,
    daemon: u32,
    max: usize,
    kept: Mutex<LinkedHashMap<Whose, SharedBudget, RandomState>>,
}

impl Budgets {
    /// As configured.
    pub fn new(limits: &Frames) -> Self {
        Self {
            key_init: limits.kex_init_rate_per_minute,
            pairing: limits.pairing_rate_per_minute,
            client: limits.runtime_rate_per_minute,
            pair: limits.runtime_rate_per_minute_workspace,
            daemon: limits.daemon_runtime_rate_per_minute,
            max: MAX_BUDGETS,
            kept: Mutex::new(LinkedHashMap::with_hasher(RandomState::new())),
        }
    }

    /// A client's. Without a name it is the socket's own.
    pub fn client(&self, pair: &Pair, name: Option<&Arc<str>>, now: Instant) -> SharedBudget {
        match name {
            Some(name) => self.get(Whose::Client(pair.clone(), name.clone()), self.client, now),
            None => Arc::new(Mutex::new(self.full(self.client))),
        }
    }

    /// What all clients of a pair send together.
    pub fn pair(&self, pair: &Pair, now: Instant) -> SharedBudget {
        self.get(Whose::Pair(pair.clone()), self.pair, now)
    }

    /// A pair's daemon's.
    pub fn daemon(&self, pair: &Pair, now: Instant) -> SharedBudget {
        self.get(Whose::Daemon(pair.clone()), self.daemon, now)
    }

    fn full(&self, runtime: u32) -> Budget {
        Budget {
            key_init: Bucket::per_minute(self.key_init),
            pairing: Bucket::per_minute(self.pairing),
            runtime: Bucket::per_minute(runtime),
        }
    }

    fn get(&self, whose: Whose, runtime: u32, now: Instant) -> SharedBudget {
        let mut kept = self.kept.lock();
        for _ in 0..SWEEP {
            let Some((whose, budget)) = kept.pop_front() else { break };
            let in_use = Arc::strong_count(&budget) > 1;
            if in_use || (!budget.lock().is_full(now) && kept.len() < self.max) {
                kept.insert(whose, budget);
            }
        }
        if let Some(budget) = kept.to_back(&whose) {
            return budget.clone();
        }
        let budget = Arc::new(Mutex::new(self.full(runtime)));
        kept.insert(whose, budget.clone());
        budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::testing;

    fn budgets() -> Budgets {
        Budgets::new(&testing::limits())
    }

    fn taken(budget: &SharedBudget, kind: Option<Kind>, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.lock().take(kind, now)).count()
    }

    #[test]
    fn a_bucket_is_spent_and_refills_evenly() {
        let (mut bucket, now) = (Bucket::per_minute(3), Instant::now());
        assert!(bucket.is_full(now));
        assert_eq!([(); 4].map(|()| bucket.take(now)), [true, true, true, false]);
        let later = now + Duration::from_secs(20);
        assert_eq!([(); 2].map(|()| bucket.take(later)), [true, false]);
        assert!(!bucket.is_full(later));
        let much_later = now + Duration::from_secs(3600);
        assert_eq!([(); 4].map(|()| bucket.take(much_later)), [true, true, true, false]);
        let mut many = Bucket::per_minute(100_000_000);
        assert!((0..1_000_000).all(|_| many.take(now)));
    }

    #[test]
    fn each_kind_has_its_rate() {
        let (budgets, now) = (budgets(), Instant::now());
        let pair = testing::pair("w", "t");
        let name: Arc<str> = "c".into();
        let client = budgets.client(&pair, Some(&name), now);
        assert_eq!(taken(&client, Some(Kind::KeyInit), now), 60);
        assert_eq!(taken(&client, Some(Kind::PairingRequest), now), 30);
        assert_eq!(taken(&client, Some(Kind::Envelope), now), 240);
        assert_eq!(taken(&client, None, now), 0, "what is no frame counts as runtime");
        assert_eq!(taken(&budgets.pair(&pair, now), Some(Kind::Envelope), now), 1200);
        assert_eq!(taken(&budgets.daemon(&pair, now), Some(Kind::KeyResponse), now), 2400);
    }

    #[test]
    fn a_budget_outlives_the_socket_and_is_nobody_elses() {
        let (budgets, now) = (budgets(), Instant::now());
        let (pair, other) = (testing::pair("w", "t"), testing::pair("w", "u"));
        let name: Arc<str> = "c".into();
        let spend = |pair: &Pair, name: Option<&Arc<str>>| {
            taken(&budgets.client(pair, name, now), Some(Kind::Envelope), now)
        };
        assert_eq!(spend(&pair, Some(&name)), 240);
        assert_eq!(spend(&pair, Some(&name)), 0, "connecting anew fills nothing");
        assert_eq!(spend(&other, Some(&name)), 240);
        assert_eq!(spend(&pair, Some(&"d".into())), 240);
        assert_eq!(spend(&pair, None), 240);
        assert_eq!(spend(&pair, None), 240, "a nameless one shares with nobody");
        let joined = testing::pair("w:t", "");
        assert_eq!(taken(&budgets.pair(&pair, now), None, now), 1200);
        assert_eq!(taken(&budgets.pair(&joined, now), None, now), 1200, "a pair is no joined string");
    }

    #[test]
    fn many_names_do_not_fill_memory() {
        let (mut budgets, now) = (budgets(), Instant::now());
        budgets.max = 100;
        let pair = testing::pair("w", "t");
        let used = budgets.pair(&pair, now);
        for n in 0..1_000 {
            let budget = budgets.client(&pair, Some(&n.to_string().into()), now);
            assert!(budget.lock().take(None, now));
        }
        assert!(budgets.kept.lock().len() <= 101, "{}", budgets.kept.lock().len());
        assert!(Arc::ptr_eq(&used, &budgets.pair(&pair, now)), "what is in use stays");
        for _ in 0..100 {
            budgets.client(&pair, Some(&"x".into()), now + Duration::from_secs(120));
        }
        assert!(budgets.kept.lock().len() <= 2, "what is full again goes");
    }
}
