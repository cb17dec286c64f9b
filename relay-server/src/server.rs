//! Puts the parts together, and takes them apart in order.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::admin::{self, Admin};
use crate::auth::access::Sessions;
use crate::auth::bearer::Bearers;
use crate::auth::oidc::Provider;
use crate::auth::token::Verifier;
use crate::backplane::Backplane;
use crate::clock::unix_now;
use crate::config::Config;
use crate::forward::Forwarder;
use crate::frames::{self, Broker};
use crate::http::caller::by_bearer;
use crate::http::cookie_place::CookiePlace;
use crate::http::front::{Context, Front};
use crate::http::guards::Guards;
use crate::http::problem::Refusal;
use crate::http::routes::{Api, Live, Routes};
use crate::http::serve::{self, Peer};
use crate::outbound;
use crate::proxy::{self, Proxy, path};
use crate::service_manager;
use crate::shutdown::{Hold, Shutdown};
use crate::store::{Store, StoreError};
use crate::telemetry::{self, Shown};
use crate::tunnel::Registry;
use crate::tunnel::connect::{self, Connect, DRAIN_SECONDS};
use crate::tunnel::metrics::Tunnels;
use crate::tunnel::others::Others;
use crate::tunnel::presence::Presence;

/// How often the tokens of open tunnels are checked anew. With the query itself a revocation is felt
/// within five seconds.
const CHECK_TUNNELS: Duration = Duration::from_secs(4);
/// How often what signing in left behind is removed.
const FORGET: Duration = Duration::from_secs(60);
/// Tunnels whose tokens are checked in one query.
const CHECK_AT_ONCE: usize = 500;
/// How long the notices of a drain have to leave, when nothing else keeps the relay.
const NOTICES: Duration = Duration::from_millis(200);
/// How long tunnels may take to close at the very end.
const CLOSE_TUNNELS: Duration = Duration::from_secs(3);

/// Why the relay could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// What the relay keeps for itself cannot be read or made.
    #[error(transparent)]
    Config(#[from] crate::config::OwnError),
    /// Other relays cannot be met as it is configured.
    #[error(transparent)]
    Backplane(#[from] crate::backplane::StartError),
    /// What the relay calls cannot be called.
    #[error("what the relay calls: {0}")]
    Outbound(#[from] crate::outbound::TlsError),
    /// The listener failed.
    #[error("serving: {0}")]
    Io(#[from] std::io::Error),
}

/// Everything that answers requests.
struct App {
    front: Front,
    routes: Routes,
    proxy: Proxy,
    connect: Arc<Connect>,
    frames: Arc<frames::serve::Serve>,
    bearers: Arc<Bearers>,
    admin: Option<Admin>,
}

/// What the API tells of revocations.
struct LiveSide {
    sessions: Arc<Sessions>,
    registry: Arc<Registry>,
}

impl Live for LiveSide {
    fn session_revoked(&self, session: Uuid) {
        self.sessions.end(session);
    }

    fn host_deleted(&self, host: Uuid) {
        self.sessions.end_host(host);
        self.registry.close_host(host);
    }

    fn sign_in_ended(&self, auth_session: Uuid) {
        self.sessions.end_sign_in(auth_session);
        for tunnel in self.registry.all().iter().filter(|tunnel| tunnel.auth_session == auth_session) {
            tunnel.handle.close(1008, "the token was revoked");
        }
    }

    fn online(&self, host: Uuid) -> bool {
        self.registry.online(host)
    }
}

impl App {
    /// Each way is boxed: together they would make a future of kilobytes, which moves for every request.
    async fn route(&self, request: Request<Incoming>, context: Context) -> Response<Body> {
        let result = match request.uri().path() {
            path if path.starts_with(path::PREFIX) => Box::pin(self.proxy.handle(request, &context)).await,
            frames::serve::PATH => {
                return Box::pin(self.frames.handle(request, context.client.addr)).await;
            }
            connect::PATH => Box::pin(self.connect(request, &context))
                .await
                .inspect_err(|refusal| self.connect.metrics.refused.count(refusal.0.code)),
            path => {
                if let Some(admin) = self.admin.as_ref().filter(|_| admin::is_path(path)) {
                    return admin.answer(&request, &context);
                }
                return Box::pin(self.routes.call(request.map(Body::new), context)).await;
            }
        };
        result.unwrap_or_else(IntoResponse::into_response)
    }

    async fn connect(
        &self,
        request: Request<Incoming>,
        context: &Context,
    ) -> Result<Response<Body>, Refusal> {
        let guards = &self.proxy.guards;
        let caller = match by_bearer(request.headers(), &self.bearers).await {
            Ok(caller) => caller,
            Err(refusal) => {
                guards.bad_token(context.client.addr)?;
                return Err(refusal);
            }
        };
        guards.try_upgrade(context.client.addr)?;
        let guard = guards.open(context.client.addr)?;
        self.connect.accept(request, caller, guard).await
    }
}

/// Serves until `shutdown` has drained or ended; `shown` is what [`telemetry::init`] gave.
///
/// # Errors
/// [`ServeError`]; nothing that a request or an agent does leads to one.
pub async fn run(
    config: Config,
    store: Store,
    listener: TcpListener,
    shutdown: Shutdown,
    shown: Option<Shown>,
) -> Result<(), ServeError> {
    let config = Arc::new(config);
    let secret = config.load_jwt_secret()?;
    let client = outbound::Client::new(&config.platform)?;
    let provider = config.oidc.clone().map(|oidc| Provider::new(oidc, client.clone(), config.frames.dev));
    let bearers = Arc::new(Bearers::new(Verifier::new(&secret), provider, store.clone()));
    let relay_id = config.load_relay_id()?;
    match store.relay_started(&relay_id).await {
        Ok(0) => {}
        Ok(hosts) => tracing::info!(hosts, "hosts that were left as online are offline"),
        Err(error) => tracing::warn!(%error, "the hosts' status could not be put right"),
    }
    let stop = CancellationToken::new();
    let registry = Arc::new(Registry::default());
    let sessions = Sessions::new(store.clone(), config.session_lifetime);
    let (presence, presence_task) =
        Presence::start(store.clone(), registry.clone(), relay_id.clone(), stop.child_token());
    let renewing = tokio::spawn(sessions.clone().renew(stop.child_token()));
    let checking = tokio::spawn(check_tunnels(store.clone(), registry.clone(), stop.child_token()));

    let forgetting = tokio::spawn(forget_ended(store.clone(), config.session_lifetime, stop.child_token()));

    let (backplane, bus_events, relays) =
        Backplane::start(&config, &relay_id, &store, Some(client.clone()), stop.child_token())?;
    let broker = Broker::new(&config.frames, &config.relays, backplane.clone());
    let bus = tokio::spawn(broker.clone().run_bus(bus_events, stop.child_token()));
    let forwarder = Forwarder::new(&config, backplane.clone(), &relay_id)?.map(Arc::new);
    let passing_on = forwarder.clone().map(|forwarder| {
        let stop = stop.child_token();
        tokio::spawn(async move { forwarder.keep_house(stop).await })
    });

    let seen = admin::Seen {
        relay_id: relay_id.clone(),
        registry: registry.clone(),
        sessions: sessions.clone(),
        broker: Some(broker.clone()),
        store: store.clone(),
        shutdown: shutdown.clone(),
    };
    let upkeep = tokio::spawn(telemetry::metrics::upkeep(shown.clone(), stop.child_token()));
    let live = Arc::new(LiveSide { sessions: sessions.clone(), registry: registry.clone() });
    let tunnels = TaskTracker::new();
    let guards = Arc::new(Guards::new(&config.limits));
    let app = Arc::new(App {
        front: Front::new(&config, &relay_id, shutdown.clone()),
        routes: Routes::new(
            Api::new(&config, store.clone(), secret, bearers.clone(), live, shutdown.clone())
                .named(&relay_id),
        ),
        proxy: Proxy {
            sessions,
            registry: registry.clone(),
            store: store.clone(),
            bearers: bearers.clone(),
            guards: guards.clone(),
            place: CookiePlace::new(&config),
            forwarder,
            config: config.clone(),
            shutdown: shutdown.clone(),
            metrics: proxy::metrics::Metrics::new(),
        },
        connect: Arc::new(Connect {
            store: store.clone(),
            registry: registry.clone(),
            presence,
            others: Others::new(&config, backplane, &relay_id),
            limits: config.limits.clone(),
            tasks: tunnels.clone(),
            metrics: Tunnels::new(),
        }),
        frames: frames::serve::Serve::new(
            broker,
            &config.frames,
            &config.platform,
            client,
            guards,
            tunnels.clone(),
            shutdown.clone(),
        ),
        bearers,
        admin: Admin::new(&config, shown, seen),
    });
    let draining = tokio::spawn(tell_agents(registry.clone(), shutdown.clone(), shutdown.hold()));
    let service = move |request: Request<Incoming>, peer: Peer| {
        let app = app.clone();
        async move { app.front.handle(request, peer, |request, context| app.route(request, context)).await }
    };
    // What could still have failed has not, and the listener has its queue.
    service_manager::ready();
    let served = serve::serve(listener, service, serve::Options::new(&config), shutdown).await;

    draining.abort();
    for tunnel in registry.all() {
        tunnel.handle.close(1012, "the relay is restarting");
    }
    tunnels.close();
    if tokio::time::timeout(CLOSE_TUNNELS, tunnels.wait()).await.is_err() {
        tracing::warn!("some tunnels did not close in time");
    }
    // Every task that could tell of a change is gone, so the queue's end is its emptiness.
    let _ = tokio::time::timeout(CLOSE_TUNNELS, presence_task).await;
    stop.cancel();
    let _ = tokio::join!(renewing, checking, forgetting, upkeep, bus);
    if let Some(passing_on) = passing_on {
        let _ = passing_on.await;
    }
    // The others are told that nothing is here any more, within a deadline of its own.
    relays.wait().await;
    Ok(served?)
}

/// Asks agents to reconnect elsewhere, or here once the relay is back, as soon as the drain begins.
async fn tell_agents(registry: Arc<Registry>, shutdown: Shutdown, _until_told: Hold) {
    shutdown.draining().await;
    for tunnel in registry.all() {
        tunnel.drain(DRAIN_SECONDS);
    }
    tokio::time::sleep(NOTICES).await;
}

/// Removes what signing in and browser sessions left behind.
async fn forget_ended(store: Store, session_lifetime: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(FORGET);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if store.signs_in()
            && let Err(error) = store.forget_ended_sign_ins().await
        {
            tracing::warn!(%error, "ended sign-ins could not be removed");
        }
        match store.forget_browser_sessions(unix_now(), session_lifetime).await {
            // The web app's tables are not there yet.
            Ok(_) | Err(StoreError::NotReady(_)) => {}
            Err(error) => tracing::warn!(%error, "ended browser sessions could not be removed"),
        }
    }
}

/// Ends tunnels whose token was revoked or whose host was deleted, on whichever relay or by the web app.
async fn check_tunnels(store: Store, registry: Arc<Registry>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(CHECK_TUNNELS);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        for tunnels in registry.all().chunks(CHECK_AT_ONCE) {
            let pairs: Vec<_> = tunnels.iter().map(|t| (t.auth_session, t.user)).collect();
            match store.auth_sessions_live(&pairs).await {
                Ok(live) => {
                    for tunnel in tunnels.iter().filter(|t| !live.contains(&t.auth_session)) {
                        tracing::info!(host_id = %tunnel.host, "a tunnel's token was revoked");
                        tunnel.handle.close(1008, "the token was revoked");
                    }
                }
                Err(error) => tracing::warn!(%error, "the tokens of open tunnels could not be checked"),
            }
            let hosts: Vec<_> = tunnels.iter().map(|t| t.host).collect();
            match store.existing_hosts(&hosts).await {
                Ok(existing) => {
                    for tunnel in tunnels.iter().filter(|t| !existing.contains(&t.host)) {
                        tracing::info!(host_id = %tunnel.host, "a tunnel's host was deleted");
                        tunnel.handle.close(1008, "the host was deleted");
                    }
                }
                Err(error) => tracing::warn!(%error, "the hosts of open tunnels could not be checked"),
            }
        }
    }
}
