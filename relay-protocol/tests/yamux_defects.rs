//! Ten things that the bare yamux session does to a tunnel, each with the test that it does not happen here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use futures_util::StreamExt;
use relay_protocol::tunnel::{Ended, Role};
use std::io::ErrorKind;
use std::time::Duration;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

const SOON: Duration = Duration::from_secs(10);

/// 1. Ten unread frames on one stream stop the session from reading anything at all.
#[tokio::test]
async fn one_unread_stream_does_not_delay_another() {
    let (relay, mut agent) = pair(16 * 1024).await;
    let _unread = relay.handle.open().await.unwrap();
    let mut full = agent.incoming.next().await.unwrap();
    for _ in 0..1000 {
        full.write_all(b"a frame of its own").await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut other = relay.handle.open().await.unwrap();
    other.write_all(b"ping").await.unwrap();
    let mut served = timeout(SOON, agent.incoming.next()).await.expect("the session stalled").unwrap();
    let mut buf = [0; 4];
    timeout(SOON, served.read_exact(&mut buf)).await.expect("the session stalled").unwrap();
    served.write_all(&buf).await.unwrap();
    timeout(SOON, other.read_exact(&mut buf)).await.expect("the session stalled").unwrap();
    assert_eq!(&buf, b"ping");
}

/// 2. The loss of the session looks like a clean end of file.
#[tokio::test]
async fn a_lost_tunnel_is_a_reset_and_never_an_end_of_file() {
    let (relay, mut agent) = pair(16 * 1024).await;
    let mut cut = relay.handle.open().await.unwrap();
    let mut ended = relay.handle.open().await.unwrap();
    let mut first = agent.incoming.next().await.unwrap();
    let mut second = agent.incoming.next().await.unwrap();
    first.write_all(b"half of a bo").await.unwrap();
    second.write_all(b"whole").await.unwrap();
    second.shutdown().await.unwrap();
    let mut buf = [0; 12];
    cut.read_exact(&mut buf).await.unwrap();
    ended.read_exact(&mut buf[..5]).await.unwrap();
    assert_eq!(ended.read(&mut buf).await.unwrap(), 0, "the peer did end this one");
    agent.task.abort();
    assert_eq!(cut.read(&mut buf).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(ended.read(&mut buf).await.unwrap(), 0, "an end that was seen stays one");
    assert!(matches!(relay.handle.closed().await, Ended::Lost(_)));
}

/// 3. After the peer's FIN window updates are not read any more: a writer waits for ever.
#[tokio::test]
async fn a_writer_whose_peer_has_ended_gets_an_error_and_does_not_hang() {
    let (relay, mut agent) = pair(16 * 1024).await;
    let mut upload = relay.handle.open().await.unwrap();
    let mut early = agent.incoming.next().await.unwrap();
    early.write_all(b"413").await.unwrap();
    early.shutdown().await.unwrap();
    let mut answer = Vec::new();
    upload.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"413");
    let written = timeout(SOON, upload.write_all(&vec![0; 2 << 20])).await.expect("the writer hangs");
    assert!(written.is_err());
}

/// 4. A stream that is only written and never polled for reading sticks at the window.
#[tokio::test]
async fn a_stream_that_is_only_written_does_not_stick() {
    let (relay, mut agent) = pair(16 * 1024).await;
    let mut writer = relay.handle.open().await.unwrap();
    let mut reader = agent.incoming.next().await.unwrap();
    let sent = pattern(4, 4 << 20);
    let expected = sent.clone();
    let reading = tokio::spawn(async move {
        let mut got = vec![0; 4 << 20];
        reader.read_exact(&mut got).await.unwrap();
        got
    });
    timeout(SOON, writer.write_all(&sent)).await.expect("stuck at the window").unwrap();
    assert!(timeout(SOON, reading).await.unwrap().unwrap() == expected);
}

/// 5. A close throws away what was queued.
#[tokio::test]
async fn a_close_sends_what_was_written_before() {
    let (relay, mut agent) = pair(1024).await;
    let mut stream = relay.handle.open().await.unwrap();
    let sent = pattern(5, 100_000);
    stream.write_all(&sent).await.unwrap();
    relay.handle.close(1001, "going away");
    let mut reader = agent.incoming.next().await.unwrap();
    let mut got = vec![0; sent.len()];
    timeout(SOON, reader.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == sent);
    assert_eq!(
        timeout(SOON, agent.handle.closed()).await.unwrap(),
        Ended::Closed { code: 1001, reason: "going away".into() }
    );
}

/// 6. Shutdown and then drop sends no RST, so that the peer's writer hangs for ever.
#[tokio::test]
async fn a_stream_that_was_shut_down_and_dropped_frees_its_peer() {
    let (relay, mut agent) = pair(16 * 1024).await;
    let mut abandoned = relay.handle.open().await.unwrap();
    let mut endless = agent.incoming.next().await.unwrap();
    let writing = tokio::spawn(async move {
        let chunk = vec![0; 64 * 1024];
        loop {
            if let Err(error) = endless.write_all(&chunk).await {
                return error;
            }
        }
    });
    abandoned.read_u8().await.unwrap();
    abandoned.shutdown().await.unwrap();
    drop(abandoned);
    timeout(SOON, writing).await.expect("the writer hangs").unwrap();
    timeout(SOON, async {
        while relay.handle.streams() + agent.handle.streams() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a stream was not given back");
}

/// 7. Nothing but the window holds a writer back: a hundred streams fill a hundred windows.
#[tokio::test]
async fn a_hundred_writers_towards_a_stalled_peer_are_held_back() {
    let (io, _stalled) = tokio::io::duplex(16 * 1024);
    let relay = end(io, options(Role::Relay)).await;
    let mut written = 0;
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(relay.handle.open().await.unwrap());
    }
    let chunk = vec![0; 64 * 1024];
    for _ in 0..64 {
        tokio::task::yield_now().await;
        for stream in &mut streams {
            if let Ok(count) = timeout(Duration::ZERO, stream.write(&chunk)).await {
                written += count.unwrap();
            }
        }
    }
    assert!(written >= 128 * 1024, "only {written} bytes were taken");
    assert!(written <= 2 << 20, "{written} bytes were taken for a peer that reads nothing");
}

/// 8. A dead peer is noticed after up to 90 s, with writes pending.
#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_noticed_within_30_s() {
    let (io, _frozen) = tokio::io::duplex(1024);
    let relay = end(io, options(Role::Relay)).await;
    let mut stream = relay.handle.open().await.unwrap();
    let start = Instant::now();
    let writing = tokio::spawn(async move { stream.write_all(&vec![0; 8 << 20]).await });
    assert_eq!(relay.handle.closed().await, Ended::Silent);
    assert!(start.elapsed() <= Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(writing.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// 9. One write becomes one frame, up to the whole window: a small request waits behind all of it.
#[tokio::test]
async fn a_large_write_becomes_slices() {
    let (io, other) = tokio::io::duplex(1 << 20);
    let relay = end(io, options(Role::Relay)).await;
    let mut peer = websocket(other, Role::Agent).await;
    let mut stream = relay.handle.open().await.unwrap();
    tokio::spawn(async move {
        let _ = stream.write_all(&vec![0; 200 * 1024]).await;
        std::future::pending::<()>().await;
    });
    let (mut bytes, mut data) = (Vec::new(), 0);
    while data < 200 * 1024 {
        if let Message::Binary(batch) = timeout(SOON, peer.next()).await.unwrap().unwrap().unwrap() {
            bytes.extend_from_slice(&batch);
        }
        while bytes.len() >= 12 {
            // The header: version, type, flags, stream id, length. Only data (type 0) has a body.
            let length = u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
            let body = if bytes[1] == 0 { length } else { 0 };
            if bytes.len() < 12 + body {
                break;
            }
            assert!(body <= 32 * 1024, "a frame of {body} bytes");
            data += body;
            bytes.drain(..12 + body);
        }
    }
}

/// 10. Stream ids end: the tunnel has to be renewed long before.
#[tokio::test]
async fn a_tunnel_says_when_it_has_opened_enough() {
    let mut few = options(Role::Relay);
    few.max_opens = 3;
    let (relay, _agent) = pair_with(4096, few, options(Role::Agent)).await;
    for opened in 1..=4 {
        let stream = relay.handle.open().await.unwrap();
        assert_eq!(relay.handle.wants_renewal(), opened >= 3);
        drop(stream);
    }
}
