//! Refusals of requests that bring a body: they arrive, however large it is, and say what they refuse.

use crate::{
    checks::mirror,
    client::{self, Reply},
    common::{app, soon},
    exchanges::{both, get},
    sealed::{Session, Whole},
    setup::Setup,
    signed::Failure,
};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use relay_protocol::{
    exchange::PRELUDE_LEN,
    problem::Code,
    record::{Kind, MAX_DATA, MAX_MESSAGE},
};

/// Bodies that do not fit into what waits on the way, and ones that do not even fit into a window of the tunnel.
const SIZES: [usize; 2] = [100_000, 5_000_000];

fn post(target: &str, size: usize) -> Request<Bytes> {
    Request::post(target).body(Bytes::from(vec![b'x'; size])).unwrap()
}

/// Sends an exchange as the relay does: an HTTP client right on a stream of the tunnel.
async fn by_the_relay(setup: &Setup, session: &Session<'_>, whole: &Whole) -> Failure {
    let mut relay = setup.pair.exchange().await;
    let mut outer = session.outer(client::empty());
    outer.headers_mut().insert(header::HOST, "relay.example".parse().unwrap());
    let body = Full::new(whole.bytes.clone()).map_err(|never| match never {}).boxed_unsync();
    match soon(relay.sender.send_request(outer.map(|_| body))).await {
        Ok(response) => session.refusal(&whole.prelude, &soon(Reply::collect(response)).await.unwrap()),
        Err(error) => Failure::Nothing(error.to_string()),
    }
}

#[tokio::test]
async fn the_refusal_of_a_large_body_arrives_signed() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let [sealed, exchanges] = both(&browser).await;
    let signed = soon(browser.session()).await.unwrap();
    // As if the agent had been started anew.
    setup.gate.close();
    let expired = Failure::Agent(Code::SigningSessionExpired);
    for size in SIZES {
        let request = signed.sign(post("/", size));
        assert_eq!(soon(signed.send(&request)).await.unwrap_err(), expired, "signed, {size}");
        for session in [&sealed, &exchanges] {
            let whole = session.seal(&post("/", size));
            assert_eq!(soon(session.send(&whole)).await.unwrap_err(), expired, "{size}");
            assert_eq!(by_the_relay(&setup, session, &whole).await, expired, "{size}, by the relay");
        }
    }
}

#[tokio::test]
async fn so_does_one_in_records() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        for size in SIZES {
            let altered = {
                let whole = session.seal(&post("/", size));
                let mut bytes = whole.bytes.to_vec();
                let head = u32::from_be_bytes(*bytes[PRELUDE_LEN..].first_chunk().unwrap()) as usize;
                // In the first piece of the body.
                bytes[PRELUDE_LEN + head + 200] ^= 1;
                Whole { bytes: bytes.into(), ..whole }
            };
            let mut nonsense = session.exchange();
            let mut bytes = nonsense.prelude.to_bytes().to_vec();
            bytes.extend_from_slice(&nonsense.record(Kind::Head, "nonsense"));
            for _ in 0..size / MAX_DATA {
                bytes.extend_from_slice(&nonsense.record(Kind::Data, vec![1; MAX_DATA]));
            }
            let nonsense = Whole { prelude: nonsense.prelude, bytes: bytes.into() };
            for (what, whole, code) in [
                ("disguised", session.seal(&post("/x/..%2f_relay", size)), Code::NotFound),
                ("too large", session.seal(&post("/_relay/pairing/code", size)), Code::BodyTooLarge),
                ("altered", altered, Code::SignatureInvalid),
                ("unreadable", nonsense, Code::BadRequest),
            ] {
                let refused = soon(session.send(&whole)).await.unwrap_err();
                assert_eq!(refused, Failure::Agent(code), "{what}, {size}");
            }
        }
    }
    let nobody = Setup::new("http://127.0.0.1:9".parse().unwrap()).await;
    let browser = nobody.browser().await;
    for session in both(&browser).await {
        for size in SIZES {
            let refused = soon(session.fetch(post("/", size))).await.unwrap_err();
            assert_eq!(refused, Failure::Agent(Code::LocalServerUnreachable), "{size}");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_around_an_exchange_is_told_of_that_exchange() {
    type Alter = fn(&mut Request<client::Body>);
    let cases: [(Code, bool, Alter); 6] = [
        (Code::BadRequest, true, |r| *r.uri_mut() = "/_relay/exchange?a=1".parse().unwrap()),
        (Code::BadRequest, true, |r| drop(r.headers_mut().remove(header::CONTENT_TYPE))),
        (Code::UpgradeRequired, true, |r| *r.method_mut() = http::Method::GET),
        (Code::MethodNotAllowed, true, |r| *r.method_mut() = http::Method::PUT),
        // Nothing tells which it is.
        (Code::UpgradeRequired, false, |r| {
            *r.method_mut() = http::Method::GET;
            *r.body_mut() = client::empty();
        }),
        (Code::MethodNotAllowed, false, |r| {
            *r.method_mut() = http::Method::DELETE;
            *r.body_mut() = client::full("short");
        }),
    ];
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        let whole = session.seal(&get("/"));
        for (at, (code, is_signed, alter)) in cases.into_iter().enumerate() {
            let mut outer = session.outer(client::full(whole.bytes.clone()));
            alter(&mut outer);
            let reply = soon(client::fetch(browser.addr, outer)).await;
            reply.is_problem(code);
            let expected =
                if is_signed { Failure::Agent(code) } else { Failure::Unsigned(code.status(), Some(code)) };
            assert_eq!(session.refusal(&whole.prelude, &reply), expected, "{at}");
        }
        assert!(soon(session.send(&whole)).await.is_ok(), "none of it used the number");
    }
}

#[tokio::test]
async fn a_record_that_may_not_come_is_not_waited_for() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        for kind in [Kind::Text, Kind::Binary] {
            let mut exchange = session.exchange();
            let mut bytes = exchange.begin(&post("/", 0)).to_vec();
            // It is announced, and does not come.
            bytes.extend_from_slice(&(MAX_MESSAGE as u32).to_be_bytes());
            bytes.push(kind as u8);
            let (body, outer) = client::channel();
            body.send(Frame::data(bytes.into())).await.unwrap();
            let response = soon(client::send(browser.addr, session.outer(outer))).await.unwrap();
            let opener = session.opener(&exchange.prelude);
            let stream = crate::records::Stream::begin(response, opener).await;
            let refused = match stream {
                Ok(stream) => soon(stream.collect()).await.map(drop).unwrap_err(),
                Err(refused) => refused,
            };
            assert_eq!(refused, Failure::Agent(Code::BadRequest), "{kind:?}");
            drop(body);
        }
    }
}
