//! The frame broker's settings (contract: frames), and those of what the relay calls.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::oidc::is_safe;
use super::settings::Key;
use super::{ConfigError, Reader, SecretText, parse};

/// Where the platform answers below its base.
pub const PLATFORM_PATH: &str = "api/runtime/internal/relay";

/// What the frame broker needs. What each does stands in [`super::settings`].
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each is described by its row of the table of settings")]
pub struct Frames {
    /// Whether conveniences for development count.
    pub dev: bool,
    pub jwks_url: Option<Url>,
    pub jwks_issuer: Option<String>,
    pub jwks_audience: Option<String>,
    /// Complete: from RELAY_VALIDATE_URL, else made from SERVER_URL.
    pub validate_url: Option<Url>,
    pub max_frame_bytes: usize,
    pub max_pending_bytes: usize,
    pub max_clients_per_workspace: usize,
    pub max_total_connections: usize,
    pub kex_init_rate_per_minute: u32,
    pub pairing_rate_per_minute: u32,
    pub runtime_rate_per_minute: u32,
    pub runtime_rate_per_minute_workspace: u32,
    pub daemon_runtime_rate_per_minute: u32,
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
    pub idle_timeout: Duration,
    pub worker_path_prefix: Option<String>,
}

/// What the relay calls, and how it shows itself there.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each is described by its row of the table of settings")]
pub struct Platform {
    pub internal_key: Option<SecretText>,
    pub ca: Option<PathBuf>,
    /// Certificate and key, for mutual TLS.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

/// The platform's address of this call, below its base.
pub fn platform_url(base: &Url, call: &str) -> Option<Url> {
    let base = base.as_str().trim_end_matches('/');
    Url::parse(&format!("{base}/{PLATFORM_PATH}/{call}")).ok()
}

pub(super) fn read(values: &Reader) -> Result<Frames, ConfigError> {
    let server = values.optional(Key::ServerUrl, parse::public_url)?;
    let given = values.optional(Key::ValidateUrl, parse::public_url)?;
    let dev = values.text(Key::Mode).as_deref() == Some("dev");
    let jwks_url = values.optional(Key::JwksUrl, parse::public_url)?;
    if jwks_url.as_ref().is_some_and(|url| !is_safe(url, dev)) {
        return Err(ConfigError::Together(
            "RELAY_JWKS_URL has to be an https URL: whoever could answer in its place could be any daemon here. http \
             is for this machine, and for RELAY_MODE=dev"
                .to_owned(),
        ));
    }
    let (jwks_issuer, jwks_audience) = (values.text(Key::JwksIssuer), values.text(Key::JwksAudience));
    if jwks_url.is_none() && (jwks_issuer.is_some() || jwks_audience.is_some()) {
        return Err(ConfigError::Together(
            "RELAY_JWKS_ISSUER or RELAY_JWKS_AUDIENCE is set and RELAY_JWKS_URL is not: nobody would look at them"
                .to_owned(),
        ));
    }
    Ok(Frames {
        dev,
        jwks_url,
        jwks_issuer,
        jwks_audience,
        validate_url: given.or_else(|| server.and_then(|base| platform_url(&base, "validate"))),
        max_frame_bytes: values.number(Key::MaxFrameBytes)?,
        max_pending_bytes: values.number(Key::MaxPendingBytes)?,
        max_clients_per_workspace: values.number(Key::MaxClientsPerWorkspace)?,
        max_total_connections: values.number(Key::MaxTotalConnections)?,
        kex_init_rate_per_minute: values.number(Key::KexInitRate)?,
        pairing_rate_per_minute: values.number(Key::PairingRate)?,
        runtime_rate_per_minute: values.number(Key::RuntimeRate)?,
        runtime_rate_per_minute_workspace: values.number(Key::RuntimeRateWorkspace)?,
        daemon_runtime_rate_per_minute: values.number(Key::DaemonRuntimeRate)?,
        ping_interval: values.duration(Key::FramePingInterval)?,
        pong_timeout: values.duration(Key::FramePongTimeout)?,
        idle_timeout: values.duration(Key::FrameIdleTimeout)?,
        worker_path_prefix: values.optional(Key::WorkerPathPrefix, parse::path_prefix)?,
    })
}

pub(super) fn platform(values: &Reader) -> Result<Platform, ConfigError> {
    let client_cert = match (values.path(Key::PlatformClientCert), values.path(Key::PlatformClientKey)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            return Err(ConfigError::Together(
                "RELAY_PLATFORM_CLIENT_CERT and RELAY_PLATFORM_CLIENT_KEY go together; set both or none"
                    .to_owned(),
            ));
        }
    };
    let internal_key = values.secret(Key::InternalKey);
    if internal_key.is_none()
        && (values.text(Key::ValidateUrl).is_some() || values.text(Key::ServerUrl).is_some())
    {
        return Err(ConfigError::Together(
            "RELAY_INTERNAL_KEY is not set: the platform of RELAY_VALIDATE_URL or SERVER_URL wants it with every call"
                .to_owned(),
        ));
    }
    Ok(Platform { internal_key, ca: values.path(Key::PlatformCa), client_cert })
}
