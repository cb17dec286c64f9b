//! Several connections on paused time: where each goes, and that nobody hammers a relay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{gate, sockets};
use http::{HeaderMap, StatusCode};
use local_agent_client::{
    LocalTarget, Status,
    dial::{DialError, Dialed, Refusal, Told},
    relays::{Dial, Place, Relays, Seat},
    session::Session,
    status::Reporter,
    trust::Pairing,
};
use parking_lot::Mutex;
use relay_protocol::tunnel::{self, Form, Handle, Hello, Options, Role};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

const CONFIGURED: &str = "https://relay.example";
const HOST: &str = "00000000-0000-4000-8000-000000000001";
const OTHER_HOST: &str = "00000000-0000-4000-8000-000000000002";
const HOUR: Duration = Duration::from_secs(3600);

/// What answers at a place.
#[derive(Clone)]
enum At {
    /// A relay with this id that knows the host by this one, and offers others.
    Up {
        id: Option<&'static str>,
        host: &'static str,
        others: String,
    },
    Status(u16),
    Hangs,
}

fn relay(id: &'static str) -> At {
    At::Up { id: Some(id), host: HOST, others: String::new() }
}

fn offering(id: &'static str, others: &str) -> At {
    At::Up { id: Some(id), host: HOST, others: others.to_owned() }
}

/// All relays, and who was dialled.
struct Net {
    start: Instant,
    /// By place; where nothing is, nobody listens.
    places: Mutex<HashMap<String, At>>,
    addresses: Mutex<Vec<SocketAddr>>,
    dials: Mutex<Vec<(Duration, String)>>,
    tunnels: Mutex<Vec<(String, Handle)>>,
}

impl Net {
    fn dials(&self) -> Vec<String> {
        self.dials.lock().iter().map(|(_, place)| place.clone()).collect()
    }

    fn open(&self, place: &str) -> Vec<Handle> {
        let tunnels = self.tunnels.lock();
        let open = tunnels.iter().filter(|(at, tunnel)| at == place && tunnel.ended().is_none());
        open.map(|(_, tunnel)| tunnel.clone()).collect()
    }

    /// As a process that was killed: nobody listens, and what there was ends.
    fn kill(&self, place: &str) {
        self.places.lock().remove(place);
        self.open(place).iter().for_each(|tunnel| tunnel.close(1012, "killed"));
    }

    fn put(&self, place: &str, at: At) {
        self.places.lock().insert(place.to_owned(), at);
    }
}

struct FakeDial(Arc<Net>);

impl Dial for FakeDial {
    async fn addresses(&self) -> Vec<SocketAddr> {
        self.0.addresses.lock().clone()
    }

    async fn dial(&self, place: &Place) -> Result<Dialed, DialError> {
        let place = place.to_string();
        self.0.dials.lock().push((self.0.start.elapsed(), place.clone()));
        let at = self.0.places.lock().get(&place).cloned();
        match at {
            None => Err(DialError::Connect { to: place, reason: "nobody listens".to_owned() }),
            Some(At::Hangs) => std::future::pending().await,
            Some(At::Status(status)) => {
                let status = StatusCode::from_u16(status).unwrap();
                Err(DialError::Refused(Refusal::read(status, &HeaderMap::new(), b"", SystemTime::now())))
            }
            Some(At::Up { id, host, others }) => {
                let (mut dialed, socket) = sockets().await;
                dialed.form = Form::V1(Hello::new("local-agent-client", "0", None));
                dialed.host_id = Some(host.to_owned());
                dialed.told = Told {
                    relay_id: id.map(str::to_owned),
                    others: Some(others).filter(|others| !others.is_empty()),
                };
                let form = Form::V1(Hello::new("relay-server", "0", None));
                let (handle, incoming, driver) = tunnel::start(socket, Options::new(Role::Relay, form));
                tokio::spawn(async move {
                    let _incoming = incoming;
                    driver.run().await
                });
                self.0.tunnels.lock().push((place, handle));
                Ok(dialed)
            }
        }
    }

    async fn token_changed(&self) {
        std::future::pending().await
    }
}

struct World {
    net: Arc<Net>,
    status: watch::Receiver<Status>,
    pairing: Arc<Pairing>,
    _jumps: watch::Sender<u64>,
    stop: CancellationToken,
    sessions: Vec<JoinHandle<()>>,
}

impl World {
    /// So many connections to the configured relay, whose name has these addresses.
    fn new(connections: usize, addresses: &[&str], also: &[&str], places: &[(&str, At)]) -> Self {
        let net = Arc::new(Net {
            start: Instant::now(),
            places: Mutex::new(places.iter().map(|(place, at)| ((*place).to_owned(), at.clone())).collect()),
            addresses: Mutex::new(addresses.iter().map(|address| address.parse().unwrap()).collect()),
            dials: Mutex::default(),
            tunnels: Mutex::default(),
        });
        let blank = r#"{"version":"","pid":0,"started_at":0,"relay":"","local":"","name":"","machine_id":"","connected":false,
            "connected_since":null,"host_id":null,"form":null,"rtt_ms":null,
            "requests":{"total":0,"active":0,"bytes_received":0,"bytes_sent":0},"last_error":null,"next_retry_at":null}"#;
        let (sender, status) = watch::channel(serde_json::from_str(blank).unwrap());
        let (jumped, jumps) = watch::channel(0);
        let stop = CancellationToken::new();
        let pairing = Arc::new(Pairing::open(CONFIGURED.to_owned(), None).unwrap());
        let also = also.iter().map(|also| also.parse().unwrap()).collect();
        let relays = Relays::new(CONFIGURED.parse().unwrap(), also, connections);
        let gate = gate("http://127.0.0.1:9".parse::<LocalTarget>().unwrap());
        let sessions = (0..connections).map(|index| {
            let reporter = Arc::new(Mutex::new(Reporter::of(sender.clone(), index)));
            let dial = FakeDial(net.clone());
            let session = Session {
                connect: Seat::new(relays.clone(), index, dial, pairing.clone(), reporter.clone()),
                gate: gate.clone(),
                reporter,
                jumps: jumps.clone(),
                stop: stop.clone(),
                chance: Box::new(|| 0.5),
            };
            tokio::spawn(session.run())
        });
        let sessions = sessions.collect();
        Self { net, status, pairing, _jumps: jumped, stop, sessions }
    }

    /// Waits until each connection is with that relay, or down where that is empty.
    async fn at(&mut self, relays: &[&str]) -> Duration {
        let begun = Instant::now();
        let are = |status: &Status| {
            let ids = status.connections.iter().map(|connection| {
                connection.relay_id.as_deref().filter(|_| connection.connected).unwrap_or_default()
            });
            ids.eq(relays.iter().copied())
        };
        let arrived = tokio::time::timeout(HOUR, self.status.wait_for(are)).await.is_ok();
        let connections = self.status.borrow().connections.clone();
        assert!(arrived, "not at {relays:?}: {connections:#?} {:?}", self.net.dials());
        begun.elapsed()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// How a place on the configured relay's name is written.
fn on(address: &str) -> String {
    format!("{CONFIGURED} at {address}")
}

#[tokio::test(start_paused = true)]
async fn connections_go_to_different_addresses_of_the_name() {
    let (one, two) = ("192.0.2.1:443", "192.0.2.2:443");
    let mut world = World::new(2, &[one, two], &[], &[(&on(one), relay("A")), (&on(two), relay("B"))]);
    world.at(&["A", "B"]).await;
    world.pass(HOUR).await;
    assert_eq!(world.net.dials(), [on(one), on(two)], "and there they stay");
    world.stop.cancel();
    for session in world.sessions {
        session.await.unwrap();
    }
    assert!(!world.status.borrow().connected);
}

#[tokio::test(start_paused = true)]
async fn an_offered_relay_is_gone_to_at_once() {
    let other = "https://b.relay.example";
    let mut world =
        World::new(2, &[], &[], &[(CONFIGURED, offering("A", other)), (other, offering("B", CONFIGURED))]);
    world.at(&["A", "B"]).await;
    world.pass(HOUR).await;
    assert_eq!(world.net.dials(), [CONFIGURED, other]);
    assert_eq!(world.status.borrow().connections[1].relay.as_deref(), Some(other));
}

#[tokio::test(start_paused = true)]
async fn where_there_is_only_one_relay_two_tunnels_to_it_are_kept() {
    let (one, two) = ("192.0.2.1:443", "[2001:db8::1]:443");
    for addresses in [&[one][..], &[one, two]] {
        let places = [(on(one), relay("A")), (on(two), relay("A"))];
        let places: Vec<_> = places.iter().map(|(place, at)| (place.as_str(), at.clone())).collect();
        let mut world = World::new(2, addresses, &[], &places);
        world.at(&["A", "A"]).await;
        world.pass(HOUR).await;
        assert_eq!(world.net.dials().len(), 2, "nobody looks for what is not there: {:?}", world.net.dials());
        // The name leads somewhere else too.
        let three = "192.0.2.3:443";
        world.net.put(&on(three), relay("C"));
        world.net.addresses.lock().push(three.parse().unwrap());
        assert!(world.at(&["A", "C"]).await <= Duration::from_secs(61));
        world.pass(Duration::from_secs(15)).await;
        assert_eq!(world.net.open(&on(one)).len(), 1, "the second tunnel has made room");
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_relay_is_not_felt_and_used_again_when_it_is_back() {
    let other = "https://b.relay.example";
    let mut world = World::new(2, &[], &[], &[(CONFIGURED, offering("A", other)), (other, relay("B"))]);
    world.at(&["A", "B"]).await;
    let mut status = world.status.clone();
    let watched = tokio::spawn(async move {
        let never = status.wait_for(|status| !status.connected).await.map(|status| status.clone());
        assert!(never.is_err(), "{never:?}");
    });
    tokio::task::yield_now().await;
    for (place, id, shared) in [(other, "B", ["A", "A"]), (CONFIGURED, "A", ["B", "B"])] {
        world.net.kill(place);
        assert!(world.at(&shared).await < Duration::from_secs(5));
        let before = world.net.dials().len();
        world.pass(HOUR).await;
        let knocks = world.net.dials().split_off(before);
        assert!(knocks.iter().all(|to| to == place), "{knocks:?}");
        assert!((30..=65).contains(&knocks.len()), "about once a minute: {}", knocks.len());
        world.net.put(place, offering(id, other));
        assert!(world.at(&["A", "B"]).await <= Duration::from_secs(61));
        world.pass(Duration::from_secs(15)).await;
        assert_eq!(
            (world.net.open(CONFIGURED).len(), world.net.open(other).len()),
            (1, 1),
            "no tunnel is left over"
        );
    }
    world.stop.cancel();
    watched.abort();
    assert!(watched.await.is_err_and(|error| error.is_cancelled()), "always connected");
}

/// The only tunnel to a place, once the agent's hello has come: a drain notice needs it.
async fn greeted(net: &Net, place: &str) -> Handle {
    let [tunnel] = net.open(place).try_into().unwrap();
    while tunnel.peer().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tunnel
}

#[tokio::test(start_paused = true)]
async fn whoever_is_drained_goes_to_a_free_relay_at_once_or_comes_back() {
    let (second, third) = ("https://b.example", "https://c.example");
    let mut world = World::new(
        2,
        &[],
        &[second, third],
        &[(CONFIGURED, relay("A")), (second, relay("B")), (third, relay("C"))],
    );
    world.at(&["A", "B"]).await;
    world.pass(Duration::from_secs(120)).await;
    let tunnel = greeted(&world.net, second).await;
    assert!(tunnel.drain(600));
    assert!(world.at(&["A", "C"]).await <= Duration::from_secs(1), "it does not wait for its moment");
    assert!(tunnel.closed().await.to_string().contains("a newer tunnel"));
    // Now there is none that is free.
    world.net.kill(second);
    let tunnel = greeted(&world.net, third).await;
    let before = world.net.dials().len();
    assert!(tunnel.drain(10));
    tunnel.closed().await;
    world.at(&["A", "C"]).await;
    // What was killed had not been found out to be away, so it was tried first; then back, not to a shared one.
    assert_eq!(world.net.dials().split_off(before), [second, third]);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_knows_the_host_by_another_id_is_left_and_told_of() {
    let other = "https://b.example";
    let stranger = At::Up { id: Some("B"), host: OTHER_HOST, others: String::new() };
    let mut world = World::new(2, &[], &[other], &[(CONFIGURED, relay("A")), (other, stranger)]);
    let mut status = world.status.clone();
    let told = status.wait_for(|status| {
        let error = status.connections.get(1).and_then(|connection| connection.last_error.as_ref());
        error.is_some_and(|error| error.message.contains(OTHER_HOST) && error.message.contains(other))
    });
    // It is told while the connection looks for another; then it shares the first relay.
    let told = tokio::time::timeout(HOUR, told).await.is_ok();
    world.at(&["A", "A"]).await;
    world.pass(Duration::from_secs(600)).await;
    assert!(told);
    assert!(world.net.open(other).is_empty(), "no tunnel is kept there");
    assert_eq!(world.pairing.host().get().unwrap().to_string(), HOST);
    assert_eq!(world.status.borrow().host_id.as_deref(), Some(HOST));
    assert!(world.net.dials().len() <= 14, "once a minute: {:?}", world.net.dials());
}

#[tokio::test(start_paused = true)]
async fn what_is_offered_by_a_hostile_relay_is_not_dialled() {
    let others = "https://evil.test,http://relay.example,https://relay.example.evil.test,https://x@evil.test,\
                  https://169.254.169.254,file:///etc/passwd,,https://example,ws://b.relay.example";
    let mut world = World::new(3, &[], &[], &[(CONFIGURED, offering("A", others))]);
    world.at(&["A", "A", "A"]).await;
    world.pass(HOUR).await;
    assert_eq!(world.net.dials(), [CONFIGURED; 3]);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_does_not_hold_the_others_up() {
    let (one, two) = ("192.0.2.1:443", "192.0.2.2:443");
    let mut world = World::new(2, &[one, two], &[], &[(&on(one), At::Hangs), (&on(two), relay("B"))]);
    assert!(world.at(&["", "B"]).await <= Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_shown_to_every_relay() {
    let other = "https://b.example";
    let mut world = World::new(1, &[], &[other], &[(CONFIGURED, At::Status(401)), (other, At::Status(401))]);
    let refused = |status: &Status| status.last_error.as_ref().is_some_and(|e| e.message.contains("401"));
    world.status.wait_for(refused).await.unwrap();
    world.pass(Duration::from_secs(20)).await;
    assert_eq!(world.net.dials(), [CONFIGURED]);
}

#[tokio::test(start_paused = true)]
async fn a_busy_relay_is_left_for_another_that_was_named() {
    let other = "https://b.example";
    for status in [429, 503] {
        let mut world =
            World::new(1, &[], &[other], &[(CONFIGURED, At::Status(status)), (other, relay("B"))]);
        assert!(world.at(&["B"]).await < Duration::from_secs(1), "{status}");
        assert_eq!(world.net.dials(), [CONFIGURED, other]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_connection_goes_where_it_was_told_to() {
    let mut world = World::new(
        1,
        &["192.0.2.1:443", "192.0.2.2:443"],
        &[],
        &[(CONFIGURED, offering("A", "https://b.relay.example")), ("https://b.relay.example", relay("B"))],
    );
    world.at(&["A"]).await;
    world.pass(Duration::from_secs(120)).await;
    world.net.kill(CONFIGURED);
    world.pass(HOUR).await;
    world.net.put(CONFIGURED, relay("A"));
    world.at(&["A"]).await;
    assert!(world.net.dials().iter().all(|place| place == CONFIGURED));
}
