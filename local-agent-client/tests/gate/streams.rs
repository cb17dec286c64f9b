//! Exchanges over byte streams of their own, as a peer's channel carries them.

use crate::{
    answers::channel_body,
    checks::mirror,
    common::{app, head, local, soon},
    exchanges::{both, get},
    sealed::{Exchange, Session},
    setup::{HOST, Setup},
    signed::Failure,
    websockets::router,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use local_agent_client::gate::Gate;
use relay_protocol::{
    exchange::RequestHead,
    keys::AgentVerifyingKey,
    problem::Code,
    record::{Close, Decoder, EPOCH_SECONDS, Head, Kind, NEXT_EPOCH, Opener, Order, Record, decode_error},
};
use std::{future::pending, sync::Arc, sync::atomic::Ordering};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    task::JoinHandle,
};
use uuid::Uuid;

/// The browser's end of a stream.
struct Stream {
    io: DuplexStream,
    decoder: Decoder<Opener<AgentVerifyingKey>>,
    order: Order,
    served: JoinHandle<()>,
}

fn serve(gate: &Arc<Gate>, browser: Uuid) -> (DuplexStream, JoinHandle<()>) {
    let (io, theirs) = tokio::io::duplex(64 * 1024);
    let gate = gate.clone();
    (io, tokio::spawn(async move { gate.exchange_stream(theirs, pending(), browser).await }))
}

impl Stream {
    async fn begin(setup: &Setup, session: &Session<'_>, exchange: &Exchange, first: &[u8]) -> Self {
        let (mut io, served) = serve(&setup.gate, session.browser.client_id);
        io.write_all(first).await.unwrap();
        let decoder = Decoder::new(session.opener(&exchange.prelude));
        Self { io, decoder, order: Order::answer(), served }
    }

    async fn send(&mut self, bytes: &[u8]) {
        soon(self.io.write_all(bytes)).await.unwrap();
    }

    /// The next record; none at the end of the stream.
    async fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.decoder.next_record().unwrap() {
                self.order.next(record.kind).unwrap();
                return Some(record);
            }
            let mut piece = BytesMut::with_capacity(4096);
            if soon(self.io.read_buf(&mut piece)).await.unwrap() == 0 {
                self.decoder.finish().unwrap();
                return None;
            }
            self.decoder.push(piece.freeze());
        }
    }

    /// The whole answer, and that the stream ends with it.
    async fn answer(&mut self) -> Result<(StatusCode, String), Failure> {
        let first = self.next().await.unwrap();
        if first.kind == Kind::Error {
            assert_eq!(self.next().await, None);
            return Err(Failure::Agent(decode_error(&first.payload).unwrap().code));
        }
        let head = Head::decode(&first.payload).unwrap();
        let mut body = Vec::new();
        while let Some(record) = self.next().await {
            body.extend_from_slice(&record.payload);
        }
        self.order.finish().unwrap();
        Ok((head.status, String::from_utf8(body).unwrap()))
    }
}

#[tokio::test]
async fn a_request_and_its_answer_are_a_stream() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        let mut exchange = session.exchange();
        let request = Request::post("/a?b").header("x-app", "1").header("x-forwarded-for", "6.6.6.6");
        let first = exchange.begin(&request.body(()).unwrap());
        let mut stream = Stream::begin(&setup, &session, &exchange, &first).await;
        stream.send(&exchange.record(Kind::Data, "hello")).await;
        stream.send(&exchange.record(Kind::End, "")).await;
        let (status, text) = stream.answer().await.unwrap();
        assert_eq!(status, 200);
        assert!(text.starts_with("POST /a?b\n") && text.ends_with("body: hello"), "{text}");
        let prefix = format!("x-forwarded-prefix: /v1/relay/h/{HOST}");
        for line in [
            "x-app: 1",
            "x-relayed: 1",
            "x-forwarded-proto: https",
            "x-forwarded-host: relay.example",
            &prefix,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(!text.contains("x-forwarded-for"), "{text}");
        soon(stream.served).await.unwrap();
        // The very same bytes over the relay, after they were done here.
        let mut exchange = session.exchange();
        let mut bytes = exchange.begin(&get("/")).to_vec();
        bytes.extend_from_slice(&exchange.record(Kind::End, ""));
        let mut stream = Stream::begin(&setup, &session, &exchange, &bytes).await;
        assert_eq!(stream.answer().await.unwrap().0, 200);
        let whole = crate::sealed::Whole { prelude: exchange.prelude, bytes: bytes.into() };
        assert_eq!(soon(session.send(&whole)).await.unwrap_err(), Failure::Agent(Code::Replayed));
        // An error is a record too, and the end of the stream.
        let mut exchange = session.exchange();
        let first = exchange.begin(&get("/_relay/nothing"));
        let mut stream = Stream::begin(&setup, &session, &exchange, &first).await;
        stream.send(&exchange.record(Kind::End, "")).await;
        assert_eq!(stream.answer().await.unwrap_err(), Failure::Agent(Code::NotFound));
    }
    setup.until_idle().await;
}

#[tokio::test]
async fn what_may_not_be_answered_is_dropped_without_a_byte() {
    let (target, accepted) = local(|_| async {}).await;
    let setup = Setup::new(target).await;
    let (browser, other) = (setup.browser().await, setup.browser().await);
    for session in both(&browser).await {
        let whole = session.seal(&get("/"));
        let mut altered = whole.bytes.to_vec();
        altered[40] ^= 1;
        let unknown = [&[0; 24], &whole.bytes[24..]].concat();
        for (what, browser, bytes) in [
            ("another browser's path", other.client_id, whole.bytes.to_vec()),
            ("altered", browser.client_id, altered),
            ("unknown", browser.client_id, unknown),
        ] {
            let (mut io, served) = serve(&setup.gate, browser);
            io.write_all(&bytes).await.unwrap();
            let mut answer = Vec::new();
            soon(io.read_to_end(&mut answer)).await.unwrap();
            assert!(answer.is_empty(), "{what}");
            soon(served).await.unwrap();
        }
        // One that ends before it has begun.
        let (io, served) = serve(&setup.gate, browser.client_id);
        drop(io);
        soon(served).await.unwrap();
        assert_eq!(accepted.load(Ordering::SeqCst), 0);
        assert_eq!(setup.begun(), 0, "the number is as good as new");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_begin_is_given_up() {
    let setup = Setup::new("http://127.0.0.1:9".parse().unwrap()).await;
    let (mut io, served) = serve(&setup.gate, Uuid::nil());
    io.write_all(&[0; 10]).await.unwrap();
    served.await.unwrap();
    assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(setup.refused("request_timeout"), 1);
}

#[tokio::test]
async fn an_end_of_either_side_ends_the_other() {
    let (ended, mut told) = mpsc::channel(1);
    let (target, _) = local(move |mut socket| {
        let ended = ended.clone();
        async move {
            let asked = head(&mut socket).await;
            if asked.starts_with("POST /early") {
                let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
                socket.write_all(answer).await.unwrap();
            }
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
            ended.send(asked).await.unwrap();
        }
    })
    .await;
    let setup = Setup::new(target).await;
    let browser = setup.browser().await;
    let session = soon(browser.sealed()).await.unwrap();
    // Who does not wait for the whole upload is heard all the same, and the stream ends with the upload.
    let mut exchange = session.exchange();
    let first = exchange.begin(&Request::post("/early").body(()).unwrap());
    let mut stream = Stream::begin(&setup, &session, &exchange, &first).await;
    stream.send(&exchange.record(Kind::Data, "a little")).await;
    assert_eq!(Head::decode(&stream.next().await.unwrap().payload).unwrap().status, 413);
    assert_eq!(stream.next().await.unwrap().payload, "no");
    assert_eq!(stream.next().await.unwrap().kind, Kind::End);
    for _ in 0..16 {
        stream.send(&exchange.record(Kind::Data, Bytes::from(vec![1; 65_536]))).await;
    }
    stream.send(&exchange.record(Kind::End, "")).await;
    assert_eq!(stream.next().await, None);
    soon(told.recv()).await.unwrap();
    // Who leaves while the upload is under way.
    let mut exchange = session.exchange();
    let first = exchange.begin(&Request::post("/slow").body(()).unwrap());
    let mut stream = Stream::begin(&setup, &session, &exchange, &first).await;
    stream.send(&exchange.record(Kind::Data, "a little")).await;
    setup.until_uploading().await;
    drop(stream.io);
    assert!(soon(told.recv()).await.unwrap().starts_with("POST /slow"));
    soon(stream.served).await.unwrap();
    // Who is said to be gone while nobody reads.
    let mut exchange = session.exchange();
    let mut bytes = exchange.begin(&get("/wait")).to_vec();
    bytes.extend_from_slice(&exchange.record(Kind::End, ""));
    let (mut io, theirs) = tokio::io::duplex(64 * 1024);
    io.write_all(&bytes).await.unwrap();
    let (gone, is_gone) = tokio::sync::oneshot::channel::<()>();
    let (gate, id) = (setup.gate.clone(), browser.client_id);
    let gone_then = async move { is_gone.await.unwrap_or_default() };
    let served = tokio::spawn(async move { gate.exchange_stream(theirs, gone_then, id).await });
    soon(async {
        while setup.gate.forwarder().stats().counts().active == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(gone);
    soon(served).await.unwrap();
    setup.until_idle().await;
}

#[tokio::test]
async fn a_long_answer_goes_on_under_another_key_and_ends_with_the_browser() {
    let (events, router) = channel_body();
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.sealed()).await.unwrap();
    let mut exchange = session.exchange();
    let mut bytes = exchange.begin(&get("/")).to_vec();
    bytes.extend_from_slice(&exchange.record(Kind::End, ""));
    let mut stream = Stream::begin(&setup, &session, &exchange, &bytes).await;
    assert_eq!(stream.next().await.unwrap().kind, Kind::Head);
    events.send("one".into()).await.unwrap();
    assert_eq!(stream.next().await.unwrap().payload, "one");
    for epoch in 1..3 {
        setup.ahead.store(epoch * EPOCH_SECONDS as i64, Ordering::SeqCst);
        events.send("later".into()).await.unwrap();
        let mut record = [0; 5 + 5 + 16];
        soon(stream.io.read_exact(&mut record)).await.unwrap();
        assert_eq!(record[4], Kind::Data as u8 | NEXT_EPOCH);
        stream.decoder.push(Bytes::copy_from_slice(&record));
        assert_eq!(stream.next().await.unwrap().payload, "later");
    }
    setup.pairing.browsers().revoke(browser.client_id).unwrap();
    let error = stream.next().await.unwrap();
    assert_eq!(decode_error(&error.payload).unwrap().code, Code::SigningSessionEnded);
    assert_eq!(stream.next().await, None);
    soon(events.closed()).await;
    setup.until_idle().await;
}

#[tokio::test]
async fn a_websocket_is_a_stream_too() {
    let (ended, mut told) = mpsc::channel(16);
    let setup = Setup::new(app(router(ended)).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        let open = async |target: &str| {
            let mut exchange = session.exchange();
            let target = target.parse().unwrap();
            let head =
                RequestHead { method: Method::GET, target, headers: HeaderMap::new(), websocket: true };
            let first = exchange.begin_with(&head);
            let mut stream = Stream::begin(&setup, &session, &exchange, &first).await;
            stream.order = Order::websocket_from_agent();
            let head = Head::decode(&stream.next().await.unwrap().payload).unwrap();
            if head.status == 101 {
                stream.order.accepted().unwrap();
            }
            (exchange, stream, head.status)
        };
        let (mut exchange, mut stream, status) = open("/echo").await;
        assert_eq!(status, 101);
        for size in [0, 5, 4 << 20] {
            let payload = Bytes::from(vec![7; size]);
            let record = exchange.record(Kind::Binary, payload.clone());
            let (mut read, mut write) = tokio::io::split(&mut stream.io);
            let decoder = &mut stream.decoder;
            let reading = async {
                loop {
                    if let Some(record) = decoder.next_record().unwrap() {
                        return record;
                    }
                    let mut piece = BytesMut::with_capacity(64 * 1024);
                    assert!(read.read_buf(&mut piece).await.unwrap() > 0);
                    decoder.push(piece.freeze());
                }
            };
            let (sent, echoed) = soon(async { tokio::join!(write.write_all(&record), reading) }).await;
            sent.unwrap();
            assert!(echoed == Record { kind: Kind::Binary, payload });
        }
        let close = Close { code: 1000, reason: String::new() };
        stream.send(&exchange.record(Kind::Close, Close::encode(Some(&close)))).await;
        assert_eq!(stream.next().await.unwrap().kind, Kind::Close);
        assert_eq!(stream.next().await, None);
        soon(stream.served).await.unwrap();

        let (_, mut stream, status) = open("/refuse").await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert_eq!(stream.next().await.unwrap().kind, Kind::End);
        assert_eq!(stream.next().await, None);

        let (_, stream, _) = open("/tell").await;
        drop(stream.io);
        assert_eq!(soon(told.recv()).await.unwrap(), "broken");
        let (mut exchange, mut stream, _) = open("/tell").await;
        let mut wrong = exchange.record(Kind::Text, "hello").to_vec();
        wrong[6] ^= 1;
        stream.send(&wrong).await;
        assert_eq!(soon(told.recv()).await.unwrap(), "broken");
        assert_eq!(stream.next().await, None, "no record says that it was closed");
    }
    let session = soon(browser.sealed()).await.unwrap();
    let mut exchange = session.exchange();
    let target = "/tell".parse().unwrap();
    let head = RequestHead { method: Method::GET, target, headers: HeaderMap::new(), websocket: true };
    let first = exchange.begin_with(&head);
    let mut stream = Stream::begin(&setup, &session, &exchange, &first).await;
    stream.order = Order::websocket_from_agent();
    stream.next().await.unwrap();
    stream.order.accepted().unwrap();
    setup.pairing.browsers().revoke(browser.client_id).unwrap();
    assert_eq!(soon(told.recv()).await.unwrap(), "broken");
    let error = stream.next().await.unwrap();
    assert_eq!(decode_error(&error.payload).unwrap().code, Code::SigningSessionEnded);
    assert_eq!(stream.next().await, None);
    setup.until_idle().await;
}

#[tokio::test]
async fn the_end_of_a_session_does_not_cut_a_record() {
    let (ended, _told) = mpsc::channel(16);
    let setup = Setup::new(app(router(ended)).await).await;
    for form in 0..2 {
        let browser = setup.browser().await;
        let session = &both(&browser).await[form];
        let mut exchange = session.exchange();
        let target = "/echo".parse().unwrap();
        let head = RequestHead { method: Method::GET, target, headers: HeaderMap::new(), websocket: true };
        let first = exchange.begin_with(&head);
        let mut stream = Stream::begin(&setup, session, &exchange, &first).await;
        stream.order = Order::websocket_from_agent();
        stream.next().await.unwrap();
        stream.order.accepted().unwrap();
        const SIZE: usize = 1 << 20;
        stream.send(&exchange.record(Kind::Binary, vec![7; SIZE])).await;
        // The echo has begun, and does not fit into what waits on the way.
        let mut beginning = [0; 5];
        soon(stream.io.read_exact(&mut beginning)).await.unwrap();
        setup.pairing.browsers().revoke(browser.client_id).unwrap();
        stream.decoder.push(Bytes::copy_from_slice(&beginning));
        let echo = stream.next().await.unwrap();
        assert_eq!((echo.kind, echo.payload.len()), (Kind::Binary, SIZE));
        let error = stream.next().await.unwrap();
        assert_eq!(decode_error(&error.payload).unwrap().code, Code::SigningSessionEnded);
        assert_eq!(stream.next().await, None);
        soon(stream.served).await.unwrap();
    }
}

#[tokio::test]
async fn exchanges_that_the_relay_begins_and_does_not_finish_starve_nobody() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.sealed()).await.unwrap();
    // Any number does: that it is wrong is seen once the record is whole. More of them than there is room for.
    let announced = (relay_protocol::record::MAX_HEAD as u32).to_be_bytes();
    let begun = [&session.prelude().to_bytes()[..], &announced, &[Kind::Head as u8], &[0; 250_000]].concat();
    let mut stalled = Vec::new();
    for _ in 0..24 {
        let mut stream = setup.pair.relay.open().await.unwrap();
        let request = "POST /_relay/exchange HTTP/1.1\r\nhost: r\r\ncontent-length: 1000000\r\n\
            content-type: application/vnd.relay.records\r\n\r\n";
        let bytes = [request.as_bytes(), &begun].concat();
        stalled.push(tokio::spawn(async move {
            // Who is refused does not take all of it.
            let _ = stream.write_all(&bytes).await;
            stream
        }));
    }
    soon(async {
        while setup.refused("too_many_streams") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // What is small needs no room, and what comes directly has room of its own.
    assert_eq!(soon(session.get("/")).await.unwrap().status, 200);
    let mut exchange = session.exchange();
    let request = Request::get("/_relay/browsers").header("x-large", "x".repeat(250_000)).body(()).unwrap();
    let first = exchange.begin(&request);
    let mut stream = Stream::begin(&setup, &session, &exchange, &first).await;
    stream.send(&exchange.record(Kind::End, "")).await;
    assert_eq!(stream.answer().await.unwrap().0, 200);
}
