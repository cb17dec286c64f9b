//! Requests that wait for the daemon's answer: who asked.
//!
//! An answer goes to whoever asked and to nobody else, once. Whoever asks more than there is room for pushes out
//! their own (see [`super::recent`]); the rates bound what comes from another relay's clients, who are one here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frame::Pairing;
use super::recent::{Party, Recent};

/// Outstanding requests of a pair (contract: frames).
pub const MAX_REQUESTS: usize = 2048;
/// How long a daemon may take to answer (contract: frames). An offer waits for a person there.
pub const REQUEST_LIFE: Duration = Duration::from_secs(120);

/// Number of a socket of this relay; never given twice.
pub type SocketId = u64;

/// What was asked for. An answer of another kind answers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the frames are called")]
pub enum Asked {
    KeyExchange,
    Pairing(Pairing),
    Transport,
}

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// A socket here.
    Socket(SocketId),
    /// Somebody at another relay.
    Relay(Arc<str>),
}

/// The outstanding requests of one pair.
pub struct Requests(Recent<(Asked, Asker)>);

impl Default for Requests {
    fn default() -> Self {
        Self(Recent::new(MAX_REQUESTS, REQUEST_LIFE))
    }
}

impl Requests {
    /// Notes a request, of this party. False when the same id is outstanding for somebody else, which `same` tells,
    /// and the request is not to be passed on.
    pub fn ask(
        &mut self,
        id: &str,
        asked: Asked,
        (asker, party): (Asker, Party),
        now: Instant,
        same: impl Fn(&Asker) -> bool,
    ) -> bool {
        if self.0.get(id, now).is_some_and(|(_, other)| *other != asker && !same(other)) {
            return false;
        }
        self.0.put(id, party, (asked, asker), now);
        true
    }

    /// Who asked for this answer. It is outstanding no longer.
    pub fn answer(&mut self, id: &str, asked: Asked, now: Instant) -> Option<(Asker, Party)> {
        self.0.get(id, now).filter(|(kind, _)| *kind == asked)?;
        self.0.take(id, now).map(|((_, asker), party)| (asker, party))
    }

    /// The request did not reach the daemon.
    pub fn forget(&mut self, id: &str, now: Instant) {
        self.0.take(id, now);
    }

    /// The request of a socket here did not reach the daemon. Which socket's it was; another relay's stays.
    pub fn forget_of_socket(&mut self, id: &str, now: Instant) -> Option<SocketId> {
        match self.0.get(id, now) {
            Some((_, Asker::Socket(socket))) => {
                let socket = *socket;
                self.0.take(id, now);
                Some(socket)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::Name;

    const A: Asker = Asker::Socket(1);
    const B: Asker = Asker::Socket(2);

    fn nobody(_: &Asker) -> bool {
        false
    }

    /// Each is somebody else.
    fn of(asker: &Asker) -> (Asker, Party) {
        let party = match asker {
            Asker::Socket(id) => {
                Party::Client(Name { user: None, client: Some(id.to_string().as_str().into()) })
            }
            Asker::Relay(relay) => Party::Relay(relay.clone()),
        };
        (asker.clone(), party)
    }

    #[test]
    fn an_answer_goes_to_whoever_asked_once() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        assert!(requests.ask("r", Asked::KeyExchange, of(&A), now, nobody));
        assert_eq!(requests.answer("other", Asked::KeyExchange, now), None);
        assert_eq!(requests.answer("r", Asked::Pairing(Pairing::Offer), now), None, "of another kind");
        assert_eq!(requests.answer("r", Asked::KeyExchange, now), Some(of(&A)));
        assert_eq!(requests.answer("r", Asked::KeyExchange, now), None);
    }

    #[test]
    fn an_id_that_is_outstanding_is_nobody_elses() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        let relay = |name: &str| Asker::Relay(name.into());
        for (id, asker, same, taken) in [
            ("r", A, false, true),
            ("r", B, false, false),
            ("r", relay("b"), false, false),
            ("r", A, false, true),
            ("r", B, true, true),
            ("q", relay("b"), false, true),
            ("q", relay("c"), false, false),
            ("q", relay("b"), false, true),
        ] {
            let asked = requests.ask(id, Asked::Transport, of(&asker), now, |_| same);
            assert_eq!(asked, taken, "{id} {asker:?}");
        }
        assert_eq!(requests.answer("r", Asked::Transport, now), Some(of(&B)));
    }

    #[test]
    fn a_request_that_got_nowhere_may_be_made_again() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        let far = Asker::Relay("b".into());
        assert!(requests.ask("near", Asked::KeyExchange, of(&A), now, nobody));
        assert!(requests.ask("far", Asked::KeyExchange, of(&far), now, nobody));
        assert_eq!(requests.forget_of_socket("near", now), Some(1));
        assert_eq!(requests.forget_of_socket("near", now), None);
        assert_eq!(requests.forget_of_socket("far", now), None);
        assert!(requests.ask("near", Asked::KeyExchange, of(&B), now, nobody));
        requests.forget("near", now);
        assert_eq!(requests.answer("near", Asked::KeyExchange, now), None);
        assert_eq!(requests.answer("far", Asked::KeyExchange, now), Some(of(&far)), "it is another relay's");
    }

    #[test]
    fn requests_live_two_minutes_and_the_oldest_goes() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        for n in 0..=MAX_REQUESTS {
            assert!(requests.ask(&n.to_string(), Asked::KeyExchange, of(&A), now, nobody));
        }
        assert_eq!(requests.0.len(), MAX_REQUESTS);
        assert_eq!(requests.answer("0", Asked::KeyExchange, now), None, "the oldest has gone");
        let (just, late) = (now + REQUEST_LIFE - Duration::from_millis(1), now + REQUEST_LIFE);
        assert_eq!(requests.answer("1", Asked::KeyExchange, just), Some(of(&A)));
        assert_eq!(requests.answer("2", Asked::KeyExchange, late), None);
        assert!(requests.ask("3", Asked::KeyExchange, of(&B), late, nobody), "whose time is over is free");
        assert_eq!(requests.0.len(), 1, "and all that are over are gone");
    }

    #[test]
    fn one_that_asks_without_end_loses_its_own_answers_alone() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        for n in 0..10 {
            assert!(requests.ask(&format!("quiet {n}"), Asked::KeyExchange, of(&B), now, nobody));
        }
        for n in 0..3 * MAX_REQUESTS {
            assert!(requests.ask(&n.to_string(), Asked::Transport, of(&A), now, nobody));
        }
        assert_eq!(requests.0.len(), MAX_REQUESTS);
        for n in 0..10 {
            assert_eq!(requests.answer(&format!("quiet {n}"), Asked::KeyExchange, now), Some(of(&B)));
        }
        assert!(requests.answer(&(3 * MAX_REQUESTS - 1).to_string(), Asked::Transport, now).is_some());
    }
}
