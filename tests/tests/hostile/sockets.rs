//! Signed WebSockets over a hostile relay.

use std::sync::{Arc, Mutex};

use relay_protocol::{problem::Code, record::Kind};
use system_tests::signed::Failure;
use tokio_tungstenite::tungstenite::Message;

use crate::{Scene, app, flip};

/// Alters the second and later messages: the first one is a HEAD, or must arrive so that the rest means something.
pub fn from_second(alter: fn(Message) -> Vec<Message>) -> impl Fn(Message) -> Vec<Message> + Send + Sync {
    let count = Mutex::new(0);
    move |message| {
        if !message.is_binary() {
            return vec![message];
        }
        let mut count = count.lock().expect("not poisoned");
        *count += 1;
        if *count == 2 { alter(message) } else { vec![message] }
    }
}

pub const ALTERATIONS: &[(&str, fn(Message) -> Vec<Message>)] = &[
    ("a bit", |message| vec![Message::Binary(flip(&message.into_data()))]),
    ("twice", |message| vec![message.clone(), message]),
    ("a text message", |_| vec![Message::text("hello")]),
    ("a message of its own", |message| vec![Message::binary(&b"\0\0\0\x05\x05hello"[..]), message]),
    ("cut", |message| {
        let data = message.into_data();
        vec![Message::Binary(data.slice(..data.len() - 1))]
    }),
    ("two in one", |message| {
        let data = message.into_data();
        vec![Message::binary([&data[..], &data[..]].concat())]
    }),
    ("empty", |_| vec![Message::binary(&b""[..])]),
];

#[tokio::test]
async fn what_is_altered_on_the_way_to_the_agent_ends_the_connection() {
    let local = app().await;
    let scene = Scene::start(&local.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    for (what, alter) in ALTERATIONS {
        scene.script.on_message_to_agent(from_second(*alter));
        let mut socket = session.websocket("/ws", None).await.expect(what);
        socket.send(Kind::Text, "first").await.expect(what);
        assert_eq!(socket.next().await.expect(what).payload, "first");
        socket.send(Kind::Text, "second").await.expect(what);
        let mut echoed = Vec::new();
        let ended = loop {
            match socket.next().await {
                Ok(record) if record.kind == Kind::Text => echoed.push(record.payload),
                Ok(record) => panic!("{what}: {record:?}"),
                Err(failure) => break failure,
            }
        };
        // Sent twice, the first copy is right.
        assert!(echoed.len() <= 1 && echoed.iter().all(|text| text == "second"), "{what}: {echoed:?}");
        assert!(matches!(ended, Failure::Nothing(_) | Failure::Truncated), "{what}: {ended:?}");
    }
}

#[tokio::test]
async fn what_is_altered_on_the_way_to_the_browser_is_not_believed() {
    let local = app().await;
    let scene = Scene::start(&local.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    for (what, alter) in ALTERATIONS {
        scene.script.on_message_to_browser(from_second(*alter));
        let mut socket = session.websocket("/ws", None).await.expect(what);
        socket.send(Kind::Text, "first").await.expect(what);
        let mut told = socket.next().await;
        if *what == "twice" {
            assert_eq!(told.expect("the first copy is right").payload, "first");
            told = socket.next().await;
        }
        assert!(matches!(told, Err(Failure::Tampered(_))), "{what}: {told:?}");
    }
    // Left out: the next one shows it.
    scene.script.on_message_to_browser(from_second(|_| vec![]));
    let mut socket = session.websocket("/ws", None).await.expect("a socket");
    socket.send(Kind::Text, "first").await.expect("sent");
    socket.send(Kind::Text, "second").await.expect("sent");
    let told = socket.next().await;
    assert!(matches!(told, Err(Failure::Tampered(_))), "{told:?}");
}

#[tokio::test]
async fn an_upgrade_is_good_once_and_as_it_was_signed() {
    let local = app().await;
    let scene = Scene::start(&local.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    let (path, made) = session.sign_upgrade("/ws?room=1", Some("a, b"));
    for (what, altered, protocols, code) in [
        ("query", path.replace("room=1", "room=2"), Some("a, b"), Code::SignatureInvalid),
        ("path", path.replace("/ws?", "/ws/?"), Some("a, b"), Code::SignatureInvalid),
        ("protocols", path.clone(), Some("b"), Code::SignatureInvalid),
        ("no protocols", path.clone(), None, Code::SignatureInvalid),
        ("more query behind it", format!("{path}&x=1"), Some("a, b"), Code::BadRequest),
        (
            "no signature",
            path.split("&relay-").next().expect("a part").to_owned(),
            Some("a, b"),
            Code::SignatureMissing,
        ),
    ] {
        let told = session.websocket_at(&altered, &made, protocols).await.err();
        assert!(matches!(told, Some(Failure::Unsigned(_, Some(heard))) if heard == code), "{what}: {told:?}");
    }
    // The echo chooses no sub-protocol, so the upgrade that succeeds offers none.
    let (path, made) = session.sign_upgrade("/ws?room=1", None);
    let told = session.websocket_at(&path, &made, Some("a")).await.err();
    assert!(matches!(told, Some(Failure::Unsigned(_, Some(Code::Uncovered)))), "{told:?}");
    session.websocket_at(&path, &made, None).await.expect("as it was signed").close().await.expect("closed");
    let told = session.websocket_at(&path, &made, None).await.err();
    assert!(matches!(told, Some(Failure::Unsigned(_, Some(Code::Replayed)))), "{told:?}");
}

#[tokio::test]
async fn records_of_one_connection_are_nothing_on_another() {
    let local = app().await;
    let scene = Scene::start(&local.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    let kept: Arc<Mutex<Vec<Message>>> = Arc::default();
    let keep = Arc::clone(&kept);
    scene.script.on_message_to_agent(move |message| {
        keep.lock().expect("not poisoned").push(message.clone());
        vec![message]
    });
    let mut first = session.websocket("/ws", None).await.expect("a socket");
    first.send(Kind::Text, "for the first").await.expect("sent");
    assert_eq!(first.next().await.expect("echoed").payload, "for the first");
    let record = kept.lock().expect("not poisoned").first().cloned().expect("it passed");
    scene.script.on_message_to_agent(move |_| vec![record.clone()]);
    let mut second = session.websocket("/ws", None).await.expect("a socket");
    second.send(Kind::Text, "for the second").await.expect("sent");
    let told = second.next().await;
    assert!(matches!(told, Err(Failure::Nothing(_) | Failure::Truncated)), "{told:?}");
}
