//! What a link runs over: messages in both directions, each whole and in order.
//!
//! Two of them: the WebSocket of a tunnel, here, and the data channel of a peer, at the agent.

use super::MAX_MESSAGE;
use super::mux::Ended;
use bytes::Bytes;
use futures_util::{Sink, Stream};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

/// A message that came.
#[derive(Debug)]
pub enum Inbound {
    /// A part of the byte stream.
    Bytes(Bytes),
    /// A text message: bytes in the plain form, a control message in the other.
    Text(Utf8Bytes),
    /// The answer to a ping of the transport.
    Pong(Bytes),
    /// The peer closes, with a code of RFC 6455 section 7.4.
    Close {
        /// The code.
        code: u16,
        /// The reason, possibly empty.
        reason: String,
    },
    /// Something that only tells that the peer lives.
    Sign,
}

/// A message that is to go.
#[derive(Debug)]
pub enum Outbound {
    /// A part of the byte stream, of at most [`Transport::MESSAGE`] bytes.
    Bytes(Bytes),
    /// A control message; only in a form that has them.
    Control(String),
    /// A ping; only where [`Transport::PINGS`] says so.
    Ping(Bytes),
    /// The end of what this end sends.
    Close {
        /// The code.
        code: u16,
        /// The reason, at most 123 bytes.
        reason: String,
    },
}

/// Messages in both directions. The methods are those of [`Stream`] and [`Sink`], with the same rules.
pub trait Transport: Unpin + Send + 'static {
    /// Bytes of one message at the most that this end sends.
    const MESSAGE: usize;
    /// Whether it has pings of its own. Otherwise the driver pings with yamux frames.
    const PINGS: bool;

    /// The next message, or why there will be none.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Inbound, Ended>>;
    /// Whether it takes a message.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>>;
    /// Takes one. Only after [`Transport::poll_ready`].
    ///
    /// # Errors
    /// When nothing can be sent any more.
    fn start_send(&mut self, message: Outbound) -> Result<(), Ended>;
    /// Whether everything that was taken is on its way, so that the backlog may be counted without it.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>>;
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for WebSocketStream<S> {
    /// Pings and their answers go between messages: on a line of 100 kB/s one may take a second, not ten.
    const MESSAGE: usize = 128 * 1024;
    const PINGS: bool = true;

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Inbound, Ended>> {
        Pin::new(self).poll_next(cx).map(|next| match next {
            None => Err(Ended::Lost("the connection ended".to_owned())),
            Some(message) => Ok(inbound(message?)),
        })
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        Sink::poll_ready(Pin::new(self), cx).map_err(Ended::from)
    }

    fn start_send(&mut self, message: Outbound) -> Result<(), Ended> {
        let message = match message {
            Outbound::Bytes(bytes) => Message::Binary(bytes),
            Outbound::Control(text) => Message::text(text),
            Outbound::Ping(payload) => Message::Ping(payload),
            Outbound::Close { code, reason } => {
                Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
            }
        };
        Sink::start_send(Pin::new(self), message).map_err(Ended::from)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        Sink::poll_flush(Pin::new(self), cx).map_err(Ended::from)
    }
}

fn inbound(message: Message) -> Inbound {
    match message {
        Message::Binary(bytes) => Inbound::Bytes(bytes),
        Message::Text(text) => Inbound::Text(text),
        Message::Pong(payload) => Inbound::Pong(payload),
        Message::Close(Some(frame)) => {
            Inbound::Close { code: frame.code.into(), reason: frame.reason.as_str().to_owned() }
        }
        // RFC 6455 section 7.1.5: no code was given.
        Message::Close(None) => Inbound::Close { code: 1005, reason: String::new() },
        // tungstenite answers pings while it reads.
        Message::Ping(_) | Message::Frame(_) => Inbound::Sign,
    }
}

impl From<tungstenite::Error> for Ended {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error as E;
        match error {
            E::Capacity(_)
            | E::Protocol(tungstenite::error::ProtocolError::UnmaskedFrameFromClient)
            | E::Utf8(_) => Ended::Protocol(error.to_string()),
            E::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)
            | E::ConnectionClosed
            | E::AlreadyClosed
            | E::Io(_) => Ended::Lost(error.to_string()),
            other => Ended::Protocol(other.to_string()),
        }
    }
}

// A message of ours is one that the peer takes.
const _: () = assert!(<WebSocketStream<tokio::io::Empty> as Transport>::MESSAGE <= MAX_MESSAGE);
