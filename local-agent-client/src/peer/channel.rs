//! The data channel as what carries the streams of a peer.
//!
//! Backpressure is the channel's own: a message is on its way once the engine has taken it, and it takes
//! none while [`SEND_BUFFER`] bytes wait for the browser's acknowledgement. Incoming messages are taken as
//! the session reads; what it does not read stays in the engine, whose bounds slow the browser down.

use bytes::BytesMut;
use relay_protocol::tunnel::{
    Ended, Transport,
    transport::{Inbound, Outbound},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio_util::sync::ReusableBoxFuture;
use webrtc::{
    data_channel::{DataChannel, DataChannelEvent},
    error::Result as EngineResult,
};

/// What has to be said of the one channel of a peer (PROTOCOL.md section 6.2).
pub const LABEL: &str = "relay";
/// See [`LABEL`].
pub const PROTOCOL: &str = "relay.peer.v1";
/// Bytes of one message, in either direction.
pub const MAX_MESSAGE: usize = 65_536;
/// Bytes that may wait for the browser's acknowledgement. It carries 25 MB/s at a round trip of 40 ms.
pub const SEND_BUFFER: usize = 1 << 20;

/// Payload bytes of one peer, as they went over its channel.
#[derive(Debug, Default)]
pub struct Bytes {
    /// To the browser.
    pub sent: AtomicU64,
    /// From it.
    pub received: AtomicU64,
}

type Channel = Arc<dyn DataChannel>;

/// Whether this is the channel that a peer is for. That it is reliable cannot be seen: the engine does not tell
/// of a channel that the other end opened. Over one that is not the browser loses its own bytes, and the session
/// or a record's protection notices.
pub async fn is_ours(channel: &Channel) -> bool {
    let read = async {
        EngineResult::Ok(
            channel.label().await? == LABEL
                && channel.protocol().await? == PROTOCOL
                && channel.ordered().await?
                && !channel.negotiated().await?,
        )
    };
    read.await.unwrap_or(false)
}

/// One open channel.
pub struct Messages {
    channel: Channel,
    bytes: Arc<Bytes>,
    receiving: ReusableBoxFuture<'static, Option<DataChannelEvent>>,
    sending: ReusableBoxFuture<'static, EngineResult<()>>,
    is_sending: bool,
}

impl Messages {
    /// Carries what goes over `channel`, and counts it.
    pub fn new(channel: Channel, bytes: Arc<Bytes>) -> Self {
        Self {
            receiving: ReusableBoxFuture::new(next(channel.clone())),
            sending: ReusableBoxFuture::new(std::future::ready(Ok(()))),
            is_sending: false,
            channel,
            bytes,
        }
    }
}

async fn next(channel: Channel) -> Option<DataChannelEvent> {
    channel.poll().await
}

fn closed() -> Ended {
    Ended::Closed { code: 1000, reason: String::new() }
}

impl Transport for Messages {
    const MESSAGE: usize = MAX_MESSAGE;
    const PINGS: bool = false;

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Inbound, Ended>> {
        loop {
            let event = ready!(self.receiving.poll(cx));
            self.receiving.set(next(self.channel.clone()));
            match event {
                Some(DataChannelEvent::OnMessage(message)) if message.is_string => {
                    return Poll::Ready(Err(Ended::Protocol("a text message".to_owned())));
                }
                Some(DataChannelEvent::OnMessage(message)) if message.data.len() > MAX_MESSAGE => {
                    return Poll::Ready(Err(Ended::Protocol("a message over 65,536 bytes".to_owned())));
                }
                Some(DataChannelEvent::OnMessage(message)) => {
                    self.bytes.received.fetch_add(message.data.len() as u64, Relaxed);
                    return Poll::Ready(Ok(Inbound::Bytes(message.data.freeze())));
                }
                Some(DataChannelEvent::OnClosing | DataChannelEvent::OnClose) | None => {
                    return Poll::Ready(Err(closed()));
                }
                Some(DataChannelEvent::OnError) => {
                    return Poll::Ready(Err(Ended::Lost("the data channel failed".to_owned())));
                }
                Some(_) => {}
            }
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        self.poll_flush(cx)
    }

    fn start_send(&mut self, message: Outbound) -> Result<(), Ended> {
        let channel = self.channel.clone();
        match message {
            Outbound::Bytes(bytes) => {
                self.bytes.sent.fetch_add(bytes.len() as u64, Relaxed);
                self.sending.set(async move { channel.send(BytesMut::from(bytes)).await });
            }
            Outbound::Close { .. } => self.sending.set(async move { channel.close().await }),
            Outbound::Control(_) | Outbound::Ping(_) => {
                return Err(Ended::Protocol("a data channel carries bytes alone".to_owned()));
            }
        }
        self.is_sending = true;
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.is_sending {
            let sent = ready!(self.sending.poll(cx));
            self.is_sending = false;
            sent.map_err(|error| Ended::Lost(error.to_string()))?;
        }
        Poll::Ready(Ok(()))
    }
}
