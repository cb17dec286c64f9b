//! Large bodies and many agents: digests agree, and memory stays bounded and comes back.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use relay_protocol::api::HostStatus;
use system_tests::{
    LocalServer, Relay, RelayOptions, SOON, Stack, TRANSFER,
    client::{self, Body, Connection},
    eventually,
    local::{app, big_body, big_digest, body_digest},
    noise,
    plain_agent::{PlainAgent, PlainOptions},
    process::Process,
    stack::EMAIL,
    within,
};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// What a transfer may add to the resident memory of each process.
const EXTRA: u64 = 64 * MIB;

/// What a reader that has stalled may cost the relay or the agent: its window of 1 MiB, the buffers of
/// the HTTP connections on either side of it, and what the allocator keeps around them.
const PER_STALLED_READER: u64 = 4 * MIB;

struct Watch<'a> {
    processes: Vec<(&'static str, &'a Process, u64)>,
}

impl<'a> Watch<'a> {
    fn start(stack: &'a Stack) -> Self {
        let processes = [("relay", &stack.relay.process), ("agent", &stack.agent.process)];
        Self {
            processes: processes
                .into_iter()
                .map(|(name, process)| {
                    process.reset_peak();
                    (name, process, process.rss())
                })
                .collect(),
        }
    }

    fn bounded(&self, what: &str, limit: u64) {
        for (name, process, before) in &self.processes {
            let extra = process.peak_rss().saturating_sub(*before);
            println!("{what}: {name} grew by {} KiB at most", extra / 1024);
            assert!(extra < limit, "{what}: the {name} grew by {} MiB", extra / MIB);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_gibibyte_goes_down_and_up_in_bounded_memory() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");
    let expected = big_digest(GIB).await;

    let watch = Watch::start(&stack);
    let begun = Instant::now();
    let response =
        client::send(stack.addr(), client::get(&stack.path(&format!("/big/{GIB}")))).await.unwrap();
    assert_eq!(within("the download", TRANSFER, body_digest(response.into_body())).await, expected);
    println!("down: {:?}", begun.elapsed());
    watch.bounded("down", EXTRA);

    let watch = Watch::start(&stack);
    let begun = Instant::now();
    let request = stack.request("POST", "/digest").header("content-length", GIB).body(big_body(GIB)).unwrap();
    let reply = within("the upload", TRANSFER, client::try_fetch(stack.addr(), request)).await.unwrap();
    assert_eq!(reply.text(), expected);
    println!("up: {:?}", begun.elapsed());
    watch.bounded("up", EXTRA);
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_readers_that_stall_hold_no_more_than_their_windows() {
    const READERS: usize = 64;
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");
    let watch = Watch::start(&stack);
    let mut stalled = Vec::new();
    for _ in 0..READERS {
        let response =
            client::send(stack.addr(), client::get(&stack.path(&format!("/big/{GIB}")))).await.unwrap();
        stalled.push(response);
    }
    // Another transfer passes meanwhile: what would be read ahead for the stalled ones, is by now.
    let expected = big_digest(64 * MIB).await;
    let response =
        client::send(stack.addr(), client::get(&stack.path(&format!("/big/{}", 64 * MIB)))).await.unwrap();
    assert_eq!(within("a download beside", TRANSFER, body_digest(response.into_body())).await, expected);
    watch.bounded("64 stalled readers", READERS as u64 * PER_STALLED_READER);
    drop(stalled);
}

async fn four_mebibytes(_: Request<Incoming>) -> Response<Body> {
    let piece = noise(4, 64 * 1024);
    let pieces = std::iter::repeat_n(piece, 64).map(|p: Bytes| Ok::<_, Infallible>(Frame::data(p)));
    Response::new(StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync())
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_five_hundred_agents_that_leave_give_the_memory_back() {
    const AGENTS: usize = 500;
    const AT_ONCE: usize = 50;
    let options = RelayOptions::default()
        .env("RELAY_UPGRADE_RATE_PER_MINUTE", 100_000)
        .env("RELAY_API_RATE_PER_MINUTE", 100_000)
        .env("RELAY_MAX_CONNECTIONS_PER_IP", 10_000);
    let relay = Relay::start(options).await;
    let token = relay.user_with_token(EMAIL).await;

    // One round of few to warm up what is allocated once.
    round(&relay, &token, 20, AT_ONCE).await;
    let before = relay.process.rss();
    let fds = relay.process.fds();
    round(&relay, &token, AGENTS, AT_ONCE).await;
    println!("relay: {} MiB before, {} MiB right after", before / MIB, relay.process.rss() / MIB);
    // Without a request in between: a relay that nobody uses must not hold on to it either.
    eventually("the memory comes back", Duration::from_secs(60), || async {
        relay.process.rss() < before + 64 * MIB
    })
    .await;
    eventually("the sockets are closed", SOON, || async { relay.process.fds() <= fds + 2 }).await;
}

async fn round(relay: &Relay, token: &str, agents: usize, at_once: usize) {
    let mut connected = Vec::new();
    for n in 0..agents {
        let options = PlainOptions::new(&format!("agent-{n}"));
        let agent = PlainAgent::connect(relay.addr, token, options, four_mebibytes).await;
        connected.push(agent.unwrap_or_else(|e| panic!("agent {n}: {e}")));
    }
    let hosts = relay.hosts(token).await;
    let online: Vec<_> = hosts.into_iter().filter(|h| h.status == HostStatus::Online).collect();
    assert_eq!(online.len(), agents);
    let mut paths = Vec::new();
    for host in &online {
        let session = relay.create_session(token, host.id).await;
        paths.push(format!("/v1/relay/h/{}/s/{session}/", host.id));
    }
    let expected = noise(4, 64 * 1024).repeat(64);
    let expected = system_tests::sha256(&expected);
    for batch in paths.chunks(at_once) {
        let mut all = tokio::task::JoinSet::new();
        for path in batch {
            let (addr, path) = (relay.addr, path.clone());
            all.spawn(async move {
                let mut connection = Connection::open(addr).await.unwrap();
                let response = connection.send(client::get(&path)).await.unwrap();
                body_digest(response.into_body()).await
            });
        }
        while let Some(done) = all.join_next().await {
            assert_eq!(done.unwrap(), format!("{} {expected}", 4 * MIB));
        }
    }
    println!("relay: {} MiB with {agents} agents that have served", relay.process.rss() / MIB);
    drop(connected);
    eventually("every host is offline", SOON, || async {
        relay.hosts(token).await.iter().all(|h| h.status == HostStatus::Offline)
    })
    .await;
}
