//! Which record may come when: the one place that tells a whole stream from one that was cut.

use super::{Kind, RecordError};

/// Where a direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has come yet: HEAD or ERROR must.
    Start,
    /// HEAD of an HTTP request or answer, or of a WebSocket that is refused: DATA, END, ERROR.
    Body,
    /// WebSocket messages.
    Messages,
    /// END, ERROR or CLOSE has come: nothing may.
    Ended,
}

/// Whose direction of what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Answer,
    Request,
    FromAgent,
    FromBrowser,
}

/// The order of one direction. Feed it every record, in the order of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    phase: Phase,
    form: Form,
    /// Whether HEAD was the last record.
    headed: bool,
}

impl Order {
    const fn new(form: Form) -> Self {
        let phase = if matches!(form, Form::FromBrowser) { Phase::Messages } else { Phase::Start };
        Self { phase, form, headed: false }
    }

    /// An answer to a request: HEAD, DATA, END; or ERROR.
    pub const fn answer() -> Self {
        Self::new(Form::Answer)
    }

    /// The browser's direction of an exchange: HEAD, DATA, END; or HEAD of a WebSocket, after which
    /// [`Order::accepted`] lets messages follow. ERROR breaks it off, after HEAD.
    pub const fn request() -> Self {
        Self::new(Form::Request)
    }

    /// The agent's direction of a WebSocket: HEAD first; [`Order::accepted`] says how it goes on.
    pub const fn websocket_from_agent() -> Self {
        Self::new(Form::FromAgent)
    }

    /// The browser's direction of a WebSocket of section 4.5: messages at once.
    pub const fn websocket_from_browser() -> Self {
        Self::new(Form::FromBrowser)
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// What follows are a WebSocket's messages, not END: the agent's HEAD said 101, or the browser's
    /// `websocket`. A browser that does not wait for the answer may send them at once.
    ///
    /// # Errors
    /// [`RecordError::OutOfOrder`] when no HEAD of a WebSocket was the last record.
    pub fn accepted(&mut self) -> Result<(), RecordError> {
        if self.headed && matches!(self.form, Form::FromAgent | Form::Request) {
            (self.phase, self.headed) = (Phase::Messages, false);
            Ok(())
        } else {
            Err(RecordError::OutOfOrder)
        }
    }

    /// Where a record of this kind would lead.
    const fn after(&self, kind: Kind) -> Result<Phase, RecordError> {
        Ok(match (self.phase, kind) {
            (Phase::Start, Kind::Head) => Phase::Body,
            // A request that says nothing is none.
            (Phase::Start, Kind::Error) if !matches!(self.form, Form::Request) => Phase::Ended,
            (Phase::Body, Kind::End | Kind::Error) => Phase::Ended,
            // A refused WebSocket has no body.
            (Phase::Body, Kind::Data) if !matches!(self.form, Form::FromAgent) => Phase::Body,
            (Phase::Messages, Kind::Text | Kind::Binary | Kind::Ping | Kind::Pong) => Phase::Messages,
            (Phase::Messages, Kind::Close | Kind::Error) => Phase::Ended,
            _ => return Err(RecordError::OutOfOrder),
        })
    }

    /// Whether a record of this kind may come now. Asked of what a header says that nobody has vouched for yet, so
    /// that nothing is held for a record that would be refused.
    ///
    /// # Errors
    /// [`RecordError::OutOfOrder`] when it may not.
    pub fn check(&self, kind: Kind) -> Result<(), RecordError> {
        self.after(kind).map(drop)
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// As [`Order::check`].
    pub fn next(&mut self, kind: Kind) -> Result<(), RecordError> {
        self.phase = self.after(kind)?;
        self.headed = matches!(kind, Kind::Head);
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

    #[test]
    fn requests() {
        let cases: [(&[Kind], Result<(), RecordError>); 11] = [
            (&[Head, End], Ok(())),
            (&[Head, Data, Data, End], Ok(())),
            (&[Head, Error], Ok(())),
            (&[Head, Data, Error], Ok(())),
            (&[], Err(RecordError::Truncated)),
            (&[Head], Err(RecordError::Truncated)),
            (&[Head, Data], Err(RecordError::Truncated)),
            (&[Error], Err(RecordError::OutOfOrder)),
            (&[Data], Err(RecordError::OutOfOrder)),
            (&[Head, Head], Err(RecordError::OutOfOrder)),
            (&[Head, End, End], Err(RecordError::OutOfOrder)),
        ];
        for (kinds, expected) in cases {
            assert_eq!(run(Order::request(), kinds), expected, "{kinds:?}");
        }
        for kind in [Text, Binary, Ping, Pong, Close] {
            assert_eq!(run(Order::request(), &[Head, kind]), Err(RecordError::OutOfOrder), "not accepted");
        }
        let mut accepted = Order::request();
        assert_eq!(accepted.accepted(), Err(RecordError::OutOfOrder));
        assert_eq!(accepted.next(Head), Ok(()));
        let mut body = accepted;
        assert_eq!(accepted.accepted(), Ok(()));
        assert_eq!(accepted.accepted(), Err(RecordError::OutOfOrder), "twice");
        assert_eq!(run(accepted, &[Text, Pong, Close]), Ok(()));
        assert_eq!(run(accepted, &[Binary, Error]), Ok(()));
        for kind in [Data, End, Head] {
            assert_eq!(run(accepted, &[kind]), Err(RecordError::OutOfOrder));
        }
        assert_eq!(body.next(Data), Ok(()));
        assert_eq!(body.accepted(), Err(RecordError::OutOfOrder), "a body has begun");
    }
}
