//! Sealed sessions and exchanges over a hostile relay. PROTOCOL.md section 5.

use std::sync::{Arc, Mutex};

use http::{HeaderValue, Request, Response, StatusCode, header};
use relay_protocol::{
    exchange::{PRELUDE_LEN, Prelude},
    keys::b64,
    problem::{Code, Problem},
    record::{HEADER_LEN, Kind, MEDIA_TYPE, SEALED_LEN},
    sealed::{NoiseMessage, Profile},
};
use system_tests::{
    SOON, client, eventually, fetch,
    hostile::Verdict,
    local::Recorder,
    sealed::{Session, Whole},
    signed::Failure,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    Bytes, Scene, app,
    exchanges::{ANSWERS, post, records},
    flip, once, sockets,
};

fn get(target: &str) -> Request<Bytes> {
    Request::get(target).body(Bytes::new()).expect("a request")
}

/// The records of a whole exchange's request.
fn parts(whole: &Whole) -> Vec<Bytes> {
    records(&whole.bytes[PRELUDE_LEN..], SEALED_LEN)
}

/// A prelude and records as one exchange.
fn joined(prelude: Prelude, records: &[Bytes]) -> Whole {
    Whole { prelude, bytes: [&prelude.to_bytes()[..], &records.concat()].concat().into() }
}

fn completed(local: &Recorder) -> usize {
    local.all().iter().filter(|(_, body)| body.complete).count()
}

/// What was refused, by whomever: the relay in between has no say in it.
fn refused(told: Option<Failure>, what: &str) {
    let told = told.unwrap_or_else(|| panic!("{what}: it was answered"));
    assert!(
        matches!(told, Failure::Agent(_) | Failure::Unsigned(..) | Failure::Tampered(_) | Failure::Truncated),
        "{what}: {told:?}"
    );
}

#[tokio::test]
async fn a_request_with_one_bit_changed_is_never_done() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.sealed().await.expect("a session");
    let length = session.seal(&post()).bytes.len();
    for at in 0..length {
        let whole = session.seal(&post());
        let head = parts(&whole)[0].len();
        scene.script.on_request(move |request| {
            let mut bytes = request.body().to_vec();
            bytes[at] ^= 1 << (at % 8);
            *request.body_mut() = bytes.into();
            Verdict::Pass
        });
        refused(session.send(&whole).await.err(), &format!("byte {at}"));
        assert_eq!(completed(&local), at, "byte {at}: done");
        // The honest bytes go on: once, unless the number was used by a HEAD that was not altered.
        scene.script.rest();
        let honest = session.send(&whole).await;
        if at < PRELUDE_LEN + head {
            assert_eq!(honest.expect("it was not done").status, StatusCode::OK, "byte {at}");
        } else {
            assert_eq!(honest.err(), Some(Failure::Agent(Code::Replayed)), "byte {at}");
            session.fetch(post()).await.expect("the next one");
        }
        assert_eq!(completed(&local), at + 1, "byte {at}");
    }
}

type Change = fn(Vec<Bytes>) -> Vec<Bytes>;

/// What the relay changes in a request of HEAD, two DATA and END.
const REQUESTS: &[(&str, Change)] = &[
    ("the order", |mut all| {
        all.swap(1, 2);
        all
    }),
    ("head and data", |mut all| {
        all.swap(0, 1);
        all
    }),
    ("one twice", |mut all| {
        all.insert(1, all[1].clone());
        all
    }),
    ("the head twice", |mut all| {
        all.insert(0, all[0].clone());
        all
    }),
    ("one left out", |mut all| {
        all.remove(1);
        all
    }),
    ("no end", |mut all| {
        all.pop();
        all
    }),
    ("the end early", |mut all| {
        let end = all.remove(3);
        all.insert(1, end);
        all
    }),
    ("only the head", |mut all| {
        all.truncate(1);
        all
    }),
    ("nothing", |_| vec![]),
    ("cut within a record", |mut all| {
        let cut = all[2].len() - 1;
        all[2] = all[2].slice(..cut);
        all.truncate(3);
        all
    }),
    ("the next epoch", |mut all| {
        let mut data = all[1].to_vec();
        data[4] |= 0x80;
        all[1] = data.into();
        all
    }),
    ("a record of its own", |mut all| {
        let mut own = vec![0, 0, 0, 1, Kind::Data as u8, b'!'];
        own.extend_from_slice(&[0; SEALED_LEN]);
        all.insert(1, own.into());
        all
    }),
    ("a length beyond all", |mut all| {
        let mut data = all[1].to_vec();
        data[0] = 0xff;
        all[1] = data.into();
        all
    }),
    ("a head's length beyond all", |mut all| {
        let mut head = all[0].to_vec();
        head[0] = 0x7f;
        all[0] = head.into();
        all
    }),
];

#[tokio::test]
async fn a_request_whose_records_are_shuffled_or_cut_is_never_done() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.sealed().await.expect("a session");
    let large = || post().map(|_| system_tests::noise(5, 100_000));
    for (done, (what, change)) in REQUESTS.iter().enumerate() {
        let change = *change;
        scene.script.on_request(move |request| {
            let (prelude, rest) = request.body().split_at(PRELUDE_LEN);
            let all = change(records(rest, SEALED_LEN));
            *request.body_mut() = [prelude, &all.concat()].concat().into();
            Verdict::Pass
        });
        refused(session.fetch(large()).await.err(), what);
        assert_eq!(completed(&local), done, "{what}");
        scene.script.rest();
        session.fetch(large()).await.expect("the next one");
    }
}

#[tokio::test]
async fn records_of_another_exchange_session_browser_or_direction_open_nowhere() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let (one, two) = (scene.browser().await, scene.browser().await);
    let session = one.sealed().await.expect("a session");
    let next = one.sealed().await.expect("a session");
    let others = two.sealed().await.expect("a session");
    // The agent's records of an exchange, as the relay keeps them.
    let kept: Arc<Mutex<Bytes>> = Arc::default();
    let keep = Arc::clone(&kept);
    scene.script.on_response(move |_, response| {
        *keep.lock().expect("not poisoned") = response.body().clone();
    });
    session.fetch(post()).await.expect("an answer");
    let from_agent = records(&kept.lock().expect("not poisoned"), SEALED_LEN);
    scene.script.rest();
    assert_eq!(completed(&local), 1);

    let (first, second) = (session.seal(&post()), session.seal(&post()));
    let (a, b) = (parts(&first), parts(&second));
    let elsewhere = |id| Prelude { session_id: id, number: 900 };
    let cases: [(&str, Whole); 9] = [
        ("another number", joined(Prelude { number: 901, ..first.prelude }, &a)),
        ("another session of the browser", joined(elsewhere(next.id), &a)),
        ("another browser's session", joined(elsewhere(others.id), &a)),
        ("nobody's session", joined(elsewhere(uuid::Uuid::new_v4()), &a)),
        ("the head of one and the rest of another", joined(second.prelude, &[&b[..1], &a[1..]].concat())),
        ("the agent's own records", joined(elsewhere(session.id), &from_agent)),
        ("the browser's, begun in the middle", joined(first.prelude, &a[1..])),
        ("nothing behind the prelude", joined(first.prelude, &[])),
        ("another exchange's head again", joined(first.prelude, &b)),
    ];
    for (what, whole) in &cases {
        refused(session.send(whole).await.err(), what);
        assert_eq!(completed(&local), 1, "{what}");
    }
    // None of it used up the first one's number, and only the honest head the second one's.
    session.send(&first).await.expect("what was made for it opens");
    assert_eq!(session.send(&second).await.err(), Some(Failure::Agent(Code::Replayed)));
    assert_eq!(completed(&local), 2);

    // The browser's own records come back as if they were the answer, and so does another session's answer.
    let echo = |request: &mut Request<Bytes>| {
        let mut response = Response::new(request.body().slice(PRELUDE_LEN..));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        Verdict::Answer(response)
    };
    scene.script.on_request(echo);
    let told = session.fetch(post()).await.err();
    assert!(matches!(told, Some(Failure::Tampered(_))), "{told:?}");
    for session in [&session, &next, &others] {
        let old = from_agent.concat();
        scene.script.on_response(move |_, response| *response.body_mut() = old.clone().into());
        let told = session.fetch(post()).await.err();
        assert!(matches!(told, Some(Failure::Tampered(_))), "{told:?}");
    }
}

#[tokio::test]
async fn an_exchange_is_done_once_however_often_it_is_delivered() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.sealed().await.expect("a session");
    let whole = session.seal(&post());
    session.send(&whole).await.expect("the first");
    for _ in 0..3 {
        assert_eq!(session.send(&whole).await.err(), Some(Failure::Agent(Code::Replayed)));
    }
    // At once, too: one of them is done.
    let whole = session.seal(&post());
    let sent = futures_util::future::join_all((0..8).map(|_| session.send(&whole))).await;
    assert_eq!(sent.iter().filter(|answer| answer.is_ok()).count(), 1, "{sent:?}");
    assert_eq!(completed(&local), 2);
    // Delivered behind the browser's back, before its own delivery and after it.
    for before in [true, false] {
        let whole = session.seal(&post());
        let deliver =
            || async { fetch(scene.stack.addr(), session.outer(client::full(whole.bytes.clone()))).await };
        if before {
            assert_eq!(deliver().await.status, StatusCode::OK);
            assert_eq!(session.send(&whole).await.err(), Some(Failure::Agent(Code::Replayed)));
        } else {
            session.send(&whole).await.expect("the browser's own");
            deliver().await.is_problem(Code::Replayed);
        }
    }
    assert_eq!(completed(&local), 4);
    // By another session of the relay's, for a browser that comes back later, and after a new session.
    let other = scene.stack.relay.create_session(&scene.stack.token, scene.stack.host).await;
    browser.sealed().await.expect("a new session");
    let mut outer = session.outer(client::full(whole.bytes.clone()));
    let moved = outer.uri().to_string().replace(&scene.stack.session.to_string(), &other.to_string());
    *outer.uri_mut() = moved.parse().expect("a target");
    fetch(scene.stack.addr(), outer).await.is_problem(Code::Replayed);
    assert_eq!(completed(&local), 4);
}

#[tokio::test]
async fn an_answer_with_one_bit_changed_is_not_believed() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.sealed().await.expect("a session");
    let length = Arc::new(Mutex::new(0));
    let measure = Arc::clone(&length);
    scene.script.on_response(move |_, response| {
        *measure.lock().expect("not poisoned") = response.body().len();
    });
    session.fetch(post()).await.expect("an answer");
    let length = *length.lock().expect("not poisoned");
    assert!(length > 60, "head, data and end");
    for at in 0..length {
        scene.script.on_response(move |_, response| {
            let mut bytes = response.body().to_vec();
            bytes[at] ^= 1 << (at % 8);
            *response.body_mut() = bytes.into();
        });
        let told = session.fetch(post()).await.err();
        assert!(matches!(told, Some(Failure::Tampered(_) | Failure::Truncated)), "byte {at}: {told:?}");
    }
    scene.script.rest();
    session.fetch(post()).await.expect("honest traffic goes on");
}

#[tokio::test]
async fn an_answer_that_is_shuffled_cut_or_invented_is_not_believed() {
    let local = app().await;
    let scene = Scene::start(&local.url()).await;
    let browser = scene.browser().await;
    let session = browser.sealed().await.expect("a session");
    let whole = session.get("/big/300000").await.expect("an answer").body;
    for (what, alter) in ANSWERS {
        let alter = *alter;
        scene.script.on_response(move |_, response| {
            let all = records(response.body(), SEALED_LEN);
            assert!(all.len() > 4, "several pieces");
            *response.body_mut() = alter(all).concat().into();
        });
        let told = session.get("/big/300000").await.expect_err(what);
        assert!(matches!(told, Failure::Tampered(_) | Failure::Truncated), "{what}: {told:?}");
    }
    // Cut at every record.
    for records_left in 0..5 {
        scene.script.on_response(move |_, response| {
            let mut all = records(response.body(), SEALED_LEN);
            all.truncate(records_left);
            *response.body_mut() = all.concat().into();
        });
        let told = session.get("/big/300000").await.err();
        assert_eq!(told, Some(Failure::Truncated), "{records_left} records");
    }
    // In the agent's name, without its keys.
    for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::FOUND, StatusCode::UNAUTHORIZED] {
        scene.script.on_request(move |_| {
            let mut response = Response::new(Bytes::from_static(b"hello"));
            *response.status_mut() = status;
            Verdict::Answer(response)
        });
        let told = session.get("/hello").await.err();
        assert_eq!(told, Some(Failure::Unsigned(status, None)));
    }
    scene.script.rest();
    assert_eq!(session.get("/big/300000").await.expect("an answer").body, whole);
}

/// The answer to an exchange that the agent refuses, as it is.
async fn true_refusal(scene: &Scene, session: &Session<'_>, whole: &Whole) -> client::Reply {
    let reply = fetch(scene.stack.addr(), session.outer(client::full(whole.bytes.clone()))).await;
    assert_eq!(session.refusal(&whole.prelude, &reply), Failure::Agent(Code::Replayed));
    reply
}

#[tokio::test]
async fn a_refusal_is_the_agents_own_or_nobodys() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.sealed().await.expect("a session");
    let whole = session.seal(&post());
    session.send(&whole).await.expect("the first");
    let refusal = true_refusal(&scene, &session, &whole).await;
    type Alter = fn(&mut client::Reply);
    let alterations: &[(&str, Alter)] = &[
        ("status", |r| r.status = StatusCode::FORBIDDEN),
        ("a success", |r| r.status = StatusCode::OK),
        ("code", |r| r.body = String::from_utf8_lossy(&r.body).replace("replayed", "not_paired").into()),
        ("body", |r| r.body = flip(&r.body)),
        ("no body", |r| r.body = Bytes::new()),
        ("no digest", |r| drop(r.headers.remove("content-digest"))),
        ("type", |r| drop(r.headers.insert("content-type", HeaderValue::from_static("text/html")))),
        ("no exchange", |r| drop(r.headers.remove("relay-exchange"))),
        ("another exchange", |r| {
            let other = Prelude { session_id: uuid::Uuid::nil(), number: 0 }.to_b64();
            r.headers.insert("relay-exchange", HeaderValue::try_from(other).expect("a value"));
        }),
        ("two exchanges", |r| {
            let own = r.headers["relay-exchange"].clone();
            r.headers.append("relay-exchange", own);
        }),
        ("signature", |r| drop(r.headers.insert("signature", HeaderValue::from_static("relay=:AAAA:")))),
    ];
    for (what, alter) in alterations {
        let mut altered = refusal.clone();
        alter(&mut altered);
        let told = session.refusal(&whole.prelude, &altered);
        assert!(matches!(told, Failure::Tampered(_)), "{what}: {told:?}");
    }
    let mut unsigned = refusal.clone();
    unsigned.headers.remove("signature");
    unsigned.headers.remove("signature-input");
    let told = session.refusal(&whole.prelude, &unsigned);
    assert_eq!(told, Failure::Unsigned(StatusCode::UNAUTHORIZED, Some(Code::Replayed)));
    // One that was made for another exchange, one for a signed request, and one of the relay's.
    let stolen = session.refusal(&session.prelude(), &refusal);
    assert!(matches!(stolen, Failure::Tampered(_)), "{stolen:?}");
    let signed = browser.sign(uuid::Uuid::new_v4(), get("/hello"));
    let other = fetch(scene.stack.addr(), signed.outer(&browser)).await;
    other.is_problem(Code::SigningSessionExpired);
    let told = session.refusal(&whole.prelude, &other);
    assert!(matches!(told, Failure::Tampered(_)), "{told:?}");
    scene.script.on_request(|_| {
        let problem = Problem::new(Code::SigningSessionExpired, "Open a new one.");
        let mut response = Response::new(Bytes::from(problem.to_json()));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        Verdict::Answer(response)
    });
    let told = session.fetch(post()).await.err();
    assert_eq!(told, Some(Failure::Unsigned(StatusCode::UNAUTHORIZED, Some(Code::SigningSessionExpired))));
    assert_eq!(completed(&local), 1);
}

/// Replaces the handshake message in a JSON body; `None` takes it away.
fn replace_noise(body: &mut Bytes, message: Option<&[u8]>) {
    let mut json: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    match message {
        Some(message) => json["noise"]["message"] = b64::encode(message).into(),
        None => drop(json.as_object_mut().expect("an object").remove("noise")),
    }
    *body = json.to_string().into();
}

#[tokio::test]
async fn a_session_whose_keys_are_swapped_altered_or_replayed_is_none() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let (browser, stranger) = (scene.browser().await, scene.browser().await);
    let swapped = stranger.handshake(Profile::NoiseIkPsk2).message.message;
    // On the way to the agent: another's handshake, an altered one, none at all.
    for (what, message) in
        [("another's", Some(swapped.clone())), ("altered", Some(vec![7; 96])), ("none", None)]
    {
        let asked = once();
        scene.script.on_request(move |request| {
            if asked() {
                replace_noise(request.body_mut(), message.as_deref());
            }
            Verdict::Pass
        });
        let told = browser.sealed().await.err();
        // The agent says so by its signature, of the request that it got.
        assert!(
            matches!(told, Some(Failure::Agent(Code::DigestMismatch) | Failure::Tampered(_))),
            "{what}: {told:?}"
        );
    }
    // On the way to the browser.
    for (what, message) in
        [("altered", Some(vec![7; 48])), ("of another length", Some(vec![7; 47])), ("none", None)]
    {
        scene.script.on_response(move |_, response| replace_noise(response.body_mut(), message.as_deref()));
        let told = browser.sealed().await.err();
        assert!(matches!(told, Some(Failure::Tampered(_))), "{what}: {told:?}");
    }
    // The answer to an earlier request, well signed.
    let kept: Arc<Mutex<Option<Response<Bytes>>>> = Arc::default();
    scene.script.on_response(move |_, response| {
        let mut kept = kept.lock().expect("not poisoned");
        match &*kept {
            None => *kept = Some(response.clone()),
            Some(old) => *response = old.clone(),
        }
    });
    browser.sealed().await.expect("its own");
    let told = browser.sealed().await.err();
    assert!(matches!(told, Some(Failure::Tampered(_))), "{told:?}");
    // The request again: no second session, no second pair of keys.
    scene.script.rest();
    let asked = browser.sign_session(Some(&browser.handshake(Profile::NoiseIkPsk2).message));
    asked.send_buffered(&browser).await.expect("the first");
    assert_eq!(asked.send_buffered(&browser).await.err(), Some(Failure::Agent(Code::Replayed)));
    let session = browser.sealed().await.expect("honest traffic goes on");
    session.fetch(post()).await.expect("an answer");
    assert_eq!(completed(&local), 1);
}

#[tokio::test]
async fn a_handshake_that_is_not_the_paired_browsers_own_fails() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let (browser, stranger) = (scene.browser().await, scene.browser().await);
    let own = browser.handshake(Profile::NoiseIkPsk2).message;
    let ik = browser.handshake(Profile::NoiseIk).message;
    let others = stranger.handshake(Profile::NoiseIkPsk2).message;
    let cut = NoiseMessage { message: own.message[..95].to_vec(), ..own.clone() };
    let long = NoiseMessage { message: [&own.message[..], &[0]].concat(), ..own.clone() };
    let other_profile = NoiseMessage { profile: Profile::NoiseIk, ..own.clone() };
    let back = NoiseMessage { profile: Profile::NoiseIkPsk2, ..ik };
    let mut flipped = own.clone();
    flipped.message = flip(&own.message).to_vec();
    let mut zero = own.clone();
    zero.message[..32].fill(0);
    for (what, noise) in [
        ("another browser's", others),
        ("cut", cut),
        ("longer", long),
        ("of another profile", other_profile),
        ("of another profile, the other way", back),
        ("altered", flipped),
        ("a key of zeros", zero),
    ] {
        let told = browser.sign_session(Some(&noise)).send_buffered(&browser).await.err();
        assert_eq!(told, Some(Failure::Agent(Code::HandshakeFailed)), "{what}");
    }
    // The untouched one is good, and the agent adds a key of its own each time.
    let again = browser.sign_session(Some(&own)).send_buffered(&browser).await.expect("it is good");
    assert!(again.text().contains("rekey_at"), "{}", again.text());
    browser.sealed().await.expect("honest traffic goes on");
    assert_eq!(local.count(), 0);
}

#[tokio::test]
async fn headers_that_the_relay_adds_outside_stay_outside() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.sealed().await.expect("a session");
    scene.script.on_request(|request| {
        for name in [
            "authorization",
            "accept-language",
            "cookie",
            "x-user",
            "if-none-match",
            "range",
            "origin",
            "referer",
            "user-agent",
            "x-http-method-override",
            "x-relay-client-id",
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static("the relay's"));
        }
        Verdict::Pass
    });
    session.fetch(post()).await.expect("what is inside is unaltered");
    let (head, _) = local.last();
    assert!(!head.text().contains("the relay's"), "{}", head.text());
    assert_eq!(head.header("x-own").as_deref(), Some("kept"));
    assert_eq!(head.header("x-relay-client-id"), Some(browser.client_id.to_string()));
}

#[tokio::test]
async fn what_is_altered_on_the_way_to_the_agent_ends_the_websocket() {
    let local = app().await;
    let scene = Scene::start(&local.url()).await;
    let browser = scene.browser().await;
    let session = browser.sealed().await.expect("a session");
    for (what, alter) in sockets::ALTERATIONS {
        scene.script.on_message_to_agent(sockets::from_second(*alter));
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
    let session = browser.sealed().await.expect("a session");
    for (what, alter) in sockets::ALTERATIONS {
        scene.script.on_message_to_browser(sockets::from_second(*alter));
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
    scene.script.on_message_to_browser(sockets::from_second(|_| vec![]));
    let mut socket = session.websocket("/ws", None).await.expect("a socket");
    socket.send(Kind::Text, "first").await.expect("sent");
    socket.send(Kind::Text, "second").await.expect("sent");
    let told = socket.next().await;
    assert!(matches!(told, Err(Failure::Tampered(_))), "{told:?}");
}

#[tokio::test]
async fn a_websocket_opens_once_and_as_it_was_sealed() {
    let local = app().await;
    let scene = Scene::start(&local.url()).await;
    let browser = scene.browser().await;
    let session = browser.sealed().await.expect("a session");
    let (path, exchange) = session.seal_upgrade("/ws?room=1", None);
    let value = path.split_once('=').expect("a value").1.to_owned();
    let bytes = b64::decode(&value).expect("b64");
    let altered = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        path.replace(&value, &b64::encode(bytes))
    };
    let prelude = exchange.prelude;
    let head = PRELUDE_LEN + HEADER_LEN;
    for (what, path, code) in [
        ("another session", altered(0), Code::SigningSessionExpired),
        ("another number", altered(PRELUDE_LEN - 1), Code::SignatureInvalid),
        ("the head", altered(head + 3), Code::SignatureInvalid),
        ("the tag", altered(bytes.len() - 1), Code::SignatureInvalid),
        ("the type", altered(head - 1), Code::BadRequest),
        ("more behind it", format!("{path}&x=1"), Code::BadRequest),
        ("more before it", path.replace("relay-exchange", "x=1&relay-exchange"), Code::BadRequest),
        ("another spelling", format!("{path}="), Code::BadRequest),
    ] {
        let told = session.websocket_at(&path, session.exchange_at(prelude)).await.err();
        assert!(matches!(told, Some(Failure::Unsigned(_, Some(heard))) if heard == code), "{what}: {told:?}");
    }
    let mut socket = session.websocket_at(&path, exchange).await.expect("as it was sealed");
    socket.send(Kind::Text, "hello").await.expect("sent");
    assert_eq!(socket.next().await.expect("echoed").payload, "hello");
    let told = session.websocket_at(&path, session.exchange_at(prelude)).await.err();
    assert!(matches!(told, Some(Failure::Unsigned(_, Some(Code::Replayed)))), "{told:?}");
    // Nor does the head of a request open a socket, or that of a socket do a request.
    let whole = session.seal(&get("/ws"));
    let head: Vec<u8> = [&whole.prelude.to_bytes()[..], &parts(&whole)[0]].concat();
    let path = path.replace(&value, &b64::encode(head));
    let told = session.websocket_at(&path, session.exchange_at(whole.prelude)).await.err();
    assert!(told.is_some());
    let (path, exchange) = session.seal_upgrade("/ws", None);
    let head = b64::decode(path.split_once('=').expect("a value").1).expect("b64");
    let told = session.send(&Whole { prelude: exchange.prelude, bytes: head.into() }).await.err();
    refused(told, "a socket's head as a request");
}

#[tokio::test]
async fn messages_of_one_websocket_are_nothing_on_another() {
    let local = app().await;
    let scene = Scene::start(&local.url()).await;
    let browser = scene.browser().await;
    let session = browser.sealed().await.expect("a session");
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
    // A socket that the relay cuts is cut for both ends.
    scene.script.rest();
    let open = local.counts.open();
    let mut third = session.websocket("/ws", None).await.expect("a socket");
    third.send(Kind::Text, "hello").await.expect("sent");
    third.next().await.expect("echoed");
    drop(third);
    eventually("the local server's end is closed", SOON, || async { local.counts.open() <= open }).await;
}
