//! The relay's configuration: read, checked and typed once, before anything else happens.
//!
//! What flows in here comes from whoever runs the relay, who may be mistaken but does not lie. So
//! the point is to stop early and to say exactly what is wrong: which setting, where it was set,
//! what was expected. A secret's value is never part of a message.
//!
//! [`settings`] is the one table of what there is; [`parse`] turns texts into values; [`sources`]
//! finds the texts.

pub mod admin;
pub mod frames;
pub mod ice;
pub mod oidc;
mod own;
pub mod parse;
pub mod relays;
pub mod settings;
pub mod sources;

use std::path::PathBuf;
use std::time::Duration;

use hkdf::Hkdf;
use ipnet::IpNet;
use sha2::Sha256;
use thiserror::Error;
use url::Url;
use zeroize::Zeroizing;

use crate::auth::token::Secret;
use crate::auth::turn::TurnSecret;
use ice::{IceServer, TurnError};
use parse::{CookieName, Listen, PortalOrigin};
use settings::{Key, Setting};
use sources::{Source, Sources, Value, Values};

pub use own::OwnError;

/// Why the relay does not start.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum ConfigError {
    #[error("{source_name}: expected {expected}, got {got}")]
    BadValue { source_name: Source, expected: String, got: String },
    #[error("{source_name} is not valid UTF-8")]
    NotUnicode { source_name: Source },
    #[error("{first} and {second} are both set; keep one of them")]
    Both { first: String, second: String },
    #[error("{source_name} names the file {path}, which cannot be read: {error}", path = .path.display())]
    SecretFile { source_name: Source, path: PathBuf, error: std::io::Error },
    #[error("the configuration file {path} cannot be read: {error}", path = .path.display())]
    FileUnreadable { path: PathBuf, error: std::io::Error },
    #[error("the configuration file {path} is not valid TOML at line {line}", path = .path.display())]
    FileSyntax { path: PathBuf, line: usize },
    #[error("unknown setting `{name}` in {path}; `relay-server settings` lists those that exist", path = .path.display())]
    UnknownKey { path: PathBuf, name: String },
    #[error(
        "VIBEKANBAN_REMOTE_JWT_SECRET (or RELAY_JWT_SECRET, or either with _FILE) is not set: with PostgreSQL the relay \
         verifies tokens that others make, expected {expected}"
    )]
    NoJwtSecret { expected: String },
    #[error(transparent)]
    Turn(#[from] TurnError),
    #[error("{0}")]
    Together(String),
}

impl ConfigError {
    fn bad_value(setting: &Setting, value: &Value) -> Self {
        let mut got = if setting.secret {
            "something else (not shown)".to_owned()
        } else {
            format!("`{}`", *value.text)
        };
        if let Some(fault) = setting.kind.fault(&value.text) {
            got.push_str(": ");
            got.push_str(&fault);
        }
        Self::BadValue { source_name: value.source.clone(), expected: setting.kind.expects(), got }
    }
}

/// A text that prints as stars.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// One for tests.
    #[cfg(test)]
    pub fn of(text: &str) -> Self {
        Self(text.to_owned().into())
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// A key for one use of it, by HKDF-SHA256 without a salt: what is signed for one use is nothing in another.
    /// `info` names the use. `None` never occurs with the length that stands here.
    pub fn derive(&self, info: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, self.0.as_bytes()).expand(info, key.as_mut_slice()).ok()?;
        Some(key)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Which database.
#[derive(Debug, Clone)]
pub enum Database {
    /// A file of our own.
    Sqlite(PathBuf),
    /// A server, by URL, which holds a password as a rule.
    Postgres(SecretText),
}

/// Where the key of the bearer tokens is.
#[derive(Debug, Clone)]
pub enum JwtSecret {
    /// It was given.
    Given(Secret),
    /// In this file, made on first start.
    File(PathBuf),
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Limits and deadlines. What each does stands in [`settings`].
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each is described by its row of the table of settings")]
pub struct Limits {
    pub max_header_bytes: usize,
    pub max_uri_bytes: usize,
    pub header_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub upgrade_rate_per_minute: u32,
    pub api_rate_per_minute: u32,
    pub max_api_body_bytes: usize,
    pub max_connections_per_ip: usize,
    pub max_tcp_connections_per_ip: usize,
    pub max_tcp_connections: usize,
    pub max_tunnels_per_host: usize,
    pub max_streams_per_tunnel: usize,
    pub stream_window: u32,
    pub stream_open_timeout: Duration,
    pub response_head_timeout: Duration,
    pub stream_idle_timeout: Duration,
    pub pool_idle_timeout: Duration,
    pub tunnel_ping_interval: Duration,
    pub tunnel_ping_timeout: Duration,
    pub drain_timeout: Duration,
}

/// Everything that the relay was told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// The folder of what the relay makes for itself.
    pub data_dir: PathBuf,
    /// Which database.
    pub database: Database,
    /// Connections to it at most.
    pub database_connections: u32,
    /// How long a request waits for one of them.
    pub database_timeout: Duration,
    /// The key of the bearer tokens.
    pub jwt_secret: JwtSecret,
    /// The relay's name, when it was given.
    pub given_relay_id: Option<String>,
    /// The base under which browsers reach the relay, when it was given.
    pub public_url: Option<Url>,
    /// Whether the portal is served.
    pub portal: bool,
    /// The origin that the portal has for itself, when it was given.
    pub portal_origin: Option<PortalOrigin>,
    /// Origins, besides the relay's own, whose pages may call with credentials.
    pub allowed_origins: Vec<String>,
    /// Networks of the proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Cookies that never reach a local server.
    pub private_cookies: Vec<CookieName>,
    /// Whether another person's host may open pages on the relay's origin.
    pub shared_host_pages: bool,
    /// How long a browser session lives.
    pub session_lifetime: Duration,
    /// Whether browsers are told of servers for direct paths.
    pub webrtc: bool,
    /// Those servers.
    pub ice_servers: Vec<IceServer>,
    /// What the TURN servers among them share with the relay.
    pub turn_secret: Option<TurnSecret>,
    /// How long credentials for them are good.
    pub turn_lifetime: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: String,
    /// Limits and deadlines.
    pub limits: Limits,
    /// The frame broker.
    pub frames: frames::Frames,
    /// What the relay calls.
    pub platform: frames::Platform,
    /// Other relays.
    pub relays: relays::Relays,
    /// For the operator.
    pub admin: admin::Admin,
    /// The OpenID Connect provider, when there is one.
    pub oidc: Option<oidc::Oidc>,
}

/// Reads one of the setting's values. [`Values::gather`] has checked every text with the same
/// function, so that the error is only made for the compiler, and still names what it is about.
struct Reader(Values);

impl Reader {
    fn optional<T>(&self, key: Key, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        read(&value.text).map(Some).ok_or_else(|| ConfigError::bad_value(key.setting(), value))
    }

    fn required<T>(&self, key: Key, read: impl Fn(&str) -> Option<T>) -> Result<T, ConfigError> {
        self.optional(key, read)?.ok_or_else(|| ConfigError::BadValue {
            source_name: Source::Default,
            expected: key.setting().kind.expects(),
            got: format!("nothing for {}", key.setting().name),
        })
    }

    fn number<T: TryFrom<u64>>(&self, key: Key) -> Result<T, ConfigError> {
        self.required(key, |text| T::try_from(key.setting().kind.number(text)?).ok())
    }

    fn duration(&self, key: Key) -> Result<Duration, ConfigError> {
        self.number(key).map(Duration::from_millis)
    }

    fn text(&self, key: Key) -> Option<String> {
        self.0.get(key).map(|value| value.text.to_string())
    }

    fn secret(&self, key: Key) -> Option<SecretText> {
        self.0.get(key).map(|value| SecretText(value.text.to_string().into()))
    }

    fn path(&self, key: Key) -> Option<PathBuf> {
        self.0.get(key).map(|value| PathBuf::from(value.text.as_str()))
    }

    fn list<T>(&self, key: Key, item: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, ConfigError> {
        Ok(self.optional(key, |text| parse::list(text, &item))?.unwrap_or_default())
    }

    /// A whole address, unless the port alone was said by somebody who ranks higher.
    fn listen(&self) -> Result<Listen, ConfigError> {
        let rank = |key| self.0.get(key).map_or(0, |value| value.source.rank());
        if rank(Key::ListenPort) <= rank(Key::ListenAddr) {
            return self.required(Key::ListenAddr, parse::listen);
        }
        let host = self.optional(Key::ListenHost, parse::listen_host)?;
        Ok(Listen { host: host.unwrap_or_else(|| "0.0.0.0".to_owned()), port: self.number(Key::ListenPort)? })
    }
}

impl Config {
    /// Reads and checks everything. Touches no file besides those that the settings name.
    pub fn load(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let values = Reader(Values::gather(sources)?);
        let path = |text: &str| Some(PathBuf::from(text));
        let data_dir = values.required(Key::DataDir, path)?;
        let database = values.optional(Key::DatabaseUrl, |text| {
            Some(match parse::database(text)? {
                parse::Database::Sqlite(path) => Database::Sqlite(path),
                parse::Database::Postgres => Database::Postgres(SecretText(text.to_owned().into())),
            })
        })?;
        let database = database.unwrap_or_else(|| Database::Sqlite(data_dir.join("relay.db")));
        let jwt_secret = values.optional(Key::JwtSecret, |text| Secret::from_base64(text).ok())?;
        let jwt_secret = match (jwt_secret, &database) {
            (Some(secret), _) => JwtSecret::Given(secret),
            (None, Database::Sqlite(_)) => JwtSecret::File(data_dir.join("jwt_secret")),
            (None, Database::Postgres(_)) => {
                return Err(ConfigError::NoJwtSecret { expected: Key::JwtSecret.setting().kind.expects() });
            }
        };
        let ice_servers =
            values.optional(Key::IceServers, |text| ice::servers(text).ok())?.unwrap_or_default();
        let turn_secret = values.optional(Key::TurnSecret, TurnSecret::new)?;
        ice::check_logins(&ice_servers, turn_secret.is_some())?;
        let relays = relays::read(&values, matches!(database, Database::Postgres(_)))?;
        Ok(Self {
            listen: values.listen()?,
            data_dir,
            database,
            database_connections: values.number(Key::DatabaseConnections)?,
            database_timeout: values.duration(Key::DatabaseTimeout)?,
            jwt_secret,
            given_relay_id: values.text(Key::RelayId),
            public_url: values.optional(Key::PublicUrl, parse::public_url)?,
            portal: values.required(Key::Portal, parse::flag)?,
            portal_origin: values.optional(Key::PortalOrigin, parse::portal_origin)?,
            allowed_origins: values.list(Key::AllowedOrigins, parse::origin)?,
            trusted_proxies: values.list(Key::TrustedProxies, parse::network)?,
            private_cookies: values.list(Key::PrivateCookies, parse::cookie_name)?,
            shared_host_pages: values.required(Key::SharedHostPages, parse::flag)?,
            session_lifetime: values.duration(Key::SessionLifetime)?,
            webrtc: values.required(Key::WebRtc, parse::flag)?,
            ice_servers,
            turn_secret,
            turn_lifetime: values.duration(Key::TurnLifetime)?,
            log_format: values.required(Key::LogFormat, |text| {
                Some(if text == "json" { LogFormat::Json } else { LogFormat::Text })
            })?,
            log: values.required(Key::Log, |text| Some(text.to_owned()))?,
            limits: limits(&values)?,
            frames: frames::read(&values)?,
            platform: frames::platform(&values)?,
            relays,
            admin: admin::read(&values)?,
            oidc: oidc::read(&values)?,
        })
    }
}

fn limits(values: &Reader) -> Result<Limits, ConfigError> {
    Ok(Limits {
        max_header_bytes: values.number(Key::MaxHeaderBytes)?,
        max_uri_bytes: values.number(Key::MaxUriBytes)?,
        header_timeout: values.duration(Key::HeaderTimeout)?,
        keep_alive_timeout: values.duration(Key::KeepAliveTimeout)?,
        upgrade_rate_per_minute: values.number(Key::UpgradeRate)?,
        api_rate_per_minute: values.number(Key::ApiRate)?,
        max_api_body_bytes: values.number(Key::MaxApiBodyBytes)?,
        max_connections_per_ip: values.number(Key::MaxConnectionsPerIp)?,
        max_tcp_connections_per_ip: values.number(Key::MaxTcpConnectionsPerIp)?,
        max_tcp_connections: values.number(Key::MaxTcpConnections)?,
        max_tunnels_per_host: values.number(Key::MaxTunnelsPerHost)?,
        max_streams_per_tunnel: values.number(Key::MaxStreamsPerTunnel)?,
        stream_window: values.number(Key::StreamWindow)?,
        stream_open_timeout: values.duration(Key::StreamOpenTimeout)?,
        response_head_timeout: values.duration(Key::ResponseHeadTimeout)?,
        stream_idle_timeout: values.duration(Key::StreamIdleTimeout)?,
        pool_idle_timeout: values.duration(Key::PoolIdleTimeout)?,
        tunnel_ping_interval: values.duration(Key::TunnelPingInterval)?,
        tunnel_ping_timeout: values.duration(Key::TunnelPingTimeout)?,
        drain_timeout: values.duration(Key::DrainTimeout)?,
    })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
