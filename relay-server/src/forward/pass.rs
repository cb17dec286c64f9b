//! At the relay that has no tunnel: who has one, and the request's way there and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ::metrics::Counter;
use axum::body::Body;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use relay_protocol::headers::{Hop, restore_hop, strip_hop_by_hop};
use relay_protocol::problem::Code;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::body::Kept;
use super::envelope::{Envelope, Nonce};
use super::key::Key;
use super::metrics::Sent;
use super::on_the_way::{OnTheWay, Passing};
use super::redirect::Rules;
use super::relays::{Relay, Relays};
use super::{FORWARDED, Word};
use crate::auth::access::{Exchange, Refused};
use crate::backplane::{Backplane, Holder};
use crate::clock::unix_ms;
use crate::config::Config;
use crate::http::client_addr::ClientInfo;
use crate::http::problem::Refusal;
use crate::http::request_id::RequestId;
use crate::outbound::TlsError;
use crate::pool::Connection;
use crate::proxy::body::{Consent, RequestBody};
use crate::proxy::send::{
    Failed, Sending, Way, allow_on_continue, expects_continue, frame_body, sender_broke_off,
};
use crate::telemetry::metrics::Opened;
use crate::telemetry::seldom::Seldom;

/// The other relay keeps the same times and tells what happened: this one waits a little longer.
const GRACE: Duration = Duration::from_secs(5);
/// How often idle connections are looked at.
const KEEP_HOUSE: Duration = Duration::from_secs(5);

/// Passes requests on.
pub struct Forwarder {
    backplane: Backplane,
    relays: Relays,
    rules: Rules,
    key: Key,
    relay_id: String,
    life: u64,
    count: AtomicU64,
    open_timeout: Duration,
    head_timeout: Duration,
    on_the_way: OnTheWay,
    metrics: Sent,
    said: Seldom<(Arc<str>, Trouble)>,
}

/// What the log is told of a relay now and then, and not with every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Trouble {
    NoAddress,
    Unreachable,
    NoBelief,
    NoRelay,
}

/// What a request is passed on for.
pub struct Call<'a> {
    /// The host that it is for.
    pub host: Uuid,
    /// Who calls.
    pub client: &'a ClientInfo,
    /// The request's id.
    pub id: &'a RequestId,
    /// The browser session's exchange that it is part of.
    pub exchange: &'a Exchange,
}

/// A request that is ready to be passed on, once or twice.
pub struct Prepared {
    parts: Parts,
    target: PathAndQuery,
    body: Option<Kept>,
    expects: bool,
    hop: Hop,
    /// Bytes of bodies on their way to local servers.
    uploaded: Counter,
}

/// What came back.
pub struct Answer {
    /// The answer, without what concerned the way from relay to relay.
    pub response: Response<Incoming>,
    /// What it came over.
    pub connection: Connection,
    /// Where the request's body waits, when it waited.
    pub consent: Option<watch::Sender<Consent>>,
}

/// Why another relay may be tried: nothing can have had an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    Moved,
    Draining,
    Unreachable,
}

enum Failure {
    Away(Away),
    Final(Refusal),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Failure::Final(refused.into())
    }
}

impl Prepared {
    /// Takes a request apart. `None` when its target is no path.
    pub fn new(request: Request<Incoming>, uploaded: Counter) -> Option<Self> {
        let (mut parts, body) = request.into_parts();
        let target = parts.uri.path_and_query()?.clone();
        let headers = &mut parts.headers;
        let hop = strip_hop_by_hop(headers);
        headers.remove(&FORWARDED);
        let expects = expects_continue(headers);
        let body = (!http_body::Body::is_end_stream(&body)).then(|| Kept::new(body));
        if body.is_some() {
            frame_body(headers);
            // Until the other relay has a stream for the body nothing of it is read, so that it can go elsewhere.
            headers.entry(header::EXPECT).or_insert(HeaderValue::from_static("100-continue"));
        }
        restore_hop(headers, &hop);
        Some(Self { parts, target, body, expects, hop, uploaded })
    }

    /// Whether it asks for another protocol.
    pub fn upgrades(&self) -> bool {
        self.hop.upgrade.is_some()
    }

    /// As it is sent to one relay. `None` when its body has been read.
    fn request(&self, authority: &str) -> Option<Outgoing> {
        let moved = Arc::new(AtomicBool::new(false));
        let mut consent = None;
        let body = match &self.body {
            None => Body::empty(),
            Some(kept) => {
                let lent = kept.lend()?;
                let word = expects_continue(&self.parts.headers).then(|| {
                    let (sender, receiver) = watch::channel(Consent::Waiting);
                    consent = Some(sender);
                    receiver
                });
                Body::new(RequestBody::new(lent, moved.clone(), word, self.uploaded.clone()))
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = Uri::from(self.target.clone());
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.parts.headers.clone();
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority).ok()?);
        if let Some(consent) = &consent {
            allow_on_continue(&mut request, consent.clone());
        }
        Some(Outgoing { request, moved, consent })
    }
}

struct Outgoing {
    request: Request<Body>,
    moved: Arc<AtomicBool>,
    consent: Option<watch::Sender<Consent>>,
}

impl Forwarder {
    /// For the relay of this name. `None` where there are no other relays.
    ///
    /// # Errors
    /// [`TlsError`] when what the configuration names is of no use.
    pub fn new(config: &Config, backplane: Backplane, relay_id: &str) -> Result<Option<Self>, TlsError> {
        let key = config.relays.hmac_key.as_ref().and_then(Key::derive);
        let Some(key) = key.filter(|_| !backplane.is_single()) else { return Ok(None) };
        let limits = &config.limits;
        // Shorter than the other side keeps them, or a request may meet a connection that is just being closed.
        let idle = limits.pool_idle_timeout.min(limits.keep_alive_timeout / 2);
        Ok(Some(Self {
            backplane,
            relays: Relays::new(&config.platform, idle)?,
            rules: Rules::new(config),
            key,
            relay_id: relay_id.to_owned(),
            life: rand::random(),
            count: AtomicU64::new(0),
            open_timeout: limits.stream_open_timeout,
            head_timeout: limits.response_head_timeout + GRACE,
            on_the_way: OnTheWay::default(),
            metrics: Sent::new(),
            said: Seldom::default(),
        }))
    }

    /// Takes a place among what is on its way, to be held until the answer has ended.
    ///
    /// # Errors
    /// `too_many_streams`.
    pub fn enter(&self, host: Uuid, session: Uuid) -> Result<Passing, Refusal> {
        self.on_the_way.enter(host, session)
    }

    fn is_due(&self, relay: &Arc<str>, trouble: Trouble) -> bool {
        self.said.is_due((relay.clone(), trouble))
    }

    /// Closes idle connections until `stop`.
    pub async fn keep_house(&self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(KEEP_HOUSE);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                now = tick.tick() => self.relays.sweep(now),
            }
        }
    }

    /// Which other relays have tunnels of this host.
    ///
    /// # Errors
    /// `relays_unavailable`.
    pub async fn holders(&self, host: Uuid, fresh: bool) -> Result<Vec<Holder>, Refusal> {
        self.backplane.host(host, fresh).await.map_err(|_| {
            self.metrics.unavailable.increment(1);
            Refusal::new(
                Code::RelaysUnavailable,
                "The host is not connected to this relay, and whether to another cannot be found out now. Try again in a \
                 few seconds.",
            )
        })
    }

    /// Sends the caller to one of these, where that is allowed and it can go there.
    pub fn redirect(&self, holders: &[Holder], headers: &HeaderMap, uri: &Uri) -> Option<Response<Body>> {
        let target = uri.path_and_query()?.as_str();
        let mut addresses = holders.iter().filter_map(|holder| holder.public_ws.as_ref());
        let location = addresses.find_map(|address| self.rules.location(address, headers, target))?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert(header::LOCATION, location);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.metrics.redirects.increment(1);
        Some(response)
    }

    /// Passes the request on to the first of these, and to one other if it was not there any more. `None`: no relay
    /// has a tunnel of the host.
    ///
    /// # Errors
    /// What the caller is told.
    pub async fn send(
        &self,
        prepared: &Prepared,
        holders: &[Holder],
        call: &Call<'_>,
    ) -> Result<Option<Answer>, Refusal> {
        let mut away = Away::Unreachable;
        let mut tried = None;
        if let Some((holder, relay)) = self.reachable(holders, None) {
            match self.try_one(holder, &relay, prepared, call).await? {
                Ok(answer) => return Ok(Some(answer)),
                Err(why) => (away, tried) = (why, Some(holder.relay.clone())),
            }
        }
        if tried.is_none() {
            if holders.first().is_some_and(|holder| self.is_due(&holder.relay, Trouble::NoAddress)) {
                tracing::warn!(
                    "no relay that holds the host tells others its address: set RELAY_INTERNAL_URL there"
                );
            }
            self.metrics.unreachable.increment(1);
        }
        // Without an answer what is known stays.
        let anew = self.holders(call.host, true).await.unwrap_or_default();
        if let Some((holder, relay)) = self.reachable(&anew, tried.as_ref()) {
            match self.try_one(holder, &relay, prepared, call).await? {
                Ok(answer) => return Ok(Some(answer)),
                Err(why) => away = why,
            }
        }
        match away {
            Away::Moved => Ok(None),
            Away::Draining => Err(Refusal::new(
                Code::Draining,
                "The relay that the host is connected to is about to restart. Try again in a few seconds.",
            )),
            Away::Unreachable => Err(unreachable_relay()),
        }
    }

    fn reachable<'h>(
        &self,
        holders: &'h [Holder],
        except: Option<&Arc<str>>,
    ) -> Option<(&'h Holder, Arc<Relay>)> {
        let mut others = holders.iter().filter(|holder| Some(&holder.relay) != except);
        others.find_map(|holder| Some((holder, self.relays.at(holder.internal.as_ref()?)?)))
    }

    async fn try_one(
        &self,
        holder: &Holder,
        relay: &Relay,
        prepared: &Prepared,
        call: &Call<'_>,
    ) -> Result<Result<Answer, Away>, Refusal> {
        let Some(Outgoing { request, moved, consent }) = prepared.request(relay.authority()) else {
            // Its body has been read: it goes nowhere else.
            return Err(unreachable_relay());
        };
        let way = To { forwarder: self, holder, relay, prepared, call };
        let sending = Sending {
            exchange: call.exchange,
            moved: &moved,
            open_timeout: self.open_timeout,
            head_timeout: self.head_timeout,
        };
        let begun = Instant::now();
        let (mut response, connection) = match sending.send(&way, request).await {
            Ok(answered) => answered,
            Err(Failure::Final(refusal)) => return Err(refusal),
            Err(Failure::Away(away)) => return Ok(Err(away)),
        };
        let word = response.headers_mut().remove(&FORWARDED).and_then(|word| Word::read(word.as_bytes()));
        if word != Some(Word::Answered)
            && let Some(consent) = &consent
        {
            // The body stays here.
            consent.send_replace(Consent::Refused);
        }
        match word {
            Some(Word::Answered) => {
                self.metrics.answered.increment(1);
                self.metrics.head.record(begun.elapsed());
                let back = strip_hop_by_hop(response.headers_mut());
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    restore_hop(response.headers_mut(), &back);
                }
                Ok(Ok(Answer { response, connection, consent }))
            }
            Some(Word::Moved) => {
                self.metrics.moved.increment(1);
                Ok(Err(Away::Moved))
            }
            Some(Word::Draining) => {
                self.metrics.draining.increment(1);
                Ok(Err(Away::Draining))
            }
            Some(Word::Refused) => {
                self.metrics.refused.increment(1);
                if self.is_due(&holder.relay, Trouble::NoBelief) {
                    tracing::warn!(
                        relay = &*holder.relay,
                        "another relay does not believe this one: give all relays the same RELAY_BUS_HMAC_KEY, an own \
                         RELAY_ID each, and clocks that agree"
                    );
                }
                Err(unreachable_relay())
            }
            None => {
                self.metrics.unreachable.increment(1);
                if self.is_due(&holder.relay, Trouble::NoRelay) {
                    tracing::warn!(
                        relay = &*holder.relay,
                        status = response.status().as_u16(),
                        "what answers at another relay's internal address is no relay, or has no place for this one's \
                         connections (RELAY_MAX_TCP_CONNECTIONS_PER_IP)"
                    );
                }
                Err(unreachable_relay())
            }
        }
    }

    /// Counts an upgraded connection until it is dropped.
    pub fn upgraded(&self) -> Opened {
        self.metrics.upgrade()
    }
}

/// The way to another relay, for one request.
struct To<'a> {
    forwarder: &'a Forwarder,
    holder: &'a Holder,
    relay: &'a Relay,
    prepared: &'a Prepared,
    call: &'a Call<'a>,
}

impl Way for To<'_> {
    type Failure = Failure;

    fn reuse(&self) -> Option<Connection> {
        self.relay.reuse()
    }

    async fn open(&self) -> Result<Connection, Failure> {
        let within = self.forwarder.open_timeout;
        let opened = tokio::time::timeout(within, self.relay.open()).await;
        let why = match opened {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(why)) => why,
            Err(_) => format!("no connection within {} ms", within.as_millis()),
        };
        if self.forwarder.is_due(&self.holder.relay, Trouble::Unreachable) {
            tracing::warn!(relay = &*self.holder.relay, error = why, "another relay cannot be reached");
        }
        self.forwarder.metrics.unreachable.increment(1);
        Err(Failure::Away(Away::Unreachable))
    }

    fn sign(&self, request: &mut Request<Body>) -> Result<(), Failure> {
        let forwarder = self.forwarder;
        let envelope = Envelope {
            from: forwarder.relay_id.clone(),
            to: self.holder.relay.as_ref().to_owned(),
            at: unix_ms(),
            nonce: Nonce { life: forwarder.life, count: forwarder.count.fetch_add(1, Relaxed) + 1 },
            client: self.call.client.clone(),
            expects: self.prepared.expects,
            id: self.call.id.clone(),
        };
        // Without it the other relay would take this one for the caller.
        let header = envelope
            .seal(&forwarder.key, request.method(), self.prepared.target.as_str())
            .ok_or_else(|| Failure::Final(unreachable_relay()))?;
        request.headers_mut().insert(FORWARDED, header);
        Ok(())
    }

    fn ended(&self) -> bool {
        false
    }

    fn failure(&self, why: Failed) -> Failure {
        if let Failed::BrokeOff(error) = &why
            && let Some(refusal) = sender_broke_off(error)
        {
            return Failure::Final(refusal);
        }
        self.forwarder.metrics.unreachable.increment(1);
        tracing::debug!(relay = &*self.holder.relay, ?why, "a request that was passed on was not answered");
        match why {
            Failed::Unsent => Failure::Away(Away::Unreachable),
            _ => Failure::Final(Refusal::new(
                Code::RelayUnreachable,
                "The relay that the host is connected to broke off or did not answer; what was sent may have had an effect.",
            )),
        }
    }
}

fn unreachable_relay() -> Refusal {
    Refusal::new(
        Code::RelayUnreachable,
        "The relay that the host is connected to cannot be reached. Try again; the agent connects elsewhere when it is gone.",
    )
}
