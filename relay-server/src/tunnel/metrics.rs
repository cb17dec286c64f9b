//! What is counted of tunnels and the streams in them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::metrics::Counter;
use relay_protocol::tunnel::{Ended, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::telemetry::metrics::{ByCode, Metric, Opened, Pair};

const OPENED: Metric = Metric::counter("relay_tunnel_opened_total", "", "Tunnels that agents opened");
const CLOSED: Metric = Metric::counter(
    "relay_tunnel_closed_total",
    "reason=relay|agent|lost|silent|protocol",
    "Tunnels that ended: closed by one side, broken, silent past the ping, or in breach of the protocol",
);
const REFUSED: Metric = Metric::counter(
    "relay_tunnel_refused_total",
    "code=…",
    "Agents that were not let in, by the code of the answer",
);
const STREAMS_OPENED: Metric =
    Metric::counter("relay_tunnel_streams_opened_total", "", "Streams that the relay opened in tunnels");
const STREAMS_CLOSED: Metric =
    Metric::counter("relay_tunnel_streams_closed_total", "", "Those that have ended");
const STREAMS_REFUSED: Metric = Metric::counter(
    "relay_tunnel_streams_refused_total",
    "reason=too_many|ended",
    "Streams that a tunnel had no room for, or that it ended before",
);
const BYTES: Metric = Metric::counter(
    "relay_tunnel_bytes_total",
    "direction=to_agent|from_agent",
    "Bytes of all streams, heads and upgraded connections too",
);
const REUSED: Metric = Metric::counter(
    "relay_tunnel_pool_reused_total",
    "",
    "Requests that found a warm connection in the pool",
);
const STALE: Metric = Metric::counter(
    "relay_tunnel_pool_stale_total",
    "",
    "Warm connections that had closed before the request was sent; it took the next one",
);

/// What is counted here.
pub const METRICS: &[Metric] =
    &[OPENED, CLOSED, REFUSED, STREAMS_OPENED, STREAMS_CLOSED, STREAMS_REFUSED, BYTES, REUSED, STALE];

/// The handles of tunnels.
pub struct Tunnels {
    opened: Counter,
    closed: [(&'static str, Counter); 5],
    /// Refusals.
    pub refused: ByCode,
}

impl Tunnels {
    /// Made with what accepts tunnels.
    pub fn new() -> Self {
        Self {
            opened: OPENED.count(),
            closed: ["relay", "agent", "lost", "silent", "protocol"]
                .map(|reason| (reason, CLOSED.count_of("reason", reason))),
            refused: ByCode::new(REFUSED),
        }
    }

    pub(super) fn opened(&self) {
        self.opened.increment(1);
    }

    pub(super) fn closed(&self, ended: &Ended) {
        let reason = match ended {
            Ended::Local => "relay",
            Ended::Closed { .. } => "agent",
            Ended::Lost(_) => "lost",
            Ended::Silent => "silent",
            Ended::Protocol(_) => "protocol",
        };
        if let Some((_, counter)) = self.closed.iter().find(|(name, _)| *name == reason) {
            counter.increment(1);
        }
    }
}

impl Default for Tunnels {
    fn default() -> Self {
        Self::new()
    }
}

/// The handles of one tunnel's streams; those of all tunnels count together.
pub(super) struct Streams {
    pair: Pair,
    pub(super) too_many: Counter,
    pub(super) ended: Counter,
    to_agent: Counter,
    from_agent: Counter,
    pub(super) reused: Counter,
    pub(super) stale: Counter,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            pair: Pair::new(&STREAMS_OPENED, &STREAMS_CLOSED),
            too_many: STREAMS_REFUSED.count_of("reason", "too_many"),
            ended: STREAMS_REFUSED.count_of("reason", "ended"),
            to_agent: BYTES.count_of("direction", "to_agent"),
            from_agent: BYTES.count_of("direction", "from_agent"),
            reused: REUSED.count(),
            stale: STALE.count(),
        }
    }

    pub(super) fn count(&self, stream: Stream) -> Counted {
        Counted {
            stream,
            to_agent: self.to_agent.clone(),
            from_agent: self.from_agent.clone(),
            _open: self.pair.open(),
        }
    }
}

/// A stream that is counted until it is dropped, and its bytes as they pass.
pub(super) struct Counted {
    stream: Stream,
    to_agent: Counter,
    from_agent: Counter,
    _open: Opened,
}

impl Counted {
    fn sent(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            self.to_agent.increment(*count as u64);
        }
        result
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let count = buf.filled().len().saturating_sub(before);
        if count > 0 {
            self.from_agent.increment(count as u64);
        }
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.sent(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.sent(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
