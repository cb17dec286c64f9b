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
    /// The relay's name among several.
    #[serde(rename = "relayId", default)]
    pub relay_id: String,
    /// How it finds the others: `single`, `server` or `redis`.
    #[serde(rename = "relayMode", default)]
    pub relay_mode: String,
    /// Whether it ends TLS itself, which is left to what stands in front of it.
    #[serde(rename = "tlsEnabled", default)]
    pub tls_enabled: bool,
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

/// A text that lets somebody in. Prints as stars.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretString(pub String);

impl std::fmt::Debug for SecretString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// STUN or TURN servers, in the shape that `RTCPeerConnection` takes (W3C WebRTC, `RTCIceServer`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:`, `stuns:` (RFC 7064), `turn:` and `turns:` URLs (RFC 7065).
    pub urls: Vec<String>,
    /// Who says so to a TURN server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// And what proves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<SecretString>,
}

/// The answer of `GET /v1/relay/ice-servers` (PROTOCOL.md section 6.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServers {
    /// The servers; none when direct paths have to do without.
    pub ice_servers: Vec<IceServer>,
    /// When to ask again at the latest.
    pub expires_at: i64,
}

/// The body of `POST /v1/auth/login`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The address, in either case.
    pub email: String,
    /// The password.
    pub password: SecretString,
}

/// The body of `POST /v1/auth/link`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginLink {
    /// What stands in the link's fragment.
    pub token: SecretString,
}

/// Who has signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRef {
    /// The user's id.
    pub id: Uuid,
    /// The user's address, in lower case.
    pub email: String,
}

/// The answer of `POST /v1/auth/login` and `/v1/auth/link`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedIn {
    /// Who has signed in.
    pub user: UserRef,
}

/// The answer of `GET /v1/auth/providers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Who else can say who somebody is; nobody as a rule.
    pub providers: Vec<OfferedProvider>,
}

/// A provider of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedProvider {
    /// What people call it.
    pub name: String,
    /// Where a navigation begins to sign in with it.
    pub path: String,
}

/// The user in the answer of `GET /v1/auth/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeUser {
    /// The user's id.
    pub id: Uuid,
    /// The user's address, in lower case.
    pub email: String,
    /// Whether there is a password.
    pub has_password: bool,
}

/// The answer of `GET /v1/auth/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// Who calls.
    pub user: MeUser,
    /// The caller's auth session.
    pub session_id: Uuid,
    /// When the token that was sent ends.
    pub expires_at: i64,
}

/// The body of `POST /v1/auth/password`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPassword {
    /// The present one, needed when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<SecretString>,
    /// The new one, 10 to 200 characters.
    pub new: SecretString,
}

/// How an auth session came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthSessionKind {
    /// Somebody signed in with a browser.
    Browser,
    /// A device was let in.
    Device,
    /// The relay's command line made a token.
    Token,
}

/// One auth session in the answer of `GET /v1/auth/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthSession {
    /// Its id.
    pub id: Uuid,
    /// What it is called.
    pub name: String,
    /// How it came about.
    pub kind: AuthSessionKind,
    /// When it was made.
    pub created_at: i64,
    /// When it was last used, to the minute.
    pub last_used_at: Option<i64>,
    /// Whether it is the caller's.
    pub current: bool,
}

/// The answer of `GET /v1/auth/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthSessions {
    /// The user's live auth sessions, newest first.
    pub sessions: Vec<AuthSession>,
}

/// The answer of `POST /v1/auth/device/code` (RFC 8628 section 3.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCode {
    /// What the device asks with.
    pub device_code: SecretString,
    /// What the person types, as `XXXX-XXXX`.
    pub user_code: String,
    /// Where the person types it.
    pub verification_uri: String,
    /// The same with the code filled in.
    pub verification_uri_complete: String,
    /// Seconds until the codes end.
    pub expires_in: u64,
    /// Seconds between two questions at the least.
    pub interval: u64,
}

/// The answer of `POST /v1/auth/token` (RFC 6749 section 5.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenGrant {
    /// The token for `Authorization`.
    pub access_token: SecretString,
    /// Always `Bearer`.
    pub token_type: String,
    /// Seconds until it ends.
    pub expires_in: u64,
    /// What another one is asked for with.
    pub refresh_token: SecretString,
}

/// Why there is no token (RFC 6749 section 5.2, RFC 8628 section 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenErrorCode {
    /// The form is not as it should be.
    InvalidRequest,
    /// The client's id is none.
    InvalidClient,
    /// The code or the token is unknown, used, another client's, or its session has ended.
    InvalidGrant,
    /// The grant type is not one of the two.
    UnsupportedGrantType,
    /// Nobody has decided yet.
    AuthorizationPending,
    /// Nobody has decided yet, and the device asks too often.
    SlowDown,
    /// A person said no.
    AccessDenied,
    /// Nobody decided in time.
    ExpiredToken,
}

/// The body that tells it, with status 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenError {
    /// Why.
    pub error: TokenErrorCode,
}

/// The answer of `GET /v1/auth/device/{user_code}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// The code, as `XXXX-XXXX`.
    pub user_code: String,
    /// What the device calls itself.
    pub name: String,
    /// From where it asked.
    pub address: String,
    /// When it asked.
    pub created_at: i64,
    /// Until when it waits.
    pub expires_at: i64,
}

/// The body of `POST /v1/auth/device/{user_code}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDecision {
    /// Whether the device is let in.
    pub approve: bool,
}
