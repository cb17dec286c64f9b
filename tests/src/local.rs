//! Local servers: an app that does what apps do, a recorder of exact bytes, and bare connections for
//! everything that a well-behaved server would not do.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{
        Path, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    response::Response,
    routing::{any, get},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::{
    client, hex,
    raw::{Head, RawBody, RawConn},
};

/// The largest WebSocket message of the echo, above the 16 MiB that must pass.
const MAX_WS_MESSAGE: usize = 32 << 20;

/// Bytes of one piece of a large body.
const PIECE: usize = 64 * 1024;

/// Connections that a server has seen.
#[derive(Debug, Default)]
pub struct Counts {
    open: AtomicUsize,
    accepted: AtomicUsize,
}

impl Counts {
    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Connections since the start.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn begin(self: &Arc<Self>) -> OpenConnection {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        OpenConnection(Arc::clone(self))
    }
}

struct OpenConnection(Arc<Counts>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct LocalServer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its connections.
    pub counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LocalServer {
    /// Serves a router over HTTP/1.1 with upgrades.
    pub async fn router(router: Router) -> Self {
        Self::router_on(SocketAddr::from(([127, 0, 0, 1], 0)), router).await
    }

    /// The same on a given address, for a server that comes back.
    pub async fn router_on(addr: SocketAddr, router: Router) -> Self {
        Self::start(addr, move |tcp| {
            let service = TowerToHyperService::new(router.clone());
            async move {
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), service)
                    .with_upgrades()
                    .await
                    .ok();
            }
        })
        .await
    }

    /// Hands every connection to the handler as it is.
    pub async fn raw<H, Fut>(handler: H) -> Self
    where
        H: Fn(RawConn) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::start(SocketAddr::from(([127, 0, 0, 1], 0)), move |tcp| handler(RawConn::new(tcp))).await
    }

    async fn start<H, Fut>(addr: SocketAddr, handler: H) -> Self
    where
        H: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let counts = Arc::new(Counts::default());
        let all = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).ok();
                let open = all.begin();
                let serve = handler(tcp);
                connections.spawn(async move {
                    serve.await;
                    drop(open);
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, counts, task }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops it at once, and returns when its port is free and its connections are closed.
    pub async fn stop(mut self) {
        self.task.abort();
        (&mut self.task).await.ok();
    }
}

/// A server that keeps every request as it came and answers each with the same bytes.
#[derive(Debug)]
pub struct Recorder {
    /// The server.
    pub server: LocalServer,
    seen: Seen,
}

type Seen = Arc<Mutex<Vec<(Head, RawBody)>>>;

/// `200` with a body of two bytes.
pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";

impl Recorder {
    /// Answers with [`OK`].
    pub async fn start() -> Self {
        Self::answering(OK).await
    }

    /// Answers with these bytes.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<Vec<u8>> = Arc::new(answer.into());
        let seen = Seen::default();
        let all = Arc::clone(&seen);
        let server = LocalServer::raw(move |mut conn| {
            let answer = Arc::clone(&answer);
            let all = Arc::clone(&all);
            async move {
                while let Some(head) = conn.head().await {
                    if head.header("expect").is_some() {
                        conn.write("HTTP/1.1 100 Continue\r\n\r\n").await.ok();
                    }
                    let body = conn.request_body(&head).await;
                    all.lock().expect("not poisoned").push((head, body));
                    if conn.write(answer.as_slice()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { server, seen }
    }

    /// Requests so far.
    pub fn count(&self) -> usize {
        self.seen.lock().expect("not poisoned").len()
    }

    /// The newest request.
    pub fn last(&self) -> (Head, RawBody) {
        self.seen.lock().expect("not poisoned").last().cloned().expect("a request has come")
    }

    /// Every request.
    pub fn all(&self) -> Vec<(Head, RawBody)> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

/// An app: `/hello`, `/digest` (of what is uploaded), `/big/{bytes}`, `/ws` (echo; the text
/// `close CODE REASON` closes with them), `/echo` (what came, as JSON).
pub fn app() -> Router {
    Router::new()
        .route("/", get(|| async { "root" }))
        .route("/hello", get(|| async { "hello" }))
        .route("/digest", any(digest))
        .route("/big/{bytes}", get(|Path(bytes): Path<u64>| async move { big_response(bytes) }))
        .route("/ws", get(|ws: WebSocketUpgrade| async { upgrade(ws) }))
        .route("/echo", any(echo))
}

async fn digest(request: Request<Body>) -> String {
    let mut body = request.into_body().into_data_stream();
    let (mut hash, mut len) = (Sha256::new(), 0);
    while let Some(data) = body.next().await {
        match data {
            Ok(data) => {
                hash.update(&data);
                len += data.len();
            }
            Err(error) => return format!("broken after {len}: {error}"),
        }
    }
    format!("{len} {}", hex(&hash.finalize()))
}

async fn echo(request: Request<Body>) -> axum::Json<serde_json::Value> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_WS_MESSAGE).await.unwrap_or_default();
    let headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    axum::Json(serde_json::json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    }))
}

/// A large body in pieces that are all different, so that a lost or repeated one shows in the digest.
pub fn big(bytes: u64) -> impl futures_util::Stream<Item = Bytes> + Send + 'static {
    let base = crate::noise(bytes, PIECE);
    futures_util::stream::unfold((0_u64, bytes), move |(n, left)| {
        let base = base.clone();
        async move {
            if left == 0 {
                return None;
            }
            let mut piece = BytesMut::with_capacity(PIECE);
            piece.put_u64(n);
            piece.extend_from_slice(&base[8..]);
            piece.truncate(usize::try_from(left.min(PIECE as u64)).expect("a piece fits"));
            let len = piece.len() as u64;
            Some((piece.freeze(), (n + 1, left - len)))
        }
    })
}

/// [`big`] as the body of an upload.
pub fn big_body(bytes: u64) -> client::Body {
    StreamBody::new(big(bytes).map(|piece| Ok::<_, Infallible>(Frame::data(piece)))).boxed_unsync()
}

/// The length and digest of [`big`], as `/digest` tells them.
pub async fn big_digest(bytes: u64) -> String {
    let mut hash = Sha256::new();
    let mut pieces = std::pin::pin!(big(bytes));
    while let Some(piece) = pieces.next().await {
        hash.update(&piece);
    }
    format!("{bytes} {}", hex(&hash.finalize()))
}

/// The length and SHA-256 of a body that comes whole, as the app's `/digest` tells them.
pub async fn body_digest(mut body: Incoming) -> String {
    let (mut hash, mut len) = (Sha256::new(), 0);
    while let Some(data) = client::next_data(&mut body).await {
        let data = data.expect("the body goes on");
        len += data.len();
        hash.update(&data);
    }
    format!("{len} {}", hex(&hash.finalize()))
}

fn big_response(bytes: u64) -> Response {
    Response::builder()
        .header("content-length", bytes)
        .body(Body::from_stream(big(bytes).map(Ok::<_, Infallible>)))
        .expect("a response")
}

fn upgrade(ws: WebSocketUpgrade) -> Response {
    ws.max_message_size(MAX_WS_MESSAGE).max_frame_size(MAX_WS_MESSAGE).on_upgrade(echo_messages)
}

async fn echo_messages(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let answer = match message {
            Message::Text(text) if text.starts_with("close ") => {
                let mut parts = text.splitn(3, ' ').skip(1);
                let code = parts.next().and_then(|c| c.parse().ok()).unwrap_or(1000);
                let reason = parts.next().unwrap_or_default().into();
                Message::Close(Some(axum::extract::ws::CloseFrame { code, reason }))
            }
            Message::Text(_) | Message::Binary(_) => message,
            _ => continue,
        };
        if socket.send(answer).await.is_err() {
            return;
        }
    }
}
