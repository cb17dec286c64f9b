//! Exchanges that begin and do not go on.

use crate::{
    checks::mirror,
    common::{app, head, soon},
    exchanges::{both, get},
    setup::Setup,
};
use relay_protocol::exchange::PRELUDE_LEN;
use std::net::SocketAddr;
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// More than may wait at once, and fewer than a tunnel has streams.
const MANY: usize = 200;

/// Begins an exchange of which only these bytes come.
async fn half_open(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let head = "POST /_relay/exchange HTTP/1.1\r\nhost: relay.example\r\n\
        content-type: application/vnd.relay.records\r\ncontent-length: 3000\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    socket
}

/// The status of the answer.
async fn status(socket: &mut TcpStream) -> String {
    let head = soon(head(socket)).await;
    head.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn strangers_that_begin_many_keep_nobody_from_being_served() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let sessions = both(&browser).await;
    let mut waiting = Vec::new();
    for _ in 0..MANY {
        waiting.push(half_open(setup.addr, b"abcde").await);
    }
    for session in &sessions {
        assert_eq!(soon(session.get("/")).await.unwrap().status, 200);
    }
    let mut statuses = Vec::new();
    for socket in &mut waiting {
        statuses.push(status(socket).await);
    }
    let count = |wanted: &str| statuses.iter().filter(|status| *status == wanted).count();
    let (late, crowded) = (count("408"), count("503"));
    assert!(late > 0 && crowded > 0 && late + crowded == MANY, "{statuses:?}");
    assert_eq!(setup.refused("too_many_streams") as usize, crowded);
    assert_eq!(setup.begun(), 2);
    for session in &sessions {
        assert_eq!(soon(session.get("/")).await.unwrap().status, 200);
    }
    drop(waiting);
    setup.until_idle().await;
}

#[tokio::test]
async fn one_that_waits_ends_with_its_session() {
    let setup = Setup::new(app(mirror()).await).await;
    for form in 0..2 {
        let browser = setup.browser().await;
        let session = &both(&browser).await[form];
        let whole = session.seal(&get("/"));
        let mut socket = half_open(setup.addr, &whole.bytes[..PRELUDE_LEN + 10]).await;
        soon(async {
            while setup.gate.forwarder().stats().counts().active == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        setup.pairing.browsers().revoke(browser.client_id).unwrap();
        assert_eq!(status(&mut socket).await, "401");
        drop(socket);
        setup.until_idle().await;
    }
}
