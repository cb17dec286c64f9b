//! An agent behind a relay that changes nothing, and a browser that is paired with it.

use crate::{
    common::{Pair, forwarder, pair_of, soon},
    signed::Browser,
};
use local_agent_client::{
    LocalTarget, Trust,
    cookies::Jars,
    forward::Forwarder,
    gate::{Clock, Gate, Options},
    state::StateDir,
    trust::Pairing,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};
use tokio::{io::copy_bidirectional, net::TcpListener};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// The host's id at the relay.
pub const HOST: Uuid = Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef);

/// All of it.
pub struct Setup {
    pub pairing: Arc<Pairing>,
    pub gate: Arc<Gate>,
    pub pair: Arc<Pair>,
    /// Where the relay listens: each connection is one stream of the tunnel.
    pub addr: SocketAddr,
    /// Seconds that the agent's clock is ahead.
    pub ahead: Arc<AtomicI64>,
    /// That clock.
    pub clock: Clock,
    _relay: AbortOnDropHandle<()>,
}

impl Setup {
    pub async fn new(target: LocalTarget) -> Self {
        Self::with(target, Trust::Paired).await
    }

    pub async fn with(target: LocalTarget, trust: Trust) -> Self {
        Self::of(target, Options { trust, ..Options::default() }, None).await
    }

    /// With all that a gate is told but the clock, and with a state folder if there is one.
    pub async fn of(target: LocalTarget, options: Options, state: Option<Arc<StateDir>>) -> Self {
        Self::over(forwarder(target), options, state).await
    }

    /// The same in front of a forwarder.
    pub async fn over(forwarder: Arc<Forwarder>, options: Options, state: Option<Arc<StateDir>>) -> Self {
        let pairing = Arc::new(Pairing::open("https://relay.example".to_owned(), state.clone()).unwrap());
        pairing.host().told(&HOST.to_string());
        let now = local_agent_client::status::now();
        let jars = state.map(|state| Arc::new(Jars::open(state, pairing.browsers(), now)));
        let ahead = Arc::new(AtomicI64::new(0));
        let moved = ahead.clone();
        let clock: Clock = Arc::new(move || local_agent_client::status::now() + moved.load(Ordering::SeqCst));
        let jars = jars.unwrap_or(options.jars);
        let options = Options { clock: clock.clone(), jars, ..options };
        let gate = Gate::new(forwarder, pairing.clone(), options);
        let pair = Arc::new(pair_of(gate.clone()).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tunnel = pair.clone();
        let relay = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let tunnel = tunnel.clone();
                tokio::spawn(async move {
                    let mut stream = tunnel.relay.open().await.unwrap();
                    let _ = copy_bidirectional(&mut socket, &mut stream).await;
                });
            }
        });
        Self { pairing, gate, pair, addr, ahead, clock, _relay: AbortOnDropHandle::new(relay) }
    }

    /// A paired browser.
    pub async fn browser(&self) -> Browser {
        let now = local_agent_client::status::now();
        let issued = self.pairing.issue_code(now).unwrap();
        soon(Browser::pair(self.addr, "", HOST, &issued.code.reveal())).await.unwrap()
    }

    /// How many exchanges were begun.
    pub fn begun(&self) -> u64 {
        self.gate.forwarder().stats().gate().counts().exchanges
    }

    /// Waits until something of a request's body has gone to the local server.
    pub async fn until_uploading(&self) {
        let before = self.gate.forwarder().stats().counts().bytes_received;
        soon(async {
            while self.gate.forwarder().stats().counts().bytes_received == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits until nothing is under way any more.
    pub async fn until_idle(&self) {
        soon(async {
            while self.gate.forwarder().stats().counts().active > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// How many requests were refused with this code.
    pub fn refused(&self, code: &str) -> u64 {
        self.gate.forwarder().stats().gate().counts().refused.get(code).copied().unwrap_or(0)
    }
}
