//! Requests that are written while they are sent, and requests that break off.

use super::*;
use axum::extract::Request as AxumRequest;
use futures_util::StreamExt;
use relay_protocol::problem::Problem;
use relay_protocol::record::{EPOCH_SECONDS, encode_error};
use std::sync::atomic::{AtomicI64, Ordering};

/// What the local server tells of an upload.
#[derive(Debug)]
enum Heard {
    Piece(Bytes),
    /// It is over; whether all of it came.
    Over(bool),
}

/// Tells that it is over, also when the connection breaks under the handler.
struct Teller {
    tell: mpsc::UnboundedSender<Heard>,
    whole: bool,
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.tell.send(Heard::Over(self.whole)).ok();
    }
}

/// `/upload` tells the test of every piece as it comes.
fn app() -> (mpsc::UnboundedReceiver<Heard>, Router) {
    let (tell, heard) = mpsc::unbounded_channel();
    let upload = move |request: AxumRequest| {
        let tell = tell.clone();
        async move {
            let mut teller = Teller { tell, whole: false };
            let mut body = request.into_body().into_data_stream();
            while let Some(piece) = body.next().await {
                let Ok(piece) = piece else { return "broken" };
                teller.tell.send(Heard::Piece(piece)).ok();
            }
            teller.whole = true;
            "taken"
        }
    };
    (heard, Router::new().route("/upload", axum::routing::post(upload)))
}

async fn next(heard: &mut mpsc::UnboundedReceiver<Heard>) -> Heard {
    within("the local server tells", SOON, heard.recv()).await.expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_arrives_while_it_is_written_over_changes_of_the_key() {
    let (mut heard, router) = app();
    let server = LocalServer::router(router).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    let mut session = browser.sealed().await.expect("a session");
    let now = Arc::new(AtomicI64::new(system_tests::tokens::now()));
    let clock = Arc::clone(&now);
    session.clock = Arc::new(move || clock.load(Ordering::SeqCst));
    let mut upload = session.upload(Request::post("/upload").body(()).unwrap()).await;
    for n in 0..8_u8 {
        if n % 2 == 1 {
            // The browser takes the next key with this record.
            now.fetch_add(i64::try_from(EPOCH_SECONDS).unwrap(), Ordering::SeqCst);
        }
        let piece = Bytes::from(vec![n; 1000]);
        upload.send(Kind::Data, piece.clone()).await.expect("sent");
        let mut got = Vec::new();
        while got.len() < piece.len() {
            match next(&mut heard).await {
                Heard::Piece(piece) => got.extend_from_slice(&piece),
                over => panic!("{over:?}"),
            }
        }
        assert_eq!(got, piece);
    }
    upload.send(Kind::End, "").await.expect("sent");
    let answer = upload.answer().await.expect("a head").collect().await.expect("an answer");
    assert_eq!(answer.text(), "taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_off_never_looks_whole() {
    let (mut heard, router) = app();
    let server = LocalServer::router(router).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    for (form, session) in every_form(&browser).await {
        for what in ["no END", "ERROR", "nobody waits"] {
            let mut upload = session.upload(Request::post("/upload").body(()).unwrap()).await;
            upload.send(Kind::Data, noise(1, 60_000)).await.expect("sent");
            assert!(matches!(next(&mut heard).await, Heard::Piece(_)), "{form} {what}");
            match what {
                // The bytes end, and the browser is told that they should not have.
                "no END" => {
                    let told = within("a refusal", SOON, upload.answer()).await.err();
                    assert!(matches!(told, Some(Failure::Agent(Code::BadRequest))), "{form}: {told:?}");
                }
                // The browser breaks it off.
                "ERROR" => {
                    let problem = Problem::new(Code::BadRequest, "The person left.");
                    upload.send(Kind::Error, encode_error(&problem)).await.expect("sent");
                    assert!(within("a refusal", SOON, upload.answer()).await.is_err(), "{form}");
                }
                _ => drop(upload),
            }
            let whole = loop {
                if let Heard::Over(whole) = next(&mut heard).await {
                    break whole;
                }
            };
            assert!(!whole, "{form} {what}");
        }
    }
}
