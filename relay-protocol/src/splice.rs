//! Joins two upgraded connections byte for byte.
//!
//! The end of either direction ends both: what was read is written and flushed, then both ends
//! are shut down. A half-closed stream would starve in a tunnel (yamux does not read window
//! updates after the peer's FIN), and no protocol that browsers speak after an upgrade needs one.
//! An error ends both without a shutdown, so that the tunnel's end is reset and nobody takes what
//! broke off for something complete.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Bytes of each direction's buffer: one read of a busy socket, and small enough for thousands of
/// idle WebSockets.
const BUFFER: usize = 16 * 1024;
/// How long a peer that does not read may hold up the shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Copies between `a` and `b` until either ends, or until nothing has moved for `idle`. Gives the bytes that went from `a` to `b` and from `b` to `a`.
///
/// # Errors
/// When either breaks, or `TimedOut` after `idle`. Both are then to be dropped without a shutdown, which is what dropping the
/// arguments here does.
pub async fn splice<A, B>(mut a: A, mut b: B, idle: Duration) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Direction::new(), Direction::new());
    let timer = tokio::time::sleep(idle);
    tokio::pin!(timer);
    let mut seen = 0;
    std::future::poll_fn(|cx| {
        // Both are polled each time: each registers its own wake-ups.
        let first = there.poll(cx, &mut a, &mut b)?;
        let second = back.poll(cx, &mut b, &mut a)?;
        if first.is_ready() || second.is_ready() {
            return Poll::Ready(Ok(()));
        }
        // The timer is not moved on every byte: when it fires, it asks whether anything was.
        while timer.as_mut().poll(cx).is_ready() {
            let moved = there.copied.wrapping_add(back.copied);
            if moved == seen {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut)));
            }
            seen = moved;
            timer.as_mut().reset(tokio::time::Instant::now() + idle);
        }
        Poll::Pending
    })
    .await?;
    let both = async { tokio::try_join!(a.shutdown(), b.shutdown()) };
    match tokio::time::timeout(SHUTDOWN, both).await {
        Ok(result) => result.map(|_| (there.copied, back.copied)),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// One direction: what was read and is not written yet.
struct Direction {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    unflushed: bool,
    ended: bool,
    copied: u64,
}

impl Direction {
    fn new() -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { buffer, start: 0, end: 0, unflushed: false, ended: false, copied: 0 }
    }

    /// Ready once the reader has ended and everything is written and flushed.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.start < self.end {
                let pending = self.buffer.get(self.start..self.end).unwrap_or_default();
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, pending))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += written;
                self.copied += written as u64;
                self.unflushed = true;
                continue;
            }
            if self.ended {
                ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                return Poll::Ready(Ok(()));
            }
            let mut filled = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *reader).poll_read(cx, &mut filled)? {
                Poll::Ready(()) => {
                    (self.start, self.end) = (0, filled.filled().len());
                    self.ended = self.end == 0;
                }
                Poll::Pending => {
                    // Nothing more for now: let the other side have what there is.
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_moves_ends_and_one_that_moves_stays() {
        let (mut left, a) = tokio::io::duplex(64);
        let (b, mut right) = tokio::io::duplex(64);
        let spliced = tokio::spawn(splice(a, b, Duration::from_secs(10)));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(9)).await;
            left.write_all(b"x").await.unwrap();
            assert_eq!(right.read_u8().await.unwrap(), b'x');
        }
        assert_eq!(spliced.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_end_of_one_ends_both() {
        let (mut left, a) = tokio::io::duplex(777);
        let (b, mut right) = tokio::io::duplex(333);
        let spliced = tokio::spawn(splice(a, b, HOUR));
        let sent: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            left.write_all(&sent).await.unwrap();
            let mut answer = [0; 4];
            left.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"pong");
            left.shutdown().await.unwrap();
            // The other direction ends too, although the right side never closed it.
            assert_eq!(left.read(&mut answer).await.unwrap(), 0);
        });
        let mut got = vec![0; expected.len()];
        right.read_exact(&mut got).await.unwrap();
        assert!(got == expected);
        right.write_all(b"pong").await.unwrap();
        assert_eq!(right.read(&mut [0; 1]).await.unwrap(), 0);
        writer.await.unwrap();
        assert_eq!(spliced.await.unwrap().unwrap(), (200_000, 4));
    }

    /// Breaks at once; remembers whether it was shut down.
    struct Breaks(std::sync::Arc<std::sync::atomic::AtomicBool>);
    impl AsyncRead for Breaks {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }
    impl AsyncWrite for Breaks {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(b.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_error_ends_both_without_a_clean_end() {
        let shut = [(); 2].map(|()| std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let error = splice(Breaks(shut[0].clone()), Breaks(shut[1].clone()), HOUR).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(shut.iter().all(|s| !s.load(std::sync::atomic::Ordering::Relaxed)));
    }
}
