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

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{Binary, Close, Data, End, Error, Head, Ping, Pong, Text};

    fn run(mut order: Order, kinds: &[Kind]) -> Result<(), RecordError> {
        kinds.iter().try_for_each(|kind| order.next(*kind))?;
        order.finish()
    }

    #[test]
    fn answers() {
        let cases: [(&[Kind], Result<(), RecordError>); 11] = [
            (&[Head, End], Ok(())),
            (&[Head, Data, Data, End], Ok(())),
            (&[Error], Ok(())),
            (&[Head, Data, Error], Ok(())),
            (&[], Err(RecordError::Truncated)),
            (&[Head, Data], Err(RecordError::Truncated)),
            (&[Data], Err(RecordError::OutOfOrder)),
            (&[End], Err(RecordError::OutOfOrder)),
            (&[Head, Head], Err(RecordError::OutOfOrder)),
            (&[Head, End, Data], Err(RecordError::OutOfOrder)),
            (&[Error, Error], Err(RecordError::OutOfOrder)),
        ];
        for (kinds, expected) in cases {
            assert_eq!(run(Order::answer(), kinds), expected, "{kinds:?}");
        }
        for kind in [Text, Binary, Ping, Pong, Close] {
            assert_eq!(run(Order::answer(), &[Head, kind]), Err(RecordError::OutOfOrder));
        }
    }

    #[test]
    fn web_sockets() {
        let from_browser = Order::websocket_from_browser();
        assert_eq!(run(from_browser, &[Text, Binary, Ping, Pong, Close]), Ok(()));
        assert_eq!(run(from_browser, &[Text]), Err(RecordError::Truncated));
        assert_eq!(run(from_browser, &[Close, Text]), Err(RecordError::OutOfOrder));
        for kind in [Head, Data, End] {
            assert_eq!(run(from_browser, &[kind]), Err(RecordError::OutOfOrder));
        }
        let from_agent = Order::websocket_from_agent();
        assert_eq!(run(from_agent, &[Text]), Err(RecordError::OutOfOrder));
        assert_eq!(run(from_agent, &[Head, End]), Ok(()), "refused by the local server");
        assert_eq!(run(from_agent, &[Head, Text]), Err(RecordError::OutOfOrder), "not accepted");
        let mut accepted = from_agent;
        assert_eq!(accepted.accepted(), Err(RecordError::OutOfOrder));
        assert_eq!(accepted.next(Head), Ok(()));
        assert_eq!(accepted.accepted(), Ok(()));
        assert_eq!(run(accepted, &[Text, Pong, Close]), Ok(()));
        assert_eq!(run(accepted, &[End]), Err(RecordError::OutOfOrder));
    }
}
