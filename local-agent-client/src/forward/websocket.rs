//! Opens a WebSocket to the local server, for an agent that stands in between and speaks it itself
//! (PROTOCOL.md section 4.5). Upgrades that nobody looks into are joined by [`Forwarder::forward`].
//!
//! The handshake towards the local server is the agent's own: the browser's key means nothing here, and
//! no extension is offered, so that messages are what they are.

use super::{Forwarder, LocalTarget, RequestBody, body::Source, local::InProcess, policy};
use crate::refusal::Refusal;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use relay_protocol::problem::Code;
use std::{io, pin::Pin, time::Duration};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};
use tokio_util::task::AbortOnDropHandle;

/// How long the local server may take for its handshake: as long as a browser would wait, and no longer.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Buffer between this program's two ends of a WebSocket to a service inside it.
const IN_PROCESS: usize = 64 * 1024;

/// A WebSocket to the local server.
pub type LocalSocket = WebSocketStream<TokioIo<Upgraded>>;

/// The body of a service's answer.
type Answer = UnsyncBoxBody<Bytes, io::Error>;

/// What the local server said to the upgrade.
pub enum Opened {
    /// It switched. The headers are its own, hop-by-hop ones removed.
    Switched {
        /// Of its 101.
        headers: HeaderMap,
        /// The connection.
        socket: Box<LocalSocket>,
        /// What keeps a connection inside this program going.
        served: Option<AbortOnDropHandle<()>>,
    },
    /// It answered with this status instead.
    Refused(StatusCode, HeaderMap),
}

impl Forwarder {
    /// Opens a WebSocket for a request that was `caller`'s indeed. `config` bounds what it takes.
    ///
    /// # Errors
    /// When the local server gives no answer, or one that is no WebSocket.
    pub async fn open_websocket(
        &self,
        mut parts: Parts,
        caller: policy::Caller,
        config: WebSocketConfig,
    ) -> Result<Opened, Refusal> {
        let offered =
            parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect::<Vec<_>>();
        let key = generate_key();
        policy::request(&self.policy, caller, &mut parts.headers);
        let headers = &mut parts.headers;
        for name in [header::SEC_WEBSOCKET_EXTENSIONS, header::CONTENT_LENGTH, header::TE] {
            headers.remove(name);
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(header::SEC_WEBSOCKET_KEY, key.parse().map_err(|_| self.not_a_websocket("no key"))?);
        parts.method = Method::GET;
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        let host = parts.headers.get(header::HOST).cloned();
        let asked = self.ask(parts);
        let (mut response, served) = tokio::time::timeout(HANDSHAKE, asked).await.map_err(|_| {
            self.stats.failed(format!("{} did not answer a WebSocket handshake", self.target));
            Refusal::new(
                Code::ResponseTimeout,
                "The local server did not answer the WebSocket handshake in time.",
            )
        })??;
        let mut headers = std::mem::take(response.headers_mut());
        let hop = policy::response(&self.policy, host.as_ref(), &mut headers);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Opened::Refused(response.status(), headers));
        }
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        if !hop.upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
            || text(header::SEC_WEBSOCKET_ACCEPT) != Some(&derive_accept_key(key.as_bytes()))
            || headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
            || !is_offered(headers.get(header::SEC_WEBSOCKET_PROTOCOL), &offered)
        {
            return Err(self.not_a_websocket("its handshake does not answer the one that it was sent"));
        }
        headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        let upgraded = tokio::time::timeout(HANDSHAKE, hyper::upgrade::on(response));
        let Ok(Ok(upgraded)) = upgraded.await else {
            return Err(self.not_a_websocket("the connection ended with the handshake"));
        };
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
        Ok(Opened::Switched { headers, socket: Box::new(socket), served })
    }

    async fn ask(
        &self,
        mut parts: Parts,
    ) -> Result<(Response<Incoming>, Option<AbortOnDropHandle<()>>), Refusal> {
        match &self.target {
            LocalTarget::Http(_) | LocalTarget::Unix(_) => {
                parts.uri = self.uri(parts.uri.path_and_query())?;
                let request = Request::from_parts(parts, RequestBody::empty(self.stats.clone()));
                let response = self.pool.request(request).await.map_err(|error| self.failed(&error))?;
                Ok((response, None))
            }
            LocalTarget::Service(service) => {
                let asked = self.in_process(service.clone(), parts).await;
                asked.map(|(response, served)| (response, Some(served))).map_err(|error| {
                    self.stats.failed(format!("the service failed: {error}"));
                    Refusal::new(Code::LocalServerFailed, "The program that answers here failed.")
                })
            }
        }
    }

    /// A service has no connection of its own that could switch: it gets one, in memory.
    async fn in_process(
        &self,
        service: InProcess,
        parts: Parts,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), hyper::Error> {
        let (ours, theirs) = tokio::io::duplex(IN_PROCESS);
        let stats = self.stats.clone();
        let serve = hyper::service::service_fn(move |request: Request<Incoming>| {
            let stats = stats.clone();
            let answer = service.call(request.map(|body| RequestBody::new(Source::plain(body), stats, None)));
            // Types with a name: the compiler does not prove what is spawned to be `Send` otherwise.
            let answer: Pin<Box<dyn Future<Output = io::Result<Response<Answer>>> + Send>> =
                Box::pin(async {
                    let answer = answer.await.map_err(io::Error::other)?;
                    Ok(answer.map(|body| body.map_err(io::Error::other as fn(_) -> _).boxed_unsync()))
                });
            answer
        });
        let server = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(theirs), serve)
            .with_upgrades();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await?;
        let served = AbortOnDropHandle::new(tokio::spawn(async move {
            // Both report what went wrong to the request, or end the WebSocket.
            let _ = tokio::join!(server, connection.with_upgrades());
        }));
        let request = Request::from_parts(parts, Empty::<Bytes>::new());
        Ok((sender.send_request(request).await?, served))
    }

    fn not_a_websocket(&self, why: &str) -> Refusal {
        self.stats.failed(format!("{} does not speak WebSocket: {why}", self.target));
        Refusal::new(
            Code::LocalServerFailed,
            "The local server switched to something that is not the WebSocket that was asked for.",
        )
    }
}

/// Whether the chosen sub-protocol, if any, is one of those that the browser offered.
fn is_offered(chosen: Option<&HeaderValue>, offered: &[HeaderValue]) -> bool {
    let Some(chosen) = chosen else { return true };
    let mut names =
        offered.iter().flat_map(|line| line.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    names.any(|name| name == chosen.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_offered_protocol_can_be_chosen() {
        let value = HeaderValue::from_static;
        let offered = [value("a, b"), value("c")];
        for (chosen, fine) in
            [(None, true), (Some("b"), true), (Some("c"), true), (Some("d"), false), (Some("a, b"), false)]
        {
            assert_eq!(is_offered(chosen.map(value).as_ref(), &offered), fine, "{chosen:?}");
        }
    }
}
