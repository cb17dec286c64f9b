//! Bodies of signed requests: checked as they stream, and never whole when they are wrong.

use crate::{
    checks::mirror,
    client::{self, Body},
    common::{app, head, local, soon},
    setup::Setup,
    signed::{Failure, Session, Signed},
};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use local_agent_client::LocalTarget;
use relay_protocol::{
    problem::{Code, Problem},
    record::MEDIA_TYPE,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

/// A local server that tells all that it got of a body, up to the end of the connection, and whether it answers.
async fn recorder(answer_when: usize) -> (LocalTarget, mpsc::Receiver<Vec<u8>>) {
    let (got, bodies) = mpsc::channel(4);
    let (target, _) = local(move |mut socket| {
        let got = got.clone();
        async move {
            head(&mut socket).await;
            let mut body = Vec::new();
            let mut buffer = vec![0; 64 * 1024];
            while body.len() < answer_when {
                match socket.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => body.extend_from_slice(&buffer[..count]),
                }
            }
            if body.len() >= answer_when {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
            got.send(body).await.unwrap();
        }
    })
    .await;
    (target, bodies)
}

/// Sends a signed request's head with another body than was signed.
async fn send_with(
    session: &Session<'_>,
    signed: &Signed,
    body: Body,
    length: Option<usize>,
) -> Result<String, Failure> {
    let browser = session.browser;
    let mut request = signed.outer(browser).map(|_| body);
    if let Some(length) = length {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let response = client::send(browser.addr, request).await.map_err(|e| Failure::Nothing(e.to_string()))?;
    if response.headers().get("content-type").is_some_and(|kind| kind == MEDIA_TYPE) {
        let bytes = response.into_body().collect().await.map_err(|_| Failure::Truncated)?.to_bytes();
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    let reply = client::Reply::collect(response).await.map_err(|_| Failure::Truncated)?;
    let answer = signed.verify(browser, reply)?;
    let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
    Err(Failure::Agent(problem.code))
}

fn pieces(pieces: &[&[u8]]) -> Body {
    let frames: Vec<_> = pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

#[tokio::test]
async fn a_wrong_body_never_ends() {
    let whole: &[u8] = b"first second third";
    // As it was sent, and how much of it the local server may have seen at the most.
    let cases: [(&str, &[&[u8]], Option<usize>); 6] = [
        ("changed at its end", &[b"first ", b"second ", b"THIRD"], Some(18)),
        ("changed at its beginning", &[b"FIRST ", b"second ", b"third"], Some(18)),
        ("cut, with a length to match", &[b"first ", b"second "], Some(13)),
        ("longer", &[b"first ", b"second ", b"third", b" fourth"], Some(25)),
        ("cut, chunked", &[b"first ", b"second "], None),
        ("empty", &[], Some(0)),
    ];
    for (what, sent, length) in cases {
        let (target, mut bodies) = recorder(whole.len()).await;
        let setup = Setup::new(target).await;
        let browser = setup.browser().await;
        let session = soon(browser.session()).await.unwrap();
        let signed = session.sign(Request::post("/").body(Bytes::copy_from_slice(whole)).unwrap());
        let refused = soon(send_with(&session, &signed, pieces(sent), length)).await.unwrap_err();
        assert_eq!(refused, Failure::Agent(Code::DigestMismatch), "{what}");
        if !sent.is_empty() {
            let got = soon(bodies.recv()).await.unwrap();
            let text = String::from_utf8_lossy(&got).into_owned();
            let last = std::str::from_utf8(sent[sent.len() - 1]).unwrap().trim();
            assert!(!text.contains(last), "{what}: {text}");
            assert!(!text.ends_with("0\r\n\r\n"), "{what}: {text}");
        }
        assert_eq!(setup.refused("digest_mismatch"), 1, "{what}");
    }
}

#[tokio::test]
async fn a_right_body_arrives_however_it_is_cut() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    for (sent, length) in [
        (vec![&b"first "[..], b"second ", b"third"], None),
        (vec![b"f", b"irst second third"], Some(18)),
        (vec![b"first second third"], Some(18)),
    ] {
        let request = Request::post("/").body(Bytes::from_static(b"first second third")).unwrap();
        let signed = session.sign(request);
        let text = soon(send_with(&session, &signed, pieces(&sent), length)).await.unwrap();
        assert!(text.contains("body: first second third"), "{text}");
    }
    // A body where none was signed.
    let signed = session.sign(Request::post("/").body(Bytes::new()).unwrap());
    for length in [None, Some(1)] {
        let refused = soon(send_with(&session, &signed, pieces(&[b"x"]), length)).await.unwrap_err();
        assert_eq!(refused, Failure::Agent(Code::Uncovered));
    }
}

#[tokio::test]
async fn a_piece_goes_on_once_another_has_come() {
    let (target, mut bodies) = recorder(usize::MAX).await;
    let setup = Setup::new(target).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    const SIZE: usize = 100_000;
    let signed = session.sign(Request::post("/").body(Bytes::from(vec![b'x'; SIZE])).unwrap());
    let (sender, body) = client::channel();
    let sending = async {
        // Some of them arrive together; what came before the last of them goes on.
        while setup.gate.forwarder().stats().counts().bytes_received == 0 {
            sender.send(Frame::data(Bytes::from_static(b"x"))).await.unwrap();
            tokio::task::yield_now().await;
        }
        // Revoking ends the upload, although nothing more comes.
        setup.pairing.browsers().revoke(browser.client_id).unwrap();
    };
    let (refused, ()) =
        soon(async { tokio::join!(send_with(&session, &signed, body, Some(SIZE)), sending) }).await;
    assert_eq!(refused.unwrap_err(), Failure::Agent(Code::SigningSessionEnded));
    let got = soon(bodies.recv()).await.unwrap();
    assert!(!got.is_empty() && got.len() < SIZE, "{}", got.len());
    assert!(setup.gate.forwarder().stats().counts().bytes_received < SIZE as u64);
}

#[tokio::test]
async fn large_bodies_stream_and_are_checked_to_their_end() {
    const SIZE: usize = 64 << 20;
    let body = Bytes::from(vec![7; SIZE]);
    let (target, mut bodies) = recorder(SIZE).await;
    let setup = Setup::new(target).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let signed = session.sign(Request::post("/").body(body.clone()).unwrap());
    let answer = tokio::time::timeout(crate::common::SOON * 6, session.send(&signed)).await.unwrap();
    assert_eq!(answer.unwrap().text(), "ok");
    assert_eq!(soon(bodies.recv()).await.unwrap().len(), SIZE);
    let mut wrong = vec![7; SIZE];
    wrong[0] = 8;
    let signed = session.sign(Request::post("/").body(body).unwrap());
    let sent = send_with(&session, &signed, crate::client::full(wrong), None);
    let refused = tokio::time::timeout(crate::common::SOON * 6, sent).await.unwrap().unwrap_err();
    assert_eq!(refused, Failure::Agent(Code::DigestMismatch));
    assert!(soon(bodies.recv()).await.unwrap().len() < SIZE);
}

#[tokio::test]
async fn an_upload_may_wait_for_a_hundred() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    // Covered it goes to the local server, which wants the body; not covered it is this hop's own.
    for covered in [true, false] {
        let mut request = Request::post("/").body(Bytes::from_static(b"hello")).unwrap();
        let expect = HeaderValue::from_static("100-continue");
        if covered {
            request.headers_mut().insert(header::EXPECT, expect.clone());
        }
        let mut signed = session.sign(request);
        signed.request.headers_mut().insert(header::EXPECT, expect);
        let mut text = String::from("POST / HTTP/1.1\r\nhost: r\r\ncontent-length: 5\r\n");
        for (name, value) in signed.request.headers() {
            text += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        let mut stream = setup.pair.relay.open().await.unwrap();
        stream.write_all((text + "\r\n").as_bytes()).await.unwrap();
        assert!(soon(head(&mut stream)).await.starts_with("HTTP/1.1 100"));
        stream.write_all(b"hello").await.unwrap();
        assert!(soon(head(&mut stream)).await.contains(MEDIA_TYPE));
    }
}
