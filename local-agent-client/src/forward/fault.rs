//! What was wrong with a request's body. The local server's end learns only that it broke off; whoever answers
//! the caller looks here for the reason, because the local server's failure that follows is none.

use super::digest_mismatch;
use crate::refusal::Refusal;
use relay_protocol::{exchange::HeadError, problem::Code, record::RecordError};
use std::sync::{Arc, OnceLock};

/// Why a body is not what its sender meant, or not all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not the one that was signed.
    #[error("the body is not the one that was signed")]
    Digest,
    /// A record of it cannot be used, or the end did not come.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Its first record cannot be used.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// It asks for a WebSocket where there is none, or the other way round.
    #[error("a WebSocket is opened by an upgrade with `websocket` in its HEAD, and nothing else is")]
    NotThisWay,
    /// The sender broke it off and said so.
    #[error("the sender broke the request off")]
    GivenUp,
}

impl Fault {
    /// How it is told to the caller.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Digest => digest_mismatch(),
            Self::Record(RecordError::Unprotected) => Refusal::new(
                Code::SignatureInvalid,
                "A record of the request was altered, repeated or left out on its way; the local server has not seen its end.",
            ),
            Self::Record(error) => {
                Refusal::new(Code::BadRequest, format!("The request cannot be used: {error}."))
            }
            Self::Head(error) => {
                Refusal::new(Code::BadRequest, format!("The HEAD of the request cannot be used: {error}."))
            }
            Self::NotThisWay => {
                Refusal::new(Code::BadRequest, format!("The request cannot be used: {self}."))
            }
            Self::GivenUp => Refusal::new(Code::BadRequest, "The browser broke the request off."),
        }
    }
}

/// Tells, beside the error that the body ends with, that it was not the right one.
#[derive(Debug, Clone, Default)]
pub struct Wrong(Arc<OnceLock<Fault>>);

impl Wrong {
    /// Notes what is wrong; the first counts.
    pub fn tell(&self, fault: Fault) {
        let _ = self.0.set(fault);
    }

    /// What has turned out to be wrong.
    pub fn fault(&self) -> Option<Fault> {
        self.0.get().copied()
    }
}
