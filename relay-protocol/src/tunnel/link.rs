//! A WebSocket as a byte stream: what the yamux session reads from and writes to.
//!
//! Writing is corked: the session's many small writes gather in one buffer, and the driver sends the
//! whole buffer as one message when the session has run dry. A write is therefore always complete, and
//! no byte can be counted twice or lost over a flush that is still pending. Reading hands out the
//! incoming message in place.

use super::control::{Control, ParseError};
use super::mux::Ended;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message, protocol::CloseFrame};

/// Outbound bytes from which on nothing more is read from the peer: only answers to its yamux frames
/// can get there (streams are held at a quarter of it), so it is a peer that asks and does not read.
/// What it asks by WebSocket pings is bounded by `WRITE_BUFFER`.
const STOP_READING: usize = 4 << 20;
/// Bytes of one message at the most. Pings and their answers go between messages: on a line of 100 kB/s
/// one may take a second, not ten.
const MAX_BATCH: usize = 128 * 1024;
/// Control messages that may wait for the driver; it takes them in the same poll that reads them.
const MAX_CONTROLS: usize = 64;
/// An idle outbound buffer larger than this is given back.
const KEEP_IDLE: usize = 16 * 1024;

pub(super) struct Link<S> {
    ws: WebSocketStream<S>,
    plain: bool,
    /// The rest of the message that the session is reading.
    inbound: Bytes,
    /// What the session has written and no message carries yet.
    pub(super) outbound: BytesMut,
    /// Bytes of the message that the socket is taking.
    in_flight: usize,
    /// Messages that go before the next batch: hello, drain, ping.
    urgent: VecDeque<Message>,
    flushing: bool,
    /// Something came from the peer since this was last cleared.
    pub(super) heard: bool,
    /// The payload of the last pong.
    pub(super) pong: Option<Bytes>,
    /// Control messages that the driver has not taken.
    pub(super) controls: VecDeque<Control>,
    /// Why reading ended.
    pub(super) ended: Option<Ended>,
    /// Who to wake when reading may go on.
    stopped: Option<Waker>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    pub(super) fn new(ws: WebSocketStream<S>, plain: bool) -> Self {
        Self {
            ws,
            plain,
            inbound: Bytes::new(),
            outbound: BytesMut::new(),
            in_flight: 0,
            urgent: VecDeque::new(),
            flushing: false,
            heard: false,
            pong: None,
            controls: VecDeque::new(),
            ended: None,
            stopped: None,
        }
    }

    /// Bytes that the socket has not taken.
    pub(super) fn queued(&self) -> usize {
        self.outbound.len().saturating_add(self.in_flight)
    }

    /// Whether the socket has taken everything.
    pub(super) fn drained(&self) -> bool {
        self.outbound.is_empty() && self.urgent.is_empty() && !self.flushing
    }

    pub(super) fn send_first(&mut self, message: Message) {
        self.urgent.push_back(message);
    }

    pub(super) fn send_close(&mut self, code: u16, reason: &str) {
        // RFC 6455 section 5.5: a control frame carries 125 bytes, two of them the code.
        let mut cut = reason.len().min(123);
        while !reason.is_char_boundary(cut) {
            cut -= 1;
        }
        let reason = reason.get(..cut).unwrap_or_default().to_owned().into();
        self.urgent.push_back(Message::Close(Some(CloseFrame { code: code.into(), reason })));
    }

    /// tungstenite holds an answer to the peer's close that no flush has carried yet.
    pub(super) fn flush_again(&mut self) {
        self.flushing = true;
    }

    /// Gives back what a burst left behind.
    pub(super) fn shrink(&mut self) {
        if self.outbound.is_empty() && self.outbound.capacity() > KEEP_IDLE {
            self.outbound = BytesMut::new();
        }
    }

    /// Moves outbound bytes to the socket until it takes no more. `hold` leaves a small batch for the
    /// next poll. Returns whether a batch started.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, hold: bool) -> Result<bool, Ended> {
        let mut started = false;
        loop {
            if self.flushing {
                match Pin::new(&mut self.ws).poll_flush(cx) {
                    Poll::Pending => break,
                    Poll::Ready(result) => {
                        result.map_err(Ended::from)?;
                        self.flushing = false;
                        self.in_flight = 0;
                    }
                }
            }
            if self.urgent.is_empty() && (self.outbound.is_empty() || hold) {
                break;
            }
            match Pin::new(&mut self.ws).poll_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(result) => result.map_err(Ended::from)?,
            }
            let message = match self.urgent.pop_front() {
                Some(message) => message,
                None => {
                    started = true;
                    let len = self.outbound.len().min(MAX_BATCH);
                    let batch = self.outbound.split_to(len).freeze();
                    self.in_flight = batch.len();
                    Message::Binary(batch)
                }
            };
            Pin::new(&mut self.ws).start_send(message).map_err(Ended::from)?;
            self.flushing = true;
        }
        if self.outbound.len() < STOP_READING
            && let Some(waker) = self.stopped.take()
        {
            waker.wake();
        }
        Ok(started)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.outbound.len() >= STOP_READING {
            self.stopped = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while self.inbound.is_empty() {
            if self.ended.is_some() {
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.ws).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => self.ended = Some(Ended::Lost("the connection ended".to_owned())),
                Poll::Ready(Some(Err(error))) => self.ended = Some(error.into()),
                Poll::Ready(Some(Ok(message))) => {
                    self.heard = true;
                    self.take(message);
                }
            }
        }
        let count = self.inbound.len().min(buf.remaining());
        buf.put_slice(self.inbound.get(..count).unwrap_or_default());
        self.inbound.advance(count);
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Binary(bytes) => self.inbound = bytes,
            Message::Text(text) if self.plain => self.inbound = text.into(),
            Message::Text(text) => match Control::parse(text.as_str()) {
                Ok(Control::Unknown) => {}
                Ok(_) if self.controls.len() >= MAX_CONTROLS => {
                    self.ended = Some(Ended::Protocol("too many control messages".to_owned()));
                }
                Ok(control) => self.controls.push_back(control),
                Err(error @ (ParseError::TooLong(_) | ParseError::Malformed(_))) => {
                    self.ended = Some(Ended::Protocol(error.to_string()));
                }
            },
            Message::Pong(payload) => self.pong = Some(payload),
            Message::Close(frame) => {
                let (code, reason) = match frame {
                    Some(frame) => (frame.code.into(), frame.reason.as_str().to_owned()),
                    // RFC 6455 section 7.1.5: no code was given.
                    None => (1005, String::new()),
                };
                self.ended = Some(Ended::Closed { code, reason });
            }
            // tungstenite answers pings while it reads.
            Message::Ping(_) | Message::Frame(_) => {}
        }
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

/// The session's end of a link.
pub(super) struct LinkIo<S>(pub(super) Arc<Mutex<Link<S>>>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for LinkIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LinkIo<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().outbound.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    /// The driver sends: a flush for every frame would be a message for every frame.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
