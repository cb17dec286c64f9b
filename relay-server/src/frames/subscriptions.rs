//! Who listens to which channel of a pair, and what the relay answers to those who ask.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::frame::{NameKey, Verb};
use super::requests::SocketId;

/// Channels that one socket listens to. A page shows a few sessions at a time.
pub const MAX_SUBSCRIPTIONS: usize = 64;

/// Why somebody may not listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The token does not name the channel.
    NotAllowed,
    /// It listens to as many as it may.
    TooMany,
}

impl Denied {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NotAllowed => "CHANNEL_NOT_ALLOWED",
            Self::TooMany => "TOO_MANY_SUBSCRIPTIONS",
        }
    }
}

/// The subscriptions of one pair.
#[derive(Default)]
pub struct Subscriptions {
    by_channel: HashMap<Arc<str>, Vec<SocketId>>,
    by_socket: HashMap<SocketId, Vec<Arc<str>>>,
}

impl Subscriptions {
    /// Lets a socket listen to one of the channels that its token names.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn subscribe(&mut self, socket: SocketId, allowed: &[Arc<str>], channel: &str) -> Result<(), Denied> {
        let channel = allowed.iter().find(|name| ***name == *channel).ok_or(Denied::NotAllowed)?;
        let heard = self.by_socket.entry(socket).or_default();
        if heard.contains(channel) {
            return Ok(());
        }
        if heard.len() >= MAX_SUBSCRIPTIONS {
            return Err(Denied::TooMany);
        }
        heard.push(channel.clone());
        self.by_channel.entry(channel.clone()).or_default().push(socket);
        Ok(())
    }

    /// It listens to this channel no longer, if it did.
    pub fn unsubscribe(&mut self, socket: SocketId, channel: &str) {
        if let Some(heard) = self.by_socket.get_mut(&socket) {
            heard.retain(|name| **name != *channel);
            if heard.is_empty() {
                self.by_socket.remove(&socket);
            }
        }
        self.unhear(socket, channel);
    }

    /// It has gone.
    pub fn gone(&mut self, socket: SocketId) {
        for channel in self.by_socket.remove(&socket).unwrap_or_default() {
            self.unhear(socket, &channel);
        }
    }

    fn unhear(&mut self, socket: SocketId, channel: &str) {
        if let Some(sockets) = self.by_channel.get_mut(channel) {
            sockets.retain(|id| *id != socket);
            if sockets.is_empty() {
                self.by_channel.remove(channel);
            }
        }
    }

    /// Who listens to this channel.
    pub fn listeners(&self, channel: &str) -> &[SocketId] {
        self.by_channel.get(channel).map_or(&[], Vec::as_slice)
    }

    /// Whether it listens to any.
    pub fn any(&self, socket: SocketId) -> bool {
        self.by_socket.contains_key(&socket)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'static str>,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

/// What is answered, under the key that the question used.
pub fn answer(
    key: NameKey,
    verb: Verb,
    denied: Option<Denied>,
    channel: &str,
    request: Option<&str>,
) -> Utf8Bytes {
    let name = match (denied, verb) {
        (Some(_), _) => "viewport.session_events.subscribe_denied/v1",
        (None, Verb::Subscribe) => "viewport.session_events.subscribed/v1",
        (None, Verb::Unsubscribe) => "viewport.session_events.unsubscribed/v1",
    };
    let answer = Answer {
        r#type: (key == NameKey::Type).then_some(name),
        schema: (key == NameKey::Schema).then_some(name),
        channel,
        request_id: request,
        code: denied.map(Denied::as_str),
    };
    // Texts alone always become JSON.
    serde_json::to_string(&answer).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|n| format!("agent-session:{n}").into()).collect()
    }

    #[test]
    fn only_channels_of_the_token_and_not_too_many() {
        let mut subscriptions = Subscriptions::default();
        let allowed = channels(MAX_SUBSCRIPTIONS + 1);
        assert_eq!(subscriptions.subscribe(1, &allowed, "agent-session:x"), Err(Denied::NotAllowed));
        for channel in allowed.iter().take(MAX_SUBSCRIPTIONS) {
            assert_eq!(subscriptions.subscribe(1, &allowed, channel), Ok(()));
            assert_eq!(subscriptions.subscribe(1, &allowed, channel), Ok(()), "twice is once");
        }
        assert_eq!(subscriptions.subscribe(1, &allowed, &allowed[64]), Err(Denied::TooMany));
        assert_eq!(subscriptions.listeners("agent-session:0"), [1]);
        subscriptions.unsubscribe(1, "agent-session:0");
        subscriptions.unsubscribe(1, "agent-session:nothing");
        assert_eq!(subscriptions.subscribe(1, &allowed, &allowed[64]), Ok(()));
        assert_eq!(subscriptions.subscribe(2, &allowed, &allowed[64]), Ok(()), "each has its own number");
        assert_eq!(subscriptions.listeners("agent-session:64"), [1, 2]);
    }

    #[test]
    fn who_has_gone_leaves_nothing() {
        let mut subscriptions = Subscriptions::default();
        let allowed = channels(3);
        for socket in [1, 2] {
            for channel in &allowed {
                assert_eq!(subscriptions.subscribe(socket, &allowed, channel), Ok(()));
            }
        }
        subscriptions.gone(1);
        assert!(!subscriptions.any(1) && subscriptions.any(2));
        assert_eq!(subscriptions.listeners("agent-session:1"), [2]);
        for channel in &allowed {
            subscriptions.unsubscribe(2, channel);
        }
        assert!(subscriptions.by_channel.is_empty() && subscriptions.by_socket.is_empty());
    }

    #[test]
    fn answers_use_the_key_of_the_question() {
        for (key, verb, denied, request, text) in [
            (
                NameKey::Type,
                Verb::Subscribe,
                None,
                Some("r\""),
                r#"{"type":"viewport.session_events.subscribed/v1","channel":"c","requestId":"r\""}"#,
            ),
            (
                NameKey::Schema,
                Verb::Unsubscribe,
                None,
                None,
                r#"{"schema":"viewport.session_events.unsubscribed/v1","channel":"c"}"#,
            ),
            (
                NameKey::Schema,
                Verb::Subscribe,
                Some(Denied::NotAllowed),
                None,
                r#"{"schema":"viewport.session_events.subscribe_denied/v1","channel":"c","code":"CHANNEL_NOT_ALLOWED"}"#,
            ),
            (
                NameKey::Type,
                Verb::Subscribe,
                Some(Denied::TooMany),
                None,
                r#"{"type":"viewport.session_events.subscribe_denied/v1","channel":"c","code":"TOO_MANY_SUBSCRIPTIONS"}"#,
            ),
        ] {
            assert_eq!(answer(key, verb, denied, "c", request).as_str(), text);
        }
    }
}
