//! The way to the relay, for the tunnel and for signing in: name, TCP, proxy, TLS.

use super::{DialError, RelayUrl};
use crate::platform;
use http::Uri;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::{
    client::{
        legacy::connect::{HttpConnector, proxy::Tunnel},
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tower_service::Service;

/// For the name, TCP, and the proxy's answer.
const CONNECT: Duration = Duration::from_secs(10);
/// When the kernel begins to ask whether the peer is still there. The tunnel's ping is sooner; this one is
/// for the time in which nothing else looks, as during the handshake.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// What a tunnel runs over: TCP or TLS, directly or through a proxy.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}
/// Any [`Transport`].
pub type Wire = Box<dyn Transport>;

/// How to get to one relay.
#[derive(Clone, Copy)]
pub struct Route<'a> {
    /// Where to.
    pub relay: &'a RelayUrl,
    /// One of its name's addresses; otherwise any. A proxy looks for itself.
    pub address: Option<SocketAddr>,
    /// Whom to trust.
    pub tls: &'a Arc<rustls::ClientConfig>,
    /// The proxies of the environment.
    pub proxies: &'a Matcher,
}

impl Route<'_> {
    /// TCP, through a proxy where the environment says so.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn connect(&self) -> Result<Wire, DialError> {
        timeout(CONNECT, self.try_connect()).await.map_err(|_| DialError::Timeout("connecting", CONNECT))?
    }

    async fn try_connect(&self) -> Result<Wire, DialError> {
        let destination: Uri =
            self.relay.destination().parse().map_err(|error| DialError::Url(format!("{error}")))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        if let Some(proxy) = self.proxies.intercept(&destination) {
            return self.through(&proxy, tcp, destination).await;
        }
        let (destination, to) = match self.address {
            Some(address) => (
                format!("http://{address}")
                    .parse::<Uri>()
                    .map_err(|error| DialError::Url(format!("{error}")))?,
                format!("{} at {address}", self.relay.authority()),
            ),
            None => (destination, self.relay.authority()),
        };
        let connected = call(&mut tcp, destination).await;
        let socket =
            connected.map_err(|error| DialError::Connect { to, reason: innermost(&error) })?.into_inner();
        platform::tune(&socket);
        Ok(Box::new(socket))
    }

    async fn through(
        &self,
        proxy: &Intercept,
        tcp: HttpConnector,
        destination: Uri,
    ) -> Result<Wire, DialError> {
        let shown = proxy.uri().to_string();
        if !matches!(proxy.uri().scheme_str(), Some("http" | "https")) {
            return Err(DialError::Proxy {
                proxy: shown,
                reason: "only http and https proxies are supported".to_owned(),
            });
        }
        let to_proxy = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config((**self.tls).clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy);
        if let Some(credentials) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(credentials.clone());
        }
        let connected = call(&mut tunnel, destination).await;
        let stream =
            connected.map_err(|error| DialError::Proxy { proxy: shown, reason: innermost(&error) })?;
        platform::tune(match &stream {
            MaybeHttpsStream::Http(tcp) => tcp.inner(),
            MaybeHttpsStream::Https(tls) => tls.inner().get_ref().0.inner().inner(),
        });
        Ok(Box::new(TokioIo::new(stream)))
    }

    /// The addresses of the relay's name, in the order in which the system prefers them. None where a proxy looks
    /// for itself, or where the name cannot be resolved: connecting tells why.
    pub async fn addresses(&self) -> Vec<SocketAddr> {
        let Ok(destination) = self.relay.destination().parse::<Uri>() else { return Vec::new() };
        if self.proxies.intercept(&destination).is_some() {
            return Vec::new();
        }
        let port = destination.port_u16().unwrap_or_default();
        let found = timeout(CONNECT, tokio::net::lookup_host((self.relay.host(), port))).await;
        found.map_or_else(|_| Vec::new(), |found| found.map_or_else(|_| Vec::new(), Iterator::collect))
    }

    /// TLS over it, where the relay's URL wants that. The caller sets the deadline.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn secure(&self, wire: Wire) -> Result<Wire, DialError> {
        if !self.relay.is_secure() {
            return Ok(wire);
        }
        let name = self
            .relay
            .host()
            .try_into()
            .map_err(|_| DialError::Url("its host is no name that a certificate can have".to_owned()))?;
        let mut config = (**self.tls).clone();
        // A WebSocket needs HTTP/1.1; a proxy in front of the relay might choose h2.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, wire)
            .await
            .map_err(DialError::Tls)?;
        Ok(Box::new(stream))
    }
}

async fn call<S: Service<Uri>>(service: &mut S, uri: Uri) -> Result<S::Response, S::Error> {
    std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(uri).await
}

/// The text of the first cause: the outer ones say only that something failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
