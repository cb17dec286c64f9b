//! The JSON bodies of the relay's HTTP interface (PROTOCOL.md section 1). Times are Unix seconds.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The answer of `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, or `draining` with status 503.
    pub status: String,
    /// The same as a boolean, for callers of older relays.
    pub ok: bool,
    /// Always `relay`.
    pub service: String,
    /// Milliseconds since the relay started.
    #[serde(rename = "uptimeMs")]
    pub uptime_ms: u64,
    /// The relay's version.
    pub version: String,
}

/// The answer of `POST /v1/relay/create/{host_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedSession {
    /// The id that goes into the path of every request of the session.
    pub session_id: Uuid,
    /// When the session ends at the latest.
    pub expires_at: i64,
}

/// How the caller comes to use a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessRole {
    /// The host is the caller's.
    Owner,
    /// The host is shared with an organization of the caller.
    Member,
}

/// Whether a host can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    /// At least one tunnel is open.
    Online,
    /// No tunnel is open.
    Offline,
}

/// One host in the answer of `GET /v1/relay/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The host's id.
    pub id: Uuid,
    /// The name that the agent gave or a person chose, 1 to 200 characters.
    pub name: String,
    /// The id that the agent's machine gave itself.
    pub machine_id: String,
    /// Online or offline.
    pub status: HostStatus,
    /// When a tunnel of the host was last known to be open.
    pub last_seen_at: Option<i64>,
    /// The agent's version, when it told.
    pub agent_version: Option<String>,
    /// How the caller comes to use it.
    pub role: AccessRole,
    /// When the host first connected.
    pub created_at: i64,
}

/// The answer of `GET /v1/relay/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// The caller's hosts, by name.
    pub hosts: Vec<Host>,
}

/// The body of `PATCH /v1/relay/hosts/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchHost {
    /// The new name, 1 to 200 characters.
    pub name: String,
}

/// One browser session in the answer of `GET /v1/relay/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The session's id.
    pub id: Uuid,
    /// The host that it reaches.
    pub host_id: Uuid,
    /// When it was made.
    pub created_at: i64,
    /// When it was last used, to the minute.
    pub last_used_at: Option<i64>,
    /// When it ends at the latest.
    pub expires_at: i64,
}

/// The answer of `GET /v1/relay/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// The caller's live sessions, newest first.
    pub sessions: Vec<Session>,
}
