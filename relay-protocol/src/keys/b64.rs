//! base64url without padding, in its one encoding: what decodes encodes to the same text.
//!
//! Also usable as `#[serde(with = "keys::b64")]` on byte vectors, byte arrays and public keys.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// The text was not base64url without padding, or not of the length that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not base64url without padding of the right length")]
pub struct NotB64;

/// The text for these bytes.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of a text. The caller has bounded the text.
pub fn decode(text: &str) -> Result<Vec<u8>, NotB64> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| NotB64)
}

/// Exactly `N` bytes.
pub fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], NotB64> {
    decode(text)?.try_into().map_err(|_| NotB64)
}

/// For serde: as a string.
pub fn serialize<S: Serializer>(bytes: impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&encode(bytes))
}

/// For serde: from a string.
pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(from: D) -> Result<T, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
    let bytes = decode(&text).map_err(D::Error::custom)?;
    T::try_from(bytes).map_err(|_| D::Error::custom(NotB64))
}
