//! How much may be on its way to other relays at once.
//!
//! Each request and each upgraded connection takes a connection to the other relay until it has ended, and there all
//! of them come from one address and share one process. So nobody may have as many as there are: a host has what one
//! of its tunnels takes, and a browser session half of that, so that one of them leaves room for the owner's others.

use relay_protocol::problem::Code;
use uuid::Uuid;

use crate::http::problem::Refusal;
use crate::limits::{AddrGuard, Open};

/// For one host.
const PER_HOST: usize = 256;
/// For one browser session.
const PER_SESSION: usize = 128;

/// Counts them.
pub struct OnTheWay {
    hosts: Open<Uuid>,
    sessions: Open<Uuid>,
}

/// One of them. Dropping it gives its place back.
#[must_use = "the place is held by this"]
pub struct Passing {
    _host: AddrGuard<Uuid>,
    _session: AddrGuard<Uuid>,
}

impl Default for OnTheWay {
    fn default() -> Self {
        Self { hosts: Open::new(PER_HOST), sessions: Open::new(PER_SESSION) }
    }
}

impl OnTheWay {
    /// Takes a place.
    ///
    /// # Errors
    /// `too_many_streams`.
    pub fn enter(&self, host: Uuid, session: Uuid) -> Result<Passing, Refusal> {
        let refused = || {
            Refusal::new(
                Code::TooManyStreams,
                "As many requests for this host are on their way to another relay as may be; try again in a moment.",
            )
        };
        let session = self.sessions.enter(session).ok_or_else(refused)?;
        let host = self.hosts.enter(host).ok_or_else(refused)?;
        Ok(Passing { _host: host, _session: session })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_session_and_a_host_have_so_many_and_leave_the_others_theirs() {
        let on_the_way = OnTheWay::default();
        let [host, other] = [1, 2].map(Uuid::from_u128);
        let [a, b, c] = [11, 12, 13].map(Uuid::from_u128);
        let refused = |host, session| on_the_way.enter(host, session).err().map(|refusal| refusal.0.code);
        let mut held: Vec<_> = (0..PER_SESSION).map(|_| on_the_way.enter(host, a).unwrap()).collect();
        assert_eq!(refused(host, a), Some(Code::TooManyStreams));
        held.extend((PER_SESSION..PER_HOST).map(|_| on_the_way.enter(host, b).unwrap()));
        assert_eq!(refused(host, c), Some(Code::TooManyStreams));
        assert_eq!(refused(other, c), None);
        // What was refused for its host took no place of its session.
        assert_eq!(on_the_way.sessions.addresses(), 2);
        held.truncate(PER_SESSION);
        assert_eq!((refused(host, c), refused(host, a)), (None, Some(Code::TooManyStreams)));
        drop(held);
        assert_eq!((on_the_way.sessions.addresses(), on_the_way.hosts.addresses()), (0, 0));
    }
}
