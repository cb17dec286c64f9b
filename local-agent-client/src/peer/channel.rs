//! The data channel as what carries the streams of a peer.
//!
//! Backpressure is the channel's own: a message is on its way once the engine has taken it, and it gets none
//! while as many bytes wait for the browser's acknowledgement as the path needs ([`Flight`]). Incoming messages
//! are taken as the session reads; what it does not read stays in the engine, whose bounds slow the browser down.

use bytes::BytesMut;
use relay_protocol::tunnel::{
    Ended, Transport,
    transport::{Inbound, Outbound},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
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
pub const MAX_MESSAGE: usize = super::sdp::MAX_MESSAGE;
/// Bytes that may wait for the browser's acknowledgement at the most. It carries 25 MB/s at a round trip of 40 ms.
pub const SEND_BUFFER: usize = 1 << 20;
/// Those that may always: a message or two.
const LEAST_FLIGHT: usize = 64 * 1024;
/// Those that may while the round trip is not known.
const FIRST_FLIGHT: usize = 256 * 1024;
/// Bytes a second that are aimed at.
const AIM: f64 = 50e6;
/// The engine tells when there is room again; if it should not, it is looked at so often.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How long the last of what was sent has to arrive before the channel is closed.
const LANDING: Duration = Duration::from_secs(1);

/// Payload bytes of one peer, as they went over its channel.
#[derive(Debug, Default)]
pub struct Bytes {
    /// To the browser.
    pub sent: AtomicU64,
    /// From it.
    pub received: AtomicU64,
}

/// How many bytes may wait for the browser's acknowledgement.
///
/// The engine sends all that it has in one burst. On a short path more than the browser's socket holds, some
/// 100 kB, is lost, and the last packets of a burst are sent again only after a second: 19 MB/s with pauses of a
/// second came of a megabyte in flight, 55 MB/s without pauses of a tenth of it. A long path needs more, and its
/// slowest line spreads the burst. What is not in flight yet also lets a small answer pass.
#[derive(Debug)]
pub struct Flight {
    limit: AtomicUsize,
    /// Less waits than did.
    landed: Notify,
}

impl Default for Flight {
    fn default() -> Self {
        Self { limit: AtomicUsize::new(flight(None)), landed: Notify::new() }
    }
}

impl Flight {
    /// Follows the path's round trip.
    pub async fn follow(&self, channel: &Channel, rtt_ms: Option<f64>) {
        let limit = flight(rtt_ms);
        if self.limit.swap(limit, Relaxed) != limit {
            let low = u32::try_from(limit / 2).unwrap_or(u32::MAX);
            // It tells of nothing but a channel that has ended, which others notice.
            let _ = channel.set_buffered_amount_low_threshold(low).await;
        }
    }
}

/// What a path of this round trip needs.
fn flight(rtt_ms: Option<f64>) -> usize {
    // Within the bounds of an integer, whatever was measured.
    let wanted = |rtt: f64| (rtt / 1e3 * AIM).clamp(LEAST_FLIGHT as f64, SEND_BUFFER as f64) as usize;
    rtt_ms.filter(|rtt| rtt.is_finite()).map_or(FIRST_FLIGHT, wanted)
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
    flight: Arc<Flight>,
    receiving: ReusableBoxFuture<'static, Option<DataChannelEvent>>,
    sending: ReusableBoxFuture<'static, EngineResult<()>>,
    is_sending: bool,
}

impl Messages {
    /// Carries what goes over `channel`, and counts it.
    pub fn new(channel: Channel, bytes: Arc<Bytes>, flight: Arc<Flight>) -> Self {
        Self {
            receiving: ReusableBoxFuture::new(next(channel.clone())),
            sending: ReusableBoxFuture::new(std::future::ready(Ok(()))),
            is_sending: false,
            channel,
            bytes,
            flight,
        }
    }
}

async fn send(channel: Channel, bytes: bytes::Bytes, flight: Arc<Flight>) -> EngineResult<()> {
    while channel.outstanding_bytes().await? >= flight.limit.load(Relaxed) {
        let _ = timeout(LOOK_AGAIN, flight.landed.notified()).await;
    }
    channel.send(BytesMut::from(bytes)).await
}

/// Closes a channel once the browser has what was sent: closing it is not to overtake the last answer.
async fn close(channel: Channel) -> EngineResult<()> {
    let landed = async {
        while channel.outstanding_bytes().await.is_ok_and(|bytes| bytes > 0) {
            sleep(LOOK_AGAIN).await;
        }
    };
    let _ = timeout(LANDING, landed).await;
    channel.close().await
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
                Some(DataChannelEvent::OnBufferedAmountLow) => self.flight.landed.notify_one(),
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
                self.sending.set(send(channel, bytes, self.flight.clone()));
            }
            Outbound::Close { .. } => self.sending.set(close(channel)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_gets_more_in_flight_than_a_short_one() {
        for (rtt, expected) in [
            (None, FIRST_FLIGHT),
            (Some(f64::NAN), FIRST_FLIGHT),
            (Some(-1.0), LEAST_FLIGHT),
            (Some(0.2), LEAST_FLIGHT),
            (Some(4.0), 200_000),
            (Some(20.0), 1_000_000),
            (Some(40.0), SEND_BUFFER),
            (Some(1e9), SEND_BUFFER),
        ] {
            assert_eq!(flight(rtt), expected, "{rtt:?}");
        }
    }
}
