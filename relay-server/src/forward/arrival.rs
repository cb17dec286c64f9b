//! Requests that another relay passed on, or that claim it: checked before anything else is read of them.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response};

use super::envelope::{Envelope, Fault};
use super::key::Key;
use super::metrics::Arrived;
use super::replay::Seen;
use super::{FORWARDED, FRESH, Word};
use crate::clock::{millis, unix_ms};
use crate::config::Config;
use crate::http::client_addr::ClientInfo;
use crate::http::request_id::RequestId;
use crate::proxy::path;
use crate::telemetry::seldom::Seldom;

/// What is known of a request that another relay passed on.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The caller, as the other relay knows it.
    pub client: ClientInfo,
    /// The request's id there.
    pub id: RequestId,
}

/// Checks them.
pub struct Door {
    key: Option<Key>,
    relay_id: Arc<str>,
    started: u64,
    seen: Seen,
    metrics: Arrived,
    said: Seldom<()>,
}

impl Door {
    /// For this relay, which begins now. Without a secret that relays share nothing is taken.
    pub fn new(config: &Config, relay_id: &str) -> Self {
        Self {
            key: config.relays.hmac_key.as_ref().and_then(Key::derive),
            relay_id: relay_id.into(),
            started: unix_ms(),
            seen: Seen::default(),
            metrics: Arrived::new(),
            said: Seldom::default(),
        }
    }

    /// Takes the header out of a request and believes it, if there is one and it is good.
    ///
    /// # Errors
    /// [`Fault`]: the request is to be refused, with [`Word::Refused`].
    pub fn take<B>(&self, request: &mut Request<B>) -> Result<Option<Arrival>, Fault> {
        if !request.headers().contains_key(&FORWARDED) {
            return Ok(None);
        }
        match self.check(request, unix_ms()) {
            Ok(envelope) => {
                self.metrics.taken.increment(1);
                let headers = request.headers_mut();
                headers.remove(&FORWARDED);
                if !envelope.expects {
                    // The relay that passes it on expects it for itself, and gets it once the body is read.
                    headers.remove(header::EXPECT);
                }
                Ok(Some(Arrival { client: envelope.client, id: envelope.id }))
            }
            Err(fault) => {
                self.metrics.refused(fault);
                self.tell(fault);
                Err(fault)
            }
        }
    }

    fn check<B>(&self, request: &Request<B>, now: u64) -> Result<Envelope, Fault> {
        let key = self.key.as_ref().ok_or(Fault::Unwanted)?;
        let target = request.uri().path_and_query().map(|target| target.as_str()).unwrap_or_default();
        if !target.starts_with(path::PREFIX) {
            return Err(Fault::Unwanted);
        }
        let envelope = Envelope::open(only(request.headers())?, key, request.method(), target)?;
        self.judge(&envelope, now)?;
        Ok(envelope)
    }

    /// What is signed is another relay's word: whether it is for this one, now, and once.
    fn judge(&self, envelope: &Envelope, now: u64) -> Result<(), Fault> {
        if envelope.to != *self.relay_id || envelope.from == *self.relay_id {
            return Err(Fault::Misdirected);
        }
        let fresh = millis(FRESH);
        // What was taken before this relay's start is forgotten.
        if envelope.at.abs_diff(now) > fresh || envelope.at < self.started {
            return Err(Fault::Stale);
        }
        let from = envelope.from.as_str().into();
        self.seen.note(&from, envelope.nonce, envelope.at, now.saturating_sub(fresh))
    }

    /// Strangers may send the header as often as they like; relays that disagree about the secret are worth a word
    /// now and then.
    fn tell(&self, fault: Fault) {
        if fault != Fault::Unwanted && self.said.is_due(()) {
            tracing::warn!(
                reason = fault.as_str(),
                "a request that claims to come from another relay was refused: give all relays the same RELAY_BUS_HMAC_KEY, \
                 an own RELAY_ID each, and clocks that agree"
            );
        } else {
            tracing::debug!(
                reason = fault.as_str(),
                "a request that claims to come from another relay was refused"
            );
        }
    }
}

fn only(headers: &HeaderMap) -> Result<&HeaderValue, Fault> {
    let mut values = headers.get_all(&FORWARDED).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(Fault::Malformed),
    }
}

/// Tells the relay that passed a request on how it went: the word that was left on the response, or that it was
/// answered.
pub fn mark<B>(response: &mut Response<B>) {
    let word = response.extensions_mut().remove::<Word>().unwrap_or(Word::Answered);
    response.headers_mut().insert(FORWARDED, HeaderValue::from_static(word.as_str()));
}

#[cfg(test)]
#[path = "arrival_tests.rs"]
mod tests;
