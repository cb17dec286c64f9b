//! A stand-in for the platform: a real HTTP server that does what the contract says (validate, presence, bus,
//! key set), writes down what it was asked, and can be told to do it badly.
//!
//! ```text
//!  relay ── POST …/validate, …/presence/*, …/bus/* ──►  calls (bus.rs, here)   ◄── Fault: slow, hangs, …
//!        ── GET /.well-known/jwks.json ──────────────►  keys.rs
//! ```

mod bus;
mod faults;
mod keys;
mod tls;

pub use bus::{Frame, Presence};
pub use faults::Fault;
pub use keys::{Algorithm, Keys};

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::extract::{Request, State};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

use crate::throttle::{Rate, Throttle};
use crate::{RelayOptions, SOON, eventually};

/// The secret that the platform shares with its relays.
pub const INTERNAL_KEY: &str = "the-internal-key-of-the-stand-in-platform";

/// Where its calls are.
const BASE: &str = "/api/runtime/internal/relay/";
/// Where its key set is.
const KEYS: &str = "/api/.well-known/jwks.json";
/// The largest body that it reads.
const MAX_BODY: usize = 4 << 20;

/// What it can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// `validate`.
    Validate,
    /// `presence/upsert`.
    Upsert,
    /// `presence/resolve`.
    Resolve,
    /// `bus/publish`.
    Publish,
    /// `bus/pull`.
    Pull,
    /// The key set.
    Keys,
}

impl Call {
    fn of(path: &str) -> Option<Self> {
        if path == KEYS {
            return Some(Self::Keys);
        }
        Some(match path.strip_prefix(BASE)? {
            "validate" => Self::Validate,
            "presence/upsert" => Self::Upsert,
            "presence/resolve" => Self::Resolve,
            "bus/publish" => Self::Publish,
            "bus/pull" => Self::Pull,
            _ => return None,
        })
    }
}

/// One request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Which.
    pub call: Call,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; null for the key set.
    pub body: Value,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<String, Value>,
    faults: HashMap<Call, Fault>,
    asked: VecDeque<Asked>,
}

/// What the server's tasks share.
struct Shared {
    known: Mutex<Known>,
    keys: Keys,
    bus: bus::Bus,
}

/// The running server. It ends when it is dropped.
pub struct Platform {
    url: Url,
    shared: Arc<Shared>,
    tls: Option<tls::Files>,
    task: JoinHandle<()>,
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Platform {
    /// Starts one that speaks plain HTTP.
    pub async fn start() -> Self {
        Self::serve(None).await
    }

    /// Starts one that speaks TLS and answers nobody without a certificate of its own authority.
    pub async fn start_mutual_tls() -> Self {
        Self::serve(Some(tls::Files::new())).await
    }

    async fn serve(tls: Option<tls::Files>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://localhost:{}", addr.port())).expect("a URL");
        let shared =
            Arc::new(Shared { known: Mutex::default(), keys: Keys::new(), bus: bus::Bus::default() });
        let app = axum::Router::new().fallback(handle).with_state(shared.clone());
        let task = match &tls {
            None => tokio::spawn(async move {
                axum::serve(listener, app).await.expect("it serves");
            }),
            Some(files) => tokio::spawn(tls::serve(listener, files.acceptor(), app)),
        };
        Self { url, shared, tls, task }
    }

    /// Its base, for SERVER_URL.
    pub fn url(&self) -> String {
        self.url.as_str().trim_end_matches('/').to_owned()
    }

    /// A link to it that can be cut.
    pub async fn link(&self) -> Throttle {
        let port = self.url.port().expect("a port");
        Throttle::start(([127, 0, 0, 1], port).into(), Rate::default()).await
    }

    /// Where its key set is, for RELAY_JWKS_URL.
    pub fn jwks_url(&self) -> String {
        format!("{}{KEYS}", self.url())
    }

    /// Where tokens are validated, for RELAY_VALIDATE_URL.
    pub fn validate_url(&self) -> String {
        format!("{}{BASE}validate", self.url())
    }

    /// A relay that asks this platform about tokens, and shows itself as it must.
    pub fn relay(&self, options: RelayOptions) -> RelayOptions {
        self.relay_with_certificates(options.env("RELAY_VALIDATE_URL", self.validate_url()))
            .env("RELAY_INTERNAL_KEY", INTERNAL_KEY)
    }

    /// A relay that trusts this platform's authority and has a certificate of it, where it speaks TLS.
    pub fn relay_with_certificates(&self, options: RelayOptions) -> RelayOptions {
        let Some(files) = &self.tls else { return options };
        self.relay_without_certificate(options)
            .env("RELAY_PLATFORM_CLIENT_CERT", files.client_cert().display())
            .env("RELAY_PLATFORM_CLIENT_KEY", files.client_key().display())
    }

    /// The same without a certificate to show.
    pub fn relay_without_certificate(&self, options: RelayOptions) -> RelayOptions {
        match &self.tls {
            Some(files) => options.env("RELAY_PLATFORM_CA", files.authority().display()),
            None => options,
        }
    }

    /// Its keys.
    pub fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// A token that says nothing by itself, for which the platform has these claims.
    pub fn grant(&self, claims: Value) -> String {
        let token = format!("granted-{}", uuid::Uuid::new_v4().simple());
        self.vouch(&token, claims);
        token
    }

    /// From now on the platform has these claims for this token.
    pub fn vouch(&self, token: &str, claims: Value) {
        self.known().tokens.insert(token.to_owned(), claims);
    }

    /// From now on the platform does not know the token.
    pub fn revoke(&self, token: &str) {
        self.known().tokens.remove(token);
    }

    /// From now on this call is answered so.
    pub fn fault(&self, call: Call, fault: Fault) {
        self.known().faults.insert(call, fault);
    }

    /// From now on everything is answered as it should be.
    pub fn heal(&self) {
        self.known().faults.clear();
    }

    /// Everything of this kind that it was asked, the oldest first.
    pub fn asked(&self, call: Call) -> Vec<Asked> {
        self.known().asked.iter().filter(|asked| asked.call == call).cloned().collect()
    }

    /// Waits until it was asked so often.
    pub async fn await_asked(&self, call: Call, times: usize) {
        eventually(&format!("{call:?} was asked {times} times"), SOON, || async {
            self.asked(call).len() >= times
        })
        .await;
    }

    /// Which relay holds which daemon, as it was told.
    pub fn presences(&self) -> Vec<Presence> {
        self.shared.bus.presences()
    }

    /// Frames on the bus.
    pub fn frames(&self) -> Vec<Frame> {
        self.shared.bus.frames()
    }

    /// Puts a frame on the bus as it is: what somebody who can write there may do.
    pub fn inject(&self, frame: Value) {
        self.shared.bus.inject(frame);
    }

    /// It has lost presences and frames, as one does that kept them in memory and was started anew. The numbers of
    /// frames begin again.
    pub fn forget(&self) {
        self.shared.bus.forget();
    }

    /// Makes everything that was asked known to nobody: for tests that count from here.
    pub fn forget_asked(&self) {
        self.known().asked.clear();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.known()
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn validate(&self, body: &Value) -> Value {
        let token = body["relayToken"].as_str().unwrap_or_default();
        match self.known().tokens.get(token) {
            Some(claims) => json!({"ok": true, "claims": claims}),
            None => json!({"ok": false, "error": "unknown token"}),
        }
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let Some(call) = Call::of(request.uri().path()) else { return status(StatusCode::NOT_FOUND) };
    let (parts, body) = request.into_parts();
    let Ok(body) = http_body_util::Limited::new(body, MAX_BODY).collect().await else {
        return status(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    let fault = {
        let mut known = shared.known();
        known.asked.push_back(Asked { call, headers: parts.headers.clone(), body: body.clone() });
        if known.asked.len() > 100_000 {
            known.asked.pop_front();
        }
        known.faults.get(&call).cloned()
    };
    if call != Call::Keys && parts.headers.get("x-relay-internal-key").is_none_or(|key| key != INTERNAL_KEY) {
        return status(StatusCode::FORBIDDEN);
    }
    let method = if call == Call::Keys { http::Method::GET } else { http::Method::POST };
    if parts.method != method {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    if let Some(fault) = &fault
        && let Some(response) = fault.instead().await
    {
        return response;
    }
    let answer = match call {
        Call::Keys => shared.keys.set(),
        Call::Validate => shared.validate(&body),
        Call::Upsert => shared.bus.upsert(&body),
        Call::Resolve => shared.bus.resolve(&body),
        Call::Publish => shared.bus.publish(&body),
        Call::Pull => shared.bus.pull(&body).await,
    };
    match fault {
        Some(fault) => fault.spoil(answer),
        None => json_response(answer.to_string()),
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::from("{\"ok\":false}"));
    *response.status_mut() = status;
    response
}

fn json_response(body: impl Into<Body>) -> Response<Body> {
    let response = Response::builder().header("content-type", "application/json");
    response.body(body.into()).expect("a response")
}
