//! Every pair of this relay, and the ways into them: sockets that attach, frames from the bus.
//!
//! Locks are taken in the order map of pairs, pair, outbox; they are short and never held while waiting. A pair
//! is in the map as long as anybody of it is here. Presence is told under the pair's lock, so that what the other
//! relays hear has the order in which it happened.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::attached::Attached;
use super::bus::Bus;
use super::frame::Frame;
use super::limits::{Budgets, SharedBudget};
use super::metrics::{Metrics, Reason, Sender, Way};
use super::onward::Sending;
use super::pair::{Member, Origin, Outcome, Present, State};
use super::requests::SocketId;
use super::status::{self, Code, Gate};
use super::{Admitted, Close, Outbox, Role, frame, policy, transport};
use crate::backplane::{self, Backplane, BusFrame, Direction, Holder, Pair};
use crate::config;

/// How long a daemon may take to show that it lives when another one comes.
const PROBE: Duration = Duration::from_secs(1);
/// Dead daemons that a newcomer outlives, before others that come at the same time win.
const TAKEOVERS: usize = 3;

/// Of a daemon that finds one alive.
pub(super) const DAEMON_CONNECTED: Close = Close::policy("a daemon is connected");
/// Of a daemon that finds one of a higher generation.
pub(super) const OLDER_GENERATION: Close = Close::policy("a daemon of a higher generation is connected");
/// Of a daemon that gave way.
pub(super) const REPLACED: Close = Close::policy("replaced by a newer daemon");
/// Of a client that finds the pair full.
pub(super) const TOO_MANY_CLIENTS: Close = Close::policy("too many clients");

/// A pair, and what is known of it.
pub(super) struct Entry {
    pub(super) pair: Pair,
    pub(super) state: Mutex<State>,
}

/// The broker.
pub struct Broker {
    pub(super) max_frame_bytes: usize,
    max_clients: usize,
    worker_prefix: Option<String>,
    dev: bool,
    relays: config::relays::Relays,
    pub(super) bus: Bus,
    budgets: Budgets,
    pairs: RwLock<HashMap<Pair, Arc<Entry>>>,
    next_socket: AtomicU64,
    pub(super) metrics: Metrics,
}

/// What the operator sees of one pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PairSnapshot {
    /// The workspace.
    pub workspace_id: Arc<str>,
    /// The runtime target.
    pub runtime_target_id: Option<Arc<str>>,
    /// Whether the daemon is connected here.
    pub daemon_connected: bool,
    /// Clients and workers that are connected here.
    pub client_count: usize,
    /// The relay that the daemon was last found at, when it is not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon_relay_id: Option<Arc<str>>,
}

/// What the operator sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Every pair with anybody connected here.
    pub pairs: Vec<PairSnapshot>,
    /// Daemons that are connected here.
    pub daemons: usize,
    /// Clients and workers that are connected here.
    pub clients: usize,
}

impl Broker {
    /// A broker that nobody has attached to yet.
    pub fn new(
        limits: &config::frames::Frames,
        relays: &config::relays::Relays,
        backplane: Backplane,
    ) -> Arc<Self> {
        Self::on(limits, relays, Bus::Relays(backplane))
    }

    pub(super) fn on(
        limits: &config::frames::Frames,
        relays: &config::relays::Relays,
        bus: Bus,
    ) -> Arc<Self> {
        Arc::new(Self {
            max_frame_bytes: limits.max_frame_bytes,
            max_clients: limits.max_clients_per_workspace,
            worker_prefix: limits.worker_path_prefix.clone(),
            dev: limits.dev,
            relays: relays.clone(),
            bus,
            budgets: Budgets::new(limits),
            pairs: RwLock::default(),
            next_socket: AtomicU64::new(0),
            metrics: Metrics::default(),
        })
    }

    /// Lets a socket take part, until what is returned is dropped. A daemon that finds another waits for as long
    /// as that one may take to answer a ping.
    ///
    /// # Errors
    /// Why the socket is to be closed.
    pub async fn attach(self: &Arc<Self>, who: Admitted, out: Outbox) -> Result<Attached, Close> {
        let id: SocketId = self.next_socket.fetch_add(1, Ordering::Relaxed);
        let (role, now) = (who.role, Instant::now());
        let pair = &who.pair;
        let (own, shared) = match role {
            Role::Daemon => (self.budgets.daemon(pair, now), None),
            Role::Client | Role::Worker => {
                (self.budgets.client(&who, now), Some(self.budgets.shared(pair, now)))
            }
        };
        let member = Arc::new(Member { id, who, out, gate: Mutex::new(Gate::default()) });
        let entry = match role {
            Role::Daemon => self.attach_daemon(&member).await?,
            Role::Client | Role::Worker => self.attach_client(&member)?,
        };
        self.metrics.opened(role);
        // Whoever has the daemon is asked beside the socket's traffic: the answer may take its time.
        let greeting = (role == Role::Client && self.relays.redirect && !self.bus.is_single()).then(|| {
            let (broker, member, entry) = (self.clone(), member.clone(), entry.clone());
            let workspace = shared.as_ref().map(|shared| shared.workspace.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                broker.greet(&member, &entry, workspace.as_ref()).await;
            }))
        });
        let sender = Sending::new(self, &member);
        Ok(Attached {
            broker: self.clone(),
            entry,
            member,
            sender,
            own,
            shared,
            over: AtomicU32::new(0),
            _greeting: greeting,
        })
    }

    async fn attach_daemon(&self, member: &Arc<Member>) -> Result<Arc<Entry>, Close> {
        let mut dead = None;
        for _ in 0..=TAKEOVERS {
            let (id, probe) = {
                let mut pairs = self.pairs.write();
                let entry = entry_of(&mut pairs, &member.who.pair);
                let mut state = entry.state.lock();
                match state.daemon().map(|present| &present.member) {
                    Some(present) if member.who.generation < present.who.generation => {
                        return Err(OLDER_GENERATION);
                    }
                    Some(present) if dead != Some(present.id) => (present.id, present.out.probe(PROBE)),
                    _ => {
                        self.install(&mut state, member);
                        drop(state);
                        return Ok(entry);
                    }
                }
            };
            if probe.await {
                return Err(DAEMON_CONNECTED);
            }
            dead = Some(id);
        }
        Err(DAEMON_CONNECTED)
    }

    /// Under the pair's lock.
    fn install(&self, state: &mut State, member: &Arc<Member>) {
        let pair = &member.who.pair;
        let present =
            Present { member: member.clone(), connection: Uuid::new_v4(), doubted: false, confirmed: false };
        let daemon = present.told();
        if let Some(old) = state.set_daemon(present) {
            old.member.out.close(REPLACED);
            self.bus.daemon_closed(pair, old.connection);
            self.metrics.replaced();
            self.metrics.closed(Role::Daemon);
        }
        self.bus.daemon_opened(pair, daemon);
    }

    fn attach_client(&self, member: &Arc<Member>) -> Result<Arc<Entry>, Close> {
        let mut pairs = self.pairs.write();
        let entry = entry_of(&mut pairs, &member.who.pair);
        let mut state = entry.state.lock();
        // A pair that was just made has room, so that none stays empty in the map.
        if state.client_count() >= self.max_clients.max(1) {
            return Err(TOO_MANY_CLIENTS);
        }
        state.add_client(member.clone());
        drop(state);
        Ok(entry)
    }

    /// The socket has ended. It takes only itself along.
    pub(super) fn detach(&self, entry: &Entry, member: &Member) {
        self.remove(&entry.pair, |state| match member.who.role {
            Role::Daemon => {
                let gone = state.take_daemon(|present| present.member.id == member.id);
                if let Some(gone) = gone {
                    self.bus.daemon_closed(&entry.pair, gone.connection);
                    self.metrics.closed(Role::Daemon);
                }
            }
            role => {
                if state.remove_client(member.id) {
                    self.metrics.closed(role);
                }
            }
        });
    }

    /// Takes somebody out of a pair, and the pair out of the map if nobody is left.
    fn remove(&self, pair: &Pair, who: impl FnOnce(&mut State)) {
        let mut pairs = self.pairs.write();
        let Some(entry) = pairs.get(pair) else { return };
        let mut state = entry.state.lock();
        who(&mut state);
        let empty = state.is_empty();
        drop(state);
        if empty {
            pairs.remove(pair);
            if pairs.capacity() > 64 && pairs.len() < pairs.capacity() / 4 {
                pairs.shrink_to_fit();
            }
        }
    }

    pub(super) fn find(&self, pair: &Pair) -> Option<Arc<Entry>> {
        self.pairs.read().get(pair).cloned()
    }

    /// Everybody who is connected.
    pub fn snapshot(&self) -> Snapshot {
        let entries: Vec<Arc<Entry>> = self.pairs.read().values().cloned().collect();
        let mut snapshot = Snapshot::default();
        for entry in entries {
            let state = entry.state.lock();
            snapshot.daemons += usize::from(state.daemon().is_some());
            snapshot.clients += state.client_count();
            snapshot.pairs.push(PairSnapshot {
                workspace_id: entry.pair.workspace.clone(),
                runtime_target_id: entry.pair.target.clone(),
                daemon_connected: state.daemon().is_some(),
                client_count: state.client_count(),
                daemon_relay_id: state.remote.clone().filter(|_| state.daemon().is_none()),
            });
        }
        snapshot.pairs.sort_by(|a, b| {
            (&a.workspace_id, &a.runtime_target_id).cmp(&(&b.workspace_id, &b.runtime_target_id))
        });
        snapshot
    }

    /// Routes what other relays pass on, until told to stop.
    pub async fn run_bus(
        self: Arc<Self>,
        mut events: mpsc::Receiver<backplane::Event>,
        stop: CancellationToken,
    ) {
        while let Some(Some(event)) = stop.run_until_cancelled(events.recv()).await {
            match event {
                backplane::Event::Frame(frame) => self.bus_frame(&frame),
                backplane::Event::Superseded { pair, connection, higher_generation } => {
                    self.superseded(&pair, connection, higher_generation);
                }
            }
        }
    }

    /// Another relay says that it has the daemon of a connection here. Ours is asked, beside the bus: while it
    /// lives, nobody takes its place unless they are of a higher generation. It goes on serving who is here, and
    /// the other relays hear that it lives.
    fn superseded(self: &Arc<Self>, pair: &Pair, connection: Uuid, higher_generation: bool) {
        if higher_generation {
            return self.gives_way(pair, connection);
        }
        let Some(entry) = self.find(pair) else { return };
        let probe = {
            let mut state = entry.state.lock();
            // One question at a time: what comes meanwhile is the same doubt.
            let Some(present) = state.daemon_of(connection).filter(|present| !present.doubted) else {
                return;
            };
            if present.confirmed {
                // That it lives was said already: another one was confirmed first, and stays.
                drop(state);
                return self.gives_way(pair, connection);
            }
            present.doubted = true;
            present.member.out.probe(PROBE)
        };
        let broker = self.clone();
        // Ends by itself: a probe has a deadline, and a connection is asked once at a time.
        tokio::spawn(async move {
            if probe.await {
                broker.survives(&entry, connection);
            } else {
                broker.gives_way(&entry.pair, connection);
            }
        });
    }

    fn survives(&self, entry: &Entry, connection: Uuid) {
        let mut state = entry.state.lock();
        if let Some(present) = state.daemon_of(connection) {
            (present.doubted, present.confirmed) = (false, true);
            self.bus.daemon_confirmed(&entry.pair, present.told());
        }
    }

    fn gives_way(&self, pair: &Pair, connection: Uuid) {
        self.remove(pair, |state| {
            if let Some(gone) = state.take_daemon(|present| present.connection == connection) {
                gone.member.out.close(REPLACED);
                self.bus.daemon_closed(pair, connection);
                self.metrics.superseded();
                self.metrics.closed(Role::Daemon);
            }
        });
    }

    /// A frame that another relay passed on. It judged the sender; that the frame is one that may pass, and in
    /// this direction, is judged again.
    fn bus_frame(&self, bus: &BusFrame) {
        let (started, payload) = (Instant::now(), &*bus.payload);
        self.metrics.bus(Way::In);
        if payload.len() > self.max_frame_bytes {
            return self.metrics.dropped(Reason::Bus);
        }
        let frame = match Frame::parse(payload) {
            Ok(frame) => frame,
            Err(_) if self.word_came_back(bus, started) => return,
            Err(unfit) => return self.metrics.dropped(unfit.into()),
        };
        let kind = frame.kind();
        self.metrics.frame_in(Sender::Bus, kind);
        let (from, may) = match bus.direction {
            Direction::ClientToDaemon => (Origin::RelayOfClient(&bus.source), policy::to_daemon(kind)),
            Direction::DaemonToClients => (Origin::RelayOfDaemon, policy::from_daemon(kind)),
        };
        if !may {
            return self.metrics.dropped(Reason::NotAllowed);
        }
        if let Frame::TransportRequest { path, .. } = &frame
            && !self.lets_through(path)
        {
            return self.metrics.dropped(Reason::WorkerTransport);
        }
        let entry = self.find(&bus.pair);
        let around = self.around(&bus.pair, &frame);
        if entry.is_none() && around.is_none() {
            // What is for every relay is for most of them in vain, and no loss.
            if bus.targeted {
                self.metrics.dropped(Reason::NoOwner);
            }
            return self.send_word_back(bus, &frame);
        }
        let text = Utf8Bytes::from(payload);
        if let Some(entry) = entry {
            let mut outcome = entry.state.lock().route(&frame, &text, from, started);
            if !bus.targeted && outcome.dropped == Some(Reason::NoOwner) {
                outcome.dropped = None;
            }
            self.count(kind, &outcome);
            if outcome.dropped == Some(Reason::NoDaemon) {
                self.send_word_back(bus, &frame);
            }
        }
        self.fan_out_around(around, &frame, &text);
        self.metrics.routed(started.elapsed());
    }

    /// Those who listen to the workspace without having named a runtime target, when this is an event.
    pub(super) fn around(&self, pair: &Pair, frame: &Frame<'_>) -> Option<Arc<Entry>> {
        match (frame, &pair.target) {
            (Frame::SessionEvent { .. }, Some(_)) => {
                self.find(&Pair { workspace: pair.workspace.clone(), target: None })
            }
            _ => None,
        }
    }

    pub(super) fn fan_out_around(&self, around: Option<Arc<Entry>>, frame: &Frame<'_>, text: &Utf8Bytes) {
        if let (Some(entry), Frame::SessionEvent { channel }) = (around, frame) {
            let outcome = entry.state.lock().fan_out(channel, text);
            self.count(frame.kind(), &outcome);
        }
    }

    /// Whether a worker's request for this path may pass.
    pub(super) fn lets_through(&self, path: &str) -> bool {
        self.worker_prefix.as_deref().is_some_and(|prefix| transport::lies_below(path, prefix))
    }

    pub(super) fn count(&self, kind: frame::Kind, outcome: &Outcome) {
        for (role, count) in [Role::Daemon, Role::Client, Role::Worker].into_iter().zip(outcome.reached) {
            if count > 0 {
                self.metrics.frame_out(role, kind, count);
            }
        }
        if let Some(reason) = outcome.dropped {
            self.metrics.dropped(reason);
        }
    }

    /// Tells a socket, unless it was told a moment ago.
    pub(super) fn tell(&self, member: &Member, code: Code, now: Instant) {
        let open = member.gate.lock().open(code, now);
        if open && member.out.text(status::frame(code, &member.who.pair, None)) {
            self.metrics.status(code);
        }
    }

    /// Sends a client to the relay of its daemon, once, if that is a place where it may be sent.
    pub(super) fn redirect(&self, member: &Member, holder: &Holder) {
        let Some(address) = holder.public_ws.as_ref().filter(|_| self.relays.redirect) else { return };
        if member.who.role != Role::Client || member.gate.lock().was_redirected(address) {
            return;
        }
        if !self.relays.may_redirect_to(address, self.dev) {
            return;
        }
        member.gate.lock().redirected(address);
        let base = address.as_str().trim_end_matches('/');
        if member.out.text(status::frame(Code::RelayRedirect, &member.who.pair, Some(base))) {
            self.metrics.status(Code::RelayRedirect);
        }
    }

    async fn greet(&self, member: &Member, entry: &Entry, workspace: Option<&SharedBudget>) {
        if entry.state.lock().daemon().is_some() {
            return;
        }
        let Some(Ok(Some(holder))) = self.ask(entry, workspace).await else { return };
        {
            let mut state = entry.state.lock();
            // It may have come here in the meantime.
            if state.daemon().is_some() {
                return;
            }
            state.remote = Some(holder.relay.clone());
        }
        self.redirect(member, &holder);
    }

    /// Asks which other relay has the daemon. `None`: not asked, because the workspace has asked in vain too often.
    /// Where the daemon was found the last time, asking is free: nobody else's targets stand in its way.
    pub(super) async fn ask(
        &self,
        entry: &Entry,
        workspace: Option<&SharedBudget>,
    ) -> Option<Result<Option<Holder>, backplane::Unavailable>> {
        if self.bus.is_single() {
            return Some(Ok(None));
        }
        let is_known = entry.state.lock().remote.is_some();
        if !is_known && workspace.is_some_and(|budget| !budget.lock().may_ask(Instant::now())) {
            return None;
        }
        let answer = self.bus.daemon(&entry.pair).await;
        if let (Ok(None), Some(budget)) = (&answer, workspace) {
            budget.lock().asked_in_vain(Instant::now());
        }
        Some(answer)
    }

    #[cfg(test)]
    pub(super) fn pair_count(&self) -> usize {
        self.pairs.read().len()
    }
}

fn entry_of(pairs: &mut HashMap<Pair, Arc<Entry>>, pair: &Pair) -> Arc<Entry> {
    match pairs.entry(pair.clone()) {
        Slot::Occupied(slot) => slot.get().clone(),
        Slot::Vacant(slot) => {
            let entry = Entry { pair: pair.clone(), state: Mutex::new(State::default()) };
            slot.insert(Arc::new(entry)).clone()
        }
    }
}

#[cfg(test)]
#[path = "broker_bus_tests.rs"]
mod bus_tests;
#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;
