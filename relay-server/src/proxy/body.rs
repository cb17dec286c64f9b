//! Bodies on their way: they stream, and they end when they have to.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::metrics::Counter;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use relay_protocol::headers::strip_trailers;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::send::TICK;
use crate::auth::access::Exchange;
use crate::forward::on_the_way::Passing;
use crate::pool::Connection;

/// Why a body broke off here.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side broke off.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// The browser session has ended.
    #[error("the browser session has ended")]
    SessionEnded,
    /// Nothing moved for as long as is allowed.
    #[error("nothing came for {} s", .0.as_secs())]
    Idle(Duration),
    /// The answer was there before the body was wanted.
    #[error("the local server answered without the body")]
    NotWanted,
}

/// Whether a request's body may be sent: with `Expect: 100-continue` it waits for the local server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Not said yet.
    Waiting,
    /// Send it.
    Given,
    /// The exchange is over without it.
    Refused,
}

/// A frame as it may go on: trailers are held to the policy of headers.
fn checked(
    frame: Result<Frame<Bytes>, impl Into<BodyError>>,
    bytes: &Counter,
) -> Result<Frame<Bytes>, BodyError> {
    let mut frame = frame.map_err(Into::into)?;
    if let Some(data) = frame.data_ref() {
        bytes.increment(data.len() as u64);
    }
    if let Some(trailers) = frame.trailers_mut() {
        strip_trailers(trailers);
    }
    Ok(frame)
}

/// A request's body on its way to the local server.
pub struct RequestBody<B = Incoming> {
    inner: B,
    /// Tells the wait for the response's head that the upload moves.
    moved: Arc<AtomicBool>,
    consent: Option<Pin<Box<dyn Future<Output = Consent> + Send>>>,
    bytes: Counter,
}

impl<B> RequestBody<B> {
    /// Wraps a body; with `consent` it is not read before that says so.
    pub fn new(
        inner: B,
        moved: Arc<AtomicBool>,
        consent: Option<watch::Receiver<Consent>>,
        bytes: Counter,
    ) -> Self {
        let consent = consent.map(|mut consent| {
            Box::pin(async move {
                match consent.wait_for(|c| *c != Consent::Waiting).await {
                    Ok(said) => *said,
                    Err(_) => Consent::Refused,
                }
            }) as Pin<Box<dyn Future<Output = Consent> + Send>>
        });
        Self { inner, moved, consent, bytes }
    }
}

impl<B> HttpBody for RequestBody<B>
where
    B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(consent) = &mut self.consent {
            match ready!(consent.as_mut().poll(cx)) {
                Consent::Refused => return Poll::Ready(Some(Err(BodyError::NotWanted))),
                Consent::Given | Consent::Waiting => self.consent = None,
            }
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        self.moved.store(true, Relaxed);
        Poll::Ready(frame.map(|frame| checked(frame, &self.bytes)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body up to this length leaves the tunnel at once, whether or not the browser reads.
const SMALL: u64 = 64 * 1024;

/// Ends a connection from outside: a body whose browser does not read is not polled, and would hold its
/// stream, and what its session may no longer have, for as long as the browser likes.
struct Watch {
    moved: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Watch {
    fn start(connection: AbortHandle, ended: CancellationToken, idle: Duration) -> Self {
        let moved = Arc::new(AtomicBool::new(false));
        let seen = moved.clone();
        let task = tokio::spawn(async move {
            while tokio::time::timeout(idle, ended.cancelled()).await.is_err() && seen.swap(false, Relaxed) {}
            connection.abort();
        });
        Self { moved, task: task.abort_handle() }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A response's body on its way to the browser. Gives the connection back to its pool at the end.
pub struct ResponseBody {
    inner: Incoming,
    connection: Option<Connection>,
    exchange: Exchange,
    idle: Duration,
    /// Since when nothing came, once something had to be waited for.
    waiting_since: Option<Instant>,
    tick: Option<Pin<Box<Sleep>>>,
    watch: Option<Watch>,
    /// Where a body that was never asked for is told that it will not be.
    consent: Option<watch::Sender<Consent>>,
    bytes: Counter,
    /// Its place among what is on its way to other relays.
    passing: Option<Passing>,
}

impl ResponseBody {
    /// Wraps a body that may be silent for `idle`.
    pub fn new(
        inner: Incoming,
        connection: Connection,
        exchange: Exchange,
        idle: Duration,
        consent: Option<watch::Sender<Consent>>,
        bytes: Counter,
        passing: Option<Passing>,
    ) -> Self {
        let small = inner.size_hint().exact().is_some_and(|length| length <= SMALL);
        let watch =
            (!small).then(|| Watch::start(connection.abort_handle(), exchange.session().ended.clone(), idle));
        let connection = Some(connection);
        let mut body = Self {
            inner,
            connection,
            exchange,
            idle,
            waiting_since: None,
            tick: None,
            watch,
            consent,
            bytes,
            passing,
        };
        if body.inner.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        self.watch = None;
        self.passing = None;
        if let Some(connection) = self.connection.take() {
            connection.give_back();
        }
    }

    /// Nothing to send: wait for more, but not past the session's end and not for ever.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let now = Instant::now();
        let deadline = *self.waiting_since.get_or_insert(now) + self.idle;
        let tick = self.tick.get_or_insert_with(|| Box::pin(sleep_until((now + TICK).min(deadline))));
        while tick.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.exchange.session().ended.is_cancelled() {
                return Poll::Ready(BodyError::SessionEnded);
            }
            if now >= deadline {
                return Poll::Ready(BodyError::Idle(self.idle));
            }
            tick.as_mut().reset((now + TICK).min(deadline));
        }
        Poll::Pending
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(consent) = &self.consent {
            consent.send_if_modified(|said| {
                let waiting = *said == Consent::Waiting;
                if waiting {
                    *said = Consent::Refused;
                }
                waiting
            });
        }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // A small body that is on its way already is not worth a broken answer.
        if self.watch.is_some() && self.exchange.session().ended.is_cancelled() {
            return Poll::Ready(Some(Err(BodyError::SessionEnded)));
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waiting_since = None;
                if let Some(watch) = &self.watch {
                    watch.moved.store(true, Relaxed);
                }
                if frame.is_none() || self.inner.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(frame.map(|frame| checked(frame, &self.bytes)))
            }
            Poll::Pending => self.poll_waiting(cx).map(|error| Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
