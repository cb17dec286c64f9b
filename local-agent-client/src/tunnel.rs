//! One tunnel from its handshake to its end: takes the streams that the relay opens and serves
//! each in a task that belongs to the tunnel.

use crate::{
    dial::{Dialed, tunnel_options},
    forward::Load,
    gate::Gate,
    serve,
};
use relay_protocol::tunnel::{self, Handle, Incoming};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// What a tunnel that was told to end gives the requests under way.
pub const FINISH: Duration = Duration::from_secs(30);
/// What it gives those of paired browsers then, whose sessions end, so that they get to know it.
pub const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a drained tunnel may live on for its streams.
const RETIRED_MOST: Duration = Duration::from_secs(300);
/// A drained tunnel that carried no request for so long has nothing left to come: the relay opens new
/// streams on the newer one.
const RETIRED_IDLE: Duration = Duration::from_secs(10);
/// How long a relay that is left has to hear of it, and to open no more streams.
const HEARD: Duration = Duration::from_secs(5);
/// How often a drained tunnel looks, and how often a stream is asked whether it still lives. An abort
/// has to reach the local server within a second.
const LOOK: Duration = Duration::from_millis(250);
/// For the closing handshake.
const CLOSE: Duration = Duration::from_secs(2);

/// WebSocket close codes of RFC 6455 section 7.4.1.
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;

/// What a tunnel is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Serve.
    Serve,
    /// Serve what is under way, then close: a newer tunnel has taken over.
    Retire,
    /// The same, but the newer one goes to another relay, which this one has to be told.
    Leave,
    /// Take nothing more, finish what is under way, then close: the agent ends.
    Stop,
}

/// A tunnel that runs in a task of its own. Dropping it ends it at once.
#[derive(Debug)]
pub struct Live {
    /// The handle on it.
    pub handle: Handle,
    /// When it came up.
    pub since: Instant,
    mode: watch::Sender<Mode>,
    task: AbortOnDropHandle<()>,
}

impl Live {
    /// Starts to serve.
    pub fn start(dialed: Dialed, gate: Arc<Gate>) -> Self {
        let (handle, incoming, driver) = tunnel::start(dialed.socket, tunnel_options(dialed.form));
        let driver = AbortOnDropHandle::new(tokio::spawn(driver.run()));
        let (mode, told) = watch::channel(Mode::Serve);
        let task = run(handle.clone(), incoming, gate, told);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            task.await;
            // The driver ends with the tunnel; what cannot be said in time stays unsaid.
            let _ = tokio::time::timeout(CLOSE, driver).await;
        }));
        Self { handle, since: Instant::now(), mode, task }
    }

    /// Changes what it is to do, and waits for its end.
    pub async fn end(self, mode: Mode) {
        self.mode.send_replace(mode);
        // A panic in a stream's task is that task's; here is nothing more to do about it.
        let _ = self.task.await;
    }
}

async fn run(handle: Handle, mut incoming: Incoming, gate: Arc<Gate>, mut told: watch::Receiver<Mode>) {
    let load = Arc::new(Load::default());
    let stop = CancellationToken::new();
    let mut streams = JoinSet::new();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut retired, mut busy, mut heard) = (None, Instant::now(), Instant::now());
    loop {
        tokio::select! {
            stream = incoming.next() => match stream {
                Some(stream) => {
                    let (gate, load, stop) = (gate.clone(), load.clone(), stop.clone());
                    streams.spawn(async move {
                        let gone = stream.aborted();
                        serve::connection(stream, gone, gate, &load, stop).await;
                    });
                }
                None => break,
            },
            _ = streams.join_next(), if !streams.is_empty() => {}
            changed = told.changed() => match changed.map(|()| *told.borrow_and_update()) {
                Ok(Mode::Serve) => {}
                Ok(mode @ (Mode::Retire | Mode::Leave)) => {
                    let now = Instant::now();
                    (retired, busy, heard) = (Some(now), now, now);
                    if mode == Mode::Leave {
                        handle.drain(0);
                        heard = now + HEARD;
                    }
                }
                Ok(Mode::Stop) | Err(_) => break,
            },
            _ = look.tick(), if retired.is_some() => {
                if !load.is_idle(handle.streams()) {
                    busy = Instant::now();
                }
                let too_long = retired.is_some_and(|since: Instant| since.elapsed() >= RETIRED_MOST);
                let done = handle.streams() == 0 && Instant::now() >= heard;
                if too_long || done || busy.elapsed() >= RETIRED_IDLE {
                    handle.close(NORMAL, "a newer tunnel has taken over");
                    return;
                }
            }
        }
    }
    // Streams that come now are refused, because nobody takes them.
    drop(incoming);
    stop.cancel();
    let finished = async { while streams.join_next().await.is_some() {} };
    let in_time = async {
        tokio::time::sleep(FINISH).await;
        tracing::info!("requests that did not finish in time are cut off");
        // The sessions are those of all tunnels; they end with the agent, not with one of these.
        if *told.borrow() == Mode::Stop {
            gate.end_sessions();
        }
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        () = finished => {}
        () = in_time => {}
        _ = handle.closed() => {}
    }
    streams.shutdown().await;
    handle.close(GOING_AWAY, "the agent ends");
}
