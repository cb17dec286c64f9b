//! How peers begin, and all that ends them.

use crate::browser::{Agent, Browser, SOON, caller, echo, settings};
use local_agent_client::peer::{
    Offer, PeerError, Peers, Settings, StreamHandler,
    addresses::PortRange,
    table::{PER_AGENT, PER_BROWSER},
};
use serde_json::json;
use std::{net::Ipv6Addr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A handler that holds a stream, and tells when it was dropped.
fn holding() -> (StreamHandler, CancellationToken) {
    let dropped = CancellationToken::new();
    let told = dropped.clone();
    let handler: StreamHandler = Arc::new(move |mut stream, _| {
        let guard = told.clone().drop_guard();
        Box::pin(async move {
            let _guard = guard;
            let _ = stream.write_all(b"hello").await;
            std::future::pending::<()>().await;
        })
    });
    (handler, dropped)
}

async fn is_reset(stream: &mut relay_protocol::tunnel::Stream) -> bool {
    timeout(SOON, stream.read_u8()).await.is_ok_and(|read| read.is_err())
}

#[tokio::test]
async fn an_upgrade_and_what_is_told_of_it() {
    let agent = Agent::new(echo());
    let peer = agent.connect().await;
    peer.round_trip(b"hello".to_vec()).await;
    let told = timeout(SOON, async {
        loop {
            let (counts, peers) = agent.peers.status();
            if let Some(path) = peers[0].path.clone().filter(|path| path.rtt_ms.is_some()) {
                return (counts, peers[0].clone(), path);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let (counts, status, path) = told.await.expect("the path was never told");
    assert_eq!((counts.open, counts.opened), (1, 1));
    assert_eq!(status.id, peer.answer.peer_id.to_string());
    assert_eq!(status.browser, Uuid::from_u128(1).to_string());
    assert!(status.open && status.bytes_received > 5 && status.bytes_sent > 5);
    assert_eq!((path.local.as_str(), path.as_str()), ("host", "direct"));
}

#[tokio::test]
async fn ipv6_and_a_range_of_ports() {
    let ports = PortRange::new(42_000, 42_099).unwrap();
    let six = Ipv6Addr::LOCALHOST.into();
    let four = settings().addresses[0];
    // A machine without IPv6 leaves that address out.
    let agent =
        Agent::with(Settings { ports: Some(ports), addresses: vec![four, six], ..settings() }, echo());
    let peer = agent.connect().await;
    peer.round_trip(vec![1; 10_000]).await;
    let mut found = 0;
    for line in peer.answer.sdp.lines().filter(|line| line.starts_with("a=candidate:")) {
        let words: Vec<&str> = line.split(' ').collect();
        assert!((42_000..=42_099).contains(&words[5].parse::<u16>().unwrap()), "{line}");
        found += 1;
    }
    assert!(found > 0);
}

#[tokio::test]
async fn the_end_of_the_session_ends_its_peer_and_every_stream() {
    let (handler, dropped) = holding();
    let agent = Agent::new(handler);
    let peer = agent.connect().await;
    let mut stream = peer.handle.open().await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    agent.caller.ended.cancel();
    timeout(SOON, dropped.cancelled()).await.expect("the stream's task goes on");
    assert!(is_reset(&mut stream).await);
    agent.left(0).await;
    // Nothing is made for a session that is over.
    let asked = agent.ask(Browser::new().await.offer().await, None).await;
    assert_eq!(asked.err(), Some(PeerError::Ended));
}

#[tokio::test]
async fn a_browser_ends_its_own_peer_and_no_other() {
    let (handler, dropped) = holding();
    let agent = Agent::new(handler);
    let peer = agent.connect().await;
    let mut stream = peer.handle.open().await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    let id = peer.answer.peer_id;
    assert_eq!(agent.peers.close(Uuid::from_u128(2), id), Err(PeerError::NotFound));
    assert_eq!(agent.peers.close(Uuid::from_u128(1), Uuid::from_u128(9)), Err(PeerError::NotFound));
    assert!(!dropped.is_cancelled());
    agent.peers.close(Uuid::from_u128(1), id).unwrap();
    assert!(is_reset(&mut stream).await);
    agent.left(0).await;
    assert_eq!(agent.peers.close(Uuid::from_u128(1), id), Err(PeerError::NotFound));
}

#[tokio::test]
async fn closing_the_channel_ends_the_peer() {
    let agent = Agent::new(echo());
    let peer = agent.connect().await;
    peer.round_trip(vec![1]).await;
    peer.browser.channel.close().await.unwrap();
    agent.left(0).await;
}

#[tokio::test]
async fn a_go_away_ends_the_peer() {
    let agent = Agent::new(echo());
    let mut browser = Browser::new().await;
    let answer = agent.ask(browser.offer().await, None).await.unwrap();
    browser.accept(&answer).await;
    browser.open().await;
    let go_away = [0u8, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    browser.channel.send(bytes::BytesMut::from(&go_away[..])).await.unwrap();
    agent.left(0).await;
}

#[tokio::test]
async fn a_peer_without_streams_ends_and_one_with_a_stream_lives() {
    let agent = Agent::with(Settings { idle: Duration::from_secs(2), ..settings() }, echo());
    let busy = agent.connect().await;
    let mut held = busy.handle.open().await.unwrap();
    held.write_all(b"a").await.unwrap();
    assert_eq!(held.read_u8().await.unwrap(), b'a');
    let idle = agent.connect().await;
    idle.round_trip(vec![1]).await;
    agent.left(1).await;
    held.write_all(b"b").await.unwrap();
    assert_eq!(timeout(SOON, held.read_u8()).await.unwrap().unwrap(), b'b');
    drop(held);
    agent.left(0).await;
}

#[tokio::test]
async fn the_agents_end_ends_all() {
    let agent = Agent::new(echo());
    let peer = agent.connect().await;
    let mut stream = peer.handle.open().await.unwrap();
    stream.write_all(b"a").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'a');
    agent.peers.shutdown().await;
    assert_eq!(agent.peers.status().0.open, 0);
    assert!(is_reset(&mut stream).await);
}

#[tokio::test]
async fn the_fifth_peer_of_a_browser_ends_the_first() {
    let agent = Agent::new(echo());
    let first = agent.connect().await;
    first.round_trip(vec![1]).await;
    let offer = Browser::new().await.offer().await;
    for _ in 1..PER_BROWSER {
        agent.ask(offer.clone(), None).await.unwrap();
    }
    assert_eq!(agent.peers.status().0.open, PER_BROWSER);
    first.round_trip(vec![2]).await;
    agent.ask_as(caller(1, 2), offer, None).await.unwrap();
    let ids: Vec<String> = agent.peers.status().1.into_iter().map(|peer| peer.id).collect();
    assert_eq!(ids.len(), PER_BROWSER);
    assert!(!ids.contains(&first.answer.peer_id.to_string()));
    timeout(SOON, first.handle.closed()).await.expect("the oldest goes on");
}

/// The session lives on, and the browser has to know that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_newer_ones_push_out_is_told_so() {
    let agent = Arc::new(Agent::new(echo()));
    let sdp = Browser::new().await.offer().await;
    // It never answers, so that gathering takes its time.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let servers = json!([{"urls": [format!("stun:{}", silent.local_addr().unwrap())]}]);
    let mut asked = JoinSet::new();
    for _ in 0..PER_BROWSER + 2 {
        let ice_servers = serde_json::from_value(servers.clone()).unwrap();
        let (agent, sdp) = (agent.clone(), sdp.clone());
        asked.spawn(async move {
            agent.offer(agent.caller.clone(), Offer { sdp, ice_servers, peer_id: None }).await
        });
    }
    let asked = asked.join_all().await;
    let pushed_out = asked.iter().filter(|answer| matches!(answer, Err(PeerError::Displaced))).count();
    assert_eq!(pushed_out, 2, "{asked:?}");
    assert_eq!(asked.iter().filter(|answer| answer.is_ok()).count(), PER_BROWSER, "{asked:?}");
}

#[tokio::test]
async fn a_browsers_oldest_peer_gives_its_port_up_and_no_others() {
    let ports = {
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let ports = PortRange::new(ports, ports).unwrap();
    let agent = Agent::with(Settings { ports: Some(ports), ..settings() }, echo());
    let offer = Browser::new().await.offer().await;
    let first = agent.ask(offer.clone(), None).await.unwrap();
    let refused = agent.ask_as(caller(2, 1), offer.clone(), None).await;
    assert_eq!(refused.err(), Some(PeerError::Ports(ports)));
    let second = agent.ask(offer, None).await.unwrap();
    agent.left(1).await;
    assert_ne!(first.peer_id, second.peer_id);
    assert_eq!(agent.peers.status().1[0].id, second.peer_id.to_string());
}

#[tokio::test]
async fn there_are_no_peers_where_the_machine_has_none_of_the_addresses() {
    let foreign = "192.0.2.1".parse().unwrap();
    let with = |addresses| Peers::new(Settings { addresses, ..settings() });
    assert!(with(vec![foreign]).is_none());
    assert!(with(vec![foreign, settings().addresses[0]]).is_some());
    assert!(with(vec![]).is_some());
}

#[tokio::test]
async fn the_thirty_third_peer_is_refused() {
    let agent = Agent::new(echo());
    let offer = Browser::new().await.offer().await;
    for n in 0..PER_AGENT as u128 {
        agent.ask_as(caller(n, 1), offer.clone(), None).await.unwrap();
    }
    let refused = agent.ask_as(caller(99, 1), offer.clone(), None).await;
    assert_eq!(refused.err(), Some(PeerError::Full));
    let (_, peers) = agent.peers.status();
    agent.peers.close(Uuid::from_u128(0), peers[0].id.parse().unwrap()).unwrap();
    agent.ask_as(caller(99, 1), offer, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_on_through_an_ice_restart() {
    let agent = Agent::new(echo());
    let mut peer = agent.connect().await;
    let mut stream = peer.handle.open().await.unwrap();
    stream.write_all(b"before").await.unwrap();
    stream.read_exact(&mut [0; 6]).await.unwrap();
    for n in 0..2u8 {
        peer.browser.connection.restart_ice().await.unwrap();
        let offer = peer.browser.offer().await;
        let strangers = agent.ask_as(caller(2, 1), offer.clone(), Some(peer.answer.peer_id)).await;
        assert_eq!(strangers.err(), Some(PeerError::NotFound), "another browser");
        // The session that asks need not be the one that asked first.
        let again = caller(1, u128::from(n) + 1);
        let answer = agent.ask_as(again, offer, Some(peer.answer.peer_id)).await.unwrap();
        assert_eq!(answer.peer_id, peer.answer.peer_id);
        assert_ne!(ufrag(&answer.sdp), ufrag(&peer.answer.sdp), "ICE did not start anew");
        assert_eq!(fingerprint(&answer.sdp), fingerprint(&peer.answer.sdp));
        assert!(answer.sdp.contains("a=candidate:"), "{}", answer.sdp);
        peer.browser.accept(&answer).await;
        peer.answer = answer;
        stream.write_all(&[n; 100_000]).await.unwrap();
        let mut back = vec![9; 100_000];
        timeout(SOON, stream.read_exact(&mut back)).await.expect("the stream is stuck").unwrap();
        assert!(back.iter().all(|byte| *byte == n));
        peer.round_trip(vec![n; 1000]).await;
    }
    assert_eq!(agent.peers.status().0.opened, 1);
    let gone = agent.ask(peer.browser.offer().await, Some(Uuid::from_u128(5))).await;
    assert_eq!(gone.err(), Some(PeerError::NotFound));
}

fn line<'a>(sdp: &'a str, start: &str) -> &'a str {
    sdp.lines().find(|line| line.starts_with(start)).unwrap()
}

fn ufrag(sdp: &str) -> &str {
    line(sdp, "a=ice-ufrag:")
}

fn fingerprint(sdp: &str) -> &str {
    line(sdp, "a=fingerprint:")
}

/// Only whoever holds the key of the fingerprint gets a channel.
#[tokio::test]
async fn another_fingerprint_than_the_offers_gets_nowhere() {
    let agent = Agent::with(Settings { idle: Duration::from_secs(3), ..settings() }, echo());
    let mut browser = Browser::new().await;
    let offer = browser.offer().await;
    let real = fingerprint(&offer).to_owned();
    let last = if real.ends_with('0') { "1" } else { "0" };
    let forged = format!("{}{last}", &real[..real.len() - 1]);
    let answer = agent.ask(offer.replace(&real, &forged), None).await.unwrap();
    browser.accept(&answer).await;
    let opened = tokio::spawn(async move { browser.open().await });
    agent.left(0).await;
    assert!(!opened.is_finished(), "a channel was opened");
    opened.abort();
}
