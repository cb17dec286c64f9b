//! One request through: authorise, choose a tunnel, send, answer.
//!
//! On the warm path this makes no query and opens no stream. What locks it takes are short: to find the
//! session and the tunnel, to take a connection and to give it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use relay_protocol::api::AccessRole;
use relay_protocol::headers::{Hop, restore_hop};
use relay_protocol::problem::Code;
use relay_protocol::tunnel::{Ended, OpenError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::body::{BodyError, Consent, RequestBody, ResponseBody};
use super::headers::{self, Response as ResponsePolicy};
use super::path::{self, Target};
use super::upgrade;
use crate::auth::access::{Exchange, Refused, Sessions, unix_now};
use crate::auth::bearer::Bearers;
use crate::config::{Config, Limits};
use crate::http::client_addr::ClientInfo;
use crate::http::cookie_place::{CookiePlace, is_active};
use crate::http::guards::Guards;
use crate::http::offline;
use crate::http::problem::Refusal;
use crate::http::request_id::RequestId;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::tunnel::pool::Connection;
use crate::tunnel::{Registry, Tunnel};

/// How long a body with `Expect: 100-continue` waits for the local server's word. The agent waits for one
/// second and is nearer; this is for agents that never say it.
const CONTINUE_FALLBACK: Duration = Duration::from_secs(3);
/// How often a wait looks whether its session still lives. Being told would take a lock per request.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// Warm connections that may turn out to be closed before a fresh one is opened.
const STALE_TRIES: usize = 3;

/// By what answers differ where the portal's cookie counts.
const BY_USE: HeaderValue = HeaderValue::from_static("Sec-Fetch-Dest, Sec-Fetch-Site");

/// What proxying needs.
pub struct Proxy {
    /// The browser sessions.
    pub sessions: Arc<Sessions>,
    /// The tunnels.
    pub registry: Arc<Registry>,
    /// For the offline page alone.
    pub store: Store,
    /// Knows the tokens that are for the relay.
    pub bearers: Arc<Bearers>,
    /// Counts what one address may do.
    pub guards: Arc<Guards>,
    /// Where the portal's cookie counts.
    pub place: CookiePlace,
    /// The relay's configuration.
    pub config: Arc<Config>,
    /// Waits for upgraded connections too.
    pub shutdown: Shutdown,
}

/// What the way there needs to know of a request whose head was taken apart.
struct Outgoing {
    request: Request<Body>,
    moved: Arc<AtomicBool>,
    consent: Option<watch::Sender<Consent>>,
}

impl Proxy {
    /// Answers one request under [`path::PREFIX`].
    ///
    /// # Errors
    /// Every refusal, as the problem to tell.
    pub async fn handle(
        &self,
        mut request: Request<Incoming>,
        client: &ClientInfo,
        id: &RequestId,
    ) -> Result<Response<Body>, Refusal> {
        let uri = request.uri().clone();
        let target = uri.path_and_query().and_then(|p| path::split(p.as_str())).ok_or_else(unknown_path)?;
        let exchange = self.sessions.begin(target.session, || self.guards.look_up(client.addr)).await?;
        if exchange.session().host != target.host {
            return Err(Refusal::new(
                Code::HostAccessDenied,
                "This session belongs to another host; create one for this host.",
            ));
        }
        let guarded = self.check_cookie_place(request.headers(), client)?;
        self.check_shared_origin(request.headers(), &exchange)?;
        if target.lacks_slash() && offline::is_navigation(request.method(), request.headers()) {
            return redirect_to_slash(target);
        }
        // An answer to a signed request is signed too, as the local server gave it.
        let varies = guarded && !request.headers().contains_key("signature");
        let Some(tunnel) = self.registry.find(target.host) else {
            return self.offline(&request, target).await;
        };
        let on_browser = request.extensions_mut().remove::<OnUpgrade>();
        let local = target.local().ok_or_else(unknown_path)?;
        let (outgoing, hop) = self.outgoing(request, target, local, client, id);
        let upgrade_guard = match &hop.upgrade {
            Some(_) => {
                self.guards.try_upgrade(client.addr)?;
                Some((self.guards.open(client.addr)?, self.shutdown.hold()))
            }
            None => None,
        };
        let Outgoing { request, moved, consent } = outgoing;
        let (mut response, connection) = self.send(tunnel, request, &moved, &exchange).await?;

        let policy = ResponsePolicy {
            prefix: target.prefix,
            public_prefix: target.public_prefix(),
            scheme: client.scheme.as_str(),
            host: client.host.as_ref().map(|h| h.as_str()).unwrap_or_default(),
        };
        let back = headers::response(response.headers_mut(), policy);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(guard), Some(on_browser)) = (upgrade_guard, on_browser) else {
                return Err(Refusal::new(
                    Code::LocalServerFailed,
                    "The local server switched protocols unasked.",
                ));
            };
            restore_hop(response.headers_mut(), &back);
            let on_agent = hyper::upgrade::on(&mut response);
            let idle = self.limits().stream_idle_timeout;
            upgrade::join(on_browser, (on_agent, connection), exchange, guard, idle, id.as_str().into());
            return Ok(response.map(|_| Body::empty()));
        }
        if varies {
            // What was fetched for one use does not come out of a cache for another.
            response.headers_mut().append(header::VARY, BY_USE);
        }
        let idle = self.limits().stream_idle_timeout;
        Ok(response.map(|body| Body::new(ResponseBody::new(body, connection, exchange, idle, consent))))
    }

    fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Whether the portal's cookie counts where the request came to, which no answer of a host may use.
    ///
    /// # Errors
    /// `shared_origin_refused` for whatever could.
    fn check_cookie_place(&self, headers: &HeaderMap, client: &ClientInfo) -> Result<bool, Refusal> {
        let portals_own = self.place.is_portals_own(client);
        let guarded = portals_own || self.place.counts(&self.store, client);
        if !guarded || !self.place.endangers(headers, client) {
            return Ok(guarded);
        }
        let detail = if portals_own {
            "This address is the portal's own, and no host's pages open on it. Use the relay's other address."
        } else {
            "A host's page would act here for whoever is signed in. To open pages of hosts, give the portal an origin of \
             its own with RELAY_PORTAL_ORIGIN, or turn it off with RELAY_PORTAL=0."
        };
        Err(Refusal::new(Code::SharedOriginRefused, detail))
    }

    /// Pages of somebody else's host would run beside the caller's own on this origin.
    fn check_shared_origin(&self, headers: &HeaderMap, exchange: &Exchange) -> Result<(), Refusal> {
        if exchange.session().role == AccessRole::Owner || self.config.shared_host_pages {
            return Ok(());
        }
        if !is_active(headers) {
            return Ok(());
        }
        Err(Refusal::new(
            Code::SharedOriginRefused,
            "This host is another person's: its pages would run with the rights of your own on this address. \
             The operator can allow it with RELAY_SHARED_HOST_PAGES=1.",
        ))
    }

    async fn offline(
        &self,
        request: &Request<Incoming>,
        target: Target<'_>,
    ) -> Result<Response<Body>, Refusal> {
        if !offline::is_navigation(request.method(), request.headers()) {
            return Err(Refusal::new(
                Code::HostOffline,
                "No agent is connected for this host. Start local-agent-client there, then try again.",
            ));
        }
        // The page is worth showing without a name too.
        let host = self.store.host(target.host).await.ok().flatten();
        let name = host.as_ref().map(|h| h.name.as_str()).unwrap_or("This host");
        Ok(offline::page(name, host.as_ref().and_then(|h| h.last_seen_at), unix_now()))
    }

    /// The request as it goes into the tunnel.
    fn outgoing(
        &self,
        request: Request<Incoming>,
        target: Target<'_>,
        local: PathAndQuery,
        client: &ClientInfo,
        id: &RequestId,
    ) -> (Outgoing, Hop) {
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        let host = client.host.as_ref().and_then(|h| HeaderValue::from_str(h.as_str()).ok());
        let about = headers::Request {
            forwarded_for: client.forwarded_for.clone(),
            scheme: client.scheme.as_str(),
            host: host.clone(),
            target,
            request_id: id.header().clone(),
        };
        let hop = headers::request(
            &mut headers,
            about,
            |token| self.bearers.is_ours(token),
            |name| self.config.private_cookies.iter().any(|c| c.matches(name)),
        );
        // The agent puts the local server's in its place; HTTP/1.1 wants one on the way.
        headers.insert(header::HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
        restore_hop(&mut headers, &hop);

        let expects =
            headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let has_body = !http_body::Body::is_end_stream(&body);
        if has_body && !headers.contains_key(header::CONTENT_LENGTH) {
            // Without it hyper drops the body of a method that seldom has one.
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let moved = Arc::new(AtomicBool::new(false));
        let (consent, word) = if expects && has_body {
            let (sender, receiver) = watch::channel(Consent::Waiting);
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        let body =
            if has_body { Body::new(RequestBody::new(body, moved.clone(), word)) } else { Body::empty() };
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = Uri::from(local);
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers;
        if let Some(consent) = &consent {
            allow_on_continue(&mut request, consent.clone());
        }
        (Outgoing { request, moved, consent }, hop)
    }

    /// Sends over a warm connection, else over a fresh one.
    async fn send(
        &self,
        tunnel: Arc<Tunnel>,
        mut request: Request<Body>,
        moved: &AtomicBool,
        exchange: &Exchange,
    ) -> Result<(Response<Incoming>, Connection), Refusal> {
        for attempt in 0.. {
            let reused = if attempt < STALE_TRIES { tunnel.pool.reuse() } else { None };
            let was_warm = reused.is_some();
            let mut connection = match reused {
                Some(connection) => connection,
                None => self.open(&tunnel).await?,
            };
            match self.exchange(&tunnel, &mut connection, request, moved, exchange).await? {
                Ok(response) => return Ok((response, connection)),
                // Closed under our hands, and nothing of the request was sent.
                Err(unsent) if was_warm => request = unsent,
                Err(_) => break,
            }
        }
        Err(lost(&tunnel))
    }

    async fn open(&self, tunnel: &Tunnel) -> Result<Connection, Refusal> {
        match tokio::time::timeout(self.limits().stream_open_timeout, tunnel.pool.open()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(OpenError::TooMany)) => Err(too_many_streams()),
            Ok(Err(OpenError::Ended)) => Err(lost(tunnel)),
            Err(_) => Err(unresponsive()),
        }
    }

    /// One try on one connection. `Ok(Err(request))` gives back a request of which nothing was sent.
    async fn exchange(
        &self,
        tunnel: &Tunnel,
        connection: &mut Connection,
        request: Request<Body>,
        moved: &AtomicBool,
        exchange: &Exchange,
    ) -> Result<Result<Response<Incoming>, Request<Body>>, Refusal> {
        let limits = self.limits();
        let now = Instant::now();
        let mut opening = connection.opening.take();
        let mut refused = false;
        let sending = connection.sender().try_send_request(request);
        let tick = sleep_until((now + TICK).min(now + limits.response_head_timeout));
        let mut head_deadline = now + limits.response_head_timeout;
        tokio::pin!(sending, tick);
        loop {
            tokio::select! {
                biased;
                result = &mut sending => return match result {
                    Ok(response) => Ok(Ok(response)),
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => Ok(Err(unsent)),
                        // The agent never took the stream, so nothing can have had an effect.
                        None if (refused || is_refused(&mut opening)) && tunnel.handle.ended().is_none() => {
                            Err(too_many_streams())
                        }
                        None => Err(broke_off(tunnel, &error.into_error())),
                    },
                },
                opened = wait_open(&mut opening, now + limits.stream_open_timeout) => match opened {
                    Ok(()) => opening = None,
                    Err(Opened::TimedOut) => return Err(unresponsive()),
                    // An answer may be there all the same: the sending tells, and ends at once if not.
                    Err(Opened::Refused) => (opening, refused) = (None, true),
                },
                () = &mut tick => {
                    if exchange.session().ended.is_cancelled() {
                        return Err(Refused::Ended.into());
                    }
                    let now = Instant::now();
                    // An upload that moves is no silence.
                    if moved.swap(false, Relaxed) {
                        head_deadline = now + limits.response_head_timeout;
                    }
                    if now >= head_deadline {
                        let seconds = limits.response_head_timeout.as_secs();
                        return Err(Refusal::new(
                            Code::ResponseTimeout,
                            format!("The local server has not begun to answer for {seconds} s."),
                        ));
                    }
                    tick.as_mut().reset((now + TICK).min(head_deadline));
                }
            }
        }
    }
}

enum Opened {
    TimedOut,
    Refused,
}

async fn wait_open(
    opening: &mut Option<crate::tunnel::pool::Opening>,
    deadline: Instant,
) -> Result<(), Opened> {
    match opening {
        None => std::future::pending().await,
        Some(opening) => match tokio::time::timeout_at(deadline, opening).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Opened::Refused),
            Err(_) => Err(Opened::TimedOut),
        },
    }
}

/// Whether the wait has ended with a refusal by now.
fn is_refused(opening: &mut Option<crate::tunnel::pool::Opening>) -> bool {
    opening.as_mut().is_some_and(|opening| matches!(opening.now_or_never(), Some(Err(_))))
}

/// Lets the body go once the local server says `100`, or after a while.
fn allow_on_continue(request: &mut Request<Body>, consent: watch::Sender<Consent>) {
    let give = |consent: &watch::Sender<Consent>| {
        consent.send_if_modified(|said| {
            let waiting = *said == Consent::Waiting;
            if waiting {
                *said = Consent::Given;
            }
            waiting
        });
    };
    let later = consent.clone();
    tokio::spawn(async move {
        let over = later.subscribe();
        if tokio::time::timeout(CONTINUE_FALLBACK, decided(over)).await.is_err() {
            give(&later);
        }
    });
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            give(&consent);
        }
    });
}

async fn decided(mut consent: watch::Receiver<Consent>) {
    let _ = consent.wait_for(|said| *said != Consent::Waiting).await;
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Ended => Refusal::new(
                Code::SessionExpired,
                "This browser session is unknown, expired or revoked. Create a new one for the host.",
            ),
            Refused::Unavailable(why) => {
                tracing::warn!(error = %why, "a browser session could not be looked up");
                Refusal::new(
                    Code::StoreUnavailable,
                    "The relay cannot reach its database; try again in a moment.",
                )
            }
        }
    }
}

/// The answer to every unknown path.
pub fn unknown_path() -> Refusal {
    Refusal::new(Code::NotFound, "There is nothing at this address.")
}

/// Without the slash every relative link on the page would leave the session.
fn redirect_to_slash(target: Target<'_>) -> Result<Response<Body>, Refusal> {
    let location = format!("{}/{}", target.prefix, target.rest);
    let location = HeaderValue::from_str(&location).map_err(|_| unknown_path())?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn too_many_streams() -> Refusal {
    Refusal::new(
        Code::TooManyStreams,
        "Every stream that this host may have is in use; try again in a moment.",
    )
}

fn unresponsive() -> Refusal {
    Refusal::new(
        Code::AgentUnresponsive,
        "The agent is connected and does not take requests. It may be suspended or overloaded; restart it if it stays so.",
    )
}

fn lost(tunnel: &Tunnel) -> Refusal {
    match tunnel.handle.ended() {
        Some(Ended::Silent) => unresponsive(),
        _ => Refusal::new(
            Code::TunnelLost,
            "The connection to the host was lost. The agent reconnects by itself; try again.",
        ),
    }
}

fn broke_off(tunnel: &Tunnel, error: &hyper::Error) -> Refusal {
    if tunnel.handle.ended().is_some() {
        return lost(tunnel);
    }
    tracing::debug!(%error, "an exchange broke off");
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    if causes
        .filter_map(|cause| cause.downcast_ref::<BodyError>())
        .any(|cause| matches!(cause, BodyError::Broken(_)))
    {
        return Refusal::new(
            Code::BadRequest,
            "The request's body broke off or is not framed as HTTP/1.1 asks.",
        );
    }
    Refusal::new(
        Code::TunnelLost,
        "The agent broke off before it had answered; what was sent may have had an effect.",
    )
}
