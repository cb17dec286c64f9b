//! One stream of a tunnel.
//!
//! A [`Cell`] stands between yamux's own stream and its user, because yamux stalls the whole session
//! when one stream's frames are not taken: the driver takes them ([`Cell::pump`]) whether or not the
//! user reads, and memory stays bounded by the window. The cell is the waker that yamux sees; the
//! user's wakers are kept here and woken by the driver.

use super::gate::{Burst, SLICE};
use super::mux::Shared;
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_yamux::StreamHandle;
use tokio_yamux::stream::StreamState;

/// Parts of a vectored write are joined up to this: a copy of it costs less than a frame of its own.
const JOIN: usize = 4 * 1024;
/// A yamux frame's header.
const HEADER: usize = 12;
/// Frames that one pump takes at the most: what yamux's channel of eight holds.
const FRAMES_PER_PUMP: u32 = 9;
/// What a frame costs in memory beside its bytes, with room for growth of the list that holds it.
const FRAME_COST: u32 = 64;
/// What crumbs may cost while the user reads nothing: a peer that fills the window with frames of one byte
/// costs many times the window. Messages of sixty bytes reach the window of 1 MiB before this.
const MAX_CRUMBS: u32 = 8 << 20;

/// One stream of a tunnel: a byte stream in both directions, usually one HTTP/1.1 connection.
///
/// Dropping it without a shutdown resets it. A shutdown ends **both** directions: what is written goes
/// out, the peer sees the end of the file, and what it still sends is thrown away. There is no half-close
/// (yamux peers stop reading window updates after one).
///
/// When the tunnel is lost every read and write fails with `ConnectionReset`: a cut body never looks complete.
#[derive(Debug)]
pub struct Stream {
    cell: Arc<Cell>,
}

/// What the driver and the user of a stream share.
pub(super) struct Cell {
    id: u32,
    shared: Arc<Shared>,
    /// Whether the cell waits in the driver's ready list.
    listed: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Gone once the stream was given back.
    handle: Option<StreamHandle>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    opener: Option<Waker>,
    /// The peer took the stream. A reset that comes later does not undo it.
    acked: bool,
    /// Who waits for a reset.
    mourner: Option<Waker>,
    /// The peer's end of file was seen while the tunnel lived.
    fin: bool,
    shut: bool,
    /// In the gate's line.
    waiting: bool,
    burst: Burst,
    /// What unread frames cost beyond their bytes, estimated from above.
    crumbs: u32,
    /// Reset by this end: the peer filled the window with crumbs.
    crumbled: bool,
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cell").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Called by yamux when frames wait for the stream.
impl Wake for Cell {
    fn wake(self: Arc<Self>) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            let shared = self.shared.clone();
            shared.list(self);
        }
    }
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the tunnel was lost")
}

fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

fn store(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

impl Cell {
    /// Takes what yamux has delivered, and wakes those whom it concerns.
    pub(super) fn pump(self: &Arc<Self>) {
        self.listed.store(false, Ordering::Release);
        let ended = self.shared.has_ended();
        let waker = Waker::from(self.clone());
        let mut cx = Context::from_waker(&waker);
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(handle) = inner.handle.as_mut() else { return };
        let window = handle.recv_window();
        let delivered = handle.poll_peek(&mut cx, &mut ReadBuf::new(&mut []));
        let bytes = window.saturating_sub(handle.recv_window());
        let state = handle.state();
        let over = matches!(state, StreamState::RemoteClosing | StreamState::Closed | StreamState::Reset);
        if state == StreamState::RemoteClosing && !ended {
            inner.fin = true;
        }
        inner.acked |=
            bytes > 0 || !matches!(state, StreamState::Init | StreamState::SynSent | StreamState::Reset);
        let cost = FRAME_COST.saturating_mul(bytes.min(FRAMES_PER_PUMP)).saturating_sub(bytes);
        inner.crumbs = inner.crumbs.saturating_add(cost);
        if inner.crumbs > MAX_CRUMBS {
            inner.crumbled = true;
            inner.handle = None;
            self.shared.stream_closed();
        }
        if delivered.is_ready() || over || ended {
            wake(&mut inner.reader);
        }
        if over || ended || inner.crumbled {
            wake(&mut inner.writer);
        }
        if state != StreamState::SynSent || ended {
            wake(&mut inner.opener);
        }
        if state == StreamState::Reset || ended || inner.crumbled {
            wake(&mut inner.mourner);
        }
    }

    /// The gate has room: the writer may try again.
    pub(super) fn admit(&self) {
        let mut inner = self.inner.lock();
        inner.waiting = false;
        wake(&mut inner.writer);
    }

    /// Throws away what the peer still sends on a stream that was shut down and dropped. True once the
    /// peer has ended it too.
    pub(super) fn discard(self: &Arc<Self>) -> bool {
        let waker = Waker::from(self.clone());
        let mut cx = Context::from_waker(&waker);
        let mut inner = self.inner.lock();
        let Some(handle) = inner.handle.as_mut() else { return true };
        let mut scratch = [0u8; 8 * 1024];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *handle).poll_read(&mut cx, &mut buf) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return true,
            }
        }
    }

    /// Gives yamux's stream back; a reset goes out where yamux knows that one is due.
    pub(super) fn release(&self) {
        let mut inner = self.inner.lock();
        if inner.handle.take().is_some() {
            self.shared.stream_closed();
            wake(&mut inner.mourner);
            wake(&mut inner.opener);
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    fn poll_aborted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.inner.lock();
        match inner.handle.as_ref().map(StreamHandle::state) {
            None | Some(StreamState::Reset) => Poll::Ready(()),
            _ if self.shared.has_ended() => Poll::Ready(()),
            Some(_) => {
                store(&mut inner.mourner, cx);
                Poll::Pending
            }
        }
    }

    fn poll_established(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.lock();
        match inner.handle.as_ref().map(StreamHandle::state) {
            _ if inner.acked => Poll::Ready(Ok(())),
            None | Some(StreamState::Reset | StreamState::Closed) => Poll::Ready(Err(reset())),
            _ if self.shared.has_ended() => Poll::Ready(Err(reset())),
            Some(StreamState::Init | StreamState::SynSent) => {
                store(&mut inner.opener, cx);
                Poll::Pending
            }
            Some(_) => Poll::Ready(Ok(())),
        }
    }
}

impl Stream {
    /// Wraps a fresh yamux stream and registers the cell as its waker.
    pub(super) fn new(handle: StreamHandle, shared: &Arc<Shared>) -> Self {
        let cell = Arc::new(Cell {
            id: handle.id(),
            shared: shared.clone(),
            listed: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                handle: Some(handle),
                reader: None,
                writer: None,
                opener: None,
                mourner: None,
                acked: false,
                fin: false,
                shut: false,
                waiting: false,
                burst: Burst::default(),
                crumbs: 0,
                crumbled: false,
            }),
        });
        shared.stream_opened();
        cell.pump();
        Self { cell }
    }

    /// The yamux stream id, unique within its tunnel.
    pub fn id(&self) -> u32 {
        self.cell.id
    }

    /// Completes once the peer has acknowledged the stream (at once for an accepted one), or with an
    /// error when it was reset before.
    pub fn established(&self) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let cell = self.cell.clone();
        std::future::poll_fn(move |cx| cell.poll_established(cx))
    }

    /// Completes once the peer has reset the stream, the tunnel is lost, or the stream is gone. Reads and
    /// writes tell the same, but only to those who read or write just then.
    pub fn aborted(&self) -> impl Future<Output = ()> + Send + use<> {
        let cell = self.cell.clone();
        std::future::poll_fn(move |cx| cell.poll_aborted(cx))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let cell = &self.cell;
        let waker = Waker::from(cell.clone());
        let mut inner = cell.inner.lock();
        let inner = &mut *inner;
        // Stored first: the driver may deliver between the poll below and its end on another thread.
        store(&mut inner.reader, cx);
        let Some(handle) = inner.handle.as_mut() else { return Poll::Ready(Err(reset())) };
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut *handle).poll_read(&mut Context::from_waker(&waker), buf);
        match ready!(polled) {
            Ok(()) if buf.filled().len() > before => {
                inner.crumbs = 0;
                Poll::Ready(Ok(()))
            }
            Ok(()) if inner.fin || !cell.shared.has_ended() => {
                inner.fin = true;
                Poll::Ready(Ok(()))
            }
            Ok(()) => Poll::Ready(Err(reset())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let cell = &self.cell;
        let mut inner = cell.inner.lock();
        let inner = &mut *inner;
        store(&mut inner.writer, cx);
        let Some(handle) = inner.handle.as_mut() else { return Poll::Ready(Err(reset())) };
        if cell.shared.has_ended() {
            return Poll::Ready(Err(reset()));
        }
        if inner.shut {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the stream was shut down")));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let allowed = cell.shared.gate.allowance(&mut inner.burst, inner.waiting);
        if allowed == 0 {
            if !inner.waiting {
                inner.waiting = true;
                cell.shared.gate.wait(cell.clone());
                // Room, or the end, may have come between the question and the line.
                cell.shared.wake_driver();
                if cell.shared.has_ended() {
                    // The driver may have emptied the line for the last time: nobody else would.
                    drop(cell.shared.gate.dismiss());
                    return Poll::Ready(Err(reset()));
                }
            }
            return Poll::Pending;
        }
        debug_assert!(allowed <= SLICE);
        let slice = buf.get(..allowed).unwrap_or(buf);
        let announced = slice.len().saturating_add(HEADER);
        cell.shared.gate.announce(announced);
        let written = Pin::new(&mut *handle).poll_write(cx, slice);
        if cell.shared.has_ended() {
            // yamux may have taken frames here and found nobody to tell the reader any more.
            wake(&mut inner.reader);
        }
        let taken = match &written {
            Poll::Ready(Ok(count)) => count.saturating_add(HEADER),
            _ => 0,
        };
        cell.shared.gate.wrote(&mut inner.burst, announced, taken);
        match written {
            Poll::Ready(Ok(count)) => Poll::Ready(Ok(count)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // After the peer's end of file no window update is read any more: waiting would be for ever.
            Poll::Pending if handle.state() == StreamState::RemoteClosing => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the peer ended the stream")))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// A head and a small body leave as one frame; larger parts one by one, without being joined first.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut parts = bufs.iter().filter(|part| !part.is_empty());
        let Some(first) = parts.next() else { return self.poll_write(cx, &[]) };
        if first.len() >= JOIN {
            return self.poll_write(cx, first);
        }
        let mut joined = [0u8; JOIN];
        let mut len = 0;
        for part in std::iter::once(first).chain(parts) {
            let Some(room) = joined.get_mut(len..) else { break };
            let count = room.len().min(part.len());
            if let (Some(to), Some(from)) = (room.get_mut(..count), part.get(..count)) {
                to.copy_from_slice(from);
            }
            len += count;
            if count < part.len() {
                break;
            }
        }
        let joined = joined.get(..len).unwrap_or_default();
        self.poll_write(cx, joined)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Slices leave by themselves.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.cell.inner.lock();
        let inner = &mut *inner;
        if inner.shut || self.cell.shared.has_ended() {
            return Poll::Ready(Ok(()));
        }
        let Some(handle) = inner.handle.as_mut() else { return Poll::Ready(Ok(())) };
        inner.shut = true;
        // A second close would make yamux forget the stream before the peer has ended it.
        Pin::new(handle).poll_shutdown(cx)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let inner = self.cell.inner.lock();
        let lingers = inner.shut
            && !self.cell.shared.has_ended()
            && inner.handle.as_ref().is_some_and(|h| h.state() == StreamState::LocalClosing);
        drop(inner);
        if lingers {
            self.cell.shared.linger(self.cell.clone());
        } else {
            self.cell.release();
        }
    }
}
