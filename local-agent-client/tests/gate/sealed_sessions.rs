//! The life of sealed sessions: how they begin, what they take, how their keys change, when they end.

use crate::{
    answers::channel_body,
    checks::mirror,
    client::{self, empty},
    common::{app, soon},
    exchanges::{both, get},
    setup::{HOST, Setup},
    signed::Failure,
};
use bytes::Bytes;
use http::Request;
use local_agent_client::{Require, gate::Options};
use relay_protocol::{
    problem::Code,
    record::{Kind, NEXT_EPOCH},
    sealed::{NoiseMessage, Profile, REKEY_AFTER},
};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use uuid::Uuid;

#[tokio::test]
async fn a_handshake_makes_one_and_nothing_else_does() {
    let setup = Setup::new(app(mirror()).await).await;
    let (browser, other) = (setup.browser().await, setup.browser().await);
    for profile in Profile::ALL {
        let session = soon(browser.sealed_by(profile)).await.unwrap();
        assert!(soon(session.get("/")).await.is_ok(), "{profile:?}");
        let now = local_agent_client::status::now();
        let rekey_at = session.rekey_at.unwrap();
        assert!((now + REKEY_AFTER - 60..=now + REKEY_AFTER).contains(&rekey_at), "{rekey_at}");
    }
    let good = browser.handshake(Profile::NoiseIkPsk2).message;
    let alter = |at: usize| {
        let mut message = good.message.clone();
        message[at] ^= 1;
        NoiseMessage { message, ..good.clone() }
    };
    for (what, noise) in [
        ("another browser's keys", other.handshake(Profile::NoiseIkPsk2).message),
        ("another profile", NoiseMessage { profile: Profile::NoiseIk, ..good.clone() }),
        ("short", NoiseMessage { message: good.message[..95].to_vec(), ..good.clone() }),
        ("long", NoiseMessage { message: [&good.message[..], &[0]].concat(), ..good.clone() }),
        ("empty", NoiseMessage { message: vec![], ..good.clone() }),
        ("ephemeral key", alter(0)),
        ("static key", alter(40)),
        ("tag", alter(95)),
    ] {
        let refused = soon(browser.ask_session(Some(&noise))).await.unwrap_err();
        assert_eq!(refused, Failure::Agent(Code::HandshakeFailed), "{what}");
    }
    let ask = async |noise: Value| {
        let body = json!({"v": 1, "host_id": HOST, "noise": noise}).to_string();
        let request = Request::post("/_relay/session").body(Bytes::from(body)).unwrap();
        soon(browser.sign(browser.client_id, request).send_buffered(&browser)).await.map(drop).unwrap_err()
    };
    for noise in [json!({"profile": "noise-xx", "message": ""}), json!({"profile": "noise-ik"}), json!("x")] {
        assert_eq!(ask(noise.clone()).await, Failure::Agent(Code::BadRequest), "{noise}");
    }
    assert_eq!(setup.gate.forwarder().stats().gate().counts().sealed_sessions, 2);
}

#[tokio::test]
async fn a_sealed_session_takes_no_signed_requests() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let [sealed, signed] = both(&browser).await;
    let request = || get("/");
    let refused = soon(browser.sign(sealed.id, request()).send_buffered(&browser)).await.unwrap_err();
    assert_eq!(refused, Failure::Agent(Code::SigningSessionExpired));
    assert!(soon(browser.sign(signed.id, request()).send_buffered(&browser)).await.is_ok());
}

#[tokio::test]
async fn new_exchanges_end_with_the_hour_and_what_is_under_way_goes_on_under_another_key() {
    let (events, router) = channel_body();
    let setup = Setup::new(app(router.fallback_service(mirror())).await).await;
    let browser = setup.browser().await;
    let mut session = soon(browser.sealed()).await.unwrap();
    session.clock = setup.clock.clone();
    let mut download = soon(session.open(&session.seal(&get("/")))).await.unwrap();
    let mut upload = soon(session.upload(Request::post("/up").body(()).unwrap())).await;
    upload.send(Kind::Data, "before ").await.unwrap();
    events.send("one".into()).await.unwrap();
    assert_eq!(soon(download.next()).await.unwrap().payload, "one");
    setup.ahead.store(REKEY_AFTER - 60, Ordering::SeqCst);
    assert!(soon(session.get("/x")).await.is_ok());
    setup.ahead.store(REKEY_AFTER, Ordering::SeqCst);
    let late = session.seal(&get("/x"));
    assert_eq!(soon(session.send(&late)).await.unwrap_err(), Failure::Agent(Code::SigningSessionExpired));
    // Both directions go on, and say by the bit that they do so under the next key.
    events.send("two".into()).await.unwrap();
    assert_eq!(soon(download.next()).await.unwrap().payload, "two");
    let record = upload.exchange.record(Kind::Data, "after");
    assert_eq!(record[4], Kind::Data as u8 | NEXT_EPOCH);
    upload.send_bytes(record).await.unwrap();
    upload.send(Kind::End, "").await.unwrap();
    let answer = soon(async { upload.answer().await.unwrap().collect().await }).await.unwrap();
    assert!(answer.text().ends_with("body: before after"), "{}", answer.text());
    drop(events);
    assert_eq!(soon(download.next()).await.unwrap().kind, Kind::End);
    browser.offset.store(REKEY_AFTER, Ordering::SeqCst);
    assert!(soon(soon(browser.sealed()).await.unwrap().get("/x")).await.is_ok(), "a new one takes over");
}

#[tokio::test]
async fn revoking_ends_a_download_in_its_middle() {
    for form in 0..2 {
        let (events, router) = channel_body();
        let setup = Setup::new(app(router).await).await;
        let browser = setup.browser().await;
        let session = &both(&browser).await[form];
        let mut stream = soon(session.open(&session.seal(&get("/")))).await.unwrap();
        events.send("one".into()).await.unwrap();
        assert_eq!(soon(stream.next()).await.unwrap().payload, "one", "the first byte is not held back");
        setup.pairing.browsers().revoke(browser.client_id).unwrap();
        assert_eq!(soon(stream.next()).await.unwrap_err(), Failure::Agent(Code::SigningSessionEnded));
        soon(events.closed()).await;
        setup.until_idle().await;
        let refused = soon(session.get("/")).await.unwrap_err();
        assert_eq!(refused, Failure::Agent(Code::SigningSessionExpired));
    }
}

#[tokio::test]
async fn an_agent_that_requires_sealing_takes_nothing_that_is_signed() {
    let options = Options { require: Require::Sealed, ..Options::default() };
    let setup = Setup::of(app(mirror()).await, options, None).await;
    let browser = setup.browser().await;
    let reply = soon(client::fetch(setup.addr, Request::get("/_relay/hello").body(empty()).unwrap())).await;
    assert_eq!(reply.json::<Value>()["require"], "sealed");
    let sealed_required = Failure::Agent(Code::SealedRequired);
    assert_eq!(soon(browser.session()).await.err().unwrap(), sealed_required);
    let session = soon(browser.sealed()).await.unwrap();
    for id in [session.id, Uuid::nil()] {
        for target in ["/", "/_relay/browsers"] {
            let refused = soon(browser.sign(id, get(target)).send_buffered(&browser)).await.unwrap_err();
            assert_eq!(refused, sealed_required, "{target}");
        }
    }
    let signed = crate::signed::Session { browser: &browser, id: session.id };
    let refused = soon(signed.websocket("/", None)).await.err().unwrap();
    assert_eq!(refused, Failure::Unsigned(Code::SealedRequired.status(), Some(Code::SealedRequired)));
    // What is not signed is refused as before.
    let plain = soon(client::fetch(setup.addr, client::get("/"))).await;
    plain.is_problem(Code::SignatureMissing);
    assert!(soon(session.get("/")).await.is_ok());
}
