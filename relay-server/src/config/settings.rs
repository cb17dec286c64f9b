//! The one table of settings. Flags, environment names, keys of the file, defaults, `--help` and
//! the table in the README are all made from it, so that none of them can tell another story.

use super::parse::Kind;

/// One setting: how it is called everywhere, what it may be, what it is without being told.
#[derive(Debug)]
pub struct Setting {
    /// The key in the file; the flag is the same with hyphens.
    pub name: &'static str,
    /// Environment names, the first one preferred.
    pub env: &'static [&'static str],
    /// What values are, with their bounds.
    pub kind: Kind,
    /// The value when nobody says anything; empty where the help text tells what happens then.
    pub default: &'static str,
    /// A secret: never printed, and also taken from a file that `<NAME>_FILE` names.
    pub secret: bool,
    /// What it does, for people.
    pub help: &'static str,
}

impl Setting {
    /// The flag's name without its hyphens in front. A secret itself is never a flag, because every
    /// user of a machine can read the command lines: only the file that holds it is.
    pub fn flag(&self) -> String {
        let name = self.name.replace('_', "-");
        if self.secret { format!("{name}-file") } else { name }
    }
}

macro_rules! settings {
    ($($key:ident: $name:literal, [$($env:literal),*], $kind:expr, $default:literal, $secret:literal, $help:literal;)+) => {
        /// Names a row of the table below.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each is described by its row's help text")]
        pub enum Key { $($key,)+ }

        impl Key {
            /// Every key, in the table's order.
            pub const ALL: &'static [Key] = &[$(Key::$key,)+];

            /// The key's row.
            pub const fn setting(self) -> &'static Setting {
                match self {
                    $(Key::$key => &Setting {
                        name: $name, env: &[$($env),*], kind: $kind, default: $default, secret: $secret, help: $help,
                    },)+
                }
            }
        }
    };
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;

// Bounds keep out what cannot work (a window below the 256 KiB that yamux starts with, a header
// limit that no browser fits into) and what would make a limit no limit.
settings! {
    Config: "config", ["RELAY_CONFIG"], Kind::Path, "", false,
        "TOML file with these settings";
    ListenAddr: "listen_addr", ["RELAY_LISTEN_ADDR"], Kind::Listen, "0.0.0.0:8082", false,
        "Where to listen; port 0 lets the system choose";
    ListenPort: "listen_port", ["RELAY_LISTEN_PORT", "PORT"], Kind::Count { min: 0, max: 65535 }, "", false,
        "Port alone, when the address is not given";
    ListenHost: "listen_host", ["HOST"], Kind::Text, "", false,
        "Address that goes with the port alone; 0.0.0.0 unless given";
    DatabaseUrl: "database_url", ["SERVER_DATABASE_URL", "DATABASE_URL"], Kind::Database, "", true,
        "`postgres://…`, `postgresql://…` or `sqlite:…`; unset: SQLite `relay.db` in the data folder";
    DatabaseConnections: "database_connections", ["RELAY_DATABASE_CONNECTIONS"], Kind::Count { min: 1, max: 500 }, "10", false,
        "Connections to the database at most";
    DatabaseTimeout: "database_timeout", ["RELAY_DATABASE_TIMEOUT"], Kind::Duration { min: 100, max: 60 * SECOND }, "5s", false,
        "How long a request waits for a database connection";
    DataDir: "data_dir", ["RELAY_DATA_DIR"], Kind::Path, "./data", false,
        "Folder of the SQLite database and of what the relay makes for itself";
    JwtSecret: "jwt_secret", ["VIBEKANBAN_REMOTE_JWT_SECRET", "RELAY_JWT_SECRET"], Kind::JwtSecret, "", true,
        "Key of the bearer tokens; unset with SQLite: made on first start in the data folder";
    RelayId: "relay_id", ["RELAY_ID"], Kind::RelayId, "", false,
        "Name of this relay among several on one database; unset: kept in the data folder, or the host's name and a random part";
    PublicUrl: "public_url", ["RELAY_PUBLIC_URL"], Kind::Url, "", false,
        "Base under which browsers reach the relay; unset: what each request says";
    Portal: "portal", ["RELAY_PORTAL"], Kind::Flag, "true", false,
        "Whether the portal's pages are served, where the relay keeps its own users";
    PortalOrigin: "portal_origin", ["RELAY_PORTAL_ORIGIN"], Kind::Origin, "", false,
        "An origin of the relay that the portal has for itself: its pages and its cookie are good there alone, and no app's pages open there";
    AllowedOrigins: "allowed_origins", ["RELAY_ALLOWED_ORIGINS"], Kind::Origins, "", false,
        "Origins, comma-separated, whose pages may call the relay with credentials";
    TrustedProxies: "trusted_proxies", ["RELAY_TRUSTED_PROXIES"], Kind::Networks, "", false,
        "Networks, comma-separated, of the proxies whose X-Forwarded-* headers are believed";
    PrivateCookies: "private_cookies", ["RELAY_PRIVATE_COOKIES"], Kind::Cookies, "", false,
        "Cookies, comma-separated, that never reach a local server; a trailing `*` stands for any ending";
    SharedHostPages: "shared_host_pages", ["RELAY_SHARED_HOST_PAGES"], Kind::Flag, "false", false,
        "Whether another person's host may open pages on the relay's own origin";
    SessionLifetime: "session_lifetime", ["RELAY_SESSION_LIFETIME"], Kind::Duration { min: 60 * SECOND, max: 365 * DAY }, "24h", false,
        "How long a browser session lives";
    WebRtc: "webrtc", ["RELAY_WEBRTC"], Kind::Flag, "true", false,
        "Whether browsers are told of servers for direct paths (`/v1/relay/ice-servers`); without, they stay with the relay";
    IceServers: "ice_servers", ["RELAY_ICE_SERVERS"], Kind::IceServers, "", true,
        "STUN and TURN servers for direct paths";
    TurnSecret: "turn_secret", ["RELAY_TURN_SECRET"], Kind::TurnSecret, "", true,
        "Secret shared with the TURN servers (coturn's `static-auth-secret`), from which each caller gets credentials that expire";
    TurnLifetime: "turn_lifetime", ["RELAY_TURN_LIFETIME"], Kind::Duration { min: 300 * SECOND, max: 7 * DAY }, "12h", false,
        "How long those credentials are good";
    LogFormat: "log_format", ["RELAY_LOG_FORMAT"], Kind::Choice(&["text", "json"]), "text", false,
        "How log lines look";
    Log: "log", ["RUST_LOG"], Kind::LogFilter, "info", false,
        "What is logged, as a filter of the `tracing` crate";
    MaxHeaderBytes: "max_header_bytes", ["RELAY_MAX_HEADER_BYTES"], Kind::Size { min: 4 * KIB, max: MIB }, "64KiB", false,
        "Header of a request at most (`header_too_large`)";
    MaxUriBytes: "max_uri_bytes", ["RELAY_MAX_URI_BYTES"], Kind::Size { min: KIB, max: 64 * KIB - 1 }, "16KiB", false,
        "Target of a request at most (`uri_too_long`)";
    HeaderTimeout: "header_timeout", ["RELAY_HEADER_TIMEOUT"], Kind::Duration { min: 100, max: 300 * SECOND }, "10s", false,
        "How long the head of a request may take (`request_timeout`)";
    KeepAliveTimeout: "keep_alive_timeout", ["RELAY_KEEP_ALIVE_TIMEOUT"], Kind::Duration { min: SECOND, max: HOUR }, "120s", false,
        "How long a connection may wait for its next request; longer than the proxy in front keeps its own";
    UpgradeRate: "upgrade_rate_per_minute", ["RELAY_UPGRADE_RATE_PER_MINUTE"], Kind::Count { min: 1, max: 1_000_000 }, "120", false,
        "New tunnels and WebSockets per client address and minute (`rate_limited`)";
    ApiRate: "api_rate_per_minute", ["RELAY_API_RATE_PER_MINUTE"], Kind::Count { min: 1, max: 1_000_000 }, "600", false,
        "Calls of the relay's own API per client address and minute (`rate_limited`)";
    MaxApiBodyBytes: "max_api_body_bytes", ["RELAY_MAX_API_BODY_BYTES"], Kind::Size { min: KIB, max: 16 * MIB }, "64KiB", false,
        "Body of a call of the relay's own API at most (`body_too_large`)";
    MaxConnectionsPerIp: "max_connections_per_ip", ["RELAY_MAX_CONNECTIONS_PER_IP"], Kind::Count { min: 1, max: 1_000_000 }, "50", false,
        "Open tunnels and WebSockets per client address (`too_many_connections`)";
    MaxTcpConnectionsPerIp: "max_tcp_connections_per_ip", ["RELAY_MAX_TCP_CONNECTIONS_PER_IP"], Kind::Count { min: 1, max: 1_000_000 }, "1024", false,
        "Accepted connections per address that is not a trusted proxy (`too_many_connections`); those by which another relay passes requests on do not count";
    MaxTcpConnections: "max_tcp_connections", ["RELAY_MAX_TCP_CONNECTIONS"], Kind::Count { min: 1, max: 10_000_000 }, "16384", false,
        "Accepted connections in all (`too_many_connections`)";
    MaxTunnelsPerHost: "max_tunnels_per_host", ["RELAY_MAX_TUNNELS_PER_HOST"], Kind::Count { min: 1, max: 1024 }, "8", false,
        "Tunnels per host (`too_many_tunnels`)";
    MaxStreamsPerTunnel: "max_streams_per_tunnel", ["RELAY_MAX_STREAMS_PER_TUNNEL"], Kind::Count { min: 1, max: 65536 }, "256", false,
        "Streams per tunnel (`too_many_streams`)";
    StreamWindow: "stream_window", ["RELAY_STREAM_WINDOW"], Kind::Size { min: 256 * KIB, max: 16 * MIB }, "1MiB", false,
        "What one stream may have under way; bounds its memory";
    StreamOpenTimeout: "stream_open_timeout", ["RELAY_STREAM_OPEN_TIMEOUT"], Kind::Duration { min: 100, max: 300 * SECOND }, "10s", false,
        "How long opening a stream may take (`agent_unresponsive`)";
    ResponseHeadTimeout: "response_head_timeout", ["RELAY_RESPONSE_HEAD_TIMEOUT"], Kind::Duration { min: 100, max: DAY }, "300s", false,
        "How long the head of a response may take (`response_timeout`)";
    StreamIdleTimeout: "stream_idle_timeout", ["RELAY_STREAM_IDLE_TIMEOUT"], Kind::Duration { min: SECOND, max: 30 * DAY }, "1h", false,
        "How long a body or an upgraded connection may be silent";
    PoolIdleTimeout: "pool_idle_timeout", ["RELAY_POOL_IDLE_TIMEOUT"], Kind::Duration { min: 100, max: HOUR }, "30s", false,
        "How long an idle HTTP connection inside a tunnel is kept";
    TunnelPingInterval: "tunnel_ping_interval", ["RELAY_TUNNEL_PING_INTERVAL"], Kind::Duration { min: SECOND, max: 300 * SECOND }, "15s", false,
        "How often a quiet tunnel is asked for a sign of life";
    TunnelPingTimeout: "tunnel_ping_timeout", ["RELAY_TUNNEL_PING_TIMEOUT"], Kind::Duration { min: SECOND, max: 300 * SECOND }, "10s", false,
        "How long that sign may take before the tunnel counts as dead";
    Mode: "mode", ["RELAY_MODE"], Kind::Choice(&["prod", "dev"]), "prod", false,
        "`dev` also takes a token from the query of `/ws`, and redirects to addresses without TLS";
    JwksUrl: "jwks_url", ["RELAY_JWKS_URL"], Kind::Url, "", false,
        "Key set (RFC 7517) that the tokens of `/ws` are checked with before anybody else is asked";
    JwksIssuer: "jwks_issuer", ["RELAY_JWKS_ISSUER"], Kind::Text, "", false,
        "What those tokens have as `iss`; unset: anything";
    JwksAudience: "jwks_audience", ["RELAY_JWKS_AUDIENCE"], Kind::Text, "", false,
        "What those tokens have as `aud`; unset: anything";
    ValidateUrl: "validate_url", ["RELAY_VALIDATE_URL"], Kind::Url, "", false,
        "Where the platform is asked whether a token opens `/ws`";
    ServerUrl: "server_url", ["SERVER_URL"], Kind::Url, "", false,
        "The platform's base, to which `/api/runtime/internal/relay/…` is added where no other URL is given";
    InternalKey: "internal_key", ["RELAY_INTERNAL_KEY"], Kind::Secret, "", true,
        "Secret shared with the platform, sent as `x-relay-internal-key`";
    PlatformCa: "platform_ca", ["RELAY_PLATFORM_CA"], Kind::Path, "", false,
        "PEM file with roots to trust for what the relay calls, besides the system's";
    PlatformClientCert: "platform_client_cert", ["RELAY_PLATFORM_CLIENT_CERT"], Kind::Path, "", false,
        "PEM file with the certificate (and its chain) that the relay shows to the platform";
    PlatformClientKey: "platform_client_key", ["RELAY_PLATFORM_CLIENT_KEY"], Kind::Path, "", false,
        "PEM file with that certificate's key";
    MaxFrameBytes: "max_frame_bytes", ["RELAY_MAX_FRAME_BYTES"], Kind::Size { min: KIB, max: 16 * MIB }, "1MiB", false,
        "Frame on `/ws` at most (close code 1009)";
    MaxPendingBytes: "max_pending_bytes", ["RELAY_MAX_PENDING_BYTES"], Kind::Size { min: 64 * KIB, max: 256 * MIB }, "4MiB", false,
        "What may wait for one slow reader of `/ws` (close code 4008)";
    MaxClientsPerWorkspace: "max_clients_per_workspace", ["RELAY_MAX_CLIENTS_PER_WORKSPACE"], Kind::Count { min: 1, max: 100_000 }, "100", false,
        "Clients of one workspace and runtime target on this relay (close code 4008)";
    MaxTotalConnections: "max_total_connections", ["RELAY_MAX_TOTAL_CONNECTIONS"], Kind::Count { min: 1, max: 1_000_000 }, "2000", false,
        "Open sockets of `/ws` in all (`too_many_connections`)";
    KexInitRate: "kex_init_rate_per_minute", ["RELAY_KEX_INIT_RATE_PER_MINUTE"], Kind::Count { min: 1, max: 1_000_000 }, "60", false,
        "Key exchanges that one client begins per minute";
    PairingRate: "pairing_rate_per_minute", ["RELAY_PAIRING_RATE_PER_MINUTE"], Kind::Count { min: 1, max: 1_000_000 }, "30", false,
        "Pairing frames of one client per minute";
    RuntimeRate: "runtime_rate_per_minute", ["RELAY_RUNTIME_RATE_PER_MINUTE"], Kind::Count { min: 1, max: 100_000_000 }, "240", false,
        "Other frames of one client per minute";
    RuntimeRateWorkspace: "runtime_rate_per_minute_workspace", ["RELAY_RUNTIME_RATE_PER_MINUTE_WORKSPACE"], Kind::Count { min: 1, max: 100_000_000 }, "1200", false,
        "The same of all clients of one workspace together";
    DaemonRuntimeRate: "daemon_runtime_rate_per_minute", ["RELAY_DAEMON_RUNTIME_RATE_PER_MINUTE"], Kind::Count { min: 1, max: 100_000_000 }, "2400", false,
        "Frames of one daemon per minute";
    FramePingInterval: "frame_ping_interval", ["RELAY_FRAME_PING_INTERVAL"], Kind::Duration { min: 100, max: 300 * SECOND }, "30s", false,
        "How often a socket of `/ws` is asked for a sign of life";
    FramePongTimeout: "frame_pong_timeout", ["RELAY_FRAME_PONG_TIMEOUT"], Kind::Duration { min: 100, max: 300 * SECOND }, "10s", false,
        "How long that sign may take";
    FrameIdleTimeout: "frame_idle_timeout", ["RELAY_FRAME_IDLE_TIMEOUT"], Kind::Duration { min: SECOND, max: DAY }, "5m", false,
        "How long a client that subscribes to nothing may stay without a frame in either direction";
    WorkerPathPrefix: "worker_path_prefix", ["RELAY_WORKER_PATH_PREFIX"], Kind::PathPrefix, "", false,
        "Path below which workers' transport requests are passed on; unset: none is (`WORKER_TRANSPORT_DISABLED`)";
    BackplaneMode: "backplane_mode", ["RELAY_BACKPLANE_MODE"], Kind::Choice(&["single", "server", "redis"]), "single", false,
        "How several relays find each other: not at all, by the platform or PostgreSQL, by Redis";
    BackplaneUrl: "backplane_url", ["RELAY_BACKPLANE_URL"], Kind::BackplaneUrl, "", true,
        "Where; unset with `server`: the platform of `SERVER_URL`, else the relay's own PostgreSQL";
    BusHmacKey: "bus_hmac_key", ["RELAY_BUS_HMAC_KEY"], Kind::Secret, "", true,
        "Secret with which relays sign what they send each other; the same on all of them";
    RedisKeyPrefix: "redis_key_prefix", ["RELAY_REDIS_KEY_PREFIX"], Kind::KeyPrefix, "relay:", false,
        "What every key and channel in Redis begins with";
    RedisCa: "redis_ca", ["RELAY_REDIS_CA"], Kind::Path, "", false,
        "PEM file with the roots to which the certificate of a `rediss` server leads; unset: the system's";
    PublicWsBaseUrl: "public_ws_base_url", ["RELAY_PUBLIC_WS_BASE_URL"], Kind::WsUrl, "", false,
        "This relay's own public address, where clients are redirected to and agents are offered a further tunnel";
    InternalUrl: "internal_url", ["RELAY_INTERNAL_URL"], Kind::Url, "", false,
        "This relay's address for other relays; unset: they cannot pass requests on to its tunnels";
    ClientRedirect: "client_redirect_enabled", ["RELAY_CLIENT_REDIRECT_ENABLED"], Kind::Flag, "false", false,
        "Whether clients and browsers are sent to the relay that holds what they look for";
    RedirectAllowedHosts: "redirect_allowed_hosts", ["RELAY_REDIRECT_ALLOWED_HOSTS"], Kind::HostNames, "", false,
        "Hosts that they may be sent to, besides this relay's own name";
    EnableAdmin: "enable_admin_http", ["RELAY_ENABLE_ADMIN_HTTP"], Kind::Flag, "false", false,
        "Whether `/state`, `/logs` and `/metrics` are served, to whoever shows the token";
    AdminToken: "admin_token", ["RELAY_ADMIN_TOKEN"], Kind::Secret, "", true,
        "That token, as Bearer or as `x-relay-admin-token`";
    LogLines: "admin_log_lines", ["RELAY_ADMIN_LOG_LINES"], Kind::Count { min: 16, max: 100_000 }, "1000", false,
        "Log lines that are kept for `/logs`";
    OidcIssuer: "oidc_issuer", ["RELAY_OIDC_ISSUER"], Kind::Url, "", false,
        "OpenID Connect provider whose tokens and sign-ins count";
    OidcAudience: "oidc_audience", ["RELAY_OIDC_AUDIENCE"], Kind::Text, "", false,
        "What its access tokens for the relay have as `aud`; unset: none is taken";
    OidcJwksUrl: "oidc_jwks_url", ["RELAY_OIDC_JWKS_URL"], Kind::Url, "", false,
        "Its key set; unset: as its discovery document says";
    OidcClientId: "oidc_client_id", ["RELAY_OIDC_CLIENT_ID"], Kind::Text, "", false,
        "The relay's client id there; unset: nobody signs in with it";
    OidcClientSecret: "oidc_client_secret", ["RELAY_OIDC_CLIENT_SECRET"], Kind::Secret, "", true,
        "The client's secret, unless it is a public client";
    OidcScopes: "oidc_scopes", ["RELAY_OIDC_SCOPES"], Kind::Text, "openid email profile", false,
        "Scopes to ask for";
    OidcAutoCreate: "oidc_auto_create", ["RELAY_OIDC_AUTO_CREATE"], Kind::Flag, "false", false,
        "Whether somebody who comes for the first time becomes a user";
    OidcName: "oidc_name", ["RELAY_OIDC_NAME"], Kind::Text, "single sign-on", false,
        "How the portal calls the provider";
    DrainTimeout: "drain_timeout", ["RELAY_DRAIN_TIMEOUT"], Kind::Duration { min: 0, max: HOUR }, "30s", false,
        "How long requests in flight may take after SIGTERM";
}

/// The table as it stands in the README.
pub fn markdown() -> String {
    let mut out = String::from(
        "| environment | flag and file key | default | what it does |\n| --- | --- | --- | --- |\n",
    );
    for key in Key::ALL {
        let setting = key.setting();
        let mut names: Vec<String> = setting.env.iter().map(|name| format!("`{name}`")).collect();
        if setting.secret {
            names.push("each also with `_FILE`".to_owned());
        }
        let key_text = if *key == Key::Config { String::new() } else { format!(", `{}`", setting.name) };
        let default =
            if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
        out.push_str(&format!(
            "| {} | `--{}`{key_text} | {default} | {}: {} |\n",
            names.join(", "),
            setting.flag(),
            setting.help,
            setting.kind.expects(),
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_name_is_given_twice_and_every_default_is_a_good_value() {
        let mut names = HashSet::new();
        let mut env = HashSet::new();
        for key in Key::ALL {
            let setting = key.setting();
            assert!(names.insert(setting.name), "{} twice", setting.name);
            assert!(!setting.env.is_empty() && !setting.help.is_empty(), "{}", setting.name);
            for name in setting.env {
                assert!(env.insert(name), "{name} twice");
            }
            if !setting.default.is_empty() {
                assert!(setting.kind.check(setting.default), "default of {}", setting.name);
            }
        }
    }

    #[test]
    fn the_table_has_a_row_for_every_setting() {
        let table = markdown();
        assert_eq!(table.lines().count(), Key::ALL.len() + 2);
        assert!(table.contains("| `VIBEKANBAN_REMOTE_JWT_SECRET`, `RELAY_JWT_SECRET`, each also with `_FILE` | `--jwt-secret-file`, `jwt_secret` |"));
        assert!(
            table.contains(
                "| `RELAY_MAX_HEADER_BYTES` | `--max-header-bytes`, `max_header_bytes` | `64KiB` |"
            )
        );
    }
}
