//! One request over a connection to whoever answers it: over a warm one, else over a fresh one, and not for ever.
//!
//! The same for both ways that a request may go: into a tunnel ([`super::local`]), or to the relay that has the
//! tunnel ([`crate::forward`]). What differs is how a connection is opened and what the failures are called.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use relay_protocol::problem::Code;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::body::{BodyError, Consent};
use crate::auth::access::{Exchange, Refused};
use crate::http::problem::Refusal;
use crate::pool::{Connection, Opening};

/// How long a body with `Expect: 100-continue` waits for the word of whoever it goes to. The agent waits for one
/// second and is nearer; this is for those that never say it.
const CONTINUE_FALLBACK: Duration = Duration::from_secs(3);
/// How often a wait looks whether its session still lives. Being told would take a lock per request.
pub const TICK: Duration = Duration::from_secs(1);
/// Warm connections that may turn out to be closed before a fresh one is opened.
const STALE_TRIES: usize = 3;

/// Where a request is sent.
pub trait Way: Sync {
    /// What a failure is here.
    type Failure: From<Refused> + Send;

    /// A warm connection, if there is one.
    fn reuse(&self) -> Option<Connection>;
    /// A warm connection had closed before anything was sent on it.
    fn was_stale(&self) {}
    /// A fresh connection.
    fn open(&self) -> impl Future<Output = Result<Connection, Self::Failure>> + Send;
    /// The last thing before the request leaves.
    ///
    /// # Errors
    /// Whatever keeps it from leaving.
    fn sign(&self, request: &mut Request<Body>) -> Result<(), Self::Failure>;
    /// Whether the whole way has ended.
    fn ended(&self) -> bool;
    /// Why there is no answer.
    fn failure(&self, why: Failed) -> Self::Failure;
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    /// Nothing of the request was sent.
    Unsent,
    /// A fresh stream was not taken, so nothing can have had an effect.
    NotTaken,
    /// Whether a fresh stream is taken was not said in time.
    Unresponsive,
    /// The answer has not begun for this long.
    Silent(Duration),
    /// It broke off.
    BrokeOff(hyper::Error),
}

/// One request's time.
pub struct Sending<'a> {
    /// What it is part of.
    pub exchange: &'a Exchange,
    /// Set whenever the request's body moves.
    pub moved: &'a AtomicBool,
    /// How long a fresh stream may take to be taken.
    pub open_timeout: Duration,
    /// How long the answer may take to begin.
    pub head_timeout: Duration,
}

impl Sending<'_> {
    /// Sends over a warm connection, else over a fresh one.
    ///
    /// # Errors
    /// As the way has them.
    pub async fn send<W: Way>(
        &self,
        way: &W,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, Connection), W::Failure> {
        for attempt in 0.. {
            let reused = if attempt < STALE_TRIES { way.reuse() } else { None };
            let was_warm = reused.is_some();
            let mut connection = match reused {
                Some(connection) => connection,
                None => way.open().await?,
            };
            way.sign(&mut request)?;
            match self.once(way, &mut connection, request).await? {
                Ok(response) => return Ok((response, connection)),
                // Closed under our hands, and nothing of the request was sent.
                Err(unsent) if was_warm => {
                    way.was_stale();
                    request = unsent;
                }
                Err(_) => break,
            }
        }
        Err(way.failure(Failed::Unsent))
    }

    /// One try on one connection. `Ok(Err(request))` gives back a request of which nothing was sent.
    async fn once<W: Way>(
        &self,
        way: &W,
        connection: &mut Connection,
        request: Request<Body>,
    ) -> Result<Result<Response<Incoming>, Request<Body>>, W::Failure> {
        let now = Instant::now();
        let mut opening = connection.opening.take();
        let mut refused = false;
        let sending = connection.sender().try_send_request(request);
        let tick = sleep_until((now + TICK).min(now + self.head_timeout));
        let mut head_deadline = now + self.head_timeout;
        tokio::pin!(sending, tick);
        loop {
            tokio::select! {
                biased;
                result = &mut sending => return match result {
                    Ok(response) => Ok(Ok(response)),
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => Ok(Err(unsent)),
                        None if (refused || is_refused(&mut opening)) && !way.ended() => {
                            Err(way.failure(Failed::NotTaken))
                        }
                        None => Err(way.failure(Failed::BrokeOff(error.into_error()))),
                    },
                },
                opened = wait_open(&mut opening, now + self.open_timeout) => match opened {
                    Ok(()) => opening = None,
                    Err(Opened::TimedOut) => return Err(way.failure(Failed::Unresponsive)),
                    // An answer may be there all the same: the sending tells, and ends at once if not.
                    Err(Opened::Refused) => (opening, refused) = (None, true),
                },
                () = &mut tick => {
                    if self.exchange.session().ended.is_cancelled() {
                        return Err(Refused::Ended.into());
                    }
                    let now = Instant::now();
                    // An upload that moves is no silence.
                    if self.moved.swap(false, Relaxed) {
                        head_deadline = now + self.head_timeout;
                    }
                    if now >= head_deadline {
                        return Err(way.failure(Failed::Silent(self.head_timeout)));
                    }
                    tick.as_mut().reset((now + TICK).min(head_deadline));
                }
            }
        }
    }
}

enum Opened {
    TimedOut,
    Refused,
}

async fn wait_open(opening: &mut Option<Opening>, deadline: Instant) -> Result<(), Opened> {
    match opening {
        None => std::future::pending().await,
        Some(opening) => match tokio::time::timeout_at(deadline, opening).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Opened::Refused),
            Err(_) => Err(Opened::TimedOut),
        },
    }
}

/// Whether the wait has ended with a refusal by now.
fn is_refused(opening: &mut Option<Opening>) -> bool {
    opening.as_mut().is_some_and(|opening| matches!(opening.now_or_never(), Some(Err(_))))
}

/// Whether the sender waits for `100 Continue` before it sends the body.
pub fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Says how a body is framed where no length does: without it hyper drops the body of a method that seldom has one.
pub fn frame_body(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Lets the body go once `100` is said, or after a while.
pub fn allow_on_continue(request: &mut Request<Body>, consent: watch::Sender<Consent>) {
    let give = |consent: &watch::Sender<Consent>| {
        consent.send_if_modified(|said| {
            let waiting = *said == Consent::Waiting;
            if waiting {
                *said = Consent::Given;
            }
            waiting
        });
    };
    let later = consent.clone();
    tokio::spawn(async move {
        let over = later.subscribe();
        if tokio::time::timeout(CONTINUE_FALLBACK, decided(over)).await.is_err() {
            give(&later);
        }
    });
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            give(&consent);
        }
    });
}

async fn decided(mut consent: watch::Receiver<Consent>) {
    let _ = consent.wait_for(|said| *said != Consent::Waiting).await;
}

/// Whether it broke off because the sender of the request did.
pub fn sender_broke_off(error: &hyper::Error) -> Option<Refusal> {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.any(|cause| matches!(cause.downcast_ref::<BodyError>(), Some(BodyError::Broken(_)))).then(|| {
        Refusal::new(Code::BadRequest, "The request's body broke off or is not framed as HTTP/1.1 asks.")
    })
}
