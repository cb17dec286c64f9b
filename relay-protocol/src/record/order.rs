//! Which record may come when: the one place that tells a whole stream from one that was cut.

use super::{Kind, RecordError};

/// Where a direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has come yet: HEAD or ERROR must.
    Start,
    /// HEAD of an HTTP answer, or of a WebSocket that the local server refused: DATA, END, ERROR.
    Body,
    /// WebSocket messages.
    Messages,
    /// END, ERROR or CLOSE has come: nothing may.
    Ended,
}

/// The order of one direction. Feed it every record, in the order of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    phase: Phase,
    websocket: bool,
}

impl Order {
    /// An answer to a request: HEAD, DATA, END; or ERROR.
    pub const fn answer() -> Self {
        Self { phase: Phase::Start, websocket: false }
    }

    /// The agent's direction of a WebSocket: HEAD first; [`Order::accepted`] says how it goes on.
    pub const fn websocket_from_agent() -> Self {
        Self { phase: Phase::Start, websocket: true }
    }

    /// The browser's direction of a WebSocket: messages at once.
    pub const fn websocket_from_browser() -> Self {
        Self { phase: Phase::Messages, websocket: true }
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The HEAD of a WebSocket said 101: messages follow, not END.
    ///
    /// # Errors
    /// [`RecordError::OutOfOrder`] when no HEAD of a WebSocket was the last record.
    pub fn accepted(&mut self) -> Result<(), RecordError> {
        if self.websocket && self.phase == Phase::Body {
            self.phase = Phase::Messages;
            Ok(())
        } else {
            Err(RecordError::OutOfOrder)
        }
    }

    /// Takes the next record.
    pub fn next(&mut self, kind: Kind) -> Result<(), RecordError> {
        self.phase = match (self.phase, kind) {
            (Phase::Start, Kind::Head) => Phase::Body,
            (Phase::Start | Phase::Body, Kind::Error) | (Phase::Body, Kind::End) => Phase::Ended,
            // A refused WebSocket has no body.
            (Phase::Body, Kind::Data) if !self.websocket => Phase::Body,
            (Phase::Messages, Kind::Text | Kind::Binary | Kind::Ping | Kind::Pong) => Phase::Messages,
            (Phase::Messages, Kind::Close | Kind::Error) => Phase::Ended,
            _ => return Err(RecordError::OutOfOrder),
        };
        Ok(())
    }

    /// The end of the bytes: an error unless the stream had ended.
    pub fn finish(&self) -> Result<(), RecordError> {
        if self.phase == Phase::Ended { Ok(()) } else { Err(RecordError::Truncated) }
    }
}
