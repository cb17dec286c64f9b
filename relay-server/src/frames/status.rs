//! What the relay itself says to a socket: `relay_status` frames.

use serde::Serialize;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::Pair;

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

    const fn message(self) -> &'static str {
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
