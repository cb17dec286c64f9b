//! One peer, from its offer to its end: a task that owns everything that belongs to it.

use super::{
    PeerError, StreamHandler,
    addresses::Binding,
    channel::{self, Bytes, Flight, Messages},
    engine::Engine,
    ice::IceServer,
};
use crate::status::{PeerPath, PeerStatus};
use parking_lot::Mutex;
use relay_protocol::tunnel::{self, Ended, Handle, Incoming, Options, Role, Stream};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;
use webrtc::{data_channel::DataChannel, peer_connection::RTCPeerConnectionState};

/// How long a browser has from the answer to an open channel: ICE, DTLS and a slow network's retries.
const CONNECT: Duration = Duration::from_secs(30);
/// How often the path is looked at, for the status.
const LOOK: Duration = Duration::from_secs(2);
/// Channels besides the one, that are closed, before the peer is.
const STRANGERS: usize = 4;
/// How long the exchanges under way have to finish when the peer is to end, above all the one that asked for it:
/// otherwise nobody over there learns that it was done.
const LAST: Duration = Duration::from_millis(1500);
/// How long the engine has to say goodbye.
const GOODBYE: Duration = Duration::from_millis(300);

/// How long a peer that has to go, and its ports, may take.
const ROOM: Duration = Duration::from_secs(1);

/// An offer that waits for its answer.
pub struct Asked {
    pub sdp: String,
    pub answer: oneshot::Sender<Result<String, PeerError>>,
}

/// What others may know of a peer.
#[derive(Debug)]
pub struct Info {
    since: i64,
    pub bytes: Arc<Bytes>,
    open: AtomicBool,
    streams: AtomicUsize,
    path: Mutex<Option<PeerPath>>,
}

impl Info {
    pub fn new(since: i64) -> Self {
        Self {
            since,
            bytes: Arc::default(),
            open: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            path: Mutex::default(),
        }
    }

    pub fn status(&self, id: Uuid, browser: Uuid) -> PeerStatus {
        PeerStatus {
            id: id.to_string(),
            browser: browser.to_string(),
            since: self.since,
            open: self.open.load(Relaxed),
            streams: self.streams.load(Relaxed),
            bytes_sent: self.bytes.sent.load(Relaxed),
            bytes_received: self.bytes.received.load(Relaxed),
            path: self.path.lock().clone(),
        }
    }
}

/// Why a peer ended.
#[derive(Debug)]
pub enum Why {
    /// Its session did.
    Session,
    /// Its browser asked for it.
    Asked,
    /// It had to make room, or the agent ends.
    Closed,
    /// The engine could not be set up, or did not take the offer.
    Refused(String),
    /// Nobody waited for the answer any more.
    Nobody,
    /// No channel was opened in time.
    NoChannel,
    /// The browser opened other channels instead.
    Strangers,
    /// Nothing went over it.
    Idle,
    /// The channel ended.
    Channel(Ended),
    /// The engine ended.
    Engine,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Session => f.write_str("its session ended"),
            Why::Asked => f.write_str("its browser ended it"),
            Why::Closed => f.write_str("it was closed"),
            Why::Refused(error) => write!(f, "the offer could not be answered: {error}"),
            Why::Nobody => f.write_str("nobody waited for the answer"),
            Why::NoChannel => f.write_str("no channel was opened"),
            Why::Strangers => f.write_str("the browser opened channels of other kinds"),
            Why::Idle => f.write_str("it was not used"),
            Why::Channel(ended) => write!(f, "{ended}"),
            Why::Engine => f.write_str("the connection failed"),
        }
    }
}

/// The task of one peer.
pub struct Actor {
    pub id: Uuid,
    pub browser: Uuid,
    pub session_ended: CancellationToken,
    /// Ends it once what is under way is done, as the session's end does.
    pub finish: CancellationToken,
    /// Ends it at once.
    pub stop: CancellationToken,
    /// The peer that had to go for it: its ports may be needed.
    pub before: Option<CancellationToken>,
    pub asks: mpsc::Receiver<Asked>,
    pub info: Arc<Info>,
    pub handler: StreamHandler,
    pub idle: Duration,
}

/// The streams of an open channel.
struct Open {
    handle: Handle,
    incoming: Incoming,
    channel: Arc<dyn DataChannel>,
    flight: Arc<Flight>,
    _driver: AbortOnDropHandle<Ended>,
}

/// What goes on over a peer.
#[derive(Default)]
struct Live {
    open: Option<Open>,
    streams: JoinSet<()>,
}

impl Live {
    /// Takes nothing new, lets what is under way finish, and closes the channel once the browser has it all.
    async fn finish(mut self) {
        let finished = async {
            let Some(open) = self.open else { return };
            while self.streams.join_next().await.is_some() {}
            open.handle.close(1000, "");
            open.handle.closed().await;
        };
        let _ = timeout(LAST, finished).await;
    }
}

impl Actor {
    /// Lives until something ends it.
    pub async fn run(mut self, first: Asked, binding: Binding, servers: Vec<IceServer>) -> Why {
        let (session_ended, finish, stop) =
            (self.session_ended.clone(), self.finish.clone(), self.stop.clone());
        let over = async {
            tokio::select! {
                () = session_ended.cancelled() => Why::Session,
                () = finish.cancelled() => Why::Asked,
                () = stop.cancelled() => Why::Closed,
            }
        };
        tokio::pin!(over);
        if let Some(before) = self.before.take() {
            let _ = timeout(ROOM, before.cancelled()).await;
        }
        let opened = tokio::select! {
            biased;
            why = &mut over => return why,
            opened = open_engine(binding, servers) => opened,
        };
        let mut engine = match opened {
            Ok(engine) => engine,
            Err(error) => {
                let why = Why::Refused(error.to_string());
                let _ = first.answer.send(Err(error));
                return why;
            }
        };
        let mut live = Live::default();
        let why = tokio::select! {
            biased;
            why = &mut over => why,
            why = self.live(&mut engine, first, &mut live) => why,
        };
        self.info.open.store(false, Relaxed);
        if matches!(why, Why::Session | Why::Asked) {
            tokio::select! {
                () = stop.cancelled() => {}
                () = live.finish() => {}
            }
        } else {
            // Streams, above all.
            drop(live);
        }
        let _ = timeout(GOODBYE, engine.close()).await;
        why
    }

    async fn live(&mut self, engine: &mut Engine, first: Asked, live: &mut Live) -> Why {
        if let Err(why) = answer(engine, first).await {
            return why;
        }
        let Live { open, streams } = live;
        let mut strangers = 0;
        let waited = sleep(CONNECT.min(self.idle));
        tokio::pin!(waited);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(asked) = self.asks.recv() => {
                    tracing::debug!(peer = %self.id, "ICE starts anew");
                    if let Err(why @ Why::Refused(_)) = answer(engine, asked).await {
                        // The engine may stand anywhere between two negotiations.
                        return why;
                    }
                }
                Some(channel) = engine.channels.recv() => {
                    if open.is_none() && channel::is_ours(&channel).await {
                        tracing::info!(peer = %self.id, browser = %self.browser, "a peer is connected");
                        self.info.open.store(true, Relaxed);
                        *open = Some(self.open(channel));
                        waited.as_mut().reset(Instant::now() + self.idle);
                        look.reset_immediately();
                    } else {
                        tracing::debug!(peer = %self.id, "a channel that is none of ours");
                        let _ = channel.close().await;
                        strangers += 1;
                        // The offer has one channel: if it is not this one, no other comes.
                        if open.is_none() || strangers >= STRANGERS {
                            return Why::Strangers;
                        }
                    }
                }
                stream = next(open) => match stream {
                    Ok(stream) => {
                        streams.spawn((self.handler)(stream, self.browser));
                        self.info.streams.store(streams.len(), Relaxed);
                    }
                    Err(ended) => return Why::Channel(ended),
                },
                Some(_) = streams.join_next() => {
                    self.info.streams.store(streams.len(), Relaxed);
                    if streams.is_empty() {
                        waited.as_mut().reset(Instant::now() + self.idle);
                    }
                }
                () = &mut waited, if streams.is_empty() => {
                    return if open.is_some() { Why::Idle } else { Why::NoChannel };
                }
                changed = engine.state.changed() => {
                    let state = *engine.state.borrow_and_update();
                    tracing::debug!(peer = %self.id, %state, "the state of a peer");
                    // An open one may come back by an ICE restart; its ping gives it up in time.
                    let failed = state == RTCPeerConnectionState::Failed && open.is_none();
                    if changed.is_err() || failed || state == RTCPeerConnectionState::Closed {
                        return Why::Engine;
                    }
                    look.reset_immediately();
                }
                _ = look.tick() => {
                    let path = engine.path().await;
                    if let Some(open) = open.as_ref() {
                        open.flight.follow(&open.channel, path.as_ref().and_then(|path| path.rtt_ms)).await;
                    }
                    *self.info.path.lock() = path;
                }
            }
        }
    }

    fn open(&self, channel: Arc<dyn DataChannel>) -> Open {
        let flight = Arc::new(Flight::default());
        let messages = Messages::new(channel.clone(), self.info.bytes.clone(), flight.clone());
        let (handle, incoming, driver) = tunnel::start(messages, Options::data_channel(Role::Peer));
        let driver = AbortOnDropHandle::new(tokio::spawn(driver.run()));
        Open { handle, incoming, channel, flight, _driver: driver }
    }
}

/// Binds the sockets of an engine. The ports of a range may be those of a peer that is just going.
async fn open_engine(binding: Binding, servers: Vec<IceServer>) -> Result<Engine, PeerError> {
    binding.room(ROOM).await.map_err(PeerError::Ports)?;
    Engine::open(binding, servers).await.map_err(|error| PeerError::Failed(error.to_string()))
}

/// The next stream of an open channel; never when none is open.
async fn next(open: &mut Option<Open>) -> Result<Stream, Ended> {
    match open {
        None => std::future::pending().await,
        Some(open) => match open.incoming.next().await {
            Some(stream) => Ok(stream),
            None => Err(open.handle.closed().await),
        },
    }
}

/// Answers an offer. An error ends the peer, except where the peer is older than the offer and nobody waits.
async fn answer(engine: &mut Engine, asked: Asked) -> Result<(), Why> {
    match engine.answer(asked.sdp).await {
        Ok(sdp) => asked.answer.send(Ok(sdp)).map_err(|_| Why::Nobody),
        Err(error) => {
            let _ = asked.answer.send(Err(PeerError::Refused));
            Err(Why::Refused(error.to_string()))
        }
    }
}
