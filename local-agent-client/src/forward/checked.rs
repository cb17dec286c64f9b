//! A request's body that is checked against its signed digest while it streams.
//!
//! The relay may change, cut or lengthen it. Whoever waits for the whole body to check it has to
//! keep it; so it is passed on as it comes, and only its last piece is held back until the digest of
//! the whole is right. When it is not, the body ends with an error: the length that was announced is not
//! reached, or the last chunk never comes, and the local server sees that the request broke off.
//!
//! Trailers are covered by no signature and end here.

use super::{
    BodyError,
    fault::{Fault, Wrong},
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use relay_protocol::signature::digest::DigestVerifier;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Whoever sent the body may not go on.
#[derive(Debug, thiserror::Error)]
#[error("the session that the body belongs to has ended")]
pub struct SessionEnded;

/// Passes a body on while it is checked.
pub struct Checked<B> {
    inner: B,
    verifier: Option<DigestVerifier>,
    /// The last piece that came.
    held: Option<Bytes>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    wrong: Wrong,
}

impl<B: Body<Data = Bytes> + Unpin> Checked<B>
where
    B::Error: Into<BodyError>,
{
    /// Checks `inner` by `verifier`, until `ended` breaks it off.
    pub fn new(inner: B, verifier: DigestVerifier, ended: CancellationToken) -> Self {
        Self {
            inner,
            verifier: Some(verifier),
            held: None,
            ended: Box::pin(ended.cancelled_owned()),
            wrong: Wrong::default(),
        }
    }

    /// Tells later why the body ended with an error.
    pub fn wrong(&self) -> Wrong {
        self.wrong.clone()
    }

    /// The whole body has come: gives what was held back, or the error in its place.
    fn finish(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let held = self.held.take();
        let verifier = self.verifier.take()?;
        if let Err(mismatch) = verifier.finish() {
            self.wrong.tell(Fault::Digest);
            return Some(Err(mismatch.into()));
        }
        held.map(|piece| Ok(Frame::data(piece)))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Checked<B>
where
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.ended.as_mut().poll(cx).is_ready() {
            (this.verifier, this.held) = (None, None);
            return Poll::Ready(Some(Err(SessionEnded.into())));
        }
        loop {
            let Some(verifier) = &mut this.verifier else { return Poll::Ready(None) };
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    if piece.is_empty() {
                        continue;
                    }
                    verifier.update(&piece);
                    let before = this.held.replace(piece);
                    if before.is_some() {
                        return Poll::Ready(before.map(|piece| Ok(Frame::data(piece))));
                    }
                    if this.inner.is_end_stream() {
                        return Poll::Ready(this.finish());
                    }
                }
                Some(Err(error)) => {
                    (this.verifier, this.held) = (None, None);
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => return Poll::Ready(this.finish()),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.verifier.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().map_or(0, |piece| piece.len() as u64);
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint.set_lower(inner.lower().saturating_add(held));
        hint
    }
}
