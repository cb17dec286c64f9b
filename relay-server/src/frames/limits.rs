//! How many frames pass in a minute (contract: frames, "Limits").
//!
//! A budget belongs to a name that the platform vouched for: a client of a pair, a pair, a pair's daemon, a
//! workspace. It outlives the socket, so that connecting anew fills nothing, and nobody else's frames empty it. Who
//! has no name shares one with all of their address that have none. What is no frame at all is charged to its sender
//! alone, never to what several share.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashlink::LinkedHashMap;
use parking_lot::Mutex;

use super::frame::Kind;
use super::{Admitted, Name, Pair, Scope};
use crate::config::frames::Frames;
use crate::http::client_addr::RateKey;

/// Budgets that are remembered. Those in use are bounded by the sockets; beyond, some that are not in use are
/// forgotten.
const MAX_BUDGETS: usize = 65_536;
/// Budgets that are looked at for every one that is asked for, so that those which are full again go.
const SWEEP: usize = 4;

/// Clients whose key exchanges and pairings a pair takes at their full rate: each costs the daemon some arithmetic,
/// and it answers all of them out of one budget.
const CLIENTS: u32 = 10;
/// Questions for daemons that no relay has, of one workspace: who invents targets asks about each anew.
const VAIN_PER_MINUTE: u32 = 600;

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

    /// How long until one is left; zero when one is.
    pub fn wait(&self, now: Instant) -> Duration {
        let then = self.full_at.map_or(now, |at| at.max(now)) + self.each;
        then.saturating_duration_since(now).saturating_sub(Self::FULL)
    }

    /// Whether nothing is missing.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

/// What one client, a pair's daemon, or several together may send.
#[derive(Debug)]
pub struct Budget {
    key_init: Bucket,
    pairing: Bucket,
    runtime: Bucket,
    /// Questions to the other relays that found no daemon.
    vain: Bucket,
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

    /// How long until there is one left for such a frame.
    pub fn wait(&self, kind: Option<Kind>, now: Instant) -> Duration {
        match kind {
            Some(Kind::KeyInit) => self.key_init.wait(now),
            Some(Kind::PairingRequest) => self.pairing.wait(now),
            _ => self.runtime.wait(now),
        }
    }

    /// Whether nothing that a sender of this scope could say is left, so that it need not be read.
    pub fn is_spent(&self, scope: Option<Scope>, now: Instant) -> bool {
        let spent = |bucket: &Bucket| !bucket.wait(now).is_zero();
        let own = match scope {
            Some(Scope::Runtime) => spent(&self.key_init),
            Some(Scope::Pairing) => spent(&self.pairing),
            Some(Scope::SessionEvents) | None => true,
        };
        own && spent(&self.runtime)
    }

    /// Whether the other relays may be asked for a daemon that was not there the last time.
    pub fn may_ask(&self, now: Instant) -> bool {
        self.vain.wait(now).is_zero()
    }

    /// They were asked, and have none.
    pub fn asked_in_vain(&mut self, now: Instant) {
        self.vain.take(now);
    }

    fn is_full(&self, now: Instant) -> bool {
        [&self.key_init, &self.pairing, &self.runtime, &self.vain].iter().all(|bucket| bucket.is_full(now))
    }
}

/// Whose a budget is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Client(Pair, Name),
    Address(Pair, RateKey),
    Pair(Pair),
    Daemon(Pair),
    Workspace(Arc<str>),
}

/// A budget that several sockets may share.
pub type SharedBudget = Arc<Mutex<Budget>>;

/// What the clients and workers of a pair have together.
pub struct Shared {
    /// All of the pair's: key exchanges and pairings, which cost its daemon most.
    pair: SharedBudget,
    /// All of the workspace's, whichever target they name: everything else.
    pub workspace: SharedBudget,
}

impl Shared {
    /// Spends for a frame.
    pub fn take(&self, kind: Kind, now: Instant) -> bool {
        let budget = match kind {
            Kind::KeyInit | Kind::PairingRequest => &self.pair,
            Kind::Envelope | Kind::TransportRequest => &self.workspace,
            _ => return true,
        };
        budget.lock().take(Some(kind), now)
    }
}

/// The budgets of everybody.
pub struct Budgets {
    key_init: u32,
    pairing: u32,
    client: u32,
    workspace: u32,
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
            workspace: limits.runtime_rate_per_minute_workspace,
            daemon: limits.daemon_runtime_rate_per_minute,
            max: MAX_BUDGETS,
            kept: Mutex::new(LinkedHashMap::with_hasher(RandomState::new())),
        }
    }

    /// A client's or worker's.
    pub fn client(&self, who: &Admitted, now: Instant) -> SharedBudget {
        let pair = who.pair.clone();
        let whose = match who.name() {
            Some(name) => Whose::Client(pair, name),
            None => Whose::Address(pair, who.address),
        };
        self.get(whose, now)
    }

    /// What all clients of a pair, and of its workspace, send together.
    pub fn shared(&self, pair: &Pair, now: Instant) -> Shared {
        Shared {
            pair: self.get(Whose::Pair(pair.clone()), now),
            workspace: self.get(Whose::Workspace(pair.workspace.clone()), now),
        }
    }

    /// A pair's daemon's.
    pub fn daemon(&self, pair: &Pair, now: Instant) -> SharedBudget {
        self.get(Whose::Daemon(pair.clone()), now)
    }

    fn full(&self, whose: &Whose) -> Budget {
        let (clients, runtime) = match whose {
            Whose::Client(..) | Whose::Address(..) => (1, self.client),
            Whose::Pair(_) | Whose::Workspace(_) => (CLIENTS, self.workspace),
            Whose::Daemon(_) => (1, self.daemon),
        };
        Budget {
            key_init: Bucket::per_minute(self.key_init.saturating_mul(clients)),
            pairing: Bucket::per_minute(self.pairing.saturating_mul(clients)),
            runtime: Bucket::per_minute(runtime),
            vain: Bucket::per_minute(VAIN_PER_MINUTE),
        }
    }

    fn get(&self, whose: Whose, now: Instant) -> SharedBudget {
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
        let budget = Arc::new(Mutex::new(self.full(&whose)));
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

    fn spend(budgets: &Budgets, who: &Admitted, now: Instant) -> usize {
        taken(&budgets.client(who, now), Some(Kind::Envelope), now)
    }

    #[test]
    fn what_waits_is_told_how_long() {
        let (mut bucket, now) = (Bucket::per_minute(3), Instant::now());
        assert_eq!(bucket.wait(now), Duration::ZERO);
        while bucket.take(now) {}
        assert_eq!(bucket.wait(now), Duration::from_secs(20));
        assert_eq!(bucket.wait(now + Duration::from_secs(15)), Duration::from_secs(5));
        assert_eq!(bucket.wait(now + Duration::from_secs(20)), Duration::ZERO);
        assert!(bucket.take(now + Duration::from_secs(20)), "and no later");
    }

    #[test]
    fn each_kind_has_its_rate() {
        let (budgets, now) = (budgets(), Instant::now());
        let pair = testing::pair("w", "t");
        let client = budgets.client(&testing::named("c"), now);
        assert!(!client.lock().is_spent(None, now));
        assert_eq!(taken(&client, Some(Kind::PairingRequest), now), 30);
        assert_eq!(taken(&client, Some(Kind::Envelope), now), 240);
        assert_eq!(taken(&client, None, now), 0, "what is no frame counts as runtime");
        for (scope, spent) in [
            (None, true),
            (Some(Scope::SessionEvents), true),
            (Some(Scope::Pairing), true),
            (Some(Scope::Runtime), false),
        ] {
            assert_eq!(client.lock().is_spent(scope, now), spent, "{scope:?}");
        }
        assert_eq!(taken(&client, Some(Kind::KeyInit), now), 60);
        assert!(client.lock().is_spent(Some(Scope::Runtime), now));
        assert_eq!(taken(&budgets.daemon(&pair, now), Some(Kind::KeyResponse), now), 2400);
        let shared = budgets.shared(&pair, now);
        let take = |kind| (0..10_000).take_while(|_| shared.take(kind, now)).count();
        assert_eq!((take(Kind::Envelope), take(Kind::TransportRequest)), (1200, 0));
        assert_eq!((take(Kind::KeyInit), take(Kind::PairingRequest)), (600, 300));
        assert_eq!(take(Kind::Subscription), 10_000, "answered by the relay alone");
    }

    #[test]
    fn a_budget_outlives_the_socket_and_is_nobody_elses() {
        let (budgets, now) = (budgets(), Instant::now());
        let one = testing::named("c");
        let of = |user: &str, who: Admitted| Admitted { user_id: Some(user.into()), ..who };
        assert_eq!(spend(&budgets, &one, now), 240);
        assert_eq!(spend(&budgets, &testing::at(9, one.clone()), now), 0, "connecting anew fills nothing");
        for other in [
            Admitted { pair: testing::pair("w", "u"), ..one.clone() },
            testing::named("d"),
            of("u", one.clone()),
            of("v", one),
        ] {
            assert_eq!(spend(&budgets, &other, now), 240, "{other:?}");
        }
    }

    #[test]
    fn who_has_no_name_is_counted_by_user_or_address() {
        let (budgets, now) = (budgets(), Instant::now());
        let nameless = testing::client(Scope::Runtime);
        assert_eq!(spend(&budgets, &nameless, now), 240);
        assert_eq!(spend(&budgets, &nameless, now), 0, "a new socket is no new somebody");
        assert_eq!(spend(&budgets, &testing::at(2, nameless.clone()), now), 240);
        let user = Admitted { user_id: Some("u".into()), ..nameless };
        assert_eq!(spend(&budgets, &user, now), 240);
        assert_eq!(spend(&budgets, &testing::at(3, user), now), 0, "wherever the user is");
    }

    #[test]
    fn a_workspace_has_one_budget_whatever_targets_are_named() {
        let (budgets, now) = (budgets(), Instant::now());
        let shared = |workspace: &str, target: &str| budgets.shared(&testing::pair(workspace, target), now);
        let spend = |shared: &Shared, kind| (0..10_000).take_while(|_| shared.take(kind, now)).count();
        assert_eq!(spend(&shared("w", "t"), Kind::Envelope), 1200);
        assert_eq!(spend(&shared("w", "u"), Kind::Envelope), 0);
        assert_eq!(spend(&shared("w:t", ""), Kind::Envelope), 1200, "and no joined string is one");
        assert_eq!(spend(&shared("w", "t"), Kind::KeyInit), 600);
        assert_eq!(spend(&shared("w", "u"), Kind::KeyInit), 600, "each daemon bears its own");
        let asked = shared("w", "invented").workspace;
        let in_vain = (0..10_000).take_while(|_| {
            let may = asked.lock().may_ask(now);
            asked.lock().asked_in_vain(now);
            may
        });
        assert_eq!(in_vain.count(), 600);
        assert!(!shared("w", "another").workspace.lock().may_ask(now));
        assert!(shared("v", "another").workspace.lock().may_ask(now));
    }

    #[test]
    fn many_names_do_not_fill_memory() {
        let (mut budgets, now) = (budgets(), Instant::now());
        budgets.max = 100;
        let pair = testing::pair("w", "t");
        let used = budgets.shared(&pair, now);
        for n in 0..1_000 {
            let budget = budgets.client(&testing::named(&n.to_string()), now);
            assert!(budget.lock().take(None, now));
        }
        assert!(budgets.kept.lock().len() <= 103, "{}", budgets.kept.lock().len());
        assert!(Arc::ptr_eq(&used.pair, &budgets.shared(&pair, now).pair), "what is in use stays");
        for _ in 0..100 {
            budgets.client(&testing::named("x"), now + Duration::from_secs(120));
        }
        assert!(budgets.kept.lock().len() <= 3, "what is full again goes");
    }
}
