//! Texts to values. Every function is pure and says only whether the text is good; the message with
//! the setting's name, its source and what was expected is made in one place, by the caller.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use http::HeaderName;
use ipnet::IpNet;
use url::Url;

use crate::auth::turn::TurnSecret;

/// What the values of a setting are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts of `expects` describe them")]
pub enum Kind {
    Text,
    Path,
    Listen,
    Database,
    JwtSecret,
    RelayId,
    Url,
    Origin,
    Origins,
    Networks,
    Cookies,
    IceServers,
    TurnSecret,
    Secret,
    WsUrl,
    BackplaneUrl,
    HostNames,
    PathPrefix,
    KeyPrefix,
    Flag,
    LogFilter,
    Choice(&'static [&'static str]),
    Count { min: u64, max: u64 },
    Size { min: u64, max: u64 },
    Duration { min: u64, max: u64 },
}

impl Kind {
    /// What a value has to look like, to follow "expected".
    pub fn expects(self) -> String {
        match self {
            Kind::Text => "a text".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Listen => "`host:port`".to_owned(),
            Kind::Database => "`postgres://…`, `postgresql://…` or `sqlite:PATH`".to_owned(),
            Kind::JwtSecret => "base64 (standard alphabet) of at least 32 bytes".to_owned(),
            Kind::RelayId => "1 to 64 of the characters `A-Z a-z 0-9 . _ -`".to_owned(),
            Kind::Url => "an `http` or `https` URL without query and fragment".to_owned(),
            Kind::Origin => "an exact origin such as `https://portal.example.com`".to_owned(),
            Kind::Origins => {
                "exact origins such as `https://app.example.com`, comma-separated, never `*`".to_owned()
            }
            Kind::Networks => "addresses or networks such as `10.0.0.0/8`, comma-separated".to_owned(),
            Kind::Cookies => "cookie names, or beginnings that end in `*`, comma-separated".to_owned(),
            Kind::IceServers => {
                "URLs such as `stun:stun.example.com,turn:turn.example.com:3478?transport=udp`, comma-separated, \
                 or a JSON list of `{\"urls\", \"username\", \"credential\"}`"
                    .to_owned()
            }
            Kind::TurnSecret | Kind::Secret => "16 to 512 characters without blanks".to_owned(),
            Kind::WsUrl => "a `wss` or `ws` URL without query and fragment".to_owned(),
            Kind::BackplaneUrl => {
                "`http(s)://…` or `postgres://…` for `server`; `redis://…`, `rediss://…`, `redis+sentinel://HOST:PORT,…/NAME` or \
                 `rediss+sentinel://…` for `redis`"
                    .to_owned()
            }
            Kind::HostNames => "host names, comma-separated; one that begins with `.` stands for all below it".to_owned(),
            Kind::PathPrefix => "a path such as `/v1/worker`, without `.`, `..`, `%` and empty segments".to_owned(),
            Kind::KeyPrefix => "1 to 64 of the characters `A-Z a-z 0-9 . _ : -`".to_owned(),
            Kind::Flag => "`true` or `false`".to_owned(),
            Kind::LogFilter => "a filter such as `info` or `warn,relay_server=debug`".to_owned(),
            Kind::Choice(choices) => {
                choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(" or ")
            }
            Kind::Count { min, max } => format!("a number from {min} to {max}"),
            Kind::Size { min, max } => {
                format!(
                    "a size such as `64KiB`, `1MiB` or `4096`, from {} to {}",
                    size_text(min),
                    size_text(max)
                )
            }
            Kind::Duration { min, max } => format!(
                "a duration such as `500ms`, `10s`, `5m`, `24h` or `7d`, from {} to {}",
                duration_text(min),
                duration_text(max)
            ),
        }
    }

    /// The number that the text stands for: a count, bytes, or milliseconds. `None` for a bad text,
    /// for one out of bounds, and for kinds that are no numbers.
    pub fn number(self, text: &str) -> Option<u64> {
        let (number, min, max) = match self {
            Kind::Count { min, max } => (digits(text)?, min, max),
            Kind::Size { min, max } => (size(text)?, min, max),
            Kind::Duration { min, max } => (duration(text)?, min, max),
            _ => return None,
        };
        (min..=max).contains(&number).then_some(number)
    }

    /// What exactly is wrong with the text, where `expects` leaves one searching. Quotes nothing of it.
    pub fn fault(self, text: &str) -> Option<String> {
        match self {
            Kind::IceServers => super::ice::servers(text).err().map(|fault| fault.to_string()),
            _ => None,
        }
    }

    /// Whether the text is a good value.
    pub fn check(self, text: &str) -> bool {
        match self {
            Kind::Text | Kind::Path => !text.is_empty(),
            Kind::Listen => listen(text).is_some(),
            Kind::Database => database(text).is_some(),
            Kind::JwtSecret => jwt_secret(text),
            Kind::RelayId => relay_id(text),
            Kind::Url => public_url(text).is_some(),
            Kind::Origin => portal_origin(text).is_some(),
            Kind::Origins => list(text, origin).is_some(),
            Kind::Networks => list(text, network).is_some(),
            Kind::Cookies => list(text, cookie_name).is_some(),
            Kind::IceServers => super::ice::servers(text).is_ok(),
            Kind::TurnSecret => TurnSecret::new(text).is_some(),
            Kind::Secret => secret_text(text),
            Kind::WsUrl => ws_url(text).is_some(),
            Kind::BackplaneUrl => backplane_url(text).is_some(),
            Kind::HostNames => list(text, host_name).is_some(),
            Kind::PathPrefix => path_prefix(text).is_some(),
            Kind::KeyPrefix => key_prefix(text),
            Kind::Flag => flag(text).is_some(),
            // Its parser panics on some texts beyond ASCII.
            Kind::LogFilter => text.is_ascii() && tracing_subscriber::EnvFilter::try_new(text).is_ok(),
            Kind::Choice(choices) => choices.contains(&text),
            Kind::Count { .. } | Kind::Size { .. } | Kind::Duration { .. } => self.number(text).is_some(),
        }
    }
}

/// Digits only: `u64`'s own parser would take a sign.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A number followed by one of the units; `bare` is the factor without a unit, if that is allowed.
fn with_unit(text: &str, units: &[(&str, u64)], bare: Option<u64>) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(split)?;
    let factor = match unit {
        "" => bare?,
        unit => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    digits(number)?.checked_mul(factor)
}

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Bytes: `64KiB`, `1MiB`, `4096`.
pub fn size(text: &str) -> Option<u64> {
    with_unit(text, &SIZE_UNITS, Some(1))
}

/// Milliseconds: `500ms`, `10s`, `5m`, `24h`, `365d`. A bare number is refused: everybody reads
/// another unit into it.
pub fn duration(text: &str) -> Option<u64> {
    with_unit(text, &DURATION_UNITS, None)
}

fn text_with_unit(value: u64, units: &[(&str, u64)], smallest: &str) -> String {
    match units.iter().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => format!("{value}{smallest}"),
    }
}

fn size_text(bytes: u64) -> String {
    text_with_unit(bytes, &SIZE_UNITS, "B")
}

fn duration_text(millis: u64) -> String {
    text_with_unit(millis, &DURATION_UNITS, "ms")
}

/// `true` or `false`, also as `1` and `0`.
pub fn flag(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Where to listen. The host is kept as text: a name is looked up when the socket is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A host alone: brackets around an IPv6 address are taken off.
pub fn listen_host(text: &str) -> Option<String> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = inner.parse::<IpAddr>().is_ok();
    let name = || inner.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    (!inner.is_empty() && (address || name())).then(|| inner.to_owned())
}

/// `host:port`, an IPv6 address in brackets.
pub fn listen(text: &str) -> Option<Listen> {
    let (host, port) = text.rsplit_once(':')?;
    if host.contains(':') && !host.starts_with('[') {
        return None;
    }
    Some(Listen { host: listen_host(host)?, port: digits(port)?.try_into().ok()? })
}

/// A database URL. What follows `postgres` may hold a password and is kept secret by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// The whole URL is the value.
    Postgres,
}

/// Reads the scheme, and the path of SQLite. A database in memory is refused: each connection of
/// the pool would see another one, and a restart would forget every host.
pub fn database(text: &str) -> Option<Database> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return Url::parse(text).ok().map(|_| Database::Postgres);
    }
    let rest = text.strip_prefix("sqlite:")?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    // The file is made when it is missing anyway, which is what `mode=rwc` asks for.
    (!path.is_empty() && !path.contains(":memory:") && matches!(query, "" | "mode=rwc"))
        .then(|| Database::Sqlite(PathBuf::from(path)))
}

fn jwt_secret(text: &str) -> bool {
    crate::auth::token::Secret::from_base64(text).is_ok()
}

fn relay_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// An `http` or `https` URL that names a base: a host, no user, query or fragment.
pub fn public_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

/// Long enough to resist guessing, short enough to be no file; as it goes into headers, without blanks.
fn secret_text(text: &str) -> bool {
    (16..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A `ws` or `wss` URL that names a base: a host, no user, query or fragment.
pub fn ws_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    (matches!(url.scheme(), "ws" | "wss") && url.has_host() && plain).then_some(url)
}

/// What a backplane's URL leads to. It may hold a password and is kept secret by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackplaneScheme {
    /// The platform's HTTP interface.
    Platform,
    /// A PostgreSQL database.
    Postgres,
    /// Redis, or Valkey; by one address or by Sentinels.
    Redis,
}

/// Reads the scheme of a backplane's URL. Redis' own parser reads the rest when the relay starts.
pub fn backplane_url(text: &str) -> Option<BackplaneScheme> {
    match text.split_once("://")? {
        ("http" | "https", _) => public_url(text).map(|_| BackplaneScheme::Platform),
        ("postgres" | "postgresql", _) => Url::parse(text).ok().map(|_| BackplaneScheme::Postgres),
        ("redis" | "rediss" | "redis+sentinel" | "rediss+sentinel", rest) => {
            (!rest.is_empty()).then_some(BackplaneScheme::Redis)
        }
        _ => None,
    }
}

/// A host's name or address in lower case, or all names below one (`.example.com`).
pub fn host_name(text: &str) -> Option<String> {
    let name = text.strip_prefix('.').unwrap_or(text);
    listen_host(name).map(|_| text.to_ascii_lowercase())
}

/// A path that means the same to everybody: absolute, and nothing in it that normalisation would change.
pub fn path_prefix(text: &str) -> Option<String> {
    let rest = text.strip_prefix('/')?.trim_end_matches('/');
    let plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b))
    };
    rest.split('/').all(plain).then(|| format!("/{rest}"))
}

fn key_prefix(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// Items between commas, blanks around them ignored. One bad item makes the whole list bad.
pub fn list<T>(text: &str, item: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(item).collect()
}

/// An exact origin in the form in which browsers send it (RFC 6454 section 6.2).
pub fn origin(text: &str) -> Option<String> {
    let url = public_url(text)?;
    // A path would look as if it limited something. A lone slash at the end is forgiven.
    let bare = url.path() == "/";
    (bare && !text.contains('*')).then(|| url.origin().ascii_serialization())
}

/// One origin, and the authority in it, as browsers name them in `Origin` and `Host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortalOrigin {
    /// `https://portal.example.com`.
    pub origin: String,
    /// `portal.example.com`.
    pub authority: String,
}

/// Reads the one origin of the portal.
pub fn portal_origin(text: &str) -> Option<PortalOrigin> {
    let origin = origin(text)?;
    let authority = origin.split_once("://")?.1.to_owned();
    Some(PortalOrigin { origin, authority })
}

/// A network in CIDR notation, or one address.
pub fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
}

/// Cookies by name, or by the beginning of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CookieName {
    /// This one.
    Exact(String),
    /// Every one that begins so.
    Prefix(String),
}

impl CookieName {
    /// Whether the cookie of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            CookieName::Exact(exact) => name == exact,
            CookieName::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

/// A cookie's name (RFC 6265: a token, as header names are), or a beginning and a `*`.
pub fn cookie_name(text: &str) -> Option<CookieName> {
    // HeaderName folds case, and so only tells whether the text is a token; a `*` is a token
    // character too, and none of ours.
    let token = |part: &str| !part.contains('*') && HeaderName::from_bytes(part.as_bytes()).is_ok();
    match text.strip_suffix('*') {
        Some(prefix) => token(prefix).then(|| CookieName::Prefix(prefix.to_owned())),
        None => token(text).then(|| CookieName::Exact(text.to_owned())),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
