//! A request's body that can be had back while nothing was read of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::proxy::body::BodyError;

/// Where the body is until somebody reads it.
pub struct Kept<B = Incoming>(Arc<Mutex<Option<B>>>);

impl<B> Clone for Kept<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Kept<B> {
    /// Keeps it.
    pub fn new(body: B) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// A body that takes it when it is first read. `None` when that has happened.
    pub fn lend(&self) -> Option<Lent<B>> {
        let kept = self.0.lock();
        let body = kept.as_ref()?;
        Some(Lent { size: body.size_hint(), at: At::Kept(self.clone()) })
    }
}

enum At<B> {
    Kept(Kept<B>),
    Here(B),
    /// Another took it first.
    Gone,
}

/// See [`Kept::lend`].
pub struct Lent<B = Incoming> {
    at: At<B>,
    /// As long as it is not here.
    size: SizeHint,
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Lent<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let At::Kept(kept) = &self.at {
            let taken = kept.0.lock().take();
            self.at = taken.map_or(At::Gone, At::Here);
        }
        match &mut self.at {
            At::Here(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Broken),
            // Not the end: what stops here must not look whole.
            At::Kept(_) | At::Gone => Poll::Ready(Some(Err(BodyError::NotWanted))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.at {
            At::Here(body) => body.is_end_stream(),
            At::Kept(_) | At::Gone => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.at {
            At::Here(body) => body.size_hint(),
            At::Kept(_) | At::Gone => self.size,
        }
    }
}
