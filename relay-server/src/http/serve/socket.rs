//! An accepted socket: it knows what was already read of it, notes when a request begins to come
//! in, and gives its place back when it is dropped, wherever that is, after an upgrade as well.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::StatusCode;
use parking_lot::Mutex;
use relay_protocol::problem::{CONTENT_TYPE, Problem};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::activity::Activity;
use crate::limits::AddrGuard;
use crate::telemetry::metrics::Opened;

/// A connection's place among those of its address. Every request has it among its extensions.
#[derive(Clone)]
pub struct Place(Arc<Mutex<Option<AddrGuard>>>);

impl Place {
    /// Gives it back while the connection goes on: it is a relay's, which has bounds of its own for what it passes on
    /// and calls for many browsers from one address.
    pub fn give_back(&self) {
        drop(self.0.lock().take());
    }
}

/// A place among the accepted connections.
pub(super) struct Permits {
    own: Place,
    _total: OwnedSemaphorePermit,
    _counted: Opened,
}

impl Permits {
    pub(super) fn new(own: Option<AddrGuard>, total: OwnedSemaphorePermit, counted: Opened) -> Self {
        Self { own: Place(Arc::new(Mutex::new(own))), _total: total, _counted: counted }
    }

    pub(super) fn place(&self) -> Place {
        self.own.clone()
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        // Whatever became of the requests.
        self.own.give_back();
    }
}

/// The socket under a connection. After an upgrade, `Upgraded::downcast::<TokioIo<Socket>>` gives
/// it back without the boxes that hyper wraps around it.
pub struct Socket {
    stream: TcpStream,
    /// What was read to tell HTTP/1.1 from HTTP/2.
    prefix: Bytes,
    activity: Arc<Activity>,
    _permits: Permits,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, prefix: Bytes, activity: Arc<Activity>, permits: Permits) -> Self {
        Self { stream, prefix, activity, _permits: permits }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.prefix.is_empty() {
            let before = buf.filled().len();
            std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
        } else {
            let count = this.prefix.len().min(buf.remaining());
            buf.put_slice(this.prefix.get(..count).unwrap_or_default());
            this.prefix.advance(count);
        }
        this.activity.bytes_came();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A problem as the last thing on an HTTP/1.1 connection that no request was read from.
pub(super) fn bare(problem: &Problem) -> Vec<u8> {
    let reason =
        StatusCode::from_u16(problem.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    let body = problem.to_json();
    let retry = if matches!(problem.status, 429 | 503) { "retry-after: 10\r\n" } else { "" };
    format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: {CONTENT_TYPE}\r\ncontent-length: {}\r\ncache-control: no-store\r\n{retry}connection: close\r\n\r\n{body}",
        problem.status,
        body.len(),
    )
    .into_bytes()
}

/// How long a refused peer has to take the answer and close.
const FAREWELL: Duration = Duration::from_secs(1);
/// What is read of it meanwhile. A socket that is closed with bytes unread is reset, and the reset
/// can overtake the answer.
const FAREWELL_BYTES: u64 = 64 * 1024;

/// Writes the last words and closes without cutting them off.
pub(super) async fn farewell(mut stream: impl AsyncRead + AsyncWrite + Unpin, words: &[u8]) {
    let said = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    // Whether the peer heard it is its own affair.
    let _ = timeout(FAREWELL, said).await;
}
