//! Keeps the agent connected: dials, watches the tunnel, and dials again.
//!
//! Make before break: when the relay says that it will end, the next tunnel is up before the old one
//! goes. A refusal is said plainly and retried rarely; after sleep everything is retried at once.
//!
//! An agent with several connections has one of these for each; which relay each goes to is [`crate::relays`]'s
//! business.

use crate::{
    backoff::{Backoff, Cause, Renewal},
    dial::{DialError, Dialed},
    gate::Gate,
    status::Reporter,
    tunnel::{FINISH, LAST_WORDS, Live, Mode},
};
use parking_lot::Mutex;
use relay_protocol::tunnel::{Ended, Form, SUBPROTOCOL};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// How long a tunnel has to answer after the machine woke up. Longer than a slow mobile round trip,
/// and within the 3 s after which people want to see their page.
const PROBE: Duration = Duration::from_secs(2);
/// A loss this soon after waking up is its consequence, and no reason to wait.
const WAKING: Duration = Duration::from_secs(10);
/// How often the counters are taken over into the status.
const REFRESH: Duration = Duration::from_secs(1);

/// Opens tunnels. A trait, so that the policy here is tested without a network.
pub trait Connect: Send + Sync {
    /// One attempt.
    fn connect(&self) -> impl Future<Output = Result<Dialed, DialError>> + Send;
    /// Completes when the token is another one than the last attempt used.
    fn token_changed(&self) -> impl Future<Output = ()> + Send;

    /// Completes with a tunnel that is to take over from one that works, because it goes to a better place.
    fn better(&self) -> impl Future<Output = Dialed> + Send {
        std::future::pending()
    }

    /// The relay asks to connect anew. True when the next attempt will go to another one, which need not be given
    /// time.
    fn drained(&self) -> bool {
        false
    }

    /// The tunnel of the last attempt that succeeded has ended.
    fn lost(&self) {}
}

/// What keeps one connection of an agent up.
pub struct Session<C> {
    /// Opens tunnels.
    pub connect: C,
    /// Serves their streams.
    pub gate: Arc<Gate>,
    /// Where it is told.
    pub reporter: Arc<Mutex<Reporter>>,
    /// Counts the clock's jumps.
    pub jumps: watch::Receiver<u64>,
    /// Ends it.
    pub stop: CancellationToken,
    /// Uniform in 0.0 to 1.0.
    pub chance: Box<dyn FnMut() -> f64 + Send>,
}

/// A tunnel that serves, and the number under which it is reported.
struct Current {
    number: u64,
    live: Live,
}

/// Why a tunnel is not watched any longer.
enum Watched {
    Stop,
    Ended(Ended),
    /// The connection did not survive the machine's sleep.
    Slept(Ended),
    /// Connect anew within so many seconds.
    Drained(u32),
    /// Another one is up and takes over.
    Better(Box<Dialed>),
}

/// A wait before the next attempt.
struct Pause {
    wait: Duration,
    /// How much of it remains in force when the tunnel that still served ends meanwhile.
    least: Duration,
    /// Another token ends it.
    for_token: bool,
}

impl<C: Connect> Session<C> {
    /// Runs until it is stopped, then lets what is under way finish.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        // While there is none, or while the drained one still serves, the next is dialled.
        let mut current: Option<Current> = None;
        // Tunnels that were replaced and still carry something.
        let mut retired = JoinSet::new();
        let mut number = 0;
        let mut better = None;
        loop {
            let mode = if better.is_some() { Mode::Leave } else { Mode::Retire };
            let dialed = match better.take() {
                Some(dialed) => dialed,
                None => match self.next(&mut current, &mut backoff).await {
                    Some(dialed) => dialed,
                    None => break,
                },
            };
            number += 1;
            let form = match &dialed.form {
                Form::Plain => "plain",
                Form::V1(_) => SUBPROTOCOL,
            };
            tracing::info!(form, host_id = dialed.host_id, "connected to the relay");
            self.reporter.lock().connected(number, form, dialed.host_id.clone());
            let live = Live::start(dialed, self.gate.clone());
            if let Some(old) = current.take() {
                retired.spawn(old.live.end(mode));
            }
            while retired.try_join_next().is_some() {}
            let watched = self.watch(&live).await;
            let lived = live.since.elapsed();
            let tunnel = Current { number, live };
            let pause = match watched {
                Watched::Stop => {
                    current = Some(tunnel);
                    break;
                }
                Watched::Ended(ended) => {
                    self.lost(&tunnel, &ended);
                    let wait = backoff.next(Cause::Lost { lived }, (self.chance)());
                    Pause { wait, least: wait, for_token: false }
                }
                Watched::Slept(ended) => {
                    // Nothing is wrong with the relay.
                    self.lost(&tunnel, &ended);
                    backoff.reset();
                    continue;
                }
                Watched::Better(dialed) => {
                    current = Some(tunnel);
                    better = Some(*dialed);
                    continue;
                }
                Watched::Drained(seconds) => {
                    let elsewhere = self.connect.drained();
                    let Renewal { wait, least } = backoff.renewal(lived, seconds, (self.chance)());
                    let wait = if elsewhere { least } else { wait };
                    tracing::info!(?wait, elsewhere, "the relay asks to connect anew");
                    current = Some(tunnel);
                    Pause { wait, least, for_token: false }
                }
            };
            if !self.pause(pause, &mut current, &mut backoff).await {
                break;
            }
        }
        if let Some(current) = current {
            retired.spawn(current.live.end(Mode::Stop));
        }
        // Retired ones had their time; nothing new comes on them, and 30 s are enough to finish. Where no other tunnel
        // does it, the sessions are ended here.
        let finish = async { while retired.join_next().await.is_some() {} };
        let in_time = async {
            tokio::time::sleep(FINISH).await;
            self.gate.end_sessions();
            tokio::time::sleep(LAST_WORDS + Duration::from_secs(3)).await;
        };
        tokio::select! {
            () = finish => {}
            () = in_time => {}
        }
        self.reporter.lock().ended();
    }

    /// Dials until there is a tunnel. `None` when the agent is to end.
    async fn next(&mut self, current: &mut Option<Current>, backoff: &mut Backoff) -> Option<Dialed> {
        loop {
            self.reporter.lock().waits(None);
            let error = {
                let mut connecting = pin!(self.connect.connect());
                loop {
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return None,
                        dialed = connecting.as_mut() => match dialed {
                            Ok(dialed) => return Some(dialed),
                            Err(error) => break error,
                        },
                        ended = gone(current) => {
                            if let Some(old) = current.take() {
                                self.lost(&old, &ended);
                            }
                        }
                    }
                }
            };
            let wait = backoff.next(error.cause(), (self.chance)());
            tracing::warn!(retry_in = ?wait, "{error}");
            self.reporter.lock().failed(error.to_string());
            let pause = Pause { wait, least: wait, for_token: error.is_about_the_token() };
            if !self.pause(pause, current, backoff).await {
                return None;
            }
        }
    }

    /// Waits; shorter when the machine wakes up, or when the token was the reason and is another one
    /// now. False when the agent is to end.
    async fn pause(&mut self, pause: Pause, current: &mut Option<Current>, backoff: &mut Backoff) -> bool {
        let start = Instant::now();
        let mut until = start + pause.wait;
        self.reporter.lock().waits(Some(pause.wait));
        loop {
            let token = async {
                if pause.for_token {
                    self.connect.token_changed().await;
                } else {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = sleep_until(until) => {}
                () = token => tracing::info!("there is another token"),
                () = jumped(&mut self.jumps) => backoff.reset(),
                ended = gone(current) => {
                    if let Some(old) = current.take() {
                        self.lost(&old, &ended);
                    }
                    until = until.min(start + pause.least);
                    let rest = until.saturating_duration_since(Instant::now());
                    self.reporter.lock().waits(Some(rest));
                    continue;
                }
            }
            return true;
        }
    }

    /// Tells that a tunnel has ended.
    fn lost(&self, tunnel: &Current, ended: &Ended) {
        tracing::warn!(%ended, lived = ?tunnel.live.since.elapsed(), "the tunnel was lost");
        self.connect.lost();
        self.reporter.lock().lost(tunnel.number, ended.to_string());
    }

    /// Watches a tunnel while it serves.
    async fn watch(&mut self, live: &Live) -> Watched {
        let handle = &live.handle;
        let mut refresh = tokio::time::interval(REFRESH);
        let mut woke: Option<Instant> = None;
        let mut better = pin!(self.connect.better());
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Watched::Stop,
                ended = handle.closed() => {
                    if woke.is_some_and(|woke| woke.elapsed() < WAKING) {
                        return Watched::Slept(ended);
                    }
                    return Watched::Ended(ended);
                }
                seconds = handle.drained() => return Watched::Drained(seconds),
                dialed = better.as_mut() => return Watched::Better(Box::new(dialed)),
                () = jumped(&mut self.jumps) => {
                    woke = Some(Instant::now());
                    handle.probe(PROBE);
                }
                _ = refresh.tick() => {
                    self.reporter.lock().refresh(self.gate.forwarder().stats(), handle.rtt());
                }
            }
        }
    }
}

/// Completes when the tunnel that still serves has ended; never when there is none.
async fn gone(current: &Option<Current>) -> Ended {
    match current {
        Some(current) => current.live.handle.closed().await,
        None => std::future::pending().await,
    }
}

/// Completes at the next jump of the clock; never when nobody watches it any more.
async fn jumped(jumps: &mut watch::Receiver<u64>) {
    if jumps.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
