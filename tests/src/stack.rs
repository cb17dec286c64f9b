//! A relay, a user, an agent, and a session to the local server: what most tests start from.

use std::{net::SocketAddr, ops::Deref};

use http::Request;
use uuid::Uuid;

use crate::{
    SOON,
    agent::{Agent, AgentOptions},
    client::{self, Body, Reply},
    relay::{Relay, RelayOptions},
    signed::Browser,
};
use relay_protocol::api::HostStatus;

/// The e-mail address of the one user.
pub const EMAIL: &str = "owner@example.com";

/// The name of the one host.
pub const HOST: &str = "workshop";

/// How a browser reaches a host: the session, and the relay that it calls.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// The relay's address.
    pub addr: SocketAddr,
    /// The host's id.
    pub host: Uuid,
    /// A session for it.
    pub session: Uuid,
}

impl Way {
    /// Makes a session at the relay.
    pub async fn make(relay: &Relay, token: &str, host: Uuid) -> Self {
        Self { addr: relay.addr, host, session: relay.create_session(token, host).await }
    }

    /// The prefix of the session's paths, without a slash at its end.
    pub fn prefix(&self) -> String {
        format!("/v1/relay/h/{}/s/{}", self.host, self.session)
    }

    /// The path at the relay of a path at the local server.
    pub fn path(&self, local: &str) -> String {
        format!("{}{local}", self.prefix())
    }

    /// A request for a path at the local server.
    pub fn request(&self, method: &str, local: &str) -> http::request::Builder {
        Request::builder().method(method).uri(self.path(local))
    }

    /// Sends a GET for a path at the local server.
    pub async fn get(&self, local: &str) -> Reply {
        self.fetch(client::get(&self.path(local))).await
    }

    /// Sends a request and reads the whole response.
    pub async fn fetch(&self, request: Request<Body>) -> Reply {
        client::fetch(self.addr, request).await
    }

    /// Pairs another browser with the host's agent, by a code that it shows.
    pub async fn pair(&self, agent: &Agent) -> Browser {
        let (mut pair, code) = agent.show_code().await;
        let browser = Browser::pair(self.addr, &self.prefix(), self.host, &code).await.expect("it pairs");
        assert!(pair.wait(SOON).await.success(), "{}", pair.log());
        browser
    }
}

/// All of it, running.
#[derive(Debug)]
pub struct Stack {
    /// The agent; dropped first, so that it does not complain.
    pub agent: Agent,
    /// The relay.
    pub relay: Relay,
    /// The user's token.
    pub token: String,
    /// The way to the local server.
    pub way: Way,
}

impl Deref for Stack {
    type Target = Way;

    fn deref(&self) -> &Way {
        &self.way
    }
}

impl Stack {
    /// Starts all of it in front of a local server.
    pub async fn start(to: &str) -> Self {
        Self::with(to, RelayOptions::default(), |o| o).await
    }

    /// The same with other options of the relay and the agent.
    pub async fn with(
        to: &str,
        relay: RelayOptions,
        agent: impl FnOnce(AgentOptions) -> AgentOptions,
    ) -> Self {
        let relay = Relay::start(relay).await;
        let token = relay.user_with_token(EMAIL).await;
        let agent = Agent::spawn(agent(AgentOptions::new(&relay.url(), to, &token, HOST)));
        let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
        let way = Way::make(&relay, &token, host).await;
        Self { agent, relay, token, way }
    }

    /// The same with an agent that serves paired browsers alone.
    pub async fn paired(to: &str) -> Self {
        Self::with(to, RelayOptions::default(), AgentOptions::paired).await
    }

    /// Pairs another browser.
    pub async fn browser(&self) -> Browser {
        self.pair(&self.agent).await
    }

    /// The relay's address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
