//! Which tunnels serve which host.
//!
//! A host may hold several tunnels at once: an agent connects anew before its old connection is known to
//! be dead. The newest is preferred. An entry is removed only by its own guard, so that a connection that
//! ends late never takes its successor's place with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use relay_protocol::tunnel::Handle;
use uuid::Uuid;

use super::pool::Pool;

/// How long an older tunnel of the same host has to show that it lives.
const PROBE: Duration = Duration::from_secs(2);

/// One open tunnel.
pub struct Tunnel {
    /// This connection's id; no two connections have the same.
    pub id: Uuid,
    /// The host that it serves.
    pub host: Uuid,
    /// The user who connected it.
    pub user: Uuid,
    /// The auth session whose token connected it.
    pub auth_session: Uuid,
    /// The way into it.
    pub handle: Handle,
    /// Warm connections over its streams.
    pub pool: Pool,
    draining: AtomicBool,
}

impl Tunnel {
    /// A tunnel that is to be registered.
    pub fn new(host: Uuid, user: Uuid, auth_session: Uuid, handle: Handle, max_idle_time: Duration) -> Self {
        let pool = Pool::new(handle.clone(), max_idle_time);
        Self { id: Uuid::new_v4(), host, user, auth_session, handle, pool, draining: AtomicBool::new(false) }
    }

    /// Asks the agent to connect anew; false when it does not know how to be asked.
    pub fn drain(&self, within: u32) -> bool {
        self.draining.store(true, Ordering::Relaxed);
        self.handle.drain(within)
    }

    /// The agent has gone to another relay, and this tunnel only finishes what is under way. New requests go into
    /// another tunnel of the host where there is one.
    pub fn left(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn usable(&self) -> bool {
        self.handle.ended().is_none()
    }
}

/// Every open tunnel of this relay.
#[derive(Default)]
pub struct Registry {
    hosts: RwLock<HashMap<Uuid, Vec<Arc<Tunnel>>>>,
}

/// The host has as many tunnels as it may have.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// Keeps a tunnel registered. Removes it, and nothing else, when dropped.
pub struct Registered {
    registry: Arc<Registry>,
    tunnel: Arc<Tunnel>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut hosts = self.registry.hosts.write();
        if let Some(tunnels) = hosts.get_mut(&self.tunnel.host) {
            tunnels.retain(|t| t.id != self.tunnel.id);
            if tunnels.is_empty() {
                hosts.remove(&self.tunnel.host);
            }
        }
        if hosts.capacity() > 64 && hosts.len() < hosts.capacity() / 4 {
            hosts.shrink_to_fit();
        }
        drop(hosts);
        self.tunnel.pool.clear();
    }
}

impl Registry {
    /// Whether the host may open one more. When not, its tunnels are probed, so that dead ones are gone
    /// within two seconds and the agent's next try succeeds.
    pub fn has_room(&self, host: Uuid, max: usize) -> bool {
        let hosts = self.hosts.read();
        let Some(tunnels) = hosts.get(&host) else { return true };
        if tunnels.len() < max {
            return true;
        }
        tunnels.iter().for_each(|t| t.handle.probe(PROBE));
        false
    }

    /// Adds a tunnel as its host's newest, and has the older ones show that they live.
    ///
    /// # Errors
    /// [`Full`] when the host has `max` tunnels.
    pub fn register(self: &Arc<Self>, tunnel: Arc<Tunnel>, max: usize) -> Result<Registered, Full> {
        let mut hosts = self.hosts.write();
        let tunnels = hosts.entry(tunnel.host).or_default();
        if tunnels.len() >= max {
            return Err(Full);
        }
        tunnels.iter().for_each(|t| t.handle.probe(PROBE));
        tunnels.push(tunnel.clone());
        Ok(Registered { registry: self.clone(), tunnel })
    }

    /// The tunnel that a new request of this host goes into: the newest that is not being given up.
    pub fn find(&self, host: Uuid) -> Option<Arc<Tunnel>> {
        let hosts = self.hosts.read();
        let usable = || hosts.get(&host).into_iter().flatten().rev().filter(|t| t.usable());
        usable().find(|t| !t.draining.load(Ordering::Relaxed)).or_else(|| usable().next()).cloned()
    }

    /// Whether a tunnel of the host is open.
    pub fn online(&self, host: Uuid) -> bool {
        self.hosts.read().get(&host).is_some_and(|tunnels| tunnels.iter().any(|t| t.usable()))
    }

    /// Every tunnel, for sweeps.
    pub fn all(&self) -> Vec<Arc<Tunnel>> {
        self.hosts.read().values().flatten().cloned().collect()
    }

    /// Ends the tunnels of a host that was deleted.
    pub fn close_host(&self, host: Uuid) {
        for tunnel in self.hosts.read().get(&host).into_iter().flatten() {
            tunnel.handle.close(1008, "the host was deleted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_protocol::tunnel::{self, Form, Options, Role};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role as WsRole;

    /// A tunnel whose other end is held open and says nothing.
    async fn silent(host: Uuid) -> (Arc<Tunnel>, tokio::io::DuplexStream) {
        let (io, other) = tokio::io::duplex(1 << 16);
        let ws = WebSocketStream::from_raw_socket(io, WsRole::Server, None).await;
        let (handle, _, driver) = tunnel::start(ws, Options::new(Role::Relay, Form::Plain));
        tokio::spawn(driver.run());
        (Arc::new(Tunnel::new(host, Uuid::new_v4(), Uuid::new_v4(), handle, Duration::from_secs(1))), other)
    }

    #[tokio::test]
    async fn the_newest_serves_and_a_late_end_takes_nobody_with_it() {
        let (registry, host) = (Arc::new(Registry::default()), Uuid::new_v4());
        let ((old, _a), (new, _b)) = (silent(host).await, silent(host).await);
        let old_entry = registry.register(old.clone(), 8).ok().unwrap();
        let new_entry = registry.register(new.clone(), 8).ok().unwrap();
        assert_eq!(registry.find(host).unwrap().id, new.id);
        drop(old_entry);
        assert_eq!(registry.find(host).unwrap().id, new.id);
        assert!(registry.online(host));
        drop(new_entry);
        assert!(registry.find(host).is_none() && !registry.online(host) && registry.all().is_empty());
    }

    #[tokio::test]
    async fn a_tunnel_that_is_given_up_serves_only_while_there_is_no_other() {
        let (registry, host) = (Arc::new(Registry::default()), Uuid::new_v4());
        let ((old, _a), (new, _b)) = (silent(host).await, silent(host).await);
        let _new = registry.register(new.clone(), 8).ok().unwrap();
        new.drain(1);
        assert_eq!(registry.find(host).unwrap().id, new.id);
        let _old = registry.register(old.clone(), 8).ok().unwrap();
        old.drain(1);
        assert_eq!(registry.find(host).unwrap().id, old.id);
    }

    #[tokio::test]
    async fn a_tunnel_that_its_agent_left_makes_room_for_an_older_one() {
        let (registry, host) = (Arc::new(Registry::default()), Uuid::new_v4());
        let ((old, _a), (new, _b)) = (silent(host).await, silent(host).await);
        let _entries = [&old, &new].map(|tunnel| registry.register(tunnel.clone(), 8).ok().unwrap());
        new.left();
        assert_eq!(registry.find(host).unwrap().id, old.id);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_host_refuses_and_finds_out_who_is_dead() {
        let (registry, host) = (Arc::new(Registry::default()), Uuid::new_v4());
        let ((first, _a), (second, _b)) = (silent(host).await, silent(host).await);
        let entry = registry.register(first.clone(), 1).ok().unwrap();
        assert!(!registry.has_room(host, 1));
        assert!(registry.register(second.clone(), 1).is_err());
        assert_eq!(first.handle.closed().await, relay_protocol::tunnel::Ended::Silent);
        assert!(registry.find(host).is_none(), "a dead tunnel serves nobody, even before its guard goes");
        drop(entry);
        assert!(registry.has_room(host, 1) && registry.register(second, 1).is_ok());
    }
}
