//! Which connection is at which relay, and where one goes next. Pure: time comes in as a value.
//!
//! A place is an address; a relay is what answers there, and several places may be one relay (IPv4 and IPv6, a name in
//! front of several). So what a place turned out to be is remembered, and a place is taken when another connection is
//! there, is on its way there, or has the relay that it led to.

use crate::{
    backoff::Cause,
    dial::{DialError, RelayUrl},
};
use std::{collections::HashMap, fmt, net::SocketAddr, time::Duration};
use tokio::time::Instant;

/// A place that could not be reached is left alone this long, then twice as long each time: a relay restarts in
/// seconds, and others serve meanwhile.
const HELD: Duration = Duration::from_secs(5);
/// But never longer than this, so that a relay that comes back is used again.
const HELD_MOST: Duration = Duration::from_secs(60);
/// A place that refused who we are will do so again.
const HELD_REFUSED: Duration = Duration::from_secs(60);
/// `Retry-After` of one relay is no reason to stay away for longer.
const HELD_BUSY_MOST: Duration = Duration::from_secs(3600);
/// How long a place is believed to lead to the relay that answered there. Finding out costs a tunnel.
const REMEMBERED: Duration = Duration::from_secs(6 * 3600);
/// Places that are remembered. There are at most [`super::MAX_PLACES`] of them at once, and they change rarely.
const MAX_KNOWN: usize = 64;

/// Where a relay can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its base URL.
    pub url: RelayUrl,
    /// One of its name's addresses, where we have looked.
    pub address: Option<SocketAddr>,
}

impl From<RelayUrl> for Place {
    fn from(url: RelayUrl) -> Self {
        Self { url, address: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{} at {address}", self.url),
            None => self.url.fmt(f),
        }
    }
}

/// What is worth knowing of a place.
#[derive(Debug, Default)]
struct Known {
    /// The relay that answered, and when.
    relay: Option<(String, Instant)>,
    /// Until when it is left alone, and how long that was.
    held: Option<(Instant, Duration)>,
}

/// Where one connection is.
#[derive(Debug)]
struct At {
    place: Place,
    relay: Option<String>,
    /// Grows from one arrival to the next.
    arrival: u64,
}

/// One connection.
#[derive(Debug, Default)]
struct Seat {
    at: Option<At>,
    dialling: Option<Place>,
    /// The place, and the relay there, that asked to be left.
    leaving: Option<(Place, Option<String>)>,
}

impl Seat {
    fn has(&self, place: &Place, relay: Option<&str>) -> bool {
        self.dialling.as_ref() == Some(place)
            || self
                .at
                .as_ref()
                .is_some_and(|at| at.place == *place || (relay.is_some() && at.relay.as_deref() == relay))
    }
}

/// How well a place suits a connection, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Nobody of us is there.
    Free,
    /// The same, but it has asked to be left.
    Leaving,
    /// So many others of us are there.
    Shared(usize),
    /// It did not work lately.
    Held(Instant),
}

/// What is known of all connections and places.
#[derive(Debug)]
pub struct Table {
    seats: Vec<Seat>,
    known: HashMap<Place, Known>,
    arrivals: u64,
}

impl Table {
    /// A table for so many connections.
    pub fn new(connections: usize) -> Self {
        let seats = std::iter::repeat_with(Seat::default).take(connections).collect();
        Self { seats, known: HashMap::new(), arrivals: 0 }
    }

    fn others(&self, seat: usize) -> impl Iterator<Item = &Seat> {
        self.seats.iter().enumerate().filter(move |(index, _)| *index != seat).map(|(_, other)| other)
    }

    fn relay(&self, place: &Place, now: Instant) -> Option<&str> {
        let (relay, since) = self.known.get(place)?.relay.as_ref()?;
        (now.saturating_duration_since(*since) < REMEMBERED).then_some(relay)
    }

    fn held(&self, place: &Place, now: Instant) -> Option<Instant> {
        self.known.get(place)?.held.map(|(until, _)| until).filter(|until| *until > now)
    }

    fn taken(&self, seat: usize, place: &Place, now: Instant) -> usize {
        let relay = self.relay(place, now);
        self.others(seat).filter(|other| other.has(place, relay)).count()
    }

    fn rank(&self, seat: usize, place: &Place, now: Instant) -> Rank {
        let leaving =
            self.seats.get(seat).and_then(|seat| seat.leaving.as_ref()).is_some_and(|(left, relay)| {
                left == place || (relay.is_some() && relay.as_deref() == self.relay(place, now))
            });
        match (self.held(place, now), self.taken(seat, place, now)) {
            (Some(until), _) => Rank::Held(until),
            (None, 0) if leaving => Rank::Leaving,
            (None, 0) => Rank::Free,
            (None, others) => Rank::Shared(others),
        }
    }

    /// Where a connection goes that has no tunnel, or whose relay asks it to go, after it has `tried` some. A place
    /// that did not work lately is gone to only where there is no other at all.
    pub fn next(&self, seat: usize, places: &[Place], tried: &[Place], now: Instant) -> Option<Place> {
        let left = places.iter().filter(|place| !tried.contains(place));
        let (rank, place) =
            left.map(|place| (self.rank(seat, place, now), place)).min_by_key(|(rank, _)| *rank)?;
        let resort = matches!(rank, Rank::Held(_)) && !tried.is_empty();
        (!resort).then(|| place.clone())
    }

    /// Where a connection goes that shares its relay: a place where nobody of us is, now or (`Err`) at that time.
    pub fn better(&self, seat: usize, places: &[Place], now: Instant) -> Result<Place, Option<Instant>> {
        let ours = self.seats.get(seat).and_then(|seat| seat.at.as_ref());
        let apart = |place: &&Place| {
            let relay = self.relay(place, now);
            self.taken(seat, place, now) == 0
                && ours
                    .is_none_or(|at| at.place != **place && (relay.is_none() || at.relay.as_deref() != relay))
        };
        let free: Vec<_> = places.iter().filter(apart).collect();
        match free.iter().find(|place| self.held(place, now).is_none()) {
            Some(place) => Ok((**place).clone()),
            None => Err(free.iter().filter_map(|place| self.held(place, now)).min()),
        }
    }

    /// Whether a connection that came earlier is at the same relay.
    pub fn is_shared(&self, seat: usize) -> bool {
        let Some(ours) = self.seats.get(seat).and_then(|seat| seat.at.as_ref()) else { return false };
        self.others(seat).filter_map(|other| other.at.as_ref()).any(|other| {
            let same = other.place == ours.place || (ours.relay.is_some() && other.relay == ours.relay);
            same && other.arrival < ours.arrival
        })
    }

    /// Whether any connection has a tunnel, but this one.
    pub fn is_any_other_up(&self, seat: usize) -> bool {
        self.others(seat).any(|other| other.at.is_some())
    }

    /// A connection is on its way to a place, or (`None`) to none any more.
    pub fn dials(&mut self, seat: usize, place: Option<Place>) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.dialling = place;
        }
    }

    /// A connection has a tunnel at a place.
    pub fn up(&mut self, seat: usize, place: &Place, relay: Option<String>, now: Instant) {
        self.arrivals += 1;
        let arrival = self.arrivals;
        if let Some(known) = self.known(place, now) {
            *known = Known { relay: relay.clone().map(|relay| (relay, now)), held: None };
        }
        if let Some(seat) = self.seats.get_mut(seat) {
            *seat =
                Seat { at: Some(At { place: place.clone(), relay, arrival }), dialling: None, leaving: None };
        }
    }

    /// A connection has lost its tunnel.
    pub fn down(&mut self, seat: usize) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.at = None;
        }
    }

    /// A connection's relay asks it to go.
    pub fn leave(&mut self, seat: usize) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.leaving = seat.at.as_ref().map(|at| (at.place.clone(), at.relay.clone()));
        }
    }

    /// Whether a connection that was asked to go has somewhere to go.
    pub fn is_elsewhere_free(&self, seat: usize, places: &[Place], now: Instant) -> bool {
        places.iter().any(|place| self.rank(seat, place, now) == Rank::Free)
    }

    /// An attempt at a place failed.
    pub fn failed(&mut self, place: &Place, error: &DialError, now: Instant) {
        let Some(known) = self.known(place, now) else { return };
        let step = known.held.map_or(HELD, |(_, step)| (step * 2).min(HELD_MOST));
        let held = match error.cause() {
            Cause::Lost { .. } | Cause::Unreachable => step,
            Cause::Refused => HELD_REFUSED,
            Cause::Busy { retry_after } => retry_after.map_or(step, |told| told.clamp(HELD, HELD_BUSY_MOST)),
        };
        known.held = Some((now + held, step));
    }

    fn known(&mut self, place: &Place, now: Instant) -> Option<&mut Known> {
        if !self.known.contains_key(place) && self.known.len() >= MAX_KNOWN {
            // Names and offers change; what is not held now is found out anew.
            self.known.retain(|_, known| known.held.is_some_and(|(until, _)| until > now));
            if self.known.len() >= MAX_KNOWN {
                return None;
            }
        }
        Some(self.known.entry(place.clone()).or_default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dial::Refusal;
    use http::{HeaderMap, StatusCode};

    fn place(name: &str) -> Place {
        Place::from(format!("https://{name}.example").parse::<RelayUrl>().unwrap())
    }

    fn places(names: &str) -> Vec<Place> {
        names.split_whitespace().map(place).collect()
    }

    fn unreachable() -> DialError {
        DialError::NotARelay("in this test")
    }

    fn refused(status: u16, retry_after: Option<&str>) -> DialError {
        let mut headers = HeaderMap::new();
        retry_after.map(|after| headers.insert("retry-after", after.parse().unwrap()));
        let status = StatusCode::from_u16(status).unwrap();
        DialError::Refused(Refusal::read(status, &headers, b"", std::time::SystemTime::now()))
    }

    fn id(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn connections_spread_and_share_only_where_there_is_no_other() {
        let now = Instant::now();
        let all = places("a b");
        let mut table = Table::new(4);
        assert_eq!(table.next(0, &all, &[], now), Some(place("a")));
        // What another one is on its way to is taken.
        table.dials(0, Some(place("a")));
        assert_eq!(table.next(1, &all, &[], now), Some(place("b")));
        table.up(0, &place("a"), id("A"), now);
        table.up(1, &place("b"), id("B"), now);
        assert_eq!(table.next(2, &all, &[], now), Some(place("a")));
        table.up(2, &place("a"), id("A"), now);
        assert_eq!(table.next(3, &all, &[], now), Some(place("b")), "fewer of us are there");
        table.up(3, &place("b"), id("B"), now);
        let shared: Vec<_> = (0..4).map(|seat| table.is_shared(seat)).collect();
        assert_eq!(shared, [false, false, true, true]);
        assert_eq!(table.better(2, &all, now), Err(None));
        assert_eq!(table.better(2, &places("a b c"), now), Ok(place("c")));
        table.down(0);
        assert!(!table.is_shared(2), "the one that came first is gone");
    }

    #[test]
    fn two_places_may_be_one_relay() {
        let now = Instant::now();
        let all = places("a also-a b");
        let mut table = Table::new(2);
        table.up(0, &place("a"), id("A"), now);
        table.up(1, &place("also-a"), id("A"), now);
        assert!(table.is_shared(1) && !table.is_shared(0));
        assert_eq!(table.better(1, &all, now), Ok(place("b")));
        // Nobody goes from one name of a relay to the other.
        assert_eq!(table.better(1, &places("a also-a"), now), Err(None));
        table.down(1);
        assert_eq!(table.next(1, &places("also-a b"), &[], now), Some(place("b")), "remembered");
        assert_eq!(table.next(1, &places("also-a b"), &[], now + REMEMBERED), Some(place("also-a")));
        // Relays that tell no id are told apart by their places.
        let mut old = Table::new(2);
        old.up(0, &place("a"), None, now);
        old.up(1, &place("b"), None, now);
        assert!(!old.is_shared(1));
    }

    #[test]
    fn what_did_not_work_is_left_alone_for_a_while() {
        let mut now = Instant::now();
        let all = places("a b");
        let mut table = Table::new(2);
        table.up(0, &place("a"), id("A"), now);
        for held in [5, 10, 20, 40, 60, 60] {
            table.failed(&place("b"), &unreachable(), now);
            let until = now + Duration::from_secs(held);
            assert_eq!(table.next(1, &all, &[], now), Some(place("a")), "{held}");
            assert_eq!(table.next(1, &all, &[place("a")], now), None, "{held}");
            assert_eq!(table.better(1, &all, now), Err(Some(until)), "{held}");
            now = until;
            assert_eq!(table.better(1, &all, now), Ok(place("b")), "{held}");
        }
        table.up(1, &place("b"), id("B"), now);
        table.failed(&place("b"), &unreachable(), now);
        assert_eq!(table.better(1, &all, now), Err(None), "where it is it need not go");
        for (error, held) in [
            (refused(403, None), 60),
            (refused(503, Some("7")), 7),
            (refused(503, Some("0")), 5),
            (refused(429, None), 5),
            (refused(503, Some("999999")), 3600),
        ] {
            let mut table = Table::new(1);
            table.failed(&place("a"), &error, now);
            let until = now + Duration::from_secs(held);
            assert_eq!(table.better(0, &all[..1], now), Err(Some(until)), "{error}");
            assert_eq!(table.next(0, &all[..1], &[], now), Some(place("a")), "there is no other");
        }
    }

    #[test]
    fn whoever_is_asked_to_leave_comes_back_only_when_nothing_else_is_free() {
        let now = Instant::now();
        let mut table = Table::new(2);
        table.up(0, &place("a"), id("A"), now);
        table.up(1, &place("b"), id("B"), now);
        table.leave(1);
        for (all, goes, elsewhere) in [("a b c", "c", true), ("a b", "b", false)] {
            assert_eq!(table.next(1, &places(all), &[], now), Some(place(goes)), "{all}");
            assert_eq!(table.is_elsewhere_free(1, &places(all), now), elsewhere, "{all}");
        }
        assert_eq!(table.next(1, &places("a b"), &[place("b")], now), Some(place("a")));
        table.up(1, &place("b"), id("B"), now);
        assert_eq!(table.next(1, &places("b c"), &[], now), Some(place("b")), "it may stay again");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut table = Table::new(1);
        for number in 0..MAX_KNOWN * 3 {
            table.up(0, &place(&format!("r{number}")), id("A"), now);
            table.failed(&place(&format!("s{number}")), &unreachable(), now);
        }
        assert!(table.known.len() <= MAX_KNOWN);
    }
}
