//! What the relay itself says to a socket: `relay_status` frames.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use url::Url;

use super::Pair;

/// A socket is told the same at most so often (and meanwhile knows).
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// Addresses that a socket was sent to and is not sent to again. More relays than this may tell it twice.
const MAX_REDIRECTS: usize = 16;

/// What a status is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The token and the query name no runtime target, and one is needed. Sent before closing.
    RuntimeTargetRequired,
    /// No relay has the daemon.
    DaemonUnavailable,
    /// It could not be found out which relay has the daemon, or the frame could not be passed on.
    BackplaneUnavailable,
    /// Larger than what passes between relays.
    FrameTooLargeForBus,
    /// More frames than the sender may send.
    RateLimited,
    /// The daemon is at another relay, which can be asked directly.
    RelayRedirect,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RuntimeTargetRequired,
        Self::DaemonUnavailable,
        Self::BackplaneUnavailable,
        Self::FrameTooLargeForBus,
        Self::RateLimited,
        Self::RelayRedirect,
    ];

    /// As the frame says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RuntimeTargetRequired => "RUNTIME_TARGET_REQUIRED",
            Self::DaemonUnavailable => "DAEMON_UNAVAILABLE",
            Self::BackplaneUnavailable => "BACKPLANE_UNAVAILABLE",
            Self::FrameTooLargeForBus => "FRAME_TOO_LARGE_FOR_BUS",
            Self::RateLimited => "RATE_LIMITED",
            Self::RelayRedirect => "RELAY_REDIRECT",
        }
    }

    /// As people read it.
    pub const fn message(self) -> &'static str {
        match self {
            Self::RuntimeTargetRequired => {
                "A runtime target is needed: name it in the query or in the token."
            }
            Self::DaemonUnavailable => "The workspace's daemon is not connected. Try again later.",
            Self::BackplaneUnavailable => {
                "The other relays cannot be reached at the moment. Try again later."
            }
            Self::FrameTooLargeForBus => {
                "The daemon is at another relay, and the frame is too large to pass on."
            }
            Self::RateLimited => "Too many frames. Slow down.",
            Self::RelayRedirect => "The daemon is at another relay. Connect there.",
        }
    }

    /// Whether the same may succeed later; a redirect says nothing of it.
    const fn retryable(self) -> Option<bool> {
        match self {
            Self::RuntimeTargetRequired | Self::FrameTooLargeForBus => Some(false),
            Self::DaemonUnavailable | Self::BackplaneUnavailable | Self::RateLimited => Some(true),
            Self::RelayRedirect => None,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Frame<'a> {
    r#type: &'static str,
    code: &'static str,
    message: &'static str,
    workspace_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_target_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_ws_base_url: Option<&'a str>,
}

/// The frame that says so. `relay` is where a redirect leads.
pub fn frame(code: Code, pair: &Pair, relay: Option<&str>) -> Utf8Bytes {
    let frame = Frame {
        r#type: "relay_status",
        code: code.as_str(),
        message: code.message(),
        workspace_id: &pair.workspace,
        runtime_target_id: pair.target.as_deref(),
        retryable: code.retryable(),
        relay_ws_base_url: relay,
    };
    // Texts and booleans alone always become JSON.
    serde_json::to_string(&frame).unwrap_or_default().into()
}

/// What one socket was told lately.
#[derive(Default)]
pub struct Gate {
    last: [Option<Instant>; Code::ALL.len()],
    redirects: Vec<Url>,
}

impl Gate {
    /// Whether it may be told this now. Asking is telling.
    pub fn open(&mut self, code: Code, now: Instant) -> bool {
        let Some(last) = self.last.get_mut(code as usize) else { return false };
        let open = last.is_none_or(|at| now >= at + AT_MOST_EVERY);
        if open {
            *last = Some(now);
        }
        open
    }

    /// Whether it was sent to this address.
    pub fn was_redirected(&self, address: &Url) -> bool {
        self.redirects.contains(address)
    }

    /// It is sent to this address.
    pub fn redirected(&mut self, address: &Url) {
        if self.redirects.len() >= MAX_REDIRECTS {
            self.redirects.remove(0);
        }
        self.redirects.push(address.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::testing;

    #[test]
    fn frames_are_those_of_the_contract() {
        for (code, retryable) in [
            (Code::RuntimeTargetRequired, Some(false)),
            (Code::DaemonUnavailable, Some(true)),
            (Code::BackplaneUnavailable, Some(true)),
            (Code::FrameTooLargeForBus, Some(false)),
            (Code::RateLimited, Some(true)),
            (Code::RelayRedirect, None),
        ] {
            let text = frame(code, &testing::pair("w\"1", "t"), None);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["type"], "relay_status");
            assert_eq!(json["code"], code.as_str());
            assert_eq!(json["workspaceId"], "w\"1");
            assert_eq!(json["runtimeTargetId"], "t");
            assert!(json["message"].as_str().is_some_and(|text| !text.is_empty()));
            assert_eq!(json.get("retryable").and_then(serde_json::Value::as_bool), retryable);
            assert_eq!(json.get("relayWsBaseUrl"), None);
        }
        let nowhere = Pair { workspace: "w".into(), target: None };
        let text = frame(Code::RelayRedirect, &nowhere, Some("wss://b"));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((json.get("runtimeTargetId"), &json["relayWsBaseUrl"]), (None, &"wss://b".into()));
    }

    #[test]
    fn the_same_is_said_once_a_second_and_other_things_too() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        for (code, ms, open) in [
            (Code::RateLimited, 0, true),
            (Code::RateLimited, 1, false),
            (Code::DaemonUnavailable, 1, true),
            (Code::RateLimited, 999, false),
            (Code::RateLimited, 1000, true),
            (Code::RateLimited, 1500, false),
        ] {
            assert_eq!(gate.open(code, at(ms)), open, "{code:?} {ms}");
        }
    }

    #[test]
    fn redirects_are_remembered_and_bounded() {
        let mut gate = Gate::default();
        let url = |n: usize| Url::parse(&format!("wss://r{n}.example")).unwrap();
        for n in 0..100 {
            assert!(!gate.was_redirected(&url(n)));
            gate.redirected(&url(n));
            assert!(gate.was_redirected(&url(n)));
        }
        assert_eq!(gate.redirects.len(), MAX_REDIRECTS);
    }
}
