//! `GET /v1/relay/connect`: an agent becomes a tunnel.
//!
//! Nothing is written, counted or promised before the token was verified. The `101` goes out only when the
//! host's row is there, because it carries the host's id.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use relay_protocol::headers::X_RELAY_HOST_ID;
use relay_protocol::problem::Code;
use relay_protocol::tunnel::{self, Form, Hello, Options, Role, SUBPROTOCOL};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role as WsRole;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::metrics::Tunnels;
use super::others::Others;
use super::presence::Presence;
use super::{Registry, Tunnel};
use crate::clock::unix_ms;
use crate::config::Limits;
use crate::http::caller::Caller;
use crate::http::handshake;
use crate::http::problem::Refusal;
use crate::http::routes::of_store;
use crate::limits::AddrGuard;
use crate::store::Store;

/// The path.
pub const PATH: &str = "/v1/relay/connect";
/// Characters of a machine id, a name or a version at the most.
const MAX_TEXT: usize = 200;
/// Seconds that agents are given to reconnect when the relay drains.
pub const DRAIN_SECONDS: u32 = 5;
/// Seconds that an agent is given when its tunnel has used up its stream ids.
const RENEW_SECONDS: u32 = 60;
/// How often a tunnel's own house-keeping runs.
const KEEP_HOUSE: Duration = Duration::from_secs(5);

/// What accepting tunnels needs.
pub struct Connect {
    /// Where hosts are kept.
    pub store: Store,
    /// Where tunnels are kept.
    pub registry: Arc<Registry>,
    /// Where the hosts' status is written.
    pub presence: Presence,
    /// The other relays: they are told what is here, and agents are told of them.
    pub others: Others,
    /// The numbers.
    pub limits: Limits,
    /// Every tunnel's task.
    pub tasks: TaskTracker,
    /// What is counted.
    pub metrics: Tunnels,
}

/// What the agent says about itself in the query.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    id: String,
    name: String,
    version: Option<String>,
}

impl Connect {
    /// Answers the upgrade and starts the tunnel. `guard` counts the connection for its address.
    ///
    /// # Errors
    /// Every refusal, as the problem to tell.
    pub async fn accept(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        owner: Caller,
        guard: AddrGuard,
    ) -> Result<Response<Body>, Refusal> {
        let key = handshake::accept_key(request.method(), request.headers())?;
        let machine = machine(request.uri().query().unwrap_or_default())?;
        let on_upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or_else(handshake::no_upgrade)?;
        let host = self
            .store
            .upsert_host(owner.user, &machine.id, &machine.name, machine.version.as_deref())
            .await
            .map_err(of_store)?;
        if !self.registry.has_room(host, self.limits.max_tunnels_per_host) {
            return Err(too_many(self.limits.max_tunnels_per_host));
        }
        let form = form(request.headers());
        let protocol = (form != Form::Plain).then(|| HeaderValue::from_static(SUBPROTOCOL));
        let mut response = handshake::switching(key, protocol);
        if let Ok(id) = HeaderValue::from_str(&host.to_string()) {
            response.headers_mut().insert(X_RELAY_HOST_ID, id);
        }
        self.others.tell(response.headers_mut()).await;
        self.tasks.spawn(self.clone().serve(on_upgrade, form, host, owner, guard));
        Ok(response)
    }

    /// The life of one tunnel.
    async fn serve(
        self: Arc<Self>,
        on_upgrade: OnUpgrade,
        form: Form,
        host: Uuid,
        owner: Caller,
        guard: AddrGuard,
    ) {
        let _counted = guard;
        let Ok(upgraded) = on_upgrade.await else { return };
        let config = tunnel::websocket_config();
        let ws = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), WsRole::Server, Some(config)).await;
        let v1 = form != Form::Plain;
        let options = Options {
            window: self.limits.stream_window,
            max_streams: self.limits.max_streams_per_tunnel,
            ping_interval: self.limits.tunnel_ping_interval,
            ping_timeout: self.limits.tunnel_ping_timeout,
            ..Options::new(Role::Relay, form)
        };
        // An agent opens no streams: what it tries to open is dropped, which resets it.
        let (handle, incoming, driver) = tunnel::start(ws, options);
        drop(incoming);
        let idle = self.limits.pool_idle_timeout;
        let entry = Arc::new(Tunnel::new(host, owner.user, owner.auth_session, handle.clone(), idle));
        let Ok(registered) = self.registry.register(entry.clone(), self.limits.max_tunnels_per_host) else {
            // Somebody else took the last place since the handshake began.
            handle.close(1013, "too many tunnels for this host");
            driver.run().await;
            return;
        };
        tracing::info!(host_id = %host, connection = %entry.id, v1, "a tunnel is open");
        self.metrics.opened();
        self.presence.opened(entry.id, host);
        self.others.backplane.host_opened(host, entry.id);
        let ended = {
            let running = driver.run();
            let left = async {
                handle.drained().await;
                entry.left();
            };
            let keeping = async { tokio::join!(keep_house(&entry), left) };
            tokio::pin!(running, keeping);
            tokio::select! {
                ended = &mut running => ended,
                _ = &mut keeping => running.await,
            }
        };
        drop(registered);
        self.presence.closed(entry.id, host);
        self.others.backplane.host_closed(host, entry.id);
        self.metrics.closed(&ended);
        tracing::info!(host_id = %host, connection = %entry.id, reason = %ended, "a tunnel has ended");
    }
}

/// Closes idle connections, and has the agent connect anew long before the stream ids are used up.
async fn keep_house(tunnel: &Tunnel) {
    let mut tick = tokio::time::interval(KEEP_HOUSE);
    loop {
        let now = tick.tick().await;
        tunnel.pool.sweep(now);
        if tunnel.handle.wants_renewal() {
            break;
        }
    }
    tunnel.drain(RENEW_SECONDS);
    // An agent in the plain form cannot be told: its tunnel ends when nothing is under way.
    loop {
        let now = tick.tick().await;
        tunnel.pool.sweep(now);
        if tunnel.handle.streams() == 0 {
            tunnel.handle.close(1012, "this tunnel has been renewed");
            return;
        }
    }
}

fn form(headers: &HeaderMap) -> Form {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    if offers.flat_map(|v| v.split(',')).any(|p| p.trim() == SUBPROTOCOL) {
        Form::V1(Hello::new("relay-server", env!("CARGO_PKG_VERSION"), Some(unix_ms())))
    } else {
        Form::Plain
    }
}

fn machine(query: &str) -> Result<Machine, Refusal> {
    let (mut id, mut name, mut version) = (None, None, None);
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "machine_id" => id = Some(text("machine_id", &value)?),
            "name" => name = Some(text("name", &value)?),
            "agent_version" if !value.trim().is_empty() => version = Some(text("agent_version", &value)?),
            _ => {}
        }
    }
    let id =
        id.ok_or_else(|| bad("The query has no machine_id: it tells this machine from the user's others."))?;
    Ok(Machine { name: name.unwrap_or_else(|| id.clone()), id, version })
}

fn text(what: &str, value: &str) -> Result<String, Refusal> {
    let value = value.trim();
    if value.is_empty() || value.chars().count() > MAX_TEXT || value.chars().any(char::is_control) {
        return Err(bad(&format!(
            "{what} has to have 1 to {MAX_TEXT} characters and no control characters."
        )));
    }
    Ok(value.to_owned())
}

fn bad(detail: &str) -> Refusal {
    Refusal::new(Code::BadRequest, detail)
}

fn too_many(max: usize) -> Refusal {
    Refusal::new(
        Code::TooManyTunnels,
        format!("This host has {max} tunnels already. Dead ones are found out now; try again."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_says_about_itself_is_bounded() {
        let ok = |id: &str, name: &str, version: Option<&str>| {
            Some(Machine { id: id.into(), name: name.into(), version: version.map(Into::into) })
        };
        let long = "x".repeat(201);
        for (query, expected) in [
            ("machine_id=m1&name=My%20Laptop&agent_version=1.2", ok("m1", "My Laptop", Some("1.2"))),
            ("machine_id=m1", ok("m1", "m1", None)),
            ("machine_id=m1&agent_version=", ok("m1", "m1", None)),
            ("machine_id=m1&name=%C3%9C", ok("m1", "Ü", None)),
            ("name=x", None),
            ("machine_id=", None),
            ("machine_id=%20", None),
            ("machine_id=m1&name=a%0Ab", None),
            (&format!("machine_id={long}"), None),
            (&format!("machine_id=m&name={long}"), None),
        ] {
            assert_eq!(machine(query).ok(), expected, "{query}");
        }
    }

    #[test]
    fn the_sub_protocol_is_selected_only_when_offered() {
        for (offer, v1) in [
            (None, false),
            (Some("other"), false),
            (Some("a, relay.tunnel.v1"), true),
            (Some("relay.tunnel.v10"), false),
        ] {
            let headers: HeaderMap = offer
                .into_iter()
                .map(|o| (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(o)))
                .collect();
            assert_eq!(form(&headers) != Form::Plain, v1, "{offer:?}");
        }
    }
}
