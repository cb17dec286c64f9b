//! stub
use std::{io, pin::Pin, task::{Context, Poll}};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One stream of a tunnel: an HTTP/1.1 connection. Dropping it without `shutdown` resets it.
#[derive(Debug)]
pub struct Stream {}

impl Stream {
    /// The yamux stream id, unique within its tunnel.
    pub fn id(&self) -> u32 { 0 }
    /// Completes once the peer has acknowledged the stream (at once for accepted ones), or with an error when it is reset.
    pub fn established(&self) -> impl Future<Output = io::Result<()>> + Send + 'static { async { Ok(()) } }
}
impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> { unimplemented!() }
}
impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> { unimplemented!() }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> { unimplemented!() }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> { unimplemented!() }
}
