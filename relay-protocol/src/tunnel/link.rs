//! Messages as a byte stream: what the yamux session reads from and writes to.
//!
//! Writing is corked: the session's many small writes gather in one buffer, and the driver sends the
//! whole buffer as one message when the session has run dry. A write is therefore always complete, and
//! no byte can be counted twice or lost over a flush that is still pending. Reading hands out the
//! incoming message in place.

use super::control::{Control, ParseError};
use super::mux::Ended;
use super::transport::{Inbound, Outbound, Transport};
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::Encoder;
use tokio_yamux::frame::{Frame, FrameCodec};

/// Outbound bytes from which on nothing more is read from the peer: only answers to its yamux frames
/// can get there (streams are held at a quarter of it), so it is a peer that asks and does not read.
/// What it asks by WebSocket pings is bounded by `WRITE_BUFFER`.
const STOP_READING: usize = 4 << 20;
/// Control messages that may wait for the driver; it takes them in the same poll that reads them.
const MAX_CONTROLS: usize = 64;
/// An idle outbound buffer larger than this is given back.
const KEEP_IDLE: usize = 16 * 1024;

/// Bytes of a yamux frame's head, and two of its types (the second byte).
const FRAME_HEAD: usize = 12;
const DATA: u8 = 0;
const GO_AWAY: u8 = 3;

pub(super) struct Link<T> {
    transport: T,
    plain: bool,
    /// The rest of the message that the session is reading.
    inbound: Bytes,
    /// What the session has written and no message carries yet.
    pub(super) outbound: BytesMut,
    /// Bytes of the message that the transport is taking.
    in_flight: usize,
    /// Messages that go before the next batch: hello, drain, ping.
    urgent: VecDeque<Outbound>,
    flushing: bool,
    /// Something came from the peer since this was last cleared.
    pub(super) heard: bool,
    /// The payload of the last pong.
    pub(super) pong: Option<Bytes>,
    /// Control messages that the driver has not taken.
    pub(super) controls: VecDeque<Control>,
    /// Why reading ended.
    pub(super) ended: Option<Ended>,
    /// The session said GoAway. It does so of itself only where the peer broke the protocol, and would then go on
    /// for ten seconds with what is open.
    pub(super) going: bool,
    /// Who to wake when reading may go on.
    stopped: Option<Waker>,
}

impl<T: Transport> Link<T> {
    pub(super) fn new(transport: T, plain: bool) -> Self {
        Self {
            transport,
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
            going: false,
            stopped: None,
        }
    }

    /// Bytes that the transport has not taken.
    pub(super) fn queued(&self) -> usize {
        self.outbound.len().saturating_add(self.in_flight)
    }

    /// Whether the transport has taken everything.
    pub(super) fn drained(&self) -> bool {
        self.outbound.is_empty() && self.urgent.is_empty() && !self.flushing
    }

    pub(super) fn send_first(&mut self, message: Outbound) {
        self.urgent.push_back(message);
    }

    pub(super) fn send_close(&mut self, code: u16, reason: &str) {
        // RFC 6455 section 5.5: a control frame carries 125 bytes, two of them the code.
        let mut cut = reason.len().min(123);
        while !reason.is_char_boundary(cut) {
            cut -= 1;
        }
        let reason = reason.get(..cut).unwrap_or_default().to_owned();
        self.urgent.push_back(Outbound::Close { code, reason });
    }

    /// The transport may hold an answer to the peer's close that no flush has carried yet.
    pub(super) fn flush_again(&mut self) {
        self.flushing = true;
    }

    /// Writes a frame beside the session. The session writes whole frames too, so the buffer ends at a
    /// frame's end whenever the session does not run.
    pub(super) fn write_frame(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        if FrameCodec::default().encode(frame, &mut bytes).is_ok() {
            self.outbound.extend_from_slice(&bytes);
        }
    }

    /// Gives back what a burst left behind.
    pub(super) fn shrink(&mut self) {
        if self.outbound.is_empty() && self.outbound.capacity() > KEEP_IDLE {
            self.outbound = BytesMut::new();
        }
    }

    /// Moves outbound bytes to the transport until it takes no more. `hold` leaves a small batch for the
    /// next poll. Returns whether a batch started.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, hold: bool) -> Result<bool, Ended> {
        let mut started = false;
        loop {
            if self.flushing {
                match self.transport.poll_flush(cx) {
                    Poll::Pending => break,
                    Poll::Ready(result) => {
                        result?;
                        self.flushing = false;
                        self.in_flight = 0;
                    }
                }
            }
            if self.urgent.is_empty() && (self.outbound.is_empty() || hold) {
                break;
            }
            match self.transport.poll_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(result) => result?,
            }
            let message = match self.urgent.pop_front() {
                Some(message) => message,
                None => {
                    started = true;
                    let len = self.outbound.len().min(T::MESSAGE);
                    let batch = self.outbound.split_to(len).freeze();
                    self.in_flight = batch.len();
                    Outbound::Bytes(batch)
                }
            };
            self.transport.start_send(message)?;
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
            match self.transport.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(ended)) => self.ended = Some(ended),
                Poll::Ready(Ok(message)) => {
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

    fn take(&mut self, message: Inbound) {
        match message {
            Inbound::Bytes(bytes) => self.inbound = bytes,
            Inbound::Text(text) if self.plain => self.inbound = text.into(),
            Inbound::Text(text) => match Control::parse(text.as_str()) {
                Ok(Control::Unknown) => {}
                Ok(_) if self.controls.len() >= MAX_CONTROLS => {
                    self.ended = Some(Ended::Protocol("too many control messages".to_owned()));
                }
                Ok(control) => self.controls.push_back(control),
                Err(error @ (ParseError::TooLong(_) | ParseError::Malformed(_))) => {
                    self.ended = Some(Ended::Protocol(error.to_string()));
                }
            },
            Inbound::Pong(payload) => self.pong = Some(payload),
            Inbound::Close { code, reason } => self.ended = Some(Ended::Closed { code, reason }),
            Inbound::Sign => {}
        }
    }
}

/// Whether there is a GoAway among these frames. They are the session's own, so they are whole.
fn has_go_away(mut frames: &[u8]) -> bool {
    while let Some(([_version, kind, _, _, _, _, _, _, a, b, c, d], rest)) =
        frames.split_first_chunk::<FRAME_HEAD>()
    {
        let kind = *kind;
        if kind == GO_AWAY {
            return true;
        }
        // Of data alone the last field is the length of what follows.
        let body = if kind == DATA { u32::from_be_bytes([*a, *b, *c, *d]) } else { 0 };
        frames = usize::try_from(body).ok().and_then(|body| rest.get(body..)).unwrap_or_default();
    }
    false
}

/// The session's end of a link.
pub(super) struct LinkIo<T>(pub(super) Arc<Mutex<Link<T>>>);

impl<T: Transport> AsyncRead for LinkIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(cx, buf)
    }
}

impl<T: Transport> AsyncWrite for LinkIo<T> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut link = self.0.lock();
        link.going |= has_go_away(buf);
        link.outbound.extend_from_slice(buf);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_go_away_is_found_among_other_frames() {
        let ping = [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3];
        let window = [0, 1, 0, 1, 0, 0, 0, 3, 0, 0, 0, 3];
        let data = [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 12, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let go_away = [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        for (frames, expected) in [
            (vec![], false),
            (ping.to_vec(), false),
            (data.to_vec(), false),
            ([&ping[..], &data, &window, &data].concat(), false),
            (go_away.to_vec(), true),
            ([&ping[..], &data, &window, &go_away].concat(), true),
            (data[..20].to_vec(), false),
        ] {
            assert_eq!(has_go_away(&frames), expected, "{frames:?}");
        }
    }
}
