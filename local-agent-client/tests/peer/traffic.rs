//! What goes over a peer arrives whole, and nobody delays another.

use crate::browser::{Agent, SOON, echo};
use local_agent_client::peer::StreamHandler;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

const BIG: usize = 64 << 20;
const PIECE: usize = 64 * 1024;

/// Bytes that repeat nowhere, and their digest.
fn pieces() -> impl Iterator<Item = Vec<u8>> {
    let mut random = StdRng::seed_from_u64(7);
    (0..BIG / PIECE).map(move |_| {
        let mut piece = vec![0; PIECE];
        random.fill_bytes(&mut piece);
        piece
    })
}

fn digest() -> Vec<u8> {
    let mut digest = Sha256::new();
    pieces().for_each(|piece| digest.update(piece));
    digest.finalize().to_vec()
}

/// Sends the bytes after a `d`; takes them after a `u`, and tells their digest.
fn store() -> StreamHandler {
    Arc::new(|mut stream, _| {
        Box::pin(async move {
            match stream.read_u8().await.unwrap() {
                b'd' => {
                    for piece in pieces() {
                        stream.write_all(&piece).await.unwrap();
                    }
                }
                _ => {
                    let (mut digest, mut left, mut piece) = (Sha256::new(), BIG, vec![0; PIECE]);
                    while left > 0 {
                        let count = stream.read(&mut piece).await.unwrap();
                        assert!(count > 0, "it ended early");
                        digest.update(&piece[..count]);
                        left -= count;
                    }
                    stream.write_all(&digest.finalize()).await.unwrap();
                }
            }
            stream.shutdown().await.unwrap();
        })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_in_both_directions_at_once() {
    let agent = Agent::new(store());
    let peer = agent.connect().await;
    let mut down = peer.handle.open().await.unwrap();
    down.write_all(b"d").await.unwrap();
    let mut up = peer.handle.open().await.unwrap();
    let download = tokio::spawn(async move {
        let (mut digest, mut piece) = (Sha256::new(), vec![0; PIECE]);
        loop {
            match down.read(&mut piece).await.unwrap() {
                0 => return digest.finalize().to_vec(),
                count => digest.update(&piece[..count]),
            }
        }
    });
    up.write_all(b"u").await.unwrap();
    for piece in pieces() {
        up.write_all(&piece).await.unwrap();
    }
    let mut told = vec![0; 32];
    up.read_exact(&mut told).await.unwrap();
    let expected = digest();
    assert_eq!(told, expected, "the upload");
    assert_eq!(download.await.unwrap(), expected, "the download");
    let (counts, peers) = agent.peers.status();
    assert!(counts.bytes_sent > BIG as u64 && counts.bytes_received > BIG as u64, "{counts:?}");
    assert!(peers[0].open && peers[0].bytes_sent == counts.bytes_sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_at_once_beside_one_that_nobody_reads() {
    let agent = Agent::new(echo());
    let peer = Arc::new(agent.connect().await);
    // The agent's echo of it fills the window here and is never read.
    let mut unread = peer.handle.open().await.unwrap();
    let stuck = tokio::spawn(async move {
        let written = timeout(std::time::Duration::from_secs(3), unread.write_all(&vec![1; 8 << 20])).await;
        (written.is_err(), unread)
    });
    let trips: Vec<_> = (0..100u8)
        .map(|n| {
            let peer = peer.clone();
            tokio::spawn(async move { peer.round_trip(vec![n; 60_000 + usize::from(n)]).await })
        })
        .collect();
    for trip in trips {
        timeout(SOON, trip).await.expect("a stream was delayed").unwrap();
    }
    assert!(stuck.await.unwrap().0, "more than the windows was taken");
}

#[tokio::test]
async fn the_two_hundred_and_fifty_seventh_stream_is_reset() {
    let agent = Agent::new(echo());
    let peer = agent.connect().await;
    let mut open = Vec::new();
    for _ in 0..256 {
        let stream = peer.handle.open().await.unwrap();
        timeout(SOON, stream.established()).await.unwrap().unwrap();
        open.push(stream);
    }
    let mut refused = peer.handle.open().await.unwrap();
    assert!(timeout(SOON, refused.read_u8()).await.unwrap().is_err(), "one more was taken");
    let mut first = open.remove(0);
    first.write_all(b"x").await.unwrap();
    assert_eq!(timeout(SOON, first.read_u8()).await.unwrap().unwrap(), b'x');
    drop(first);
    let agent_has_one_less = async {
        while agent.peers.status().1[0].streams != 255 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, agent_has_one_less).await.expect("the reset did not arrive");
    let next = peer.handle.open().await.unwrap();
    timeout(SOON, next.established()).await.unwrap().expect("there is room again");
}

/// The agent writes for ever and the browser takes nothing from its channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_stops_reading_stops_the_writer() {
    let written = Arc::new(AtomicU64::new(0));
    let count = written.clone();
    let agent = Agent::new(Arc::new(move |mut stream, _| {
        let count = count.clone();
        Box::pin(async move {
            let piece = vec![0; PIECE];
            while let Ok(more) = stream.write(&piece).await {
                count.fetch_add(more as u64, SeqCst);
            }
        })
    }));
    let mut browser = crate::browser::Browser::new().await;
    let answer = agent.ask(browser.offer().await, None).await.unwrap();
    browser.accept(&answer).await;
    browser.open().await;
    // A stream with all the window that there is, by hand.
    let mut frame = vec![0, 1, 0, 1, 0, 0, 0, 1];
    frame.extend((u32::MAX - (256 * 1024)).to_be_bytes());
    browser.channel.send(bytes::BytesMut::from(&frame[..])).await.unwrap();
    let mut last = 0;
    timeout(SOON, async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
            let now = written.load(SeqCst);
            if now > 0 && now == last {
                return;
            }
            last = now;
        }
    })
    .await
    .expect("it writes without end");
    // What the browser's own engine takes unasked is the most of it.
    assert!(last < 40 << 20, "{last} bytes were taken");
}
