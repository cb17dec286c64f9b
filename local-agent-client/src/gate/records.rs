//! A local server's answer as a record stream, signed or sealed (PROTOCOL.md sections 4.4 and 5.2).
//!
//! Records are made as they are asked for: whoever reads slowly slows the local server, and nothing is
//! collected. What has come goes out at once; several small pieces that are there already share a
//! record, because each costs a signature or a seal at both ends. Whatever ends the answer early is said in an
//! ERROR record, so that the caller can tell it from a relay that cuts.

use super::{headers, piece::Piece, sessions::InUse};
use crate::{
    forward::{self, BodyError, checked::SessionEnded, fault::Wrong},
    refusal::Refusal,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame};
use relay_protocol::{
    keys::AgentSigningKey,
    problem::Code,
    record::{Head, Kind, MAX_DATA, Protect, Protector, encode_error, encode_trailers},
};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Pieces smaller than this are joined with those that are there already: to copy so little costs less than
/// a protection.
const SMALL: usize = 16 * 1024;

/// What protects the records: the agent's signatures, or the keys of a sealed session.
pub type Protection = Protector<Arc<AgentSigningKey>>;

/// Makes records of a body.
pub struct Records<B> {
    /// The first record, until it is out.
    first: Option<Bytes>,
    /// Gone once it has ended.
    body: Option<B>,
    /// What came of it and is not out yet.
    data: Bytes,
    /// The last record, once it is known.
    last: Option<Last>,
    /// The last record is out.
    done: bool,
    /// The trailers that the head announced.
    announced: Vec<HeaderName>,
    protection: Protection,
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Whether the caller's own body turned out to be wrong: then that is why the answer broke off.
    wrong: Option<Wrong>,
    _in_use: InUse,
}

/// How the stream ends.
enum Last {
    End(HeaderMap),
    Error(Refusal),
}

impl<B> Records<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    /// An answer with this head. `wrong` tells of the caller's own body.
    pub fn answer(head: &Head, body: B, protection: Protection, in_use: InUse, wrong: Option<Wrong>) -> Self {
        match head.encode() {
            Ok(payload) => {
                let announced = headers::announced_trailers(&head.headers);
                let beginning = Self::new(protection, in_use);
                Self { first: Some(payload), body: Some(body), announced, wrong, ..beginning }
            }
            Err(_) => {
                let too_large = Refusal::new(
                    Code::ResponseTooLarge,
                    "The local server's headers are larger than the 256 KiB that a record takes.",
                );
                Self::error(too_large, protection, in_use)
            }
        }
    }

    /// The same, although the session may end meanwhile.
    #[must_use]
    pub fn to_its_end(self) -> Self {
        Self { ended: None, ..self }
    }

    /// No answer but a problem.
    pub fn error(refusal: Refusal, protection: Protection, in_use: InUse) -> Self {
        Self { last: Some(Last::Error(refusal)), ..Self::new(protection, in_use) }
    }

    fn new(protection: Protection, in_use: InUse) -> Self {
        Self {
            first: None,
            body: None,
            data: Bytes::new(),
            last: None,
            done: false,
            announced: Vec::new(),
            protection,
            ended: Some(Box::pin(in_use.session().ended.clone().cancelled_owned())),
            wrong: None,
            _in_use: in_use,
        }
    }

    /// Whether the last record is out.
    pub fn is_ended(&self) -> bool {
        self.done
    }

    /// The next record; `None` after the last one.
    pub fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Piece>>> {
        if self.done {
            return Poll::Ready(None);
        }
        if self.ended.as_mut().is_some_and(|ended| ended.as_mut().poll(cx).is_ready()) {
            // Nobody is to have what the local server still says.
            (self.ended, self.first, self.body, self.data) = (None, None, None, Bytes::new());
            self.last = Some(Last::Error(forward::session_ended()));
        }
        if let Some(head) = self.first.take() {
            return Poll::Ready(self.protect(Kind::Head, head));
        }
        if self.data.is_empty() && self.last.is_none() {
            ready!(self.poll_body(cx));
        }
        if !self.data.is_empty() {
            let payload = self.data.split_to(self.data.len().min(MAX_DATA));
            return Poll::Ready(self.protect(Kind::Data, payload));
        }
        self.done = true;
        let (kind, payload) = match self.last.take() {
            Some(Last::End(trailers)) => (Kind::End, encode_trailers(&trailers)),
            Some(Last::Error(refusal)) => (Kind::Error, encode_error(&refusal.problem)),
            None => return Poll::Ready(None),
        };
        Poll::Ready(self.protect(kind, payload))
    }

    /// Asks the body; ready once there is data or the end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut joined = BytesMut::new();
        loop {
            let polled = self.body.as_mut().map(|body| Pin::new(body).poll_frame(cx));
            let frame = match polled {
                Some(Poll::Pending) if joined.is_empty() => return Poll::Pending,
                Some(Poll::Pending) => break,
                Some(Poll::Ready(frame)) => frame,
                None => None,
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(piece))) => {
                    let alone = piece.len() >= SMALL || self.body.as_ref().is_none_or(Body::is_end_stream);
                    if joined.is_empty() && alone && !piece.is_empty() {
                        self.data = piece;
                        return Poll::Ready(());
                    }
                    joined.extend_from_slice(&piece);
                    if joined.len() >= SMALL {
                        break;
                    }
                    continue;
                }
                // A server that went on regardless of a wrong body has not done what was asked.
                ended => {
                    self.last = Some(match (self.wrong.as_ref().and_then(Wrong::fault), ended) {
                        (Some(fault), _) => Last::Error(fault.refusal()),
                        (None, Some(Ok(Err(frame)))) => {
                            let trailers = frame.into_trailers().unwrap_or_default();
                            Last::End(headers::trailers(trailers, &self.announced))
                        }
                        (None, Some(Err(error))) => Last::Error(broke_off(&error)),
                        (None, None | Some(Ok(Ok(_)))) => Last::End(HeaderMap::new()),
                    });
                }
            }
            self.body = None;
            break;
        }
        self.data = joined.freeze();
        Poll::Ready(())
    }

    fn protect(&mut self, kind: Kind, payload: Bytes) -> Option<Frame<Piece>> {
        match self.protection.protect(kind, payload) {
            Ok(frame) => Some(Frame::data(frame.into())),
            // Too large trailers: the stream ends without END, which is an error to the caller.
            Err(error) => {
                tracing::warn!(%error, "a record could not be made");
                (self.done, self.body) = (true, None);
                None
            }
        }
    }
}

fn broke_off(error: &BodyError) -> Refusal {
    if error.is::<SessionEnded>() {
        return forward::session_ended();
    }
    Refusal::new(
        Code::LocalServerFailed,
        "The local server broke off in the middle of its answer. Its own log says more.",
    )
}
