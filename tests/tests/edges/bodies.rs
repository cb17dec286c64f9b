//! Bodies: large ones, slow ones.

use std::sync::{Arc, Mutex};

use axum::{Router, extract::Request, routing::post};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use system_tests::client::{Reply, channel};
use system_tests::edge::{Edge, PROTOCOLS, Program};
use system_tests::local::{app, big, big_digest};
use system_tests::{LocalServer, SOON, eventually, sha256};

/// Larger than what any of the programs would keep in memory or take by itself.
const LARGE: u64 = 24 << 20;

pub async fn large_bodies_pass_both_ways(program: Program) {
    let local = LocalServer::router(app()).await;
    let edge = Edge::start(program, &local.url()).await;
    let digest = big_digest(LARGE).await;
    for protocol in PROTOCOLS {
        let down = edge.get(protocol, &edge.path(&format!("/big/{LARGE}"))).await;
        assert_eq!(format!("{} {}", down.body.len(), sha256(&down.body)), digest, "{protocol:?}");
        for length in [Some(LARGE), None] {
            let pieces = big(LARGE).map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
            let mut request = edge.request("POST", &edge.path("/digest"));
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            let request = request.body(StreamBody::new(pieces).boxed_unsync()).unwrap();
            assert_eq!(edge.fetch(protocol, request).await.text(), digest, "{protocol:?} {length:?}");
        }
    }
}

/// A local server that tells what has come of an upload.
async fn counting() -> (LocalServer, Arc<Mutex<String>>) {
    let seen = Arc::new(Mutex::new(String::new()));
    let all = Arc::clone(&seen);
    let upload = post(move |request: Request| async move {
        let mut body = request.into_body().into_data_stream();
        while let Some(piece) = body.next().await {
            match piece {
                Ok(piece) => all.lock().unwrap().push_str(&String::from_utf8_lossy(&piece)),
                Err(error) => return format!("broken: {error}"),
            }
        }
        all.lock().unwrap().clone()
    });
    (LocalServer::router(Router::new().route("/upload", upload)).await, seen)
}

pub async fn an_upload_goes_on_piece_by_piece(program: Program) {
    let (local, seen) = counting().await;
    let edge = Edge::start(program, &local.url()).await;
    for protocol in PROTOCOLS {
        seen.lock().unwrap().clear();
        let (pieces, body) = channel();
        let request = edge.request("POST", &edge.path("/upload")).body(body).unwrap();
        let answer = edge.send(protocol, request);
        let write = async {
            let mut sent = String::new();
            for n in 0..5 {
                let piece = format!("piece {n};");
                sent += &piece;
                pieces.send(Frame::data(Bytes::from(piece))).await.unwrap();
                // It is there before the next one is written.
                let arrived = || async { *seen.lock().unwrap() == sent };
                eventually("the piece arrives", SOON, arrived).await;
            }
            drop(pieces);
            sent
        };
        let (answer, sent) = tokio::join!(answer, write);
        assert_eq!(Reply::collect(answer).await.unwrap().text(), sent, "{protocol:?}");
    }
}
