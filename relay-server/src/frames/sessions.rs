//! Whose a session is: where what the daemon says in it goes.
//!
//! An answer to a key exchange gives the session to whoever asked. A relay that restarted knows of no session;
//! so the first who speaks in one that nobody owns becomes its owner, and as long as a client here owns it, no
//! other may speak in it.
//!
//! What other relays pass on was judged by them in the same way, and a relay does not learn when another's client
//! goes. Clients do move: a redirect tells them to. So a session that lives at other relays may come here or
//! appear at a third one; for a while its frames then go to both places. A stranger who knows the session's id
//! gains frames that are sealed, and cannot keep them from their owner.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::recent::Recent;
use super::requests::{Asker, SocketId};

/// Sessions of a pair (contract: frames).
pub const MAX_SESSIONS: usize = 4096;
/// Unused for so long, a session is nobody's any more (contract: frames).
pub const SESSION_LIFE: Duration = Duration::from_secs(30 * 60);
/// After so long without a word from there, a session that is used here lives at that other relay no longer.
const MOVED: Duration = Duration::from_secs(60);

/// Where a session's client is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// A socket here. It may have gone.
    pub socket: Option<SocketId>,
    /// Other relays.
    pub elsewhere: Option<Elsewhere>,
}

/// At other relays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// At this one.
    Relay(Arc<str>),
    /// At several, or while it moves.
    Several,
}

#[derive(Default)]
struct Owner {
    socket: Option<SocketId>,
    elsewhere: Option<(Elsewhere, Instant)>,
}

impl Owner {
    fn of(asker: Asker, now: Instant) -> Self {
        match asker {
            Asker::Socket(id) => Self { socket: Some(id), elsewhere: None },
            Asker::Relay(relay) => Self { socket: None, elsewhere: Some((Elsewhere::Relay(relay), now)) },
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
    pub fn give(&mut self, session: &str, to: Asker, now: Instant) {
        self.0.put(session, Owner::of(to, now), now);
    }

    /// Somebody speaks in the session. False when it is somebody else's. `bars` tells whether the owner here is
    /// still connected and another client than the one that speaks.
    pub fn claim(
        &mut self,
        session: &str,
        speaker: &Asker,
        now: Instant,
        bars: impl Fn(SocketId) -> bool,
    ) -> bool {
        let Some(owner) = self.0.get(session, now) else {
            self.0.put(session, Owner::of(speaker.clone(), now), now);
            return true;
        };
        // A client here owns it alone, unless it came from another relay.
        let barred = match speaker {
            Asker::Socket(id) => owner.socket.is_some_and(|other| other != *id && bars(other)),
            Asker::Relay(_) => owner.elsewhere.is_none() && owner.socket.is_some_and(&bars),
        };
        if barred {
            return false;
        }
        let Some(owner) = self.0.renew(session, now) else { return false };
        match speaker {
            Asker::Socket(id) => {
                owner.socket = Some(*id);
                if owner.elsewhere.as_ref().is_some_and(|(_, used)| now >= *used + MOVED) {
                    owner.elsewhere = None;
                }
            }
            Asker::Relay(relay) => {
                owner.socket = owner.socket.filter(|socket| bars(*socket));
                let place = match owner.elsewhere.take() {
                    Some((Elsewhere::Relay(other), used)) if other != *relay && now < used + MOVED => {
                        Elsewhere::Several
                    }
                    Some((Elsewhere::Several, used)) if now < used + MOVED => Elsewhere::Several,
                    _ => Elsewhere::Relay(relay.clone()),
                };
                owner.elsewhere = Some((place, now));
            }
        }
        true
    }

    /// Where its frames go. Asking is using.
    pub fn place(&mut self, session: &str, now: Instant) -> Option<Place> {
        let owner = self.0.renew(session, now)?;
        Some(Place {
            socket: owner.socket,
            elsewhere: owner.elsewhere.as_ref().map(|(place, _)| place.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Asker = Asker::Socket(1);
    const B: Asker = Asker::Socket(2);

    fn relay(name: &str) -> Asker {
        Asker::Relay(name.into())
    }

    fn at(name: &str) -> Option<Elsewhere> {
        Some(Elsewhere::Relay(name.into()))
    }

    fn place(socket: Option<SocketId>, elsewhere: Option<Elsewhere>) -> Option<Place> {
        Some(Place { socket, elsewhere })
    }

    #[test]
    fn an_answer_overrides_and_the_first_who_speaks_owns() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        assert_eq!(sessions.place("s", now), None);
        assert!(sessions.claim("s", &A, now, |_| true));
        assert_eq!(sessions.place("s", now), place(Some(1), None));
        assert!(!sessions.claim("s", &B, now, |_| true));
        assert!(!sessions.claim("s", &relay("b"), now, |_| true));
        assert!(sessions.claim("s", &A, now, |_| true), "its own");
        sessions.give("s", B, now);
        assert_eq!(sessions.place("s", now), place(Some(2), None));
        assert!(!sessions.claim("s", &A, now, |_| true));
        sessions.give("s", relay("b"), now);
        assert_eq!(sessions.place("s", now), place(None, at("b")));
    }

    #[test]
    fn what_its_owner_left_is_free() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        assert!(sessions.claim("s", &A, now, |_| true));
        assert!(sessions.claim("s", &B, now, |_| false));
        assert_eq!(sessions.place("s", now), place(Some(2), None));
        assert!(sessions.claim("s", &relay("b"), now, |_| false));
        assert_eq!(sessions.place("s", now), place(None, at("b")));
    }

    #[test]
    fn sessions_move_between_relays_and_nobody_is_cut_off() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        assert!(sessions.claim("s", &relay("b"), now, |_| true));
        // It comes here. Until b has been silent for a minute both are served.
        assert!(sessions.claim("s", &A, now, |_| true));
        assert_eq!(sessions.place("s", now), place(Some(1), at("b")));
        assert!(!sessions.claim("s", &B, now, |_| true), "here it has one owner all the same");
        assert!(sessions.claim("s", &relay("b"), now, |_| true));
        let later = now + MOVED;
        assert!(sessions.claim("s", &A, later, |_| true));
        assert_eq!(sessions.place("s", later), place(Some(1), None));
        assert!(!sessions.claim("s", &relay("b"), later, |_| true));
        // From one relay to another.
        sessions.give("t", relay("b"), now);
        assert!(sessions.claim("t", &relay("c"), now, |_| true));
        assert_eq!(sessions.place("t", now), place(None, Some(Elsewhere::Several)));
        assert!(sessions.claim("t", &relay("c"), later, |_| true));
        assert_eq!(sessions.place("t", later), place(None, at("c")));
    }

    #[test]
    fn ownership_lives_half_an_hour_after_its_last_use_and_the_oldest_goes() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let most = SESSION_LIFE - Duration::from_millis(1);
        assert!(sessions.claim("s", &A, now, |_| true));
        assert!(sessions.place("s", now + most).is_some());
        assert!(sessions.claim("s", &A, now + most * 2, |_| true));
        assert!(!sessions.claim("s", &B, now + most * 3, |_| true));
        assert_eq!(sessions.place("s", now + most * 2 + SESSION_LIFE), None, "a try of another is no use");
        let now = now + SESSION_LIFE * 10;
        assert!(sessions.claim("first", &A, now, |_| true));
        assert!(sessions.claim("second", &A, now, |_| true));
        assert!(sessions.place("first", now).is_some());
        for n in 0..MAX_SESSIONS - 1 {
            assert!(sessions.claim(&n.to_string(), &A, now, |_| true));
        }
        assert_eq!(sessions.0.len(), MAX_SESSIONS);
        assert_eq!(sessions.place("second", now), None, "unused for longest");
        assert!(sessions.place("first", now).is_some());
    }
}
