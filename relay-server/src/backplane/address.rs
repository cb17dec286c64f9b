//! Where a relay can be reached, as it tells the others; sealed, because whoever can write to Redis or to the tables
//! could otherwise lead requests anywhere. A seal names what the record is about and ends by itself, so that no record
//! passes for another's, and that of a relay that is gone cannot be put back.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::Holder;
use super::envelope::{Key, is_relay_id, tag_of, tag_text};
use super::presence::VOID;
use crate::config::{SecretText, parse};

/// Names the use of the key.
const INFO: &[u8] = b"relay backplane: a relay's addresses, version 2";
/// Longest record that is read.
pub(super) const MAX_RECORD: usize = 8192;
/// How long a seal holds. Records are sealed anew at each renewal; twice the time after which they are void leaves
/// room for clocks that differ.
const HOLDS_MS: i64 = 2 * VOID.as_millis() as i64;
/// What the record of a relay itself is about.
pub(super) const RELAY: &str = "relay";

/// What the record of a relay that has tunnels of a host is about.
pub(super) fn of_host(host: Uuid) -> String {
    format!("host {host}")
}

/// The key for it, derived from RELAY_BUS_HMAC_KEY.
pub(super) fn key(shared: &SecretText) -> Option<Key> {
    Key::new(shared.derive(INFO)?.as_slice())
}

/// A relay's addresses as they are written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) relay: String,
    #[serde(default)]
    pub(super) public_ws: String,
    #[serde(default)]
    pub(super) internal: String,
    /// Until when it holds in Unix milliseconds, a dot, and the signature.
    pub(super) seal: String,
}

impl Record {
    /// This relay's. What it is `about` holds no line break.
    pub(super) fn seal(me: &Holder, about: &str, now_ms: i64, key: &Key) -> Self {
        let text = |url: &Option<Url>| url.as_ref().map(|url| url.as_str().to_owned()).unwrap_or_default();
        let (public_ws, internal) = (text(&me.public_ws), text(&me.internal));
        let until = now_ms.saturating_add(HOLDS_MS).to_string();
        let tag = tag_text(&key.sign([about, &*me.relay, &public_ws, &internal, &until]));
        Self { relay: me.relay.to_string(), public_ws, internal, seal: format!("{until}.{tag}") }
    }

    /// The relay, if one of us wrote this about that, not long ago. No address is believed that could not have been
    /// configured.
    pub(super) fn open(&self, about: &str, now_ms: i64, key: &Key) -> Option<Holder> {
        let Self { relay, public_ws, internal, seal } = self;
        let (until, tag) = seal.split_once('.')?;
        let plain = is_relay_id(relay) && !public_ws.contains('\n') && !internal.contains('\n');
        if !plain || !key.verify([about, relay, public_ws, internal, until], &tag_of(tag)?) {
            return None;
        }
        if until.parse::<i64>().ok()? <= now_ms {
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
pub(super) fn write(me: &Holder, about: &str, now_ms: i64, key: &Key) -> String {
    serde_json::to_string(&Record::seal(me, about, now_ms, key)).unwrap_or_default()
}

/// The relay of such a text.
pub(super) fn read(record: &[u8], about: &str, now_ms: i64, key: &Key) -> Option<Holder> {
    if record.len() > MAX_RECORD {
        return None;
    }
    serde_json::from_slice::<Record>(record).ok()?.open(about, now_ms, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    #[test]
    fn a_record_comes_back_and_a_changed_one_does_not() {
        let key = key(&SecretText::of("a key that the relays share")).unwrap();
        let me = Holder {
            relay: "relay-a".into(),
            public_ws: Some(Url::parse("wss://a.example.com/").unwrap()),
            internal: Some(Url::parse("http://10.0.0.1:8081/").unwrap()),
        };
        let read = |record: &str, key: &Key| read(record.as_bytes(), RELAY, NOW, key);
        let record = write(&me, RELAY, NOW, &key);
        assert_eq!(read(&record, &key), Some(me.clone()));
        let bare = Holder { public_ws: None, internal: None, ..me };
        assert_eq!(read(&write(&bare, RELAY, NOW, &key), &key), Some(bare));
        assert_eq!(read(&record.replace("10.0.0.1", "10.0.0.9"), &key), None);
        assert_eq!(read(&record.replace("relay-a", "relay-b"), &key), None);
        assert_eq!(read(&record, &Key::new(b"a key that the relays share").unwrap()), None);
        assert_eq!(read("{}", &key), None);
        assert_eq!(read(&" ".repeat(MAX_RECORD + 1), &key), None);
    }

    #[test]
    fn a_record_ends_and_is_about_one_thing() {
        let key = key(&SecretText::of("a key that the relays share")).unwrap();
        let me = Holder { relay: "relay-a".into(), public_ws: None, internal: None };
        let host = Uuid::new_v4();
        let record = write(&me, &of_host(host), NOW, &key);
        let opens = |record: &str, about: &str, now| read(record.as_bytes(), about, now, &key).is_some();
        assert!(opens(&record, &of_host(host), NOW + HOLDS_MS - 1));
        assert!(!opens(&record, &of_host(host), NOW + HOLDS_MS), "it has ended");
        let longer = record.replace(&(NOW + HOLDS_MS).to_string(), &(NOW + HOLDS_MS + 1).to_string());
        assert!(!opens(&longer, &of_host(host), NOW), "the end is sealed as well");
        assert!(!opens(&record, &of_host(Uuid::new_v4()), NOW), "another host");
        assert!(!opens(&record, RELAY, NOW));
    }
}
