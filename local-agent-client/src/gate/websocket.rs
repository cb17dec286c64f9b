//! A signed WebSocket (PROTOCOL.md section 4.5): records on the browser's side, messages on the local
//! server's.
//!
//! The agent ends both WebSockets. Each direction takes one message at a time and passes it on before it
//! takes the next, so that a slow reader slows the sender. A close goes through to the other end and is
//! answered from there; an end without one stays an end without one, so that neither side takes what broke
//! off for something complete.

use super::{Gate, Head, body::AnswerBody, exchange::client, headers, sessions::InUse, verify::Keyed};
use crate::{
    forward::{
        self, Active, Connection, Stats,
        websocket::{LocalSocket, Opened},
    },
    refusal::Refusal,
};
use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use relay_protocol::{
    keys::{AgentSigningKey, BrowserVerifyingKey},
    problem::Code,
    record::{
        self, Binding, Direction, HEADER_LEN, Kind, MAX_MESSAGE, Order, Protect, RecordError, SIGNED_LEN,
        SignedOpen, SignedProtect, encode_error, open_message,
    },
    signature::request::Signed,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long a close may wait for its answer, which makes a round trip.
const CLOSE: Duration = Duration::from_secs(10);
/// How long the connection to the browser may take to end, and how long it may take to begin.
const END: Duration = Duration::from_secs(5);
/// Read from a socket in one piece, allocated for every WebSocket.
const READ_BUFFER: usize = 16 * 1024;
/// The largest message towards the browser: a record.
const MAX_RECORD: usize = HEADER_LEN + MAX_MESSAGE + SIGNED_LEN;

/// How a WebSocket is set up: what it takes is bounded, and what waits to be written too.
fn config(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_write_buffer_size(2 * MAX_RECORD)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

/// Whether it asks for a WebSocket.
pub(super) fn is_upgrade(parts: &Parts) -> bool {
    let names = |name, wanted: &str| {
        let mut values = parts.headers.get_all(name).iter();
        values.any(|value| {
            let mut tokens = value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
            tokens.any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
        })
    };
    parts.method == Method::GET && names(header::CONNECTION, "upgrade") && names(header::UPGRADE, "websocket")
}

type Browser = WebSocketStream<TokioIo<Upgraded>>;
type Protection = SignedProtect<Arc<AgentSigningKey>>;

impl Gate {
    /// Verifies an upgrade, opens the WebSocket to the local server, and answers 101.
    pub(super) async fn websocket(
        &self,
        mut parts: Parts,
        signed: &Signed,
        connection: &Connection,
        active: Active,
        now: i64,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let view = Head::new(&parts).signed_parts(false);
        let (caller, verified) = self.verify(signed, &view, Keyed::BySession, now)?;
        let (Some(in_use), Some(client)) = (caller.session, client(caller.browser.id)) else {
            return Err(forward::session_ended());
        };
        let malformed =
            |what: &str| Refusal::new(Code::BadRequest, format!("The WebSocket handshake {what}."));
        if parts.headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(malformed("is not of version 13"));
        }
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| malformed("has no key"))?;
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
            .map_err(|_| malformed("has no usable key"))?;
        let upgrade = parts
            .extensions
            .remove::<OnUpgrade>()
            .ok_or_else(|| malformed("came where nothing can be upgraded"))?;
        let binding = Binding { session_id: in_use.session().id, request_hash: verified.signature_hash() };
        headers::request(&mut parts.headers, |name| verified.covers(name));
        headers::without_bare_query(&mut parts.uri);
        let offered = first_protocol(&parts.headers);
        let ended = in_use.session().ended.clone();
        let opening = self.forwarder.open_websocket(parts, client, config(MAX_MESSAGE));
        let opened = tokio::select! {
            biased;
            () = ended.cancelled() => return Err(forward::session_ended()),
            opened = opening => opened,
        };
        let mut answer = Response::new(AnswerBody::plain(Bytes::new()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let outer = answer.headers_mut();
        outer.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        outer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        outer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        let key = self.pairing.keys().signing.clone();
        let beginning = Beginning::new(opened, offered, outer);
        let bridge = Bridge {
            protect: SignedProtect::new(key, binding, Direction::ToBrowser),
            open: SignedOpen::new(in_use.session().key, binding, Direction::ToAgent),
            stats: self.forwarder.stats().clone(),
            in_use,
        };
        let counted = self.forwarder.stats().websocket();
        connection.leave(Box::pin(async move {
            let _counted = (active, counted);
            match tokio::time::timeout(END, upgrade).await {
                Ok(Ok(upgraded)) => {
                    let io = TokioIo::new(upgraded);
                    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config(MAX_RECORD)));
                    bridge.run(socket.await, beginning).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "an upgrade did not complete"),
                Err(_) => tracing::debug!("an upgrade did not complete in time"),
            }
        }));
        Ok(answer)
    }
}

fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let first = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.as_bytes().split(|b| *b == b',').next()?;
    HeaderValue::from_bytes(first.trim_ascii()).ok()
}

/// The agent's first record, and the local server's end if there is one.
struct Beginning {
    kind: Kind,
    payload: Bytes,
    /// Whether END follows.
    refused: bool,
    local: Option<(Box<LocalSocket>, Option<AbortOnDropHandle<()>>)>,
}

impl Beginning {
    /// Puts into `outer`, the 101's headers, what belongs there.
    fn new(opened: Result<Opened, Refusal>, offered: Option<HeaderValue>, outer: &mut HeaderMap) -> Self {
        let protocol = header::SEC_WEBSOCKET_PROTOCOL;
        let (status, mut headers, local) = match opened {
            Ok(Opened::Switched { headers, socket, served }) => {
                let chosen = headers.get(&protocol).cloned();
                outer.extend(chosen.map(|chosen| (protocol, chosen)));
                (StatusCode::SWITCHING_PROTOCOLS, headers, Some((socket, served)))
            }
            Ok(Opened::Refused(status, headers)) => {
                // Browsers give a connection up that answers none of what they offered, and with it
                // what the records would tell.
                outer.extend(offered.map(|offered| (protocol, offered)));
                (status, headers, None)
            }
            Err(refusal) => {
                outer.extend(offered.map(|offered| (protocol, offered)));
                return Self::error(&refusal);
            }
        };
        for cookie in headers::response(&mut headers) {
            outer.append(header::SET_COOKIE, cookie);
        }
        match (record::Head { status, headers }).encode() {
            Ok(payload) => Self { kind: Kind::Head, payload, refused: local.is_none(), local },
            Err(_) => Self::error(&Refusal::new(
                Code::ResponseTooLarge,
                "The local server's headers are larger than the 256 KiB that a record takes.",
            )),
        }
    }

    fn error(refusal: &Refusal) -> Self {
        Self { kind: Kind::Error, payload: encode_error(&refusal.problem), refused: false, local: None }
    }
}

/// Why a WebSocket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Closed by either end and answered by the other.
    Closed,
    /// The local server ended it without a close, or never began.
    LocalGone,
    /// The browser ended it without a close.
    BrowserGone,
    /// A record that is none, or not the browser's.
    Wrong(RecordError),
    /// The session.
    Revoked,
    /// The answer to a close did not come.
    Unanswered,
}

impl Ended {
    /// How the connection to the browser is closed; `None` when nobody is there.
    fn close(self) -> Option<(CloseCode, &'static str)> {
        Some(match self {
            Self::Closed => (CloseCode::Normal, ""),
            Self::LocalGone | Self::Unanswered => (CloseCode::Error, "the local server is gone"),
            Self::BrowserGone => return None,
            Self::Wrong(_) => (CloseCode::Protocol, "a record is wrong"),
            Self::Revoked => (CloseCode::Policy, "the session has ended"),
        })
    }
}

/// What joins the two ends.
struct Bridge {
    protect: Protection,
    open: SignedOpen<BrowserVerifyingKey>,
    stats: Arc<Stats>,
    in_use: InUse,
}

impl Bridge {
    async fn run(mut self, mut browser: Browser, beginning: Beginning) {
        let Beginning { kind, payload, refused, local } = beginning;
        let token = self.in_use.session().ended.clone();
        let begin = async {
            send(&mut self.protect, &mut browser, kind, payload).await?;
            if refused {
                send(&mut self.protect, &mut browser, Kind::End, Bytes::new()).await?;
            }
            Ok(())
        };
        let ended = tokio::select! {
            biased;
            () = token.cancelled() => Ended::Revoked,
            begun = begin => match (begun, local) {
                (Err(ended), _) => ended,
                (Ok(()), None) => Ended::LocalGone,
                (Ok(()), Some((local, _served))) => {
                    let (to_browser, from_browser) = browser.split();
                    let (to_local, from_local) = local.split();
                    let mut up = Up { from_browser, to_local, open: self.open, order: Order::websocket_from_browser(), stats: &self.stats };
                    let mut down = Down { from_local, to_browser, protect: self.protect, stats: &self.stats };
                    let ended = join(&mut up, &mut down, &token).await;
                    // The two halves came from one.
                    let Ok(joined) = down.to_browser.reunite(up.from_browser) else { return };
                    browser = joined;
                    ended
                }
            },
        };
        tracing::debug!(?ended, "a signed WebSocket ended");
        // The local server's end is dropped by now.
        if let Some((code, reason)) = ended.close() {
            // Who does not take a close in time is gone.
            let _ = tokio::time::timeout(END, leave(browser, code, reason)).await;
        }
    }
}

async fn leave(mut browser: Browser, code: CloseCode, reason: &'static str) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    if browser.close(Some(frame)).await.is_err() {
        return;
    }
    // Until the answer to the close; what comes before it has nobody to go to.
    while let Some(Ok(_)) = browser.next().await {}
    let _ = browser.get_mut().shutdown().await;
}

/// Runs both directions until both have closed, or anything else ends them.
async fn join(up: &mut Up<'_>, down: &mut Down<'_>, token: &CancellationToken) -> Ended {
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
struct Up<'a> {
    from_browser: SplitStream<Browser>,
    to_local: SplitSink<Box<LocalSocket>, Message>,
    open: SignedOpen<BrowserVerifyingKey>,
    order: Order,
    stats: &'a Stats,
}

impl Up<'_> {
    async fn run(&mut self, local_closed: &AtomicBool) -> Ended {
        loop {
            let message = match self.from_browser.next().await {
                Some(Ok(Message::Binary(message))) => message,
                // Not messages: whoever keeps a connection alive may say so.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Text(_))) => return Ended::Wrong(RecordError::UnknownType),
                Some(Ok(Message::Close(_) | Message::Frame(_))) | None => return Ended::BrowserGone,
                Some(Err(error)) => return unreadable(&error),
            };
            let (kind, message) = match self.read(message) {
                Ok(read) => read,
                Err(error) => return Ended::Wrong(error),
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

    /// The message in a record.
    fn read(&mut self, message: Bytes) -> Result<(Kind, Message), RecordError> {
        let record = open_message(&mut self.open, message)?;
        self.order.next(record.kind)?;
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

/// What it means that a message of the browser cannot be read.
fn unreadable(error: &tokio_tungstenite::tungstenite::Error) -> Ended {
    use tokio_tungstenite::tungstenite::{Error, error::ProtocolError};
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ended::BrowserGone,
        Error::Protocol(_) | Error::Utf8(_) => Ended::Wrong(RecordError::BadPayload),
        Error::Capacity(_) => Ended::Wrong(RecordError::BadLength),
        _ => Ended::BrowserGone,
    }
}

/// From the local server to the browser.
struct Down<'a> {
    from_local: SplitStream<Box<LocalSocket>>,
    to_browser: SplitSink<Browser, Message>,
    protect: Protection,
    stats: &'a Stats,
}

impl Down<'_> {
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
            if let Err(ended) = send(&mut self.protect, &mut self.to_browser, kind, payload).await {
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
async fn send<S>(protect: &mut Protection, to: &mut S, kind: Kind, payload: Bytes) -> Result<(), Ended>
where
    S: futures_util::Sink<Message> + Unpin,
{
    let frame = protect.protect(kind, payload).map_err(|_| Ended::LocalGone)?;
    to.send(Message::Binary(frame.to_bytes())).await.map_err(|_| Ended::BrowserGone)
}
