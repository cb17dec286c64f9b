//! Answers to signed requests: records as they come, or one piece.

use crate::{
    checks::mirror,
    common::{app, head, local, soon},
    setup::Setup,
    signed::{Failure, Session},
};
use axum::{Router, body::Body as AxumBody, routing::get};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use local_agent_client::LocalTarget;
use relay_protocol::{
    problem::Code,
    record::{Kind, MAX_DATA},
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{io::AsyncWriteExt, sync::mpsc};

/// A local server that answers each connection's first request with these bytes, and ends it.
async fn says(answer: &'static str) -> LocalTarget {
    let (target, _) = local(move |mut socket| async move {
        head(&mut socket).await;
        socket.write_all(answer.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
    })
    .await;
    target
}

/// A body that is written as the test goes.
pub fn channel_body() -> (mpsc::Sender<Bytes>, Router) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let router = Router::new().route(
        "/",
        get(move || async move {
            let mut receiver = receiver.lock().unwrap().take().unwrap();
            AxumBody::from_stream(futures_util::stream::poll_fn(move |cx| {
                receiver.poll_recv(cx).map(|piece| piece.map(Ok::<_, std::io::Error>))
            }))
        }),
    );
    (sender, router)
}

fn request(method: &str) -> Request<Bytes> {
    Request::builder().method(method).uri("/").body(Bytes::new()).unwrap()
}

#[tokio::test]
async fn the_first_event_arrives_before_the_second_is_made() {
    let (events, router) = channel_body();
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let signed = session.sign(request("GET"));
    let mut stream = soon(session.open(&signed)).await.unwrap();
    for event in ["one", "two"] {
        events.send(event.into()).await.unwrap();
        let record = soon(stream.next()).await.unwrap();
        assert_eq!((record.kind, &record.payload[..]), (Kind::Data, event.as_bytes()));
    }
    drop(events);
    assert_eq!(soon(stream.next()).await.unwrap().kind, Kind::End);
}

#[tokio::test]
async fn revoking_ends_a_stream_in_its_middle() {
    let (events, router) = channel_body();
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let mut stream = soon(session.open(&session.sign(request("GET")))).await.unwrap();
    events.send("one".into()).await.unwrap();
    soon(stream.next()).await.unwrap();
    setup.pairing.browsers().revoke(browser.client_id).unwrap();
    // Nothing comes from the local server, and it ends all the same.
    assert_eq!(soon(stream.next()).await.unwrap_err(), Failure::Agent(Code::SigningSessionEnded));
    soon(events.closed()).await;
    soon(async {
        while setup.gate.forwarder().stats().counts().active > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_breaks_off_is_told_from_what_ends() {
    for (answer, after_head) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n", true),
        ("", false),
        ("not http at all\r\n\r\n", false),
    ] {
        let setup = Setup::new(says(answer).await).await;
        let browser = setup.browser().await;
        let session = soon(browser.session()).await.unwrap();
        let opened = soon(session.open(&session.sign(request("POST")))).await;
        let failure = match (after_head, opened) {
            (true, Ok(mut stream)) => loop {
                match soon(stream.next()).await {
                    Ok(record) => assert_eq!(record.kind, Kind::Data),
                    Err(failure) => break failure,
                }
            },
            (false, Err(failure)) => failure,
            (_, opened) => panic!("{answer}: {:?}", opened.map(|stream| stream.head)),
        };
        assert_eq!(failure, Failure::Agent(Code::LocalServerFailed), "{answer}");
        // In one piece there is nothing to show of it.
        let signed = browser.sign(session.id, request("POST"));
        let refused = soon(signed.send_buffered(&browser)).await.unwrap_err();
        assert_eq!(refused, Failure::Agent(Code::LocalServerFailed), "{answer}");
    }
    let setup = Setup::new("http://127.0.0.1:9".parse().unwrap()).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    assert_eq!(soon(session.get("/")).await.unwrap_err(), Failure::Agent(Code::LocalServerUnreachable));
}

const RICH: &str = "HTTP/1.1 201 Created\r\ncontent-length: 4\r\nlocation: /made\r\nset-cookie: a=1; Path=/\r\n\
    set-cookie: b=2\r\nclear-site-data: \"*\"\r\naccess-control-allow-origin: *\r\nvary: accept\r\nx-app: \u{e9}\r\nx-app: 2\r\n\
    x-request-id: own\r\n\r\nbody";

#[tokio::test]
async fn headers_are_protected_and_cookies_go_beside() {
    let setup = Setup::new(says(RICH).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let records = soon(session.fetch(request("POST"))).await.unwrap();
    let signed = browser.sign(session.id, request("POST"));
    let piece = soon(signed.send_buffered(&browser)).await.unwrap();
    for (answer, outer) in [(&records, &records.outer), (&piece, &piece.outer)] {
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::CREATED, &b"body"[..]));
        assert_eq!(answer.headers["location"], "/made");
        let app: Vec<_> = answer.headers.get_all("x-app").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(app, ["\u{e9}".as_bytes(), b"2"]);
        assert!(!answer.headers.contains_key("clear-site-data"));
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
        let cookies: Vec<_> = outer.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1; Path=/", "b=2"]);
    }
    assert!(!records.headers.contains_key("set-cookie"));
    assert_eq!(records.outer["cache-control"], "no-store");
    // The relay says that answers differ by origin; it is signed so.
    assert_eq!(piece.headers.get_all("vary").iter().collect::<Vec<_>>(), ["accept", "origin"]);
    assert!(!piece.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn answers_without_a_body_and_with_trailers() {
    for (answer, status) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n", 304),
        ("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
    ] {
        let setup = Setup::new(says(answer).await).await;
        let browser = setup.browser().await;
        let session = soon(browser.session()).await.unwrap();
        let records = soon(session.fetch(request("POST"))).await.unwrap();
        assert_eq!((records.status.as_u16(), records.body.len()), (status, 0), "{answer}");
        let piece = soon(browser.sign(session.id, request("POST")).send_buffered(&browser)).await.unwrap();
        assert_eq!((piece.status.as_u16(), piece.body.len()), (status, 0), "{answer}");
    }
    // A HEAD's answer cannot carry records: it is one piece without a body, whatever was asked for.
    let setup = Setup::new(says("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\nx-app: 1\r\n\r\n").await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let answer = soon(session.sign(request("HEAD")).send_buffered(&browser)).await.unwrap();
    assert_eq!((answer.status, &answer.headers["x-app"]), (StatusCode::OK, &HeaderValue::from_static("1")));
    assert_eq!(answer.outer["content-length"], "1234");
    // A refusal of a HEAD is signed as well.
    let refused = browser.sign(uuid::Uuid::nil(), request("HEAD"));
    let reply = soon(crate::client::try_fetch(setup.addr, refused.outer(&browser))).await.unwrap();
    assert_eq!(refused.verify(&browser, reply).unwrap().status, StatusCode::UNAUTHORIZED);

    let router = Router::new().route(
        "/",
        get(|| async {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("42"));
            let frames =
                [Ok::<_, std::io::Error>(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))];
            let body = AxumBody::new(StreamBody::new(futures_util::stream::iter(frames)));
            Response::builder().header("trailer", "x-sum").body(body).unwrap()
        }),
    );
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let mut signed = session.sign(request("GET"));
    signed.request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let answer = soon(session.send(&signed)).await.unwrap();
    assert_eq!(
        (&answer.body[..], &answer.trailers["x-sum"]),
        (&b"body"[..], &HeaderValue::from_static("42"))
    );
}

#[tokio::test]
async fn one_piece_is_bounded_and_records_are_not() {
    const SIZE: usize = (8 << 20) + 1;
    let router = Router::new()
        .route("/", get(|| async { vec![5; SIZE] }))
        .route("/fits", get(|| async { vec![5; SIZE - 1] }))
        .route(
            "/unknown",
            get(|| async {
                let pieces = (0..200).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![5; 64 * 1024])));
                AxumBody::from_stream(futures_util::stream::iter(pieces))
            }),
        );
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let one_piece = async |path: &str| {
        let request = Request::get(path).body(Bytes::new()).unwrap();
        soon(browser.sign(session.id, request).send_buffered(&browser)).await
    };
    for path in ["/", "/unknown"] {
        assert_eq!(one_piece(path).await.unwrap_err(), Failure::Agent(Code::ResponseTooLarge), "{path}");
    }
    assert_eq!(one_piece("/fits").await.unwrap().body.len(), SIZE - 1);
    let answer = soon(session.get("/")).await.unwrap();
    assert_eq!(answer.body.len(), SIZE);
}

/// Reads records until the end, and gives the sizes of DATA.
async fn sizes(session: &Session<'_>) -> Vec<usize> {
    let mut stream = soon(session.open(&session.sign(request("GET")))).await.unwrap();
    let mut sizes = Vec::new();
    loop {
        let record = soon(stream.next()).await.unwrap();
        match record.kind {
            Kind::Data => sizes.push(record.payload.len()),
            _ => return sizes,
        }
    }
}

#[tokio::test]
async fn large_pieces_are_cut_and_small_ones_joined() {
    let router = Router::new().route("/", get(|| async { vec![5; 1 << 20] }));
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let large = sizes(&session).await;
    assert!(large.iter().all(|size| *size <= MAX_DATA));
    assert_eq!(large.iter().sum::<usize>(), 1 << 20);
    let router = Router::new().route(
        "/",
        get(|| async {
            let pieces = (0..1000).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"0123456789")));
            AxumBody::from_stream(futures_util::stream::iter(pieces))
        }),
    );
    // A service's pieces are there at once; those of a connection come when they come.
    let setup = Setup::new(LocalTarget::service(router)).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let small = sizes(&session).await;
    assert_eq!(small.iter().sum::<usize>(), 10_000);
    assert_eq!(small.len(), 1);
}

#[tokio::test]
async fn a_slow_reader_slows_the_local_server() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let router = Router::new().route(
        "/",
        get(move || async move {
            let pieces = std::iter::repeat_with(move || {
                count.fetch_add(64 * 1024, Ordering::SeqCst);
                Ok::<_, std::io::Error>(Bytes::from(vec![5; 64 * 1024]))
            });
            AxumBody::from_stream(futures_util::stream::iter(pieces))
        }),
    );
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let mut stream = soon(session.open(&session.sign(request("GET")))).await.unwrap();
    // Until everything on the way is full, nothing is read.
    let mut before = usize::MAX;
    soon(async {
        loop {
            let now = made.load(Ordering::SeqCst);
            if now == before {
                break;
            }
            before = now;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    })
    .await;
    // Socket buffers of four connections and the tunnel's window; an endless body would be far beyond.
    assert!(before < 64 << 20, "{before}");
    for _ in 0..200 {
        assert_eq!(soon(stream.next()).await.unwrap().kind, Kind::Data);
    }
    drop(stream);
    soon(async {
        while setup.gate.forwarder().stats().counts().active > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_service_inside_this_program_is_reached_the_same_way() {
    let setup = Setup::new(LocalTarget::service(mirror())).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let request = Request::post("/a?b").header("x-app", "1").body(Bytes::from_static(b"hello")).unwrap();
    let text = soon(session.fetch(request)).await.unwrap().text();
    assert!(text.starts_with("POST /a?b\n") && text.ends_with("body: hello"), "{text}");
}
