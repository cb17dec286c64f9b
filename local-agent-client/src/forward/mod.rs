//! Forwards one request to the local server and its response back.
//!
//! Whether it may be forwarded was decided above ([`gate`](crate::gate)); the head is rewritten here by
//! [`policy`], and what cannot be forwarded is refused with a problem. Bodies stream; nothing is collected.
//!
//! An answer that broke off is never passed on as a complete one: the body ends with an error, the
//! stream is reset, and the caller sees it.

pub mod body;
pub mod checked;
pub mod fault;
pub(crate) mod insecure;
pub mod local;
pub mod path;
pub mod policy;
pub mod stats;
pub mod websocket;

pub use body::{BodyError, RequestBody, ResponseBody};
pub use local::{LocalTarget, TargetError};
pub use stats::{Active, Counts, GateCounts, Load, Stats};

use crate::refusal::Refusal;
use body::{EndsConnection, Source, Wanted};
use checked::SessionEnded;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use local::{Abort, Upload};
use parking_lot::Mutex;
use policy::{Caller, Policy};
use relay_protocol::{headers::restore_hop, problem::Code, splice::splice};
use std::{error::Error as _, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How an agent forwards.
#[derive(Debug)]
pub struct Settings {
    /// Where to.
    pub target: LocalTarget,
    /// Whom to trust when the local server is `https`.
    pub tls: rustls::ClientConfig,
    /// The origin of the relay's URL.
    pub relay_origin: String,
    /// Leaves `Host`, `Origin` and `Referer` as they came.
    pub preserve_host: bool,
}

/// Forwards requests of any number of tunnels to one local server.
pub struct Forwarder {
    target: LocalTarget,
    scheme: uri::Scheme,
    authority: uri::Authority,
    policy: Policy,
    pool: local::Pool,
    stats: Arc<Stats>,
}

/// One stream of a tunnel, as its requests see it.
#[derive(Default)]
pub struct Connection {
    /// What the stream's tunnel carries.
    pub load: Arc<Load>,
    upgraded: Mutex<Option<Joined>>,
    /// The last request's upload, which may go on after the answer.
    upload: Mutex<Option<Upload>>,
}

/// Joins both ends of an upgraded connection; gives nothing back, because nobody is left to tell.
pub type Joined = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Connection {
    /// A stream of the tunnel with this load.
    pub fn new(load: Arc<Load>) -> Self {
        Self { load, ..Self::default() }
    }

    /// Leaves what is to be done once HTTP has ended on this stream.
    pub(crate) fn leave(&self, joined: Joined) {
        *self.upgraded.lock() = Some(joined);
    }

    /// What is left to do after HTTP has ended on this stream.
    pub fn take_upgraded(&self) -> Option<Joined> {
        self.upgraded.lock().take()
    }
}

impl Forwarder {
    /// Makes the forwarder; `None` when the target has no usable address.
    pub fn new(settings: Settings) -> Option<Arc<Self>> {
        let (scheme, authority) = settings.target.address()?;
        let policy = Policy {
            authority: local::host_value(&authority)?,
            origin: format!("{scheme}://{authority}"),
            relay_origin: settings.relay_origin,
            preserve_host: settings.preserve_host,
        };
        let pool = local::pool(&settings.target, settings.tls);
        Some(Arc::new(Self {
            target: settings.target,
            scheme,
            authority,
            policy,
            pool,
            stats: Arc::default(),
        }))
    }

    /// The path under which the local server knows what is asked for by `path`.
    pub fn local_path(&self, path: &str) -> String {
        format!("{}{path}", self.target.base_path())
    }

    /// What was counted so far.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Forwards one request of `caller`.
    ///
    /// # Errors
    /// When the local server gives no answer.
    pub async fn forward(
        &self,
        request: Request<Source>,
        caller: Caller,
        connection: &Connection,
        active: Active,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let (mut parts, body) = request.into_parts();
        let unsized_body =
            !hyper::body::Body::is_end_stream(&body) && hyper::body::Body::size_hint(&body).exact().is_none();
        let hop = policy::request(&self.policy, caller, &mut parts.headers);
        if unsized_body {
            // Said explicitly: hyper would take a GET for one without a body.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        parts.version = Version::HTTP_11;
        let upgrade = if hop.upgrade.is_some() { parts.extensions.remove::<OnUpgrade>() } else { None };
        match &self.target {
            LocalTarget::Service(service) => {
                let mut request =
                    Request::from_parts(parts, RequestBody::new(body, self.stats.clone(), None));
                // What is not asked for must not be there to be taken.
                request.extensions_mut().remove::<OnUpgrade>();
                let asked = upgrade.is_some();
                if let Some(upgrade) = upgrade {
                    request.extensions_mut().insert(upgrade);
                }
                self.by_service(service, request, asked, active).await
            }
            LocalTarget::Http(_) | LocalTarget::Unix(_) => {
                parts.uri = self.uri(parts.uri.path_and_query())?;
                parts.extensions.clear();
                self.by_connection(Request::from_parts(parts, body), connection, upgrade, active).await
            }
        }
    }

    /// The absolute form that the pool wants; the path stays byte for byte.
    fn uri(&self, target: Option<&uri::PathAndQuery>) -> Result<Uri, Refusal> {
        let target = target.map_or("/", uri::PathAndQuery::as_str);
        let base = self.target.base_path();
        let path = if base.is_empty() { target.parse() } else { format!("{base}{target}").parse() };
        let malformed = |_| Refusal::new(Code::BadRequest, "The request target cannot be forwarded.");
        let path: uri::PathAndQuery = path.map_err(malformed)?;
        let mut parts = uri::Parts::default();
        (parts.scheme, parts.authority, parts.path_and_query) =
            (Some(self.scheme.clone()), Some(self.authority.clone()), Some(path));
        Uri::from_parts(parts)
            .map_err(|_| Refusal::new(Code::BadRequest, "The request target cannot be forwarded."))
    }

    async fn by_service(
        &self,
        service: &local::InProcess,
        request: Request<RequestBody>,
        asked: bool,
        active: Active,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let host = request.headers().get(header::HOST).cloned();
        let response = service.call(request).await.map_err(|error| {
            self.stats.failed(format!("the service failed: {error}"));
            Refusal::new(Code::LocalServerFailed, "The program that answers here failed.")
        })?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS && !asked {
            return Err(self.switched_unasked());
        }
        let (mut parts, body) = response.into_parts();
        let hop = policy::response(&self.policy, host.as_ref(), &mut parts.headers);
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            restore_hop(&mut parts.headers, &hop);
        }
        Ok(Response::from_parts(parts, ResponseBody::service(body, self.stats.clone(), active)))
    }

    fn switched_unasked(&self) -> Refusal {
        self.stats.failed("the local server switched protocols unasked".to_owned());
        Refusal::new(
            Code::LocalServerFailed,
            "The local server switched protocols although nobody asked it to.",
        )
    }

    async fn by_connection(
        &self,
        request: Request<Source>,
        connection: &Connection,
        upgrade: Option<OnUpgrade>,
        active: Active,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let host = request.headers().get(header::HOST).cloned();
        let wanted = expects_continue(request.headers()).then(|| watch::channel(Wanted::Unknown).0);
        // Once more only where RFC 9110 section 9.2.2 allows it without asking, and only when the
        // connection came from the pool: that the local server closed it just as the request went out says
        // nothing about the request. Which connection it will be cannot be told beforehand, so the head
        // of every such request is kept.
        let mut again = is_repeatable(&request).then(|| copy_head(&request));
        let (parts, body) = request.into_parts();
        let held = wanted.as_ref().map(watch::Sender::subscribe);
        let mut request = Request::from_parts(parts, RequestBody::new(body, self.stats.clone(), held));
        if let Some(wanted) = wanted.clone() {
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    wanted.send_replace(Wanted::Yes);
                }
            });
        }
        let upload = (!hyper::body::Body::is_end_stream(request.body())).then(|| Upload::new(&mut request));
        let mut sent = self.pool.request(request).await;
        if let Err(error) = &sent
            && broke_off(error)
            && local::was_reused(error)
            && let Some(head) = again.take()
        {
            tracing::debug!(%error, "a connection from the pool was closed; asking once more");
            sent = self.pool.request(Request::from_parts(head, RequestBody::empty(self.stats.clone()))).await;
        }
        let mut response = sent.map_err(|error| self.failed(&error))?;
        if let Some(mut upload) = upload {
            upload.answered = true;
            *connection.upload.lock() = Some(upload);
        }
        let abort = response.extensions_mut().remove::<Arc<Abort>>();
        abort.iter().for_each(|abort| abort.answered());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(browser) = upgrade else {
                abort.inspect(|abort| abort.now());
                return Err(self.switched_unasked());
            };
            return Ok(self.switch(response, host.as_ref(), browser, connection, active));
        }
        let unasked = wanted.is_some_and(|wanted| {
            wanted.send_if_modified(|wanted| {
                *wanted == Wanted::Unknown && {
                    *wanted = Wanted::No;
                    true
                }
            })
        });
        let (mut parts, body) = response.into_parts();
        policy::response(&self.policy, host.as_ref(), &mut parts.headers);
        // What hyper's client noted about the connection is nothing to hyper's server.
        parts.extensions.clear();
        parts.version = Version::HTTP_11;
        let ends = EndsConnection::new(abort, unasked);
        Ok(Response::from_parts(parts, ResponseBody::local(body, self.stats.clone(), ends, active)))
    }

    /// Leaves with the connection what joins both ends once they have both switched.
    fn switch(
        &self,
        mut response: Response<Incoming>,
        host: Option<&HeaderValue>,
        browser: OnUpgrade,
        connection: &Connection,
        active: Active,
    ) -> Response<ResponseBody> {
        let local = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        let hop = policy::response(&self.policy, host, &mut parts.headers);
        restore_hop(&mut parts.headers, &hop);
        parts.extensions.clear();
        let stats = self.stats.clone();
        let joined = async move {
            let joined = async {
                let (browser, local) = tokio::try_join!(browser, local)?;
                // How long it may be silent is the relay's to say.
                let (received, sent) =
                    splice(TokioIo::new(browser), TokioIo::new(local), Duration::MAX).await?;
                stats.received(usize::try_from(received).unwrap_or(usize::MAX));
                stats.sent(usize::try_from(sent).unwrap_or(usize::MAX));
                Ok::<(), BodyError>(())
            };
            if let Err(error) = joined.await {
                tracing::debug!(%error, "an upgraded connection broke");
            }
            drop(active);
        };
        connection.leave(Box::pin(joined));
        Response::from_parts(parts, ResponseBody::text(""))
    }

    fn failed(&self, error: &hyper_util::client::legacy::Error) -> Refusal {
        // The cause says more than the outermost text, which is always the same.
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        if cause.is::<relay_protocol::signature::digest::DigestMismatch>() {
            return digest_mismatch();
        }
        if cause.is::<SessionEnded>() {
            return session_ended();
        }
        let target = &self.target;
        if error.is_connect() {
            self.stats.failed(format!("{target} cannot be reached: {cause}"));
            let detail = format!(
                "Nothing answers at {target} ({cause}). Start the local server, or give the agent the right address with --to."
            );
            return Refusal::new(Code::LocalServerUnreachable, detail);
        }
        self.stats.failed(format!("{target} broke off before it answered: {cause}"));
        Refusal::new(
            Code::LocalServerFailed,
            format!(
                "The local server at {target} ended the connection before it had answered ({cause}). Its own log says more."
            ),
        )
    }
}

/// The caller's body was another one than it signed.
pub fn digest_mismatch() -> Refusal {
    Refusal::new(
        Code::DigestMismatch,
        "The body is not the one that was signed. It was changed or cut on its way; the local server has not seen its end.",
    )
}

/// The caller's signing session ended while its request was under way.
pub fn session_ended() -> Refusal {
    Refusal::new(
        Code::SigningSessionEnded,
        "The signing session has ended, or its browser was revoked. What was under way is broken off; it may have been done.",
    )
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::EXPECT)
        .iter()
        .any(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether the request may be sent a second time without asking anybody: safe methods without a body.
fn is_repeatable(request: &Request<Source>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && hyper::body::Body::is_end_stream(request.body())
        && !request.headers().contains_key(header::UPGRADE)
}

fn copy_head(request: &Request<Source>) -> http::request::Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy.into_parts().0
}

/// Whether the connection ended before any answer came.
fn broke_off(error: &hyper_util::client::legacy::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<hyper::Error>()) else {
        return false;
    };
    let reset =
        error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).is_some_and(|error| {
            matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
        });
    error.is_incomplete_message() || error.is_canceled() || reset
}
