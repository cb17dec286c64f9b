//! A client's frame that another relay passed on, and that finds no daemon here: the daemon has moved or gone, and
//! the other relay did not know yet. It is not passed on once more: no frame says how far it has come, so two relays
//! that are wrong about each other would pass it to and fro. Instead its relay is told, by a `relay_status` of the
//! usual form that also names the request or session. There the client is told what is due, and where the daemon was
//! is asked anew. One such word for one frame at most, and none for a word, so nothing goes in circles.
//!
//! Relays alone can say it: what a daemon's socket sends is no frame when it looks like this.

use std::time::Instant;

use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};

use super::Pair;
use super::broker::Broker;
use super::frame::Frame;
use super::metrics::Way;
use super::status::Code;
use crate::backplane::{BusFrame, Direction, Parcel, PublishError};

/// Longer than any: ids are bounded, and messages are fixed.
const MAX: usize = 4096;

/// Which frame it was. Its sender is who asked for this, or speaks in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// A request, by its id.
    Request(String),
    /// A frame of a session.
    Session(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Word {
    r#type: String,
    code: String,
    message: String,
    workspace_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    runtime_target_id: Option<String>,
    retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
}

impl About {
    /// Of a frame of a client's.
    fn of(frame: &Frame<'_>) -> Option<Self> {
        match frame {
            Frame::Envelope { session, .. } => Some(Self::Session((**session).to_owned())),
            Frame::KeyInit { request, .. }
            | Frame::PairingRequest { request, .. }
            | Frame::TransportRequest { request, .. } => Some(Self::Request((**request).to_owned())),
            _ => None,
        }
    }

    /// As it is told to its relay.
    fn say(self, pair: &Pair) -> String {
        let (request_id, session_id) = match self {
            Self::Request(id) => (Some(id), None),
            Self::Session(id) => (None, Some(id)),
        };
        let word = Word {
            r#type: "relay_status".to_owned(),
            code: Code::DaemonUnavailable.as_str().to_owned(),
            message: Code::DaemonUnavailable.message().to_owned(),
            workspace_id: pair.workspace.as_ref().to_owned(),
            runtime_target_id: pair.target.as_deref().map(str::to_owned),
            retryable: true,
            request_id,
            session_id,
        };
        // Texts and booleans alone always become JSON.
        serde_json::to_string(&word).unwrap_or_default()
    }

    /// What another relay tells, if it tells such a thing.
    fn hear(text: &str) -> Option<Self> {
        if text.len() > MAX {
            return None;
        }
        let word: Word = serde_json::from_str(text).ok()?;
        if word.r#type != "relay_status" || word.code != Code::DaemonUnavailable.as_str() {
            return None;
        }
        match (word.request_id, word.session_id) {
            (Some(id), None) => Some(Self::Request(id)),
            (None, Some(id)) => Some(Self::Session(id)),
            _ => None,
        }
    }
}

impl Broker {
    /// Tells the relay of whoever sent this that it found no daemon.
    pub(super) fn send_word_back(&self, bus: &BusFrame, frame: &Frame<'_>) {
        if bus.direction != Direction::ClientToDaemon || !bus.targeted {
            return;
        }
        let Some(about) = About::of(frame) else { return };
        let parcel = Parcel {
            pair: &bus.pair,
            machine: None,
            to: Some(&bus.source),
            direction: Direction::DaemonToClients,
            payload: about.say(&bus.pair).into(),
            sender: None,
        };
        // What the bus brings does not wait for room on the way back.
        let sent = self.bus.publish(parcel).now_or_never().unwrap_or(Err(PublishError::Unavailable));
        self.metrics.bus(if sent.is_ok() { Way::Out } else { Way::Refused });
    }

    /// Whether another relay tells that a frame of a client here found no daemon there. The client is told then.
    pub(super) fn word_came_back(&self, bus: &BusFrame, now: Instant) -> bool {
        if bus.direction != Direction::DaemonToClients || !bus.targeted {
            return false;
        }
        let Some(about) = About::hear(&bus.payload) else { return false };
        self.bus.forget_daemon(&bus.pair);
        let Some(entry) = self.find(&bus.pair) else { return true };
        let sender = entry.state.lock().undelivered(&about, now);
        if let Some(sender) = sender {
            self.tell(&sender, Code::DaemonUnavailable, now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{status, testing};

    #[test]
    fn what_is_said_is_a_status_and_is_understood() {
        for (frame, about) in [
            (testing::envelope("s\"1", 7), About::Session("s\"1".to_owned())),
            (testing::key_init("r"), About::Request("r".to_owned())),
            (testing::offer_request("r"), About::Request("r".to_owned())),
            (testing::redeem_request("r"), About::Request("r".to_owned())),
            (testing::transport_request("r", "/jobs"), About::Request("r".to_owned())),
        ] {
            let text = frame.to_string();
            let found = About::of(&Frame::parse(&text).unwrap());
            assert_eq!(found, Some(about.clone()));
            let pair = testing::pair("w", "t");
            let said = about.clone().say(&pair);
            assert_eq!(About::hear(&said), Some(about));
            assert!(Frame::parse(&said).is_err(), "no socket can say it");
            // A client understands it as well.
            let mut said: serde_json::Value = serde_json::from_str(&said).unwrap();
            let more = ["requestId", "sessionId"].map(|id| said.as_object_mut().unwrap().remove(id));
            assert_eq!(more.iter().flatten().count(), 1);
            let usual = status::frame(Code::DaemonUnavailable, &pair, None);
            assert_eq!(said, serde_json::from_str::<serde_json::Value>(&usual).unwrap());
        }
        for none in
            [testing::key_response("r", "s"), testing::event("agent-session:a"), testing::key_update("s")]
        {
            let text = none.to_string();
            assert_eq!(About::of(&Frame::parse(&text).unwrap()), None);
        }
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        let good = || serde_json::from_str::<serde_json::Value>(&About::Request("r".to_owned()).say(&pair()));
        fn pair() -> Pair {
            testing::pair("w", "t")
        }
        assert!(About::hear(&good().unwrap().to_string()).is_some());
        for (name, value) in [
            ("type", Some("e2ee".into())),
            ("code", Some("RELAY_REDIRECT".into())),
            ("code", None),
            ("requestId", None),
            ("requestId", Some(7.into())),
            ("sessionId", Some("s".into())),
            ("message", Some("x".repeat(MAX).into())),
        ] {
            let mut altered = good().unwrap();
            match value {
                Some(value) => altered[name] = value,
                None => drop(altered.as_object_mut().unwrap().remove(name)),
            }
            assert_eq!(About::hear(&altered.to_string()), None, "{name}");
        }
        assert_eq!(About::hear("{}"), None);
        assert_eq!(About::hear("nonsense"), None);
    }
}
