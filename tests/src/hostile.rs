//! A relay that may do anything: it stands between a browser and the real relay, sees all that a relay
//! sees of pairing, sessions, exchanges and WebSockets, and does with it what the test says.
//!
//! It holds whole messages rather than passing streams on, because what it does to them is the point:
//! alter, answer in their place, keep for later, drop.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::client::{self, Connection};

/// What becomes of a request.
#[derive(Debug)]
pub enum Verdict {
    /// It goes to the relay, as it is now.
    Pass,
    /// It is answered in the relay's place, and never reaches it.
    Answer(Response<Bytes>),
    /// The connection ends without an answer.
    Drop,
}

/// What the hostile relay does. Everything passes unless a method says otherwise.
pub trait Deeds: Send + Sync + 'static {
    /// A request on its way to the agent.
    fn request(&self, _request: &mut Request<Bytes>) -> Verdict {
        Verdict::Pass
    }
    /// A response on its way to the browser, and the target that was asked for.
    fn response(&self, _target: &str, _response: &mut Response<Bytes>) {}
    /// A WebSocket message on its way to the agent: what is sent in its place.
    fn to_agent(&self, message: Message) -> Vec<Message> {
        vec![message]
    }
    /// A WebSocket message on its way to the browser.
    fn to_browser(&self, message: Message) -> Vec<Message> {
        vec![message]
    }
}

/// Only listens.
#[derive(Debug)]
pub struct Listens;

impl Deeds for Listens {}

/// Which way something went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From whoever connected: a browser, or the agent with its tunnel.
    In,
    /// To it.
    Out,
}

/// Everything that went through, in both directions, as bytes to be searched.
#[derive(Debug, Default, Clone)]
pub struct Seen(Arc<Mutex<Vec<(Way, Vec<u8>)>>>);

impl Seen {
    fn note(&self, way: Way, bytes: &[u8]) {
        self.0.lock().expect("nobody panicked").push((way, bytes.to_vec()));
    }

    fn note_headers(&self, way: Way, headers: &HeaderMap) {
        for (name, value) in headers {
            self.note(way, name.as_str().as_bytes());
            self.note(way, value.as_bytes());
        }
    }

    /// Each piece that was seen: methods, targets, statuses, header names and values, bodies, messages.
    pub fn pieces(&self) -> Vec<Vec<u8>> {
        self.0.lock().expect("nobody panicked").iter().map(|(_, piece)| piece.clone()).collect()
    }

    /// All that went one way as one text, so that what was cut into pieces is found as well.
    pub fn joined(&self, way: Way) -> Vec<u8> {
        let seen = self.0.lock().expect("nobody panicked");
        seen.iter().filter(|(went, _)| *went == way).flat_map(|(_, piece)| piece.clone()).collect()
    }

    /// Whether any piece contains these bytes.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.pieces().iter().any(|piece| piece.windows(needle.len()).any(|part| part == needle))
    }
}

/// The hostile relay.
#[derive(Debug)]
pub struct Hostile {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it has seen.
    pub seen: Seen,
    task: JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hostile {
    /// Starts one in front of the real relay.
    pub async fn start(relay: SocketAddr, deeds: impl Deeds) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let seen = Seen::default();
        let task = tokio::spawn(accept(listener, relay, Arc::new(deeds), seen.clone()));
        Self { addr, seen, task }
    }
}

async fn accept(listener: TcpListener, relay: SocketAddr, deeds: Arc<dyn Deeds>, seen: Seen) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        tcp.set_nodelay(true).ok();
        let (deeds, seen) = (deeds.clone(), seen.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let (deeds, seen) = (deeds.clone(), seen.clone());
                async move { serve(request, relay, deeds, seen).await }
            });
            let server = hyper::server::conn::http1::Builder::new();
            server.serve_connection(TokioIo::new(tcp), service).with_upgrades().await.ok();
        });
    }
}

/// The error ends the connection without an answer.
type Served = Result<Response<Full<Bytes>>, anyhow::Error>;

async fn serve(request: Request<Incoming>, relay: SocketAddr, deeds: Arc<dyn Deeds>, seen: Seen) -> Served {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let upgrade = upgrade.filter(|_| parts.headers.contains_key(header::UPGRADE));
    let body = body.collect().await?.to_bytes();
    // The bodies that it holds are whole, so their framing is its own.
    parts.headers.remove(header::TRANSFER_ENCODING);
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut request = Request::from_parts(parts, body);
    let target = request.uri().to_string();
    seen.note(Way::In, request.method().as_str().as_bytes());
    seen.note(Way::In, target.as_bytes());
    seen.note_headers(Way::In, request.headers());
    seen.note(Way::In, request.body());
    match deeds.request(&mut request) {
        Verdict::Pass => {}
        Verdict::Answer(response) => return Ok(response.map(Full::new)),
        Verdict::Drop => anyhow::bail!("dropped"),
    }
    let mut connection = Connection::open(relay).await?;
    let mut response = connection.send(request.map(client::full)).await?;
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(browser)) = (response.status(), upgrade) {
        let agent = hyper::upgrade::on(&mut response);
        seen.note_headers(Way::Out, response.headers());
        tokio::spawn(async move {
            if let (Ok(browser), Ok(agent)) = (browser.await, agent.await) {
                let browser =
                    WebSocketStream::from_raw_socket(TokioIo::new(browser), Role::Server, None).await;
                let agent = WebSocketStream::from_raw_socket(TokioIo::new(agent), Role::Client, None).await;
                between(browser, agent, deeds, seen).await;
            }
            drop(connection);
        });
        return Ok(response.map(|_| Full::default()));
    }
    let (mut parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    parts.headers.remove(header::TRANSFER_ENCODING);
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut response = Response::from_parts(parts, body);
    seen.note(Way::Out, response.status().as_str().as_bytes());
    seen.note_headers(Way::Out, response.headers());
    seen.note(Way::Out, response.body());
    deeds.response(&target, &mut response);
    Ok(response.map(Full::new))
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Passes messages on until either side ends; then both end.
async fn between(browser: Socket, agent: Socket, deeds: Arc<dyn Deeds>, seen: Seen) {
    let (mut to_browser, mut from_browser) = browser.split();
    let (mut to_agent, mut from_agent) = agent.split();
    loop {
        let sent = tokio::select! {
            message = from_browser.next() => {
                let Some(Ok(message)) = message else { break };
                seen.note(Way::In, &message.clone().into_data());
                let mut sent = Ok(());
                for message in deeds.to_agent(message) {
                    sent = sent.and(to_agent.send(message).await);
                }
                sent
            }
            message = from_agent.next() => {
                let Some(Ok(message)) = message else { break };
                seen.note(Way::Out, &message.clone().into_data());
                let mut sent = Ok(());
                for message in deeds.to_browser(message) {
                    sent = sent.and(to_browser.send(message).await);
                }
                sent
            }
        };
        if sent.is_err() {
            break;
        }
    }
    to_browser.close().await.ok();
    to_agent.close().await.ok();
}
