//! A relay's end of a tunnel in memory, and local servers on real sockets.
#![allow(dead_code)]

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use local_agent_client::{
    LocalTarget, Trust,
    dial::{Dialed, Told, Wire, tls},
    forward::{Forwarder, Settings},
    gate::{Gate, Options as GateOptions},
    trust::Pairing,
    tunnel::Live,
};
use relay_protocol::tunnel::{self, Form, Handle, Options, Role};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol};

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A test that waits longer than this has failed.
pub const SOON: Duration = Duration::from_secs(10);

pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

pub fn empty() -> Body {
    full("")
}

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A gate that lets everything through which is not signed, and knows no browser.
pub fn gate(target: LocalTarget) -> Arc<Gate> {
    let pairing = Arc::new(Pairing::open("https://relay.example".to_owned(), None).unwrap());
    Gate::new(forwarder(target), pairing, GateOptions { trust: Trust::Relay, ..GateOptions::default() })
}

pub fn forwarder(target: LocalTarget) -> Arc<Forwarder> {
    forwarder_with(target, false)
}

pub fn forwarder_with(target: LocalTarget, preserve_host: bool) -> Arc<Forwarder> {
    tls::install_provider();
    let tls = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let relay_origin = "https://relay.example".to_owned();
    Forwarder::new(Settings { target, tls, relay_origin, preserve_host }).unwrap()
}

/// An agent's tunnel, and the relay's handle on it.
pub struct Pair {
    pub relay: Handle,
    pub live: Live,
    pub forwarder: Arc<Forwarder>,
    _driver: JoinHandle<tunnel::Ended>,
}

/// The two ends of a WebSocket in memory.
pub async fn sockets() -> (Dialed, WebSocketStream<tokio::io::DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    let wire: Wire = Box::new(ours);
    let socket = WebSocketStream::from_raw_socket(wire, protocol::Role::Client, None).await;
    let relay = WebSocketStream::from_raw_socket(theirs, protocol::Role::Server, None).await;
    (Dialed { socket, form: Form::Plain, host_id: None, told: Told::default() }, relay)
}

pub async fn pair(target: LocalTarget) -> Pair {
    pair_of(gate(target)).await
}

pub async fn pair_of(gate: Arc<Gate>) -> Pair {
    let forwarder = gate.forwarder().clone();
    let (dialed, socket) = sockets().await;
    let live = Live::start(dialed, gate.clone());
    let (relay, _, driver) = tunnel::start(socket, Options::new(Role::Relay, Form::Plain));
    Pair { relay, live, forwarder, _driver: tokio::spawn(driver.run()) }
}

/// An HTTP connection over a fresh stream. Dropping it resets the stream, as a relay does when its browser leaves.
pub struct Exchange {
    pub sender: SendRequest<Body>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Pair {
    pub async fn exchange(&self) -> Exchange {
        let stream = self.relay.open().await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        Exchange { sender, connection: tokio::spawn(async { connection.with_upgrades().await }) }
    }

    /// GET on a fresh stream: status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut exchange = self.exchange().await;
        let response = soon(exchange.sender.send_request(get(path))).await.unwrap();
        let status = response.status().as_u16();
        let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "relay.example").body(empty()).unwrap()
}

/// A local server whose every connection is handled by `serve`. Counts the connections.
pub async fn local<F, R>(serve: F) -> (LocalTarget, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(socket));
        }
    });
    (target, accepted)
}

/// A local server made of an axum router. Counts nothing.
pub async fn app(router: axum::Router) -> LocalTarget {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    target
}

/// Reads one request head, byte by byte so that nothing of the body goes with it.
pub async fn head(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}
