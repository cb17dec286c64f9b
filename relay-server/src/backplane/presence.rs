//! Who is here, as the others are to know it: daemons, tunnels' hosts, this relay itself.
//!
//! What is true is kept here and changes at once; what of it is to be written next, the one task that writes it asks
//! ([`super::writer`]). Of one subject only the newest truth is written, never two writes at once. A write that failed
//! is tried again: when the other side is away all of them wait, when it refuses one subject that one alone does.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::health::Failure;
use super::{Daemon, Pair};

/// How long others believe what was written.
pub(super) const VOID: Duration = Duration::from_secs(45);
/// Subjects that are written side by side: with a platform that takes 50 ms, two thousand daemons in 13 s.
const AT_ONCE: usize = 16;
/// Connections of one subject that may stand there while no write is answered; what is forgotten becomes void.
const MOST_TOLD: usize = 4;
/// How long a subject waits that was refused, the first time; then twice as long each time.
const REFUSED: Duration = Duration::from_secs(1);
/// The longest of these waits: less than a renewal, so that what was mended is there in time.
const REFUSED_LONGEST: Duration = Duration::from_secs(16);
/// When to look again at what may have been overwritten in the moment of its writing: later than a write can take.
const LOOK: Duration = Duration::from_secs(3);
/// How often one subject may be written over another's that lives, where nobody can say who was first.
const CONTEST: Duration = Duration::from_secs(10);

/// About what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// A daemon.
    Daemon(Pair),
    /// A host with tunnels here.
    Host(Uuid),
    /// This relay.
    Relay,
}

/// What is so.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    /// The connection that makes it so; this process, for hosts and the relay.
    pub(super) connection: Uuid,
    pub(super) machine: Option<Arc<str>>,
    pub(super) generation: i64,
    /// It was found alive when another relay held it.
    pub(super) confirmed: bool,
    /// Since when.
    pub(super) since: Instant,
}

/// What to write.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) subject: Subject,
    /// `None`: no longer so.
    pub(super) now: Option<Fact>,
    /// The connections one of which may stand there, from us.
    pub(super) told: Vec<Uuid>,
    /// It may be written over another's that lives, where nobody can say who was first.
    pub(super) contests: bool,
}

/// How a write went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    /// It stands there.
    Held,
    /// It stands there unless another wrote in the same moment: it is to be looked at again soon.
    Unsure,
    /// Another holds it by right.
    Lost {
        /// By that of a higher generation, which one of us has sealed.
        higher_generation: bool,
    },
    /// Another's was left alone for now, without having the better right.
    Left,
}

#[derive(Default)]
struct State {
    subjects: HashMap<Subject, Known>,
    /// Tunnels of each host, with their beginnings.
    hosts: HashMap<Uuid, HashMap<Uuid, Instant>>,
    queue: VecDeque<Subject>,
    /// What waits until a time. The number tells apart what waits until the same.
    later: BTreeMap<(Instant, u64), Subject>,
    number: u64,
}

#[derive(Default)]
struct Known {
    now: Option<Fact>,
    told: Vec<Uuid>,
    queued: bool,
    /// Where it stands among those that wait.
    later: Option<(Instant, u64)>,
    /// Refusals since the last answer.
    refusals: u32,
    /// When it was written last where it may have been written over another's.
    contested: Option<Instant>,
    /// The loss of which the broker was told.
    lost: Option<Loss>,
}

/// A daemon's connection here that lost to another relay's, as the broker is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) connection: Uuid,
    pub(super) higher_generation: bool,
    /// Although it was confirmed.
    confirmed: bool,
}

/// The truth, and what of it is to be written.
pub(super) struct Presence {
    state: Mutex<State>,
    wake: Notify,
    /// This process.
    incarnation: Uuid,
}

impl Presence {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::default()), wake: Notify::new(), incarnation: Uuid::new_v4() }
    }

    /// This relay is here.
    pub(super) fn relay_is_here(&self) {
        self.set(Subject::Relay, Some(self.here(Instant::now())));
    }

    pub(super) fn daemon_opened(&self, pair: &Pair, daemon: Daemon) {
        let Daemon { connection, machine, generation } = daemon;
        let fact = Fact { connection, machine, generation, confirmed: false, since: Instant::now() };
        self.set(Subject::Daemon(pair.clone()), Some(fact));
    }

    /// It was probed and lives. A confirmation that comes late revives nothing.
    pub(super) fn daemon_confirmed(&self, pair: &Pair, connection: Uuid) {
        let subject = Subject::Daemon(pair.clone());
        let mut state = self.state.lock();
        let here = state.subjects.get_mut(&subject).and_then(|known| known.now.as_mut());
        if let Some(fact) = here.filter(|fact| fact.connection == connection) {
            fact.confirmed = true;
            state.enqueue(subject);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Something is here in this process.
    fn here(&self, since: Instant) -> Fact {
        Fact { connection: self.incarnation, machine: None, generation: 0, confirmed: false, since }
    }

    pub(super) fn daemon_closed(&self, pair: &Pair, connection: Uuid) {
        let subject = Subject::Daemon(pair.clone());
        let mut state = self.state.lock();
        let here = state.subjects.get(&subject).and_then(|known| known.now.as_ref());
        if here.is_some_and(|fact| fact.connection == connection) {
            state.set(subject, None);
            drop(state);
            self.wake.notify_one();
        }
    }

    pub(super) fn host_opened(&self, host: Uuid, connection: Uuid) {
        let mut state = self.state.lock();
        state.hosts.entry(host).or_default().insert(connection, Instant::now());
        self.host_changed(state, host);
    }

    pub(super) fn host_closed(&self, host: Uuid, connection: Uuid) {
        let mut state = self.state.lock();
        let Entry::Occupied(mut tunnels) = state.hosts.entry(host) else { return };
        if tunnels.get_mut().remove(&connection).is_none() {
            return;
        }
        if tunnels.get().is_empty() {
            tunnels.remove();
        }
        self.host_changed(state, host);
    }

    fn host_changed(&self, mut state: parking_lot::MutexGuard<'_, State>, host: Uuid) {
        let newest = state.hosts.get(&host).and_then(|tunnels| tunnels.values().max().copied());
        let fact = newest.map(|since| self.here(since));
        state.set(Subject::Host(host), fact);
        drop(state);
        self.wake.notify_one();
    }

    fn set(&self, subject: Subject, fact: Option<Fact>) {
        self.state.lock().set(subject, fact);
        self.wake.notify_one();
    }

    /// Waits until something is to be written that was not.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Everything is to be written anew, but for what waits because it was refused.
    pub(super) fn renew(&self) {
        let mut state = self.state.lock();
        let all: Vec<Subject> = state
            .subjects
            .iter()
            .filter(|(_, known)| known.now.is_some() && known.refusals == 0)
            .map(|(subject, _)| subject.clone())
            .collect();
        for subject in all {
            state.enqueue(subject);
        }
    }

    /// Nothing is here any more.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        state.hosts.clear();
        let all: Vec<Subject> = state.subjects.keys().cloned().collect();
        for subject in all {
            state.set(subject, None);
        }
    }

    /// Some of what is to be written.
    pub(super) fn take(&self) -> Vec<Job> {
        let now = Instant::now();
        let mut state = self.state.lock();
        while let Some(due) = state.later.first_entry().filter(|first| first.key().0 <= now) {
            let subject = due.remove();
            state.enqueue(subject);
        }
        let mut jobs = Vec::new();
        while jobs.len() < AT_ONCE {
            let Some(subject) = state.queue.pop_front() else { break };
            let Some(known) = state.subjects.get_mut(&subject) else { continue };
            known.queued = false;
            let fact = known.now.clone();
            let rested = known.contested.is_none_or(|then| now - then >= CONTEST);
            let contests = rested && fact.as_ref().is_some_and(|fact| fact.confirmed);
            jobs.push(Job { now: fact, told: known.told.clone(), contests, subject });
        }
        jobs
    }

    /// When the next of those that wait is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.state.lock().later.first_key_value().map(|((due, _), _)| *due)
    }

    /// How that went. Returns what the broker is to be told.
    pub(super) fn done(&self, job: &Job, result: &Result<Written, Failure>) -> Option<Loss> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let known = state.subjects.get_mut(&job.subject)?;
        let connection = job.now.as_ref().map(|fact| fact.connection);
        let mut news = None;
        // When it is to be written again without anybody asking for it.
        let mut again = None;
        if result.is_ok() {
            known.refusals = 0;
        }
        match result {
            Ok(Written::Held | Written::Unsure) => {
                known.told = connection.into_iter().collect();
                known.lost = None;
                if *result == Ok(Written::Unsure) {
                    known.contested = Some(now);
                    again = Some(now + LOOK);
                }
            }
            Ok(Written::Lost { higher_generation }) => {
                known.told.clear();
                // The broker is told once, and only of a connection that still is the one here; and once more when
                // it lost although it had been confirmed in the meantime.
                let (fact, here) = (job.now.as_ref(), known.now.as_ref());
                let current = fact.zip(here).filter(|(fact, here)| {
                    fact.connection == here.connection && fact.confirmed == here.confirmed
                });
                let loss = current.map(|(fact, _)| Loss {
                    connection: fact.connection,
                    higher_generation: *higher_generation,
                    confirmed: fact.confirmed,
                });
                news = loss.filter(|loss| known.lost != Some(*loss));
            }
            // The next renewal looks again.
            Ok(Written::Left) => {}
            // What nobody takes back becomes void by itself.
            Err(Failure::Refused(_)) if connection.is_none() => known.told.clear(),
            Err(failure) => {
                // It may have arrived all the same.
                known.told.extend(connection.filter(|connection| !known.told.contains(connection)));
                let surplus = known.told.len().saturating_sub(MOST_TOLD);
                known.told.drain(..surplus);
                if failure.of_this_alone() {
                    again =
                        Some(now + REFUSED.saturating_mul(1 << known.refusals.min(16)).min(REFUSED_LONGEST));
                    known.refusals = known.refusals.saturating_add(1);
                } else {
                    state.enqueue(job.subject.clone());
                }
            }
        }
        if let Some(due) = again {
            state.postpone(&job.subject, due);
        }
        let over = |known: &Known| known.now.is_none() && known.told.is_empty() && !known.queued;
        if state.subjects.get(&job.subject).is_some_and(over) {
            state.forget(&job.subject);
        }
        news
    }

    /// The broker knows.
    pub(super) fn told_of_loss(&self, subject: &Subject, loss: Loss) {
        if let Some(known) = self.state.lock().subjects.get_mut(subject) {
            known.lost = Some(loss);
        }
    }
}

impl State {
    fn set(&mut self, subject: Subject, fact: Option<Fact>) {
        self.subjects.entry(subject.clone()).or_default().now = fact;
        self.enqueue(subject);
    }

    fn enqueue(&mut self, subject: Subject) {
        let Some(known) = self.subjects.get_mut(&subject) else { return };
        if let Some(place) = known.later.take() {
            self.later.remove(&place);
        }
        if !known.queued {
            known.queued = true;
            self.queue.push_back(subject);
        }
    }

    /// Writes it again at that time, unless something asks for it before.
    fn postpone(&mut self, subject: &Subject, due: Instant) {
        let Some(known) = self.subjects.get_mut(subject) else { return };
        // It changed in the meantime, and is written soon.
        if known.queued {
            return;
        }
        self.number = self.number.wrapping_add(1);
        let place = (due, self.number);
        if let Some(earlier) = known.later.replace(place) {
            self.later.remove(&earlier);
        }
        self.later.insert(place, subject.clone());
    }

    fn forget(&mut self, subject: &Subject) {
        if let Some(place) = self.subjects.remove(subject).and_then(|known| known.later) {
            self.later.remove(&place);
        }
    }
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
