//! Record streams: requests, answers and WebSocket messages in pieces that are each protected (PROTOCOL.md
//! sections 4.4 and 5.2).
//!
//! A record is `length` u32, `type` u8, payload, protection. What protects it is a [`Protect`] at the one end
//! and an [`Open`] at the other, so that another protection is another pair of these and no second code path:
//! [`SignedProtect`] and [`SignedOpen`], [`SealedProtect`] and [`SealedOpen`], and [`Protector`] and [`Opener`]
//! for whoever serves both. The relay between the ends may alter, drop, repeat and reorder: the counter that
//! each protection keeps makes all of that an error, and [`Order`] makes a stream that stops early one too.
//!
//! Sending: [`Protect::protect`] gives a [`Frame`]; signing does not copy the payload, sealing does so only
//! when somebody else holds it too. Receiving: [`Decoder`] for a
//! stream, [`open_message`] for a WebSocket message, which is exactly one record.

mod decode;
mod form;
mod head;
mod header;
mod order;
mod protect;
mod sealed;
mod signed;

pub use decode::{Decoder, open_message};
pub use form::{Opener, Protector};
pub(crate) use head::Fields;
pub use head::{Close, Head, decode_error, decode_trailers, encode_error, encode_trailers, is_close_code};
pub use header::{HEADER_LEN, Header, NEXT_EPOCH};
pub use order::{Order, Phase};
pub use protect::{Direction, Frame, Open, Opened, Payload, Protect, Protection};
pub use sealed::{Clock, EPOCH_RECORDS, EPOCH_SECONDS, SEALED_LEN, SealedOpen, SealedProtect};
pub use signed::{Binding, SIGNED_LEN, SignedOpen, SignedProtect, signed_text};

use bytes::Bytes;

/// The media type of a record stream.
pub const MEDIA_TYPE: &str = "application/vnd.relay.records";

/// The most bytes of one DATA record.
pub const MAX_DATA: usize = 65_536;

/// The most bytes of one WebSocket message.
pub const MAX_MESSAGE: usize = 4 << 20;

/// The most bytes of a HEAD.
pub const MAX_HEAD: usize = 256 << 10;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Status and headers.
    Head = 1,
    /// A piece of the body.
    Data = 2,
    /// The end, with trailers.
    End = 3,
    /// A problem; the end too.
    Error = 4,
    /// A WebSocket text message.
    Text = 5,
    /// A WebSocket binary message.
    Binary = 6,
    /// A WebSocket ping.
    Ping = 7,
    /// A WebSocket pong.
    Pong = 8,
    /// A WebSocket close.
    Close = 9,
}

impl Kind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 9] = [
        Self::Head,
        Self::Data,
        Self::End,
        Self::Error,
        Self::Text,
        Self::Binary,
        Self::Ping,
        Self::Pong,
        Self::Close,
    ];

    /// The kind of a type byte.
    pub const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Head,
            2 => Self::Data,
            3 => Self::End,
            4 => Self::Error,
            5 => Self::Text,
            6 => Self::Binary,
            7 => Self::Ping,
            8 => Self::Pong,
            9 => Self::Close,
            _ => return None,
        })
    }

    /// The lengths that a payload of this kind may have. Trailers and problems are small; they get what a
    /// DATA record gets.
    pub const fn lengths(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Head => 2..=MAX_HEAD,
            Self::Data => 1..=MAX_DATA,
            Self::End => 0..=MAX_DATA,
            Self::Error => 2..=MAX_DATA,
            Self::Text | Self::Binary => 0..=MAX_MESSAGE,
            Self::Ping | Self::Pong | Self::Close => 0..=125,
        }
    }
}

/// A record whose protection was right. Its payload is not parsed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// The payload.
    pub payload: Bytes,
}

/// Why a record, or the stream, is refused. Nothing after it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A type that is not known.
    #[error("a record has an unknown type")]
    UnknownType,
    /// A length that its type does not allow.
    #[error("a record is too long or too short for its type")]
    BadLength,
    /// The protection does not fit: altered, repeated, left out, of another stream or out of order.
    #[error("a record was altered, repeated or left out")]
    Unprotected,
    /// A record that may not come here.
    #[error("a record came where it may not")]
    OutOfOrder,
    /// The stream stopped before its end.
    #[error("the stream broke off")]
    Truncated,
    /// The payload is not what the type says.
    #[error("a record's payload cannot be read")]
    BadPayload,
    /// More records than a counter counts, or than one key is for.
    #[error("the stream has too many records")]
    TooMany,
}
