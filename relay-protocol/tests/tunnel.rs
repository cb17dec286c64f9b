//! The tunnel between two of our own ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use relay_protocol::tunnel::{self, Ended, Form, Hello, OpenError, Role};
use std::time::Duration;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

const SOON: Duration = Duration::from_secs(10);

/// Sends every back what comes on it.
fn echo(mut end: tunnel::Incoming) {
    tokio::spawn(async move {
        while let Some(stream) = end.next().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// No byte is lost, repeated or put elsewhere, whatever the pipe does and however the data is cut.
    #[test]
    fn bytes_arrive_as_they_left(
        seed in any::<u64>(),
        capacity in 1usize..20_000,
        sizes in prop::collection::vec(0usize..200_000, 1..6),
        plain in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (a, b) = tokio::io::duplex(capacity);
            let (mut relay, mut agent) = (options(Role::Relay), options(Role::Agent));
            if plain {
                relay.form = Form::Plain;
                agent.form = Form::Plain;
            }
            let relay = end(Moody::new(a, seed), relay).await;
            let agent = end(Moody::new(b, seed ^ 1), agent).await;
            echo(agent.incoming);
            let trips: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(i, size)| tokio::spawn(round_trip(relay.handle.clone(), pattern(seed ^ i as u64, *size))))
                .collect();
            for trip in trips {
                timeout(Duration::from_secs(60), trip).await.expect("stuck").unwrap();
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_over_several_threads() {
    let (relay, agent) = pair(64 * 1024).await;
    echo(agent.incoming);
    let trips: Vec<_> =
        (0..200).map(|i| tokio::spawn(round_trip(relay.handle.clone(), pattern(i, 50_000)))).collect();
    for trip in trips {
        timeout(Duration::from_secs(60), trip).await.expect("stuck").unwrap();
    }
    timeout(SOON, async {
        while relay.handle.streams() + agent.handle.streams() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("streams were not given back");
}

/// A wake-up that is lost once in a gigabyte shows as a pause until the next ping.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_on_other_threads_are_never_left_waiting() {
    let (mut relay, mut agent) = (options(Role::Relay), options(Role::Agent));
    // Nothing but the streams may wake a driver.
    relay.ping_interval = Duration::from_secs(3600);
    agent.ping_interval = Duration::from_secs(3600);
    let (relay, mut agent) = pair_with(16 * 1024, relay, agent).await;
    let (streams, each) = (4usize, 128usize << 20);
    let mut tasks = Vec::new();
    for _ in 0..streams {
        let mut reader = relay.handle.open().await.unwrap();
        let mut writer = agent.incoming.next().await.unwrap();
        tasks.push(tokio::spawn(async move {
            let chunk = vec![7u8; 64 * 1024];
            for _ in 0..each / chunk.len() {
                writer.write_all(&chunk).await.unwrap();
            }
            writer.shutdown().await.unwrap();
        }));
        tasks.push(tokio::spawn(async move {
            let mut chunk = vec![0u8; 64 * 1024];
            let mut got = 0;
            loop {
                match reader.read(&mut chunk).await.unwrap() {
                    0 => break,
                    count => got += count,
                }
            }
            assert_eq!(got, each);
        }));
    }
    for task in tasks {
        timeout(Duration::from_secs(120), task).await.expect("a wake-up was lost").unwrap();
    }
}

#[tokio::test]
async fn both_hellos_arrive_and_the_plain_form_has_none() {
    let (relay, agent) = pair(4096).await;
    echo(agent.incoming);
    round_trip(relay.handle.clone(), vec![1, 2, 3]).await;
    assert_eq!(relay.handle.peer().unwrap().name, "agent");
    assert_eq!(agent.handle.peer().unwrap().name, "relay");

    let (mut plain_relay, mut plain_agent) = (options(Role::Relay), options(Role::Agent));
    plain_relay.form = Form::Plain;
    plain_agent.form = Form::Plain;
    let (relay, agent) = pair_with(4096, plain_relay, plain_agent).await;
    echo(agent.incoming);
    round_trip(relay.handle.clone(), vec![1, 2, 3]).await;
    assert_eq!(relay.handle.peer(), None);
    assert!(!relay.handle.drain(5), "a plain peer cannot be told");
}

#[tokio::test]
async fn a_drain_notice_reaches_the_agent_and_the_streams_go_on() {
    let (relay, agent) = pair(4096).await;
    echo(agent.incoming);
    round_trip(relay.handle.clone(), vec![7; 10]).await;
    assert!(relay.handle.drain(9));
    assert_eq!(timeout(SOON, agent.handle.drained()).await.unwrap(), 9);
    round_trip(relay.handle.clone(), vec![7; 100_000]).await;
}

#[tokio::test]
async fn a_drain_notice_needs_the_feature() {
    let mut silent = options(Role::Agent);
    silent.form = Form::V1(Hello { features: vec![], ..Hello::new("agent", "0", None) });
    let (relay, agent) = pair_with(4096, options(Role::Relay), silent).await;
    echo(agent.incoming);
    round_trip(relay.handle.clone(), vec![7; 10]).await;
    assert!(!relay.handle.drain(9));
}

#[tokio::test]
async fn a_close_carries_its_code_and_resets_what_is_open() {
    let (relay, mut agent) = pair(4096).await;
    let mut stream = relay.handle.open().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let mut accepted = agent.incoming.next().await.unwrap();
    relay.handle.close(1012, "restarting");
    assert_eq!(
        timeout(SOON, agent.handle.closed()).await.unwrap(),
        Ended::Closed { code: 1012, reason: "restarting".into() }
    );
    assert_eq!(timeout(SOON, relay.handle.closed()).await.unwrap(), Ended::Local);
    assert_eq!(accepted.read_u8().await.unwrap(), b'x', "what had arrived is still there");
    assert_eq!(accepted.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(relay.handle.open().await.unwrap_err(), OpenError::Ended);
    assert!(agent.incoming.next().await.is_none());
}

#[tokio::test]
async fn a_reset_reaches_who_neither_reads_nor_writes() {
    let (relay, mut agent) = pair(4096).await;
    let stream = relay.handle.open().await.unwrap();
    let accepted = agent.incoming.next().await.unwrap();
    let aborted = tokio::spawn(accepted.aborted());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!aborted.is_finished());
    drop(stream);
    timeout(SOON, aborted).await.expect("nobody was told").unwrap();

    let stream = relay.handle.open().await.unwrap();
    let accepted = agent.incoming.next().await.unwrap();
    relay.task.abort();
    timeout(SOON, stream.aborted()).await.expect("the tunnel's end was not told");
    timeout(SOON, accepted.aborted()).await.expect("the tunnel's end was not told");
}

#[tokio::test]
async fn one_stream_more_than_allowed_is_refused_and_room_comes_back() {
    let mut few = options(Role::Relay);
    few.max_streams = 2;
    let (relay, _agent) = pair_with(4096, few, options(Role::Agent)).await;
    let first = relay.handle.open().await.unwrap();
    let _second = relay.handle.open().await.unwrap();
    assert_eq!(relay.handle.open().await.unwrap_err(), OpenError::TooMany);
    drop(first);
    relay.handle.open().await.unwrap();
}

#[tokio::test]
async fn an_agent_refuses_streams_beyond_its_limit() {
    let mut few = options(Role::Agent);
    few.max_streams = 2;
    let (relay, mut agent) = pair_with(4096, options(Role::Relay), few).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(relay.handle.open().await.unwrap());
    }
    let _kept = (agent.incoming.next().await.unwrap(), agent.incoming.next().await.unwrap());
    let mut refused = streams.pop().unwrap();
    timeout(SOON, refused.established()).await.unwrap().ok();
    assert!(timeout(SOON, refused.read_u8()).await.unwrap().is_err());
    for stream in &streams {
        timeout(SOON, stream.established()).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_falls_silent_is_noticed_within_30_s() {
    let (io, _kept_open) = tokio::io::duplex(1 << 20);
    let relay = end(io, options(Role::Relay)).await;
    let mut stream = relay.handle.open().await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(relay.handle.closed().await, Ended::Silent);
    assert!(start.elapsed() <= Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_peer_that_answers_pings_stays() {
    let (relay, agent) = pair(4096).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((relay.handle.ended(), agent.handle.ended()), (None, None));
    assert!(relay.handle.rtt().is_some() && agent.handle.rtt().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_probe_shortens_the_wait() {
    let (io, _kept_open) = tokio::io::duplex(1 << 20);
    let agent = end(io, options(Role::Agent)).await;
    let start = tokio::time::Instant::now();
    agent.handle.probe(Duration::from_secs(2));
    assert_eq!(agent.handle.closed().await, Ended::Silent);
    assert!(start.elapsed() <= Duration::from_secs(3));
    assert!(!agent.task.await.unwrap().to_string().is_empty());
}

#[tokio::test]
async fn what_is_not_yamux_ends_the_tunnel_with_1002() {
    let (io, other) = tokio::io::duplex(1 << 16);
    let relay = end(io, options(Role::Relay)).await;
    let mut peer = websocket(other, Role::Agent).await;
    peer.send(Message::binary(vec![9u8; 100])).await.unwrap();
    assert!(matches!(timeout(SOON, relay.handle.closed()).await.unwrap(), Ended::Protocol(_)));
    let mut code = None;
    while let Some(Ok(message)) = timeout(SOON, peer.next()).await.unwrap() {
        if let Message::Close(Some(frame)) = message {
            code = Some(u16::from(frame.code));
        }
    }
    assert_eq!(code, Some(1002));
}

#[tokio::test]
async fn control_messages_that_do_not_parse_or_repeat_the_hello_end_the_tunnel() {
    let hello = relay_protocol::tunnel::Control::Hello(Hello::new("x", "1", None)).to_text();
    for texts in [vec!["{".to_owned()], vec!["x".repeat(20_000)], vec![hello.clone(), hello]] {
        let (io, other) = tokio::io::duplex(1 << 16);
        let relay = end(io, options(Role::Relay)).await;
        let mut peer = websocket(other, Role::Agent).await;
        for text in &texts {
            peer.send(Message::text(text.clone())).await.unwrap();
        }
        assert!(
            matches!(timeout(SOON, relay.handle.closed()).await.unwrap(), Ended::Protocol(_)),
            "{texts:?}"
        );
    }
}

#[tokio::test]
async fn an_unknown_control_message_is_ignored() {
    let (io, other) = tokio::io::duplex(1 << 16);
    let relay = end(io, options(Role::Relay)).await;
    let mut peer = websocket(other, Role::Agent).await;
    peer.send(Message::text(r#"{"type":"from_the_future","x":[1]}"#)).await.unwrap();
    let hello = relay_protocol::tunnel::Control::Hello(Hello::new("x", "1", None)).to_text();
    peer.send(Message::text(hello)).await.unwrap();
    timeout(SOON, async {
        while relay.handle.peer().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(relay.handle.ended(), None);
}

#[tokio::test]
async fn a_text_message_counts_as_bytes_in_the_plain_form() {
    let (io, other) = tokio::io::duplex(1 << 16);
    let mut plain = options(Role::Relay);
    plain.form = Form::Plain;
    let relay = end(io, plain).await;
    let mut peer = websocket(other, Role::Agent).await;
    // A yamux ping with SYN and id 7: all of its bytes are also UTF-8.
    let ping = "\0\u{2}\0\u{1}\0\0\0\0\0\0\0\u{7}";
    peer.send(Message::text(ping)).await.unwrap();
    let answer = loop {
        match timeout(SOON, peer.next()).await.unwrap().unwrap().unwrap() {
            Message::Binary(bytes) => break bytes,
            _ => continue,
        }
    };
    assert_eq!(&answer[..], [0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(relay.handle.ended(), None);
}

#[tokio::test]
async fn small_writes_travel_together() {
    let (io, other) = tokio::io::duplex(1 << 20);
    let relay = end(io, options(Role::Relay)).await;
    let mut peer = websocket(other, Role::Agent).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(relay.handle.open().await.unwrap());
    }
    for stream in &mut streams {
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    }
    let (mut messages, mut bytes) = (0, 0);
    while bytes < 50 * (12 + 12 + 18) {
        if let Message::Binary(batch) = timeout(SOON, peer.next()).await.unwrap().unwrap().unwrap() {
            messages += 1;
            bytes += batch.len();
        }
    }
    assert_eq!(bytes, 50 * (12 + 12 + 18));
    assert!(messages <= 55, "{messages} messages for 50 opens and 50 writes");
}

#[tokio::test]
async fn vectored_writes_keep_every_byte_in_order() {
    let (relay, mut agent) = pair(4096).await;
    let mut writer = relay.handle.open().await.unwrap();
    let mut reader = agent.incoming.next().await.unwrap();
    let sent = pattern(11, 300_000);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        let mut at = 0;
        let mut round = 0usize;
        while at < sent.len() {
            // Parts of every size, empty ones too.
            let cuts = [round % 7, 0, 1 + round * 37 % 5000, round * 911 % 9000];
            let mut parts = Vec::new();
            let mut end = at;
            for cut in cuts {
                let next = (end + cut).min(sent.len());
                parts.push(std::io::IoSlice::new(&sent[end..next]));
                end = next;
            }
            at += writer.write_vectored(&parts).await.unwrap();
            round += 1;
        }
        writer
    });
    let mut got = vec![0; expected.len()];
    timeout(SOON, reader.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == expected);
    writing.await.unwrap();
}
