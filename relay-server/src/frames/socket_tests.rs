//! Sockets over a pipe in memory, on paused time.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::backplane::{Backplane, Pair};
use crate::config::Config;
use crate::config::sources::Sources;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

type Peer = WebSocketStream<DuplexStream>;

/// What a test may change.
struct Setup {
    role: Role,
    pipe: usize,
    change: fn(&mut Frames),
}

impl Default for Setup {
    fn default() -> Self {
        Self { role: Role::Client, pipe: 64 * 1024, change: |_| {} }
    }
}

struct Open {
    peer: Peer,
    task: JoinHandle<Reason>,
    shutdown: Shutdown,
}

async fn open(setup: Setup) -> Open {
    let config = Config::load(&Sources { flag: &|_| None, env: &|_| None }).unwrap();
    let mut frames = config.frames.clone();
    (setup.change)(&mut frames);
    let (ours, theirs) = tokio::io::duplex(setup.pipe);
    let broker = Broker::new(&frames, &config.relays, Backplane::single().0);
    let who = Admitted {
        pair: Pair { workspace: "w".into(), target: Some("t".into()) },
        role: setup.role,
        scope: (setup.role == Role::Client).then_some(super::super::Scope::Runtime),
        profile: None,
        client_id: None,
        user_id: None,
        machine: None,
        channels: vec![],
        generation: 0,
        address: crate::http::client_addr::RateKey::of([203, 0, 113, 1].into()),
    };
    let shutdown = Shutdown::default();
    let task = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { run(ours, who, broker, &frames, &shutdown).await }
    });
    let peer = WebSocketStream::from_raw_socket(theirs, WsRole::Client, None).await;
    Open { peer, task, shutdown }
}

/// Reads to the end and gives the close.
async fn closed(peer: &mut Peer) -> Option<u16> {
    let mut code = None;
    while let Some(Ok(message)) = peer.next().await {
        if let Message::Close(frame) = message {
            code = frame.map(|frame| u16::from(frame.code));
        }
    }
    code
}

#[tokio::test(start_paused = true)]
async fn somebody_who_answers_no_ping_is_closed_and_told() {
    let Open { mut peer, task, .. } = open(Setup { role: Role::Daemon, ..Setup::default() }).await;
    // Reads nothing, and so answers nothing, until the relay has given up.
    sleep(Duration::from_secs(41)).await;
    assert_eq!(closed(&mut peer).await, Some(POLICY));
    assert_eq!(task.await.unwrap(), Reason::Silent);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_answers_pings_stays_and_a_client_that_says_nothing_does_not() {
    for (role, ends) in [(Role::Daemon, None), (Role::Client, Some(Reason::Idle))] {
        let Open { mut peer, task, .. } = open(Setup { role, ..Setup::default() }).await;
        let closed = timeout(Duration::from_secs(3600), closed(&mut peer)).await;
        assert_eq!(closed.ok(), ends.map(|_| Some(1000)), "{role:?}");
        match ends {
            Some(reason) => assert_eq!(task.await.unwrap(), reason),
            None => {
                drop(peer);
                assert_eq!(task.await.unwrap(), Reason::Lost);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_beyond_the_limit_is_told_before_it_has_come() {
    for announced in [1025_u64, 1 << 40] {
        let setup = Setup { change: |frames| frames.max_frame_bytes = 1024, ..Setup::default() };
        let Open { peer, task, .. } = open(setup).await;
        // A text frame's head with a length of eight bytes and a mask, and nothing behind it.
        let mut io = peer.into_inner();
        let mut head = vec![0x81, 0x80 | 127];
        head.extend(announced.to_be_bytes());
        head.extend([0; 4]);
        io.write_all(&head).await.unwrap();
        let mut peer = WebSocketStream::from_raw_socket(io, WsRole::Client, None).await;
        assert_eq!(closed(&mut peer).await, Some(TOO_LARGE), "{announced}");
        drop(peer);
        assert_eq!(task.await.unwrap(), Reason::TooLarge);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_in_pieces_is_bounded_as_a_whole() {
    let setup = Setup { change: |frames| frames.max_frame_bytes = 1024, ..Setup::default() };
    let Open { peer, task, .. } = open(setup).await;
    let mut io = peer.into_inner();
    // Pieces of 125 bytes, none of them the last.
    for n in 0..10 {
        let mut piece = vec![u8::from(n == 0), 0x80 | 125, 0, 0, 0, 0];
        piece.extend([b'x'; 125]);
        io.write_all(&piece).await.unwrap();
    }
    let mut peer = WebSocketStream::from_raw_socket(io, WsRole::Client, None).await;
    assert_eq!(closed(&mut peer).await, Some(TOO_LARGE));
    drop(peer);
    assert_eq!(task.await.unwrap(), Reason::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_websocket_ends_the_socket_alone() {
    for (bytes, code) in [
        (&[0x81, 0x02, b'h', b'i'][..], 1002),
        (&[0x83, 0x80, 0, 0, 0, 0], 1002),
        (&[0xf1, 0x80, 0, 0, 0, 0], 1002),
        (&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xff], 1007),
    ] {
        let Open { peer, task, .. } = open(Setup::default()).await;
        let mut io = peer.into_inner();
        io.write_all(bytes).await.unwrap();
        let mut peer = WebSocketStream::from_raw_socket(io, WsRole::Client, None).await;
        assert_eq!(closed(&mut peer).await, Some(code), "{bytes:x?}");
        drop(peer);
        assert_eq!(task.await.unwrap(), Reason::Malformed, "{bytes:x?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pings_and_pongs_that_nobody_asked_for_are_bounded() {
    let control = |n: u8| match n % 2 {
        0 => Message::Ping(Bytes::copy_from_slice(&[n])),
        _ => Message::Pong(Bytes::copy_from_slice(&[n])),
    };
    let Open { mut peer, task, .. } = open(Setup { role: Role::Daemon, ..Setup::default() }).await;
    // Ten a second are nobody's harm.
    for _ in 0..20 {
        for n in 0..10 {
            peer.send(control(n)).await.unwrap();
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert!(!task.is_finished());
    for n in 0..11 {
        peer.send(control(n)).await.unwrap();
    }
    assert_eq!(closed(&mut peer).await, Some(POLICY));
    drop(peer);
    assert_eq!(task.await.unwrap(), Reason::Policy);
}

/// One piece of a text with a mask of zeros.
fn piece(first: bool, last: bool, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut piece = vec![u8::from(last) << 7 | u8::from(first), 0x80 | length, 0, 0, 0, 0];
    piece.extend(payload);
    piece
}

#[tokio::test(start_paused = true)]
async fn pieces_that_hold_nothing_are_bounded() {
    let change = |frames: &mut Frames| frames.max_frame_bytes = 1024;
    // A message that never ends, and messages that end but hold nothing.
    for each in [usize::MAX, 1000] {
        let Open { peer, task, .. } = open(Setup { role: Role::Daemon, change, ..Setup::default() }).await;
        let mut io = peer.into_inner();
        // Less than the library would ever mind, and more than is explained.
        for n in 0..20_000 {
            let bytes = piece(n % each == 0, n % each == each - 1, b"");
            // It may have gone by now.
            if io.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let mut peer = WebSocketStream::from_raw_socket(io, WsRole::Client, None).await;
        assert_eq!(closed(&mut peer).await, Some(POLICY), "{each}");
        drop(peer);
        assert_eq!(task.await.unwrap(), Reason::Policy);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_in_small_pieces_are_nothing_bad() {
    let change = |frames: &mut Frames| frames.max_frame_bytes = 1024;
    let Open { peer, task, .. } = open(Setup { role: Role::Daemon, change, ..Setup::default() }).await;
    let mut io = peer.into_inner();
    // Megabytes in all, each message as large as may be, with an empty piece at its end.
    for _ in 0..2_000 {
        for n in 0..64 {
            io.write_all(&piece(n == 0, false, &[b'x'; 16])).await.unwrap();
        }
        io.write_all(&piece(false, true, b"")).await.unwrap();
    }
    assert!(!task.is_finished());
    drop(io);
    assert_eq!(task.await.unwrap(), Reason::Lost);
}

#[test]
fn what_messages_explain_is_no_excess() {
    let excess = |moved: &Moved| {
        let mut context = Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(moved.excess.notified()).poll(&mut context).is_ready()
    };
    let moved = Moved::new(1000);
    // The largest in small pieces, with a small one behind it that is read along.
    for _ in 0..1000 {
        moved.read_more(1500);
        moved.read_more(100);
        moved.read_message(1000);
        moved.read_message(60);
        assert!(!excess(&moved));
    }
    // What is never explained adds up.
    let mut messages = 0;
    while !excess(&moved) {
        moved.read_more(1600);
        moved.read_message(1000);
        messages += 1;
    }
    assert_eq!(messages, (moved.most - 1600) / (1600 - explained(1000)) + 2);
}

#[tokio::test(start_paused = true)]
async fn the_drain_says_going_away() {
    let Open { mut peer, task, shutdown } = open(Setup::default()).await;
    shutdown.drain();
    assert_eq!(closed(&mut peer).await, Some(GOING_AWAY));
    drop(peer);
    assert_eq!(task.await.unwrap(), Reason::Drain);
}

#[tokio::test(start_paused = true)]
async fn a_side_that_closes_gets_its_answer() {
    let Open { mut peer, task, .. } = open(Setup::default()).await;
    peer.close(None).await.unwrap();
    assert_eq!(closed(&mut peer).await, None);
    drop(peer);
    assert_eq!(task.await.unwrap(), Reason::Peer);
}

#[tokio::test(start_paused = true)]
async fn a_slow_sender_of_a_large_frame_is_alive() {
    let Open { peer, task, .. } = open(Setup { role: Role::Daemon, ..Setup::default() }).await;
    let mut io = peer.into_inner();
    // 60,000 bytes at ten a second: no pong can come in between, and still there is life.
    let mut head = vec![0x81, 0x80 | 126];
    head.extend(6000_u16.to_be_bytes());
    head.extend([0; 4]);
    io.write_all(&head).await.unwrap();
    for _ in 0..600 {
        sleep(Duration::from_secs(1)).await;
        io.write_all(&[b' '; 10]).await.unwrap();
    }
    assert!(!task.is_finished());
    drop(io);
    assert_eq!(task.await.unwrap(), Reason::Lost);
}

/// The state of a socket whose writing side is this test's.
fn state() -> State {
    let config = Config::load(&Sources { flag: &|_| None, env: &|_| None }).unwrap();
    State::new(Times::new(&config.frames), Arc::default())
}

#[tokio::test]
async fn a_probe_is_answered_by_its_own_pong_or_a_later_one() {
    let state = state();
    let ask = || {
        let (number, ping) = state.next_ping();
        let (answer, answered) = oneshot::channel();
        state.probes.lock().push((number, answer));
        let Message::Ping(payload) = ping else { panic!("{ping:?}") };
        (payload, answered)
    };
    let ((first, mut first_answer), (second, mut second_answer)) = (ask(), ask());
    for forged in [&b""[..], b"x", b"123456789", &99_u64.to_be_bytes(), &0_u64.to_be_bytes()] {
        assert!(!state.pong(forged), "{forged:?}");
        assert!(first_answer.try_recv().is_err(), "{forged:?}");
    }
    assert!(state.pong(&first));
    assert!(!state.pong(&first), "it was answered");
    assert_eq!(first_answer.try_recv(), Ok(true));
    assert!(second_answer.try_recv().is_err());
    let (third, mut third_answer) = ask();
    assert!(state.pong(&third));
    assert_eq!((second_answer.try_recv(), third_answer.try_recv()), (Ok(true), Ok(true)));
    assert!(!state.pong(&second));
    assert!(state.probes.lock().is_empty());
}

#[test]
fn a_small_text_does_not_keep_the_read_buffer() {
    let buffer = Bytes::from(vec![b'x'; READ_BUFFER * 4]);
    let small = Utf8Bytes::try_from(buffer.slice(0..10)).unwrap();
    let large = Utf8Bytes::try_from(buffer.slice(0..READ_BUFFER)).unwrap();
    let of = |text: &Utf8Bytes| text.as_str().as_ptr();
    assert_ne!(of(&alone(small.clone())), of(&small));
    assert_eq!(of(&alone(large.clone())), of(&large));
}
