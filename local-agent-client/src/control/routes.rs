//! The control server's paths.
//!
//! | path | who | does |
//! | --- | --- | --- |
//! | GET `/`, `/page.css`, `/page.js` | anybody on this machine | the page, empty until it is signed in |
//! | POST `/session` | a one-time key | opens a page session, which lives below `/s/…/` |
//! | GET `/s/…/` | anybody on this machine | the page of a session |
//! | GET `/api/state`, `/api/events` | command, page | how everything is, once or live |
//! | POST, DELETE `/api/code` | command, page | shows a code; ends the one that is out |
//! | GET `/api/browsers`; PATCH, DELETE `/api/browsers/{id}` | command, page | the paired browsers |
//! | POST `/api/pair` | command | shows a code and waits for its end |
//! | POST `/api/page` | command | a one-time key for the page |
//!
//! A page calls `/api/…` below its session's path.

use super::{
    access::{Access, KEY_LIFE, Who},
    api::{
        BrowserList, BrowserView, CodeView, EndView, NewCode, OpenSession, OpenedSession, PageLink,
        PairRequest, Rename, State,
    },
    connections::Standing,
    guard, stream,
};
use crate::{
    qr,
    status::{Status, now},
    trust::{LIFE, Pairing, PairingError, TrustError},
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use parking_lot::Mutex;
use relay_protocol::problem::{self, Code, Problem};
use serde::{Serialize, de::DeserializeOwned};
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};
use uuid::Uuid;

/// Bytes of a request's body; a name of 100 characters is the longest that is sent.
const MAX_BODY: usize = 4 * 1024;
/// For it to arrive.
const BODY: Duration = Duration::from_secs(5);
/// Nothing from elsewhere, nothing inline, in nobody's frame.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                   base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = include_str!("../../page/index.html");
const CSS: &str = include_str!("../../page/page.css");
const JS: &str = include_str!("../../page/page.js");

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Result<Response<Body>, Refusal>;

/// What the control server answers from.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) access: Mutex<Access>,
    pub(super) pairing: Arc<Pairing>,
    pub(super) status: watch::Receiver<Status>,
}

/// A request that is refused.
struct Refusal {
    problem: Box<Problem>,
    retry_after: Option<i64>,
}

impl Refusal {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { problem: Box::new(Problem::new(code, detail)), retry_after: None }
    }
}

impl From<PairingError> for Refusal {
    fn from(error: PairingError) -> Self {
        Self { retry_after: error.retry_after(), ..Self::new(error.code(), error.to_string()) }
    }
}

impl From<TrustError> for Refusal {
    fn from(error: TrustError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl Server {
    /// Answers one request. The connection stays from when it is known who asks.
    pub(super) async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        standing: &Standing,
    ) -> Response<Body> {
        let mut response = self.route(request, standing).await.unwrap_or_else(|refusal| {
            let status = refusal.problem.code.status();
            let mut response = text(status, problem::CONTENT_TYPE, refusal.problem.to_json());
            if let Some(seconds) = refusal.retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            response
        });
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_SECURITY_POLICY, CSP),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
            (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
            (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>, standing: &Standing) -> Answer {
        guard::check(self.address.port(), request.uri(), request.headers())
            .map_err(|foreign| Refusal::new(Code::OriginNotAllowed, foreign.to_string()))?;
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET, "/") => return Ok(text(StatusCode::OK, "text/html; charset=utf-8", HTML)),
            (&Method::GET, "/page.css") => return Ok(text(StatusCode::OK, "text/css; charset=utf-8", CSS)),
            (&Method::GET, "/page.js") => {
                return Ok(text(StatusCode::OK, "text/javascript; charset=utf-8", JS));
            }
            // The document shows nothing by itself, and says what to do when the session is over.
            (&Method::GET, path) if is_page(path) => {
                return Ok(text(StatusCode::OK, "text/html; charset=utf-8", HTML));
            }
            (&Method::POST, "/session") => return self.open(request).await,
            _ => {}
        }
        let who =
            self.access.lock().who(&path, request.headers(), now()).map(|(who, at)| (who, at.to_owned()));
        let Some((who, at)) = who else {
            return Err(Refusal::new(
                Code::Unauthorized,
                "Run `local-agent-client page` on this machine for a link that opens this page.",
            ));
        };
        if who != Who::Command && !guard::is_vouched(request.method(), request.headers()) {
            return Err(Refusal::new(
                Code::CsrfRefused,
                "A request that changes something has to name its origin.",
            ));
        }
        if !standing.is_known() {
            return Err(Refusal::new(Code::RateLimited, "There are too many connections. Try again."));
        }
        self.api(who, &at, request).await
    }

    async fn api(self: Arc<Self>, who: Who, path: &str, request: Request<Incoming>) -> Answer {
        let command = who == Who::Command;
        match (request.method(), path) {
            (&Method::GET, "/api/state") => json(StatusCode::OK, &self.state()),
            (&Method::GET, "/api/events") => {
                let mut response = Response::new(stream::events(self, who));
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                Ok(response)
            }
            (&Method::POST, "/api/code") => json(StatusCode::CREATED, &self.issue(LIFE)?),
            (&Method::DELETE, "/api/code") => {
                let outstanding = self.pairing.view().borrow().outstanding;
                if let Some((number, _)) = outstanding {
                    self.pairing.withdraw(number);
                }
                Ok(empty(StatusCode::NO_CONTENT))
            }
            (&Method::POST, "/api/pair") if command => {
                let asked: PairRequest = read(request).await?;
                let code = self.issue(asked.life.unwrap_or(LIFE))?;
                let mut response = Response::new(stream::pair(&self, code));
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
                Ok(response)
            }
            (&Method::POST, "/api/page") if command => {
                let (now, key) = (now(), self.access.lock().key(now()));
                let url = format!("http://{}/#{}", self.address, key.as_str());
                json(StatusCode::CREATED, &PageLink { url, expires_at: now + KEY_LIFE })
            }
            (&Method::GET, "/api/browsers") => {
                json(StatusCode::OK, &BrowserList { browsers: BrowserView::list(&self.pairing) })
            }
            (method, path) => match path.strip_prefix("/api/browsers/").map(str::parse::<Uuid>) {
                Some(Ok(id)) if method == Method::PATCH => {
                    let rename: Rename = read(request).await?;
                    let browser = self.pairing.browsers().rename(id, &rename.name)?;
                    json(StatusCode::OK, &BrowserView::new(&self.pairing, &browser))
                }
                Some(Ok(id)) if method == Method::DELETE => {
                    let browser = self.pairing.browsers().revoke(id)?;
                    tracing::info!(%id, name = browser.name, "a browser was revoked");
                    Ok(empty(StatusCode::NO_CONTENT))
                }
                _ => Err(Refusal::new(Code::NotFound, "There is nothing under this path.")),
            },
        }
    }

    async fn open(&self, request: Request<Incoming>) -> Answer {
        if !guard::is_vouched(request.method(), request.headers()) {
            return Err(Refusal::new(Code::CsrfRefused, "Only the page itself opens a session."));
        }
        let open: OpenSession = read(request).await?;
        let opened = self.access.lock().open(&open.key, now()).ok_or_else(|| {
            Refusal::new(
                Code::SignInFailed,
                "This link is used up or too old. Run `local-agent-client page` again.",
            )
        })?;
        let mut response = json(StatusCode::CREATED, &OpenedSession { path: opened.path })?;
        let mut cookie = HeaderValue::from_str(&opened.cookie)
            .map_err(|_| Refusal::new(Code::Internal, "The session could not be opened."))?;
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
        Ok(response)
    }

    fn issue(&self, life: i64) -> Result<NewCode, Refusal> {
        let issued = self.pairing.issue_code_for(life, now())?;
        let host = self.pairing.host();
        let id = host.get().ok_or(PairingError::HostUnknown)?;
        let link = format!("{}/#/pair/{id}", host.relay());
        Ok(NewCode {
            number: issued.number,
            code: issued.code.reveal().as_str().to_owned(),
            expires_at: issued.expires_at,
            qr: qr::rows(&link).unwrap_or_default(),
            link,
        })
    }

    /// How everything is.
    pub(super) fn state(&self) -> State {
        let view = self.pairing.view().borrow().clone();
        State {
            now: now(),
            status: self.status.borrow().clone(),
            code: view.outstanding.map(|(number, expires_at)| CodeView { number, expires_at }),
            ended: view.ended.into_iter().map(|(number, outcome)| EndView { number, outcome }).collect(),
            failed_guesses: view.failed,
            browsers: BrowserView::list(&self.pairing),
        }
    }
}

/// Whether this is the document of a page session, good or not.
fn is_page(path: &str) -> bool {
    path.strip_prefix("/s/").and_then(|rest| rest.strip_suffix('/')).is_some_and(|id| !id.contains('/'))
}

async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let collected = timeout(BODY, Limited::new(request.into_body(), MAX_BODY).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Refusal::new(Code::BodyTooLarge, "The body is too large."));
        }
        Ok(Err(_)) => return Err(Refusal::new(Code::BadRequest, "The body broke off.")),
        Err(_) => return Err(Refusal::new(Code::RequestTimeout, "The body did not arrive in time.")),
    };
    serde_json::from_slice(&body)
        .map_err(|_| Refusal::new(Code::BadRequest, "The body is not what is expected here."))
}

fn text(status: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(content.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let content = serde_json::to_vec(value)
        .map_err(|_| Refusal::new(Code::Internal, "The answer could not be written."))?;
    Ok(text(status, "application/json", content))
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *response.status_mut() = status;
    response
}
