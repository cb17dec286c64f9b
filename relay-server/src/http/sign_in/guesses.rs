//! Guesses at one thing, counted for the address that they come from and for its network.
//!
//! Whoever holds an IPv6 network has as many addresses as there are accounts to guess at: per address alone,
//! each of them would have a fresh budget.

use std::time::{Duration, Instant};

use super::super::front::Context;
use crate::limits::{GuessKey, Tries};

/// So many tries at once, and one more whenever the time has passed.
#[derive(Clone, Copy)]
pub(super) struct Budget(pub u32, pub Duration);

/// The budgets of one kind of guess.
pub(super) struct Guesses {
    address: (Tries, Duration),
    network: (Tries, Duration),
}

/// A try that was taken.
#[must_use = "a try that was no guess is given back"]
pub(super) struct Guess<'a> {
    of: &'a Guesses,
    address: GuessKey,
    network: Option<GuessKey>,
}

impl Guesses {
    /// With these budgets.
    pub fn new(address: Budget, network: Budget) -> Self {
        let tries = |Budget(at_once, each)| (Tries::new(at_once, each), each);
        Self { address: tries(address), network: tries(network) }
    }

    /// Takes one try at the thing that this text names.
    ///
    /// # Errors
    /// How long it takes until there is another, when none is left.
    pub fn take(&self, thing: &str, from: &Context) -> Result<Guess<'_>, Duration> {
        let now = Instant::now();
        let address = GuessKey::of(thing, from.rate_key());
        let network = from.network_key().map(|network| GuessKey::of(thing, network));
        if !self.address.0.take(address, now) {
            return Err(self.address.1);
        }
        if network.is_some_and(|network| !self.network.0.take(network, now)) {
            self.address.0.give_back(address);
            return Err(self.network.1);
        }
        Ok(Guess { of: self, address, network })
    }
}

impl Guess<'_> {
    /// It was no guess, or nothing was checked.
    pub fn give_back(self) {
        self.of.address.0.give_back(self.address);
        if let Some(network) = self.network {
            self.of.network.0.give_back(network);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::client_addr::client_info;
    use crate::http::request_id::RequestId;
    use http::HeaderMap;

    fn from(address: &str) -> Context {
        let client = client_info(format!("{address}:1").parse().unwrap(), None, &HeaderMap::new(), &[]);
        Context { client, request_id: RequestId::random(), forwarded: false }
    }

    #[test]
    fn a_network_of_many_addresses_has_one_budget_more() {
        let (short, long) = (Duration::from_secs(1000), Duration::from_secs(3000));
        let guesses = Guesses::new(Budget(2, long), Budget(5, short));
        let take = |address: &str| guesses.take("a", &from(address)).map(drop);
        assert_eq!([(); 3].map(|()| take("[2001:db8:1:1::1]")), [Ok(()), Ok(()), Err(long)]);
        assert_eq!([(); 2].map(|()| take("[2001:db8:1:2::1]")), [Ok(()); 2]);
        assert_eq!([(); 2].map(|()| take("[2001:db8:1:3::1]")), [Ok(()), Err(short)]);
        // Elsewhere, and at something else, nobody is touched by it.
        assert_eq!(take("[2001:db8:2:1::1]"), Ok(()));
        assert!(guesses.take("b", &from("[2001:db8:1:3::1]")).is_ok());
        for n in 0..20 {
            assert_eq!(take(&format!("203.0.113.{n}")), Ok(()));
        }
    }

    #[test]
    fn what_is_given_back_counts_nowhere() {
        let guesses =
            Guesses::new(Budget(2, Duration::from_secs(1000)), Budget(3, Duration::from_secs(1000)));
        for _ in 0..20 {
            guesses.take("a", &from("[2001:db8:1:1::1]")).unwrap().give_back();
        }
        // A refusal of the network takes nothing from the address either.
        for n in 0..3 {
            assert!(guesses.take("a", &from(&format!("[2001:db8:1:{n}::1]"))).is_ok());
        }
        for _ in 0..3 {
            assert!(guesses.take("a", &from("[2001:db8:1:9::1]")).is_err());
        }
        let spent = GuessKey::of("a", from("[2001:db8:1:9::1]").rate_key());
        assert!([(); 2].iter().all(|()| guesses.address.0.take(spent, Instant::now())));
    }
}
