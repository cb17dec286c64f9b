//! The beginning of an exchange, up to its first record (PROTOCOL.md sections 5.2 and 5.3).
//!
//! Anybody may bring anything here, also the very bytes of an exchange that was done. Until the first record has
//! opened and its number was taken, nothing is remembered, nothing is protected by the exchange's keys, and one
//! record is all that is held. From then on the browser is known, and everything is said in records.

use super::{
    first::First,
    reader::{BrowserOpener, Bytestream, Ends, Reader},
};
use crate::{
    forward::fault::Fault,
    gate::{
        Gate,
        records::Protection,
        sessions::{Form, InUse, Session},
    },
    refusal::Refusal,
    trust::Browser,
};
use bytes::Bytes;
use relay_protocol::{
    exchange::{NumberError, Prelude, RequestHead},
    problem::Code,
    record::{
        Decoder, Direction, HEADER_LEN, Kind, MAX_HEAD, NEXT_EPOCH, Open, Opener, Order, Protector, Record,
        RecordError, open_message,
    },
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// How long prelude and first record may take: they are sent at once.
const FIRST_TIME: Duration = Duration::from_secs(10);
/// How long the prelude may take that the relay brings. Its 24 bytes come in one packet with the request's head, and
/// whoever does not send them need not be anybody who is paired: so long does a stranger keep a stream.
const PRELUDE_TIME: Duration = Duration::from_secs(2);
/// The same for prelude and first record of one that begins when too many others do: enough for what is on its way
/// already.
const CROWDED_TIME: Duration = Duration::from_millis(500);

/// An exchange whose first record has opened, and whose number was taken.
pub(in crate::gate) struct Begun<R> {
    /// Which it is.
    pub prelude: Prelude,
    /// Its session.
    pub in_use: InUse,
    /// Its browser.
    pub browser: Arc<Browser>,
    /// What it asks for, if that can be read.
    pub head: Result<RequestHead, Fault>,
    /// What follows.
    pub rest: R,
    /// What protects the answer.
    pub protection: Protection,
}

/// A refusal before the first record has opened.
pub(in crate::gate) struct Unopened {
    /// What is said.
    pub refusal: Refusal,
    /// What it refuses, as far as that is known.
    pub prelude: Option<Prelude>,
    /// What is left of the browser's bytes, and has to be taken in so that the refusal arrives.
    pub rest: Option<Bytestream>,
    /// Whether its bytes did not come: then the rest is not waited for either.
    pub stalled: bool,
}

impl From<Refusal> for Unopened {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, prelude: None, rest: None, stalled: false }
    }
}

pub(super) fn malformed(what: &str) -> Refusal {
    Refusal::new(Code::BadRequest, format!("The exchange {what}."))
}

impl Gate {
    /// Begins an exchange whose bytes come as a stream. `peer` is whose path it came by, where the path is
    /// somebody's: it is a stream both ways then, which ends with the answer. `outer` is what is wrong with the
    /// request around it, which is told of the exchange once it is known which it is.
    pub(in crate::gate) async fn begin(
        &self,
        source: Bytestream,
        peer: Option<Uuid>,
        outer: Result<(), Refusal>,
    ) -> Result<Begun<Reader>, Unopened> {
        let mut first = First::new(source, self.firsts.of(peer.is_some()));
        let mut prelude = None;
        // The streams of a peer are its own, and bounded by its channel.
        let place = peer.is_none().then(|| self.firsts.place());
        let is_crowded = matches!(place, Some(None));
        let prelude_time = if peer.is_none() { PRELUDE_TIME } else { FIRST_TIME };
        let reading = async {
            let Ok(read) = tokio::time::timeout(prelude_time, first.prelude()).await else {
                return Err(not_in_time());
            };
            prelude = read.as_ref().ok().copied();
            outer?;
            self.read_first(&mut first, read?, peer).await
        };
        let time = if is_crowded { CROWDED_TIME } else { FIRST_TIME };
        let begun = tokio::time::timeout(time, reading).await;
        drop(place);
        let begun = begun.unwrap_or_else(|_| Err(if is_crowded { crowded() } else { not_in_time() }));
        match begun {
            Ok((begun, decoder, order)) => {
                let ends = if peer.is_some() { Ends::WithTheAnswer } else { Ends::ByThemselves };
                Ok(begun.with(Reader::new(first.source, decoder, order, ends)))
            }
            Err(refusal) => {
                let crowded = is_crowded && refusal.code() == Code::TooManyStreams;
                let stalled = first.given_up || crowded || refusal.code() == Code::RequestTimeout;
                Err(Unopened { refusal, prelude, rest: Some(first.source), stalled })
            }
        }
    }

    async fn read_first(
        &self,
        first: &mut First,
        prelude: Prelude,
        peer: Option<Uuid>,
    ) -> Result<(Begun<()>, Decoder<BrowserOpener>, Order), Refusal> {
        let (session, browser) = self.session_of(&prelude, peer)?;
        let opener = opener(&session, &prelude);
        let read = async {
            first.until(HEADER_LEN).await?;
            let length = head_length(&first.bytes)?;
            first.until(HEADER_LEN + length + opener.overhead()).await
        };
        tokio::select! {
            biased;
            // Nobody waits on behalf of a browser that was revoked.
            () = session.ended.cancelled() => {
                first.given_up = true;
                return Err(no_more_exchanges());
            }
            read = read => read?,
        }
        let mut decoder = Decoder::new(opener);
        decoder.push(std::mem::take(&mut first.bytes).freeze());
        let record = decoder.next_record().and_then(|record| record.ok_or(RecordError::Truncated));
        let (begun, order) = self.opened(prelude, session, browser, record)?;
        Ok((begun, decoder, order))
    }

    /// Begins an exchange whose records come as messages; `first` is the first of them.
    pub(in crate::gate) fn begin_by_message(
        &self,
        prelude: Prelude,
        first: Bytes,
    ) -> Result<Begun<(BrowserOpener, Order)>, Refusal> {
        let (session, browser) = self.session_of(&prelude, None)?;
        head_length(&first)?;
        let mut opener = opener(&session, &prelude);
        let record = open_message(&mut opener, first);
        let (begun, order) = self.opened(prelude, session, browser, record)?;
        Ok(begun.with((opener, order)))
    }

    /// The session that a prelude names, if it takes another exchange.
    fn session_of(
        &self,
        prelude: &Prelude,
        peer: Option<Uuid>,
    ) -> Result<(Arc<Session>, Arc<Browser>), Refusal> {
        let now = (self.clock)();
        let session =
            self.sessions.find(prelude.session_id, now).filter(|session| session.takes_exchanges(now));
        let browser = session.as_ref().and_then(|session| self.pairing.browsers().get(session.browser));
        match (session, browser) {
            (Some(session), Some(browser)) if peer.is_none_or(|peer| peer == browser.id) => {
                Ok((session, browser))
            }
            _ => Err(no_more_exchanges()),
        }
    }

    /// Takes the number of an exchange whose first record has opened.
    fn opened(
        &self,
        prelude: Prelude,
        session: Arc<Session>,
        browser: Arc<Browser>,
        record: Result<Record, RecordError>,
    ) -> Result<(Begun<()>, Order), Refusal> {
        let record = record.map_err(not_opened)?;
        if session.ended.is_cancelled() {
            return Err(no_more_exchanges());
        }
        // Two that come at once: one of them has it.
        session.numbers.lock().take(prelude.number).map_err(|error| match error {
            NumberError::Replayed => {
                Refusal::new(Code::Replayed, "This very exchange has come before. It is not done twice.")
            }
            NumberError::UsedUp => no_more_exchanges(),
        })?;
        let now = (self.clock)();
        self.pairing.browsers().touch(browser.id, now);
        self.forwarder.stats().gate.exchange();
        let mut order = Order::request();
        let head = order.next(record.kind).map_err(Fault::from);
        let head = head.and_then(|()| Ok(RequestHead::read(&record.payload)?));
        let protection = match &session.form {
            Form::Signed => {
                let key = self.pairing.keys().signing.clone();
                Protector::signed(key, prelude.binding(), Direction::ToBrowser)
            }
            Form::Sealed(keys) => Protector::sealed(keys, &prelude, Direction::ToBrowser, self.clock.clone()),
        };
        let begun = Begun { prelude, in_use: session.begin(now), browser, head, rest: (), protection };
        Ok((begun, order))
    }
}

impl Begun<()> {
    fn with<R>(self, rest: R) -> Begun<R> {
        let Self { prelude, in_use, browser, head, rest: (), protection } = self;
        Begun { prelude, in_use, browser, head, rest, protection }
    }
}

fn opener(session: &Session, prelude: &Prelude) -> BrowserOpener {
    match &session.form {
        Form::Signed => Opener::signed(session.key, prelude.binding(), Direction::ToAgent),
        Form::Sealed(keys) => Opener::sealed(keys, prelude, Direction::ToAgent),
    }
}

fn not_in_time() -> Refusal {
    Refusal::new(Code::RequestTimeout, "The exchange did not begin in time.")
}

fn crowded() -> Refusal {
    Refusal::new(
        Code::TooManyStreams,
        "Too many exchanges begin at once and do not go on. Try again in a few seconds.",
    )
}

fn no_more_exchanges() -> Refusal {
    Refusal::new(
        Code::SigningSessionExpired,
        "The session is unknown or ended, or takes no more exchanges. Open a new one.",
    )
}

fn not_opened(error: RecordError) -> Refusal {
    match error {
        RecordError::Unprotected => Refusal::new(
            Code::SignatureInvalid,
            "The first record does not open: it was changed on its way, or made with other keys.",
        ),
        error => malformed(&format!("has no first record that can be read: {error}")),
    }
}

/// The length of the first record's payload, which must be a HEAD's. Looked at before anything is held for it;
/// the record itself says the same, protected.
fn head_length(bytes: &[u8]) -> Result<usize, Refusal> {
    let Some([a, b, c, d, kind]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Err(malformed("broke off"));
    };
    if kind & !NEXT_EPOCH != Kind::Head as u8 {
        return Err(malformed("does not begin with a HEAD"));
    }
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
    if length > MAX_HEAD {
        return Err(Refusal::new(
            Code::BodyTooLarge,
            "The first record is larger than the 256 KiB of a HEAD.",
        ));
    }
    Ok(length)
}
