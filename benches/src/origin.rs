//! The local server behind every contestant: hyper, and as little else as possible.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, net::SocketAddr, sync::OnceLock};
use tokio::net::TcpListener;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

/// Bytes of the small answer.
pub const SMALL: usize = 1024;

/// Bytes of one piece of a large answer.
const PIECE: usize = 64 << 10;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves until the process ends; says where first.
pub async fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    crate::print(&format!("http://{}", listener.local_addr()?))?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .max_buf_size(512 << 10)
                .serve_connection(TokioIo::new(socket), service_fn(answer))
                .with_upgrades(),
        );
    }
}

fn pattern(length: usize) -> Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    PATTERN.get_or_init(|| (0..PIECE).map(|i| (i % 251) as u8).collect()).slice(..length.min(PIECE))
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path();
    Ok(match (request.method(), path) {
        (&Method::GET, "/small") => Response::new(Full::new(pattern(SMALL)).boxed_unsync()),
        (&Method::POST, "/upload") => {
            let mut body = request.into_body();
            let mut count = 0_u64;
            while let Some(frame) = body.frame().await {
                count += frame?.data_ref().map_or(0, |data| data.len() as u64);
            }
            Response::new(Full::new(Bytes::from(count.to_string())).boxed_unsync())
        }
        (&Method::GET, "/ws") => echo(request),
        (&Method::GET, _) => match path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
            Some(count) => large(count),
            None => nothing(),
        },
        _ => nothing(),
    })
}

/// A WebSocket that sends every message back.
fn echo(mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else { return nothing() };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(io) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let echoed = message.is_text() || message.is_binary();
            if echoed && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

fn large(count: u64) -> Response<Body> {
    let pieces = stream::unfold(count, |left| async move {
        let piece = pattern(usize::try_from(left).unwrap_or(PIECE));
        let left = left - piece.len() as u64;
        (!piece.is_empty()).then_some((Ok(Frame::data(piece)), left))
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, count.into());
    response
}

fn nothing() -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
