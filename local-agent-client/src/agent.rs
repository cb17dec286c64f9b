//! The agent as a whole: what it is made of, and its run from start to end.

use crate::{
    clock,
    control::Control,
    cookies::Jars,
    dial::{DialError, Dialed, Dialer, RelayUrl, tls},
    forward::{Forwarder, LocalTarget, Settings, insecure},
    gate::{Gate, Options},
    peer::{self, Peers},
    platform,
    relays::{self, MAX_ALSO, MAX_CONNECTIONS, Place, Relays, Seat},
    session::Session,
    state::{self, StateDir, StateError},
    status::{self, ConnectionStatus, Reporter, Status, now},
    token::{Token, TokenError, TokenSource},
    trust::{FailedGuesses, Pairing, Require, Trust, TrustError},
};
use futures_util::future::join_all;
use hyper_util::client::proxy::matcher::Matcher;
use parking_lot::Mutex;
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument;
use uuid::Uuid;

/// Characters of a host's name.
const MAX_NAME: usize = 200;
/// How often a refused token's file is looked at.
const TOKEN_LOOK: Duration = Duration::from_secs(2);
/// How often it is looked whether a stored login has to be renewed.
const LOGIN_LOOK: Duration = Duration::from_secs(60);

/// Why an agent cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The state folder is of no use.
    #[error("the state folder is of no use: {0}")]
    State(#[from] StateError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// Neither a state folder nor a machine id was given.
    #[error("the agent needs a state folder or a machine id, so that the relay knows the host again")]
    NoIdentity,
    /// The name is not one.
    #[error("the host's name must have 1 to {MAX_NAME} characters and no control characters")]
    Name,
    /// The target has no address.
    #[error("the local server's address cannot be used")]
    Target,
    /// Not checking certificates is for this machine only.
    #[error(
        "an unchecked certificate is accepted only from this machine (localhost, 127.0.0.0/8, ::1); for another one give its CA with --ca"
    )]
    InsecureRemote,
    /// Local control cannot listen.
    #[error("local control cannot listen at {address}: {source}")]
    Control {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Commands find local control by the state folder.
    #[error("local control needs a state folder")]
    ControlWithoutState,
    /// Keys or browsers cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// There cannot be so many connections.
    #[error("an agent can have 1 to {MAX_CONNECTIONS} connections")]
    Connections,
    /// There are too many relays.
    #[error("at most {MAX_ALSO} relays can be named beside the first")]
    TooManyRelays,
    /// The token would be read on the way to one relay and not to the other.
    #[error("the relay {0} is not reached by https, as the first one is")]
    AlsoInsecure(String),
}

/// Collects what an agent needs.
pub struct Builder {
    relay: RelayUrl,
    also: Vec<RelayUrl>,
    connections: usize,
    token: TokenSource,
    target: LocalTarget,
    name: Option<String>,
    state_dir: Option<PathBuf>,
    machine_id: Option<Uuid>,
    ca: Option<PathBuf>,
    insecure_local: bool,
    preserve_host: bool,
    trust: Trust,
    require: Require,
    control: Option<SocketAddr>,
    proxies: Option<Matcher>,
    webrtc: Option<peer::Settings>,
}

impl Builder {
    /// How many tunnels are kept open at once, 1 (as it is without being said) to 8, to different relays where there
    /// are different ones: other addresses of the relay's name, relays that it offers of its own host or below it,
    /// and those of [`Builder::also_relay`].
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Another relay that serves the same host with the same token, to which connections go too.
    #[must_use]
    pub fn also_relay(mut self, relay: RelayUrl) -> Self {
        if !self.also.contains(&relay) {
            self.also.push(relay);
        }
        self
    }

    /// The name under which people see the host. Otherwise the machine's.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A folder that keeps the machine's id, and the status for `local-agent-client status`.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// The machine's id, for programs that keep it themselves. It must stay the same from start to start.
    #[must_use]
    pub fn machine_id(mut self, id: Uuid) -> Self {
        self.machine_id = Some(id);
        self
    }

    /// A PEM file with further roots to trust, beside the operating system's.
    #[must_use]
    pub fn ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }

    /// Does not check the certificate of an `https` local server on this machine. Never concerns the relay.
    #[must_use]
    pub fn insecure_local(mut self, yes: bool) -> Self {
        self.insecure_local = yes;
        self
    }

    /// Leaves `Host`, `Origin` and `Referer` as the browser sent them.
    #[must_use]
    pub fn preserve_host(mut self, yes: bool) -> Self {
        self.preserve_host = yes;
        self
    }

    /// Whose requests reach the local server.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// What paired browsers have to use.
    #[must_use]
    pub fn require(mut self, require: Require) -> Self {
        self.require = require;
        self
    }

    /// Lets commands and the local page control the agent, at this loopback address; port 0 lets the system
    /// choose one. Needs a state folder. Without it nobody does but the program itself.
    #[must_use]
    pub fn control(mut self, address: SocketAddr) -> Self {
        self.control = Some(address);
        self
    }

    /// Lets browsers upgrade to a direct path by WebRTC, like this; `None` turns it off. On without being said.
    #[must_use]
    pub fn webrtc(mut self, settings: Option<peer::Settings>) -> Self {
        self.webrtc = settings;
        self
    }

    /// The proxies to dial through. Otherwise those of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    #[must_use]
    pub fn proxies(mut self, proxies: Matcher) -> Self {
        self.proxies = Some(proxies);
        self
    }

    /// Makes the agent: reads certificates, opens and locks the state folder. Nothing is dialled yet.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Agent, BuildError> {
        tls::install_provider();
        let name = self.name.or_else(platform::machine_name).unwrap_or_else(|| "unnamed".to_owned());
        let name = name.trim();
        if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(BuildError::Name);
        }
        if !(1..=MAX_CONNECTIONS).contains(&self.connections) {
            return Err(BuildError::Connections);
        }
        if self.also.len() > MAX_ALSO {
            return Err(BuildError::TooManyRelays);
        }
        if let Some(also) =
            self.also.iter().find(|also| self.relay.is_secure() && !also.is_secure() && !also.is_loopback())
        {
            return Err(BuildError::AlsoInsecure(also.to_string()));
        }
        let https_local = matches!(&self.target, LocalTarget::Http(url) if url.scheme() == "https");
        if self.insecure_local && https_local && !is_loopback(&self.target) {
            return Err(BuildError::InsecureRemote);
        }
        // Where the local server is https, certificates are checked on the way to it.
        let verified = if https_local {
            tls::verified(self.ca.as_deref())
        } else {
            let secure = std::iter::once(&self.relay).chain(&self.also).find(|relay| relay.is_secure());
            tls::for_relay(secure.unwrap_or(&self.relay), self.ca.as_deref())
        }?;
        let local_tls =
            if self.insecure_local && https_local { insecure::unverified()? } else { verified.clone() };
        let state = self.state_dir.as_deref().map(StateDir::open).transpose()?.map(Arc::new);
        let machine_id = match (self.machine_id, &state) {
            (Some(id), _) => id,
            (None, Some(state)) => state.machine_id()?,
            (None, None) => return Err(BuildError::NoIdentity),
        };
        let pairing = Arc::new(Pairing::open(self.relay.to_string(), state.clone())?.named(name));
        if self.control.is_some() && state.is_none() {
            return Err(BuildError::ControlWithoutState);
        }
        let listen =
            |address| Control::listen(address).map_err(|source| BuildError::Control { address, source });
        let control = self.control.map(listen).transpose()?;
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: now(),
            relay: self.relay.to_string(),
            local: self.target.to_string(),
            name: name.to_owned(),
            machine_id: machine_id.to_string(),
            connected: false,
            connected_since: None,
            host_id: pairing.host().get().map(|id| id.to_string()),
            form: None,
            rtt_ms: None,
            connections: vec![ConnectionStatus::default(); self.connections],
            requests: Default::default(),
            signed: Default::default(),
            last_error: None,
            next_retry_at: None,
            trust: self.trust.as_str().to_owned(),
            require: self.require.as_str().map(str::to_owned),
            browsers: pairing.browsers().count(),
            code_outstanding: false,
            failed_guesses: FailedGuesses::default(),
            control: control.as_ref().map(|control| format!("http://{}", control.address())),
            webrtc: None,
            peers: Vec::new(),
        };
        let relay_is_local = self.relay.is_loopback();
        let peers =
            self.webrtc.and_then(|settings| Peers::new(peer::Settings { relay_is_local, ..settings }));
        let settings = Settings {
            target: self.target,
            tls: local_tls,
            relay_origin: self.relay.origin(),
            preserve_host: self.preserve_host,
        };
        let relays = Relays::new(self.relay.clone(), self.also, self.connections);
        let dialer = Dialer {
            relay: self.relay,
            machine_id: machine_id.to_string(),
            name: name.to_owned(),
            tls: Arc::new(verified),
            proxies: self.proxies.unwrap_or_else(Matcher::from_env),
        };
        let forwarder = Forwarder::new(settings).ok_or(BuildError::Target)?;
        let jars = state.as_ref().map(|state| Jars::open(state.clone(), pairing.browsers(), now()));
        let options = Options {
            trust: self.trust,
            require: self.require,
            jars: Arc::new(jars.unwrap_or_default()),
            peers: peers.clone(),
            ..Options::default()
        };
        Ok(Agent {
            dial: Dial { dialer: Arc::new(dialer), source: self.token, used: Mutex::default() },
            relays,
            gate: Gate::new(forwarder, pairing.clone(), options),
            status: watch::channel(status).0,
            pairing,
            peers,
            control,
            state,
        })
    }
}

/// An agent that is ready to run.
pub struct Agent {
    dial: Dial,
    relays: Arc<Relays>,
    gate: Arc<Gate>,
    status: watch::Sender<Status>,
    pairing: Arc<Pairing>,
    peers: Option<Arc<Peers>>,
    control: Option<Control>,
    state: Option<Arc<StateDir>>,
}

impl Agent {
    /// Begins to make an agent that reaches `relay` with `token` and serves from `target`.
    pub fn builder(relay: RelayUrl, token: TokenSource, target: LocalTarget) -> Builder {
        Builder {
            relay,
            also: Vec::new(),
            connections: 1,
            token,
            target,
            name: None,
            state_dir: None,
            machine_id: None,
            ca: None,
            insecure_local: false,
            preserve_host: false,
            trust: Trust::default(),
            require: Require::default(),
            control: None,
            proxies: None,
            webrtc: Some(peer::Settings::default()),
        }
    }

    /// The paired browsers and the codes, for programs that show them on a page of their own.
    pub fn pairing(&self) -> &Arc<Pairing> {
        &self.pairing
    }

    /// The status, to read or to wait for its changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs until `shutdown`, then lets the requests under way finish for up to 30 s and leaves.
    /// Dropping the future ends everything at once.
    pub async fn run(self, shutdown: CancellationToken) {
        let relay = &self.dial.dialer.relay;
        tracing::info!(%relay, local = %self.status.borrow().local, name = %self.status.borrow().name, "the agent starts");
        if !relay.is_secure() && !relay.is_loopback() {
            tracing::warn!(%relay, "the way to the relay is not encrypted: anybody on it can read the token; use https");
        }
        let (jumped, jumps) = watch::channel(0);
        let _clock = AbortOnDropHandle::new(tokio::spawn(clock::watch(jumped)));
        let sessions = (0..self.relays.connections()).map(|index| {
            let reporter = Arc::new(Mutex::new(Reporter::of(self.status.clone(), index)));
            let (relays, pairing) = (self.relays.clone(), self.pairing.clone());
            let session = Session {
                connect: Seat::new(relays, index, self.dial.another(), pairing, reporter.clone()),
                gate: self.gate.clone(),
                reporter,
                jumps: jumps.clone(),
                stop: shutdown.clone(),
                chance: Box::new(rand::random::<f64>),
            };
            let span = tracing::info_span!("connection", number = index + 1);
            // A single one needs no number in the log.
            let span = if self.relays.connections() > 1 { span } else { tracing::Span::none() };
            session.run().instrument(span)
        });
        let sessions = join_all(sessions.collect::<Vec<_>>());
        let beside = async {
            let keep_status = async {
                match &self.state {
                    Some(state) => state::keep_status(state, self.status.subscribe()).await,
                    None => std::future::pending().await,
                }
            };
            let control = serve_control(&self.state, self.control, &self.pairing, &self.status);
            let follow = status::follow(&self.pairing, &self.status);
            tokio::join!(
                keep_status,
                control,
                self.pairing.keep(),
                self.gate.keep(),
                follow,
                status::follow_peers(self.peers.as_deref(), &self.status),
                self.dial.keep_login()
            )
        };
        tokio::select! {
            _ = sessions => {}
            _ = beside => {}
        }
        self.gate.close();
        if let Some(peers) = &self.peers {
            peers.shutdown().await;
        }
        self.pairing.flush();
        Reporter::new(self.status).refresh(self.gate.forwarder().stats(), None);
        tracing::info!("the agent has ended");
    }
}

/// Serves local control, where there is to be any. The agent serves on without it.
async fn serve_control(
    state: &Option<Arc<StateDir>>,
    control: Option<Control>,
    pairing: &Arc<Pairing>,
    status: &watch::Sender<Status>,
) {
    let Some(state) = state else { return };
    if let Some(control) = control
        && let Err(error) = control.serve(state.clone(), pairing.clone(), status.subscribe()).await
    {
        tracing::error!(%error, "there is no local control");
    }
}

fn is_loopback(target: &LocalTarget) -> bool {
    let LocalTarget::Http(url) = target else { return true };
    let host = url.host_str().unwrap_or_default();
    let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    ip.map_or_else(|| host == "localhost" || host.ends_with(".localhost"), |ip| ip.is_loopback())
}

/// Dials with the token as it is at that moment, for one connection.
struct Dial {
    dialer: Arc<Dialer>,
    source: TokenSource,
    used: Mutex<Option<Token>>,
}

impl Dial {
    /// The same for another connection: each looks for a token that is another one than it used itself.
    fn another(&self) -> Self {
        Self { dialer: self.dialer.clone(), source: self.source.clone(), used: Mutex::default() }
    }

    /// The token as it is now, and not the one that was `refused` if that can be helped.
    async fn token(&self, refused: Option<&Token>) -> Result<Token, TokenError> {
        let token = match &self.source {
            TokenSource::Login(login) => {
                login.fresh(&self.dialer.route(), refused, now()).await.map_err(TokenError::from)
            }
            source => source.read().await,
        };
        // When there is none that can be used, any other than what is there now is worth an attempt.
        *self.used.lock() = match &token {
            Ok(token) => Some(token.clone()),
            Err(_) => self.source.read().await.ok(),
        };
        token
    }

    /// Renews a stored login in time, also while a tunnel lives for longer than its token.
    async fn keep_login(&self) {
        let TokenSource::Login(login) = &self.source else { return };
        loop {
            tokio::time::sleep(LOGIN_LOOK).await;
            if let Err(error) = login.fresh(&self.dialer.route(), None, now()).await {
                tracing::debug!(%error, "the stored login cannot be renewed now");
            }
        }
    }
}

impl relays::Dial for Dial {
    async fn addresses(&self) -> Vec<SocketAddr> {
        self.dialer.route().addresses().await
    }

    async fn dial(&self, place: &Place) -> Result<Dialed, DialError> {
        let token = self.token(None).await?;
        let route = self.dialer.route_to(&place.url, place.address);
        match self.dialer.dial_by(route, &token).await {
            // A stored login may be renewed: the relay has forgotten the token before its time.
            Err(DialError::Refused(refusal))
                if refusal.is_about_the_token() && matches!(self.source, TokenSource::Login(_)) =>
            {
                match self.token(Some(&token)).await {
                    Ok(renewed) if renewed != token => self.dialer.dial_by(route, &renewed).await,
                    Ok(_) => Err(DialError::Refused(refusal)),
                    Err(error) => Err(error.into()),
                }
            }
            dialed => dialed,
        }
    }

    async fn token_changed(&self) {
        if !self.source.may_change() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(TOKEN_LOOK).await;
            // A file that cannot be read is no new token; the next attempt says why.
            if let Ok(token) = self.source.read().await
                && self.used.lock().as_ref() != Some(&token)
            {
                return;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn builder(relay: &str, target: &str) -> Builder {
        let token = TokenSource::Fixed(Token::new("t").unwrap());
        Agent::builder(relay.parse().unwrap(), token, target.parse().unwrap()).machine_id(Uuid::nil())
    }

    #[test]
    fn what_cannot_work_is_refused_at_the_start() {
        let (relay, local) = ("http://127.0.0.1:1", "http://127.0.0.1:2");
        assert!(builder(relay, local).build().is_ok());
        for name in ["", "  ", "a\nb", &"x".repeat(201)] {
            assert!(matches!(builder(relay, local).name(name).build(), Err(BuildError::Name)), "{name:?}");
        }
        let remote = builder(relay, "https://10.0.0.1").insecure_local(true);
        assert!(matches!(remote.build(), Err(BuildError::InsecureRemote)));
        assert!(builder(relay, "https://[::1]:3").insecure_local(true).build().is_ok());
        assert!(matches!(builder(relay, local).ca("/does/not/exist").build(), Err(BuildError::Tls(_))));
        for connections in [0, 9] {
            let built = builder(relay, local).connections(connections).build();
            assert!(matches!(built, Err(BuildError::Connections)), "{connections}");
        }
        let also = |first: &str, other: &str| builder(first, local).also_relay(other.parse().unwrap());
        assert!(matches!(
            also("https://a.example", "http://b.example").build(),
            Err(BuildError::AlsoInsecure(other)) if other == "http://b.example"
        ));
        assert!(also("https://a.example", "https://b.example").connections(8).build().is_ok());
        assert!(also(relay, "http://127.0.0.1:3").build().is_ok());
        let many = (0..=MAX_ALSO).fold(builder(relay, local), |builder, port| {
            builder.also_relay(format!("http://127.0.0.1:{}", port + 10).parse().unwrap())
        });
        assert!(matches!(many.build(), Err(BuildError::TooManyRelays)));
        let mut nobody = builder(relay, local);
        nobody.machine_id = None;
        assert!(matches!(nobody.build(), Err(BuildError::NoIdentity)));
    }
}
