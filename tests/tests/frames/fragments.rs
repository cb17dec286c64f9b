//! Pieces of messages, which WebSocket allows without end.

use serde_json::json;
use system_tests::broker::frames::e2ee;
use system_tests::raw::RawConn;
use system_tests::{SOON, within};

use super::{TARGET, WORKSPACE, World, claims};

/// A socket of somebody with a good token, for bytes by hand.
async fn open(world: &World, role: &str) -> RawConn {
    let token = world.platform.grant(claims(role, Some(TARGET), json!({})));
    let request = format!(
        "GET /ws?role={role}&workspaceId={WORKSPACE}&runtimeTargetId={TARGET} HTTP/1.1\r\nhost: relay.test\r\n\
         connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    let mut conn = RawConn::connect(world.addr()).await;
    conn.write(request).await.expect("the relay reads");
    let head = within("an answer", SOON, conn.head()).await.expect("an answer");
    assert_eq!(head.status(), 101, "{}", head.text());
    conn
}

/// A piece of a message, with a mask of zeros.
fn piece(opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short one");
    assert!(length < 126);
    let mut piece = vec![u8::from(last) << 7 | opcode, 0x80 | length, 0, 0, 0, 0];
    piece.extend(payload);
    piece
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_empty_pieces_without_end_is_ended() {
    let world = World::start().await;
    let (mut daemon, mut client) = world.pair().await;
    let mut fool = open(&world, "client").await;
    fool.write(piece(1, false, b"{")).await.expect("the relay reads");
    // More than a frame of 1 MiB can need; the relay throws away what comes after its close.
    let many = piece(0, false, b"").repeat(1000);
    for _ in 0..700 {
        within("the relay reads or throws away", SOON, fool.write(&many)).await.expect("it does");
    }
    // Without a bound it would read on for ever.
    let rest = within("the relay has had enough", SOON, fool.rest()).await;
    let said = String::from_utf8_lossy(&rest);
    assert!(said.contains("too many empty fragments"), "{said:?}");
    // It is its sender's alone.
    client.send(&e2ee("met", 5)).await;
    daemon.expect(&e2ee("met", 5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_in_small_pieces_arrives_whole() {
    let world = World::start().await;
    let mut daemon = world.daemon().await;
    let mut client = world.client().await;
    super::meet(&mut daemon, &mut client, "met").await;
    let mut slow = open(&world, "client").await;
    let mut frame = e2ee("pieces", 1);
    frame["ciphertext"] = json!("x".repeat(500_000));
    let text = frame.to_string();
    let mut bytes = Vec::new();
    for (n, part) in text.as_bytes().chunks(16).enumerate() {
        bytes.extend(piece(u8::from(n == 0), false, part));
    }
    bytes.extend(piece(0, true, b""));
    within("it is read", SOON, slow.write(bytes)).await.expect("the relay reads");
    daemon.expect(&frame).await;
}
