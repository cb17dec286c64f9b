//! Joins the two ends of a WebSocket: records on the browser's side, messages on the local server's.
//!
//! Each direction takes one message at a time and passes it on before it takes the next, so that a slow reader slows
//! the sender. A close goes through to the other end and is answered from there; an end without one stays an end
//! without one, so that neither side takes what broke off for something complete.

use super::carrier::{Carrier, Deliver, Receive};
use crate::{
    forward::{
        self, Stats,
        websocket::{LocalSocket, Opened},
    },
    gate::{headers, records::Protection, sessions::InUse},
    refusal::Refusal,
};
use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use http::{HeaderValue, StatusCode, header};
use relay_protocol::{
    problem::Code,
    record::{self, Kind, Protect, Record, RecordError, encode_error},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_tungstenite::tungstenite::{
    Message, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long a close may wait for its answer, which makes a round trip.
const CLOSE: Duration = Duration::from_secs(10);
/// How long either connection may take to end.
pub(super) const END: Duration = Duration::from_secs(5);

/// The agent's first record, and the local server's end if there is one.
pub(in crate::gate) struct Beginning {
    kind: Kind,
    payload: Bytes,
    /// Whether END follows.
    refused: bool,
    local: Option<(Box<LocalSocket>, Option<AbortOnDropHandle<()>>)>,
    /// The sub-protocol that the local server chose.
    pub chosen: Option<HeaderValue>,
    /// Whether it wants those forgotten that were there.
    pub clears_cookies: bool,
    /// What it set, which is not in HEAD.
    pub cookies: Vec<HeaderValue>,
}

impl Beginning {
    /// What the local server said.
    pub fn new(opened: Result<Opened, Refusal>) -> Self {
        let (status, mut headers, local) = match opened {
            Ok(Opened::Switched { headers, socket, served }) => {
                (StatusCode::SWITCHING_PROTOCOLS, headers, Some((socket, served)))
            }
            Ok(Opened::Refused(status, headers)) => (status, headers, None),
            Err(refusal) => return Self::error(&refusal),
        };
        let clears_cookies = headers::clears_cookies(&headers);
        let cookies = headers::response(&mut headers);
        let chosen = headers.get(header::SEC_WEBSOCKET_PROTOCOL).filter(|_| local.is_some()).cloned();
        match (record::Head { status, headers }).encode() {
            Ok(payload) => Self {
                kind: Kind::Head,
                payload,
                refused: local.is_none(),
                local,
                chosen,
                clears_cookies,
                cookies,
            },
            Err(_) => Self::error(&Refusal::new(
                Code::ResponseTooLarge,
                "The local server's headers are larger than the 256 KiB that a record takes.",
            )),
        }
    }

    fn error(refusal: &Refusal) -> Self {
        Self {
            kind: Kind::Error,
            payload: encode_error(&refusal.problem),
            refused: false,
            local: None,
            chosen: None,
            clears_cookies: false,
            cookies: Vec::new(),
        }
    }

    /// Whether messages follow.
    pub fn is_open(&self) -> bool {
        self.local.is_some()
    }
}

/// Why a WebSocket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gate) enum Ended {
    /// Closed by either end and answered by the other.
    Closed,
    /// Never began: the first records have said why.
    Refused,
    /// The local server ended it without a close.
    LocalGone,
    /// The browser ended it without a close.
    BrowserGone,
    /// The browser ended it without a close, by words of what carries it.
    BrowserLeft,
    /// The browser said that it breaks it off.
    GivenUp,
    /// A message larger than any record.
    TooLarge,
    /// A record that is none, or not the browser's.
    Wrong(RecordError),
    /// The session.
    Revoked,
    /// The answer to a close did not come.
    Unanswered,
}

/// What joins the two ends.
pub(in crate::gate) struct Bridge {
    pub protect: Protection,
    pub stats: Arc<Stats>,
    pub in_use: InUse,
}

impl Bridge {
    /// Runs to the end of both.
    pub async fn run<C: Carrier>(mut self, carrier: C, beginning: Beginning) {
        let Beginning { kind, payload, refused, local, .. } = beginning;
        let token = self.in_use.session().ended.clone();
        let (mut from_browser, mut to_browser) = carrier.split();
        let begin = async {
            send(&mut self.protect, &mut to_browser, kind, payload).await?;
            if refused {
                send(&mut self.protect, &mut to_browser, Kind::End, Bytes::new()).await?;
            }
            Ok(())
        };
        let begun = tokio::select! {
            biased;
            () = token.cancelled() => Err(Ended::Revoked),
            begun = begin => begun,
        };
        let ended = match (begun, local) {
            (Err(ended), _) => ended,
            (Ok(()), None) => Ended::Refused,
            (Ok(()), Some((local, _served))) => {
                let (to_local, from_local) = local.split();
                let mut up = Up { from_browser: &mut from_browser, to_local, stats: &self.stats };
                let mut down = Down {
                    from_local,
                    to_browser: &mut to_browser,
                    protect: &mut self.protect,
                    stats: &self.stats,
                };
                join(&mut up, &mut down, &token).await
            }
        };
        tracing::debug!(?ended, "a WebSocket of a paired browser ended");
        // The local server's end is dropped by now. Who does not take the end in time is gone.
        let end = async {
            if ended == Ended::Revoked && C::ENDS_IN_RECORDS {
                let error = encode_error(&forward::session_ended().problem);
                let _ = send(&mut self.protect, &mut to_browser, Kind::Error, error).await;
            }
            C::end(from_browser, to_browser, ended).await;
        };
        let _ = tokio::time::timeout(END, end).await;
    }
}

/// Runs both directions until both have closed, or anything else ends them.
async fn join<R: Receive, D: Deliver>(
    up: &mut Up<'_, R>,
    down: &mut Down<'_, D>,
    token: &CancellationToken,
) -> Ended {
    let local_closed = AtomicBool::new(false);
    let both = async {
        let (up, down) = (up.run(&local_closed), down.run(&local_closed));
        tokio::pin!(up, down);
        tokio::select! {
            ended = &mut up => match ended {
                Ended::Closed => tokio::time::timeout(CLOSE, down).await.unwrap_or(Ended::Unanswered),
                other => other,
            },
            ended = &mut down => match ended {
                Ended::Closed => tokio::time::timeout(CLOSE, up).await.unwrap_or(Ended::Unanswered),
                other => other,
            },
        }
    };
    tokio::select! {
        biased;
        () = token.cancelled() => Ended::Revoked,
        ended = both => ended,
    }
}

/// From the browser to the local server.
struct Up<'a, R> {
    from_browser: &'a mut R,
    to_local: SplitSink<Box<LocalSocket>, Message>,
    stats: &'a Stats,
}

impl<R: Receive> Up<'_, R> {
    async fn run(&mut self, local_closed: &AtomicBool) -> Ended {
        loop {
            let (kind, message) = match self.from_browser.next().await {
                // It breaks off.
                Ok(record) if record.kind == Kind::Error => return Ended::GivenUp,
                Ok(record) => match message(record) {
                    Ok(message) => message,
                    Err(error) => return Ended::Wrong(error),
                },
                Err(ended) => return ended,
            };
            // What comes after the local server's close has nobody to go to. Neither has what cannot be
            // written any more; that the local server is gone is seen where it is read.
            if !local_closed.load(Ordering::Acquire) {
                self.stats.received(message.len());
                if self.to_local.send(message).await.is_err() {
                    local_closed.store(true, Ordering::Release);
                }
            }
            if kind == Kind::Close {
                return Ended::Closed;
            }
        }
    }
}

/// The message in a record.
fn message(record: Record) -> Result<(Kind, Message), RecordError> {
    let message = match record.kind {
        Kind::Text => {
            Message::Text(Utf8Bytes::try_from(record.payload).map_err(|_| RecordError::BadPayload)?)
        }
        Kind::Binary => Message::Binary(record.payload),
        Kind::Ping => Message::Ping(record.payload),
        Kind::Pong => Message::Pong(record.payload),
        Kind::Close => Message::Close(close_frame(&record.payload)?),
        Kind::Head | Kind::Data | Kind::End | Kind::Error => return Err(RecordError::OutOfOrder),
    };
    Ok((record.kind, message))
}

/// A close that the browser sends, if it is one that may be sent (RFC 6455 section 7.4).
fn close_frame(payload: &[u8]) -> Result<Option<CloseFrame>, RecordError> {
    let Some(close) = record::Close::decode(payload)? else { return Ok(None) };
    let code = CloseCode::from(close.code);
    if !code.is_allowed() {
        return Err(RecordError::BadPayload);
    }
    Ok(Some(CloseFrame { code, reason: close.reason.into() }))
}

/// From the local server to the browser.
struct Down<'a, D> {
    from_local: SplitStream<Box<LocalSocket>>,
    to_browser: &'a mut D,
    protect: &'a mut Protection,
    stats: &'a Stats,
}

impl<D: Deliver> Down<'_, D> {
    async fn run(&mut self, local_closed: &AtomicBool) -> Ended {
        loop {
            let (kind, payload) = match self.from_local.next().await {
                Some(Ok(Message::Text(text))) => (Kind::Text, text.into()),
                Some(Ok(Message::Binary(payload))) => (Kind::Binary, payload),
                Some(Ok(Message::Ping(payload))) => (Kind::Ping, payload),
                Some(Ok(Message::Pong(payload))) => (Kind::Pong, payload),
                Some(Ok(Message::Close(frame))) => {
                    local_closed.store(true, Ordering::Release);
                    let close = frame.map(|frame| record::Close {
                        code: frame.code.into(),
                        reason: frame.reason.as_str().to_owned(),
                    });
                    (Kind::Close, record::Close::encode(close.as_ref()))
                }
                Some(Ok(Message::Frame(_))) => continue,
                Some(Err(_)) | None => return Ended::LocalGone,
            };
            self.stats.sent(payload.len());
            if let Err(ended) = send(self.protect, self.to_browser, kind, payload).await {
                return ended;
            }
            if kind == Kind::Close {
                // Reading on is what answers the close; a local server that has ended needs no answer.
                let _ = tokio::time::timeout(END, self.from_local.next()).await;
                return Ended::Closed;
            }
        }
    }
}

/// Sends one record.
async fn send<D: Deliver>(
    protect: &mut Protection,
    to: &mut D,
    kind: Kind,
    payload: Bytes,
) -> Result<(), Ended> {
    let frame = protect.protect(kind, payload).map_err(|_| Ended::LocalGone)?;
    to.deliver(frame).await
}
