//! What happens on one connection, told by its socket and its requests, so that deadlines can be kept
//! from outside of hyper.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::http::metrics::{Metrics, Route};
use crate::shutdown::{Hold, Shutdown};

/// What happens on a connection, in milliseconds since it was accepted, so that deadlines can be
/// told from outside of hyper.
pub(super) struct Activity {
    pub(super) accepted: Instant,
    in_flight: AtomicU32,
    /// When a head began to come in; [`NEVER`] while none does.
    head_since: AtomicU64,
    /// When the last request ended; [`NEVER`] before the first.
    idle_since: AtomicU64,
    metrics: Arc<Metrics>,
}

const NEVER: u64 = u64::MAX;

/// Why a connection has to end by a certain time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waiting {
    /// For the rest of a head.
    Head,
    /// For the first byte of a request.
    Request,
}

impl Activity {
    pub(super) fn new(accepted: Instant, metrics: Arc<Metrics>) -> Self {
        Self {
            accepted,
            in_flight: AtomicU32::new(0),
            head_since: AtomicU64::new(NEVER),
            idle_since: AtomicU64::new(NEVER),
            metrics,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    /// The socket gave bytes: the beginning of a head, unless a request is under way.
    pub(super) fn bytes_came(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == NEVER {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    fn request_began(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    fn request_ended(&self) {
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.head_since.store(NEVER, Ordering::Relaxed);
            self.idle_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// What is waited for and until when; `None` while a request is under way.
    pub(super) fn due(&self, times: &Times) -> Option<(Waiting, Instant)> {
        if self.in_flight.load(Ordering::Acquire) > 0 {
            return None;
        }
        let at = |since: u64, span: Duration| self.accepted + Duration::from_millis(since) + span;
        let head = self.head_since.load(Ordering::Relaxed);
        let idle = self.idle_since.load(Ordering::Relaxed);
        Some(match (head, idle) {
            (NEVER, NEVER) => (Waiting::Request, at(0, times.first)),
            (NEVER, idle) => (Waiting::Request, at(idle, times.next)),
            // On HTTP/2 bytes are not only heads.
            (_, idle) if !times.heads => {
                (Waiting::Request, at(if idle == NEVER { 0 } else { idle }, times.next))
            }
            // The first head has its time from the beginning of the connection.
            (_, NEVER) => (Waiting::Head, at(0, times.first)),
            (head, _) => (Waiting::Head, at(head, times.first)),
        })
    }
}

/// How long is waited for what.
pub(super) struct Times {
    /// For a head, and for the first byte of a new connection.
    pub(super) first: Duration,
    /// For the next request.
    pub(super) next: Duration,
    /// Whether bytes mean that a head comes in, as on HTTP/1.1.
    pub(super) heads: bool,
}

/// A request under way, until the last byte of its response was handed to hyper.
pub(super) struct Guard {
    activity: Arc<Activity>,
    route: Route,
    _hold: Hold,
}

impl Guard {
    pub(super) fn new(activity: &Arc<Activity>, shutdown: &Shutdown, route: Route) -> Self {
        activity.request_began();
        activity.metrics.begun(route);
        Self { activity: Arc::clone(activity), route, _hold: shutdown.hold() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.activity.request_ended();
        self.activity.metrics.ended(self.route);
    }
}

/// A response's body with the guard of its request.
pub(super) struct Guarded {
    pub(super) body: Body,
    pub(super) _guard: Guard,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(10);
    const NEXT: Duration = Duration::from_secs(120);

    fn step(millis: u64) -> impl Future<Output = ()> {
        tokio::time::advance(Duration::from_millis(millis))
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_deadline() {
        let start = Instant::now();
        let activity = Activity::new(start, Arc::new(Metrics::new()));
        let times = Times { first: FIRST, next: NEXT, heads: true };
        let due = || activity.due(&times).map(|(waiting, at)| (waiting, at - start));
        let after = |millis, span| Duration::from_millis(millis) + span;

        assert_eq!(due(), Some((Waiting::Request, FIRST)));
        step(1000).await;
        activity.bytes_came();
        // The first head does not get its time twice by coming late.
        assert_eq!(due(), Some((Waiting::Head, FIRST)));
        activity.request_began();
        activity.request_began();
        assert_eq!(due(), None);
        activity.request_ended();
        assert_eq!(due(), None);
        step(1000).await;
        activity.bytes_came();
        activity.request_ended();
        assert_eq!(due(), Some((Waiting::Request, after(2000, NEXT))));
        step(50_000).await;
        activity.bytes_came();
        assert_eq!(due(), Some((Waiting::Head, after(52_000, FIRST))));
        step(5000).await;
        activity.bytes_came();
        assert_eq!(due(), Some((Waiting::Head, after(52_000, FIRST))), "a byte now and then gains nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn on_http2_bytes_are_not_heads() {
        let start = Instant::now();
        let activity = Activity::new(start, Arc::new(Metrics::new()));
        let times = Times { first: FIRST, next: NEXT, heads: false };
        activity.bytes_came();
        assert_eq!(activity.due(&times), Some((Waiting::Request, start + NEXT)));
        activity.request_began();
        step(500).await;
        activity.request_ended();
        activity.bytes_came();
        assert_eq!(activity.due(&times), Some((Waiting::Request, start + Duration::from_millis(500) + NEXT)));
    }
}
