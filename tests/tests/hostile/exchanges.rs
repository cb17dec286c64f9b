//! Sessions, requests and answers over a hostile relay.

use std::sync::{Arc, Mutex};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use relay_protocol::{
    problem::{Code, Problem},
    record::{HEADER_LEN, SIGNED_LEN},
};
use system_tests::{
    hostile::Verdict,
    local::Recorder,
    signed::{Failure, Session, Signed},
};

use crate::{Bytes, Scene, app, flip, once};

/// A POST with everything that can be altered.
pub fn post() -> Request<Bytes> {
    Request::post("/echo?first=1&second=2")
        .header("content-type", "text/plain")
        .header("x-own", "kept")
        .body(Bytes::from_static(b"transfer 10 to Anna"))
        .expect("a request")
}

fn is_exchange(request: &Request<Bytes>) -> bool {
    request.uri().path().ends_with("/echo")
}

type Alter = fn(&mut Request<Bytes>);

fn set_target(request: &mut Request<Bytes>, from: &str, to: &str) {
    let target = request.uri().to_string().replace(from, to);
    *request.uri_mut() = target.parse().expect("a target");
}

fn set(request: &mut Request<Bytes>, name: &'static str, value: &str) {
    request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a value"));
}

fn replace(request: &mut Request<Bytes>, name: &str, from: &str, to: &str) {
    let headers = request.headers_mut();
    let value = headers.get_mut(name).expect("the header is there");
    let text = value.to_str().expect("text").replace(from, to);
    *value = HeaderValue::from_str(&text).expect("a value");
}

/// What the relay changes in a request, and what the agent says to it.
const ALTERATIONS: &[(&str, Alter, Code)] = &[
    ("method", |r| *r.method_mut() = Method::PUT, Code::SignatureInvalid),
    ("path", |r| set_target(r, "/echo", "/echo/"), Code::SignatureInvalid),
    ("path, escaped", |r| set_target(r, "/echo", "/%65cho"), Code::SignatureInvalid),
    ("query", |r| set_target(r, "second=2", "second=3"), Code::SignatureInvalid),
    ("no query", |r| set_target(r, "?first=1&second=2", ""), Code::SignatureInvalid),
    ("order of the query", |r| set_target(r, "first=1&second=2", "second=2&first=1"), Code::SignatureInvalid),
    ("a header", |r| set(r, "x-own", "other"), Code::SignatureInvalid),
    (
        "a header twice",
        |r| {
            r.headers_mut().append("x-own", HeaderValue::from_static("too"));
        },
        Code::SignatureInvalid,
    ),
    (
        "no header",
        |r| {
            r.headers_mut().remove("x-own");
        },
        Code::SignatureInvalid,
    ),
    ("content type", |r| set(r, "content-type", "text/html"), Code::SignatureInvalid),
    (
        "no records",
        |r| {
            r.headers_mut().remove("x-relay-records");
        },
        Code::SignatureInvalid,
    ),
    ("a bit of the body", |r| *r.body_mut() = flip(r.body()), Code::DigestMismatch),
    ("a shorter body", |r| *r.body_mut() = r.body().slice(..9), Code::DigestMismatch),
    ("no body", |r| *r.body_mut() = Bytes::new(), Code::DigestMismatch),
    ("a longer body", |r| *r.body_mut() = [r.body(), &b"!"[..]].concat().into(), Code::DigestMismatch),
    (
        "digest",
        |r| set(r, "content-digest", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"),
        Code::SignatureInvalid,
    ),
    (
        "no digest",
        |r| {
            r.headers_mut().remove("content-digest");
        },
        Code::SignatureInvalid,
    ),
    ("what is covered", |r| replace(r, "signature-input", " \"x-own\"", ""), Code::SignatureInvalid),
    ("the path is not covered", |r| replace(r, "signature-input", "\"@path\" ", ""), Code::Uncovered),
    (
        "the body is not covered",
        |r| replace(r, "signature-input", "\"content-digest\"", "\"content-type\""),
        Code::BadRequest,
    ),
    ("created", |r| replace(r, "signature-input", "created=1", "created=2"), Code::SignatureInvalid),
    ("nonce", |r| replace(r, "signature-input", "nonce=\"", "nonce=\"A"), Code::SignatureInvalid),
    ("algorithm", |r| replace(r, "signature-input", "ed25519", "hmac-sha256"), Code::BadRequest),
    ("keyid", |r| replace(r, "signature-input", "keyid=\"", "keyid=\"0"), Code::SigningSessionExpired),
    (
        "signature",
        |r| {
            set(
                r,
                "signature",
                "relay=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==:",
            )
        },
        Code::SignatureInvalid,
    ),
    (
        "no signature",
        |r| {
            r.headers_mut().remove("signature");
            r.headers_mut().remove("signature-input");
        },
        Code::SignatureMissing,
    ),
    (
        "another label",
        |r| {
            replace(r, "signature", "relay=", "other=");
            replace(r, "signature-input", "relay=", "other=");
        },
        Code::SignatureMissing,
    ),
];

#[tokio::test]
async fn an_altered_request_never_reaches_the_local_server_whole() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    for (what, alter, code) in ALTERATIONS {
        let heard = Arc::new(Mutex::new(None));
        let (alter, hear) = (*alter, Arc::clone(&heard));
        scene.script.on_request(move |request| {
            if request.headers().contains_key("x-own") || is_exchange(request) {
                alter(request);
            }
            Verdict::Pass
        });
        scene.script.lock().response = Some(Arc::new(move |_, response| {
            let problem: Option<Problem> = serde_json::from_slice(response.body()).ok();
            *hear.lock().expect("not poisoned") = problem.map(|problem| problem.code);
        }));
        let told = session.fetch(post()).await.expect_err(what);
        // The relay hears what the agent says; the browser believes it only where it is signed for its request.
        match (*heard.lock().expect("not poisoned"), &told) {
            (Some(heard), _) => assert_eq!(heard, *code, "{what}"),
            (None, Failure::Agent(told)) => assert_eq!(told, code, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        let whole = local.all().into_iter().filter(|(_, body)| body.complete).count();
        assert_eq!(whole, 0, "{what}: {:?}", local.all());
    }
    scene.script.rest();
    session.fetch(post()).await.expect("what is not altered passes");
}

#[tokio::test]
async fn headers_that_the_relay_adds_stay_with_the_agent() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    scene.script.on_request(|request| {
        for name in [
            "authorization",
            "x-user",
            "if-none-match",
            "range",
            "x-http-method-override",
            "x-relay-client-id",
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static("the relay's"));
        }
        Verdict::Pass
    });
    session.fetch(post()).await.expect("what is covered is unaltered");
    let (head, _) = local.last();
    assert!(!head.text().contains("the relay's"), "{}", head.text());
    assert_eq!(head.header("x-own").as_deref(), Some("kept"));
    assert_eq!(head.header("x-relay-client-id"), Some(browser.client_id.to_string()));
    assert_eq!(head.header("signature"), None);
}

#[tokio::test]
async fn a_request_is_done_once_however_often_it_is_sent() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    let signed = session.sign(post());
    session.send(&signed).await.expect("the first");
    for _ in 0..3 {
        assert_eq!(session.send(&signed).await.err(), Some(Failure::Agent(Code::Replayed)));
    }
    // At once, too: one of them is done.
    let signed = session.sign(post());
    let sent = futures_util::future::join_all((0..8).map(|_| session.send(&signed))).await;
    assert_eq!(sent.iter().filter(|answer| answer.is_ok()).count(), 1, "{sent:?}");
    assert_eq!(local.count(), 2);
    // By another session of the relay's, and after the agent has forgotten the browser's session.
    let other = scene.stack.relay.create_session(&scene.stack.token, scene.stack.host).await;
    let mut outer = signed.outer(&browser);
    let moved = outer.uri().to_string().replace(&scene.stack.session.to_string(), &other.to_string());
    *outer.uri_mut() = moved.parse().expect("a target");
    system_tests::client::fetch(scene.stack.addr(), outer).await.is_problem(Code::Replayed);
    assert_eq!(local.count(), 2);
}

/// The records of a stream, as they lie in it, each with so many bytes of protection.
pub fn records(body: &[u8], protection: usize) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(body);
    let mut records = Vec::new();
    while rest.len() >= HEADER_LEN {
        let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        records.push(rest.split_to(HEADER_LEN + length + protection));
    }
    assert!(rest.is_empty(), "whole records");
    records
}

/// What the relay changes in an answer of HEAD, some DATA and END.
pub const ANSWERS: &[(&str, fn(Vec<Bytes>) -> Vec<Bytes>)] = &[
    ("a bit of the head", |mut all| {
        all[0] = flip(&all[0]);
        all
    }),
    ("a bit of the body", |mut all| {
        all[1] = flip(&all[1]);
        all
    }),
    ("a bit of a signature", |mut all| {
        let mut last = all[1].to_vec();
        *last.last_mut().expect("bytes") ^= 1;
        all[1] = last.into();
        all
    }),
    ("a type", |mut all| {
        let mut data = all[1].to_vec();
        data[4] = 6;
        all[1] = data.into();
        all
    }),
    ("a length", |mut all| {
        let mut data = all[1].to_vec();
        data[3] ^= 1;
        all[1] = data.into();
        all
    }),
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
    ("one left out", |mut all| {
        all.remove(1);
        all
    }),
    ("no head", |mut all| {
        all.remove(0);
        all
    }),
    ("no end", |mut all| {
        all.pop();
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
    ("bytes after the end", |mut all| {
        all.push(Bytes::from_static(b"more"));
        all
    }),
    ("a record after the end", |mut all| {
        all.push(all[1].clone());
        all
    }),
    ("the end twice", |mut all| {
        all.push(all[all.len() - 1].clone());
        all
    }),
];

#[tokio::test]
async fn an_altered_answer_is_not_believed() {
    let local = app().await;
    let scene = Scene::start(&local.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    let whole = session.get("/big/300000").await.expect("an answer").body;
    for (what, alter) in ANSWERS {
        let alter = *alter;
        scene.script.on_response(move |_, response| {
            let all = records(response.body(), SIGNED_LEN);
            assert!(all.len() > 4, "several pieces");
            *response.body_mut() = alter(all).concat().into();
        });
        let told = session.get("/big/300000").await.expect_err(what);
        assert!(matches!(told, Failure::Tampered(_) | Failure::Truncated), "{what}: {told:?}");
    }
    // Another exchange's answer, whole and well signed, is not this one's.
    let kept: Arc<Mutex<Option<Response<Bytes>>>> = Arc::default();
    let keep = Arc::clone(&kept);
    scene.script.on_response(move |_, response| {
        let mut kept = keep.lock().expect("not poisoned");
        match &*kept {
            None => *kept = Some(response.clone()),
            Some(old) => *response = old.clone(),
        }
    });
    session.get("/hello").await.expect("the first answer is its own");
    let told = session.get("/hello").await.expect_err("the first answer again");
    assert!(matches!(told, Failure::Tampered(_)), "{told:?}");
    // Without signatures, under another media type, with another status.
    let forged = |status: StatusCode| {
        move |request: &mut Request<Bytes>| {
            assert!(!request.uri().path().is_empty());
            let mut response = Response::new(Bytes::from_static(b"hello"));
            *response.status_mut() = status;
            Verdict::Answer(response)
        }
    };
    for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::FOUND, StatusCode::UNAUTHORIZED] {
        scene.script.on_request(forged(status));
        let told = session.get("/hello").await.expect_err("a forged answer");
        assert!(matches!(told, Failure::Unsigned(..)), "{told:?}");
    }
    scene.script.rest();
    assert_eq!(session.get("/big/300000").await.expect("an answer").body, whole);
}

#[tokio::test]
async fn answers_in_one_piece_are_bound_to_their_request_and_whole() {
    let local = app().await;
    let scene = Scene::start(&local.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    let signed =
        |target: &str| browser.sign(session.id, Request::get(target).body(Bytes::new()).expect("a request"));
    let answer = signed("/hello").send_buffered(&browser).await.expect("an answer");
    assert_eq!(answer.text(), "hello");
    type AlterAnswer = fn(&mut Response<Bytes>);
    let alterations: &[(&str, AlterAnswer)] = &[
        ("status", |r| *r.status_mut() = StatusCode::CREATED),
        ("body", |r| *r.body_mut() = flip(r.body())),
        ("no body", |r| *r.body_mut() = Bytes::new()),
        ("a covered header", |r| {
            r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        }),
        ("no covered header", |r| {
            r.headers_mut().remove(header::CONTENT_TYPE);
        }),
        ("digest", |r| {
            r.headers_mut().remove("content-digest");
        }),
        ("signature", |r| {
            r.headers_mut().insert("signature", HeaderValue::from_static("relay=:AAAA:"));
        }),
    ];
    for (what, alter) in alterations {
        let alter = *alter;
        scene.script.on_response(move |_, response| alter(response));
        let told = signed("/hello").send_buffered(&browser).await.expect_err(what);
        assert!(matches!(told, Failure::Tampered(_)), "{what}: {told:?}");
    }
    let kept: Arc<Mutex<Option<Response<Bytes>>>> = Arc::default();
    scene.script.on_response(move |_, response| {
        let mut kept = kept.lock().expect("not poisoned");
        match &*kept {
            None => *kept = Some(response.clone()),
            Some(old) => *response = old.clone(),
        }
    });
    signed("/hello").send_buffered(&browser).await.expect("its own");
    let told = signed("/hello").send_buffered(&browser).await.expect_err("another's");
    assert!(matches!(told, Failure::Tampered(_)), "{told:?}");
}

#[tokio::test]
async fn a_session_is_made_by_nobody_else_and_for_nobody_else() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let (one, two) = (scene.browser().await, scene.browser().await);
    // Keys of one browser are nothing under the other's id, nor under the other's session.
    let session = one.session().await.expect("a session");
    let stolen = two.sign(session.id, post()).send_buffered(&two).await.err();
    assert_eq!(stolen, Some(Failure::Agent(Code::SignatureInvalid)));
    // The same request for a session again.
    let kept: Arc<Mutex<Option<Request<Bytes>>>> = Arc::default();
    let keep = Arc::clone(&kept);
    scene.script.on_request(move |request| {
        *keep.lock().expect("not poisoned") = Some(request.clone());
        Verdict::Pass
    });
    one.session().await.expect("a session");
    let asked = kept.lock().expect("not poisoned").clone().expect("it passed");
    let again = asked.map(system_tests::client::full);
    system_tests::client::fetch(scene.stack.addr(), again).await.is_problem(Code::Replayed);
    // An answer that was altered makes no session, and moves no clock.
    scene.script.on_response(|_, response| {
        let text = String::from_utf8(response.body().to_vec()).expect("text");
        *response.body_mut() = text.replace("\"agent_time\":1", "\"agent_time\":2").into();
    });
    let before = one.now();
    assert!(matches!(one.session().await.err(), Some(Failure::Tampered(_))));
    assert!(one.now() - before < 60);
    // What is not signed moves none either.
    let pass = once();
    scene.script.on_request(move |_| {
        let problem = Problem::new(Code::ClockSkew, "Your clock is wrong.");
        let mut response = Response::new(Bytes::from(problem.to_json()));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        if pass() { Verdict::Answer(response) } else { Verdict::Pass }
    });
    let told = one.session().await.err();
    assert_eq!(told, Some(Failure::Unsigned(StatusCode::UNAUTHORIZED, Some(Code::ClockSkew))));
    assert_eq!(local.count(), 0);
}

#[tokio::test]
async fn a_request_that_was_kept_is_worth_nothing_later() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    let kept: Vec<Signed> = [-61, 61].into_iter().map(|seconds| moved(&session, seconds)).collect();
    for signed in &kept {
        assert_eq!(session.send(signed).await.err(), Some(Failure::Agent(Code::ClockSkew)));
    }
    session.send(&moved(&session, -50)).await.expect("within the window");
    assert_eq!(local.count(), 1);
    // Nor is one of a browser that was revoked.
    let signed = session.sign(post());
    let id = browser.client_id.to_string();
    let revoke = system_tests::process::run(scene.stack.agent.command(&["browsers", "revoke", &id])).await;
    assert!(revoke.status.success(), "{revoke:?}");
    assert_eq!(session.send(&signed).await.err(), Some(Failure::Agent(Code::SigningSessionExpired)));
    assert_eq!(browser.session().await.err(), Some(Failure::Agent(Code::NotPaired)));
    assert_eq!(local.count(), 1);
}

/// A request that was signed so many seconds from now.
fn moved(session: &Session<'_>, seconds: i64) -> Signed {
    use std::sync::atomic::Ordering::SeqCst;
    session.browser.offset.fetch_add(seconds, SeqCst);
    let signed = session.sign(post());
    session.browser.offset.fetch_sub(seconds, SeqCst);
    signed
}

#[tokio::test]
async fn what_the_agent_signed_for_another_request_is_not_believed() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let browser = scene.browser().await;
    let session = browser.session().await.expect("a session");
    let prefix = scene.stack.prefix();
    let stranger = uuid::Uuid::new_v4().to_string();
    let own = session.id.to_string();
    type Swap = Box<dyn Fn(&mut Request<Bytes>) + Send + Sync>;
    let to = |target: &str| -> Swap {
        let target: http::Uri = format!("{prefix}{target}").parse().expect("a target");
        Box::new(move |request| *request.uri_mut() = target.clone())
    };
    let swaps: [(&str, Swap); 4] = [
        ("hello", to("/_relay/hello")),
        ("nothing there", to("/_relay/zzz")),
        ("another path", to("/other")),
        ("another key id", Box::new(move |request| replace(request, "signature-input", &own, &stranger))),
    ];
    for (what, swap) in swaps {
        scene.script.on_request(move |request| {
            if request.headers().contains_key("signature") {
                swap(request);
            }
            Verdict::Pass
        });
        let told = session.get("/hello").await.expect_err(what);
        assert!(matches!(told, Failure::Tampered(_) | Failure::Unsigned(..)), "{what}: {told:?}");
    }
    assert_eq!(local.count(), 0);
}

/// A request with a body of this size that the agent refuses: one that is not signed, and an exchange of a session
/// that it does not know.
fn refused(scene: &Scene, is_exchange: bool, size: usize) -> (Request<system_tests::client::Body>, Code) {
    let (path, code) = if is_exchange {
        ("/_relay/exchange", Code::SigningSessionExpired)
    } else {
        ("/echo", Code::SignatureMissing)
    };
    let body = system_tests::client::full(vec![b'x'; size]);
    let mut request = system_tests::client::request(Method::POST, &scene.stack.path(path), body);
    let kind = HeaderValue::from_static(relay_protocol::record::MEDIA_TYPE);
    request.headers_mut().insert(header::CONTENT_TYPE, kind);
    (request, code)
}

#[tokio::test]
async fn a_refusal_arrives_whatever_body_comes_with_the_request() {
    let local = Recorder::start().await;
    let scene = Scene::start(&local.server.url()).await;
    let connections = (0..8).map(|_| async {
        let mut connection = system_tests::client::Connection::open(scene.stack.addr()).await.expect("open");
        for (at, size) in [30, 90, 5_000, 100_000].into_iter().cycle().take(60).enumerate() {
            let (request, code) = refused(&scene, at % 8 >= 4, size);
            let reply = connection.send(request).await.expect("an answer");
            let reply = system_tests::Reply::collect(reply).await.expect("a whole answer");
            reply.is_problem(code);
        }
    });
    futures_util::future::join_all(connections).await;
    // More than waits anywhere on the way, as an upload is that meets an agent which was started anew.
    for at in 0..20 {
        let (request, code) = refused(&scene, at % 2 == 0, 5_000_000);
        let reply = system_tests::client::fetch(scene.stack.addr(), request).await;
        reply.is_problem(code);
        assert_eq!(reply.headers.contains_key("signature"), code == Code::SigningSessionExpired);
    }
    assert_eq!(local.count(), 0);
}
