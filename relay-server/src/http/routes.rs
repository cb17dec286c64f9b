//! The relay's own API (PROTOCOL.md section 1), except for tunnels and the proxied path.
//!
//! Whoever calls has a Bearer token, or the portal's cookie on a request of its own, or gets nothing. Nothing is changed before the token was
//! verified and its session found alive; what the store cannot answer is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Json};
use axum::routing::{delete, get, patch, post};
use http::header::HeaderValue;
use http::request::Parts;
use http::{Request, Response, StatusCode, header};
use relay_protocol::api::{CreatedSession, Health, Host, HostStatus, Hosts, PatchHost, Session, Sessions};
use relay_protocol::problem::Code;
use tower::ServiceExt;
use uuid::Uuid;

use super::api_body::{BodyLimits, json};
use super::caller::Caller;
use super::cookie_place::CookiePlace;
use super::cors::Policy;
use super::front::{Context, HEALTH_PATH};
use super::ice::{self, Ice};
use super::portal::Portal;
use super::problem::{Refusal, refuse, respond};
use super::sign_in::{self, SignIn};
use crate::auth::access::expires_at;
use crate::auth::bearer::Bearers;
use crate::auth::token::Secret;
use crate::clock::{millis, unix_now};
use crate::config::Config;
use crate::limits::Rate;
use crate::limits::metrics::refused;
use crate::proxy::path;
use crate::shutdown::Shutdown;
use crate::store::{Store, StoreError};

/// A host's name has at most so many characters.
const MAX_NAME_CHARS: usize = 200;

/// What is open at this relay right now, which has to hear of what is revoked here.
pub trait Live: Send + Sync + 'static {
    /// The browser session was revoked: its requests and upgraded connections end.
    fn session_revoked(&self, session: Uuid);
    /// The host is gone: its tunnels end.
    fn host_deleted(&self, host: Uuid);
    /// The auth session has ended: its tunnels and browser sessions end.
    fn sign_in_ended(&self, auth_session: Uuid);
    /// Whether the host has a tunnel at this relay.
    fn online(&self, host: Uuid) -> bool;
}

/// What the store's errors are to a caller. Their texts are for the log.
pub fn of_store(error: StoreError) -> Refusal {
    match &error {
        StoreError::Unavailable(_) | StoreError::NotReady(_) => {
            tracing::warn!(%error, "the store does not answer");
            Refusal::new(
                Code::StoreUnavailable,
                "The relay's database does not answer. Try again in a few seconds.",
            )
        }
        StoreError::Conflict(_) | StoreError::Corrupt(_) => {
            tracing::error!(%error, "the store failed");
            Refusal::new(Code::Internal, "The relay could not do this. Its log says why.")
        }
    }
}

pub(super) fn not_found() -> Refusal {
    Refusal::new(Code::NotFound, "There is nothing at this address.")
}

/// What the handlers need.
pub struct Api {
    pub(super) store: Store,
    pub(super) bearers: Arc<Bearers>,
    pub(super) live: Arc<dyn Live>,
    pub(super) policy: Policy,
    pub(super) sign_in: SignIn,
    pub(super) place: CookiePlace,
    pub(super) ice: Ice,
    webrtc: bool,
    portal: Option<Portal>,
    shutdown: Shutdown,
    started: Instant,
    session_lifetime: Duration,
    body: BodyLimits,
    rate: Rate,
    rate_refused: ::metrics::Counter,
    relay: (Arc<str>, &'static str),
}

impl Api {
    /// With the parts that others own.
    pub fn new(
        config: &Config,
        store: Store,
        secret: Secret,
        bearers: Arc<Bearers>,
        live: Arc<dyn Live>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            store,
            live,
            policy: Policy::new(config),
            sign_in: SignIn::new(config, secret, bearers.provider().cloned()),
            place: CookiePlace::new(config),
            ice: Ice::new(config),
            bearers,
            webrtc: config.webrtc,
            portal: config.portal.then(Portal::built).flatten(),
            shutdown,
            started: Instant::now(),
            session_lifetime: config.session_lifetime,
            body: BodyLimits {
                bytes: config.limits.max_api_body_bytes,
                within: config.limits.header_timeout,
            },
            rate: Rate::per_minute(config.limits.api_rate_per_minute),
            rate_refused: refused("api_rate"),
            relay: (Arc::from(""), config.relays.mode.as_str()),
        }
    }

    /// Under this relay id.
    pub fn named(mut self, relay_id: &str) -> Self {
        self.relay.0 = relay_id.into();
        self
    }

    fn expires_at(&self, created_at: i64) -> i64 {
        expires_at(created_at, self.session_lifetime)
    }
}

/// The API as one service.
#[derive(Clone)]
pub struct Routes {
    api: Arc<Api>,
    router: Router,
}

impl Routes {
    /// Lays out the paths.
    pub fn new(api: Api) -> Self {
        let api = Arc::new(api);
        // Off is as if it had never been there.
        let direct =
            if api.webrtc { Router::new().route(ice::PATH, get(ice::ice_servers)) } else { Router::new() };
        let router = Router::new()
            .route(HEALTH_PATH, get(health))
            .route("/v1/relay/create/{host_id}", post(create))
            .route("/v1/relay/hosts", get(hosts))
            .route("/v1/relay/hosts/{host_id}", patch(rename_host).delete(delete_host))
            .route("/v1/relay/sessions", get(sessions))
            .route("/v1/relay/sessions/{session_id}", delete(revoke_session))
            .merge(direct)
            .merge(sign_in::routes())
            .fallback(async || not_found())
            .method_not_allowed_fallback(async || {
                Refusal::new(
                    Code::MethodNotAllowed,
                    "This address does not take this method; `Allow` names those it takes.",
                )
            })
            .with_state(Arc::clone(&api));
        Self { api, router }
    }

    /// Answers one request.
    pub async fn call(&self, mut request: Request<Body>, context: Context) -> Response<Body> {
        // Probes come from one address and as often as they like; they cost nothing.
        if request.uri().path() != HEALTH_PATH && !self.api.rate.check(context.rate_key()) {
            self.api.rate_refused.increment(1);
            return refuse(Code::RateLimited, "Too many calls from this address. Wait a little.");
        }
        if let Some(portal) = self.api.portal.as_ref().filter(|_| self.api.takes_cookies(&context))
            && let Some(response) = portal.answer(&request, &context.client)
        {
            return response;
        }
        let signs_in = request.uri().path().starts_with(sign_in::PREFIX);
        let without_portal = !self.api.place.portal() && sign_in::NEED_PORTAL.contains(&request.uri().path());
        if signs_in && (!self.api.store.signs_in() || without_portal) {
            return respond(*not_found().0);
        }
        request.extensions_mut().insert(context);
        let mut response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if signs_in {
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response
    }
}

/// The id in the path. What is no id names nothing.
pub(super) struct Id(pub(super) Uuid);

impl FromRequestParts<Arc<Api>> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let Path(text) = Path::<String>::from_request_parts(parts, api).await.map_err(|_| not_found())?;
        path::id(&text).map(Id).ok_or_else(not_found)
    }
}

/// What a handler answers.
pub(super) type Answer<T> = Result<T, Refusal>;

async fn health(State(api): State<Arc<Api>>) -> Response<Body> {
    let draining = api.shutdown.is_draining();
    let health = Health {
        status: if draining { "draining" } else { "ok" }.to_owned(),
        ok: !draining,
        service: "relay".to_owned(),
        uptime_ms: millis(api.started.elapsed()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        relay_id: api.relay.0.to_string(),
        relay_mode: api.relay.1.to_owned(),
        tls_enabled: false,
    };
    let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(health)).into_response()
}

async fn create(State(api): State<Arc<Api>>, caller: Caller, Id(host): Id) -> Answer<Response<Body>> {
    if api.store.host_access(host, caller.user).await.map_err(of_store)?.is_none() {
        return Err(no_access());
    }
    let made = api.store.create_browser_session(host, caller.user, caller.auth_session).await;
    let session = match made {
        // The host was deleted, or the token revoked, since it was looked at.
        Err(StoreError::Conflict(_)) => return Err(no_access()),
        made => made.map_err(of_store)?,
    };
    let created = CreatedSession { session_id: session.id, expires_at: api.expires_at(session.created_at) };
    // The id lets its bearer in: no cache may keep it.
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(created)).into_response())
}

/// The same for another's host and for nobody's: who may not use a host does not learn that it exists.
fn no_access() -> Refusal {
    Refusal::new(Code::HostAccessDenied, "There is no host with this id that is yours or shared with you.")
}

async fn hosts(State(api): State<Arc<Api>>, caller: Caller) -> Answer<Json<Hosts>> {
    let mut hosts = api.store.hosts(caller.user).await.map_err(of_store)?;
    for host in &mut hosts {
        tell_live(&api, host);
    }
    Ok(Json(Hosts { hosts }))
}

/// A tunnel that was opened a moment ago is known here before the store has it.
fn tell_live(api: &Api, host: &mut Host) {
    if api.live.online(host.id) {
        host.status = HostStatus::Online;
    }
}

async fn rename_host(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id,
    request: Request<Body>,
) -> Answer<Json<Host>> {
    let new: PatchHost = json(request.into_body(), api.body, "{\"name\": \"…\"}").await?;
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
        let detail =
            format!("A name has 1 to {MAX_NAME_CHARS} characters, none of them a control character.");
        return Err(Refusal::new(Code::BadRequest, detail));
    }
    if !api.store.rename_host(id, caller.user, name).await.map_err(of_store)? {
        return Err(not_owner(&api, id, caller.user).await);
    }
    let hosts = api.store.hosts(caller.user).await.map_err(of_store)?;
    let mut host = hosts.into_iter().find(|host| host.id == id).ok_or_else(not_found)?;
    tell_live(&api, &mut host);
    Ok(Json(host))
}

/// Why the caller may not change this host. Whether there is one is told to those who may use it.
async fn not_owner(api: &Api, host: Uuid, user: Uuid) -> Refusal {
    match api.store.host_access(host, user).await {
        Ok(None) => not_found(),
        Ok(Some(_)) => Refusal::new(Code::HostAccessDenied, "Only the host's owner can change it."),
        Err(error) => of_store(error),
    }
}

async fn delete_host(State(api): State<Arc<Api>>, caller: Caller, Id(id): Id) -> Answer<StatusCode> {
    if !api.store.delete_host(id, caller.user).await.map_err(of_store)? {
        return Err(not_owner(&api, id, caller.user).await);
    }
    api.live.host_deleted(id);
    Ok(StatusCode::NO_CONTENT)
}

async fn sessions(State(api): State<Arc<Api>>, caller: Caller) -> Answer<Json<Sessions>> {
    let now = unix_now();
    let sessions = api.store.browser_sessions(caller.user).await.map_err(of_store)?;
    let sessions = sessions
        .into_iter()
        .map(|session| Session {
            id: session.id,
            host_id: session.host_id,
            created_at: session.created_at,
            last_used_at: session.last_used_at,
            expires_at: api.expires_at(session.created_at),
        })
        .filter(|session| session.expires_at > now)
        .collect();
    Ok(Json(Sessions { sessions }))
}

async fn revoke_session(State(api): State<Arc<Api>>, caller: Caller, Id(id): Id) -> Answer<StatusCode> {
    if !api.store.revoke_browser_session(id, caller.user).await.map_err(of_store)? {
        return Err(Refusal::new(
            Code::NotFound,
            "There is no such session of yours, or it has ended already.",
        ));
    }
    api.live.session_revoked(id);
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
