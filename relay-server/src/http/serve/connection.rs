//! One connection: which protocol it speaks, and how long it may wait for what.
//!
//! Hyper's own header deadline is not used: it closes without a word, does not run before the
//! first byte, and counts a kept-alive connection that waits for its next request like one that
//! sends a head byte by byte. Here the three are told apart: a head that began has
//! `header_timeout` and ends with a `408`, an idle connection has `keep_alive_timeout` and is
//! closed in silence, and while a request is under way its own deadlines hold.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, Bytes};
use bytes::BytesMut;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use relay_protocol::problem::{Code, Problem};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::TaskTracker;

use super::activity::{Activity, Guard, Guarded, Times, Waiting};
use super::socket::{Permits, Socket, bare, farewell};
use super::{Options, Peer};
use crate::http::head;
use crate::http::metrics::{Metrics, Route};
use crate::shutdown::Shutdown;

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Room for the request line's fixed parts and the few bytes by which a head may exceed its limits
/// and still be answered by a problem that says which limit it was.
const HEAD_SLACK: usize = 16 * 1024;

/// Requests at once on one HTTP/2 connection: what browsers use at most, twice.
const H2_STREAMS: u32 = 256;
/// One upload fills a line of 1 Gbit/s at 8 ms.
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
/// A few of them at once.
const H2_CONNECTION_WINDOW: u32 = 4 * H2_STREAM_WINDOW;
/// Streams that the peer opened and reset before they were looked at (CVE-2023-44487).
const H2_PENDING_RESETS: usize = 20;
/// A peer that is gone is noticed within 30 s.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that was told to close has for its goodbyes.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Runs the requests of HTTP/2 connections, so that they end with the relay and are waited for.
#[derive(Clone)]
struct Streams {
    tracker: TaskTracker,
    shutdown: Shutdown,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, future: F) {
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.ended() => {}
                () = future => {}
            }
        });
    }
}

/// What connections have in common.
pub(super) struct Builder {
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
    header_timeout: Duration,
    keep_alive_timeout: Duration,
    shutdown: Shutdown,
    streams: TaskTracker,
    metrics: Arc<Metrics>,
}

impl Builder {
    pub(super) fn new(options: &Options, shutdown: Shutdown, metrics: Arc<Metrics>) -> Self {
        let bytes = options.max_header_bytes + options.max_uri_bytes + HEAD_SLACK;
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .half_close(false)
            .keep_alive(true)
            .max_headers(head::MAX_LINES_WITH_OURS)
            .max_buf_size(bytes);
        let streams = TaskTracker::new();
        let executor = Streams { tracker: streams.clone(), shutdown: shutdown.clone() };
        let mut http2 = http2::Builder::new(executor);
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(H2_STREAMS)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_pending_accept_reset_streams(H2_PENDING_RESETS)
            .keep_alive_interval(H2_PING_INTERVAL)
            .keep_alive_timeout(H2_PING_TIMEOUT);
        Self {
            http1,
            http2,
            header_timeout: options.header_timeout,
            keep_alive_timeout: options.keep_alive_timeout,
            shutdown,
            streams,
            metrics,
        }
    }

    /// Waits for the requests of HTTP/2 connections, which are tasks of their own.
    pub(super) async fn streams_ended(&self) {
        self.streams.close();
        self.streams.wait().await;
    }

    /// The whole life of one connection.
    pub(super) fn drive<S, F>(
        self: Arc<Self>,
        mut stream: TcpStream,
        permits: Permits,
        peer: Peer,
        service: S,
    ) -> impl Future<Output = ()> + Send + use<S, F>
    where
        S: Fn(Request<Incoming>, Peer) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let mut times = Times { first: self.header_timeout, next: self.keep_alive_timeout, heads: true };
        async move {
            let activity = Arc::new(Activity::new(Instant::now(), self.metrics.clone()));
            let (prefix, is_http2) = match sniff(&mut stream, &activity, times.first, &shutdown).await {
                Sniffed::Http(prefix, is_http2) => (prefix, is_http2),
                Sniffed::Slow => return farewell(stream, &slow_head()).await,
                Sniffed::Nothing => return,
            };
            let place = permits.place();
            let socket = TokioIo::new(Socket::new(stream, prefix, Arc::clone(&activity), permits));
            let serviced = {
                let (activity, shutdown) = (Arc::clone(&activity), shutdown.clone());
                service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(place.clone());
                    let guard = Guard::new(&activity, &shutdown, Route::of(request.uri().path()));
                    let last = request.version() < Version::HTTP_2 && shutdown.is_draining();
                    let response = service(request, peer);
                    async move {
                        let mut response = response.await;
                        if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                            response
                                .headers_mut()
                                .insert(header::CONNECTION, HeaderValue::from_static("close"));
                        }
                        Ok::<_, Infallible>(response.map(|body| Guarded { body, _guard: guard }))
                    }
                })
            };
            if is_http2 {
                times.heads = false;
                let mut connection = pin!(self.http2.serve_connection(socket, serviced));
                watch(connection.as_mut(), |c| c.graceful_shutdown(), &activity, &times, &shutdown).await;
            } else {
                let mut connection = self.http1.serve_connection(socket, serviced).with_upgrades();
                let end =
                    watch(Pin::new(&mut connection), |c| c.graceful_shutdown(), &activity, &times, &shutdown)
                        .await;
                if end == End::SlowHead
                    && let Some(parts) = connection.into_parts()
                {
                    farewell(parts.io.into_inner(), &slow_head()).await;
                }
            }
        }
    }
}

fn slow_head() -> Vec<u8> {
    bare(&Problem::new(
        Code::RequestTimeout,
        "The head of the request did not arrive in time. Send it again.",
    ))
}

enum Sniffed {
    Http(Bytes, bool),
    Slow,
    Nothing,
}

/// Reads until it is clear whether the peer speaks HTTP/2. One byte is enough as a rule.
async fn sniff(stream: &mut TcpStream, activity: &Activity, limit: Duration, shutdown: &Shutdown) -> Sniffed {
    let mut read = BytesMut::with_capacity(PREFACE.len());
    // A connection from after the beginning of the drain still gets its answer.
    let late = shutdown.is_draining();
    loop {
        let missing = (PREFACE.len() - read.len()) as u64;
        let mut rest = (&mut *stream).take(missing);
        let result = tokio::select! {
            biased;
            () = shutdown.ended() => return Sniffed::Nothing,
            () = shutdown.draining(), if !late => return Sniffed::Nothing,
            result = timeout_at(activity.accepted + limit, rest.read_buf(&mut read)) => result,
        };
        match result {
            Err(_) if read.is_empty() => return Sniffed::Nothing,
            Err(_) => return Sniffed::Slow,
            Ok(Err(_) | Ok(0)) => return Sniffed::Nothing,
            Ok(Ok(_)) if !PREFACE.starts_with(&read) => return Sniffed::Http(read.freeze(), false),
            Ok(Ok(_)) if read.len() == PREFACE.len() => return Sniffed::Http(read.freeze(), true),
            Ok(Ok(_)) => {}
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
enum End {
    /// By itself, by an error, or by order.
    Over,
    /// A head did not arrive in time.
    SlowHead,
}

/// Drives hyper's connection and watches the clock. Everything that moves a deadline of HTTP/1.1
/// forward happens while the connection is polled, so that looking at it afterwards is enough; the
/// deadlines that move back are only looked at when the timer fires.
async fn watch<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    close: impl Fn(Pin<&mut C>),
    activity: &Activity,
    times: &Times,
    shutdown: &Shutdown,
) -> End {
    let mut ended = pin!(shutdown.ended());
    let mut draining = pin!(shutdown.draining());
    let mut timer = pin!(sleep_until(activity.accepted + times.first));
    // One from after the beginning of the drain closes after its first response by itself.
    let mut told = shutdown.is_draining();
    let mut last_call = None;
    std::future::poll_fn(move |cx| {
        if ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Over);
        }
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            close(connection.as_mut());
        }
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection broke off");
            }
            return Poll::Ready(End::Over);
        }
        loop {
            let due = activity.due(times);
            if due.is_none() {
                // The request came after all: it has its own deadlines.
                last_call = None;
            }
            let due = due.map(|waiting| last_call.map_or(waiting, |at| (Waiting::Request, at)));
            // A head that is not complete is no request in flight: the drain does not wait for it.
            if told
                && times.heads
                && last_call.is_none()
                && due.is_some_and(|(waiting, _)| waiting == Waiting::Head)
            {
                let grace = Instant::now() + CLOSE_GRACE;
                last_call = Some(grace);
                timer.as_mut().reset(grace);
            } else if let Some((_, at)) = due
                && at < timer.deadline()
            {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            match due {
                None => timer.as_mut().reset(now + times.next),
                Some((_, at)) if at > now => timer.as_mut().reset(at),
                Some(_) if last_call.is_some() => return Poll::Ready(End::Over),
                Some((Waiting::Head, _)) => return Poll::Ready(End::SlowHead),
                Some((Waiting::Request, _)) => {
                    close(connection.as_mut());
                    let grace = now + CLOSE_GRACE;
                    last_call = Some(grace);
                    timer.as_mut().reset(grace);
                    // The connection was told and has to be polled to act on it.
                    cx.waker().wake_by_ref();
                }
            }
        }
    })
    .await
}
