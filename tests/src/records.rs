//! What a browser gets and sends as records, in whichever form its session protects them.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use relay_protocol::{
    keys::{AgentVerifyingKey, BrowserSigningKey},
    problem::Problem,
    record::{self, Close, Decoder, Head, Kind, Opener, Order, Protect, Protector, Record},
};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, tungstenite};
use tungstenite::Message;

use crate::{
    client,
    signed::{Answer, Failure, tampered},
};

/// Opens the agent's records.
pub type FromAgent = Opener<AgentVerifyingKey>;

/// Protects the browser's.
pub type ToAgent = Protector<BrowserSigningKey>;

fn no_head() -> Head {
    Head { status: StatusCode::OK, headers: HeaderMap::new() }
}

/// What an ERROR record says.
fn told(record: &Record) -> Failure {
    record::decode_error(&record.payload).map_or_else(tampered, |problem| Failure::Agent(problem.code))
}

/// An answer whose body is still to come.
pub struct Stream {
    /// Its head, verified.
    pub head: Head,
    /// The headers of the outer response.
    pub outer: HeaderMap,
    body: Incoming,
    decoder: Decoder<FromAgent>,
    order: Order,
}

impl Stream {
    /// Reads the head of an answer.
    pub async fn begin(response: Response<Incoming>, opener: FromAgent) -> Result<Self, Failure> {
        let (parts, body) = response.into_parts();
        let (decoder, order) = (Decoder::new(opener), Order::answer());
        let mut stream = Self { head: no_head(), outer: parts.headers, body, decoder, order };
        let first = stream.next().await?;
        stream.head = Head::decode(&first.payload).map_err(tampered)?;
        Ok(stream)
    }

    /// The next record, verified.
    pub async fn next(&mut self) -> Result<Record, Failure> {
        loop {
            if let Some(record) = self.decoder.next_record().map_err(tampered)? {
                self.order.next(record.kind).map_err(tampered)?;
                return if record.kind == Kind::Error { Err(told(&record)) } else { Ok(record) };
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.decoder.push(data);
                    }
                }
                Some(Err(_)) | None => return Err(Failure::Truncated),
            }
        }
    }

    /// The rest of the body, to its end.
    pub async fn collect(mut self) -> Result<Answer, Failure> {
        let mut body = Vec::new();
        let trailers = loop {
            let Record { kind, payload } = self.next().await?;
            match kind {
                Kind::Data => body.extend_from_slice(&payload),
                Kind::End => break record::decode_trailers(&payload).map_err(tampered)?,
                kind => return Err(tampered(format!("{kind:?} where data was expected"))),
            }
        };
        self.end().await?;
        let Head { status, headers } = self.head;
        Ok(Answer { status, headers, body: body.into(), trailers, outer: self.outer })
    }

    /// Checks that nothing comes after the end.
    async fn end(&mut self) -> Result<(), Failure> {
        if self.decoder.next_record().map_err(tampered)?.is_some() {
            return Err(tampered("a record after the end"));
        }
        self.decoder.finish().map_err(|_| tampered("bytes after the end"))?;
        while let Some(frame) = self.body.frame().await {
            let data = frame.map_err(|_| Failure::Truncated)?.into_data().unwrap_or_default();
            if !data.is_empty() {
                return Err(tampered("bytes after the end"));
            }
        }
        self.order.finish().map_err(|_| Failure::Truncated)
    }
}

/// A WebSocket of records.
pub struct Socket {
    /// The head that the agent sent, verified.
    pub head: Head,
    /// The connection, for what a well-behaved browser would not send.
    pub ws: WebSocketStream<TcpStream>,
    opener: FromAgent,
    order: Order,
    protect: ToAgent,
}

impl Socket {
    /// Connects and reads the agent's head.
    pub async fn connect(
        addr: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
        opener: FromAgent,
        protect: ToAgent,
    ) -> Result<Self, Failure> {
        let (ws, _) = client::websocket(addr, path, headers).await.map_err(|error| match error {
            tungstenite::Error::Http(response) => {
                let body = response.body().clone().unwrap_or_default();
                let problem: Option<Problem> = serde_json::from_slice(&body).ok();
                Failure::Unsigned(response.status(), problem.map(|problem| problem.code))
            }
            other => Failure::Nothing(other.to_string()),
        })?;
        let mut socket = Self { ws, head: no_head(), opener, order: Order::websocket_from_agent(), protect };
        let first = socket.next().await?;
        if first.kind == Kind::Error {
            return Err(told(&first));
        }
        socket.head = Head::decode(&first.payload).map_err(tampered)?;
        if socket.head.status == StatusCode::SWITCHING_PROTOCOLS {
            socket.order.accepted().map_err(tampered)?;
        }
        Ok(socket)
    }

    /// The next record, verified.
    pub async fn next(&mut self) -> Result<Record, Failure> {
        loop {
            match self.ws.next().await {
                Some(Ok(Message::Binary(message))) => {
                    let record = record::open_message(&mut self.opener, message).map_err(tampered)?;
                    self.order.next(record.kind).map_err(tampered)?;
                    return Ok(record);
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map(|frame| u16::from(frame.code));
                    return match code {
                        Some(1002) => Err(Failure::Nothing("closed with 1002".into())),
                        _ => Err(Failure::Truncated),
                    };
                }
                Some(Ok(other)) => return Err(tampered(format!("{other:?} is no record"))),
                Some(Err(_)) | None => return Err(Failure::Truncated),
            }
        }
    }

    /// The record of a message, protected: the next of its direction.
    pub fn protect(&mut self, kind: Kind, payload: impl Into<Bytes>) -> Bytes {
        self.protect.protect(kind, payload.into()).expect("within the limits").to_bytes()
    }

    /// Sends a message.
    pub async fn send(&mut self, kind: Kind, payload: impl Into<Bytes>) -> Result<(), Failure> {
        let record = self.protect(kind, payload);
        self.ws.send(Message::Binary(record)).await.map_err(|e| Failure::Nothing(e.to_string()))
    }

    /// Closes it with 1000 and waits for the answer.
    pub async fn close(mut self) -> Result<(), Failure> {
        let close = Close { code: 1000, reason: String::new() };
        self.send(Kind::Close, Close::encode(Some(&close))).await?;
        loop {
            if self.next().await?.kind == Kind::Close {
                return Ok(());
            }
        }
    }
}
