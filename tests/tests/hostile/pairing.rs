//! Pairing over a hostile relay.

use std::sync::{Arc, Mutex};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use http::{Request, Response};
use relay_protocol::{keys::b64, problem::Code};
use serde_json::Value;
use sha2::{Digest, Sha256, Sha512};
use system_tests::{
    SOON, eventually,
    hostile::Verdict,
    local::Recorder,
    process::run,
    signed::{Browser, Failure},
};

use crate::{Bytes, Scene, flip};

/// A text in every form in which somebody might have let it out.
fn forms(code: &str) -> Vec<Vec<u8>> {
    let grouped = [format!("{} {}", &code[..3], &code[3..]), format!("{}-{}", &code[..3], &code[3..])];
    let number: u32 = code.parse().expect("digits");
    let mut forms: Vec<Vec<u8>> = vec![
        code.bytes().rev().collect(),
        // As UTF-16, as one digit a byte, and as a number of either order.
        code.bytes().flat_map(|b| [b, 0]).collect(),
        code.bytes().flat_map(|b| [0, b]).collect(),
        code.bytes().map(|b| b - b'0').collect(),
        number.to_be_bytes().to_vec(),
        number.to_le_bytes().to_vec(),
    ];
    for text in [code, &grouped[0], &grouped[1]] {
        let bytes = text.as_bytes();
        let digests = [Sha256::digest(bytes).to_vec(), Sha512::digest(bytes).to_vec()];
        for part in [bytes.to_vec(), digests[0].clone(), digests[1].clone()] {
            forms.push(system_tests::hex(&part).into_bytes());
            forms.push(system_tests::hex(&part).to_uppercase().into_bytes());
            forms.push(STANDARD.encode(&part).trim_end_matches('=').into());
            forms.push(URL_SAFE.encode(&part).trim_end_matches('=').into());
            forms.push(part);
        }
    }
    forms
}

/// Every decoding of a piece that somebody who looks for the code would try.
fn readings(piece: &[u8]) -> Vec<Vec<u8>> {
    let mut readings = vec![piece.to_vec()];
    let mut values: Vec<Value> = serde_json::from_slice(piece).into_iter().collect();
    while let Some(value) = values.pop() {
        match value {
            Value::String(text) => {
                if let Ok(bytes) = b64::decode(&text) {
                    readings.push(bytes.clone());
                    values.extend(serde_json::from_slice::<Value>(&bytes));
                }
                readings.push(text.into_bytes());
            }
            Value::Array(all) => values.extend(all),
            Value::Object(all) => values.extend(all.into_iter().map(|(_, value)| value)),
            _ => {}
        }
    }
    readings
}

#[tokio::test]
async fn the_code_never_crosses_the_relay_in_any_form() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let (mut pair, code) = scene.stack.agent.show_code().await;
    let browser = Browser::pair(scene.hostile.addr, &scene.stack.prefix(), scene.stack.host, &code).await;
    let browser = browser.expect("paired");
    assert!(pair.wait(SOON).await.success());
    assert!(pair.log().contains(&browser.fingerprint().to_string()), "{}", pair.log());
    browser.session().await.expect("a session").get("/hello").await.expect("an answer");

    let pieces: Vec<Vec<u8>> = scene.hostile.seen.pieces().iter().flat_map(|piece| readings(piece)).collect();
    assert!(pieces.iter().any(|piece| piece.windows(5).any(|part| part == b"hello")), "it sees what passes");
    for form in forms(&code) {
        // Three bytes and less occur by chance.
        assert!(form.len() > 3);
        let found = pieces.iter().find(|piece| piece.windows(form.len()).any(|part| part == form));
        assert!(found.is_none(), "{form:?} is in {:?}", found.map(|piece| String::from_utf8_lossy(piece)));
    }
    for log in [scene.stack.relay.log(), scene.stack.agent.process.log()] {
        assert!(!log.contains(&code) && !log.contains(&format!("{} {}", &code[..3], &code[3..])), "{log}");
    }
}

/// Where a message is altered, and who has to notice.
const PLACES: [(&str, Way, &str); 8] = [
    ("start", Way::ToAgent, "/message"),
    ("start", Way::ToBrowser, "/message"),
    ("start", Way::ToBrowser, "/pairing_id"),
    ("finish", Way::ToAgent, "/pairing_id"),
    ("finish", Way::ToAgent, "/claims"),
    ("finish", Way::ToAgent, "/proof"),
    ("finish", Way::ToBrowser, "/claims"),
    ("finish", Way::ToBrowser, "/proof"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToAgent,
    ToBrowser,
}

/// Changes one field of a JSON body and leaves it readable: bits of what it encodes, or one digit of an id.
fn alter(body: &mut Bytes, place: &str) {
    let mut json: Value = serde_json::from_slice(body).expect("JSON");
    let field = json.pointer_mut(place).expect("the field is there");
    let text = field.as_str().expect("text");
    *field = Value::from(match place {
        "/pairing_id" => {
            let last = if text.ends_with('0') { "1" } else { "0" };
            format!("{}{last}", &text[..text.len() - 1])
        }
        _ => b64::encode(flip(&b64::decode(text).expect("b64"))),
    });
    *body = json.to_string().into();
}

/// Revokes every browser and tells how many there were.
async fn forget_all(scene: &Scene) -> usize {
    let agent = &scene.stack.agent;
    let list = run(agent.command(&["browsers", "list", "--json"])).await;
    let list: Value = serde_json::from_str(&list.stdout).expect("a list");
    let browsers = list.pointer("/browsers").and_then(Value::as_array).expect("a list").clone();
    for browser in &browsers {
        let id = browser.pointer("/id").and_then(Value::as_str).expect("an id");
        assert!(run(agent.command(&["browsers", "revoke", id])).await.status.success());
    }
    browsers.len()
}

#[tokio::test]
async fn whatever_is_altered_no_pairing_comes_of_it() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    for (step, way, place) in PLACES {
        let (_pair, code) = scene.stack.agent.show_code().await;
        let path = format!("/_relay/pairing/{step}");
        match way {
            Way::ToAgent => scene.script.on_request(move |request| {
                if request.uri().path().ends_with(&path) {
                    alter(request.body_mut(), place);
                }
                Verdict::Pass
            }),
            Way::ToBrowser => scene.script.on_response(move |target, response| {
                if target.ends_with(&path) && response.status().is_success() {
                    alter(response.body_mut(), place);
                }
            }),
        }
        let paired = Browser::pair(scene.hostile.addr, &scene.stack.prefix(), scene.stack.host, &code).await;
        assert!(paired.is_err(), "{step} {way:?} {place}");
        scene.script.rest();
        // The agent has done its part when its last answer is altered. Nobody has the key that it knows then but
        // the browser, which threw it away.
        let known = usize::from(step == "finish" && way == Way::ToBrowser);
        assert_eq!(forget_all(&scene).await, known, "{step} {way:?} {place}");
    }
}

#[tokio::test]
async fn a_man_in_the_middle_has_one_guess_and_the_owner_hears_of_it() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let (mut pair, code) = scene.stack.agent.show_code().await;
    let (stack, relay) = (&scene.stack, scene.stack.addr());
    // It answers the browser itself, and speaks to the agent as if it were one.
    let guess = if code == "123456" { "654321" } else { "123456" };
    let told = Browser::pair(relay, &stack.prefix(), stack.host, guess).await.err();
    assert_eq!(told, Some(Failure::Unsigned(http::StatusCode::UNAUTHORIZED, Some(Code::PairingFailed))));
    assert_eq!(pair.wait(SOON).await.code(), Some(1), "{}", pair.log());
    eventually("the status tells of the guess", SOON, || async {
        let status = stack.agent.status().await.unwrap_or_default();
        status.pointer("/failed_guesses/count") == Some(&Value::from(1))
    })
    .await;

    // The code is gone: whoever knows it now has nothing.
    let told = Browser::pair(relay, &stack.prefix(), stack.host, &code).await.err();
    assert_eq!(told, Some(Failure::Unsigned(http::StatusCode::CONFLICT, Some(Code::PairingNotOpen))));
}

#[tokio::test]
async fn a_forged_agent_is_not_believed() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let (_pair, code) = scene.stack.agent.show_code().await;
    // An agent of the relay's own, which has to guess.
    let host = scene.stack.host;
    let started = Arc::new(Mutex::new(None));
    scene.script.on_request(move |request: &mut Request<Bytes>| {
        use relay_protocol::pairing::{AgentStart, Code, StartRequest, StartResponse};
        let path = request.uri().path();
        if path.ends_with("/_relay/pairing/start") {
            let asked: StartRequest = serde_json::from_slice(request.body()).expect("a start");
            let guess = Code::parse("000000").expect("a code");
            let (start, message) =
                AgentStart::new(&guess, host, &asked.message, &mut rand::rng()).expect("a message");
            *started.lock().expect("not poisoned") = Some(start);
            let answer = StartResponse { v: 1, pairing_id: uuid::Uuid::new_v4(), message };
            return Verdict::Answer(Response::new(serde_json::to_vec(&answer).expect("JSON").into()));
        }
        if path.ends_with("/_relay/pairing/finish") {
            let start = started.lock().expect("not poisoned").take().expect("it was started");
            let message = serde_json::from_slice(request.body()).expect("a finish");
            assert!(start.finish(&message).is_err(), "the guess is wrong, so it learns nothing");
            // The best that it can do is to send the browser's own words back.
            return Verdict::Answer(Response::new(request.body().clone()));
        }
        Verdict::Pass
    });
    let told = Browser::pair(scene.hostile.addr, &scene.stack.prefix(), host, &code).await.err();
    assert!(matches!(told, Some(Failure::Tampered(_))), "{told:?}");
}
