//! What a paired browser may not do either, and what strangers send to the sockets.

use crate::browser::{Agent, Browser, SOON, echo, reliable};
use bytes::BytesMut;
use local_agent_client::peer::{Answer, PeerError, sdp::SdpError};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use std::{net::SocketAddr, time::Duration};
use tokio::{net::UdpSocket, time::timeout};
use webrtc::data_channel::{DataChannelEvent, RTCDataChannelInit};

#[tokio::test]
async fn another_channel_than_the_one_ends_the_peer() {
    for (what, label, init) in [
        ("label", "other", reliable()),
        ("protocol", "relay", RTCDataChannelInit { protocol: "relay.peer.v2".to_owned(), ..reliable() }),
        ("no protocol", "relay", RTCDataChannelInit { protocol: String::new(), ..reliable() }),
        ("unordered", "relay", RTCDataChannelInit { ordered: false, ..reliable() }),
    ] {
        let agent = Agent::new(echo());
        let mut browser = Browser::with(label, init).await;
        let answer = agent.ask(browser.offer().await, None).await.unwrap();
        browser.accept(&answer).await;
        browser.open().await;
        let closed = async {
            while let Some(event) = browser.channel.poll().await {
                if matches!(event, DataChannelEvent::OnClose) {
                    break;
                }
            }
        };
        timeout(SOON, closed).await.unwrap_or_else(|_| panic!("{what}: it stays open"));
        // At once, and not when the time for a channel is up.
        timeout(SOON, agent.left(0)).await.unwrap_or_else(|_| panic!("{what}"));
    }
}

#[tokio::test]
async fn a_second_channel_is_closed_and_the_first_goes_on() {
    let agent = Agent::new(echo());
    let peer = agent.connect().await;
    let second = peer.browser.connection.create_data_channel("relay", Some(reliable())).await.unwrap();
    let closed = async {
        while let Some(event) = second.poll().await {
            if matches!(event, DataChannelEvent::OnClose) {
                break;
            }
        }
    };
    timeout(SOON, closed).await.expect("the second stays open");
    peer.round_trip(vec![1; 5000]).await;
}

#[tokio::test]
async fn garbage_on_the_channel_ends_the_peer() {
    let mut random = StdRng::seed_from_u64(3);
    let mut noise = vec![0; 4000];
    random.fill_bytes(&mut noise);
    noise[0] = 0xff;
    let syn = [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
    for (what, message) in [
        ("a stream that is open already", [syn, syn].concat()),
        ("a window without bounds", [syn, [0, 1, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]].concat()),
        ("noise", noise),
        ("text", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a frame larger than the window", vec![0, 0, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff]),
    ] {
        let agent = Agent::new(echo());
        let mut browser = Browser::new().await;
        let answer = agent.ask(browser.offer().await, None).await.unwrap();
        browser.accept(&answer).await;
        browser.open().await;
        browser.channel.send(BytesMut::from(&message[..])).await.unwrap();
        let left = timeout(SOON, agent.left(0)).await;
        assert!(left.is_ok(), "{what}");
    }
    let agent = Agent::new(echo());
    let mut browser = Browser::new().await;
    let answer = agent.ask(browser.offer().await, None).await.unwrap();
    browser.accept(&answer).await;
    browser.open().await;
    browser.channel.send_text("hello").await.unwrap();
    agent.left(0).await;
}

/// A message over the bound must not leave a hole in the stream of bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_bound_ends_the_peer() {
    for (size, lives) in [(65_536, true), (65_537, false), (200_000, false), (262_144, false)] {
        let agent = Agent::new(echo());
        let mut browser = Browser::new().await;
        let answer = agent.ask(browser.offer().await, None).await.unwrap();
        assert!(answer.sdp.contains("a=max-message-size:65536\r\n"), "{}", answer.sdp);
        // This engine would keep to it.
        let sdp = answer.sdp.replace("max-message-size:65536", "max-message-size:0");
        browser.accept(&Answer { sdp, ..answer }).await;
        browser.open().await;
        // A ping, and others that have to be answered.
        let ping = [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        let mut message = ping.repeat(size / 12);
        message.resize(size, 0);
        browser.channel.send(BytesMut::from(&message[..])).await.unwrap();
        if lives {
            let answered = async {
                while !matches!(browser.channel.poll().await, Some(DataChannelEvent::OnMessage(_))) {}
            };
            timeout(SOON, answered).await.expect("no answer to a ping");
            assert_eq!(agent.peers.status().0.open, 1);
        } else {
            timeout(SOON, agent.left(0)).await.unwrap_or_else(|_| panic!("{size}"));
        }
    }
}

#[tokio::test]
async fn offers_that_are_none_are_refused_and_leave_nothing_behind() {
    let agent = Agent::new(echo());
    let offer = Browser::new().await.offer().await;
    for (sdp, expected) in [
        (String::new(), PeerError::Sdp(SdpError::Malformed)),
        ("v=0\r\n".to_owned(), PeerError::Sdp(SdpError::Media)),
        (format!("{offer}{}", "a=x\r\n".repeat(10_000)), PeerError::Sdp(SdpError::TooLong)),
        (format!("{offer}m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"), PeerError::Sdp(SdpError::Media)),
    ] {
        assert_eq!(agent.ask(sdp, None).await.err(), Some(expected));
    }
    // What looks like an offer and was bent somewhere: an answer or a refusal, and never a crash.
    let mut random = StdRng::seed_from_u64(11);
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..150 {
        let mut bent = offer.clone().into_bytes();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bent.len());
            match random.random_range(0..3) {
                0 => bent[at] = random.random_range(0x20..0x7f),
                1 => drop(bent.remove(at)),
                _ => bent.insert(at, random.random_range(0x20..0x7f)),
            }
        }
        match agent.ask(String::from_utf8(bent).unwrap(), None).await {
            Ok(answer) => {
                answered += 1;
                let _ = agent.peers.close(agent.caller.owner.browser, answer.peer_id);
            }
            Err(PeerError::Refused | PeerError::Sdp(_)) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(answered > 0 && refused > 0, "{answered} {refused}");
    agent.left(0).await;
}

/// Anybody may send datagrams to the sockets of a peer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_strangers_change_nothing() {
    let agent = Agent::new(echo());
    let peer = agent.connect().await;
    let sockets: Vec<SocketAddr> = peer
        .answer
        .sdp
        .lines()
        .filter(|line| line.starts_with("a=candidate:"))
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            format!("{}:{}", words[4], words[5]).parse().unwrap()
        })
        .collect();
    assert!(!sockets.is_empty());
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut random = StdRng::seed_from_u64(5);
    for n in 0..3000 {
        let mut datagram = vec![0; random.random_range(0..1400)];
        random.fill_bytes(&mut datagram);
        // STUN, DTLS in all its record types, SRTP, and anything.
        let kind = [0u8, 1, 20, 21, 22, 23, 25, 64, 128, 200, 255][random.random_range(0..11)];
        if let Some(first) = datagram.first_mut() {
            *first = kind;
        }
        if datagram.len() > 20 && kind < 2 {
            let length = u16::try_from(datagram.len() - 20).unwrap() & !3;
            datagram[2..4].copy_from_slice(&length.to_be_bytes());
            datagram[4..8].copy_from_slice(&0x2112_a442u32.to_be_bytes());
        }
        if datagram.len() > 13 && (20..26).contains(&kind) {
            datagram[1..3].copy_from_slice(&[0xfe, 0xfd]);
            let length = u16::try_from(datagram.len() - 13).unwrap();
            datagram[11..13].copy_from_slice(&length.to_be_bytes());
        }
        stranger.send_to(&datagram, sockets[n % sockets.len()]).await.unwrap();
        if n % 500 == 0 {
            peer.round_trip(vec![7; 20_000]).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    peer.round_trip(vec![7; 20_000]).await;
    assert_eq!(agent.peers.status().0.open, 1);
}
