//! The way to the local server: a URL, a Unix socket, or a service inside this program.
//!
//! Connections are pooled by hyper-util's client. Each carries an [`Abort`], because a pooled
//! connection outlives the request: when a browser goes away in the middle of a response that is
//! silent just then, nothing else would end the connection before the local server writes again.

use super::{body::BodyError, body::RequestBody};
use crate::platform;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderValue, Request, Response, Uri, uri};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{CaptureConnection, Connected, Connection, HttpConnector, capture_connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tower_service::Service;
use url::Url;

/// How long a connection to the local server may take: it is on this machine or near it.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Idle connections that are kept at the most: as many as a tunnel may have streams.
const MAX_IDLE: usize = 256;
/// Bytes of the largest response head: applications with many cookies and long policies stay far
/// below. A limit, not an allocation.
const HEAD: usize = 256 * 1024;

/// Where requests go.
#[derive(Clone)]
pub enum LocalTarget {
    /// An `http` or `https` server; its path, if any, is put before every request's.
    Http(Url),
    /// An HTTP server on a Unix socket.
    Unix(PathBuf),
    /// A service inside this program; made by [`LocalTarget::service`].
    Service(InProcess),
}

impl std::fmt::Debug for LocalTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for LocalTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Service(_) => f.write_str("a service of this program"),
        }
    }
}

/// A text that names no local server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a URL at all.
    #[error("`{0}` is no URL; write http://127.0.0.1:PORT, https://… or unix:/path")]
    NotAUrl(String),
    /// A URL that means something else.
    #[error("`{0}` has the scheme `{1}`; the local server is http, https or unix")]
    Scheme(String, String),
    /// Parts that a base address cannot have.
    #[error("`{0}` has a user, a query or a fragment; give the bare address of the local server")]
    Extra(String),
    /// `unix:` without an absolute path.
    #[error("`{0}` names no absolute path; write unix:/path/to/socket")]
    Path(String),
}

impl std::str::FromStr for LocalTarget {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(TargetError::Path(text.to_owned()));
            }
            return Ok(Self::Unix(path.into()));
        }
        let url = Url::parse(text).map_err(|_| TargetError::NotAUrl(text.to_owned()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(TargetError::Scheme(text.to_owned(), url.scheme().to_owned()));
        }
        if !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(TargetError::Extra(text.to_owned()));
        }
        Ok(Self::Http(url))
    }
}

type Answer =
    Pin<Box<dyn Future<Output = Result<Response<UnsyncBoxBody<Bytes, BodyError>>, BodyError>> + Send>>;

/// A service inside this program, such as an axum Router.
#[derive(Clone)]
pub struct InProcess(Arc<dyn Fn(Request<RequestBody>) -> Answer + Send + Sync>);

impl InProcess {
    pub(super) fn call(&self, request: Request<RequestBody>) -> Answer {
        (self.0)(request)
    }
}

impl LocalTarget {
    /// Serves requests by `service` directly, without a socket. Upgrades work as in a server: the
    /// request carries hyper's `OnUpgrade`.
    pub fn service<S, B>(service: S) -> Self
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BodyError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self::Service(InProcess(Arc::new(move |request| {
            let mut service = service.clone();
            Box::pin(async move {
                std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
                let response = service.call(request).await.map_err(Into::into)?;
                Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
            })
        })))
    }

    /// The scheme and the authority under which the local server knows itself.
    pub(super) fn address(&self) -> Option<(uri::Scheme, uri::Authority)> {
        match self {
            Self::Http(url) => {
                let scheme = if url.scheme() == "https" { uri::Scheme::HTTPS } else { uri::Scheme::HTTP };
                // `Position` gives host and port without user information.
                let authority = url[url::Position::BeforeHost..url::Position::AfterPort].parse().ok()?;
                Some((scheme, authority))
            }
            Self::Unix(_) | Self::Service(_) => {
                Some((uri::Scheme::HTTP, uri::Authority::from_static("localhost")))
            }
        }
    }

    /// What is put before every path.
    pub(super) fn base_path(&self) -> &str {
        match self {
            Self::Http(url) => url.path().trim_end_matches('/'),
            Self::Unix(_) | Self::Service(_) => "",
        }
    }
}

/// Ends one connection to the local server from outside, and knows whether it was ever of use.
#[derive(Debug, Default)]
pub struct Abort {
    aborted: AtomicBool,
    answered: AtomicBool,
    waker: AtomicWaker,
}

impl Abort {
    pub(super) fn now(&self) {
        self.aborted.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// A response came on this connection: the next request that gets it gets it from the pool.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Release);
    }

    fn check(&self) -> io::Result<()> {
        if self.aborted.load(Ordering::Acquire) {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }
}

/// Whether the request that failed had gone out on a connection from the pool.
pub(super) fn was_reused(error: &hyper_util::client::legacy::Error) -> bool {
    error.connect_info().and_then(abort_of).is_some_and(|abort| abort.answered.load(Ordering::Acquire))
}

fn abort_of(connected: &Connected) -> Option<Arc<Abort>> {
    let mut extras = http::Extensions::new();
    connected.get_extras(&mut extras);
    extras.remove()
}

/// Watches over an upload: when it is dropped before it is over, the connection ends. hyper alone would
/// first wait until the local server has taken what is buffered, and it may never.
pub(super) struct Upload {
    capture: CaptureConnection,
    over: Arc<AtomicBool>,
    /// Before the answer the connection is nobody else's, whatever became of the body.
    pub(super) answered: bool,
}

impl Upload {
    /// Watches over the upload of `request`, whose body sets `over` at its end.
    pub(super) fn new(request: &mut Request<RequestBody>) -> Self {
        let over = request.body().over();
        Self { capture: capture_connection(request), over, answered: false }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.answered && self.over.load(Ordering::Acquire) {
            return;
        }
        if let Some(abort) = self.capture.connection_metadata().as_ref().and_then(abort_of) {
            abort.now();
        }
    }
}

/// What the pool holds: the client of hyper-util over [`Connector`].
pub type Pool = Client<Connector, RequestBody>;

/// Makes the pool for a target. `tls` says whom to trust when the local server is `https`.
pub fn pool(target: &LocalTarget, tls: rustls::ClientConfig) -> Pool {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.enforce_http(false);
    let tcp = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let connector = match target {
        LocalTarget::Unix(path) => Connector::Unix(path.clone()),
        LocalTarget::Http(_) | LocalTarget::Service(_) => Connector::Tcp(tcp),
    };
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .retry_canceled_requests(true)
        .set_host(false)
        .http1_max_buf_size(HEAD)
        .http1_max_headers(crate::serve::FIELDS)
        .build(connector)
}

/// Connects to the local server.
#[derive(Clone)]
pub enum Connector {
    /// By TCP, with TLS where the scheme says so.
    Tcp(HttpsConnector<HttpConnector>),
    /// By a Unix socket, whatever the URI.
    Unix(PathBuf),
}

impl Service<Uri> for Connector {
    type Response = LocalConnection;
    type Error = BodyError;
    type Future = Pin<Box<dyn Future<Output = Result<LocalConnection, BodyError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_ready(cx),
            Self::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting: Pin<Box<dyn Future<Output = Result<Box<dyn Socket>, BodyError>> + Send>> = match self
        {
            Self::Tcp(tcp) => {
                let connecting = tcp.call(uri);
                Box::pin(async { Ok(Box::new(connecting.await?) as Box<dyn Socket>) })
            }
            Self::Unix(path) => {
                let path = path.clone();
                Box::pin(async move {
                    Ok(Box::new(TokioIo::new(platform::connect_unix(&path).await?)) as Box<dyn Socket>)
                })
            }
        };
        // Around TCP, TLS and the resolver together.
        Box::pin(async {
            let socket = tokio::time::timeout(2 * CONNECT, connecting)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(LocalConnection { socket, abort: Arc::default() })
        })
    }
}

trait Socket: Read + Write + Send + Unpin {}
impl<T: Read + Write + Send + Unpin> Socket for T {}

/// A connection to the local server that can be ended from outside.
pub struct LocalConnection {
    socket: Box<dyn Socket>,
    abort: Arc<Abort>,
}

impl Connection for LocalConnection {
    fn connected(&self) -> Connected {
        // The client puts it into the extensions of every response of this connection.
        Connected::new().extra(self.abort.clone())
    }
}

impl Read for LocalConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // Registered before it is checked, so that no abort is missed in between.
        self.abort.waker.register(cx.waker());
        self.abort.check()?;
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl Write for LocalConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.abort.check()?;
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.abort.check()?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.abort.check()?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.abort.check()?;
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }
}

/// The value of `Host` for an authority.
pub(super) fn host_value(authority: &uri::Authority) -> Option<HeaderValue> {
    HeaderValue::from_str(authority.as_str()).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_from_texts() {
        for (text, shown, authority, base) in [
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000", "127.0.0.1:3000", ""),
            ("http://localhost:80/", "http://localhost", "localhost", ""),
            ("https://[::1]:8443/app/", "https://[::1]:8443/app", "[::1]:8443", "/app"),
            ("unix:/run/app.sock", "unix:/run/app.sock", "localhost", ""),
            ("unix:///run/app.sock", "unix:/run/app.sock", "localhost", ""),
        ] {
            let target: LocalTarget = text.parse().unwrap();
            assert_eq!(target.to_string(), shown);
            assert_eq!(target.address().unwrap().1, authority);
            assert_eq!(target.base_path(), base);
        }
        for text in [
            "",
            "3000",
            "localhost:3000",
            "ftp://x/",
            "http://u:p@x/",
            "http://x/?a",
            "unix:sock",
            "unix://host/sock",
            "file:///x",
        ] {
            assert!(text.parse::<LocalTarget>().is_err(), "{text}");
        }
    }
}
