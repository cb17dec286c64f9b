//! The body of an exchange's request on its way to the local server.
//!
//! Its records are opened as they come and passed on at once. The end is passed on only when END has come: a
//! body that was cut, or altered, ends with an error, so that the local server sees that the request broke off.

use super::reader::Reader;
use crate::forward::{
    BodyError,
    checked::SessionEnded,
    fault::{Fault, Wrong},
};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use relay_protocol::{
    headers::strip_trailers,
    record::{Kind, MAX_DATA, decode_trailers},
};
use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A body that is whole within so short a time, and so small, is passed on with its length: not every local server
/// takes one that comes in chunks.
const GATHER_TIME: Duration = Duration::from_millis(200);
const GATHER: usize = MAX_DATA;
/// How long the END of a request may take whose method has no body: such a request is not sent in chunks if that
/// can be helped.
const BODILESS_TIME: Duration = Duration::from_secs(10);

/// What is left of a request when nobody reads it any more.
pub struct Rest {
    /// Goes on where the reading ended.
    pub reader: Reader,
    /// Whether nothing was wrong so far. Otherwise its bytes are only good for being taken in.
    pub sound: bool,
}

/// A request's body.
pub struct Upload {
    /// Gone once it is of no more use here.
    reader: Option<Reader>,
    /// What came and is not passed on yet.
    pieces: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    failed: Option<BodyError>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    wrong: Wrong,
    /// Takes the reader when nobody reads here any more.
    back: Option<oneshot::Sender<Rest>>,
}

impl Upload {
    /// The body that `reader` goes on with, until `ended` breaks it off. The reader is given back when it is at its
    /// end, something is wrong, or nobody wants the rest.
    pub fn new(reader: Reader, ended: CancellationToken) -> (Self, oneshot::Receiver<Rest>) {
        let (back, given_back) = oneshot::channel();
        let upload = Self {
            reader: Some(reader),
            pieces: VecDeque::new(),
            trailers: None,
            failed: None,
            ended: Box::pin(ended.cancelled_owned()),
            wrong: Wrong::default(),
            back: Some(back),
        };
        (upload, given_back)
    }

    /// Tells later why the body ended with an error.
    pub fn wrong(&self) -> Wrong {
        self.wrong.clone()
    }

    /// Takes in what there is of the body, in the hope that it is all: as much as is small, for a short time.
    pub async fn gather(&mut self, has_no_body: bool) {
        let most = if has_no_body { BODILESS_TIME } else { GATHER_TIME };
        let gathered = async {
            let mut size = 0;
            while size < GATHER && self.reader.is_some() {
                size += std::future::poll_fn(|cx| self.poll_piece(cx)).await;
            }
        };
        // What has not come by then comes as it comes.
        let _ = tokio::time::timeout(most, gathered).await;
    }

    /// The next record; ready with the bytes that it brought.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.ended.as_mut().poll(cx).is_ready() {
            self.pieces.clear();
            self.give_back(false);
            self.failed = Some(SessionEnded.into());
            return Poll::Ready(0);
        }
        let Some(reader) = &mut self.reader else { return Poll::Ready(0) };
        let fault = match ready!(reader.poll_next(cx)) {
            Ok(record) => match record.kind {
                Kind::Data => {
                    let size = record.payload.len();
                    self.pieces.push_back(record.payload);
                    return Poll::Ready(size);
                }
                Kind::Error => Fault::GivenUp,
                // By the order nothing else comes.
                _ => match decode_trailers(&record.payload) {
                    Ok(mut trailers) => {
                        strip_trailers(&mut trailers);
                        self.trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
                        self.give_back(true);
                        return Poll::Ready(0);
                    }
                    Err(error) => error.into(),
                },
            },
            Err(error) => error.into(),
        };
        self.wrong.tell(fault);
        self.give_back(false);
        self.failed = Some(fault.into());
        Poll::Ready(0)
    }

    fn give_back(&mut self, sound: bool) {
        if let (Some(reader), Some(back)) = (self.reader.take(), self.back.take()) {
            // Who does not wait for it does not need it.
            drop(back.send(Rest { reader, sound }));
        }
    }

    fn left(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.give_back(true);
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if let Some(piece) = this.pieces.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if let Some(error) = this.failed.take() {
                return Poll::Ready(Some(Err(error)));
            }
            if this.reader.is_none() {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            ready!(this.poll_piece(cx));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reader.is_none() && self.pieces.is_empty() && self.failed.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.reader.is_none() && self.failed.is_none() && self.trailers.is_none() {
            return SizeHint::with_exact(self.left());
        }
        let mut hint = SizeHint::new();
        hint.set_lower(self.left());
        hint
    }
}
