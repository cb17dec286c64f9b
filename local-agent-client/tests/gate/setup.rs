//! An agent behind a relay that changes nothing, and a browser that is paired with it.

use crate::{
    common::{Pair, forwarder, pair_of, soon},
    signed::Browser,
};
use local_agent_client::{
    LocalTarget, Trust,
    gate::{Gate, Options},
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
}

impl Setup {
    pub async fn new(target: LocalTarget) -> Self {
        Self::with(target, Trust::Paired).await
    }

    pub async fn with(target: LocalTarget, trust: Trust) -> Self {
        Self::with_options(target, Options { trust, ..Options::default() }).await
    }

    /// With a clock of the tests' own.
    pub async fn with_options(target: LocalTarget, options: Options) -> Self {
        let pairing = Arc::new(Pairing::open("https://relay.example".to_owned(), None).unwrap());
        pairing.host().told(&HOST.to_string());
        let ahead = Arc::new(AtomicI64::new(0));
        let clock = ahead.clone();
        let clock = Arc::new(move || local_agent_client::status::now() + clock.load(Ordering::SeqCst));
        let gate = Gate::new(forwarder(target), pairing.clone(), Options { clock, ..options });
        let pair = Arc::new(pair_of(gate.clone()).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tunnel = pair.clone();
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let tunnel = tunnel.clone();
                tokio::spawn(async move {
                    let mut stream = tunnel.relay.open().await.unwrap();
                    let _ = copy_bidirectional(&mut socket, &mut stream).await;
                });
            }
        });
        Self { pairing, gate, pair, addr, ahead }
    }

    /// A paired browser.
    pub async fn browser(&self) -> Browser {
        let now = local_agent_client::status::now();
        let issued = self.pairing.issue_code(now).unwrap();
        soon(Browser::pair(self.addr, "", HOST, &issued.code.reveal())).await.unwrap()
    }

    /// How many requests were refused with this code.
    pub fn refused(&self, code: &str) -> u64 {
        self.gate.forwarder().stats().gate().counts().refused.get(code).copied().unwrap_or(0)
    }
}
