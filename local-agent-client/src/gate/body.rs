//! The body of an answer on its way to the relay, whatever it is made of.

use super::{piece::Piece, records::Records};
use crate::forward::{BodyError, ResponseBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::OwnedSemaphorePermit;

/// The body of an answer.
pub struct AnswerBody(Inner, Option<OwnedSemaphorePermit>);

enum Inner {
    /// In one piece.
    Plain(Full<Bytes>),
    /// The local server's, as it comes.
    Local(ResponseBody),
    /// The local server's, as records.
    Records(Box<Records<ResponseBody>>),
}

impl AnswerBody {
    /// A body in one piece.
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Plain(Full::new(bytes.into())), None)
    }

    /// The same, which keeps its part of the memory for such bodies until it has been sent.
    #[must_use]
    pub fn holding(mut self, room: OwnedSemaphorePermit) -> Self {
        self.1 = Some(room);
        self
    }
}

impl From<ResponseBody> for AnswerBody {
    fn from(body: ResponseBody) -> Self {
        Self(Inner::Local(body), None)
    }
}

impl From<Records<ResponseBody>> for AnswerBody {
    fn from(records: Records<ResponseBody>) -> Self {
        Self(Inner::Records(Box::new(records)), None)
    }
}

fn as_pieces(frame: Frame<Bytes>) -> Frame<Piece> {
    frame.map_data(Piece::from)
}

impl Body for AnswerBody {
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        match &mut self.get_mut().0 {
            Inner::Plain(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map(as_pieces).map_err(|never| match never {}))),
            Inner::Local(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map(as_pieces)))
            }
            Inner::Records(records) => records.poll_record(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Plain(body) => body.is_end_stream(),
            Inner::Local(body) => body.is_end_stream(),
            Inner::Records(body) => body.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Plain(body) => body.size_hint(),
            Inner::Local(body) => body.size_hint(),
            Inner::Records(_) => SizeHint::default(),
        }
    }
}
