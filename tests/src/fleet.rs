//! Several relays with one database, an agent at one of them, and a browser session that all of them know.

use std::{net::SocketAddr, ops::Deref};

use relay_protocol::api::HostStatus;

use crate::{
    agent::{Agent, AgentOptions},
    postgres::{Postgres, free_port},
    relay::{Relay, RelayOptions},
    signed::Browser,
    stack::{EMAIL, HOST, Way},
    tokens::SECRET,
};

/// What the relays share.
const BUS_KEY: &str = "what-all-relays-of-the-tests-share";

/// The common ground of relays.
#[derive(Debug)]
pub struct Fleet {
    /// Their database server.
    pub postgres: Postgres,
    /// Their database there.
    pub database: String,
    options: RelayOptions,
}

/// An address that a relay can be told before it listens there.
pub fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

impl Fleet {
    /// A database, and relays that find each other by it.
    pub async fn start() -> Self {
        let postgres = Postgres::start().await;
        let database = postgres.database("fleet").await;
        let options = RelayOptions::default()
            .env("RELAY_BACKPLANE_MODE", "server")
            .env("RELAY_UPGRADE_RATE_PER_MINUTE", 100_000);
        Self { postgres, database, options }
    }

    /// With more settings for the relays that start from now on.
    pub fn with(mut self, change: impl FnOnce(RelayOptions) -> RelayOptions) -> Self {
        self.options = change(self.options);
        self
    }

    /// The options of a relay of that name at this address.
    pub fn options(&self, id: &str, listen: SocketAddr) -> RelayOptions {
        let mut options = self.options.clone().database(&self.database);
        options.listen = Some(listen);
        options
            .env("RELAY_ID", id)
            .env("RELAY_JWT_SECRET", SECRET)
            .env("RELAY_BUS_HMAC_KEY", BUS_KEY)
            .env("RELAY_INTERNAL_URL", format!("http://{listen}"))
            .env("RELAY_PUBLIC_WS_BASE_URL", format!("ws://{listen}"))
    }

    /// One more relay.
    pub async fn relay(&self, id: &str) -> Relay {
        Relay::start(self.options(id, address())).await
    }

    /// One more relay, which the others find at another address than its own.
    pub async fn relay_behind(&self, id: &str, internal: impl FnOnce(SocketAddr) -> String) -> Relay {
        let listen = address();
        let internal = internal(listen);
        Relay::start(self.options(id, listen).env("RELAY_INTERNAL_URL", internal)).await
    }
}

/// An agent at one relay, and a browser at another.
#[derive(Debug)]
pub struct Across {
    /// The agent.
    pub agent: Agent,
    /// Where browsers call.
    pub near: Relay,
    /// Where the agent is.
    pub far: Relay,
    /// The common ground.
    pub fleet: Fleet,
    /// The user's token.
    pub token: String,
    /// The way to the local server, by the near relay.
    pub way: Way,
}

impl Deref for Across {
    type Target = Way;

    fn deref(&self) -> &Way {
        &self.way
    }
}

impl Across {
    /// With a local server.
    pub async fn start(to: &str) -> Self {
        Self::with(Fleet::start().await, to, |agent| agent).await
    }

    /// The same with other relays and another agent.
    pub async fn with(fleet: Fleet, to: &str, agent: impl FnOnce(AgentOptions) -> AgentOptions) -> Self {
        let near = fleet.relay("near").await;
        let far = fleet.relay("far").await;
        Self::between(fleet, near, far, to, agent).await
    }

    /// The same with relays that run.
    pub async fn between(
        fleet: Fleet,
        near: Relay,
        far: Relay,
        to: &str,
        agent: impl FnOnce(AgentOptions) -> AgentOptions,
    ) -> Self {
        let token = near.user_with_token(EMAIL).await;
        Self::of(fleet, near, far, to, token, agent).await
    }

    /// The same for somebody who has a token.
    pub async fn of(
        fleet: Fleet,
        near: Relay,
        far: Relay,
        to: &str,
        token: String,
        agent: impl FnOnce(AgentOptions) -> AgentOptions,
    ) -> Self {
        let agent = Agent::spawn(agent(AgentOptions::new(&far.url(), to, &token, HOST)));
        let host = near.await_host(&token, HOST, HostStatus::Online).await.id;
        let way = Way::make(&near, &token, host).await;
        let all = Self { agent, near, far, fleet, token, way };
        all.reachable().await;
        all
    }

    /// Waits until the near relay knows where the host is.
    pub async fn reachable(&self) {
        crate::eventually("the host is found across", crate::SOON, || async {
            let reply = self.get("/").await;
            !["host_offline", "relays_unavailable", "relay_unreachable"]
                .iter()
                .any(|code| reply.text().contains(code))
        })
        .await;
    }

    /// Pairs a browser by the near relay.
    pub async fn browser(&self) -> Browser {
        self.pair(&self.agent).await
    }
}
