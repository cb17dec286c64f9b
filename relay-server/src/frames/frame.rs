//! What a text is: one of the frames that may pass (contract: frames, "Routing"), or not.
//!
//! Of what the frame says only what routing needs is kept, borrowed from the text; what is sealed is checked to be a
//! string that is not empty, and no more. The text itself is passed on as it came, so whoever receives it parses it
//! again, with another parser. Hence what two parsers could read differently is refused: numbers that JavaScript would
//! round here, and what [`super::fields`] does not read. Other keys may come along.

use std::borrow::Cow;

use super::Profile;
use super::fields::{Field, Fields};

/// An id of a request or session, in bytes. Those that are in use are random and shorter than 64.
pub const MAX_ID: usize = 256;
/// A channel's name.
pub const MAX_CHANNEL: usize = 256;
/// A path that a worker asks for. Longer ones are no path of ours.
pub const MAX_PATH: usize = 8192;
/// What JavaScript counts without rounding.
const MAX_SAFE: u64 = (1 << 53) - 1;
/// How long an offer may live, in seconds.
const TTL: std::ops::RangeInclusive<u64> = 30..=3600;
/// What every channel begins with.
const CHANNEL_PREFIX: &str = "agent-session:";

/// A text of the frame. Borrowed, unless it was escaped.
pub type Text<'a> = Cow<'a, str>;

/// A frame that may pass, with what it is routed by.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the contract")]
pub enum Frame<'a> {
    /// `e2ee`, both ways.
    Envelope { profile: Profile, session: Text<'a> },
    /// `relay_key_exchange_init` of a client.
    KeyInit { profile: Profile, request: Text<'a> },
    /// `relay_key_exchange_response` of a daemon.
    KeyResponse { profile: Profile, request: Text<'a>, session: Text<'a> },
    /// `relay_key_update_required` of a daemon.
    KeyUpdate { session: Text<'a> },
    /// `relay_pairing_…_request` of a client.
    PairingRequest { step: Pairing, request: Text<'a> },
    /// `relay_pairing_…_response` of a daemon.
    PairingResponse { step: Pairing, request: Text<'a> },
    /// `viewport.session_events.(un)subscribe/v1` of a client.
    Subscription { verb: Verb, key: NameKey, request: Option<Text<'a>>, channel: Text<'a> },
    /// `viewport.session_event_relay_frame/v1` of a daemon.
    SessionEvent { channel: Text<'a> },
    /// `relay_transport_request` of a worker.
    TransportRequest { request: Text<'a>, path: Text<'a> },
    /// `relay_transport_response` of a daemon.
    TransportResponse { request: Text<'a> },
}

/// A step of pairing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// The daemon offers.
    Offer,
    /// The client redeems the offer.
    Redeem,
}

/// What a client asks of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// To hear it.
    Subscribe,
    /// To hear it no longer.
    Unsubscribe,
}

/// The key under which a frame says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameKey {
    /// `type`.
    Type,
    /// `schema`.
    Schema,
}

/// Why a text is none of the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No JSON object, or one that parsers may read differently.
    #[error("no JSON object")]
    Json,
    /// It does not say what it is, or is nothing that may pass.
    #[error("no frame that may pass")]
    Unknown,
    /// A field is missing, or is not what it has to be.
    #[error("a field is missing or wrong")]
    Field,
}

/// What a frame is, without what it says: for rules, rates and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "as the variants of Frame")]
pub enum Kind {
    Envelope,
    KeyInit,
    KeyResponse,
    KeyUpdate,
    PairingRequest,
    PairingResponse,
    Subscription,
    SessionEvent,
    TransportRequest,
    TransportResponse,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Envelope,
        Self::KeyInit,
        Self::KeyResponse,
        Self::KeyUpdate,
        Self::PairingRequest,
        Self::PairingResponse,
        Self::Subscription,
        Self::SessionEvent,
        Self::TransportRequest,
        Self::TransportResponse,
    ];

    /// As metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "e2ee",
            Self::KeyInit => "key_init",
            Self::KeyResponse => "key_response",
            Self::KeyUpdate => "key_update",
            Self::PairingRequest => "pairing_request",
            Self::PairingResponse => "pairing_response",
            Self::Subscription => "subscription",
            Self::SessionEvent => "session_event",
            Self::TransportRequest => "transport_request",
            Self::TransportResponse => "transport_response",
        }
    }
}

impl<'a> Frame<'a> {
    /// Reads a text.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn parse(text: &'a str) -> Result<Self, Unfit> {
        Fields::read(text).map_err(|_| Unfit::Json)?.frame()
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Envelope { .. } => Kind::Envelope,
            Self::KeyInit { .. } => Kind::KeyInit,
            Self::KeyResponse { .. } => Kind::KeyResponse,
            Self::KeyUpdate { .. } => Kind::KeyUpdate,
            Self::PairingRequest { .. } => Kind::PairingRequest,
            Self::PairingResponse { .. } => Kind::PairingResponse,
            Self::Subscription { .. } => Kind::Subscription,
            Self::SessionEvent { .. } => Kind::SessionEvent,
            Self::TransportRequest { .. } => Kind::TransportRequest,
            Self::TransportResponse { .. } => Kind::TransportResponse,
        }
    }

    /// The profile that it names.
    pub fn profile(&self) -> Option<Profile> {
        match self {
            Self::Envelope { profile, .. }
            | Self::KeyInit { profile, .. }
            | Self::KeyResponse { profile, .. } => Some(*profile),
            _ => None,
        }
    }
}

/// Whether this may be a channel's name.
pub fn is_channel(text: &str) -> bool {
    text.len() <= MAX_CHANNEL
        && text.strip_prefix(CHANNEL_PREFIX).is_some_and(|rest| {
            !rest.is_empty()
                && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
        })
}

/// What a frame says that it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Envelope,
    KeyInit,
    KeyResponse,
    KeyUpdate,
    PairingRequest(Pairing),
    PairingResponse(Pairing),
    Subscription(Verb),
    SessionEvent,
    TransportRequest,
    TransportResponse,
}

impl Name {
    fn of(key: NameKey, text: &str) -> Option<Self> {
        Some(match (key, text) {
            (_, "viewport.session_events.subscribe/v1") => Self::Subscription(Verb::Subscribe),
            (_, "viewport.session_events.unsubscribe/v1") => Self::Subscription(Verb::Unsubscribe),
            (NameKey::Schema, "viewport.session_event_relay_frame/v1") => Self::SessionEvent,
            (NameKey::Schema, _) => return None,
            (NameKey::Type, "e2ee") => Self::Envelope,
            (NameKey::Type, "relay_key_exchange_init") => Self::KeyInit,
            (NameKey::Type, "relay_key_exchange_response") => Self::KeyResponse,
            (NameKey::Type, "relay_key_update_required") => Self::KeyUpdate,
            (NameKey::Type, "relay_pairing_offer_request") => Self::PairingRequest(Pairing::Offer),
            (NameKey::Type, "relay_pairing_redeem_request") => Self::PairingRequest(Pairing::Redeem),
            (NameKey::Type, "relay_pairing_offer_response") => Self::PairingResponse(Pairing::Offer),
            (NameKey::Type, "relay_pairing_redeem_response") => Self::PairingResponse(Pairing::Redeem),
            (NameKey::Type, "relay_transport_request") => Self::TransportRequest,
            (NameKey::Type, "relay_transport_response") => Self::TransportResponse,
            (NameKey::Type, _) => return None,
        })
    }
}

impl<'a> Fields<'a> {
    fn frame(mut self) -> Result<Frame<'a>, Unfit> {
        let (name, key) = self.name()?;
        self.fill(name, key).ok_or(Unfit::Field)
    }

    /// A frame has one name. A second one that is none of ours is only some other key; a second one of ours
    /// would let two readers take it for two things.
    fn name(&self) -> Result<(Name, NameKey), Unfit> {
        let named = |field: Field, key, text: &Option<Text<'a>>| match text {
            Some(text) => Ok(Name::of(key, text)),
            None if self.seen & field.bit() == 0 => Ok(None),
            None => Err(Unfit::Unknown),
        };
        let by_type = named(Field::Type, NameKey::Type, &self.name)?;
        match (by_type, named(Field::Schema, NameKey::Schema, &self.schema)?) {
            (Some(name), None) => Ok((name, NameKey::Type)),
            (None, Some(name)) => Ok((name, NameKey::Schema)),
            (Some(name), Some(again)) if name == again => Ok((name, NameKey::Type)),
            _ => Err(Unfit::Unknown),
        }
    }

    fn fill(&mut self, name: Name, key: NameKey) -> Option<Frame<'a>> {
        use Field as F;
        Some(match name {
            Name::Envelope => {
                let profile = self.profile()?;
                self.needs(&[F::Iv, F::Tag, F::Ciphertext])?;
                (self.version == Some(2) && counts(self.epoch) && counts(self.seq)).then_some(())?;
                Frame::Envelope { profile, session: self.session()? }
            }
            Name::KeyInit => {
                let profile = self.profile()?;
                if profile == Profile::NoiseIkPsk2 {
                    self.needs(&[F::Peer])?;
                }
                match self.version? {
                    3 => self.needs(&[F::ClientEphemeral, F::EncryptedStatic])?,
                    2 => self.needs(&[F::ClientKey, F::ClientNonce, F::ClientProof])?,
                    _ => return None,
                }
                Frame::KeyInit { profile, request: self.request()? }
            }
            Name::KeyResponse => {
                let profile = self.profile()?;
                match self.version? {
                    3 => self.needs(&[F::DaemonKey, F::DaemonEphemeral, F::EncryptedMetadata, F::Proof])?,
                    2 => self.needs(&[F::DaemonNonce, F::Proof])?,
                    _ => return None,
                }
                counts(self.epoch).then_some(())?;
                Frame::KeyResponse { profile, request: self.request()?, session: self.session()? }
            }
            Name::KeyUpdate => {
                counts(self.next_epoch).then_some(())?;
                Frame::KeyUpdate { session: self.session()? }
            }
            Name::PairingRequest(step) => {
                match step {
                    Pairing::Offer => {
                        self.needs(&[F::ClientChannelKey])?;
                        let in_range = self.ttl.is_some_and(|ttl| TTL.contains(&ttl));
                        (in_range || self.seen & F::Ttl.bit() == 0).then_some(())?;
                    }
                    Pairing::Redeem => self.needs(&[F::Offer, F::EncIv, F::EncTag, F::EncCiphertext])?,
                }
                Frame::PairingRequest { step, request: self.request()? }
            }
            Name::PairingResponse(step) => {
                match (self.ok?, step) {
                    (false, _) => self.needs(&[F::ErrorCode])?,
                    (true, Pairing::Offer) => {
                        self.needs(&[F::DaemonChannelKey, F::EncIv, F::EncTag, F::EncCiphertext])?;
                    }
                    (true, Pairing::Redeem) => {}
                }
                Frame::PairingResponse { step, request: self.request()? }
            }
            Name::Subscription(verb) => {
                let request = if self.seen & F::Request.bit() == 0 { None } else { Some(self.request()?) };
                Frame::Subscription { verb, key, request, channel: self.channel()? }
            }
            Name::SessionEvent => {
                (self.objects & F::Event.bit() != 0).then_some(())?;
                Frame::SessionEvent { channel: self.channel()? }
            }
            Name::TransportRequest => {
                let path = self.path.take().filter(|path| (1..=MAX_PATH).contains(&path.len()))?;
                Frame::TransportRequest { request: self.request()?, path }
            }
            Name::TransportResponse => {
                self.status.filter(|status| *status <= MAX_SAFE)?;
                Frame::TransportResponse { request: self.request()? }
            }
        })
    }

    fn profile(&self) -> Option<Profile> {
        match self.profile.as_deref()? {
            "noise-ik" => Some(Profile::NoiseIk),
            "noise-ikpsk2" => Some(Profile::NoiseIkPsk2),
            _ => None,
        }
    }

    fn request(&mut self) -> Option<Text<'a>> {
        self.request.take().filter(|id| (1..=MAX_ID).contains(&id.len()))
    }

    fn session(&mut self) -> Option<Text<'a>> {
        self.session.take().filter(|id| (1..=MAX_ID).contains(&id.len()))
    }

    fn channel(&mut self) -> Option<Text<'a>> {
        self.channel.take().filter(|name| is_channel(name))
    }
}

/// An epoch or a sequence number.
fn counts(number: Option<u64>) -> bool {
    number.is_some_and(|number| (1..=MAX_SAFE).contains(&number))
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
