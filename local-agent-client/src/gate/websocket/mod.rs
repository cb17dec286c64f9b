//! WebSockets of paired browsers (PROTOCOL.md sections 4.5 and 5.3). The agent ends both WebSockets: the browser's,
//! which carries records, and the local server's, which carries messages.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`bridge`] | joins the two ends |
//! | [`carrier`] | what carries the records |

pub(super) mod bridge;
pub(super) mod carrier;

use super::{
    Gate, Head,
    body::AnswerBody,
    exchange::{begin::Begun, readable},
    headers,
    sessions::InUse,
    signed::client,
    verify::Keyed,
};
use crate::{
    forward::{self, Active, Connection, fault::Fault, policy::Caller},
    refusal::Refusal,
    trust::Browser,
};
use bridge::{Beginning, Bridge, END};
use bytes::Bytes;
use carrier::Messages;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use relay_protocol::{
    exchange::{RequestHead, decode_query},
    problem::Code,
    record::{
        Binding, Direction, HEADER_LEN, MAX_MESSAGE, Opener, Order, Protector, RecordError, SIGNED_LEN,
    },
    signature::request::Signed,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

/// Read from a socket in one piece, allocated for every WebSocket.
const READ_BUFFER: usize = 16 * 1024;
/// The largest message towards the browser: a record of the longer form.
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

/// The browser's end of the outer handshake, which is the relay's own.
struct Handshake {
    accept: HeaderValue,
    upgrade: OnUpgrade,
}

impl Handshake {
    fn take(parts: &mut Parts) -> Result<Self, Refusal> {
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
        Ok(Self { accept, upgrade })
    }
}

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
        let handshake = Handshake::take(&mut parts)?;
        let binding = Binding { session_id: in_use.session().id, request_hash: verified.signature_hash() };
        headers::request(&mut parts.headers, |name| verified.covers(name));
        headers::without_bare_query(&mut parts.uri);
        let offered = first_protocol(&parts.headers);
        let ended = in_use.session().ended.clone();
        let opening = self.forwarder.open_websocket(parts, Caller::Signed(client), config(MAX_MESSAGE));
        let opened = tokio::select! {
            biased;
            () = ended.cancelled() => return Err(forward::session_ended()),
            opened = opening => opened,
        };
        let beginning = Beginning::new(opened);
        let mut extra = HeaderMap::new();
        // Browsers give a connection up that answers none of what they offered, and with it what the records
        // would tell.
        let named = if beginning.is_open() { beginning.chosen.clone() } else { offered };
        extra.extend(named.map(|named| (header::SEC_WEBSOCKET_PROTOCOL, named)));
        extra.extend(beginning.cookies.iter().map(|cookie| (header::SET_COOKIE, cookie.clone())));
        let key = self.pairing.keys().signing.clone();
        let bridge = Bridge {
            protect: Protector::signed(key, binding, Direction::ToBrowser),
            stats: self.forwarder.stats().clone(),
            in_use,
        };
        let open = Opener::signed(bridge.in_use.session().key, binding, Direction::ToAgent);
        let order = Order::websocket_from_browser();
        let run = move |socket| bridge.run(Messages { socket, open, order }, beginning);
        Ok(self.switch(handshake, extra, connection, active, run))
    }

    /// Answers an upgrade whose query carries the first record of an exchange.
    pub(super) async fn exchange_websocket(
        &self,
        parts: &mut Parts,
        connection: &Connection,
        active: Active,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let malformed = |what: &str| Refusal::new(Code::BadRequest, format!("The upgrade {what}."));
        let (prelude, first) = parts
            .uri
            .query()
            .and_then(decode_query)
            .ok_or_else(|| malformed("has no exchange in its query, or more than that"))?;
        if parts.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
            return Err(malformed("names sub-protocols, which belong into the exchange"));
        }
        let handshake = Handshake::take(parts)?;
        let Begun { in_use, browser, head, rest: (open, mut order), protection, .. } =
            self.begin_by_message(prelude, first)?;
        let head = head.and_then(|head| messages_follow(head, || order.accepted()));
        let beginning = self.open_inside(head, &browser, &parts.headers, &in_use).await;
        let bridge = Bridge { protect: protection, stats: self.forwarder.stats().clone(), in_use };
        let run = move |socket| bridge.run(Messages { socket, open, order }, beginning);
        Ok(self.switch(handshake, HeaderMap::new(), connection, active, run))
    }

    /// Opens the WebSocket to the local server that an exchange asks for. Whatever becomes of it is said in records.
    pub(super) async fn open_inside(
        &self,
        head: Result<RequestHead, Fault>,
        browser: &Browser,
        outer: &HeaderMap,
        in_use: &InUse,
    ) -> Beginning {
        let ended = &in_use.session().ended;
        let opening = async {
            let (head, path) = self.for_local(readable(head)?, browser, outer)?;
            let Some(client) = client(browser.id) else { return Err(forward::session_ended()) };
            let mut request = Request::new(());
            *request.uri_mut() = Uri::from(head.target);
            *request.headers_mut() = head.headers;
            let (parts, ()) = request.into_parts();
            let caller = Caller::Exchange(client);
            let opened = self.forwarder.open_websocket(parts, caller, config(MAX_MESSAGE)).await?;
            Ok((opened, path))
        };
        let opened = tokio::select! {
            biased;
            () = ended.cancelled() => Err(forward::session_ended()),
            opened = opening => opened,
        };
        match opened {
            Ok((opened, path)) => {
                let beginning = Beginning::new(Ok(opened));
                self.take_cookies(browser, beginning.clears_cookies, &beginning.cookies, &path);
                beginning
            }
            Err(refusal) => {
                self.forwarder.stats().gate.refused(refusal.code());
                Beginning::new(Err(refusal))
            }
        }
    }

    /// Answers 101, and leaves with the connection what is to be done with the WebSocket that it becomes.
    fn switch<F, R>(
        &self,
        handshake: Handshake,
        extra: HeaderMap,
        connection: &Connection,
        active: Active,
        run: F,
    ) -> Response<AnswerBody>
    where
        F: FnOnce(carrier::Socket) -> R + Send + 'static,
        R: Future<Output = ()> + Send,
    {
        let Handshake { accept, upgrade } = handshake;
        let mut answer = Response::new(AnswerBody::plain(Bytes::new()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let outer = answer.headers_mut();
        outer.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        outer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        outer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        outer.extend(extra);
        let counted = self.forwarder.stats().websocket();
        connection.leave(Box::pin(async move {
            let _counted = (active, counted);
            match tokio::time::timeout(END, upgrade).await {
                Ok(Ok(upgraded)) => {
                    let io = TokioIo::new(upgraded);
                    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config(MAX_RECORD)));
                    run(socket.await).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "an upgrade did not complete"),
                Err(_) => tracing::debug!("an upgrade did not complete in time"),
            }
        }));
        answer
    }
}

/// A HEAD after which messages come.
pub(super) fn messages_follow(
    head: RequestHead,
    accepted: impl FnOnce() -> Result<(), RecordError>,
) -> Result<RequestHead, Fault> {
    if !head.websocket {
        return Err(Fault::NotThisWay);
    }
    accepted()?;
    Ok(head)
}

fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let first = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.as_bytes().split(|b| *b == b',').next()?;
    HeaderValue::from_bytes(first.trim_ascii()).ok()
}
