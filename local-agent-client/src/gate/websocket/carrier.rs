//! What carries the records of a WebSocket: messages of an outer WebSocket, one record each, or a byte stream.

use super::bridge::Ended;
use crate::gate::{
    exchange::reader::{BrowserOpener, Reader},
    piece::Piece,
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use relay_protocol::record::{Frame, Order, Record, RecordError, open_message};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message, Utf8Bytes,
        error::ProtocolError,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

/// How much of what cannot be read is taken in behind a close, and for how long.
const REST: u64 = 64 * 1024 * 1024;
const REST_TIME: Duration = Duration::from_secs(3);

/// Both directions of it.
pub(in crate::gate) trait Carrier: Send {
    /// Gives records.
    type From: Receive;
    /// Takes records.
    type To: Deliver;
    /// Whether the end of the session is told in a record, because the carrier itself has no words for it.
    const ENDS_IN_RECORDS: bool;

    /// Takes the directions apart.
    fn split(self) -> (Self::From, Self::To);

    /// Ends it. Nobody is to take for complete what was not.
    fn end(from: Self::From, to: Self::To, ended: Ended) -> impl Future<Output = ()> + Send;
}

/// From the browser.
pub(in crate::gate) trait Receive: Send {
    /// The next record, opened and in its order.
    fn next(&mut self) -> impl Future<Output = Result<Record, Ended>> + Send;
}

/// To the browser.
pub(in crate::gate) trait Deliver: Send {
    /// Sends a record.
    fn deliver(&mut self, frame: Frame) -> impl Future<Output = Result<(), Ended>> + Send;
}

/// The outer WebSocket.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Messages of an outer WebSocket.
pub(super) struct Messages {
    pub socket: Socket,
    pub open: BrowserOpener,
    pub order: Order,
}

/// See [`Messages`].
pub(super) struct FromMessages {
    stream: SplitStream<Socket>,
    open: BrowserOpener,
    order: Order,
}

impl Carrier for Messages {
    type From = FromMessages;
    type To = SplitSink<Socket, Message>;
    const ENDS_IN_RECORDS: bool = false;

    fn split(self) -> (Self::From, Self::To) {
        let (to, stream) = self.socket.split();
        (FromMessages { stream, open: self.open, order: self.order }, to)
    }

    async fn end(from: Self::From, to: Self::To, ended: Ended) {
        // The two halves came from one.
        let Ok(mut socket) = to.reunite(from.stream) else { return };
        if ended == Ended::BrowserGone {
            return;
        }
        if let Some((code, reason)) = close(ended) {
            let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
            if socket.close(Some(frame)).await.is_err() {
                return;
            }
        }
        // Until the answer to the close; what comes before it has nobody to go to. Where the browser closed, going
        // on is what answers it.
        let unreadable = loop {
            match socket.next().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        if unreadable {
            // Whoever still sends what is none loses the close with the connection, unless it is taken in.
            let mut rest = socket.get_mut().take(REST);
            let _ = tokio::time::timeout(REST_TIME, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
        }
        let _ = socket.get_mut().shutdown().await;
    }
}

/// How the outer WebSocket is closed; `None` when nobody is there, or the browser has closed it.
fn close(ended: Ended) -> Option<(CloseCode, &'static str)> {
    Some(match ended {
        Ended::Closed => (CloseCode::Normal, ""),
        Ended::Refused | Ended::LocalGone | Ended::Unanswered => {
            (CloseCode::Error, "the local server is gone")
        }
        Ended::BrowserGone | Ended::BrowserLeft => return None,
        Ended::GivenUp => (CloseCode::Normal, "broken off"),
        Ended::TooLarge => (CloseCode::Size, "a message is larger than any record"),
        Ended::Wrong(_) => (CloseCode::Protocol, "a record is wrong"),
        Ended::Revoked => (CloseCode::Policy, "the session has ended"),
    })
}

impl Receive for FromMessages {
    async fn next(&mut self) -> Result<Record, Ended> {
        loop {
            let message = match self.stream.next().await {
                Some(Ok(Message::Binary(message))) => message,
                // Not messages: whoever keeps a connection alive may say so.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Text(_))) => return Err(Ended::Wrong(RecordError::UnknownType)),
                Some(Ok(Message::Close(_))) => return Err(Ended::BrowserLeft),
                Some(Ok(Message::Frame(_))) | None => return Err(Ended::BrowserGone),
                Some(Err(error)) => return Err(unreadable(&error)),
            };
            let record = open_message(&mut self.open, message).map_err(Ended::Wrong)?;
            // The socket bounds a message by the largest that may come here at all.
            self.order.next(record.kind).map_err(Ended::Wrong)?;
            return Ok(record);
        }
    }
}

/// What it means that a message of the browser cannot be read.
fn unreadable(error: &tungstenite::Error) -> Ended {
    use tungstenite::Error;
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ended::BrowserGone,
        Error::Protocol(_) | Error::Utf8(_) => Ended::Wrong(RecordError::BadPayload),
        Error::Capacity(_) => Ended::TooLarge,
        _ => Ended::BrowserGone,
    }
}

impl Deliver for SplitSink<Socket, Message> {
    async fn deliver(&mut self, frame: Frame) -> Result<(), Ended> {
        self.send(Message::Binary(frame.to_bytes())).await.map_err(|_| Ended::BrowserGone)
    }
}

/// A byte stream in both directions.
pub(in crate::gate) struct Bytes<W> {
    pub reader: Reader,
    pub write: W,
}

/// See [`Bytes`].
pub(in crate::gate) struct ToBytes<W> {
    write: W,
    /// What is not written yet of the last record. Whoever gave up waiting for it has left it here, and no other
    /// begins in the middle of it.
    piece: Option<Piece>,
}

impl<W: AsyncWrite + Unpin + Send> Carrier for Bytes<W> {
    type From = Reader;
    type To = ToBytes<W>;
    const ENDS_IN_RECORDS: bool = true;

    fn split(self) -> (Self::From, Self::To) {
        (self.reader, ToBytes { write: self.write, piece: None })
    }

    async fn end(_: Self::From, mut to: Self::To, ended: Ended) {
        match ended {
            // Whoever is gone does not hear it.
            Ended::Closed | Ended::Refused | Ended::Revoked => drop(to.write.shutdown().await),
            // Dropped, which resets it.
            Ended::LocalGone
            | Ended::BrowserGone
            | Ended::BrowserLeft
            | Ended::GivenUp
            | Ended::TooLarge
            | Ended::Wrong(_)
            | Ended::Unanswered => {}
        }
    }
}

impl Receive for Reader {
    async fn next(&mut self) -> Result<Record, Ended> {
        Reader::next(self).await.map_err(|error| match error {
            RecordError::Truncated => Ended::BrowserGone,
            error => Ended::Wrong(error),
        })
    }
}

impl<W: AsyncWrite + Unpin> ToBytes<W> {
    /// Writes what there is to its end. May be given up at any time, and taken up again.
    async fn write_out(&mut self) -> std::io::Result<()> {
        if let Some(piece) = &mut self.piece {
            self.write.write_all_buf(piece).await?;
            self.piece = None;
        }
        self.write.flush().await
    }
}

impl<W: AsyncWrite + Unpin + Send> Deliver for ToBytes<W> {
    async fn deliver(&mut self, frame: Frame) -> Result<(), Ended> {
        let written = async {
            self.write_out().await?;
            self.piece = Some(Piece::from(frame));
            self.write_out().await
        };
        written.await.map_err(|_| Ended::BrowserGone)
    }
}
