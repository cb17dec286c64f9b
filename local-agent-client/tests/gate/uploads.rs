//! Bodies of requests inside exchanges: streamed both ways, and never whole when they are not.

use crate::{
    common::{app, head, local, soon},
    exchanges::both,
    sealed::Whole,
    setup::Setup,
    signed::Failure,
};
use axum::{Router, body::Body as AxumBody, extract::Request as AxumRequest, routing::any};
use bytes::Bytes;
use http::Request;
use relay_protocol::{
    exchange::PRELUDE_LEN,
    problem::Code,
    record::{Kind, MAX_DATA},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

/// Counts the bodies that came to their end.
fn counter() -> (Arc<AtomicUsize>, Router) {
    let whole = Arc::new(AtomicUsize::new(0));
    let count = whole.clone();
    let router = Router::new().fallback(any(move |request: AxumRequest| async move {
        let length =
            request.headers().get("content-length").map(|length| length.to_str().unwrap().to_owned());
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        if body.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
        format!("{length:?} {}", body.map(|body| body.len()).unwrap_or_default())
    }));
    (whole, router)
}

/// Where the records of an exchange begin, and where the last one ends.
fn boundaries(bytes: &[u8], overhead: usize) -> Vec<usize> {
    let mut at = PRELUDE_LEN;
    let mut all = vec![at];
    while at < bytes.len() {
        let length = u32::from_be_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
        at += 5 + length + overhead;
        all.push(at);
    }
    all
}

fn post(size: usize) -> Request<Bytes> {
    Request::post("/").body(Bytes::from(vec![b'x'; size])).unwrap()
}

#[tokio::test]
async fn a_body_that_is_cut_is_never_whole() {
    let (whole, router) = counter();
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    for (session, overhead) in both(&browser).await.iter().zip([16, 64]) {
        // HEAD, three DATA and END.
        let size = 2 * MAX_DATA + 7;
        let cuts = boundaries(&session.seal(&post(size)).bytes, overhead);
        assert_eq!(cuts.len(), 6);
        let inside = cuts.windows(2).flat_map(|pair| [pair[0] + 3, pair[0] + 9, pair[1] - 1]);
        for cut in cuts[1..5].iter().copied().chain(inside.filter(|cut| *cut > cuts[1])) {
            let sealed = session.seal(&post(size));
            let part = Whole { bytes: sealed.bytes.slice(..cut), ..sealed };
            assert_eq!(
                soon(session.send(&part)).await.unwrap_err(),
                Failure::Agent(Code::BadRequest),
                "{cut}"
            );
            assert_eq!(whole.load(Ordering::SeqCst), 0, "{cut}");
        }
    }
    for session in both(&browser).await {
        assert_eq!(soon(session.fetch(post(100_000))).await.unwrap().text(), "None 100000");
    }
    assert_eq!(whole.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_body_that_is_altered_is_never_whole() {
    let (whole, router) = counter();
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    for (session, overhead) in both(&browser).await.iter().zip([16, 64]) {
        let size = MAX_DATA + 7;
        let at = boundaries(&session.seal(&post(size)).bytes, overhead);
        let [first, second, end] = [at[1], at[2], at[3]];
        type Alter = Box<dyn Fn(&mut Vec<u8>)>;
        let flip = |at: usize| -> Alter { Box::new(move |bytes| bytes[at] ^= 1) };
        let cases: Vec<(&str, Code, Alter)> = vec![
            ("the first piece", Code::SignatureInvalid, flip(first + 9)),
            ("its protection", Code::SignatureInvalid, flip(second - 1)),
            ("the last piece", Code::SignatureInvalid, flip(second + 9)),
            ("the end", Code::SignatureInvalid, flip(end + 6)),
            ("an end for a piece", Code::SignatureInvalid, Box::new(move |b| drop(b.drain(second..end)))),
            (
                "a piece twice",
                Code::SignatureInvalid,
                Box::new(move |b| {
                    let again = b[second..end].to_vec();
                    b.splice(end..end, again);
                }),
            ),
            (
                "another order",
                Code::SignatureInvalid,
                Box::new(move |b| {
                    let moved: Vec<u8> = b.drain(second..end).collect();
                    b.splice(first..first, moved);
                }),
            ),
            ("an unknown type", Code::BadRequest, Box::new(move |b| b[second + 4] = 0x7f)),
            ("more behind the end", Code::BadRequest, Box::new(|b| b.push(0))),
        ];
        for (what, code, alter) in cases {
            let sealed = session.seal(&post(size));
            let mut bytes = sealed.bytes.to_vec();
            alter(&mut bytes);
            let altered = Whole { bytes: bytes.into(), ..sealed };
            assert_eq!(soon(session.send(&altered)).await.unwrap_err(), Failure::Agent(code), "{what}");
            assert_eq!(whole.load(Ordering::SeqCst), 0, "{what}");
        }
        // Right for the session, and wrong in itself.
        for (kind, payload) in [(Kind::Text, "x"), (Kind::Head, "{}"), (Kind::End, "[]"), (Kind::Error, "{}")]
        {
            let mut exchange = session.exchange();
            let mut bytes = exchange.begin(&post(0)).to_vec();
            bytes.extend_from_slice(&exchange.record(Kind::Data, "x"));
            bytes.extend_from_slice(&exchange.record(kind, payload));
            let sealed = Whole { prelude: exchange.prelude, bytes: bytes.into() };
            assert_eq!(
                soon(session.send(&sealed)).await.unwrap_err(),
                Failure::Agent(Code::BadRequest),
                "{kind:?}"
            );
        }
        assert_eq!(whole.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn small_bodies_have_their_length() {
    let (_, router) = counter();
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        assert_eq!(soon(session.fetch(post(5))).await.unwrap().text(), "Some(\"5\") 5");
        assert_eq!(soon(session.fetch(post(0))).await.unwrap().text(), "Some(\"0\") 0");
        assert_eq!(soon(session.get("/")).await.unwrap().text(), "None 0");
    }
}

#[tokio::test]
async fn large_bodies_stream_both_ways() {
    const SIZE: usize = 24 << 20;
    let echo =
        Router::new().fallback(any(|request: AxumRequest| async move { AxumBody::new(request.into_body()) }));
    let setup = Setup::new(app(echo).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        let body: Bytes = (0..SIZE).map(|at| (at / 1000) as u8).collect();
        let request = Request::post("/").body(body.clone()).unwrap();
        let answer = tokio::time::timeout(crate::common::SOON * 6, session.fetch(request)).await.unwrap();
        assert!(answer.unwrap().body == body);
    }
}

#[tokio::test]
async fn what_comes_goes_on_at_once_and_a_local_server_that_does_not_read_slows_the_browser() {
    let (got, mut first) = mpsc::channel(4);
    let (target, _) = local(move |mut socket| {
        let got = got.clone();
        async move {
            head(&mut socket).await;
            let mut piece = vec![0; 16];
            let count = socket.read(&mut piece).await.unwrap();
            got.send(String::from_utf8_lossy(&piece[..count]).into_owned()).await.unwrap();
            // Reads nothing more.
            std::future::pending::<()>().await;
        }
    })
    .await;
    let setup = Setup::new(target).await;
    let browser = setup.browser().await;
    let session = soon(browser.sealed()).await.unwrap();
    let mut upload = session.upload(Request::post("/").body(()).unwrap()).await;
    upload.send(Kind::Data, "first").await.unwrap();
    assert!(soon(first.recv()).await.unwrap().contains("first"), "although the end has not come");
    let mut sent = 0;
    let piece = Bytes::from(vec![1; MAX_DATA]);
    while let Ok(fits) =
        tokio::time::timeout(Duration::from_millis(500), upload.send(Kind::Data, piece.clone())).await
    {
        fits.unwrap();
        sent += piece.len();
        assert!(sent < 64 << 20, "nothing slows it");
    }
    // Revoking ends it all the same.
    setup.pairing.browsers().revoke(browser.client_id).unwrap();
    let refused = soon(upload.answer()).await.err().unwrap();
    assert_eq!(refused, Failure::Agent(Code::SigningSessionEnded));
    setup.until_idle().await;
}

#[tokio::test]
async fn a_browser_that_leaves_ends_its_request() {
    let (ended, mut told) = mpsc::channel(1);
    let (target, _) = local(move |mut socket| {
        let ended = ended.clone();
        async move {
            head(&mut socket).await;
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
            let _ = socket.write_all(b"late").await;
            ended.send(rest).await.unwrap();
        }
    })
    .await;
    let setup = Setup::new(target).await;
    let browser = setup.browser().await;
    let session = soon(browser.sealed()).await.unwrap();
    let mut upload = session.upload(Request::post("/").body(()).unwrap()).await;
    upload.send(Kind::Data, "first").await.unwrap();
    setup.until_uploading().await;
    upload.send(Kind::Error, "{}").await.unwrap();
    let rest = soon(told.recv()).await.unwrap();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(soon(upload.answer()).await.err().unwrap(), Failure::Agent(Code::BadRequest));
    setup.until_idle().await;
}
