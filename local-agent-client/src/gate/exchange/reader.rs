//! The browser's records, one after the other, from whatever carries their bytes.

use crate::forward::BodyError;
use bytes::Bytes;
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use relay_protocol::{
    keys::BrowserVerifyingKey,
    record::{Decoder, Kind, Opener, Order, Phase, Record, RecordError},
};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// Where the browser's bytes come from.
pub type Bytestream = UnsyncBoxBody<Bytes, BodyError>;

/// What opens the browser's records.
pub type BrowserOpener = Opener<BrowserVerifyingKey>;

/// Reads records in their order. It holds one record at the most, of a kind that may come; whoever does not ask
/// does not read.
pub struct Reader {
    source: Bytestream,
    decoder: Decoder<BrowserOpener>,
    order: Order,
    /// END, until its source has ended too.
    last: Option<Record>,
    ends: Ends,
}

/// How the browser's bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// By themselves: END counts once nothing has come behind it.
    ByThemselves,
    /// By the answer: nothing may come behind END, and their own end would break the exchange off.
    WithTheAnswer,
}

impl Reader {
    /// Goes on after HEAD, which `order` has taken.
    pub fn new(source: Bytestream, decoder: Decoder<BrowserOpener>, order: Order, ends: Ends) -> Self {
        Self { source, decoder, order, last: None, ends }
    }

    /// What is left of the bytes, for whoever only wants to be rid of them.
    pub fn into_source(self) -> Bytestream {
        self.source
    }

    /// Messages of a WebSocket follow.
    ///
    /// # Errors
    /// When HEAD was not the last record.
    pub fn accepted(&mut self) -> Result<(), RecordError> {
        self.order.accepted()
    }

    /// Whether the last record has come.
    pub fn has_ended(&self) -> bool {
        self.order.phase() == Phase::Ended
    }

    /// The next record. The end of the bytes is [`RecordError::Truncated`], also after the last record, after
    /// which any other is [`RecordError::OutOfOrder`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Record, RecordError>> {
        loop {
            if self.last.is_some() && self.decoder.finish().is_err() {
                return Poll::Ready(Err(RecordError::OutOfOrder));
            }
            if let Some(record) = self.decoder.next_in(&mut self.order)? {
                if record.kind != Kind::End {
                    return Poll::Ready(Ok(record));
                }
                if self.decoder.finish().is_err() {
                    return Poll::Ready(Err(RecordError::OutOfOrder));
                }
                if self.ends == Ends::WithTheAnswer {
                    return Poll::Ready(Ok(record));
                }
                self.last = Some(record);
            }
            match ready!(Pin::new(&mut self.source).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data()
                        && !piece.is_empty()
                    {
                        self.decoder.push(piece);
                    }
                }
                Some(Err(_)) => return Poll::Ready(Err(RecordError::Truncated)),
                None => return Poll::Ready(self.last.take().ok_or(RecordError::Truncated)),
            }
        }
    }

    /// The next record.
    ///
    /// # Errors
    /// As [`Reader::poll_next`].
    pub async fn next(&mut self) -> Result<Record, RecordError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}
