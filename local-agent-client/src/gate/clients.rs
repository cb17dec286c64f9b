//! What is remembered of requests for a session, by the browser that signed them (PROTOCOL.md section
//! 4.1): their nonces, and how many came; and how many offers of peers did (section 6.1). Only for paired
//! browsers, whose signature was right.

use super::limits::Bucket;
use parking_lot::Mutex;
use relay_protocol::signature::{NonceMemory, SignatureError};
use std::collections::HashMap;
use uuid::Uuid;

/// Sessions that a browser may open at once, and the seconds from one to the next beyond that: many tabs
/// that are restored together, and a worker that is started over and over.
const BURST: i64 = 32;
const EVERY: i64 = 2;
/// Offers of peers at once, and the seconds from one to the next beyond that: each makes sockets and sends to
/// servers that the browser names.
const OFFERS: i64 = 16;
const OFFERS_EVERY: i64 = 2;
/// Nonces that are remembered of one browser: what its bucket allows within the window of time, several times
/// over, because those that are refused for their number are remembered too.
const NONCES: usize = 4096;
/// Seconds after which some of them are forgotten.
const NONCES_TIME: i64 = 60;

/// Why a request for a session is refused although its signature is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It came before.
    Replayed,
    /// Too many came; one more may after so many seconds.
    TooMany(i64),
}

/// The memory of all browsers.
#[derive(Debug, Default)]
pub struct Clients(Mutex<HashMap<Uuid, Client>>);

#[derive(Debug)]
struct Client {
    nonces: NonceMemory,
    opened: Bucket,
    offered: Bucket,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            nonces: NonceMemory::with_limit(NONCES),
            opened: Bucket::new(BURST, EVERY),
            offered: Bucket::new(OFFERS, OFFERS_EVERY),
        }
    }
}

impl Clients {
    /// Uses a nonce of a verified request for a session.
    ///
    /// # Errors
    /// When it was used before, or too many came.
    pub fn remember(&self, browser: Uuid, nonce: &str, created: i64, now: i64) -> Result<(), Refused> {
        let mut clients = self.0.lock();
        let client = clients.entry(browser).or_default();
        client.nonces.remember(nonce, created, now).map_err(|error| match error {
            SignatureError::TooManyNonces => Refused::TooMany(NONCES_TIME),
            _ => Refused::Replayed,
        })?;
        client.opened.take(now).map_err(Refused::TooMany)
    }

    /// Counts an offer.
    ///
    /// # Errors
    /// When too many came: the seconds until one more may.
    pub fn offer(&self, browser: Uuid, now: i64) -> Result<(), i64> {
        self.0.lock().entry(browser).or_default().offered.take(now)
    }

    /// Forgets browsers that are not paired any more.
    pub fn retain(&self, is_paired: impl Fn(Uuid) -> bool) {
        self.0.lock().retain(|browser, _| is_paired(*browser));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    #[test]
    fn each_browser_has_its_own_nonces_and_number() {
        let clients = Clients::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let nonce = |n: i64| format!("{n:022}");
        assert_eq!(clients.remember(one, &nonce(0), NOW, NOW), Ok(()));
        assert_eq!(clients.remember(one, &nonce(0), NOW, NOW), Err(Refused::Replayed));
        assert_eq!(clients.remember(two, &nonce(0), NOW, NOW), Ok(()));
        for n in 1..BURST {
            assert_eq!(clients.remember(one, &nonce(n), NOW, NOW), Ok(()));
        }
        assert_eq!(clients.remember(one, &nonce(99), NOW, NOW), Err(Refused::TooMany(EVERY)));
        assert_eq!(
            clients.remember(two, &nonce(99), NOW, NOW),
            Ok(()),
            "another browser's number is its own"
        );
        assert_eq!(clients.remember(one, &nonce(100), NOW + EVERY, NOW + EVERY), Ok(()));
        // A revoked browser that is paired again is another one.
        clients.retain(|browser| browser != one);
        assert_eq!(clients.remember(one, &nonce(0), NOW, NOW), Ok(()));
    }

    #[test]
    fn each_browser_has_its_own_number_of_offers() {
        let clients = Clients::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for _ in 0..OFFERS {
            assert_eq!(clients.offer(one, NOW), Ok(()));
        }
        assert_eq!(clients.offer(one, NOW), Err(OFFERS_EVERY));
        assert_eq!(clients.offer(two, NOW), Ok(()));
        assert_eq!(clients.offer(one, NOW + OFFERS_EVERY), Ok(()));
        assert_eq!(clients.offer(one, NOW + OFFERS_EVERY), Err(OFFERS_EVERY));
    }
}
