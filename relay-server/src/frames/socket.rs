//! One socket's task: what comes in is routed, what waits in the outbox goes out, and silence has an end.
//!
//! ```text
//!            ┌─ drain, a close that cannot be delivered, more bytes than the messages explain
//!  select ───┼─ write: Outbox ──► WebSocket      (and pings)
//!  (biased)  ├─ read:  WebSocket ──► Attached::frame, one after the other: who waits for routing reads no further
//!            ├─ watch: a ping that brings no sign of life, a reader that takes nothing
//!            └─ idle:  no text in either direction
//! ```
//!
//! Reading and writing wait for each other nowhere, so two sides that both write first do not block each other
//! for ever. Whatever ends it, the other side is told the code if it still reads, and for a bounded time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role as WsRole, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::metrics_ws::Reason;
use super::{
    Admitted, Attached, Broker, Close, Command, GOING_AWAY, Outbox, POLICY, Pending, Role, TOO_LARGE,
};
use crate::config::frames::Frames;
use crate::shutdown::Shutdown;

/// What is read at once. Allocated with the socket: two thousand idle sockets take 8 MiB.
const READ_BUFFER: usize = 4 * 1024;
/// Small frames gather up to this before they are written.
const WRITE_BUFFER: usize = 16 * 1024;
/// How long the other side has to take the close, and to end the connection after it.
const FAREWELL: Duration = Duration::from_secs(5);
/// What is still read, and thrown away, after a close: enough for a frame that was on its way.
const DISCARD: u64 = 32 * 1024 * 1024;

/// Pings, and pongs that nobody asked for, within a second. Who keeps a connection open needs one in many.
const PINGS: u32 = 10;

/// Bytes that a socket may send over its life beyond what its messages explain (see [`Moved::read_message`]). The
/// library tells of whole messages alone: whoever sends empty pieces of one that never ends would keep it busy for
/// ever and be charged for nothing. Nobody's pieces are so small that their heads outweigh what they hold.
const EXCESS: u64 = 64 * 1024;
/// What the heads of a small message have, if it comes in a few pieces. One has 14 bytes at most.
const HEADS: u64 = 64;

/// No sign of life.
const SILENT: Close = Close::policy("no answer to a ping");
/// Takes nothing of what is sent.
const STUCK: Close = Close::policy("reads too slowly");
/// Pings instead of frames.
const PINGING: Close = Close::policy("too many pings");
/// Pieces of a message that hold next to nothing.
const EMPTY: Close = Close::policy("too many empty fragments");
/// Nothing was said, and nothing was wrong.
const IDLE: Close = Close { code: 1000, reason: "idle for too long" };
/// The relay ends.
const DRAIN: Close = Close { code: GOING_AWAY, reason: "the relay is restarting" };

/// How long what may take.
#[derive(Debug, Clone)]
pub(super) struct Times {
    ping_interval: Duration,
    pong_timeout: Duration,
    idle: Duration,
}

impl Times {
    pub(super) fn new(frames: &Frames) -> Self {
        Self {
            ping_interval: frames.ping_interval,
            pong_timeout: frames.pong_timeout,
            idle: frames.idle_timeout,
        }
    }
}

/// How it ends.
enum End {
    /// With this close.
    Close(Close, Reason),
    /// The other side closed, or has gone.
    Gone(Reason),
}

impl End {
    fn of(close: Close) -> Self {
        let reason = match close.code {
            TOO_LARGE => Reason::TooLarge,
            POLICY => Reason::Policy,
            GOING_AWAY => Reason::Drain,
            _ => Reason::Malformed,
        };
        Self::Close(close, reason)
    }
}

/// Frames of this size at most, in small buffers. No extension is ever negotiated, so none is configured.
pub(super) fn config(max_frame_bytes: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(max_frame_bytes))
        .max_frame_size(Some(max_frame_bytes))
}

/// Runs an upgraded connection to its end.
pub(super) async fn run<T>(
    io: T,
    who: Admitted,
    broker: Arc<Broker>,
    frames: &Frames,
    shutdown: &Shutdown,
) -> Reason
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Arc::new(Moved::new(frames.max_frame_bytes));
    let io = Watched { io, moved: moved.clone() };
    let config = config(frames.max_frame_bytes);
    let ws = WebSocketStream::from_raw_socket(io, WsRole::Server, Some(config)).await;
    let (mut sink, mut stream) = ws.split();
    let (out, mut pending) = super::outbox(frames.max_pending_bytes);
    let state = State::new(Times::new(frames), moved);
    let may_idle = who.role != Role::Daemon;
    let end = match broker.attach(who, out.clone()).await {
        Ok(attached) => {
            let ending = pending.ending();
            let stuck = async {
                let close = ending.closed().await;
                sleep(FAREWELL).await;
                close
            };
            tokio::select! {
                biased;
                () = shutdown.draining() => End::of(DRAIN),
                close = stuck => End::of(close),
                () = state.moved.excess.notified() => End::of(EMPTY),
                end = state.write(&mut sink, &mut pending) => end,
                end = state.read(&mut stream, &attached) => end,
                end = state.watch() => end,
                () = state.idle(&attached), if may_idle => End::Close(IDLE, Reason::Idle),
            }
        }
        Err(close) => {
            say_what_waits(&mut sink, &out, &mut pending, close).await;
            End::of(close)
        }
    };
    drop(pending);
    let reason = match end {
        End::Close(close, reason) => {
            farewell(sink, stream, Some(close)).await;
            reason
        }
        End::Gone(reason) => {
            farewell(sink, stream, None).await;
            reason
        }
    };
    tracing::debug!(?reason, "a socket of /ws has ended");
    reason
}

/// Opens a connection only to say why it is closed.
pub(super) async fn turn_away<T>(io: T, status: Option<Utf8Bytes>, close: Close)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let io = Watched { io, moved: Arc::default() };
    let ws = WebSocketStream::from_raw_socket(io, WsRole::Server, Some(config(READ_BUFFER))).await;
    let (mut sink, stream) = ws.split();
    if let Some(status) = status {
        // Whether it arrives is up to the other side.
        let _ = timeout(FAREWELL, sink.send(Message::Text(status))).await;
    }
    farewell(sink, stream, Some(close)).await;
}

/// Statuses that belong to a refusal go out before it.
async fn say_what_waits<T>(
    sink: &mut SplitSink<WebSocketStream<T>, Message>,
    out: &Outbox,
    pending: &mut Pending,
    close: Close,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    out.close(close);
    let mut commands = Vec::new();
    let whole = async {
        pending.take(&mut commands).await;
        for command in commands.drain(..) {
            if let Command::Text(text) = command
                && sink.send(Message::Text(text)).await.is_err()
            {
                return;
            }
        }
    };
    let _ = timeout(FAREWELL, whole).await;
}

/// Says the close, ends our direction, and lets the other side end its own: what it still sends is thrown away,
/// because a connection that is dropped with unread bytes is reset, and the close with it.
async fn farewell<T>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    stream: SplitStream<WebSocketStream<T>>,
    close: Option<Close>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let said = async {
        if let Some(close) = close {
            let frame = CloseFrame { code: CloseCode::from(close.code), reason: close.reason.into() };
            sink.send(Message::Close(Some(frame))).await?;
        }
        sink.flush().await
    };
    let said = timeout(FAREWELL, said).await;
    // After a close of the other side the library calls the answer's end an error too.
    let Ok(Ok(()) | Err(Error::ConnectionClosed)) = said else { return };
    let Ok(mut ws) = sink.reunite(stream) else { return };
    let io = ws.get_mut();
    let ended = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(DISCARD), &mut tokio::io::sink()).await
    };
    let _ = timeout(FAREWELL, ended).await;
}

/// What the parts of a socket's task know of each other.
struct State {
    times: Times,
    moved: Arc<Moved>,
    began: Instant,
    /// When a text last went in either direction, in milliseconds since it began.
    spoke: AtomicU64,
    /// A frame is being routed: what comes meanwhile waits, and is no silence.
    routing: AtomicBool,
    /// Something is being written.
    writing: AtomicBool,
    ping: Notify,
    pings: AtomicU64,
    /// The last ping that was answered.
    ponged: AtomicU64,
    /// Who waits for the pong of which ping.
    probes: Mutex<Vec<(u64, oneshot::Sender<bool>)>>,
}

impl State {
    fn new(times: Times, moved: Arc<Moved>) -> Self {
        Self {
            times,
            moved,
            began: Instant::now(),
            spoke: AtomicU64::new(0),
            routing: AtomicBool::new(false),
            writing: AtomicBool::new(false),
            ping: Notify::new(),
            pings: AtomicU64::new(0),
            ponged: AtomicU64::new(0),
            probes: Mutex::default(),
        }
    }

    fn speaks(&self) {
        let now = crate::clock::millis(self.began.elapsed());
        self.spoke.store(now, Ordering::Relaxed);
    }

    /// A ping of its own number, so that its pong tells it from earlier ones.
    fn next_ping(&self) -> (u64, Message) {
        let number = self.pings.fetch_add(1, Ordering::Relaxed) + 1;
        (number, Message::Ping(Bytes::copy_from_slice(&number.to_be_bytes())))
    }

    /// A pong for this ping answers those before it too: only the last one has to be answered (RFC 6455
    /// section 5.5.3). False when it answers nothing.
    fn pong(&self, payload: &[u8]) -> bool {
        let Ok(number) = payload.try_into().map(u64::from_be_bytes) else { return false };
        if number > self.pings.load(Ordering::Relaxed) {
            return false;
        }
        let mut probes = self.probes.lock();
        for (_, answer) in probes.extract_if(.., |(asked, _)| *asked <= number) {
            let _ = answer.send(true);
        }
        self.ponged.fetch_max(number, Ordering::Relaxed) < number
    }

    async fn write<T>(&self, sink: &mut SplitSink<WebSocketStream<T>, Message>, pending: &mut Pending) -> End
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut commands = Vec::new();
        loop {
            let ping = tokio::select! {
                biased;
                () = self.ping.notified() => true,
                () = pending.take(&mut commands) => false,
            };
            self.writing.store(true, Ordering::Relaxed);
            let written = async {
                if ping {
                    sink.feed(self.next_ping().1).await?;
                }
                for command in commands.drain(..) {
                    match command {
                        Command::Text(text) => {
                            self.speaks();
                            sink.feed(Message::Text(text)).await?;
                        }
                        Command::Probe { answer, .. } => {
                            let (number, ping) = self.next_ping();
                            {
                                let mut probes = self.probes.lock();
                                probes.retain(|(_, answer)| !answer.is_closed());
                                probes.push((number, answer));
                            }
                            sink.feed(ping).await?;
                        }
                        Command::Close(close) => return Ok(Some(close)),
                    }
                }
                sink.flush().await?;
                Ok::<_, Error>(None)
            };
            let written = written.await;
            self.writing.store(false, Ordering::Relaxed);
            match written {
                Ok(None) => {}
                Ok(Some(close)) => return End::of(close),
                Err(_) => return End::Gone(Reason::Lost),
            }
        }
    }

    async fn read<T>(&self, stream: &mut SplitStream<WebSocketStream<T>>, attached: &Attached) -> End
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut pings = Pings::default();
        loop {
            let message = stream.next().await;
            if let Some(Ok(message)) = &message {
                self.moved.read_message(message.len());
            }
            let routed = match message {
                Some(Ok(Message::Text(text))) => {
                    self.speaks();
                    self.routing.store(true, Ordering::Relaxed);
                    let routed = attached.frame(alone(text)).await;
                    self.routing.store(false, Ordering::Relaxed);
                    routed
                }
                Some(Ok(Message::Binary(_))) => {
                    self.routing.store(true, Ordering::Relaxed);
                    attached.not_text().await;
                    self.routing.store(false, Ordering::Relaxed);
                    Ok(())
                }
                Some(Ok(Message::Pong(payload))) if self.pong(&payload) => Ok(()),
                // Pings are answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => pings.one_more(Instant::now()),
                Some(Ok(Message::Frame(_))) => Ok(()),
                Some(Ok(Message::Close(_))) => return End::Gone(Reason::Peer),
                None => return End::Gone(Reason::Lost),
                Some(Err(error)) => return broken(&error),
            };
            if let Err(close) = routed {
                return End::of(close);
            }
        }
    }

    /// Asks for a sign of life, and ends when none comes: no byte at all, or none taken of what is to be written.
    async fn watch(&self) -> End {
        let mut next_ping = self.began + self.times.ping_interval;
        let mut waiting: Option<(Instant, Bytecount, bool)> = None;
        loop {
            sleep_until(waiting.as_ref().map_or(next_ping, |(until, ..)| next_ping.min(*until))).await;
            let now = Instant::now();
            if let Some((_, before, was_writing)) = waiting.take_if(|(until, ..)| now >= *until) {
                let after = self.moved.now();
                if after.read == before.read && !self.routing.load(Ordering::Relaxed) {
                    return End::Close(SILENT, Reason::Silent);
                }
                if was_writing && self.writing.load(Ordering::Relaxed) && after.written == before.written {
                    return End::Close(STUCK, Reason::Policy);
                }
            }
            if now >= next_ping {
                next_ping = now + self.times.ping_interval;
                self.ping.notify_one();
                let until = now + self.times.pong_timeout;
                waiting.get_or_insert((until, self.moved.now(), self.writing.load(Ordering::Relaxed)));
            }
        }
    }

    /// Ends when nothing was said for too long, unless it listens.
    async fn idle(&self, attached: &Attached) {
        loop {
            let spoke = self.began + Duration::from_millis(self.spoke.load(Ordering::Relaxed));
            if spoke.elapsed() < self.times.idle {
                sleep_until(spoke + self.times.idle).await;
            } else if attached.is_subscribed() {
                sleep(self.times.idle).await;
            } else {
                return;
            }
        }
    }
}

/// A small text without the read buffer around it: it may wait in an outbox, and what waits there is counted by
/// its own length.
fn alone(text: Utf8Bytes) -> Utf8Bytes {
    if text.len() < READ_BUFFER { Utf8Bytes::from(text.as_str()) } else { text }
}

fn broken(error: &Error) -> End {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            End::of(Close { code: TOO_LARGE, reason: "the frame is too large" })
        }
        Error::Utf8(_) => End::of(Close { code: 1007, reason: "a text is no UTF-8" }),
        Error::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => End::Gone(Reason::Lost),
        Error::Protocol(_) => End::of(Close { code: 1002, reason: "no WebSocket message" }),
        _ => End::Gone(Reason::Lost),
    }
}

/// Counts what keeps a connection busy and says nothing.
#[derive(Default)]
struct Pings {
    since: Option<Instant>,
    count: u32,
}

impl Pings {
    fn one_more(&mut self, now: Instant) -> Result<(), Close> {
        if self.since.is_none_or(|since| now >= since + Duration::from_secs(1)) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        if self.count > PINGS { Err(PINGING) } else { Ok(()) }
    }
}

/// Bytes that have gone through a connection.
#[derive(Default)]
struct Moved {
    read: AtomicU64,
    written: AtomicU64,
    /// Those read that no message explains yet.
    unexplained: AtomicU64,
    /// So many of these there may be.
    most: u64,
    /// There are more.
    excess: Notify,
}

/// Bytes on the wire that a message of so many accounts for: half as many again for heads, which is what pieces of 16
/// bytes need.
fn explained(message: usize) -> u64 {
    let bytes = u64::try_from(message).unwrap_or(u64::MAX);
    bytes.saturating_add(bytes / 2).saturating_add(HEADS)
}

struct Bytecount {
    read: u64,
    written: u64,
}

impl Moved {
    /// Where messages have so many bytes at most.
    fn new(max_message: usize) -> Self {
        Self { most: explained(max_message).saturating_add(EXCESS), ..Self::default() }
    }

    fn read_more(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
        let before = self.unexplained.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.most {
            self.excess.notify_one();
        }
    }

    /// A whole message has come, which explains its bytes and heads. What is over stays over, and what was read
    /// of the next one already will be explained by that one.
    fn read_message(&self, bytes: usize) {
        let less = |unexplained: u64| Some(unexplained.saturating_sub(explained(bytes)));
        let _ = self.unexplained.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn now(&self) -> Bytecount {
        Bytecount { read: self.read.load(Ordering::Relaxed), written: self.written.load(Ordering::Relaxed) }
    }
}

/// A connection that counts: half a large frame is a sign of life too.
struct Watched<T> {
    io: T,
    moved: Arc<Moved>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len().saturating_sub(before);
        self.moved.read_more(read as u64);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.moved.written.fetch_add(written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
