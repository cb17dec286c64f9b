//! One request through: authorise, choose a tunnel or the relay that has one, send, answer.
//!
//! On the warm path this makes no query and opens no stream. What locks it takes are short: to find the
//! session and the tunnel, to take a connection and to give it back.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::body::Body;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use relay_protocol::api::AccessRole;
use relay_protocol::headers::{Hop, restore_hop};
use relay_protocol::problem::Code;
use tokio::sync::watch;
use tokio::time::Instant;

use super::body::{Consent, RequestBody, ResponseBody};
use super::headers::{self, Response as ResponsePolicy};
use super::local;
use super::metrics::{Metrics, reads};
use super::path::{self, Target};
use super::send::{Sending, allow_on_continue, expects_continue, frame_body};
use super::upgrade;
use crate::auth::access::{Exchange, Refused, Sessions};
use crate::auth::bearer::Bearers;
use crate::clock::unix_now;
use crate::config::{Config, Limits};
use crate::forward::on_the_way::Passing;
use crate::forward::pass::{Call, Prepared};
use crate::forward::{Forwarder, Word};
use crate::http::client_addr::ClientInfo;
use crate::http::cookie_place::{CookiePlace, is_active};
use crate::http::front::Context;
use crate::http::guards::Guards;
use crate::http::offline;
use crate::http::problem::{self, Refusal};
use crate::http::request_id::RequestId;
use crate::limits::AddrGuard;
use crate::pool::Connection;
use crate::shutdown::{Hold, Shutdown};
use crate::store::Store;
use crate::tunnel::Registry;

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
    /// Passes requests on to other relays, where there are any.
    pub forwarder: Option<Arc<Forwarder>>,
    /// The relay's configuration.
    pub config: Arc<Config>,
    /// Waits for upgraded connections too.
    pub shutdown: Shutdown,
    /// What is counted.
    pub metrics: Metrics,
}

/// What came back, with all that its way to the browser needs.
struct Answered {
    response: Response<Incoming>,
    connection: Connection,
    exchange: Exchange,
    consent: Option<watch::Sender<Consent>>,
    upgrade: Option<Upgrade>,
    /// Its place among what is on its way to other relays.
    passing: Option<Passing>,
}

/// The browser's end of an upgrade, and what is held until it ends.
struct Upgrade {
    browser: OnUpgrade,
    guard: Box<dyn Send>,
}

/// What came of a request for a host that has no tunnel here.
enum Elsewhere {
    Answered(Box<Answered>),
    Done(Response<Body>),
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
        request: Request<Incoming>,
        context: &Context,
    ) -> Result<Response<Body>, Refusal> {
        let (reads, began) = (reads(request.method()), Instant::now());
        let answer = self.answer(request, context).await;
        match &answer {
            Ok(response) => self.metrics.answered(reads, response.status(), began.elapsed()),
            Err(refusal) => self.metrics.refused.count(refusal.0.code),
        }
        answer
    }

    async fn answer(&self, request: Request<Incoming>, context: &Context) -> Result<Response<Body>, Refusal> {
        let (client, id) = (&context.client, &context.request_id);
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
        let mut answer = match self.registry.find(target.host) {
            Some(tunnel) => {
                let way = local::Into { tunnel: &tunnel, open_timeout: self.limits().stream_open_timeout };
                self.here(request, target, &way, context, exchange).await?
            }
            None if context.forwarded => return Ok(moved()),
            None => match self.elsewhere(request, target, context, exchange).await? {
                Elsewhere::Answered(answer) => *answer,
                Elsewhere::Done(response) => return Ok(response),
            },
        };
        if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.upgraded(answer, id);
        }
        if varies && !answer.response.headers().get_all(header::VARY).iter().any(|by| by == BY_USE) {
            // What was fetched for one use does not come out of a cache for another.
            answer.response.headers_mut().append(header::VARY, BY_USE);
        }
        let idle = self.limits().stream_idle_timeout;
        let Answered { response, connection, exchange, consent, passing, .. } = answer;
        let down = self.metrics.down.clone();
        Ok(response.map(|body| {
            Body::new(ResponseBody::new(body, connection, exchange, idle, consent, down, passing))
        }))
    }

    /// Into a tunnel of this relay.
    async fn here(
        &self,
        mut request: Request<Incoming>,
        target: Target<'_>,
        way: &local::Into<'_>,
        context: &Context,
        exchange: Exchange,
    ) -> Result<Answered, Refusal> {
        let client = &context.client;
        let browser = request.extensions_mut().remove::<OnUpgrade>();
        let local = target.local().ok_or_else(unknown_path)?;
        let (outgoing, hop) = self.outgoing(request, target, local, client, &context.request_id);
        let guard = if hop.upgrade.is_some() { Some(self.admit_upgrade(client)?) } else { None };
        let Outgoing { request, moved, consent } = outgoing;
        let sending = Sending {
            exchange: &exchange,
            moved: &moved,
            open_timeout: self.limits().stream_open_timeout,
            head_timeout: self.limits().response_head_timeout,
        };
        let (mut response, connection) = sending.send(way, request).await?;
        let policy = ResponsePolicy {
            prefix: target.prefix,
            public_prefix: target.public_prefix(),
            scheme: client.scheme.as_str(),
            host: client.host.as_ref().map(|h| h.as_str()).unwrap_or_default(),
        };
        let back = headers::response(response.headers_mut(), policy);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            restore_hop(response.headers_mut(), &back);
        }
        let upgrade = browser.zip(guard).map(|(browser, guard)| Upgrade { browser, guard: Box::new(guard) });
        Ok(Answered { response, connection, exchange, consent, upgrade, passing: None })
    }

    /// To the relay that has a tunnel of the host, if there is one.
    async fn elsewhere(
        &self,
        mut request: Request<Incoming>,
        target: Target<'_>,
        context: &Context,
        exchange: Exchange,
    ) -> Result<Elsewhere, Refusal> {
        let navigates = offline::is_navigation(request.method(), request.headers());
        let Some(forwarder) = &self.forwarder else {
            return self.offline(navigates, target).await.map(Elsewhere::Done);
        };
        let holders = forwarder.holders(target.host, false).await?;
        if holders.is_empty() {
            return self.offline(navigates, target).await.map(Elsewhere::Done);
        }
        if let Some(response) = forwarder.redirect(&holders, request.headers(), request.uri()) {
            return Ok(Elsewhere::Done(response));
        }
        let passing = forwarder.enter(target.host, target.session)?;
        let browser = request.extensions_mut().remove::<OnUpgrade>();
        let prepared = Prepared::new(request, self.metrics.up.clone()).ok_or_else(unknown_path)?;
        let guard = if prepared.upgrades() { Some(self.admit_upgrade(&context.client)?) } else { None };
        let (client, id) = (&context.client, &context.request_id);
        let call = Call { host: target.host, client, id, exchange: &exchange };
        let Some(answer) = forwarder.send(&prepared, &holders, &call).await? else {
            return self.offline(navigates, target).await.map(Elsewhere::Done);
        };
        let upgrade = browser
            .zip(guard)
            .filter(|_| answer.response.status() == StatusCode::SWITCHING_PROTOCOLS)
            .map(|(browser, guard)| Upgrade { browser, guard: Box::new((guard, forwarder.upgraded())) });
        Ok(Elsewhere::Answered(Box::new(Answered {
            response: answer.response,
            connection: answer.connection,
            exchange,
            consent: answer.consent,
            upgrade,
            passing: Some(passing),
        })))
    }

    fn admit_upgrade(&self, client: &ClientInfo) -> Result<(AddrGuard, Hold), Refusal> {
        self.guards.try_upgrade(client.addr)?;
        Ok((self.guards.open(client.addr)?, self.shutdown.hold()))
    }

    /// From here on the relay carries bytes.
    fn upgraded(&self, answer: Answered, id: &RequestId) -> Result<Response<Body>, Refusal> {
        let Answered { mut response, connection, exchange, upgrade, passing, .. } = answer;
        let Some(Upgrade { browser, guard }) = upgrade else {
            return Err(Refusal::new(
                Code::LocalServerFailed,
                "The local server switched protocols unasked.",
            ));
        };
        let far = hyper::upgrade::on(&mut response);
        let idle = self.limits().stream_idle_timeout;
        let guard = (guard, passing, self.metrics.upgrade());
        upgrade::join(browser, (far, connection), exchange, guard, idle, id.as_str().into());
        Ok(response.map(|_| Body::empty()))
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

    async fn offline(&self, navigates: bool, target: Target<'_>) -> Result<Response<Body>, Refusal> {
        if !navigates {
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

        let has_body = !http_body::Body::is_end_stream(&body);
        if has_body {
            frame_body(&mut headers);
        }
        let moved = Arc::new(AtomicBool::new(false));
        let (consent, word) = if has_body && expects_continue(&headers) {
            let (sender, receiver) = watch::channel(Consent::Waiting);
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        let body = if has_body {
            Body::new(RequestBody::new(body, moved.clone(), word, self.metrics.up.clone()))
        } else {
            Body::empty()
        };
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

/// To another relay that passed a request on: the tunnel is not here. It tells the browser itself.
fn moved() -> Response<Body> {
    let mut response =
        problem::refuse(Code::HostOffline, "No agent is connected to this relay for this host.");
    response.extensions_mut().insert(Word::Moved);
    response
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
