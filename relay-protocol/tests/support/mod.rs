//! Two ends of a tunnel in one process, over a pipe that behaves as badly as sockets do.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod messages;

use rand::{Rng, SeedableRng, rngs::StdRng};
use relay_protocol::tunnel::{self, Driver, Ended, Form, Handle, Hello, Incoming, Options, Role};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role as WsRole;

/// Half of a pipe that now and then is not ready, takes less than offered, and gives less than it has.
pub struct Moody<T> {
    inner: T,
    rng: StdRng,
}

impl<T> Moody<T> {
    pub fn new(inner: T, seed: u64) -> Self {
        Self { inner, rng: StdRng::seed_from_u64(seed) }
    }

    fn refuses(&mut self, cx: &Context<'_>) -> bool {
        let refuses = self.rng.random_ratio(1, 4);
        if refuses {
            cx.waker().wake_by_ref();
        }
        refuses
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Moody<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.refuses(cx) {
            return Poll::Pending;
        }
        let limit = self.rng.random_range(1..=buf.remaining().clamp(1, 5000));
        let mut part = buf.take(limit);
        let polled = Pin::new(&mut self.inner).poll_read(cx, &mut part);
        let count = part.filled().len();
        // The part is the same memory: what it initialised is initialised.
        let filled = part.filled().to_vec();
        if count > 0 {
            buf.put_slice(&filled);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Moody<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.refuses(cx) {
            return Poll::Pending;
        }
        let limit = self.rng.random_range(1..=buf.len().clamp(1, 5000)).min(buf.len());
        Pin::new(&mut self.inner).poll_write(cx, &buf[..limit])
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refuses(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

pub async fn websocket<S: AsyncRead + AsyncWrite + Unpin>(io: S, role: Role) -> WebSocketStream<S> {
    let role = match role {
        Role::Agent | Role::Browser => WsRole::Client,
        Role::Relay | Role::Peer => WsRole::Server,
    };
    WebSocketStream::from_raw_socket(io, role, Some(tunnel::websocket_config())).await
}

pub fn options(role: Role) -> Options {
    let name = match role {
        Role::Agent => "agent",
        Role::Relay => "relay",
        Role::Peer => "peer",
        Role::Browser => "browser",
    };
    Options::new(role, Form::V1(Hello::new(name, "1.2.3", None)))
}

/// One end whose driver runs in a task.
pub struct End {
    pub handle: Handle,
    pub incoming: Incoming,
    pub task: JoinHandle<Ended>,
}

pub fn run<T: tunnel::Transport>((handle, incoming, driver): (Handle, Incoming, Driver<T>)) -> End {
    End { handle, incoming, task: tokio::spawn(driver.run()) }
}

/// An end on this half of a pipe.
pub async fn end<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: S, options: Options) -> End {
    let ws = websocket(io, options.role).await;
    run(tunnel::start(ws, options))
}

/// Relay and agent over a pipe of this many bytes.
pub async fn pair(capacity: usize) -> (End, End) {
    pair_with(capacity, options(Role::Relay), options(Role::Agent)).await
}

pub async fn pair_with(capacity: usize, relay: Options, agent: Options) -> (End, End) {
    let (a, b): (DuplexStream, DuplexStream) = tokio::io::duplex(capacity);
    (end(a, relay).await, end(b, agent).await)
}

/// Bytes that show where they belong.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

/// Sends data to the other end, which sends everything back, and reads it meanwhile.
pub async fn round_trip(handle: tunnel::Handle, data: Vec<u8>) {
    let stream = handle.open().await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let expected = data.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&data).await.unwrap();
        writer
    });
    let mut back = vec![0; expected.len()];
    reader.read_exact(&mut back).await.unwrap();
    assert!(back == expected, "{} bytes came back changed", expected.len());
    drop(writing.await.unwrap());
}
