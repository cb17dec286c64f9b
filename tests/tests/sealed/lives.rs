//! Sessions come and go under what is under way.

use super::*;
use relay_protocol::exchange::Prelude;
use system_tests::{process::run, sealed::Whole};

#[tokio::test(flavor = "multi_thread")]
async fn a_download_runs_on_while_the_next_session_takes_over() {
    let (pieces, router) = written();
    let server = LocalServer::router(router).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    let old = browser.sealed().await.expect("a session");
    let left = old.rekey_at.expect("a time") - browser.now();
    assert!((3500..=3600).contains(&left), "{left}");
    let whole = old.seal(&request("GET", "/written", ""));
    let mut download = old.open(&whole).await.expect("a head");
    let mut expect = async |text: &'static str| {
        pieces.send(Bytes::from_static(text.as_bytes())).await.expect("taken");
        assert_eq!(within("a piece", SOON, download.next()).await.expect("a record").payload, text);
    };
    expect("one").await;
    let new = browser.sealed().await.expect("the next session");
    assert_ne!(new.id, old.id);
    expect("two").await;
    assert_eq!(new.get("/hello").await.expect("an answer").text(), "hello");
    // Both serve, each under its own numbers.
    assert_eq!(old.get("/hello").await.expect("an answer").text(), "hello");
    expect("three").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_agent_says_so_by_its_signature() {
    let server = LocalServer::router(local::app()).await;
    let mut stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    let (sealed, signed) =
        (browser.sealed().await.expect("a session"), browser.exchanges().await.expect("a session"));
    sealed.get("/hello").await.expect("an answer");
    restart(&mut stack).await;
    for session in [&sealed, &signed] {
        let told = session.get("/hello").await.err();
        assert_eq!(told, Some(Failure::Agent(Code::SigningSessionExpired)));
        let told = session.websocket("/ws", None).await.err();
        assert_eq!(
            told,
            Some(Failure::Unsigned(StatusCode::UNAUTHORIZED, Some(Code::SigningSessionExpired)))
        );
    }
    let again = browser.sealed().await.expect("a new session");
    assert_eq!(again.get("/hello").await.expect("an answer").text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_ends_what_is_under_way() {
    let (events, router) = written();
    let server = LocalServer::router(router).await;
    let stack = Stack::paired(&server.url()).await;
    let (browser, other) = (stack.browser().await, stack.browser().await);
    let session = browser.sealed().await.expect("a session");
    let kept = other.sealed().await.expect("a session");
    let mut stream = session.open(&session.seal(&request("GET", "/written", ""))).await.expect("a head");
    events.send("one".into()).await.expect("taken");
    assert_eq!(within("an event", SOON, stream.next()).await.expect("a record").payload, "one");
    let mut socket = session.websocket("/ws", None).await.expect("a WebSocket");
    let id = browser.client_id.to_string();
    let revoked = run(stack.agent.command(&["browsers", "revoke", &id])).await;
    assert!(revoked.status.success(), "{revoked:?}");
    let ended = within("the end", SOON, stream.next()).await.expect_err("it is cut off");
    assert_eq!(ended, Failure::Agent(Code::SigningSessionEnded));
    within("the local server hears of it", SOON, events.closed()).await;
    let ended = within("the end", SOON, socket.next()).await.expect_err("it is cut off");
    assert!(matches!(ended, Failure::Truncated), "{ended:?}");
    let told = session.get("/hello").await.err();
    assert_eq!(told, Some(Failure::Agent(Code::SigningSessionExpired)));
    assert_eq!(browser.sealed().await.err(), Some(Failure::Agent(Code::NotPaired)));
    assert_eq!(kept.get("/hello").await.expect("an answer").text(), "hello", "the other one stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_wants_sealed_sessions_takes_nothing_less() {
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::with(&server.url(), RelayOptions::default(), |agent| {
        agent.paired().arg("--require").arg("sealed")
    })
    .await;
    let hello: Value = stack.get("/_relay/hello").await.json();
    assert_eq!(hello["require"], "sealed", "{hello}");
    for feature in ["exchange", "sealed"] {
        assert!(hello["features"].as_array().unwrap().contains(&feature.into()), "{hello}");
    }
    let browser = stack.browser().await;
    assert_eq!(browser.session().await.err(), Some(Failure::Agent(Code::SealedRequired)));
    let session = browser.sealed().await.expect("a sealed session");
    assert_eq!(session.get("/hello").await.expect("an answer").text(), "hello");
    // Signed requests, by whatever key, and whatever they ask for.
    for key_id in [session.id, browser.client_id] {
        let signed = browser.sign(key_id, Request::get("/hello").body(Bytes::new()).unwrap());
        assert_eq!(signed.send_buffered(&browser).await.err(), Some(Failure::Agent(Code::SealedRequired)));
    }
    stack.get("/hello").await.is_problem(Code::SignatureMissing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_session_takes_nothing_but_exchanges() {
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    let session = browser.sealed().await.expect("a session");
    let signed = browser.sign(session.id, Request::get("/hello").body(Bytes::new()).unwrap());
    let told = signed.send_buffered(&browser).await.err();
    assert!(matches!(told, Some(Failure::Agent(_))), "{told:?}");
    // Records that are signed where they have to be sealed, and the other way round.
    let sealed = browser.sealed().await.expect("a session");
    let signed = browser.exchanges().await.expect("a session");
    let as_signed = Session::new(&browser, sealed.id, None, None);
    let as_sealed = Session::new(&browser, signed.id, sealed.keys.clone(), None);
    for (what, session) in [("signed", as_signed), ("sealed", as_sealed)] {
        let told = session.get("/hello").await.err();
        assert!(
            matches!(told, Some(Failure::Agent(Code::SignatureInvalid | Code::BadRequest))),
            "{what}: {told:?}"
        );
    }
    // Sessions take both kinds where they are signed.
    assert_eq!(signed.get("/hello").await.expect("an answer").text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_number_is_good_once_in_any_order() {
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    for (form, session) in every_form(&browser).await {
        let at = |number: u64| {
            let mut exchange = session.exchange_at(Prelude { session_id: session.id, number });
            let mut bytes = exchange.begin(&request("GET", "/hello", "")).to_vec();
            bytes.extend_from_slice(&exchange.record(Kind::End, ""));
            Whole { prelude: exchange.prelude, bytes: bytes.into() }
        };
        for number in [7, 3, 70_000, 69_999, 4464] {
            assert_eq!(session.send(&at(number)).await.expect(form).text(), "hello", "{form} {number}");
        }
        for number in [3, 7, 70_000, 69_999, 4463, 0] {
            let told = session.send(&at(number)).await.err();
            assert_eq!(told, Some(Failure::Agent(Code::Replayed)), "{form} {number}");
        }
    }
}
