//! The first bytes of a WebSocket's exchange in its URL, because browsers can send nothing before the 101
//! (PROTOCOL.md section 5.3). What stands there is sealed or signed like every record: it tells the relay
//! nothing that a body would not.

use super::{PRELUDE_LEN, Prelude};
use crate::keys::b64;
use bytes::Bytes;

/// The one parameter of the query.
pub const QUERY_NAME: &str = "relay-exchange";

/// The most characters of its value: what common servers and proxies take in a request line.
pub const MAX_QUERY_VALUE: usize = 12_288;

/// The query for a prelude and the record HEAD; `None` when it would be too long.
pub fn encode_query(prelude: &Prelude, head: &[u8]) -> Option<String> {
    let value = b64::encode([&prelude.to_bytes(), head].concat());
    (value.len() <= MAX_QUERY_VALUE).then(|| format!("{QUERY_NAME}={value}"))
}

/// Reads a query: nothing before the parameter and nothing after it. The bytes are the record HEAD, which
/// is not opened yet; `None` is a `bad_request`.
pub fn decode_query(query: &str) -> Option<(Prelude, Bytes)> {
    let value = query.strip_prefix(QUERY_NAME)?.strip_prefix('=')?;
    if value.len() > MAX_QUERY_VALUE {
        return None;
    }
    let mut bytes = Bytes::from(b64::decode(value).ok()?);
    let prelude = Prelude::from_bytes(bytes.first_chunk::<PRELUDE_LEN>()?);
    Some((prelude, bytes.split_off(PRELUDE_LEN)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn what_is_written_is_read() {
        let prelude = Prelude { session_id: Uuid::from_u128(7), number: 9 };
        let query = encode_query(&prelude, b"record").unwrap();
        assert_eq!(decode_query(&query), Some((prelude, Bytes::from_static(b"record"))));
        let value = query.strip_prefix("relay-exchange=").unwrap();
        assert!(value.starts_with(&prelude.to_b64()), "24 bytes are whole groups");
        let longest = MAX_QUERY_VALUE / 4 * 3 - PRELUDE_LEN;
        assert!(decode_query(&encode_query(&prelude, &vec![0; longest]).unwrap()).is_some());
        assert_eq!(encode_query(&prelude, &vec![0; longest + 1]), None);
        let too_long = format!("{QUERY_NAME}={}", "A".repeat(MAX_QUERY_VALUE + 4));
        let bad = ["", "relay-exchange", "relay-exchange=", "relay-exchange=AAAA", &format!("{query}&a=1")];
        for bad in bad.into_iter().chain([&*format!("a=1&{query}"), &format!("{query}="), &too_long]) {
            assert_eq!(decode_query(bad), None, "{bad}");
        }
    }
}
