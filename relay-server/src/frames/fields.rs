//! The fields of a frame that we decide by, read in one pass over the text, without a tree and without a copy.
//!
//! Whoever receives the text reads it with another parser. What the two could read differently is refused: one of our
//! keys twice (however it is escaped), lone surrogates, nesting beyond a hundred levels.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::frame::{MAX_PATH, Text};

/// The keys that we decide by.
macro_rules! fields {
    ($($field:ident = $name:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(super) enum Field { $($field,)* Other }

        impl Field {
            fn of(name: &str) -> Self {
                match name { $($name => Self::$field,)* _ => Self::Other }
            }
        }
    };
}

fields! {
    Type = "type", Schema = "schema", Version = "version", Profile = "profile", Request = "requestId",
    Session = "sessionId", Channel = "channel", Path = "path", Event = "event", Ok = "ok",
    Status = "status", Epoch = "epoch", NextEpoch = "nextEpoch", Seq = "seq", Ttl = "ttlSeconds",
    Iv = "iv", Tag = "tag", Ciphertext = "ciphertext",
    ClientEphemeral = "clientEphemeralPublicKey", EncryptedStatic = "encryptedClientStatic", Peer = "pairingPeerId",
    ClientKey = "clientPublicKey", ClientNonce = "clientNonce", ClientProof = "clientProof",
    DaemonKey = "daemonPublicKey", DaemonEphemeral = "daemonEphemeralPublicKey",
    EncryptedMetadata = "encryptedMetadata", Proof = "proof", DaemonNonce = "daemonNonce",
    ClientChannelKey = "clientChannelPublicKey", DaemonChannelKey = "daemonChannelPublicKey",
    Offer = "offerId", EncIv = "encIv", EncTag = "encTag", EncCiphertext = "encCiphertext", ErrorCode = "errorCode",
}

impl Field {
    pub(super) const fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// What stood under the keys that we decide by.
#[derive(Default)]
pub(super) struct Fields<'a> {
    /// Keys that were there.
    pub(super) seen: u64,
    /// Those that hold a string that is not empty.
    pub(super) filled: u64,
    /// Those that hold an object.
    pub(super) objects: u64,
    pub(super) name: Option<Text<'a>>,
    pub(super) schema: Option<Text<'a>>,
    pub(super) profile: Option<Text<'a>>,
    pub(super) request: Option<Text<'a>>,
    pub(super) session: Option<Text<'a>>,
    pub(super) channel: Option<Text<'a>>,
    pub(super) path: Option<Text<'a>>,
    pub(super) version: Option<u64>,
    pub(super) epoch: Option<u64>,
    pub(super) next_epoch: Option<u64>,
    pub(super) seq: Option<u64>,
    pub(super) ttl: Option<u64>,
    pub(super) status: Option<u64>,
    pub(super) ok: Option<bool>,
}

impl<'a> Fields<'a> {
    /// Reads a text.
    ///
    /// # Errors
    /// It is no JSON object, or one that parsers may read differently.
    pub(super) fn read(text: &'a str) -> serde_json::Result<Self> {
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = Top.deserialize(&mut json)?;
        json.end()?;
        Ok(fields)
    }

    /// Whether each of these holds a string that is not empty.
    pub(super) fn needs(&self, fields: &[Field]) -> Option<()> {
        let all = fields.iter().fold(0, |bits, field| bits | field.bit());
        (self.filled & all == all).then_some(())
    }

    fn keep(&mut self, field: Field, value: Value<'a>) {
        match value {
            Value::Text(text) => {
                if !text.is_empty() {
                    self.filled |= field.bit();
                }
                let place = match field {
                    Field::Type => &mut self.name,
                    Field::Schema => &mut self.schema,
                    Field::Profile => &mut self.profile,
                    Field::Request => &mut self.request,
                    Field::Session => &mut self.session,
                    Field::Channel => &mut self.channel,
                    Field::Path => &mut self.path,
                    _ => return,
                };
                *place = Some(text);
            }
            Value::LongText => self.filled |= field.bit(),
            Value::Whole(number) => {
                let place = match field {
                    Field::Version => &mut self.version,
                    Field::Epoch => &mut self.epoch,
                    Field::NextEpoch => &mut self.next_epoch,
                    Field::Seq => &mut self.seq,
                    Field::Ttl => &mut self.ttl,
                    Field::Status => &mut self.status,
                    _ => return,
                };
                *place = Some(number);
            }
            Value::Bool(value) => {
                if field == Field::Ok {
                    self.ok = Some(value);
                }
            }
            Value::Object => self.objects |= field.bit(),
            Value::Other => {}
        }
    }
}

/// Reads the object of a frame.
struct Top;

impl<'de> DeserializeSeed<'de> for Top {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(field) = map.next_key_seed(Key)? {
            if field == Field::Other {
                map.next_value_seed(Skip)?;
                continue;
            }
            if fields.seen & field.bit() != 0 {
                return Err(A::Error::custom("a key twice"));
            }
            fields.seen |= field.bit();
            let value = map.next_value_seed(Any)?;
            fields.keep(field, value);
        }
        Ok(fields)
    }
}

/// Reads a key.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Field, D::Error> {
        json.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(Field::of(name))
    }
}

/// A value of a key that we decide by.
enum Value<'a> {
    Text(Text<'a>),
    /// An escaped one that is longer than any that we keep.
    LongText,
    Whole(u64),
    Bool(bool),
    Object,
    Other,
}

/// Reads any value.
struct Any;

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(if text.len() > MAX_PATH { Value::LongText } else { Value::Text(Cow::Owned(text.to_owned())) })
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Value::Whole(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Value::Other)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        Skip.visit_seq(seq)?;
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Skip.visit_map(map)?;
        Ok(Value::Object)
    }
}

/// Reads over any value. Unlike `IgnoredAny` it keeps to the parser's limit on nesting, and takes no number or
/// escape that has no meaning.
#[derive(Clone, Copy)]
struct Skip;

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Skip)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Skip)?.is_some() {
            map.next_value_seed(Skip)?;
        }
        Ok(())
    }
}
