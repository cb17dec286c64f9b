//! What a browser sends: requests over HTTP/1.1 or h2 with prior knowledge, bodies of any kind.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use relay_protocol::problem::{self, Code, Problem};
use tokio::{net::TcpStream, sync::mpsc};

/// Any body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// No body.
pub fn empty() -> Body {
    Empty::new().boxed_unsync()
}

/// A body of known length.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body that is written as the test goes; it ends when the sender is dropped. Eight frames may wait.
pub fn channel() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (tx, rx) = mpsc::channel(8);
    let stream = futures_util::stream::unfold(rx, |mut rx| async move {
        let frame: Frame<Bytes> = rx.recv().await?;
        Some((Ok::<_, Infallible>(frame), rx))
    });
    (tx, StreamBody::new(stream).boxed_unsync())
}

/// A GET.
pub fn get(path: &str) -> Request<Body> {
    request(Method::GET, path, empty())
}

/// A request with this body.
pub fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(path).body(body).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The trailers, if there were any.
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    /// Reads a response to its end.
    pub async fn collect(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok(Self { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The problem, whose shape and headers are as PROTOCOL.md says.
    pub fn problem(&self) -> Problem {
        assert_eq!(self.header("content-type"), Some(problem::CONTENT_TYPE), "{self:?}");
        let problem: Problem = self.json();
        assert_eq!(problem.status, self.status.as_u16(), "{self:?}");
        assert_eq!(problem.code.status(), self.status, "{self:?}");
        assert!(!problem.detail.is_empty(), "{self:?}");
        problem
    }

    /// Asserts that it is this problem.
    #[track_caller]
    pub fn is_problem(&self, code: Code) {
        assert_eq!(self.problem().code, code, "{self:?}");
    }
}

/// One HTTP/1.1 connection.
#[derive(Debug)]
pub struct Connection {
    host: HeaderValue,
    sender: hyper::client::conn::http1::SendRequest<Body>,
    task: tokio::task::JoinHandle<()>,
}

impl Connection {
    /// Connects.
    pub async fn open(addr: SocketAddr) -> Result<Self, anyhow::Error> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        Self::over(addr, tcp).await
    }

    /// Speaks HTTP/1.1 over a connection that is open.
    pub async fn over<T>(addr: SocketAddr, io: T) -> Result<Self, anyhow::Error>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        let task = tokio::spawn(async move {
            connection.with_upgrades().await.ok();
        });
        Ok(Self { host: HeaderValue::from_str(&addr.to_string())?, sender, task })
    }

    /// Sends a request, and returns the response once its head is here.
    pub async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        request.headers_mut().entry(header::HOST).or_insert(self.host.clone());
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Ends the connection as a browser tab that closes does.
    pub fn abort(self) {
        self.task.abort();
    }
}

/// Sends one request on a connection of its own. The response is not read yet.
pub async fn send(addr: SocketAddr, request: Request<Body>) -> Result<Response<Incoming>, anyhow::Error> {
    let mut connection = Connection::open(addr).await?;
    Ok(connection.send(request).await?)
}

/// Sends one request and reads the whole response, or tells why not.
pub async fn try_fetch(addr: SocketAddr, request: Request<Body>) -> Result<Reply, anyhow::Error> {
    Ok(Reply::collect(send(addr, request).await?).await?)
}

/// Sends one request and reads the whole response.
pub async fn fetch(addr: SocketAddr, request: Request<Body>) -> Reply {
    let what = format!("{} {}", request.method(), request.uri());
    try_fetch(addr, request).await.unwrap_or_else(|e| panic!("{what}: {e:#}"))
}

/// Headers of one answer, as much as browsers take.
const MAX_H2_HEADER: u32 = 256 * 1024;

/// One h2 connection with prior knowledge.
pub async fn h2(addr: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let tcp = TcpStream::connect(addr).await.expect("the relay accepts");
    tcp.set_nodelay(true).expect("nodelay");
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(MAX_H2_HEADER)
        .handshake(TokioIo::new(tcp))
        .await
        .expect("h2");
    tokio::spawn(async move {
        connection.await.ok();
    });
    sender
}

/// The next data of a body, without trailers and empty pieces. `None` at its end.
pub async fn next_data(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        match body.frame().await? {
            Ok(frame) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Some(Ok(data));
                }
            }
            Err(error) => return Some(Err(error)),
        }
    }
}

/// A WebSocket's largest message here, above the 16 MiB that must pass.
const MAX_WS_MESSAGE: usize = 64 << 20;

/// A WebSocket to a path, with these headers in its request.
pub async fn websocket(
    addr: SocketAddr,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<
    (tokio_tungstenite::WebSocketStream<TcpStream>, http::Response<Option<Vec<u8>>>),
    tokio_tungstenite::tungstenite::Error,
> {
    use tokio_tungstenite::tungstenite::{client::IntoClientRequest, protocol::WebSocketConfig};
    let mut request = format!("ws://{addr}{path}").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).expect("a header value"));
    }
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_WS_MESSAGE))
        .max_frame_size(Some(MAX_WS_MESSAGE));
    tokio_tungstenite::client_async_with_config(request, tcp, Some(config)).await
}
