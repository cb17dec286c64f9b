//! The accept loop: from a listener to requests, within limits, until the drain is over.
//!
//! Peers may connect in crowds, send nothing, send slowly, or never read. Every connection is
//! counted, has a deadline whenever nothing is under way on it, and belongs to this loop, which
//! waits for all of them before it returns. What was upgraded belongs to whoever upgraded it.

mod activity;
mod connection;
mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use ipnet::IpNet;
use relay_protocol::problem::{Code, Problem};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

pub use socket::{Place, Socket};

use super::client_addr::{RateKey, is_trusted};
use super::metrics::Metrics;
use crate::config::Config;
use crate::limits::Open;
use crate::shutdown::Shutdown;
use socket::Permits;

/// Bytes that the kernel holds unsent before it stops asking for more. Enough to keep a fast line
/// busy; what is beyond waits in the stream's window, where a small request can overtake it.
#[cfg(target_os = "linux")]
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// A peer that vanished without a word is noticed after 15 + 3 × 5 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
#[cfg(not(windows))]
const KEEPALIVE_RETRIES: u32 = 3;

/// After an error that is not one connection's (no file descriptors left), so long until the next
/// try, doubled up to the last. Without it the loop would spin on the same error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Refusals that are being written at once; beyond, connections are closed without a word.
const REFUSALS: usize = 64;

/// The other end of a connection: a browser, an agent, or the proxy in front of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address, as the socket tells it.
    pub addr: SocketAddr,
}

/// What the loop holds peers to.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each is described by its row of the table of settings")]
pub struct Options {
    pub header_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub drain_timeout: Duration,
    pub max_header_bytes: usize,
    pub max_uri_bytes: usize,
    pub max_tcp_connections: usize,
    pub max_tcp_connections_per_ip: usize,
    pub trusted_proxies: Vec<IpNet>,
}

impl Options {
    /// From the configuration.
    pub fn new(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            header_timeout: limits.header_timeout,
            keep_alive_timeout: limits.keep_alive_timeout,
            drain_timeout: limits.drain_timeout,
            max_header_bytes: limits.max_header_bytes,
            max_uri_bytes: limits.max_uri_bytes,
            max_tcp_connections: limits.max_tcp_connections,
            max_tcp_connections_per_ip: limits.max_tcp_connections_per_ip,
            trusted_proxies: config.trusted_proxies.clone(),
        }
    }
}

/// Serves until `shutdown` has drained or ended.
///
/// From the start of the drain, connections that wait for a request are closed, requests in flight
/// (and whatever else took a [`Shutdown::hold`]) have `drain_timeout`, and new connections are
/// still taken, so that `/health` can say what goes on: the service refuses the rest itself.
///
/// # Errors
/// None at present after the listener was made: errors of accepting are logged and outlived.
pub async fn serve<S, F>(
    listener: TcpListener,
    service: S,
    options: Options,
    shutdown: Shutdown,
) -> io::Result<()>
where
    S: Fn(Request<Incoming>, Peer) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let metrics = Arc::new(Metrics::new());
    let door = Door::new(&options, metrics.clone());
    let builder = Arc::new(connection::Builder::new(&options, shutdown.clone(), metrics));
    // Those from before the drain are waited for; those from after it are there to be refused.
    let (early, late, refusals) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
    let mut over = std::pin::pin!(drained(&early, options.drain_timeout, &shutdown));
    let mut pause = ACCEPT_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut over => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_one_connections(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::select! {
                    () = &mut over => break,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                continue;
            }
        };
        pause = ACCEPT_PAUSE;
        tune(&stream);
        let peer = Peer { addr };
        match door.admit(peer) {
            Ok(permits) => {
                let connection = Arc::clone(&builder).drive(stream, permits, peer, service.clone());
                let tracker = if shutdown.is_draining() { &late } else { &early };
                tracker.spawn(connection);
            }
            Err(problem) => {
                if let Ok(permit) = Arc::clone(&door.refusals).try_acquire_owned() {
                    refusals.spawn(async move {
                        socket::farewell(stream, &socket::bare(&problem)).await;
                        drop(permit);
                    });
                }
            }
        }
    }
    // Whatever did not end by itself ends now, and is waited for.
    shutdown.end();
    for tracker in [&early, &late, &refusals] {
        tracker.close();
        tracker.wait().await;
    }
    builder.streams_ended().await;
    Ok(())
}

/// Returns when the drain is over: nothing is left, or time is up, or the end was ordered.
async fn drained(early: &TaskTracker, timeout: Duration, shutdown: &Shutdown) {
    shutdown.draining().await;
    early.close();
    let all_done = async {
        early.wait().await;
        shutdown.released().await;
    };
    tokio::select! {
        () = shutdown.ended() => {}
        () = all_done => {}
        () = sleep(timeout) => tracing::warn!(held = shutdown.held(), "the drain took too long"),
    }
}

/// Errors that concern the connection that was about to be accepted, and no other.
fn is_one_connections(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Options of the socket. None is worth refusing a connection for.
fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    #[cfg(not(windows))]
    let keepalive = keepalive.with_retries(KEEPALIVE_RETRIES);
    // Without it small answers wait 40 ms for the acknowledgement of the one before.
    let mut result = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
    #[cfg(target_os = "linux")]
    {
        result = result.and_then(|()| socket.set_tcp_notsent_lowat(NOTSENT_LOWAT));
    }
    if let Err(error) = &mut result {
        tracing::debug!(%error, "a socket option was not taken");
    }
}

/// Who may come in.
struct Door {
    total: Arc<Semaphore>,
    per_peer: Open,
    trusted: Vec<IpNet>,
    refusals: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Door {
    fn new(options: &Options, metrics: Arc<Metrics>) -> Self {
        Self {
            total: Arc::new(Semaphore::new(options.max_tcp_connections)),
            per_peer: Open::new(options.max_tcp_connections_per_ip),
            trusted: options.trusted_proxies.clone(),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            metrics,
        }
    }

    fn admit(&self, peer: Peer) -> Result<Permits, Problem> {
        // The peer's own limit first: a crowd from one address must not show others a full house.
        let ip = peer.addr.ip();
        let own = if is_trusted(ip, &self.trusted) {
            None
        } else {
            Some(self.per_peer.enter(RateKey::of(ip)).ok_or_else(|| {
                self.metrics.refused_address.increment(1);
                Problem::new(
                    Code::TooManyConnections,
                    "This address has too many connections open. Close some.",
                )
            })?)
        };
        match Arc::clone(&self.total).try_acquire_owned() {
            Ok(total) => Ok(Permits::new(own, total, self.metrics.connection())),
            Err(_) => {
                self.metrics.refused_relay.increment(1);
                let mut problem = Problem::new(
                    Code::TooManyConnections,
                    "The relay has no connection left. Try again soon.",
                );
                // Here it is the relay that is full, not the caller that asks too much.
                problem.status = 503;
                Err(problem)
            }
        }
    }
}
