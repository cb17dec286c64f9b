//! Where a relay can be reached, as it tells the others; signed, because whoever can write to Redis or to the tables
//! could otherwise lead requests anywhere.

use std::sync::Arc;

use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use url::Url;

use super::Holder;
use super::envelope::{Key, is_relay_id, tag_of, tag_text};
use crate::config::parse;

/// Names the use of the key.
const INFO: &[u8] = b"relay backplane: a relay's addresses, version 1";
/// Longest record that is read.
const MAX_RECORD: usize = 8192;

/// The key for it, derived from RELAY_BUS_HMAC_KEY.
pub(super) fn key(secret: &[u8]) -> Option<Key> {
    let mut key = [0u8; 32];
    Hkdf::<Sha256>::new(None, secret).expand(INFO, &mut key).ok()?;
    Key::new(&key)
}

/// A relay's addresses as they are written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) relay: String,
    #[serde(default)]
    pub(super) public_ws: String,
    #[serde(default)]
    pub(super) internal: String,
    pub(super) seal: String,
}

impl Record {
    /// This relay's.
    pub(super) fn seal(me: &Holder, key: &Key) -> Self {
        let text = |url: &Option<Url>| url.as_ref().map(|url| url.as_str().to_owned()).unwrap_or_default();
        let (public_ws, internal) = (text(&me.public_ws), text(&me.internal));
        let seal = tag_text(&key.sign([&*me.relay, &public_ws, &internal]));
        Self { relay: me.relay.to_string(), public_ws, internal, seal }
    }

    /// The relay, if one of us wrote this. No address is believed that could not have been configured.
    pub(super) fn open(&self, key: &Key) -> Option<Holder> {
        let Self { relay, public_ws, internal, seal } = self;
        let plain = is_relay_id(relay) && !public_ws.contains('\n') && !internal.contains('\n');
        if !plain || !key.verify([&**relay, public_ws, internal], &tag_of(seal)?) {
            return None;
        }
        Some(Holder {
            relay: Arc::from(&**relay),
            public_ws: parse::ws_url(public_ws),
            internal: parse::public_url(internal),
        })
    }
}

/// The record of this relay as text.
pub(super) fn write(me: &Holder, key: &Key) -> String {
    serde_json::to_string(&Record::seal(me, key)).unwrap_or_default()
}

/// The relay of such a text.
pub(super) fn read(record: &str, key: &Key) -> Option<Holder> {
    if record.len() > MAX_RECORD {
        return None;
    }
    serde_json::from_str::<Record>(record).ok()?.open(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_changed_one_does_not() {
        let key = key(b"a key that the relays share").unwrap();
        let me = Holder {
            relay: "relay-a".into(),
            public_ws: Some(Url::parse("wss://a.example.com/").unwrap()),
            internal: Some(Url::parse("http://10.0.0.1:8081/").unwrap()),
        };
        let record = write(&me, &key);
        assert_eq!(read(&record, &key), Some(me.clone()));
        let bare = Holder { public_ws: None, internal: None, ..me };
        assert_eq!(read(&write(&bare, &key), &key), Some(bare));
        assert_eq!(read(&record.replace("10.0.0.1", "10.0.0.9"), &key), None);
        assert_eq!(read(&record.replace("relay-a", "relay-b"), &key), None);
        assert_eq!(read(&record, &Key::new(b"a key that the relays share").unwrap()), None);
        assert_eq!(read("{}", &key), None);
        assert_eq!(read(&" ".repeat(MAX_RECORD + 1), &key), None);
    }
}
