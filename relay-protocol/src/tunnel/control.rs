//! Control messages of `relay.tunnel.v1` (PROTOCOL.md section 2.2): text messages, one JSON object each.
//!
//! A message of an unknown `type` is ignored, so that a newer end can say more; one that is not an
//! object with a `type`, or is too long, ends the tunnel with close code 1002.

use serde::{Deserialize, Serialize};

/// Bytes of one control message at the most.
pub const MAX_CONTROL: usize = 16 * 1024;

/// The feature of being told to reconnect before the relay ends.
pub const FEATURE_DRAIN: &str = "drain";

/// The first message of each end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of this list of messages: 1.
    pub v: u32,
    /// The program, such as `relay-server`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it can do beyond the bare tunnel. Only what both list is used.
    #[serde(default)]
    pub features: Vec<String>,
    /// The relay's clock in Unix milliseconds; the agent leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

impl Hello {
    /// The hello of this program, with every feature that this version knows.
    pub fn new(name: &str, version: &str, time_ms: Option<u64>) -> Self {
        Self {
            v: 1,
            name: name.to_owned(),
            version: version.to_owned(),
            features: vec![FEATURE_DRAIN.to_owned()],
            time_ms,
        }
    }

    /// Whether this end lists the feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }
}

/// One control message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// Who this is and what it can do. First, and once.
    Hello(Hello),
    /// Relay to agent: connect anew within this many seconds, then let this tunnel's streams finish.
    Drain {
        /// Seconds; the agent picks a moment in them at random.
        reconnect_within: u32,
    },
    /// A message of a type that this version does not know. Ignored.
    #[serde(other)]
    Unknown,
}

/// A control message that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// Longer than [`MAX_CONTROL`].
    #[error("control message of {0} bytes, at most {MAX_CONTROL} are allowed")]
    TooLong(usize),
    /// Not a JSON object with a `type`, or a known type with the wrong fields.
    #[error("control message does not parse: {0}")]
    Malformed(String),
}

impl Control {
    /// Reads one text message.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_CONTROL {
            return Err(ParseError::TooLong(text.len()));
        }
        serde_json::from_str(text).map_err(|e| ParseError::Malformed(e.to_string()))
    }

    /// The text message.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_messages_survive_the_round_trip() {
        for control in [
            Control::Hello(Hello::new("relay-server", "0.1.0", Some(1_700_000_000_000))),
            Control::Hello(Hello::new("local-agent-client", "0.1.0", None)),
            Control::Drain { reconnect_within: 10 },
        ] {
            assert_eq!(Control::parse(&control.to_text()), Ok(control));
        }
    }

    #[test]
    fn newer_ends_may_say_more() {
        assert_eq!(Control::parse(r#"{"type":"ack","bytes":17}"#), Ok(Control::Unknown));
        assert_eq!(
            Control::parse(r#"{"type":"hello","v":2,"name":"x","version":"9","resume":{"received":1}}"#),
            Ok(Control::Hello(Hello {
                v: 2,
                name: "x".into(),
                version: "9".into(),
                features: vec![],
                time_ms: None
            }))
        );
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            "1",
            "{}",
            r#"{"type":1}"#,
            r#"{"type":"hello"}"#,
            r#"{"type":"drain","reconnect_within":-1}"#,
            r#"{"type":"drain"}"#,
        ] {
            assert!(matches!(Control::parse(text), Err(ParseError::Malformed(_))), "{text}");
        }
        let long = format!(r#"{{"type":"x","pad":"{}"}}"#, "a".repeat(MAX_CONTROL));
        assert!(matches!(Control::parse(&long), Err(ParseError::TooLong(_))));
    }
}
