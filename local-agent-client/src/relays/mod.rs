//! Several connections of one agent, each at another relay where there are others, so that one relay's end is not
//! felt.
//!
//! Each connection has a supervisor of its own ([`crate::session`]); here they agree on who is where. The places are
//! the addresses of the configured relay's name, the relays that people named besides it, and those that a relay
//! offers and that [`offers`] believes. A connection that cannot but share a relay with an earlier one keeps its
//! tunnel (it helps against a connection that died without a word) and looks for a relay of its own meanwhile;
//! places that do not work are tried rarely, and never because another one might be nicer.
//!
//! All of them serve one host. A relay that knows it under another id does not belong to the others and is left.

pub mod offers;
pub mod table;

pub use table::Place;

use crate::{
    backoff::Cause,
    dial::{DialError, Dialed, RelayUrl, Told},
    session::Connect,
    status::Reporter,
    trust::Pairing,
};
use parking_lot::Mutex;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use table::Table;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

/// Connections of an agent: as many as a relay allows one host.
pub const MAX_CONNECTIONS: usize = 8;
/// Relays that people may name beside the configured one.
pub const MAX_ALSO: usize = 16;
/// Addresses of the relay's name that are used.
const MAX_ADDRESSES: usize = 16;
/// Offered relays that are remembered, the newest: two offers full.
const MAX_OFFERED: usize = 2 * offers::MAX_OFFERED;
/// How long an offer counts that nobody repeats. Names go to others in time, and whoever is dialled gets the token.
const OFFER_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Places that there are at the most.
pub const MAX_PLACES: usize = 1 + MAX_ADDRESSES + MAX_ALSO + MAX_OFFERED;
/// Places that one attempt goes to. Each takes up to 25 s when it is dead, and there is a back-off after it.
const MAX_DIALS: usize = 4;
/// How long the others wait for the first one's outcome, which tells them where to go.
const HEAD_START: Duration = Duration::from_secs(5);
/// How often a connection that shares a relay looks whether the name has other addresses.
const LOOK: Duration = Duration::from_secs(60);
/// What lies between two attempts of such a connection in any case.
const LEAST: Duration = Duration::from_secs(1);

/// Opens tunnels at places. A trait, so that the policy here is tested without a network.
pub trait Dial: Send + Sync {
    /// The addresses of the configured relay's name, as far as they can be known.
    fn addresses(&self) -> impl Future<Output = Vec<SocketAddr>> + Send;
    /// One attempt.
    fn dial(&self, place: &Place) -> impl Future<Output = Result<Dialed, DialError>> + Send;
    /// Completes when the token is another one than the last attempt used.
    fn token_changed(&self) -> impl Future<Output = ()> + Send;
}

/// What all connections of an agent know together.
#[derive(Debug)]
pub struct Relays {
    configured: RelayUrl,
    also: Vec<RelayUrl>,
    connections: usize,
    state: Mutex<State>,
    /// Counts what may change somebody's mind.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    table: Table,
    addresses: Vec<SocketAddr>,
    /// Each with the time of the last offer.
    offered: Vec<(RelayUrl, Instant)>,
    /// Whether any attempt has come to an end.
    began: bool,
}

impl Relays {
    /// For so many connections (at least one, at most [`MAX_CONNECTIONS`]) to `configured`, and to those that people
    /// named besides.
    pub fn new(configured: RelayUrl, also: Vec<RelayUrl>, connections: usize) -> Arc<Self> {
        let connections = connections.clamp(1, MAX_CONNECTIONS);
        let table = Table::new(connections);
        let state = State { table, addresses: Vec::new(), offered: Vec::new(), began: false };
        Arc::new(Self {
            configured,
            also,
            connections,
            state: Mutex::new(state),
            changed: watch::channel(0).0,
        })
    }

    /// How many connections there are to be.
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// A single connection goes where it was told to, and nowhere else.
    fn spreads(&self) -> bool {
        self.connections > 1
    }

    fn places(&self, state: &State, now: Instant) -> Vec<Place> {
        let mut places = Vec::new();
        let pinned = |address: &SocketAddr| Place { url: self.configured.clone(), address: Some(*address) };
        places.extend(state.addresses.iter().map(pinned));
        if places.is_empty() {
            places.push(Place::from(self.configured.clone()));
        }
        let fresh = state.offered.iter().filter(|(_, at)| now.saturating_duration_since(*at) < OFFER_LIFE);
        for relay in self.also.iter().chain(fresh.map(|(relay, _)| relay)) {
            let place = Place::from(relay.clone());
            if *relay != self.configured && !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state.lock());
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        result
    }

    /// Looks up the relay's name, where it matters.
    async fn look_up(&self, dial: &impl Dial) {
        if !self.spreads() {
            return;
        }
        let mut found = dial.addresses().await;
        found.truncate(MAX_ADDRESSES);
        // A name that cannot be resolved now may still lead where it led.
        if !found.is_empty() {
            self.state.lock().addresses = found;
        }
    }

    /// Takes in what a relay offers.
    fn offered(&self, state: &mut State, text: &str, now: Instant) {
        let offers::Offered { relays, ignored } = offers::read(text, &self.configured, &self.also);
        if ignored > 0 {
            tracing::warn!(
                ignored,
                "the relay offers others that are not believed: they are not of its host and port; name them with --also-relay"
            );
        }
        // Behind them the older ones, of which the oldest go.
        let older = std::mem::take(&mut state.offered);
        state.offered = relays.into_iter().map(|relay| (relay, now)).collect();
        for (relay, at) in older {
            let known = state.offered.iter().any(|(other, _)| *other == relay);
            if state.offered.len() < MAX_OFFERED && !known {
                state.offered.push((relay, at));
            }
        }
    }
}

/// One connection's place among the others.
pub struct Seat<D> {
    relays: Arc<Relays>,
    index: usize,
    dial: D,
    pairing: Arc<Pairing>,
    reporter: Arc<Mutex<Reporter>>,
}

/// Somebody is on the way to a place, for as long as this lives.
struct OnTheWay<'a> {
    relays: &'a Relays,
    index: usize,
}

impl Drop for OnTheWay<'_> {
    fn drop(&mut self) {
        self.relays.state.lock().table.dials(self.index, None);
    }
}

impl<D: Dial> Seat<D> {
    /// Connection number `index` of `relays`, which dials by `dial`.
    pub fn new(
        relays: Arc<Relays>,
        index: usize,
        dial: D,
        pairing: Arc<Pairing>,
        reporter: Arc<Mutex<Reporter>>,
    ) -> Self {
        Self { relays, index, dial, pairing, reporter }
    }

    /// Lets the first connection go ahead: where it arrives says where the others have to go.
    async fn turn(&self) {
        if self.index == 0 || self.relays.state.lock().began {
            return;
        }
        let mut changed = self.relays.changed.subscribe();
        let began = async { while !self.relays.state.lock().began && changed.changed().await.is_ok() {} };
        // It may hang; the others do not hang with it.
        let _ = timeout(HEAD_START, began).await;
    }

    /// The next place of an attempt, which nobody else goes to from now on.
    fn next(&self, tried: &[Place]) -> Option<Place> {
        let mut state = self.relays.state.lock();
        let now = Instant::now();
        let places = self.relays.places(&state, now);
        let place = state.table.next(self.index, &places, tried, now)?;
        state.table.dials(self.index, Some(place.clone()));
        Some(place)
    }

    /// Tells why a connection is not at this place, where it may be at another.
    fn tell(&self, place: &Place, error: &DialError) {
        if self.relays.connections > 1 || !self.relays.also.is_empty() {
            tracing::info!(relay = %place, "{error}");
            self.reporter.lock().failed(error.to_string());
        }
    }

    async fn attempt(&self, place: &Place) -> Result<Dialed, DialError> {
        let _on_the_way = OnTheWay { relays: &self.relays, index: self.index };
        let dialed = self.dial.dial(place).await;
        let dialed = dialed.and_then(|dialed| self.one_of_ours(place, &dialed).map(|()| dialed));
        match dialed {
            Ok(dialed) => {
                let Told { relay_id, others } = dialed.told.clone();
                self.reporter.lock().at(place, relay_id.as_deref());
                self.relays.change(|state| {
                    state.began = true;
                    if let Some(others) = others.filter(|_| self.relays.spreads()) {
                        self.relays.offered(state, &others, Instant::now());
                    }
                    state.table.up(self.index, place, relay_id, Instant::now());
                });
                Ok(dialed)
            }
            Err(error) => {
                self.relays.change(|state| {
                    state.began = true;
                    state.table.failed(place, &error, Instant::now());
                });
                Err(error)
            }
        }
    }

    /// Whether what answers there serves the same host. The configured relay decides under which id, as long as no
    /// other connection stands on it.
    fn one_of_ours(&self, place: &Place, dialed: &Dialed) -> Result<(), DialError> {
        let Some(told) = &dialed.host_id else { return Ok(()) };
        let host = self.pairing.host();
        let decides = place.url == self.relays.configured
            && !self.relays.state.lock().table.is_any_other_up(self.index);
        match host.get().map(|known| known.to_string()) {
            Some(known) if !decides && !known.eq_ignore_ascii_case(told) => {
                Err(DialError::OtherHost { relay: place.to_string(), told: shown(told), known })
            }
            _ => {
                host.told(told);
                Ok(())
            }
        }
    }
}

/// The beginning of what a relay said, in a form that can be shown.
fn shown(text: &str) -> String {
    text.chars().take(64).collect::<String>().escape_default().to_string()
}

/// Of two errors the one that is worth an earlier attempt.
fn milder(one: DialError, other: DialError) -> DialError {
    let weight = |error: &DialError| match error.cause() {
        Cause::Lost { .. } | Cause::Unreachable => 0,
        Cause::Busy { .. } => 1,
        Cause::Refused => 2,
    };
    if weight(&other) < weight(&one) { other } else { one }
}

impl<D: Dial> Connect for Seat<D> {
    async fn connect(&self) -> Result<Dialed, DialError> {
        self.turn().await;
        self.relays.look_up(&self.dial).await;
        let mut tried = Vec::new();
        let mut failed: Option<DialError> = None;
        while tried.len() < MAX_DIALS
            && let Some(place) = self.next(&tried)
        {
            let error = match self.attempt(&place).await {
                Ok(dialed) => return Ok(dialed),
                Err(error) => error,
            };
            // The others would say the same, and count it.
            if error.is_about_the_token() {
                return Err(error);
            }
            // The supervisor tells of the attempt as a whole, which may succeed yet.
            self.tell(&place, &error);
            failed = Some(match failed {
                Some(before) => milder(before, error),
                None => error,
            });
            tried.push(place);
        }
        // There is always a place: the configured relay is one.
        Err(failed.unwrap_or_else(|| DialError::Url("there is no relay to dial".to_owned())))
    }

    async fn token_changed(&self) {
        self.dial.token_changed().await;
    }

    async fn better(&self) -> Dialed {
        if !self.relays.spreads() {
            return std::future::pending().await;
        }
        let mut changed = self.relays.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let mut until = None;
            if self.relays.state.lock().table.is_shared(self.index) {
                self.relays.look_up(&self.dial).await;
                let now = Instant::now();
                let chosen = {
                    let mut state = self.relays.state.lock();
                    let places = self.relays.places(&state, now);
                    let chosen = state.table.better(self.index, &places, now);
                    if let Ok(place) = &chosen {
                        state.table.dials(self.index, Some(place.clone()));
                    }
                    chosen
                };
                match chosen {
                    Ok(place) => match self.attempt(&place).await {
                        Ok(dialed) => return dialed,
                        Err(error) => {
                            self.tell(&place, &error);
                            sleep(LEAST).await;
                            continue;
                        }
                    },
                    Err(held) => until = Some(held.map_or(now + LOOK, |held| held.min(now + LOOK))),
                }
            }
            let later = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changed.changed() => {}
                () = later => {}
            }
        }
    }

    fn drained(&self) -> bool {
        self.relays.change(|state| {
            state.table.leave(self.index);
            let now = Instant::now();
            let places = self.relays.places(state, now);
            state.table.is_elsewhere_free(self.index, &places, now)
        })
    }

    fn lost(&self) {
        self.relays.change(|state| state.table.down(self.index));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_forgotten_a_day_after_the_last() {
        let relays = Relays::new("https://relay.example".parse().unwrap(), Vec::new(), 2);
        let start = Instant::now();
        let (hour, day) = (Duration::from_secs(3600), OFFER_LIFE);
        let mut state = relays.state.lock();
        relays.offered(&mut state, "https://a.relay.example,https://b.relay.example", start);
        relays.offered(&mut state, "https://b.relay.example", start + hour);
        for (after, places) in [
            (day - Duration::from_secs(1), &["relay.example", "b.relay.example", "a.relay.example"][..]),
            (day, &["relay.example", "b.relay.example"]),
            (day + hour, &["relay.example"]),
        ] {
            let found = relays.places(&state, start + after);
            assert_eq!(found.iter().map(|place| place.url.host()).collect::<Vec<_>>(), places);
        }
    }
}
