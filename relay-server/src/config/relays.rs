//! How several relays find each other.

use std::path::PathBuf;

use url::Url;

use super::frames::platform_url;
use super::parse::BackplaneScheme;
use super::settings::Key;
use super::{ConfigError, Reader, SecretText, parse};

/// What keeps the relays' common knowledge.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Nothing: this relay is alone.
    Single,
    /// The platform, by its HTTP interface; the URL is the base of its calls, ending in
    /// [`super::frames::PLATFORM_PATH`].
    Platform(Url),
    /// A PostgreSQL database, by its URL; `None` is the relay's own.
    Postgres(Option<SecretText>),
    /// Redis or Valkey, by its URL.
    Redis(SecretText),
}

impl Mode {
    /// As the setting says it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Mode::Single => "single",
            Mode::Platform(_) | Mode::Postgres(_) => "server",
            Mode::Redis(_) => "redis",
        }
    }
}

/// What the relay knows of other relays before it meets one.
#[derive(Debug, Clone)]
pub struct Relays {
    /// What keeps the common knowledge.
    pub mode: Mode,
    /// What signs among relays; always there unless alone.
    pub hmac_key: Option<SecretText>,
    /// What keys and channels in Redis begin with.
    pub redis_key_prefix: String,
    /// Roots of Redis' certificate, when they are not the system's.
    pub redis_ca: Option<PathBuf>,
    /// This relay's public address (`ws` or `wss`).
    pub public_ws_base_url: Option<Url>,
    /// This relay's address for other relays (`http` or `https`).
    pub internal_url: Option<Url>,
    /// Whether callers are redirected.
    pub redirect: bool,
    /// Hosts that they may be sent to; one that begins with `.` stands for all names below it.
    pub redirect_allowed_hosts: Vec<String>,
}

impl Relays {
    /// A relay that is alone and redirects nobody, for tests.
    #[cfg(test)]
    pub fn alone() -> Self {
        Self {
            mode: Mode::Single,
            hmac_key: None,
            redis_key_prefix: String::new(),
            redis_ca: None,
            public_ws_base_url: None,
            internal_url: None,
            redirect: false,
            redirect_allowed_hosts: Vec::new(),
        }
    }

    /// Whether somebody may be sent to another relay's address.
    ///
    /// The address was written by whoever can write presences, and who follows it shows a token there: so only hosts
    /// count that the operator named, and this relay's own name and port, and outside of development (`dev`) only
    /// TLS.
    pub fn may_redirect_to(&self, address: &Url, dev: bool) -> bool {
        let Some(host) = address.host_str() else { return false };
        let secure = address.scheme() == "wss" || (dev && address.scheme() == "ws");
        let plain = address.username().is_empty()
            && address.password().is_none()
            && address.query().is_none()
            && address.fragment().is_none();
        let own = self.public_ws_base_url.as_ref();
        let own_name = own.is_some_and(|own| {
            own.host_str() == Some(host) && own.port_or_known_default() == address.port_or_known_default()
        });
        // To the very address that the caller came by: it would go round in circles.
        let here = own == Some(address);
        self.redirect
            && secure
            && plain
            && !here
            && (own_name || self.redirect_allowed_hosts.iter().any(|allowed| is_named(allowed, host)))
    }
}

/// A name that begins with a dot stands for all names below it.
fn is_named(allowed: &str, host: &str) -> bool {
    if allowed.starts_with('.') {
        let rest = host.len().checked_sub(allowed.len()).and_then(|at| host.split_at_checked(at));
        rest.is_some_and(|(name, suffix)| !name.is_empty() && suffix.eq_ignore_ascii_case(allowed))
    } else {
        host.eq_ignore_ascii_case(allowed)
    }
}

/// The base for HTTP that goes with a base for WebSockets, without a slash at its end.
pub fn http_base(public_ws: &Url) -> Option<String> {
    let scheme = match public_ws.scheme() {
        "ws" => "http",
        "wss" => "https",
        _ => return None,
    };
    let rest = public_ws.as_str().strip_prefix(public_ws.scheme())?;
    Some(format!("{scheme}{}", rest.trim_end_matches('/')))
}

pub(super) fn read(values: &Reader, own_postgres: bool) -> Result<Relays, ConfigError> {
    let together = |text: &str| ConfigError::Together(text.to_owned());
    let url = values.secret(Key::BackplaneUrl);
    let scheme = url.as_ref().and_then(|url| parse::backplane_url(url.reveal()));
    let mode = match (values.text(Key::BackplaneMode).as_deref(), scheme, url) {
        (Some("redis"), Some(BackplaneScheme::Redis), Some(url)) => Mode::Redis(url),
        (Some("redis"), ..) => {
            return Err(together("RELAY_BACKPLANE_MODE=redis needs a redis:// URL in RELAY_BACKPLANE_URL"));
        }
        (Some("server"), Some(BackplaneScheme::Platform), Some(url)) => {
            // A base, or the address of the calls themselves.
            let given = parse::public_url(url.reveal())
                .ok_or_else(|| together("RELAY_BACKPLANE_URL is no base of the platform"))?;
            let path = given.path().trim_end_matches('/');
            if path.ends_with(super::frames::PLATFORM_PATH) {
                Mode::Platform(given)
            } else {
                Mode::Platform(
                    platform_url(&given, "")
                        .ok_or_else(|| together("RELAY_BACKPLANE_URL is no base of the platform"))?,
                )
            }
        }
        (Some("server"), Some(BackplaneScheme::Postgres), url) => Mode::Postgres(url),
        (Some("server"), Some(BackplaneScheme::Redis), _) => {
            return Err(together("RELAY_BACKPLANE_URL leads to Redis, which is RELAY_BACKPLANE_MODE=redis"));
        }
        (Some("server"), None, _) => match values.optional(Key::ServerUrl, parse::public_url)? {
            Some(base) => Mode::Platform(
                platform_url(&base, "").ok_or_else(|| together("SERVER_URL is no base of the platform"))?,
            ),
            None if own_postgres => Mode::Postgres(None),
            None => {
                return Err(together(
                    "RELAY_BACKPLANE_MODE=server needs RELAY_BACKPLANE_URL, SERVER_URL or a PostgreSQL database",
                ));
            }
        },
        _ => Mode::Single,
    };
    let hmac_key = values.secret(Key::BusHmacKey);
    if hmac_key.is_none() && !matches!(mode, Mode::Single) {
        return Err(together(
            "RELAY_BUS_HMAC_KEY is not set: with several relays each has to know what the others signed; give all the same",
        ));
    }
    if matches!(mode, Mode::Platform(_)) && values.secret(Key::InternalKey).is_none() {
        return Err(together("RELAY_INTERNAL_KEY is not set: the platform wants it with every call"));
    }
    Ok(Relays {
        mode,
        hmac_key,
        redis_ca: values.path(Key::RedisCa),
        redis_key_prefix: values.text(Key::RedisKeyPrefix).unwrap_or_default(),
        public_ws_base_url: values.optional(Key::PublicWsBaseUrl, parse::ws_url)?,
        internal_url: values.optional(Key::InternalUrl, parse::public_url)?,
        redirect: values.required(Key::ClientRedirect, parse::flag)?,
        redirect_allowed_hosts: values.list(Key::RedirectAllowedHosts, parse::host_name)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_to_known_hosts_and_with_tls() {
        let relays = |redirect| Relays {
            public_ws_base_url: Some(Url::parse("wss://own.example/a").unwrap()),
            redirect,
            redirect_allowed_hosts: vec!["relay.example".into(), ".below.example".into(), "[::1]".into()],
            ..Relays::alone()
        };
        for (address, prod, dev) in [
            ("wss://relay.example", true, true),
            ("wss://RELAY.example:444/x", true, true),
            ("ws://relay.example", false, true),
            ("wss://a.b.below.example", true, true),
            ("wss://below.example", false, false),
            ("wss://sub.relay.example", false, false),
            ("wss://relay.example.evil.example", false, false),
            ("wss://own.example/b", true, true),
            ("wss://own.example:443/b", true, true),
            ("wss://own.example:9999/b", false, false),
            ("wss://own.example/a", false, false),
            ("wss://user@relay.example", false, false),
            ("wss://relay.example@evil.example", false, false),
            ("wss://relay.example/?token=x", false, false),
            ("wss://relay.example/#x", false, false),
            ("https://relay.example", false, false),
            ("wss://127.0.0.1", false, false),
            ("wss://[::1]:9", true, true),
            ("wss://[::2]:9", false, false),
            ("data:relay.example", false, false),
        ] {
            let url = Url::parse(address).unwrap();
            assert_eq!(relays(true).may_redirect_to(&url, false), prod, "{address}");
            assert_eq!(relays(true).may_redirect_to(&url, true), dev, "{address}");
            assert!(!relays(false).may_redirect_to(&url, true), "{address}");
        }
    }
}
