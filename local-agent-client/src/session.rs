//! Keeps the agent connected: dials, watches the tunnel, and dials again.
//!
//! Make before break: when the relay says that it will end, the next tunnel is up before the old one
//! goes. A refusal is said plainly and retried rarely; after sleep everything is retried at once.

use crate::{
    backoff::{self, Backoff, Cause},
    dial::{DialError, Dialed},
    forward::Forwarder,
    status::Reporter,
    tunnel::{Live, Mode},
};
use parking_lot::Mutex;
use relay_protocol::tunnel::{Ended, Form, SUBPROTOCOL};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
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
}

/// What keeps one agent connected.
pub struct Session<C> {
    /// Opens tunnels.
    pub connect: C,
    /// Serves their streams.
    pub forwarder: Arc<Forwarder>,
    /// Where it is told.
    pub reporter: Arc<Mutex<Reporter>>,
    /// Counts the clock's jumps.
    pub jumps: watch::Receiver<u64>,
    /// Ends the agent.
    pub stop: CancellationToken,
    /// Uniform in 0.0 to 1.0.
    pub chance: Box<dyn FnMut() -> f64 + Send>,
}

/// Why a tunnel is not watched any longer.
enum Watched {
    Stop,
    Ended(Ended),
    /// Connect anew after this long.
    Renew(Duration),
}

impl<C: Connect> Session<C> {
    /// Runs until it is stopped, then lets what is under way finish.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut current: Option<Live> = None;
        // Tunnels that were replaced and still carry something.
        let mut retired = JoinSet::new();
        let mut number = 0;
        while let Some(dialed) = self.next(&mut backoff).await {
            number += 1;
            let form = match &dialed.form {
                Form::Plain => "plain",
                Form::V1(_) => SUBPROTOCOL,
            };
            tracing::info!(form, host_id = dialed.host_id, "connected to the relay");
            self.reporter.lock().connected(number, form, dialed.host_id.clone());
            let live = Live::start(dialed, self.forwarder.clone());
            if let Some(old) = current.take() {
                retired.spawn(old.end(Mode::Retire));
            }
            while retired.try_join_next().is_some() {}
            match self.watch(&live).await {
                Watched::Stop => {
                    current = Some(live);
                    break;
                }
                Watched::Ended(ended) => {
                    let lived = live.since.elapsed();
                    tracing::warn!(%ended, ?lived, "the tunnel was lost");
                    self.reporter.lock().lost(number, ended.to_string());
                    drop(live);
                    let wait = backoff.next(Cause::Lost { lived }, (self.chance)());
                    if !self.pause(wait, false, &mut backoff).await {
                        break;
                    }
                }
                Watched::Renew(wait) => {
                    tracing::info!(?wait, "the relay asks to connect anew");
                    backoff.reset();
                    // Should the old one end sooner, there is no reason to wait any longer.
                    let ended = tokio::select! {
                        () = self.stop.cancelled() => { current = Some(live); break }
                        ended = live.handle.closed() => Some(ended),
                        () = sleep(wait) => None,
                    };
                    match ended {
                        Some(ended) => self.reporter.lock().lost(number, ended.to_string()),
                        None => current = Some(live),
                    }
                }
            }
        }
        if let Some(live) = current {
            retired.spawn(live.end(Mode::Stop));
        }
        // Retired ones had their time; nothing new comes on them, and 30 s are enough to finish.
        let finish = async { while retired.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(crate::tunnel::FINISH + Duration::from_secs(3), finish).await;
        self.reporter.lock().ended();
    }

    /// Dials until there is a tunnel. `None` when the agent is to end.
    async fn next(&mut self, backoff: &mut Backoff) -> Option<Dialed> {
        loop {
            self.reporter.lock().waits(None);
            let error = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                dialed = self.connect.connect() => match dialed {
                    Ok(dialed) => return Some(dialed),
                    Err(error) => error,
                },
            };
            let wait = backoff.next(error.cause(), (self.chance)());
            tracing::warn!(retry_in = ?wait, "{error}");
            self.reporter.lock().failed(error.to_string());
            if !self.pause(wait, error.is_about_the_token(), backoff).await {
                return None;
            }
        }
    }

    /// Waits; shorter when the machine wakes up, or when the token was the reason and is another one
    /// now. False when the agent is to end.
    async fn pause(&mut self, wait: Duration, for_token: bool, backoff: &mut Backoff) -> bool {
        self.reporter.lock().waits(Some(wait));
        let token = async {
            if for_token {
                self.connect.token_changed().await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => return false,
            () = sleep(wait) => {}
            () = token => tracing::info!("there is another token"),
            () = jumped(&mut self.jumps) => backoff.reset(),
        }
        true
    }

    /// Watches a tunnel while it serves.
    async fn watch(&mut self, live: &Live) -> Watched {
        let handle = &live.handle;
        let mut refresh = tokio::time::interval(REFRESH);
        let mut woke: Option<Instant> = None;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Watched::Stop,
                ended = handle.closed() => {
                    if woke.is_some_and(|woke| woke.elapsed() < WAKING) {
                        // The connection did not survive the sleep; nothing is wrong with the relay.
                        tracing::info!(%ended, "the tunnel did not survive the sleep");
                        return Watched::Renew(Duration::ZERO);
                    }
                    return Watched::Ended(ended);
                }
                seconds = handle.drained() => return Watched::Renew(backoff::within(seconds, (self.chance)())),
                () = jumped(&mut self.jumps) => {
                    woke = Some(Instant::now());
                    handle.probe(PROBE);
                }
                _ = refresh.tick() => {
                    self.reporter.lock().refresh(self.forwarder.stats(), handle.rtt());
                    if handle.wants_renewal() {
                        return Watched::Renew(Duration::ZERO);
                    }
                }
            }
        }
    }
}

/// Completes at the next jump of the clock; never when nobody watches it any more.
async fn jumped(jumps: &mut watch::Receiver<u64>) {
    if jumps.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
