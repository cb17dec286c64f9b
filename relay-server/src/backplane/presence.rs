//! Tells the others who is here: daemons, tunnels' hosts, this relay itself.
//!
//! What is true is kept here and changes at once; one task writes it, so that an end that is told late cannot
//! overtake the beginning that followed it. Of one subject only the newest truth is written, never two writes at
//! once. A write that failed is tried again; every 20 s, and whenever the other side has come back, perhaps without
//! its memory, all of it is written anew.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::health::Failure;
use super::inbox::Inbox;
use super::link::Links;
use super::metrics::Metrics;
use super::{Daemon, Event, Pair};

/// How often everything is written anew.
pub(super) const RENEW: Duration = Duration::from_secs(20);
/// How long others believe what was written.
pub(super) const VOID: Duration = Duration::from_secs(45);
/// Subjects that are written side by side: with a platform that takes 50 ms, two thousand daemons in 13 s.
const AT_ONCE: usize = 16;
/// Connections of one subject that may stand there while no write is answered; what is forgotten becomes void.
const MOST_TOLD: usize = 4;
/// How long to wait after a failed write.
const AGAIN: Duration = Duration::from_millis(500);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
    /// The other side has answered about this connection before: it is no newcomer.
    pub(super) renewal: bool,
}

/// How a write went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    /// It stands there.
    Held,
    /// Another holds it by right.
    Lost,
}

#[derive(Default)]
struct State {
    subjects: HashMap<Subject, Known>,
    /// Tunnels of each host, with their beginnings.
    hosts: HashMap<Uuid, HashMap<Uuid, Instant>>,
    queue: VecDeque<Subject>,
}

#[derive(Default)]
struct Known {
    now: Option<Fact>,
    told: Vec<Uuid>,
    queued: bool,
    /// The connection about which there was an answer last.
    answered: Option<Uuid>,
    /// The connection of whose loss the broker was told.
    lost: Option<Uuid>,
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
        let fact = Fact { connection: self.incarnation, machine: None, generation: 0, since: Instant::now() };
        self.set(Subject::Relay, Some(fact));
    }

    pub(super) fn daemon_opened(&self, pair: &Pair, daemon: Daemon) {
        let Daemon { connection, machine, generation } = daemon;
        let fact = Fact { connection, machine, generation, since: Instant::now() };
        self.set(Subject::Daemon(pair.clone()), Some(fact));
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
        let fact =
            newest.map(|since| Fact { connection: self.incarnation, machine: None, generation: 0, since });
        state.set(Subject::Host(host), fact);
        drop(state);
        self.wake.notify_one();
    }

    fn set(&self, subject: Subject, fact: Option<Fact>) {
        self.state.lock().set(subject, fact);
        self.wake.notify_one();
    }

    /// Everything is to be written anew.
    fn renew(&self) {
        let mut state = self.state.lock();
        let all: Vec<Subject> = state
            .subjects
            .iter()
            .filter(|(_, known)| known.now.is_some())
            .map(|(subject, _)| subject.clone())
            .collect();
        for subject in all {
            state.enqueue(subject);
        }
    }

    /// Nothing is here any more.
    fn clear(&self) {
        let mut state = self.state.lock();
        state.hosts.clear();
        let all: Vec<Subject> = state.subjects.keys().cloned().collect();
        for subject in all {
            state.set(subject, None);
        }
    }

    /// Some of what is to be written.
    fn take(&self) -> Vec<Job> {
        let mut state = self.state.lock();
        let mut jobs = Vec::new();
        while jobs.len() < AT_ONCE {
            let Some(subject) = state.queue.pop_front() else { break };
            let Some(known) = state.subjects.get_mut(&subject) else { continue };
            known.queued = false;
            let now = known.now.clone();
            let renewal = now.as_ref().is_some_and(|fact| known.answered == Some(fact.connection));
            jobs.push(Job { now, told: known.told.clone(), renewal, subject });
        }
        jobs
    }

    /// How that went. Returns the daemon's connection whose loss is news.
    fn done(&self, job: &Job, result: &Result<Written, Failure>) -> Option<Uuid> {
        let mut state = self.state.lock();
        let known = state.subjects.get_mut(&job.subject)?;
        let connection = job.now.as_ref().map(|fact| fact.connection);
        let mut news = None;
        if result.is_ok() {
            known.answered = connection;
        }
        match result {
            Ok(Written::Held) => {
                known.told = connection.into_iter().collect();
                known.lost = None;
            }
            Ok(Written::Lost) => {
                known.told.clear();
                // The broker is told once, and only of a connection that still is the one here.
                let here = known.now.as_ref().map(|fact| fact.connection);
                news = connection.filter(|lost| here == Some(*lost) && known.lost != Some(*lost));
            }
            Err(_) => {
                // It may have arrived all the same.
                known.told.extend(connection.filter(|connection| !known.told.contains(connection)));
                let surplus = known.told.len().saturating_sub(MOST_TOLD);
                known.told.drain(..surplus);
                state.enqueue(job.subject.clone());
            }
        }
        let over = |known: &Known| known.now.is_none() && known.told.is_empty() && !known.queued;
        if state.subjects.get(&job.subject).is_some_and(over) {
            state.subjects.remove(&job.subject);
        }
        news
    }

    /// The broker knows.
    fn told_of_loss(&self, subject: &Subject, connection: Uuid) {
        if let Some(known) = self.state.lock().subjects.get_mut(subject) {
            known.lost = Some(connection);
        }
    }
}

impl State {
    fn set(&mut self, subject: Subject, fact: Option<Fact>) {
        self.subjects.entry(subject.clone()).or_default().now = fact;
        self.enqueue(subject);
    }

    fn enqueue(&mut self, subject: Subject) {
        if let Some(known) = self.subjects.get_mut(&subject)
            && !known.queued
        {
            known.queued = true;
            self.queue.push_back(subject);
        }
    }
}

/// Writes until `stop`, and then that nothing is here any more.
pub(super) async fn write(
    presence: Arc<Presence>,
    links: Arc<Links>,
    inbox: Arc<Inbox>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut renew = tokio::time::interval_at(Instant::now() + RENEW, RENEW);
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let failed = write_some(&presence, &links, &inbox, &metrics).await;
        let pause = async {
            match failed {
                Some(true) => tokio::time::sleep(AGAIN).await,
                Some(false) => {}
                None => presence.wake.notified().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = renew.tick() => presence.renew(),
            () = links.returned() => presence.renew(),
            () = pause => {}
        }
    }
    presence.clear();
    let last_words = async { while write_some(&presence, &links, &inbox, &metrics).await == Some(false) {} };
    let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
}

/// Writes a few subjects; whether one of them failed, `None` when there was none.
async fn write_some(presence: &Presence, links: &Links, inbox: &Inbox, metrics: &Metrics) -> Option<bool> {
    let jobs = presence.take();
    if jobs.is_empty() {
        return None;
    }
    let results = join_all(jobs.iter().map(|job| links.write(job))).await;
    let mut failed = false;
    for (job, result) in jobs.iter().zip(results) {
        match &result {
            Ok(Written::Held) => metrics.presence_ok.increment(1),
            Ok(Written::Lost) => metrics.presence_lost.increment(1),
            Err(failure) => {
                tracing::debug!(subject = ?job.subject, %failure, "who is here could not be written; tried again");
                metrics.presence_failed.increment(1);
                failed = true;
            }
        }
        let news = presence.done(job, &result);
        if let (Subject::Daemon(pair), Some(connection)) = (&job.subject, news)
            && inbox.tell(Event::Superseded { pair: pair.clone(), connection, higher_generation: false })
        {
            presence.told_of_loss(&job.subject, connection);
        }
    }
    Some(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Pair {
        Pair { workspace: "w".into(), target: Some("t".into()) }
    }

    fn daemon(connection: Uuid) -> Daemon {
        Daemon { connection, machine: None, generation: 1 }
    }

    fn away() -> Result<Written, Failure> {
        Err(Failure::Away(String::new()))
    }

    #[test]
    fn only_the_newest_truth_is_written_and_a_late_end_changes_nothing() {
        let presence = Presence::new();
        let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
        presence.daemon_opened(&pair(), daemon(old));
        presence.daemon_opened(&pair(), daemon(new));
        presence.daemon_closed(&pair(), old);
        let jobs = presence.take();
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].now.as_ref().unwrap().connection, new);
        assert_eq!(presence.done(&jobs[0], &Ok(Written::Held)), None);
        presence.daemon_closed(&pair(), old);
        assert!(presence.take().is_empty());
        presence.daemon_closed(&pair(), new);
        let jobs = presence.take();
        assert!(jobs[0].now.is_none() && jobs[0].told == [new]);
        presence.done(&jobs[0], &Ok(Written::Held));
        assert!(presence.state.lock().subjects.is_empty());
    }

    #[test]
    fn what_failed_is_written_again_and_an_end_in_the_meantime_is_not_lost() {
        let presence = Presence::new();
        let connection = Uuid::new_v4();
        presence.daemon_opened(&pair(), daemon(connection));
        let jobs = presence.take();
        // It ends while it is being written, and the write may have arrived or not.
        presence.daemon_closed(&pair(), connection);
        presence.done(&jobs[0], &away());
        let jobs = presence.take();
        assert!(jobs[0].now.is_none() && jobs[0].told == [connection]);
        presence.done(&jobs[0], &away());
        let jobs = presence.take();
        assert!(jobs[0].now.is_none() && jobs[0].told == [connection]);
        presence.done(&jobs[0], &Ok(Written::Held));
        assert!(presence.take().is_empty() && presence.state.lock().subjects.is_empty());
    }

    #[test]
    fn a_loss_is_told_once_and_never_of_a_connection_that_has_gone() {
        let presence = Presence::new();
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        presence.daemon_opened(&pair(), daemon(first));
        let jobs = presence.take();
        assert_eq!(presence.done(&jobs[0], &Ok(Written::Lost)), Some(first));
        presence.told_of_loss(&jobs[0].subject, first);
        presence.renew();
        let jobs = presence.take();
        assert_eq!(presence.done(&jobs[0], &Ok(Written::Lost)), None);
        presence.renew();
        let jobs = presence.take();
        presence.daemon_opened(&pair(), daemon(second));
        assert_eq!(presence.done(&jobs[0], &Ok(Written::Lost)), None);
        let jobs = presence.take();
        assert_eq!(presence.done(&jobs[0], &Ok(Written::Lost)), Some(second));
    }

    #[test]
    fn a_host_is_here_while_one_of_its_tunnels_is() {
        let presence = Presence::new();
        let (host, one, two) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        presence.host_opened(host, one);
        presence.host_opened(host, two);
        presence.host_closed(host, one);
        presence.host_closed(host, one);
        let jobs = presence.take();
        assert!(jobs.len() == 1 && jobs[0].now.is_some());
        presence.done(&jobs[0], &Ok(Written::Held));
        presence.host_closed(host, two);
        let jobs = presence.take();
        assert!(jobs[0].now.is_none());
        presence.done(&jobs[0], &Ok(Written::Held));
        presence.host_closed(host, two);
        assert!(presence.take().is_empty() && presence.state.lock().subjects.is_empty());
    }

    #[test]
    fn a_turmoil_takes_no_more_room_than_there_are_subjects() {
        let presence = Presence::new();
        for _ in 0..1000 {
            let connection = Uuid::new_v4();
            presence.daemon_opened(&pair(), daemon(connection));
            presence.daemon_closed(&pair(), connection);
            presence.renew();
        }
        assert_eq!(presence.state.lock().queue.len(), 1);
    }
}
