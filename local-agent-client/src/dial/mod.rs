//! Opens a WebSocket to the relay: name, TCP, proxy, TLS, handshake, each with a deadline.
//!
//! The network may be lying until TLS has verified the relay, and the relay may be something else
//! than a relay; so the handshake is checked word for word, and what is read of a refusal is
//! bounded. No certificate that does not verify is ever accepted, and no redirect followed: the token would
//! go along.

pub mod refusal;
pub mod tls;
pub mod url;

pub use refusal::Refusal;
pub use url::{RelayUrl, RelayUrlError};

use crate::{
    backoff::Cause,
    platform,
    token::{Token, TokenError},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::{
    client::{
        legacy::connect::{HttpConnector, proxy::Tunnel},
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use relay_protocol::{
    headers::X_RELAY_HOST_ID,
    tunnel::{self, Form, Hello, SUBPROTOCOL},
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};
use tokio_util::task::AbortOnDropHandle;
use tower_service::Service;

/// For the name, TCP, and the proxy's answer.
const CONNECT: Duration = Duration::from_secs(10);
/// For TLS and the WebSocket handshake.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// When the kernel begins to ask whether the peer is still there. The tunnel's ping is sooner; this one is
/// for the time in which nothing else looks, as during the handshake.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Bytes of a refusal that are read.
const MAX_REFUSAL: usize = 16 * 1024;

/// What a tunnel runs over: TCP or TLS, directly or through a proxy.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}
/// Any [`Transport`].
pub type Wire = Box<dyn Transport>;

/// A WebSocket to the relay whose handshake is done.
pub struct Dialed {
    /// The socket.
    pub socket: WebSocketStream<Wire>,
    /// What its messages mean.
    pub form: Form,
    /// The id of the host that the tunnel serves, when the relay told.
    pub host_id: Option<String>,
}

impl std::fmt::Debug for Dialed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialed")
            .field("form", &self.form)
            .field("host_id", &self.host_id)
            .finish_non_exhaustive()
    }
}

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no token to show.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The relay's URL cannot be dialled.
    #[error("the relay's URL cannot be dialled: {0}")]
    Url(String),
    /// TCP, or the name.
    #[error("{to} cannot be reached: {reason}")]
    Connect {
        /// The relay or the proxy.
        to: String,
        /// Why.
        reason: String,
    },
    /// The proxy did not let us through.
    #[error("the proxy {proxy} did not connect: {reason}")]
    Proxy {
        /// The proxy, without its credentials.
        proxy: String,
        /// Why.
        reason: String,
    },
    /// A step took too long.
    #[error("{0} took longer than {1:?}")]
    Timeout(&'static str, Duration),
    /// TLS failed; a certificate that does not verify among other things.
    #[error("no secure connection to the relay: {0}")]
    Tls(io::Error),
    /// The connection broke during the handshake.
    #[error("the connection broke during the handshake: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer was no WebSocket handshake that we can go on with.
    #[error("what answers is no relay: {0}")]
    NotARelay(&'static str),
    /// The relay said no.
    #[error("{0}")]
    Refused(Refusal),
}

impl DialError {
    /// What the back-off makes of it.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Refused(refusal) => refusal.cause(),
            _ => Cause::Unreachable,
        }
    }

    /// Whether another token might change it.
    pub fn is_about_the_token(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_about_the_token(),
            Self::Token(_) => true,
            _ => false,
        }
    }
}

/// Dials one relay as one host.
pub struct Dialer {
    /// Where to.
    pub relay: RelayUrl,
    /// This machine's stable id.
    pub machine_id: String,
    /// The name that people see.
    pub name: String,
    /// Whom to trust.
    pub tls: Arc<rustls::ClientConfig>,
    /// The proxies of the environment.
    pub proxies: Matcher,
}

impl Dialer {
    /// Opens a WebSocket.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, token: &Token) -> Result<Dialed, DialError> {
        let authorization = token.header()?;
        let wire = timeout(CONNECT, self.connect())
            .await
            .map_err(|_| DialError::Timeout("connecting", CONNECT))??;
        let secured = async {
            let wire = if self.relay.is_secure() { self.secure(wire).await? } else { wire };
            self.shake_hands(wire, authorization).await
        };
        timeout(HANDSHAKE, secured)
            .await
            .map_err(|_| DialError::Timeout("the handshake with the relay", HANDSHAKE))?
    }

    /// TCP, through a proxy where the environment says so.
    async fn connect(&self) -> Result<Wire, DialError> {
        let destination: Uri =
            self.relay.destination().parse().map_err(|error| DialError::Url(format!("{error}")))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        if let Some(proxy) = self.proxies.intercept(&destination) {
            return self.through(&proxy, tcp, destination).await;
        }
        let connected = call(&mut tcp, destination).await;
        let socket = connected
            .map_err(|error| DialError::Connect { to: self.relay.authority(), reason: innermost(&error) })?
            .into_inner();
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
            .with_tls_config((*self.tls).clone())
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

    async fn secure(&self, wire: Wire) -> Result<Wire, DialError> {
        let name = self
            .relay
            .host()
            .try_into()
            .map_err(|_| DialError::Url("its host is no name that a certificate can have".to_owned()))?;
        let mut config = (*self.tls).clone();
        // A WebSocket needs HTTP/1.1; a proxy in front of the relay might choose h2.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, wire)
            .await
            .map_err(DialError::Tls)?;
        Ok(Box::new(stream))
    }

    async fn shake_hands(&self, wire: Wire, authorization: HeaderValue) -> Result<Dialed, DialError> {
        let key = generate_key();
        let request = self.request(&key, authorization)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await?;
        // Ends with this function, unless the upgrade has taken the socket out of it.
        let driven = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(DialError::Refused(read_refusal(response).await));
        }
        let form = check(response.headers(), &key)?;
        let host_id =
            response.headers().get(X_RELAY_HOST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let upgraded = hyper::upgrade::on(response).await?;
        drop(driven);
        let parts = upgraded
            .downcast::<TokioIo<Wire>>()
            .map_err(|_| DialError::NotARelay("the connection was replaced"))?;
        let config = tunnel::websocket_config();
        let socket = WebSocketStream::from_partially_read(
            parts.io.into_inner(),
            parts.read_buf.to_vec(),
            Role::Client,
            Some(config),
        )
        .await;
        Ok(Dialed { socket, form, host_id })
    }

    fn request(&self, key: &str, authorization: HeaderValue) -> Result<Request<Empty<Bytes>>, DialError> {
        let version = env!("CARGO_PKG_VERSION");
        Request::get(self.relay.connect_path(&self.machine_id, &self.name, version))
            .header(header::HOST, self.relay.authority())
            .header(header::USER_AGENT, concat!("local-agent-client/", env!("CARGO_PKG_VERSION")))
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, key)
            .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
            .body(Empty::new())
            .map_err(|error| DialError::Url(error.to_string()))
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

/// Checks the relay's side of the handshake (RFC 6455 section 4.1), and reads the form from it. A relay that
/// selects no sub-protocol does not know ours: the tunnel is plain then.
fn check(headers: &HeaderMap, key: &str) -> Result<Form, DialError> {
    let has = |name, token: &str| {
        headers.get_all(name).iter().any(|value: &HeaderValue| {
            value
                .as_bytes()
                .split(|b| *b == b',')
                .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        })
    };
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err(DialError::NotARelay("it switched to something else than a WebSocket"));
    }
    let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(DialError::NotARelay("it accepted a WebSocket that nobody asked for"));
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err(DialError::NotARelay("it uses a WebSocket extension that was not offered"));
    }
    match headers.get(header::SEC_WEBSOCKET_PROTOCOL).map(HeaderValue::as_bytes) {
        None => Ok(Form::Plain),
        Some(selected) if selected == SUBPROTOCOL.as_bytes() => {
            Ok(Form::V1(Hello::new("local-agent-client", env!("CARGO_PKG_VERSION"), None)))
        }
        Some(_) => Err(DialError::NotARelay("it selected a sub-protocol that was not offered")),
    }
}

async fn read_refusal(response: Response<Incoming>) -> Refusal {
    let (parts, body) = response.into_parts();
    // What does not arrive, or is longer, is not worth waiting for: the status has said it.
    let body = match timeout(Duration::from_secs(2), Limited::new(body, MAX_REFUSAL).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Bytes::new(),
    };
    Refusal::read(parts.status, &parts.headers, &body, std::time::SystemTime::now())
}

/// The options of a tunnel in this form.
pub fn tunnel_options(form: Form) -> tunnel::Options {
    tunnel::Options::new(tunnel::Role::Agent, form)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_relays_side_of_the_handshake_is_checked() {
        // The key and its answer are the example of RFC 6455 section 1.3.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let answer = |changes: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in good.iter().chain(changes) {
                if value.is_empty() {
                    headers.remove(*name);
                } else {
                    headers.insert(*name, value.parse().unwrap());
                }
            }
            check(&headers, key)
        };
        assert_eq!(answer(&[]).unwrap(), Form::Plain);
        assert!(
            matches!(answer(&[("sec-websocket-protocol", SUBPROTOCOL)]).unwrap(), Form::V1(hello) if hello.name == "local-agent-client")
        );
        for bad in [
            ("upgrade", "h2c"),
            ("upgrade", ""),
            ("connection", "close"),
            ("sec-websocket-accept", "AAAA"),
            ("sec-websocket-accept", ""),
            ("sec-websocket-protocol", "relay.tunnel.v2"),
            ("sec-websocket-extensions", "permessage-deflate"),
        ] {
            assert!(matches!(answer(&[bad]), Err(DialError::NotARelay(_))), "{bad:?}");
        }
    }
}
