//! Decides about every request that comes out of a tunnel, and about every exchange, whatever it comes by: whose it
//! is, and whether it is to be believed (PROTOCOL.md sections 3 to 5).
//!
//! The relay has authorised the request and may be lying about everything in it. Under [`Trust::Paired`] only
//! what a paired browser signed or sealed reaches the local server, as it was signed or sealed; under
//! [`Trust::Relay`] what is not signed passes too. The agent's own paths are answered here in both. Nothing is
//! remembered of anybody whose signature or seal is not right.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`options`] | what a gate is told |
//! | [`verify`] | the checks of a signature, in their order |
//! | [`sessions`], [`clients`], [`limits`] | what is remembered; pure |
//! | [`headers`] | which headers of signed requests pass; pure |
//! | [`signed`] | a signed request to the local server, and its answer |
//! | [`exchange`] | an exchange in records, over the relay or a stream of its own |
//! | [`answer`], [`records`] | the two forms of an answer: in one piece, as a stream |
//! | [`websocket`] | a WebSocket of a paired browser |
//! | [`own`], [`peers`], [`routes`], [`json_body`] | the agent's own paths |
//! | [`page`] | what people see who come without a signature |
//! | [`body`], [`piece`] | bytes on their way out |

pub mod answer;
pub mod body;
mod clients;
mod exchange;
pub mod headers;
mod json_body;
pub mod limits;
mod options;
mod own;
pub mod page;
mod peers;
pub mod piece;
pub mod records;
pub mod routes;
pub mod sessions;
mod signed;
mod verify;
mod websocket;

use crate::{
    cookies::Jars,
    forward::{
        Active, Connection, Forwarder,
        body::Source,
        path::{self, Owner},
        policy::Caller,
    },
    peer::Peers,
    refusal::Refusal,
    trust::{Pairing, Require, Trust},
};
use answer::Signer;
use body::AnswerBody;
use bytes::Bytes;
use clients::Clients;
use exchange::first::Rooms;
use http::{HeaderMap, Method, Request, Response, Uri, request::Parts, uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use limits::Bucket;
pub use options::{Clock, Options};
use own::Own;
use parking_lot::Mutex;
use relay_protocol::{
    headers::X_REQUEST_ID,
    problem::Code,
    signature::{
        LABEL, SignatureError,
        input::Parsed,
        request::{self, Signed},
        split_query,
    },
};
use sessions::Sessions;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Starts and finishes of pairing at once, and the seconds from one to the next beyond that, for all strangers
/// together: a code allows eight starts, and this is several people's.
const PAIRING_BURST: i64 = 32;
const PAIRING_EVERY: i64 = 2;

/// How much of a refused request's body is taken in, for how long in all, and how long while nothing comes. None of it
/// is held. An upload that goes on after this is one whose refusal is lost, so it is more than most of them have.
const DRAIN: usize = 64 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(10);
const DRAIN_IDLE: Duration = Duration::from_secs(2);

/// Decides about requests of any number of tunnels.
pub struct Gate {
    forwarder: Arc<Forwarder>,
    pairing: Arc<Pairing>,
    trust: Trust,
    require: Require,
    jars: Arc<Jars>,
    peers: Option<Arc<Peers>>,
    clock: Clock,
    /// Itself, for the streams of peers.
    me: Weak<Self>,
    sessions: Sessions,
    clients: Clients,
    starts: Mutex<Bucket>,
    finishes: Mutex<Bucket>,
    /// KiB that answers in one piece may still take.
    buffers: Arc<Semaphore>,
    /// What exchanges may hold that begin.
    firsts: Rooms,
}

/// What a request says of who signed it.
#[derive(Debug)]
enum Credentials {
    /// Nothing.
    None,
    /// Something that cannot be read.
    Unreadable(SignatureError),
    /// A signature, not verified yet.
    Signed(Box<Signed>),
}

/// A request without its body.
#[derive(Debug, Clone, Copy)]
struct Head<'a> {
    method: &'a Method,
    path: &'a str,
    query: Option<&'a str>,
    headers: &'a HeaderMap,
}

impl<'a> Head<'a> {
    fn new(parts: &'a Parts) -> Self {
        Self {
            method: &parts.method,
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        }
    }

    /// As it is signed.
    fn signed_parts(&self, has_body: bool) -> request::Parts<'a> {
        request::Parts {
            method: self.method,
            path: self.path,
            query: self.query,
            headers: self.headers,
            has_body,
        }
    }
}

impl Gate {
    /// A gate in front of `forwarder` for the browsers of `pairing`.
    pub fn new(forwarder: Arc<Forwarder>, pairing: Arc<Pairing>, options: Options) -> Arc<Self> {
        let Options { trust, require, jars, peers, clock } = options;
        let bucket = || Mutex::new(Bucket::new(PAIRING_BURST, PAIRING_EVERY));
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            forwarder,
            pairing,
            trust,
            require,
            jars,
            peers,
            clock,
            sessions: Sessions::default(),
            clients: Clients::default(),
            starts: bucket(),
            finishes: bucket(),
            buffers: Arc::new(Semaphore::new(answer::kib(answer::BUDGET))),
            firsts: Rooms::default(),
        })
    }

    /// What it forwards with.
    pub fn forwarder(&self) -> &Arc<Forwarder> {
        &self.forwarder
    }

    /// The cookies of paired browsers.
    pub fn jars(&self) -> &Arc<Jars> {
        &self.jars
    }

    /// Ends sessions that are over and keeps cookies, for as long as the agent runs.
    pub async fn keep(&self) {
        let sweep = async {
            loop {
                tokio::time::sleep(Duration::from_secs(sessions::SWEEP)).await;
                self.sessions.sweep((self.clock)());
                self.clients.retain(|browser| self.pairing.browsers().get(browser).is_some());
                self.count_sessions();
            }
        };
        tokio::join!(sweep, self.jars.keep(self.pairing.browsers(), self.clock.clone()));
    }

    /// Ends every session, and so says it to whatever is under way.
    pub fn end_sessions(&self) {
        self.sessions.end_all();
        self.count_sessions();
    }

    /// The agent ends: no session goes on, and cookies are kept.
    pub fn close(&self) {
        self.end_sessions();
        self.jars.flush((self.clock)());
    }

    fn count_sessions(&self) {
        self.forwarder.stats().gate.sessions(self.sessions.count());
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Incoming>, connection: &Connection) -> Response<AnswerBody> {
        let active = Active::new(self.forwarder.stats(), &connection.load);
        let now = (self.clock)();
        let (mut parts, body) = request.into_parts();
        let mut body = Some(body);
        let waits = parts.headers.contains_key(http::header::EXPECT);
        let request_id = parts.headers.get(X_REQUEST_ID).cloned();
        if parts.uri.path() == relay_protocol::exchange::PATH {
            return self.over_relay(parts, body, connection, active).await;
        }
        let is_upgrade = websocket::is_upgrade(&parts);
        let by_query = if is_upgrade { take_query_signature(&mut parts) } else { Credentials::None };
        let is_websocket = !matches!(by_query, Credentials::None);
        let credentials = match (by_query, read_headers(&parts.headers)) {
            (Credentials::None, by_headers) => by_headers,
            (by_query, Credentials::None) => by_query,
            _ => Credentials::Unreadable(SignatureError::Malformed(
                "there is one in the query and in the headers",
            )),
        };
        // What a query carries is answered by records, or unsigned.
        let signer = if is_websocket { None } else { self.signer(&parts, now) };
        let decided = match plain_target(&parts) {
            Err(refusal) => Err(refusal),
            Ok(()) => match (path::owner(parts.uri.path()), &credentials) {
                (Owner::Disguised, _) => Err(Refusal::new(
                    Code::NotFound,
                    "Paths that can be read as the agent's own are not forwarded.",
                )),
                (Owner::Agent, credentials) => {
                    let answered = self.own(&Head::new(&parts), &mut body, credentials, now).await;
                    self.count_sessions();
                    match answered {
                        Ok(Own::Signed(answer)) => match &signer {
                            Some(signer) => signer.sign(answer),
                            None => self.host_id().map(|_| answer.map(AnswerBody::plain)),
                        },
                        Ok(Own::Open(answer)) => Ok(answer.map(AnswerBody::plain)),
                        Err(refusal) if own::is_open(&parts) => {
                            self.forwarder.stats().gate.refused(refusal.code());
                            drain(body.take().filter(|_| !waits)).await;
                            return answer::unsigned(refusal.response(request_id.as_ref()));
                        }
                        Err(refusal) => Err(refusal),
                    }
                }
                (Owner::Local, Credentials::Unreadable(error)) => Err(verify::refusal(*error, now)),
                (Owner::Local, Credentials::Signed(signed)) if is_websocket => {
                    self.websocket(parts, signed, connection, active, now).await
                }
                (Owner::Local, Credentials::Signed(signed)) => {
                    let asked = signed::Asked { signed, signer: signer.as_ref(), now };
                    self.signed(asked, parts, &mut body, connection, active).await
                }
                (Owner::Local, Credentials::None) => {
                    self.unsigned(parts, &mut body, connection, active).await
                }
            },
        };
        match decided {
            Ok(answer) => answer,
            Err(refusal) => {
                self.forwarder.stats().gate.refused(refusal.code());
                drain(body.take().filter(|_| !waits)).await;
                let refusal = refusal.response(request_id.as_ref());
                match &signer {
                    Some(signer) => signer.refuse(refusal),
                    None => answer::unsigned(refusal),
                }
            }
        }
    }

    async fn unsigned(
        &self,
        parts: Parts,
        body: &mut Option<Incoming>,
        connection: &Connection,
        active: Active,
    ) -> Result<Response<AnswerBody>, Refusal> {
        match self.trust {
            Trust::Relay => {
                let source = body.take().map_or(Source::Empty, Source::plain);
                let request = Request::from_parts(parts, source);
                let forwarded = self.forwarder.forward(request, Caller::Unknown, connection, active).await;
                forwarded.map(|response| response.map(AnswerBody::from))
            }
            Trust::Paired if page::is_navigation(&parts.method, &parts.headers) => {
                self.forwarder.stats().gate.refused(Code::SignatureMissing);
                drain(body.take()).await;
                Ok(answer::unsigned(page::page()))
            }
            Trust::Paired => Err(Refusal::new(
                Code::SignatureMissing,
                "This host takes only requests that a paired browser has signed. Open it from the relay's portal.",
            )),
        }
    }

    /// What signs the answers to a request whose headers carry a signature that can be read. It has not been
    /// verified: until it is, only refusals are signed.
    fn signer(&self, parts: &Parts, now: i64) -> Option<Signer> {
        let request = Parsed::from_headers(&parts.headers, LABEL).ok().flatten()?;
        let key = self.pairing.keys().signing.clone();
        let host_id = self.pairing.host().get()?;
        Some(Signer { key, host_id, method: parts.method.clone(), uri: parts.uri.clone(), request, now })
    }

    fn host_id(&self) -> Result<Uuid, Refusal> {
        self.pairing.host().get().ok_or_else(|| {
            Refusal::new(
                Code::Internal,
                "The relay has not told this host's id, without which nothing can be signed.",
            )
        })
    }
}

/// Refuses what is not sealed where everything has to be.
fn sealed_required() -> Refusal {
    Refusal::new(
        Code::SealedRequired,
        "This host takes sealed sessions only. Use a browser, or a program, that can open one.",
    )
}

/// Takes in what still comes of a refused request's body, within reason: a stream that ends while the relay still
/// writes is a lost connection to it, and the refusal would not arrive. Whoever waits for `100 Continue` has not
/// begun to send, and reading would ask for it.
async fn drain<B>(body: Option<B>)
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let Some(mut body) = body.filter(|body| !body.is_end_stream()) else { return };
    let drained = async {
        let mut left = DRAIN;
        while let Ok(Some(Ok(frame))) = tokio::time::timeout(DRAIN_IDLE, body.frame()).await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Whoever sends slower than this does not get to know.
    let _ = tokio::time::timeout(DRAIN_TIME, drained).await;
}

fn read_headers(headers: &HeaderMap) -> Credentials {
    match Signed::from_headers(headers) {
        Ok(Some(signed)) => Credentials::Signed(Box::new(signed)),
        Ok(None) => Credentials::None,
        Err(error) => Credentials::Unreadable(error),
    }
}

/// Takes the signature of an upgrade out of the query (PROTOCOL.md section 4.5).
fn take_query_signature(parts: &mut Parts) -> Credentials {
    let Some(query) = parts.uri.query() else { return Credentials::None };
    match split_query(query) {
        Ok((_, None)) => Credentials::None,
        Err(error) => Credentials::Unreadable(error),
        Ok((rest, Some(signed))) => {
            let path = parts.uri.path();
            let target = rest.map_or_else(|| path.to_owned(), |rest| format!("{path}?{rest}"));
            match target.parse::<uri::PathAndQuery>() {
                Ok(target) => {
                    parts.uri = Uri::from(target);
                    Credentials::Signed(Box::new(signed))
                }
                // A part of what was a target is one; nothing is believed if it should ever not be.
                Err(_) => {
                    Credentials::Unreadable(SignatureError::Malformed("the request target cannot be read"))
                }
            }
        }
    }
}

/// Only what a browser asks of a server: no proxy requests, no tunnels.
fn plain_target(parts: &Parts) -> Result<(), Refusal> {
    let target = parts.uri.path_and_query().map_or("/", uri::PathAndQuery::as_str);
    if parts.method == Method::CONNECT || parts.uri.authority().is_some() || !target.starts_with('/') {
        return Err(Refusal::new(Code::BadRequest, "Only requests with a plain path can be forwarded."));
    }
    Ok(())
}
