//! The driver of a tunnel: one task that owns the yamux session.
//!
//! A poll runs the session until it has nothing more to do, hands what it delivered to the streams, lets
//! waiting writers in, and sends everything that was queued meanwhile as one message. While several
//! streams are busy a small batch is held for one more turn of the executor, because those that were just
//! woken usually have more to say; a lone request does not wait for company.
//!
//! The session cannot be asked whether it is done, so it gets a waker of its own: no wake, no poll.

use super::gate::Gate;
use super::link::{Link, LinkIo};
use super::stream::{Cell, Stream};
use super::transport::{Outbound, Transport};
use super::{Control, Form, Hello, Options, Role};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_yamux::frame::{Flag, Flags, Frame};
use tokio_yamux::session::{Session, SessionType};
use tokio_yamux::{Config, StreamHandle};

/// A batch below this is held for one turn: it is less than the socket takes in one segment train.
const CORK: usize = 32 * 1024;
/// Turns of session and streams in one poll, before other tasks get their chance.
const TURNS: usize = 64;
/// Streams that the peer may open before anybody takes them.
const ACCEPT_BACKLOG: usize = 256;
/// Requests to the driver that may wait.
const COMMANDS: usize = 256;
/// How long a stream that was shut down and dropped waits for the peer's end before it is reset.
const LINGER: Duration = Duration::from_secs(3);
/// How long a close waits for what is queued and for the peer's close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a tunnel ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// This end closed it.
    Local,
    /// The peer closed the WebSocket with this code and reason (1005 where it gave none).
    Closed {
        /// The close code (RFC 6455 section 7.4).
        code: u16,
        /// The reason, possibly empty.
        reason: String,
    },
    /// The connection broke without a close.
    Lost(String),
    /// The peer was silent past the ping's deadline.
    Silent,
    /// The peer broke the protocol.
    Protocol(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Local => write!(f, "closed by this end"),
            Ended::Closed { code, reason } if reason.is_empty() => {
                write!(f, "closed by the peer with code {code}")
            }
            Ended::Closed { code, reason } => write!(f, "closed by the peer with code {code}: {reason}"),
            Ended::Lost(error) => write!(f, "the connection was lost: {error}"),
            Ended::Silent => write!(f, "the peer did not answer a ping in time"),
            Ended::Protocol(error) => write!(f, "the peer broke the protocol: {error}"),
        }
    }
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many streams are open as may be.
    #[error("every stream of the tunnel is in use")]
    TooMany,
    /// The tunnel has ended.
    #[error("the tunnel has ended")]
    Ended,
}

enum Command {
    Open(oneshot::Sender<Result<Stream, OpenError>>),
    Drain(u32),
    Probe(Duration),
    Close(u16, String),
}

/// What the driver, the handles and the streams of one tunnel share.
pub(super) struct Shared {
    pub(super) gate: Gate<Cell>,
    driver: AtomicWaker,
    /// The driver is in its loop and looks again before it sleeps: no wake is needed.
    running: AtomicBool,
    /// Streams whose frames wait. `None` once the driver is gone.
    ready: Mutex<Option<Vec<Arc<Cell>>>>,
    lingering: Mutex<Vec<Arc<Cell>>>,
    streams: AtomicUsize,
    opened: AtomicU64,
    max_streams: usize,
    max_opens: u64,
    dead: AtomicBool,
    ended: watch::Sender<Option<Ended>>,
    peer: watch::Sender<Option<Hello>>,
    drained: watch::Sender<Option<u32>>,
    /// Microseconds; 0 is unknown.
    rtt: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("streams", &self.streams)
            .field("ended", &*self.ended.borrow())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn has_ended(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The first reason stays.
    fn end(&self, ended: Ended) {
        self.dead.store(true, Ordering::SeqCst);
        self.ended.send_if_modified(|slot| {
            let first = slot.is_none();
            slot.get_or_insert(ended);
            first
        });
    }

    pub(super) fn wake_driver(&self) {
        if !self.running.load(Ordering::SeqCst) {
            self.driver.wake();
        }
    }

    /// Notes a stream whose frames wait. Once the driver is gone nobody would look, and nobody has to:
    /// every poll answers by itself then.
    pub(super) fn list(&self, cell: Arc<Cell>) {
        if let Some(ready) = self.ready.lock().as_mut() {
            ready.push(cell);
        }
        self.wake_driver();
    }

    pub(super) fn linger(&self, cell: Arc<Cell>) {
        if self.has_ended() {
            cell.release();
            return;
        }
        self.lingering.lock().push(cell);
        self.wake_driver();
        if self.has_ended() {
            // The driver may have looked for the last time before the push.
            let late = std::mem::take(&mut *self.lingering.lock());
            late.iter().for_each(|cell| cell.release());
        }
    }

    pub(super) fn stream_opened(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stream_closed(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The waker that the session sees.
struct SessionWake {
    woken: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for SessionWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.shared.wake_driver();
        }
    }
}

/// A handle on a tunnel: cheap to clone, usable from any task. The tunnel lives as long as its driver runs.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Opens a stream. Answers as soon as its first frame is queued; [`Stream::established`] tells when the
    /// peer took it.
    ///
    /// # Errors
    /// [`OpenError::TooMany`] when [`Options::max_streams`] are open, [`OpenError::Ended`] when the tunnel has ended.
    pub async fn open(&self) -> Result<Stream, OpenError> {
        let (answer, opened) = oneshot::channel();
        self.commands.send(Command::Open(answer)).await.map_err(|_| OpenError::Ended)?;
        opened.await.map_err(|_| OpenError::Ended)?
    }

    /// Streams that are open now.
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Ordering::Relaxed)
    }

    /// The peer's hello, once it has come (always `None` in the plain form).
    pub fn peer(&self) -> Option<Hello> {
        self.shared.peer.borrow().clone()
    }

    /// The round-trip time that the last answered ping measured.
    pub fn rtt(&self) -> Option<Duration> {
        match self.shared.rtt.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// Sends a drain notice when the peer knows the feature; false when it does not.
    pub fn drain(&self, reconnect_within: u32) -> bool {
        let knows = self.shared.peer.borrow().as_ref().is_some_and(|p| p.has(super::control::FEATURE_DRAIN));
        knows && self.commands.try_send(Command::Drain(reconnect_within)).is_ok()
    }

    /// Completes when the peer has sent a drain notice, with its seconds. Pending for ever if it never does.
    pub async fn drained(&self) -> u32 {
        let mut drained = self.shared.drained.subscribe();
        match drained.wait_for(Option::is_some).await.map(|seconds| *seconds) {
            Ok(Some(seconds)) => seconds,
            _ => std::future::pending().await,
        }
    }

    /// Pings at once and ends the tunnel as [`Ended::Silent`] when nothing comes back within `deadline`.
    pub fn probe(&self, deadline: Duration) {
        // A full queue means that the driver is about to run; the regular ping follows anyway.
        let _ = self.commands.try_send(Command::Probe(deadline));
    }

    /// Whether so many streams were opened that the tunnel should be renewed.
    pub fn wants_renewal(&self) -> bool {
        self.shared.opened.load(Ordering::Relaxed) >= self.shared.max_opens
    }

    /// Sends what is queued, closes the WebSocket with this code and ends the tunnel within two seconds.
    pub fn close(&self, code: u16, reason: &str) {
        let command = Command::Close(code, reason.to_owned());
        if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
            let commands = self.commands.clone();
            tokio::spawn(async move { commands.send(command).await });
        }
    }

    /// Why the tunnel ended, once it has.
    pub fn ended(&self) -> Option<Ended> {
        if self.shared.has_ended() { self.shared.ended.borrow().clone() } else { None }
    }

    /// Completes when the tunnel has ended.
    pub async fn closed(&self) -> Ended {
        let mut ended = self.shared.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|e| e.clone()) {
            Ok(Some(ended)) => ended,
            // The sender lives in what this handle shares, so it cannot be gone.
            _ => Ended::Local,
        }
    }
}

/// The streams that the peer opens, in order. At most [`Options::max_streams`] wait; one more is reset.
#[derive(Debug)]
pub struct Incoming {
    streams: mpsc::Receiver<Stream>,
}

impl Incoming {
    /// The next stream, or `None` when the tunnel has ended.
    pub async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }
}

/// What the ping's timer waits for.
enum Ping {
    /// The next ping is due.
    Idle,
    /// The peer must have been heard.
    Sent { rest: Duration },
    /// The close must be through.
    Closing,
}

/// How far this end's close has come.
#[derive(PartialEq, Eq)]
enum Closing {
    No,
    /// What is queued goes first.
    Wanted {
        code: u16,
        reason: String,
    },
    Sent,
}

/// Owns the transport and moves everything. Run it in a task of its own: nothing happens otherwise.
pub struct Driver<T> {
    shared: Arc<Shared>,
    link: Arc<Mutex<Link<T>>>,
    /// Gone only while the driver is dropped: it ends before the streams are told.
    session: Option<Session<LinkIo<T>>>,
    wake: Arc<SessionWake>,
    commands: mpsc::Receiver<Command>,
    incoming: mpsc::Sender<Stream>,
    options: Options,
    timer: Pin<Box<Sleep>>,
    ping: Ping,
    ping_count: u64,
    ping_sent: Instant,
    closing: Closing,
    lingering: Vec<(Arc<Cell>, Instant)>,
    linger_timer: Option<Pin<Box<Sleep>>>,
    held: bool,
    /// Writes that the last message carried: with one at a time there is nothing to wait for.
    company: usize,
}

impl<T> fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// Starts a tunnel on a WebSocket whose handshake is done, or on another transport that is open.
///
/// Must be called within a tokio runtime with its timer enabled.
pub fn start<T: Transport>(transport: T, options: Options) -> (Handle, Incoming, Driver<T>) {
    let shared = Arc::new(Shared {
        gate: Gate::new(),
        driver: AtomicWaker::new(),
        running: AtomicBool::new(false),
        ready: Mutex::new(Some(Vec::new())),
        lingering: Mutex::default(),
        streams: AtomicUsize::new(0),
        opened: AtomicU64::new(0),
        max_streams: options.max_streams,
        max_opens: options.max_opens,
        dead: AtomicBool::new(false),
        ended: watch::Sender::new(None),
        peer: watch::Sender::new(None),
        drained: watch::Sender::new(None),
        rtt: AtomicU64::new(0),
    });
    let mut link = Link::new(transport, options.form == Form::Plain);
    if let Form::V1(hello) = &options.form {
        link.send_first(Outbound::Control(Control::Hello(hello.clone()).to_text()));
    }
    let link = Arc::new(Mutex::new(link));
    let config = Config {
        accept_backlog: ACCEPT_BACKLOG.min(options.max_streams),
        // The driver's ping has a deadline; yamux's own notices a dead peer after 35 s and more.
        enable_keepalive: false,
        max_stream_count: options.max_streams,
        max_stream_window_size: options.window.max(tokio_yamux::config::INITIAL_STREAM_WINDOW),
        ..Config::default()
    };
    let ty = match options.role {
        Role::Agent | Role::Browser => SessionType::Client,
        Role::Relay | Role::Peer => SessionType::Server,
    };
    let session = Session::new(LinkIo(link.clone()), config, ty);
    let (commands, command_queue) = mpsc::channel(COMMANDS);
    let (incoming, accepted) = mpsc::channel(options.max_streams.max(1));
    let wake = Arc::new(SessionWake { woken: AtomicBool::new(true), shared: shared.clone() });
    let now = Instant::now();
    let driver = Driver {
        shared: shared.clone(),
        link,
        session: Some(session),
        wake,
        commands: command_queue,
        incoming,
        timer: Box::pin(sleep_until(now + options.ping_interval)),
        options,
        ping: Ping::Idle,
        ping_count: 0,
        ping_sent: now,
        closing: Closing::No,
        lingering: Vec::new(),
        linger_timer: None,
        held: false,
        company: 0,
    };
    (Handle { shared, commands }, Incoming { streams: accepted }, driver)
}

impl<T: Transport> Driver<T> {
    /// Runs the tunnel to its end. Dropping the future ends it too, like a lost connection.
    pub async fn run(mut self) -> Ended {
        let ended = std::future::poll_fn(|cx| self.poll(cx)).await;
        let last_words = match &ended {
            Ended::Protocol(reason) => Some((1002, reason.as_str())),
            Ended::Silent => Some((1001, "no answer to a ping")),
            // The answer to the peer's close is queued already.
            Ended::Closed { .. } => None,
            Ended::Local | Ended::Lost(_) => return self.bury(ended),
        };
        self.tell(last_words).await;
        self.bury(ended)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.shared.driver.register(cx.waker());
        self.shared.running.store(true, Ordering::SeqCst);
        let result = self.run_turns(cx);
        self.shared.running.store(false, Ordering::SeqCst);
        match result {
            Ok(()) => {
                // What came while `running` was set woke nobody.
                if self.has_work() || self.shared.gate.has_room_for_waiting() {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Err(ended) => Poll::Ready(ended),
        }
    }

    fn has_work(&self) -> bool {
        self.wake.woken.load(Ordering::SeqCst)
            || self.shared.ready.lock().as_ref().is_some_and(|ready| !ready.is_empty())
            || !self.shared.lingering.lock().is_empty()
    }

    fn run_turns(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        for _ in 0..TURNS {
            self.run_session()?;
            self.take_commands(cx);
            self.take_controls()?;
            self.pump();
            if !self.has_work() {
                break;
            }
        }
        self.run_lingering(cx);
        self.run_timer(cx)?;
        self.send(cx)
    }

    /// Polls the session while it asks for it.
    fn run_session(&mut self) -> Result<(), Ended> {
        let waker = Waker::from(self.wake.clone());
        let mut cx = Context::from_waker(&waker);
        for _ in 0..TURNS {
            let pending = self.shared.gate.pending();
            if !self.wake.woken.swap(false, Ordering::SeqCst) {
                self.shared.gate.settle(pending);
                return Ok(());
            }
            let Some(session) = self.session.as_mut() else { return Ok(()) };
            let polled = futures_util::Stream::poll_next(Pin::new(session), &mut cx);
            // Of a peer that said GoAway first the session tells at once.
            if self.link.lock().going && !matches!(polled, Poll::Ready(None | Some(Err(_)))) {
                self.pump();
                return Err(self.why(|| Ended::Protocol("a frame that yamux does not allow".to_owned())));
            }
            match polled {
                Poll::Pending => {}
                Poll::Ready(Some(Ok(handle))) => {
                    self.accept(handle);
                    self.wake.woken.store(true, Ordering::SeqCst);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.pump();
                    return Err(self.why(|| match error.kind() {
                        std::io::ErrorKind::InvalidData => Ended::Protocol(error.to_string()),
                        _ => Ended::Lost(error.to_string()),
                    }));
                }
                Poll::Ready(None) => {
                    self.pump();
                    return Err(self.why(|| Ended::Protocol("the peer sent a GoAway".to_owned())));
                }
            }
        }
        Ok(())
    }

    /// What the link knows of the end goes before what the session makes of it.
    fn why(&self, otherwise: impl FnOnce() -> Ended) -> Ended {
        if self.closing != Closing::No {
            return Ended::Local;
        }
        self.link.lock().ended.clone().unwrap_or_else(otherwise)
    }

    fn accept(&mut self, handle: StreamHandle) {
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        let stream = Stream::new(handle, &self.shared);
        // A full or closed queue drops the stream, which resets it.
        let _ = self.incoming.try_send(stream);
    }

    fn take_commands(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(command)) = self.commands.poll_recv(cx) {
            match command {
                Command::Open(answer) => {
                    let _ = answer.send(self.open());
                }
                Command::Drain(reconnect_within) => {
                    let text = Control::Drain { reconnect_within }.to_text();
                    self.link.lock().send_first(Outbound::Control(text));
                }
                Command::Probe(deadline) => self.probe(deadline),
                Command::Close(code, reason) => {
                    if self.closing == Closing::No {
                        self.closing = Closing::Wanted { code, reason };
                        self.ping = Ping::Closing;
                        self.timer.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
                    }
                }
            }
        }
    }

    fn open(&mut self) -> Result<Stream, OpenError> {
        if self.closing != Closing::No {
            return Err(OpenError::Ended);
        }
        if self.shared.streams.load(Ordering::Relaxed) >= self.shared.max_streams {
            return Err(OpenError::TooMany);
        }
        let session = self.session.as_mut().ok_or(OpenError::Ended)?;
        let handle = session.open_stream().map_err(|_| OpenError::Ended)?;
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Stream::new(handle, &self.shared))
    }

    fn take_controls(&mut self) -> Result<(), Ended> {
        let mut link = self.link.lock();
        if let Some(payload) = link.pong.take()
            && payload.as_ref() == self.ping_count.to_be_bytes()
        {
            let micros = u64::try_from(self.ping_sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.shared.rtt.store(micros.max(1), Ordering::Relaxed);
        }
        while let Some(control) = link.controls.pop_front() {
            match control {
                Control::Hello(hello) => {
                    if self.shared.peer.borrow().is_some() {
                        return Err(Ended::Protocol("a second hello".to_owned()));
                    }
                    self.shared.peer.send_replace(Some(hello));
                }
                Control::Drain { reconnect_within } => {
                    self.shared.drained.send_replace(Some(reconnect_within));
                }
                Control::Unknown => {}
            }
        }
        Ok(())
    }

    fn pump(&self) {
        // Taken in one piece: a pump may list its cell again.
        let ready = self.shared.ready.lock().as_mut().map(std::mem::take).unwrap_or_default();
        for cell in &ready {
            cell.pump();
        }
    }

    /// Streams that were shut down and dropped: read them empty, and reset those whose peer does not end.
    fn run_lingering(&mut self, cx: &mut Context<'_>) {
        let fresh = std::mem::take(&mut *self.shared.lingering.lock());
        if fresh.is_empty() && self.lingering.is_empty() {
            return;
        }
        let now = Instant::now();
        self.lingering.extend(fresh.into_iter().map(|cell| (cell, now + LINGER)));
        let link = &self.link;
        self.lingering.retain(|(cell, deadline)| {
            if cell.discard() {
                cell.release();
                return false;
            }
            if *deadline > now {
                return true;
            }
            // yamux sends no reset after a FIN, so this end writes the frame itself.
            link.lock().write_frame(Frame::new_window_update(Flags::from(Flag::Rst), cell.id(), 0));
            cell.release();
            false
        });
        self.linger_timer = self.lingering.first().map(|(_, deadline)| Box::pin(sleep_until(*deadline)));
        if let Some(timer) = &mut self.linger_timer
            && timer.as_mut().poll(cx).is_ready()
        {
            cx.waker().wake_by_ref();
        }
    }

    /// A ping that is under way is not asked again: its deadline only comes nearer, or a peer that is probed
    /// often enough would never be found dead.
    fn probe(&mut self, deadline: Duration) {
        match self.ping {
            Ping::Idle => self.send_ping(deadline, self.options.ping_interval),
            Ping::Sent { .. } => {
                let sooner = (Instant::now() + deadline).min(self.timer.deadline());
                self.timer.as_mut().reset(sooner);
            }
            Ping::Closing => {}
        }
    }

    fn send_ping(&mut self, deadline: Duration, interval: Duration) {
        if self.closing != Closing::No {
            return;
        }
        self.ping_count = self.ping_count.wrapping_add(1);
        self.ping_sent = Instant::now();
        let count = self.ping_count.to_be_bytes();
        let mut link = self.link.lock();
        link.heard = false;
        if T::PINGS {
            link.send_first(Outbound::Ping(Bytes::copy_from_slice(&count)));
        } else {
            // The session knows nothing of it and passes over the answer; the number has 32 bits there.
            let [.., a, b, c, d] = count;
            link.write_frame(Frame::new_ping(Flags::from(Flag::Syn), u32::from_be_bytes([a, b, c, d])));
        }
        self.ping = Ping::Sent { rest: interval.saturating_sub(deadline) };
        self.timer.as_mut().reset(self.ping_sent + deadline);
    }

    fn run_timer(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.ping {
                Ping::Idle => {
                    if self.options.form != Form::Plain
                        && self.shared.peer.borrow().is_none()
                        && self.ping_count > 0
                    {
                        return Err(Ended::Protocol("no hello came".to_owned()));
                    }
                    self.send_ping(self.options.ping_timeout, self.options.ping_interval);
                }
                Ping::Sent { rest } => {
                    let mut link = self.link.lock();
                    if !link.heard {
                        return Err(Ended::Silent);
                    }
                    link.shrink();
                    self.ping = Ping::Idle;
                    self.timer.as_mut().reset(Instant::now() + rest);
                }
                Ping::Closing => return Err(Ended::Local),
            }
        }
        Ok(())
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let mut link = self.link.lock();
        let small = !link.outbound.is_empty() && link.outbound.len() < CORK;
        let hold = small && !self.held && self.company > 1;
        self.held = hold;
        if hold {
            cx.waker().wake_by_ref();
        }
        if link.poll_send(cx, hold)? {
            self.company = self.shared.gate.next_epoch();
        }
        if let Closing::Wanted { code, reason } = &self.closing
            && link.drained()
        {
            link.send_close(*code, reason);
            self.closing = Closing::Sent;
            link.poll_send(cx, false)?;
        }
        self.shared.gate.set_queued(link.queued());
        drop(link);
        let mut admitted = Vec::new();
        self.shared.gate.admit(&mut admitted);
        for cell in admitted {
            cell.admit();
        }
        Ok(())
    }

    /// Tells the peer why, as far as it takes it at once.
    async fn tell(&mut self, last_words: Option<(u16, &str)>) {
        let link = self.link.clone();
        match last_words {
            Some((code, reason)) => link.lock().send_close(code, reason),
            None => link.lock().flush_again(),
        }
        let sent = std::future::poll_fn(|cx| {
            let mut link = link.lock();
            match link.poll_send(cx, true) {
                Ok(_) if !link.drained() && link.outbound.is_empty() => Poll::Pending,
                _ => Poll::Ready(()),
            }
        });
        let _ = tokio::time::timeout(Duration::from_millis(500), sent).await;
    }

    fn bury(self, ended: Ended) -> Ended {
        self.shared.end(ended.clone());
        ended
    }
}

/// Ends every stream with a reset and tells everybody who waits; also when the driver's task is aborted.
impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.shared.end(Ended::Lost("the tunnel's task was ended".to_owned()));
        // Its end wakes every stream, which lists them.
        drop(self.session.take());
        let fresh = std::mem::take(&mut *self.shared.lingering.lock());
        for cell in self.lingering.drain(..).map(|(cell, _)| cell).chain(fresh) {
            cell.release();
        }
        let listed = self.shared.ready.lock().take().unwrap_or_default();
        for cell in listed.iter().chain(&self.shared.gate.dismiss()) {
            cell.pump();
        }
    }
}
