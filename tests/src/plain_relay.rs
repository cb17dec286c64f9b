//! A relay that does not know the sub-protocol: accepts the WebSocket, opens bare yamux streams,
//! speaks HTTP/1.1 on them, and sends nothing that an old relay would not send.

use std::{net::SocketAddr, sync::Arc};

use futures_util::StreamExt;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::handshake::server::{
    ErrorResponse, Request as WsRequest, Response as WsResponse,
};
use tokio_yamux::{Config, Control, Session};

use crate::{
    SOON,
    client::{Body, Connection},
    eventually,
    wire::Bytestream,
};

/// What an agent asked for when it dialled.
#[derive(Debug, Clone, Default)]
pub struct Dialled {
    /// Path and query.
    pub target: String,
    /// The headers.
    pub headers: http::HeaderMap,
}

/// The relay.
#[derive(Debug)]
pub struct PlainRelay {
    /// Where it listens.
    pub addr: SocketAddr,
    tunnels: Tunnels,
    task: JoinHandle<()>,
}

type Tunnels = Arc<Mutex<Vec<Tunnel>>>;

#[derive(Clone)]
struct Tunnel {
    dialled: Dialled,
    control: Control,
    abort: tokio::task::AbortHandle,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tunnel").field(&self.dialled).finish()
    }
}

impl Drop for PlainRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PlainRelay {
    /// Starts one; `text` sends what is UTF-8 as text messages.
    pub async fn start(text: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let tunnels = Tunnels::default();
        let task = tokio::spawn(accept(listener, Arc::clone(&tunnels), text));
        Self { addr, tunnels, task }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// How many agents have dialled so far.
    pub async fn dialled(&self) -> usize {
        self.tunnels.lock().await.len()
    }

    /// Waits for the `n`th agent (from 1) and tells how it dialled.
    pub async fn agent(&self, n: usize) -> Dialled {
        eventually("the agent dials", SOON, || async { self.dialled().await >= n }).await;
        self.tunnels.lock().await[n - 1].dialled.clone()
    }

    /// Opens a stream on the newest tunnel: an HTTP/1.1 connection.
    pub async fn connection(&self) -> Connection {
        let mut control = self.tunnels.lock().await.last().expect("an agent has dialled").control.clone();
        let stream = control.open_stream().await.expect("the agent takes streams");
        Connection::over(self.addr, stream).await.expect("HTTP over the stream")
    }

    /// Sends a request on a stream of its own.
    pub async fn send(&self, request: Request<Body>) -> Response<Incoming> {
        self.connection().await.send(request).await.expect("the agent answers")
    }

    /// Cuts the newest tunnel without a word.
    pub async fn cut(&self) {
        self.tunnels.lock().await.last().expect("an agent has dialled").abort.abort();
    }
}

async fn accept(listener: TcpListener, tunnels: Tunnels, text: bool) {
    let mut sessions = tokio::task::JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        tcp.set_nodelay(true).ok();
        let Some((dialled, io)) = handshake(tcp, text).await else { continue };
        let mut session = Session::new_server(io, Config::default());
        let control = session.control();
        let abort = sessions.spawn(async move { while let Some(Ok(_)) = session.next().await {} });
        tunnels.lock().await.push(Tunnel { dialled, control, abort });
    }
}

async fn handshake(tcp: TcpStream, text: bool) -> Option<(Dialled, Bytestream<TcpStream>)> {
    let mut dialled = Dialled::default();
    #[allow(clippy::result_large_err)] // The callback's type is tungstenite's.
    let look = |request: &WsRequest, response: WsResponse| -> Result<WsResponse, ErrorResponse> {
        dialled.target = request.uri().to_string();
        dialled.headers = request.headers().clone();
        Ok(response)
    };
    let ws = tokio_tungstenite::accept_hdr_async(tcp, look).await.ok()?;
    Some((dialled, Bytestream::new(ws, text)))
}
