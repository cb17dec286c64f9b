//! The bodies on their way through the agent, frame by frame and never collected.
//!
//! A request's body may be held back while the local server is asked by `Expect: 100-continue`
//! whether it wants it. A response's body carries what must end with it: the count of requests
//! under way, and, when nobody reads it to its end, the connection to the local server.

use super::{Active, Stats, checked::Checked, local::Abort};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use relay_protocol::headers::strip_trailers;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::sync::watch;

/// How long the body waits for a local server that does not know `Expect`. RFC 9110 section
/// 10.1.1 forbids to wait without end.
pub const EXPECT_WAIT: Duration = Duration::from_secs(1);

/// Whether the local server wants a body that was announced with `Expect: 100-continue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It has not said yet.
    Unknown,
    /// It has, or was silent for [`EXPECT_WAIT`].
    Yes,
    /// It answered without asking for it.
    No,
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Tells that a request's body has come to its end, or is not wanted any more.
#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Where a request's body comes from.
pub enum Source {
    /// There is none.
    Empty,
    /// From the relay, as it comes.
    Plain(Incoming),
    /// From the relay, checked against what was signed.
    Checked(Box<Checked<Incoming>>),
    /// From records, each of which was protected.
    Records(Box<dyn Body<Data = Bytes, Error = BodyError> + Send + Unpin>),
}

impl Source {
    /// What the relay sends, unchecked.
    pub fn plain(body: Incoming) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::Plain(body) }
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Plain(body) => {
                let mut frame = ready!(Pin::new(body).poll_frame(cx));
                if let Some(trailers) =
                    frame.as_mut().and_then(|f| f.as_mut().ok()).and_then(Frame::trailers_mut)
                {
                    strip_trailers(trailers);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Checked(body) => Pin::new(body).poll_frame(cx),
            Self::Records(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Plain(body) => body.is_end_stream(),
            Self::Checked(body) => body.is_end_stream(),
            Self::Records(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Plain(body) => body.size_hint(),
            Self::Checked(body) => body.size_hint(),
            Self::Records(body) => body.size_hint(),
        }
    }
}

pin_project! {
    /// The body of a request on its way to the local server.
    pub struct RequestBody {
        inner: Source,
        held: Option<Waiting>,
        stats: Arc<Stats>,
        over: Over,
    }
}

impl RequestBody {
    pub(super) fn new(inner: Source, stats: Arc<Stats>, wanted: Option<watch::Receiver<Wanted>>) -> Self {
        Self {
            inner,
            held: wanted.map(|wanted| -> Waiting { Box::pin(until_wanted(wanted)) }),
            stats,
            over: Over::default(),
        }
    }
}

impl RequestBody {
    /// True once the body has come to its end.
    pub(super) fn over(&self) -> Arc<AtomicBool> {
        self.over.0.clone()
    }

    /// No body at all, for a request that is sent a second time.
    pub(super) fn empty(stats: Arc<Stats>) -> Self {
        Self { inner: Source::Empty, held: None, stats, over: Over::default() }
    }
}

/// Completes when the body may go. Never, once the local server has answered without wanting it:
/// then the response's body ends the connection.
async fn until_wanted(mut wanted: watch::Receiver<Wanted>) {
    match tokio::time::timeout(EXPECT_WAIT, wanted.wait_for(|wanted| *wanted != Wanted::Unknown)).await {
        Ok(Ok(wanted)) if *wanted == Wanted::No => {}
        _ => return,
    }
    std::future::pending().await
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        if let Some(held) = this.held {
            ready!(held.as_mut().poll(cx));
            *this.held = None;
        }
        // The first poll here is what makes our server side say `100 Continue` to the relay.
        let frame = ready!(Pin::new(&mut *this.inner).poll_frame(cx));
        if frame.is_none() || this.inner.is_end_stream() {
            this.over.0.store(true, Ordering::Release);
        }
        if let Some(Ok(frame)) = &frame {
            this.stats.received(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A failure in the middle of a body. Whoever serves it breaks the stream off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response on its way to the relay.
pub struct ResponseBody {
    inner: Inner,
    /// Dropped with the body: the request is over then.
    _active: Option<Active>,
}

enum Inner {
    /// From a local server over a connection.
    Local { body: Incoming, stats: Arc<Stats>, ends: EndsConnection },
    /// From a service inside this program.
    Service { body: UnsyncBoxBody<Bytes, BodyError>, stats: Arc<Stats> },
    /// Our own text.
    Text(Full<Bytes>),
}

/// Ends the connection to the local server unless the body was read to its end.
pub(super) struct EndsConnection {
    pub(super) abort: Option<Arc<Abort>>,
    /// Ends it in any case: the request's body was never asked for.
    pub(super) always: bool,
    complete: bool,
}

impl EndsConnection {
    pub(super) fn new(abort: Option<Arc<Abort>>, always: bool) -> Self {
        Self { abort, always, complete: false }
    }
}

impl Drop for EndsConnection {
    fn drop(&mut self) {
        if let Some(abort) = &self.abort
            && (self.always || !self.complete)
        {
            abort.now();
        }
    }
}

impl ResponseBody {
    pub(super) fn local(body: Incoming, stats: Arc<Stats>, mut ends: EndsConnection, active: Active) -> Self {
        ends.complete = body.is_end_stream();
        Self { inner: Inner::Local { body, stats, ends }, _active: Some(active) }
    }

    pub(super) fn service(body: UnsyncBoxBody<Bytes, BodyError>, stats: Arc<Stats>, active: Active) -> Self {
        Self { inner: Inner::Service { body, stats }, _active: Some(active) }
    }

    /// The agent's own.
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self { inner: Inner::Text(Full::new(text.into())), _active: None }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().inner {
            Inner::Local { body, stats, ends } => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                // After an error the connection ends by itself, and the body must not look complete.
                ends.complete = frame.is_none() || body.is_end_stream();
                count(stats, frame.as_ref().and_then(|frame| frame.as_ref().ok()));
                if let Some(Err(error)) = &frame {
                    stats.failed(format!("the local server broke off in the middle of a response: {error}"));
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Inner::Service { body, stats } => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                count(stats, frame.as_ref().and_then(|frame| frame.as_ref().ok()));
                Poll::Ready(frame)
            }
            Inner::Text(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Local { body, .. } => body.is_end_stream(),
            Inner::Service { body, .. } => body.is_end_stream(),
            Inner::Text(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Local { body, .. } => body.size_hint(),
            Inner::Service { body, .. } => body.size_hint(),
            Inner::Text(body) => body.size_hint(),
        }
    }
}

fn count(stats: &Stats, frame: Option<&Frame<Bytes>>) {
    stats.sent(frame.and_then(Frame::data_ref).map_or(0, Bytes::len));
}
