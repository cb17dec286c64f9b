//! What may be wrong with an answer.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use serde_json::Value;

use super::json_response;

/// What is wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The good answer comes so late.
    Slow(Duration),
    /// No answer comes, and the connection stays.
    Hang,
    /// Half of the good answer, and the connection ends.
    BreakOff,
    /// The good answer with so many bytes of padding in it.
    Padded(usize),
    /// Something that is no JSON.
    Garbage,
    /// This status, with the good answer.
    Status(u16),
    /// The good answer, but `ok` is false.
    NotOk,
    /// A byte of white space now and then, for ever.
    Trickle,
    /// A redirect to this address.
    Redirect(String),
    /// This text instead.
    Text(String),
}

impl Fault {
    /// The answer that needs no good one, after the waiting.
    pub(super) async fn instead(&self) -> Option<Response<Body>> {
        match self {
            Fault::Slow(time) => {
                tokio::time::sleep(*time).await;
                None
            }
            Fault::Hang => std::future::pending().await,
            Fault::Garbage => Some(json_response("<html>\u{0}certainly not JSON {\"ok\":true")),
            Fault::Trickle => Some(json_response(Body::from_stream(stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
            })))),
            Fault::Redirect(to) => Some(
                Response::builder()
                    .status(StatusCode::TEMPORARY_REDIRECT)
                    .header("location", to)
                    .body(Body::empty())
                    .expect("a response"),
            ),
            Fault::Text(text) => Some(json_response(text.clone())),
            _ => None,
        }
    }

    /// The good answer, spoilt.
    pub(super) fn spoil(self, mut good: Value) -> Response<Body> {
        match self {
            Fault::NotOk => good["ok"] = Value::Bool(false),
            Fault::Padded(bytes) => good["padding"] = Value::String("x".repeat(bytes)),
            _ => {}
        }
        let text = good.to_string();
        match self {
            Fault::BreakOff => {
                let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
                let broken = std::io::Error::other("broken off");
                json_response(Body::from_stream(stream::unfold(
                    (Some(half), Some(broken)),
                    |(half, broken)| async {
                        if let Some(half) = half {
                            return Some((Ok(half), (None, broken)));
                        }
                        // The first half is on its way before the connection ends.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        broken.map(|broken| (Err(broken), (None, None)))
                    },
                )))
            }
            Fault::Status(code) => {
                let mut response = json_response(text);
                *response.status_mut() = StatusCode::from_u16(code).expect("a status");
                response
            }
            _ => json_response(text),
        }
    }
}
