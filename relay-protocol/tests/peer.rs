//! The same driver between a browser and an agent, over messages that have no pings of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use relay_protocol::tunnel::{self, Ended, Options, Role};
use std::time::Duration;
use support::{End, messages, pattern, round_trip, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::codec::{Decoder, Encoder};
use tokio_yamux::frame::{Flag, Flags, Frame, FrameCodec, Type};

const SOON: Duration = Duration::from_secs(10);

fn echo(agent: End) -> tunnel::Handle {
    let End { handle, mut incoming, .. } = agent;
    tokio::spawn(async move {
        while let Some(stream) = incoming.next().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    handle
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn bytes_arrive_as_they_left(seed in any::<u64>(), sizes in prop::collection::vec(0usize..400_000, 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (browser, agent) = messages::pair();
            echo(agent);
            let trips: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(i, size)| tokio::spawn(round_trip(browser.handle.clone(), pattern(seed ^ i as u64, *size))))
                .collect();
            for trip in trips {
                timeout(Duration::from_secs(60), trip).await.expect("stuck").unwrap();
            }
        });
    }
}

#[tokio::test]
async fn a_hundred_streams_at_once_and_an_unread_one_beside_them() {
    let (browser, agent) = messages::pair();
    let mut stuck = browser.handle.open().await.unwrap();
    let End { handle, mut incoming, task } = agent;
    let unread = incoming.next().await.unwrap();
    let filling = tokio::spawn(async move { stuck.write_all(&vec![1; 4 << 20]).await });
    echo(End { handle, incoming, task });
    let trips: Vec<_> =
        (0..100).map(|i| tokio::spawn(round_trip(browser.handle.clone(), pattern(i, 60_000)))).collect();
    for trip in trips {
        timeout(SOON, trip).await.expect("stuck").unwrap();
    }
    assert!(!filling.is_finished(), "more than a window was taken");
    drop(unread);
    assert!(filling.await.unwrap().is_err(), "dropping resets");
}

#[tokio::test]
async fn one_stream_too_many_is_reset() {
    let agent_options = Options { max_streams: 2, ..Options::data_channel(Role::Peer) };
    let (browser, mut agent) = messages::pair_with(Options::data_channel(Role::Browser), agent_options);
    let first = browser.handle.open().await.unwrap();
    let second = browser.handle.open().await.unwrap();
    let mut third = browser.handle.open().await.unwrap();
    first.established().await.unwrap();
    second.established().await.unwrap();
    assert!(timeout(SOON, third.read_u8()).await.unwrap().is_err(), "the third was taken");
    // Once one is gone from both ends, the next is taken.
    let taken = agent.incoming.next().await.unwrap();
    drop(first);
    timeout(SOON, taken.aborted()).await.expect("the reset did not arrive");
    drop(taken);
    browser.handle.open().await.unwrap().established().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_pair_lives_by_its_pings() {
    let (browser, agent) = messages::pair();
    echo(agent);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(browser.handle.ended(), None);
    round_trip(browser.handle, vec![1, 2, 3]).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_browser_is_dead_within_thirty_seconds() {
    let (line, _other) = messages::line();
    let agent = run(tunnel::start(line, Options::data_channel(Role::Peer)));
    let ended = timeout(Duration::from_secs(31), agent.task).await.expect("it waits for ever").unwrap();
    assert_eq!(ended, Ended::Silent);
}

fn encode(frame: Frame) -> Bytes {
    let mut bytes = BytesMut::new();
    FrameCodec::default().encode(frame, &mut bytes).unwrap();
    bytes.freeze()
}

#[tokio::test]
async fn pings_of_the_browser_are_answered() {
    let (line, mut browser) = messages::line();
    let _agent = run(tunnel::start(line, Options::data_channel(Role::Peer)));
    for number in [0, 7, u32::MAX] {
        browser
            .sender
            .get_ref()
            .unwrap()
            .send(encode(Frame::new_ping(Flag::Syn.into(), number)))
            .await
            .unwrap();
        let answer = timeout(SOON, browser.receiver.recv()).await.expect("no answer").unwrap();
        let frame = FrameCodec::default().decode(&mut BytesMut::from(answer)).unwrap().unwrap();
        assert_eq!((frame.ty(), frame.flags(), frame.length()), (Type::Ping, Flags::from(Flag::Ack), number));
    }
}

#[tokio::test]
async fn garbage_and_a_go_away_end_it() {
    for bytes in [
        Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n"),
        Bytes::from_static(&[0xff; 5000]),
        encode(Frame::new_go_away(tokio_yamux::frame::GoAwayCode::Normal)),
        // Data beyond the window.
        encode(Frame::new_data(Flag::Syn.into(), 1, BytesMut::from(&vec![0; 600 * 1024][..]))),
    ] {
        let (line, browser) = messages::line();
        let agent = run(tunnel::start(line, Options::data_channel(Role::Peer)));
        let what = bytes.len();
        for piece in bytes.chunks(65_536) {
            let sender = browser.sender.get_ref().unwrap().clone();
            // It may have ended before the last piece.
            let _ = sender.send(Bytes::copy_from_slice(piece)).await;
        }
        let ended = timeout(SOON, agent.task).await.unwrap_or_else(|_| panic!("{what} bytes were borne"));
        assert!(matches!(ended.unwrap(), Ended::Protocol(_)), "{what} bytes");
    }
}
