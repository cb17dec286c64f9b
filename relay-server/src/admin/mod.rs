//! The operator's interface: `/state`, `/logs`, `/metrics`, for whoever shows the token. Off, it is as if it had
//! never been there.
//!
//! What it shows is for operators alone: which workspaces are here, who called, how much. Secrets and the ids that
//! let somebody in are not in it. It answers while the relay drains too, because that is when somebody looks, and
//! no page of any origin reads it ([`crate::http::front`]).

mod guard;
pub mod metrics;
mod state;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::response::{IntoResponse, Json};
use http::header::{self, HeaderValue};
use http::{Method, Request, Response};
use relay_protocol::problem::Code;
use url::form_urlencoded;

use crate::auth::access::Sessions;
use crate::config::Config;
use crate::frames::Broker;
use crate::http::front::Context;
use crate::http::problem::{Refusal, refuse};
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::telemetry::Shown;
use crate::telemetry::process::Process;
use crate::tunnel::Registry;
use guard::{Answer, Guard};
use metrics::Metrics;

const STATE: &str = "/state";
const LOGS: &str = "/logs";
const METRICS: &str = "/metrics";

/// The media type of the text format that Prometheus reads.
const EXPOSITION: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Whether the path is one of the operator's, where there are any.
pub fn is_path(path: &str) -> bool {
    matches!(path, STATE | LOGS | METRICS)
}

/// What is shown, besides what telemetry keeps.
pub struct Seen {
    /// The relay's name.
    pub relay_id: String,
    /// The tunnels.
    pub registry: Arc<Registry>,
    /// The browser sessions.
    pub sessions: Arc<Sessions>,
    /// The frame broker, where there is one.
    pub broker: Option<Arc<Broker>>,
    /// The database.
    pub store: Store,
    /// Where in its life the relay is.
    pub shutdown: Shutdown,
}

/// The interface, where it is on.
pub struct Admin {
    guard: Guard,
    shown: Shown,
    seen: Seen,
    mode: &'static str,
    started: Instant,
    process: Process,
    metrics: Metrics,
}

impl Admin {
    /// None when it is off.
    pub fn new(config: &Config, shown: Option<Shown>, seen: Seen) -> Option<Self> {
        let token = config.admin.token.as_ref()?;
        Some(Self {
            guard: Guard::new(token),
            shown: shown?,
            seen,
            mode: config.relays.mode.as_str(),
            started: Instant::now(),
            process: Process::new(),
            metrics: Metrics::new(),
        })
    }

    /// Answers a request to one of the paths.
    pub fn answer<B>(&self, request: &Request<B>, context: &Context) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            self.metrics.method.increment(1);
            let mut refused = refuse(Code::MethodNotAllowed, "This address takes GET and HEAD.");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET,HEAD"));
            return refused;
        }
        match self.guard.check(request.headers(), context) {
            Answer::Open => self.metrics.ok.increment(1),
            Answer::Wrong => {
                self.metrics.unauthorized.increment(1);
                return refuse(Code::Unauthorized, "This takes the operator's token, RELAY_ADMIN_TOKEN.");
            }
            Answer::TooOften(wait) => {
                self.metrics.rate_limited.increment(1);
                let detail = "Too many wrong tokens came from this address. Wait a little.";
                return Refusal::new(Code::RateLimited, detail).after(wait).into_response();
            }
        }
        let mut response = match request.uri().path() {
            STATE => Json(self.state()).into_response(),
            LOGS => self.logs(request.uri().query().unwrap_or_default()),
            _ => self.counted(),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    /// `?summary=1` for the short form; `?limit=` for the newest lines alone.
    fn logs(&self, query: &str) -> Response<Body> {
        let (mut summary, mut limit) = (false, usize::MAX);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "summary" => summary = matches!(&*value, "1" | "true"),
                "limit" => match value.parse() {
                    Ok(count) => limit = count,
                    Err(_) => return refuse(Code::BadRequest, "limit is the number of lines wanted."),
                },
                _ => {}
            }
        }
        if summary {
            Json(self.shown.logs.summary()).into_response()
        } else {
            Json(self.shown.logs.lines(limit)).into_response()
        }
    }

    fn counted(&self) -> Response<Body> {
        self.process.look();
        self.metrics.look(&self.state(), self.seen.store.connections());
        ([(header::CONTENT_TYPE, EXPOSITION)], self.shown.metrics.render()).into_response()
    }
}
