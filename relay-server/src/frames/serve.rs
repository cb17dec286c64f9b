//! `GET /ws`: from an upgrade to a socket that takes part.
//!
//! In this order, the cheapest first: is it an upgrade, does the query say who wants what, is there a token, has its
//! address attempts left; only then keys and platform are asked. The upgrades that an address shares with its
//! tunnels, and what it or everybody may have open, are taken when the token is known to be good, so that strangers
//! do not use them up, nor see how full the relay is. Refusals up to here are problems over HTTP; who has a good token and may not do what they ask
//! is let in to be told why, and closed with 4008.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::response::IntoResponse as _;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use relay_protocol::problem::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::admission::{self, Asked, Fault};
use super::claims::{self, Violation};
use super::metrics_ws::{Outcome, Reason, Sockets};
use super::validate::{Denied, Validate};
use super::{Admitted, Broker, Close, Role, socket, status};
use crate::backplane::Pair;
use crate::clock::unix_now;
use crate::config::frames::{Frames, Platform};
use crate::http::client_addr::RateKey;
use crate::http::guards::Guards;
use crate::http::handshake;
use crate::http::problem::Refusal;
use crate::limits::AddrGuard;
use crate::outbound::Client;
use crate::shutdown::{Hold, Shutdown};

/// The path.
pub const PATH: &str = "/ws";

/// The broker's door.
pub struct Serve {
    broker: Arc<Broker>,
    frames: Frames,
    validate: Validate,
    guards: Arc<Guards>,
    open: Arc<Semaphore>,
    metrics: Sockets,
    tasks: TaskTracker,
    shutdown: Shutdown,
}

/// What an open socket holds of the limits.
struct Held {
    _address: AddrGuard,
    _total: OwnedSemaphorePermit,
    _drain: Hold,
}

/// What becomes of somebody with a good token.
enum Verdict {
    Admitted(Box<Admitted>),
    Violation(Violation, Asked),
}

impl Serve {
    /// With what it shares with the tunnels (`guards`, `tasks`), and the client for keys and platform.
    pub fn new(
        broker: Arc<Broker>,
        frames: &Frames,
        platform: &Platform,
        client: Client,
        guards: Arc<Guards>,
        tasks: TaskTracker,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        Arc::new(Self {
            broker,
            validate: Validate::new(frames, platform, client),
            guards,
            open: Arc::new(Semaphore::new(frames.max_total_connections)),
            metrics: Sockets::default(),
            frames: frames.clone(),
            tasks,
            shutdown,
        })
    }

    /// Answers a request for [`PATH`]. `addr` is whose it is.
    pub async fn handle(self: &Arc<Self>, request: Request<Incoming>, addr: IpAddr) -> Response<Body> {
        if request.method() != Method::GET {
            let mut response =
                Refusal::new(Code::MethodNotAllowed, "This address takes GET, to upgrade to a WebSocket.")
                    .into_response();
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        match self.admit(request, addr).await {
            Ok(response) => response,
            Err((outcome, refusal)) => {
                self.metrics.asked(outcome);
                refusal.into_response()
            }
        }
    }

    async fn admit(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        addr: IpAddr,
    ) -> Result<Response<Body>, (Outcome, Refusal)> {
        let not_upgrade = |refusal| (Outcome::NoUpgrade, refusal);
        let key = handshake::accept_key(request.method(), request.headers()).map_err(not_upgrade)?;
        let query = request.uri().query().unwrap_or_default();
        let asked = admission::asked(query).map_err(of_fault)?;
        let token = admission::token(request.headers(), query, self.frames.dev).map_err(of_fault)?;
        let too_often = |refusal| (Outcome::RateLimited, refusal);
        self.guards.ws_attempt(addr).map_err(too_often)?;
        let claims = self.validate.claims(&token, &asked, &self.metrics).await;
        let claims = claims.map_err(|denied| self.of_denied(&denied, addr))?;
        self.guards.try_upgrade(addr).map_err(too_often)?;
        let verdict = match claims::admit(&asked, &claims, RateKey::of(addr), unix_now()) {
            Ok(admitted) => Verdict::Admitted(Box::new(admitted)),
            Err(violation) => Verdict::Violation(violation, asked),
        };
        let held = Held {
            _address: self.guards.open(addr).map_err(|refusal| (Outcome::TooMany, refusal))?,
            _total: self.open.clone().try_acquire_owned().map_err(|_| (Outcome::TooMany, full()))?,
            _drain: self.shutdown.hold(),
        };
        let no_upgrade = || not_upgrade(handshake::no_upgrade());
        let on_upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or_else(no_upgrade)?;
        let protocol = admission::selected(request.headers());
        self.metrics.asked(match verdict {
            Verdict::Admitted(_) => Outcome::Accepted,
            Verdict::Violation(..) => Outcome::Violation,
        });
        self.tasks.spawn(self.clone().serve(on_upgrade, verdict, held));
        Ok(handshake::switching(key, protocol))
    }

    /// One socket's life.
    async fn serve(self: Arc<Self>, on_upgrade: OnUpgrade, verdict: Verdict, held: Held) {
        let _held = held;
        // The drain and the peer end this too: hyper drops what it was to hand over.
        let Ok(upgraded) = on_upgrade.await else { return };
        let io = TokioIo::new(upgraded);
        match verdict {
            Verdict::Admitted(who) => {
                let opened = Opened::new(&self, who.role);
                tracing::debug!(role = ?who.role, workspace = %who.pair.workspace, "a socket of /ws is open");
                let running = socket::run(io, *who, self.broker.clone(), &self.frames, &self.shutdown);
                // Nobody can hold the relay's end up: after the last stage it is cut.
                tokio::select! {
                    biased;
                    reason = running => opened.ended(reason),
                    () = self.shutdown.ended() => opened.ended(Reason::Drain),
                }
            }
            Verdict::Violation(violation, asked) => {
                let (said, close) = turned_away(violation, asked);
                tokio::select! {
                    () = socket::turn_away(io, said, close) => {}
                    () = self.shutdown.ended() => {}
                }
            }
        }
    }

    fn of_denied(&self, denied: &Denied, addr: IpAddr) -> (Outcome, Refusal) {
        tracing::debug!(%denied, "a token opens nothing");
        let refusal = Refusal::new(Code::Unauthorized, "The token is not good for this relay.");
        if !denied.is_bad_token() {
            return (Outcome::Unavailable, refusal);
        }
        match self.guards.bad_token(addr) {
            Ok(()) => (Outcome::BadToken, refusal),
            Err(refusal) => (Outcome::RateLimited, refusal),
        }
    }
}

/// Counts a socket for as long as it is open, also when its task is dropped.
struct Opened<'a> {
    serve: &'a Serve,
    role: Role,
    reason: Reason,
}

impl<'a> Opened<'a> {
    fn new(serve: &'a Serve, role: Role) -> Self {
        serve.metrics.opened(role);
        Self { serve, role, reason: Reason::Lost }
    }

    fn ended(mut self, reason: Reason) {
        self.reason = reason;
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.serve.metrics.closed(self.role, self.reason);
    }
}

fn turned_away(
    violation: Violation,
    asked: Asked,
) -> (Option<tokio_tungstenite::tungstenite::Utf8Bytes>, Close) {
    match violation {
        Violation::Claim(reason) => (None, Close::policy(reason)),
        Violation::TargetRequired => {
            let pair = Pair { workspace: asked.workspace, target: asked.target };
            let said = status::frame(status::Code::RuntimeTargetRequired, &pair, None);
            (Some(said), Close::policy("a runtime target is required"))
        }
    }
}

fn of_fault(fault: Fault) -> (Outcome, Refusal) {
    match fault {
        Fault::Query(detail) => (Outcome::BadRequest, Refusal::new(Code::BadRequest, detail)),
        Fault::Token(detail) => (Outcome::NoToken, Refusal::new(Code::Unauthorized, detail)),
    }
}

fn full() -> Refusal {
    Refusal::new(Code::TooManyConnections, "The relay has as many sockets open as it may. Try again later.")
}
