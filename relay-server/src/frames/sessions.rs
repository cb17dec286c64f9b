//! Whose a session is: where what the daemon says in it goes.
//!
//! An answer to a key exchange gives the session to whoever asked. A relay that restarted knows of no session; so
//! the first who speaks in one that nobody owns becomes its owner. As long as it is somebody's who has a name, no
//! other client here speaks in it, whether or not its owner is connected at the moment: a session's id is no secret.
//!
//! What other relays pass on was judged by them in the same way; who spoke there they do not say, and a relay does
//! not learn when another's client goes. Clients do move: a redirect tells them to. So a session that lives at
//! another relay may come here, and for a moment its frames go to both places. It goes to another relay only once it
//! was unused for a while where it was. Whoever moved speaks no more where they were: when the relay that had it
//! before passes on another word, its client is still there, and the session goes back to that one. A stranger who
//! knows the session's id gains frames that are sealed at most, and cannot keep them from their owner.
//!
//! Sessions are bounded. They count as those of their client here, else of the relay where they live; whoever speaks
//! in more than there is room for pushes out their own (see [`super::recent`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::recent::{Party, Recent};
use super::requests::SocketId;

/// Sessions of a pair (contract: frames).
pub const MAX_SESSIONS: usize = 4096;
/// Unused for so long, a session is nobody's any more (contract: frames).
pub const SESSION_LIFE: Duration = Duration::from_secs(30 * 60);
/// After so long without a word from its client where it is, a session may be used by way of another relay; and
/// one that is used here lives at that other relay no longer.
const MOVED: Duration = Duration::from_secs(5);
/// What a client said before it moved may arrive so much later than what it says here.
const ON_THE_WAY: Duration = Duration::from_secs(1);

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaker {
    /// A socket here, by its number, and what its client is known by.
    Socket(SocketId, Party),
    /// Somebody at another relay.
    Relay(Arc<str>),
}

impl Speaker {
    fn party(&self) -> Party {
        match self {
            Self::Socket(_, party) => party.clone(),
            Self::Relay(relay) => Party::Relay(relay.clone()),
        }
    }
}

/// Where a session's client is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// A socket here, and what its client is known by. It may have gone.
    pub socket: Option<(SocketId, Party)>,
    /// Another relay.
    pub elsewhere: Option<Arc<str>>,
}

/// The client here.
struct Here {
    socket: SocketId,
    party: Party,
    used: Instant,
    /// When it came, if the session was another relay's until then.
    came: Option<Instant>,
}

impl Here {
    fn has_name(&self) -> bool {
        matches!(self.party, Party::Client(_))
    }
}

/// A client at another relay.
struct There {
    relay: Arc<str>,
    used: Instant,
    /// It spoke after somebody else had come, so it has not moved.
    stays: bool,
}

impl There {
    fn is_used(&self, now: Instant) -> bool {
        now < self.used + MOVED
    }
}

#[derive(Default)]
struct Owner {
    here: Option<Here>,
    there: Option<There>,
    /// The relay that had it before, and was silent for so long that it went to another place.
    before: Option<Arc<str>>,
}

impl Owner {
    fn of(speaker: Speaker, now: Instant) -> Self {
        let mut owner = Self::default();
        owner.is_used_by(speaker, now);
        owner
    }

    fn is_used_by(&mut self, speaker: Speaker, now: Instant) {
        match speaker {
            Speaker::Socket(socket, party) => {
                let came = match &self.here {
                    Some(here) => here.came,
                    None => self.there.is_some().then_some(now),
                };
                self.here = Some(Here { socket, party, used: now, came });
                if let Some(gone) = self.there.take_if(|there| !there.is_used(now)) {
                    self.before = Some(gone.relay);
                }
            }
            Speaker::Relay(relay) => self.is_used_at(relay, now),
        }
    }

    fn is_used_at(&mut self, relay: Arc<str>, now: Instant) {
        let was_before = self.before.take_if(|before| *before == relay).is_some();
        let same = self.there.as_ref().is_some_and(|there| there.relay == relay);
        let late = |here: &Here| here.came.is_some_and(|came| now >= came + ON_THE_WAY);
        let stays = was_before || (same && self.here.as_ref().is_some_and(late));
        if stays {
            self.here = None;
        } else if !same && let Some(there) = self.there.take() {
            self.before = Some(there.relay);
        }
        let stays = stays || self.there.take().is_some_and(|there| there.stays);
        self.there = Some(There { relay, used: now, stays });
    }

    /// Whether it is somebody else's. `connected` tells whether a socket still is.
    fn bars(&self, speaker: &Speaker, now: Instant, connected: impl Fn(SocketId) -> bool) -> bool {
        match (speaker, &self.here, &self.there) {
            (Speaker::Socket(socket, party), Some(here), _) => {
                if here.socket == *socket {
                    false
                } else if here.has_name() {
                    *party != here.party
                } else {
                    // Nobody can be shown to be the same: it is free when its socket has gone.
                    connected(here.socket)
                }
            }
            (Speaker::Socket(..), None, there) => {
                there.as_ref().is_some_and(|there| there.stays && there.is_used(now))
            }
            (Speaker::Relay(relay), _, Some(there)) if *relay == there.relay => false,
            (Speaker::Relay(relay), ..) if self.before.as_ref() == Some(relay) => false,
            // No relay says who speaks there.
            (Speaker::Relay(_), here, there) => {
                let is_used = there.as_ref().is_some_and(|there| there.is_used(now));
                let is_here = here.as_ref().is_some_and(|here| {
                    connected(here.socket) || (here.has_name() && now < here.used + MOVED)
                });
                is_used || is_here
            }
        }
    }
}

/// The sessions of one pair.
pub struct Sessions(Recent<Owner>);

impl Default for Sessions {
    fn default() -> Self {
        Self(Recent::new(MAX_SESSIONS, SESSION_LIFE))
    }
}

impl Sessions {
    /// The daemon gave the session to whoever asked for it, whosever it was.
    pub fn give(&mut self, session: &str, to: Speaker, now: Instant) {
        self.0.put(session, to.party(), Owner::of(to, now), now);
    }

    /// Somebody speaks in the session. False when it is somebody else's. `connected` tells whether a socket here
    /// still is.
    pub fn claim(
        &mut self,
        session: &str,
        speaker: Speaker,
        now: Instant,
        connected: impl Fn(SocketId) -> bool,
    ) -> bool {
        match self.0.get(session, now) {
            None => self.give(session, speaker, now),
            Some(owner) if owner.bars(&speaker, now, connected) => return false,
            Some(_) => {
                let is_here = matches!(speaker, Speaker::Socket(..)).then(|| speaker.party());
                if let Some(owner) = self.0.renew(session, now) {
                    owner.is_used_by(speaker, now);
                }
                if let Some(party) = is_here {
                    self.0.belongs(session, &party);
                }
            }
        }
        true
    }

    /// Where its frames go. Asking is using.
    pub fn place(&mut self, session: &str, now: Instant) -> Option<Place> {
        let owner = self.0.renew(session, now)?;
        Some(Place {
            socket: owner.here.as_ref().map(|here| (here.socket, here.party.clone())),
            elsewhere: owner.there.as_ref().map(|there| there.relay.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::Name;
    use crate::http::client_addr::RateKey;

    /// Somebody without a name.
    fn nameless(socket: SocketId) -> Speaker {
        Speaker::Socket(socket, Party::Address(RateKey::of([203, 0, 113, 1].into())))
    }

    fn relay(name: &str) -> Speaker {
        Speaker::Relay(name.into())
    }

    fn named(socket: SocketId, user: Option<&str>, client: Option<&str>) -> Speaker {
        let name = Name { user: user.map(Into::into), client: client.map(Into::into) };
        Speaker::Socket(socket, Party::Client(name))
    }

    /// A place, without what its socket's client is known by.
    type Found = Option<(Option<SocketId>, Option<Arc<str>>)>;

    fn place(socket: Option<SocketId>, elsewhere: Option<&str>) -> Found {
        Some((socket, elsewhere.map(Into::into)))
    }

    impl Sessions {
        fn found(&mut self, session: &str, now: Instant) -> Found {
            let Place { socket, elsewhere } = self.place(session, now)?;
            Some((socket.map(|(id, _)| id), elsewhere))
        }
    }

    #[test]
    fn who_speaks_first_owns_it_until_it_goes_or_the_daemon_says_otherwise() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        assert_eq!(sessions.found("s", now), None);
        assert!(sessions.claim("s", nameless(1), now, |_| true));
        assert_eq!(sessions.found("s", now), place(Some(1), None));
        assert!(!sessions.claim("s", nameless(2), now, |_| true));
        assert!(!sessions.claim("s", relay("b"), now, |_| true));
        assert!(sessions.claim("s", nameless(1), now, |_| true), "its own");
        sessions.give("s", nameless(2), now);
        assert_eq!(sessions.found("s", now), place(Some(2), None));
        assert!(!sessions.claim("s", nameless(1), now, |_| true));
        sessions.give("s", relay("c"), now);
        assert_eq!(sessions.found("s", now), place(None, Some("c")));
    }

    #[test]
    fn what_somebody_without_a_name_left_is_free() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        assert!(sessions.claim("s", nameless(1), now, |_| true));
        assert!(sessions.claim("s", nameless(2), now, |_| false));
        assert_eq!(sessions.found("s", now), place(Some(2), None));
        assert!(sessions.claim("s", relay("b"), now, |_| false));
        assert_eq!(sessions.found("s", now).unwrap().1.as_deref(), Some("b"));
    }

    #[test]
    fn what_somebody_with_a_name_left_is_theirs_alone() {
        let owner = || named(1, Some("u"), Some("c"));
        for (other, same) in [
            (named(2, Some("u"), Some("c")), true),
            (named(2, Some("v"), Some("c")), false),
            (named(2, None, Some("c")), false),
            (named(2, Some("u"), Some("d")), false),
            (named(2, Some("u"), None), false),
            (nameless(2), false),
            (relay("b"), false),
        ] {
            for connected in [true, false] {
                let (mut sessions, now) = (Sessions::default(), Instant::now());
                assert!(sessions.claim("s", owner(), now, |_| true));
                assert_eq!(sessions.claim("s", other.clone(), now, |_| connected), same, "{other:?}");
                let late = now + SESSION_LIFE;
                assert!(sessions.claim("s", other.clone(), late, |_| false), "it was nobody's any more");
            }
        }
    }

    #[test]
    fn a_client_that_comes_by_another_relay_waits_and_keeps_nothing_from_the_owner() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let owner = || named(1, None, Some("c"));
        assert!(sessions.claim("s", owner(), now, |_| true));
        let later = now + MOVED;
        assert!(!sessions.claim("s", relay("b"), later, |_| true), "it is connected");
        assert!(sessions.claim("s", relay("b"), later, |_| false));
        assert_eq!(sessions.found("s", later), place(Some(1), Some("b")));
        assert!(
            !sessions.claim("s", named(2, None, Some("d")), later, |_| false),
            "here it is still the owner's"
        );
        assert!(sessions.claim("s", named(3, None, Some("c")), later, |_| false));
        assert_eq!(sessions.found("s", later), place(Some(3), Some("b")));
    }

    #[test]
    fn a_session_moves_between_relays() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        assert!(sessions.claim("s", relay("b"), now, |_| true));
        // It comes here: for a while it is at both places.
        assert!(sessions.claim("s", nameless(1), now, |_| true));
        assert_eq!(sessions.found("s", now), place(Some(1), Some("b")));
        assert!(!sessions.claim("s", nameless(2), now, |_| true), "here it has one owner all the same");
        assert!(sessions.claim("s", relay("b"), now, |_| true));
        let later = now + MOVED;
        assert!(sessions.claim("s", nameless(1), later, |_| true));
        assert_eq!(sessions.found("s", later), place(Some(1), None));
        assert!(!sessions.claim("s", relay("c"), later, |_| true));
    }

    #[test]
    fn whoever_had_it_before_and_speaks_again_has_not_moved() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let thief = || named(1, None, Some("thief"));
        sessions.give("s", relay("b"), now);
        // While its owner is silent, somebody comes here, soon or late.
        for pause in [Duration::ZERO, MOVED] {
            let came = now + pause;
            assert!(sessions.claim("s", thief(), came, |_| true));
            let back = came + ON_THE_WAY;
            assert!(sessions.claim("s", relay("b"), back, |_| true), "{pause:?}");
            assert_eq!(sessions.found("s", back), place(None, Some("b")));
            assert!(!sessions.claim("s", thief(), back + MOVED / 2, |_| true), "the owner is there");
            // From here on it is as before.
            sessions.give("s", relay("b"), now);
        }
        // At a third relay likewise.
        let quiet = now + MOVED;
        assert!(sessions.claim("s", relay("c"), quiet, |_| true));
        assert!(sessions.claim("s", relay("b"), quiet, |_| true));
        assert_eq!(sessions.found("s", quiet), place(None, Some("b")));
        assert!(!sessions.claim("s", relay("c"), quiet, |_| true));
    }

    #[test]
    fn what_was_on_the_way_when_a_client_moved_takes_nothing_back() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        sessions.give("s", relay("b"), now);
        assert!(sessions.claim("s", named(1, None, Some("c")), now, |_| true));
        let soon = now + ON_THE_WAY - Duration::from_millis(1);
        assert!(sessions.claim("s", relay("b"), soon, |_| true));
        assert!(sessions.claim("s", named(1, None, Some("c")), soon, |_| true));
        assert_eq!(sessions.found("s", soon), place(Some(1), Some("b")));
    }

    #[test]
    fn a_second_relay_has_no_part_in_a_session_that_is_used_at_another_one() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        sessions.give("s", relay("b"), now);
        let just = now + MOVED - Duration::from_millis(1);
        assert!(!sessions.claim("s", relay("c"), just, |_| true));
        assert!(sessions.claim("s", relay("b"), just, |_| true));
        assert!(!sessions.claim("s", relay("c"), now + MOVED, |_| true), "used again since");
        assert_eq!(sessions.found("s", just), place(None, Some("b")));
        assert!(sessions.claim("s", relay("c"), just + MOVED, |_| true));
        assert_eq!(sessions.found("s", just + MOVED), place(None, Some("c")));
        assert!(!sessions.claim("s", relay("d"), just + MOVED, |_| true));
    }

    #[test]
    fn ownership_lives_half_an_hour_after_its_last_use_and_the_oldest_goes() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let most = SESSION_LIFE - Duration::from_millis(1);
        assert!(sessions.claim("s", nameless(1), now, |_| true));
        assert!(sessions.found("s", now + most).is_some());
        assert!(sessions.claim("s", nameless(1), now + most * 2, |_| true));
        assert!(!sessions.claim("s", nameless(2), now + most * 3, |_| true));
        assert_eq!(sessions.found("s", now + most * 2 + SESSION_LIFE), None, "a try of another is no use");
        let now = now + SESSION_LIFE * 10;
        assert!(sessions.claim("first", nameless(1), now, |_| true));
        assert!(sessions.claim("second", nameless(1), now, |_| true));
        assert!(sessions.found("first", now).is_some());
        for n in 0..MAX_SESSIONS - 1 {
            assert!(sessions.claim(&n.to_string(), nameless(1), now, |_| true));
        }
        assert_eq!(sessions.0.len(), MAX_SESSIONS);
        assert_eq!(sessions.found("second", now), None, "unused for longest");
        assert!(sessions.found("first", now).is_some());
    }

    #[test]
    fn one_that_speaks_in_sessions_without_end_loses_its_own_alone() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let (quiet, loud) = (named(1, None, Some("quiet")), named(2, None, Some("loud")));
        for session in ["first", "second"] {
            assert!(sessions.claim(session, quiet.clone(), now, |_| true));
        }
        sessions.give("given", quiet, now);
        // At another relay before it came here: it counts as the client's.
        assert!(sessions.claim("moved", relay("b"), now, |_| true));
        assert!(sessions.claim("moved", loud.clone(), now, |_| true));
        for n in 0..3 * MAX_SESSIONS {
            assert!(sessions.claim(&n.to_string(), loud.clone(), now, |_| true));
        }
        for n in 0..3 * MAX_SESSIONS {
            assert!(sessions.claim(&format!("far {n}"), relay("b"), now, |_| true));
        }
        for session in ["first", "second", "given"] {
            assert_eq!(sessions.found(session, now), place(Some(1), None), "{session}");
        }
        assert_eq!(sessions.found("moved", now), None);
        assert_eq!(sessions.0.len(), MAX_SESSIONS);
    }
}
