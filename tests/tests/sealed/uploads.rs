//! Requests that are written while they are sent, and requests that break off.

use super::*;
use axum::extract::Request as AxumRequest;
use futures_util::StreamExt;
use relay_protocol::problem::Problem;
use relay_protocol::record::{EPOCH_SECONDS, encode_error};
use std::sync::atomic::{AtomicI64, Ordering};
use system_tests::local::Recorder;

/// `/upload` tells the test of every piece as it comes.
fn app() -> (mpsc::UnboundedReceiver<Result<Bytes, String>>, Router) {
    let (tell, heard) = mpsc::unbounded_channel();
    let upload = move |request: AxumRequest| async move {
        let mut body = request.into_body().into_data_stream();
        while let Some(piece) = body.next().await {
            tell.send(piece.map_err(|error| error.to_string())).ok();
        }
        tell.send(Ok(Bytes::new())).ok();
        "taken"
    };
    (heard, Router::new().route("/upload", axum::routing::post(upload)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_arrives_while_it_is_written_over_changes_of_the_key() {
    let (mut heard, router) = app();
    let server = LocalServer::router(router).await;
    let stack = stack(&server.url()).await;
    let browser = browser(&stack).await;
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
            let next = within("the piece", SOON, heard.recv()).await.expect("the server runs");
            got.extend_from_slice(&next.expect("nothing breaks"));
        }
        assert_eq!(got, piece);
    }
    upload.send(Kind::End, "").await.expect("sent");
    let answer = upload.answer().await.expect("a head").collect().await.expect("an answer");
    assert_eq!(answer.text(), "taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_off_never_looks_whole() {
    let local = Recorder::start().await;
    let stack = stack(&local.server.url()).await;
    let browser = browser(&stack).await;
    for (n, (form, session)) in every_form(&browser).await.into_iter().enumerate() {
        // More than the agent holds back in the hope that it is all.
        let begin = async || {
            let mut upload = session.upload(Request::post("/echo").body(()).unwrap()).await;
            for piece in 0..4 {
                upload.send(Kind::Data, noise(piece, 60_000)).await.expect("sent");
            }
            upload
        };
        // The bytes end without END.
        let told = within("a refusal", SOON, begin().await.answer()).await.err();
        assert!(matches!(told, Some(Failure::Agent(Code::BadRequest))), "{form}: {told:?}");
        // ERROR says that the browser broke it off.
        let mut broken = begin().await;
        let problem = Problem::new(Code::BadRequest, "The person left.");
        broken.send(Kind::Error, encode_error(&problem)).await.expect("sent");
        let told = within("a refusal", SOON, broken.answer()).await;
        assert!(told.is_err(), "{form}");
        // Nobody waits for an answer.
        drop(begin().await);
        eventually("the local server has seen the ends", SOON, || async { local.count() == 3 * (n + 1) })
            .await;
    }
    for (head, body) in local.all() {
        assert!(!body.complete, "{} {:?}", head.text(), String::from_utf8_lossy(&body.bytes));
    }
}
