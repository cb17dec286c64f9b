//! Opens a WebSocket to the relay: name, TCP, proxy, TLS, handshake, each with a deadline.
//!
//! The network may be lying until TLS has verified the relay, and the relay may be something else
//! than a relay; so the handshake is checked word for word, and what is read of a refusal is
//! bounded. No certificate that does not verify is ever accepted, and no redirect followed: the token would
//! go along.

pub mod refusal;
pub mod route;
pub mod tls;
pub mod url;

pub use refusal::Refusal;
pub use route::{Route, Transport, Wire};
pub use url::{RelayUrl, RelayUrlError};

use crate::{
    backoff::Cause,
    token::{Token, TokenError},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::{client::proxy::matcher::Matcher, rt::TokioIo};
use relay_protocol::{
    headers::{X_RELAY_HOST_ID, X_RELAY_ID, X_RELAY_OTHERS},
    tunnel::{self, Form, Hello, SUBPROTOCOL},
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};
use tokio_util::task::AbortOnDropHandle;

/// For TLS and the WebSocket handshake.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Characters of a relay's id.
const MAX_RELAY_ID: usize = 64;
/// Bytes of a refusal that are read.
const MAX_REFUSAL: usize = 16 * 1024;

/// A WebSocket to the relay whose handshake is done.
pub struct Dialed {
    /// The socket.
    pub socket: WebSocketStream<Wire>,
    /// What its messages mean.
    pub form: Form,
    /// The id of the host that the tunnel serves, when the relay told.
    pub host_id: Option<String>,
    /// What the relay told of relays.
    pub told: Told,
}

/// What a relay tells of itself and of others. Nothing of it is believed yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Its own id.
    pub relay_id: Option<String>,
    /// Where others are, as it said it.
    pub others: Option<String>,
}

impl Told {
    fn read(headers: &HeaderMap) -> Self {
        let text =
            |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
        Self { relay_id: text(X_RELAY_ID).filter(|id| is_relay_id(id)), others: text(X_RELAY_OTHERS) }
    }
}

/// Whether a text is such as relays have for an id.
fn is_relay_id(text: &str) -> bool {
    (1..=MAX_RELAY_ID).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl std::fmt::Debug for Dialed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialed")
            .field("form", &self.form)
            .field("host_id", &self.host_id)
            .field("told", &self.told)
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
    /// Another relay than the one that was configured knows this host under another id.
    #[error(
        "the relay {relay} knows this host under the id {told}, the others under {known}: it does not share their database"
    )]
    OtherHost {
        /// Which relay.
        relay: String,
        /// Its id of this host.
        told: String,
        /// That of the others.
        known: String,
    },
}

impl DialError {
    /// What the back-off makes of it.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Refused(refusal) => refusal.cause(),
            Self::Token(TokenError::SignedOut(_)) | Self::OtherHost { .. } => Cause::Refused,
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
    /// The way to the relay.
    pub fn route(&self) -> Route<'_> {
        self.route_to(&self.relay, None)
    }

    /// The way to another relay, or to one address of one.
    pub fn route_to<'a>(&'a self, relay: &'a RelayUrl, address: Option<SocketAddr>) -> Route<'a> {
        Route { relay, address, tls: &self.tls, proxies: &self.proxies }
    }

    /// Opens a WebSocket.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, token: &Token) -> Result<Dialed, DialError> {
        self.dial_by(self.route(), token).await
    }

    /// Opens a WebSocket this way.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial_by(&self, route: Route<'_>, token: &Token) -> Result<Dialed, DialError> {
        let authorization = token.header()?;
        let wire = route.connect().await?;
        let secured = async { self.shake_hands(route.relay, route.secure(wire).await?, authorization).await };
        timeout(HANDSHAKE, secured)
            .await
            .map_err(|_| DialError::Timeout("the handshake with the relay", HANDSHAKE))?
    }

    async fn shake_hands(
        &self,
        relay: &RelayUrl,
        wire: Wire,
        authorization: HeaderValue,
    ) -> Result<Dialed, DialError> {
        let key = generate_key();
        let request = self.request(relay, &key, authorization)?;
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
        let told = Told::read(response.headers());
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
        Ok(Dialed { socket, form, host_id, told })
    }

    fn request(
        &self,
        relay: &RelayUrl,
        key: &str,
        authorization: HeaderValue,
    ) -> Result<Request<Empty<Bytes>>, DialError> {
        let version = env!("CARGO_PKG_VERSION");
        Request::get(relay.connect_path(&self.machine_id, &self.name, version))
            .header(header::HOST, relay.authority())
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
    fn a_relays_id_is_read_only_when_it_is_one() {
        let long = "x".repeat(MAX_RELAY_ID + 1);
        for (id, good) in [
            ("a", true),
            ("relay-1.eu_west", true),
            ("", false),
            ("a b", false),
            ("a,b", false),
            ("\u{e4}", false),
            (long.as_str(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(X_RELAY_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            headers.insert(X_RELAY_OTHERS, "https://b.example".parse().unwrap());
            let told = Told::read(&headers);
            assert_eq!(told.relay_id.as_deref(), good.then_some(id), "{id:?}");
            assert_eq!(told.others.as_deref(), Some("https://b.example"));
        }
    }

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
