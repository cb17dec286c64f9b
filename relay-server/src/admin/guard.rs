//! Who may look: whoever shows the token, as often as they like. Wrong ones are counted per address and network: that
//! tells a guesser to stop, keeps the log quiet, and must not lock out the operator who shares the address (a NAT, a
//! container's gateway, a proxy that the relay was not told of). The token is compared in any case: it is far too
//! long to be guessed, however often.

use std::time::{Duration, Instant};

use ::metrics::Counter;
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::auth::credential;
use crate::config::SecretText;
use crate::http::client_addr::RateKey;
use crate::http::front::Context;
use crate::limits::Tries;
use crate::limits::metrics::refused;

/// Where the token may stand besides `Authorization`.
const X_RELAY_ADMIN_TOKEN: HeaderName = HeaderName::from_static("x-relay-admin-token");

/// Wrong tokens at once, of one address: a person who mixes up two, and a monitor that goes on with an old one.
const WRONG: u32 = 10;
/// After those, one in this time.
const EACH: Duration = Duration::from_secs(30);
/// The same for a network, whose holder has many addresses.
const WRONG_OF_NETWORK: u32 = 30;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It showed the token.
    Open,
    /// It did not.
    Wrong,
    /// It did not, and so it was too often.
    TooOften(Duration),
}

pub(super) struct Guard {
    /// The token's digest: equal in length to that of whatever is compared.
    token: [u8; 32],
    address: Tries<RateKey>,
    network: Tries<RateKey>,
    refused: Counter,
}

impl Guard {
    pub(super) fn new(token: &SecretText) -> Self {
        Self {
            token: Sha256::digest(token.reveal().as_bytes()).into(),
            address: Tries::new(WRONG, EACH),
            network: Tries::new(WRONG_OF_NETWORK, EACH),
            refused: refused("admin_guesses"),
        }
    }

    pub(super) fn check(&self, headers: &HeaderMap, context: &Context) -> Answer {
        self.check_at(headers, context, Instant::now())
    }

    fn check_at(&self, headers: &HeaderMap, context: &Context, now: Instant) -> Answer {
        let own = single(headers).and_then(|value| value.to_str().ok());
        let shown = [credential::bearer(headers), own];
        if shown.iter().all(Option::is_none) {
            // Nothing was guessed.
            return Answer::Wrong;
        }
        if shown.into_iter().flatten().any(|token| self.is_token(token)) {
            return Answer::Open;
        }
        let (address, network) = (context.rate_key(), context.network_key());
        if !self.address.take(address, now) {
            self.refused.increment(1);
            return Answer::TooOften(EACH);
        }
        if network.is_some_and(|network| !self.network.take(network, now)) {
            self.address.give_back(address);
            self.refused.increment(1);
            return Answer::TooOften(EACH);
        }
        Answer::Wrong
    }

    fn is_token(&self, token: &str) -> bool {
        let shown: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.token.ct_eq(&shown).into()
    }
}

/// The one value of our header. Several are none.
fn single(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(X_RELAY_ADMIN_TOKEN).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;
    use crate::config::sources::Sources;
    use crate::http::client_addr::client_info;
    use crate::http::request_id::RequestId;

    const TOKEN: &str = "a-token-of-the-operator-long-enough";

    fn guard() -> Guard {
        let env = |name: &str| match name {
            "RELAY_ENABLE_ADMIN_HTTP" => Some("1".into()),
            "RELAY_ADMIN_TOKEN" => Some(TOKEN.into()),
            _ => None,
        };
        let config = Config::load(&Sources { flag: &|_| None, env: &env }).unwrap();
        Guard::new(config.admin.token.as_ref().unwrap())
    }

    fn from(address: &str) -> Context {
        let client = client_info(format!("{address}:1").parse().unwrap(), None, &HeaderMap::new(), &[]);
        Context { client, request_id: RequestId::random(), forwarded: false }
    }

    fn with(lines: &[(&'static str, &str)]) -> HeaderMap {
        let lines = lines.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(&value.replace("TOKEN", TOKEN)).unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn either_header_opens_and_nothing_else_does() {
        let own = "x-relay-admin-token";
        for (lines, opens) in [
            (&[("authorization", "Bearer TOKEN")][..], true),
            (&[("authorization", "bearer TOKEN")], true),
            (&[(own, "TOKEN")], true),
            (&[("authorization", "Bearer other"), (own, "TOKEN")], true),
            (&[], false),
            (&[("authorization", "TOKEN")], false),
            (&[("authorization", "Basic TOKEN")], false),
            (&[("authorization", "Bearer TOKEN2")], false),
            (&[("authorization", "Bearer TOKEN"), ("authorization", "Bearer TOKEN")], false),
            (&[(own, "TOKEN"), (own, "TOKEN")], false),
            (&[(own, "")], false),
            (&[(own, "Bearer TOKEN")], false),
            (&[("cookie", "x-relay-admin-token=TOKEN")], false),
        ] {
            let expected = if opens { Answer::Open } else { Answer::Wrong };
            assert_eq!(guard().check(&with(lines), &from("203.0.113.1")), expected, "{lines:?}");
        }
    }

    #[test]
    fn guesses_run_out_for_their_address_and_asking_does_not() {
        let (guard, now) = (guard(), Instant::now());
        let (right, wrong) =
            (with(&[("authorization", "Bearer TOKEN")]), with(&[("authorization", "Bearer x")]));
        let here = from("203.0.113.1");
        for _ in 0..1000 {
            assert_eq!(guard.check_at(&right, &here, now), Answer::Open);
            assert_eq!(guard.check_at(&HeaderMap::new(), &here, now), Answer::Wrong, "no token is no guess");
        }
        for _ in 0..WRONG {
            assert_eq!(guard.check_at(&wrong, &here, now), Answer::Wrong);
        }
        assert_eq!(guard.check_at(&wrong, &here, now), Answer::TooOften(EACH));
        assert_eq!(guard.check_at(&wrong, &from("203.0.113.2"), now), Answer::Wrong);
        // A neighbour's guesses are nothing to whoever knows it.
        for _ in 0..1000 {
            assert_eq!(guard.check_at(&right, &here, now), Answer::Open);
        }
        assert_eq!(guard.check_at(&wrong, &here, now), Answer::TooOften(EACH));
        assert_eq!(guard.check_at(&wrong, &here, now + EACH), Answer::Wrong);
    }

    #[test]
    fn a_network_of_many_addresses_is_counted_as_one() {
        let (guard, now) = (guard(), Instant::now());
        let wrong = with(&[("x-relay-admin-token", "x")]);
        for n in 0..WRONG_OF_NETWORK {
            assert_eq!(guard.check_at(&wrong, &from(&format!("[2001:db8:1:{n:x}::1]")), now), Answer::Wrong);
        }
        assert_eq!(guard.check_at(&wrong, &from("[2001:db8:1:ffff::1]"), now), Answer::TooOften(EACH));
        assert_eq!(guard.check_at(&wrong, &from("[2001:db8:2::1]"), now), Answer::Wrong);
    }
}
