//! STUN and TURN servers as the settings name them (RELAY_ICE_SERVERS).
//!
//! Two forms. URLs between commas do for most: STUN servers need no login, TURN servers get theirs from
//! RELAY_TURN_SECRET. Whoever rents a TURN server with a fixed login writes the JSON list that
//! `RTCPeerConnection` takes. A browser throws away the whole list when one entry is bad, and would
//! silently stay with the relay, so everything that it would refuse stops the start instead.
//!
//! A login may stand in the text: what is wrong is told by its place, and nothing is quoted.

use serde::Deserialize;
use thiserror::Error;

use super::SecretText;
use super::parse::listen_host;

/// Entries at most, and URLs of one entry: what an offer may carry on (PROTOCOL.md section 6.1).
const MAX_SERVERS: usize = 4;
const MAX_URLS: usize = 4;
/// A URL has at most so many bytes: the longest name of a host and what stands around it.
const MAX_URL_BYTES: usize = 300;
/// A login's parts have at most so many bytes (RFC 8489 section 14.3 takes 508 for a user name).
const MAX_LOGIN_BYTES: usize = 508;

/// Servers that share a login.
#[derive(Debug, Clone)]
pub struct IceServer {
    /// Their URLs, as they were written.
    pub urls: Vec<String>,
    /// Whether one of them is a TURN server, which wants a login.
    pub turn: bool,
    /// The login, when it was given.
    pub login: Option<Login>,
}

/// A fixed login at a TURN server.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user.
    pub username: String,
    /// The password.
    pub credential: SecretText,
}

/// What is wrong with the text. Places count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum ServersError {
    #[error("the JSON is no such list (line {line}, column {column})")]
    Json { line: usize, column: usize },
    #[error("{MAX_SERVERS} servers of {MAX_URLS} URLs are the most")]
    TooMany,
    #[error("server {server} has to have 1 to {MAX_URLS} URLs")]
    Urls { server: usize },
    #[error("server {server}, URL {url}: {fault}")]
    Url { server: usize, url: usize, fault: UrlFault },
    #[error("URL {url}: {fault}")]
    ListedUrl { url: usize, fault: UrlFault },
    #[error(
        "server {server}: `username` and `credential` belong together, 1 to {MAX_LOGIN_BYTES} bytes each"
    )]
    Login { server: usize },
    #[error("server {server} has a login and no TURN URL that would take it")]
    LoginForStun { server: usize },
}

/// What is wrong with one URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum UrlFault {
    #[error("it has to begin with `stun:`, `stuns:`, `turn:` or `turns:`")]
    Scheme,
    #[error("after the scheme comes a name or an address (of IPv6 in brackets), without `//` and user")]
    Host,
    #[error("the port has to be a number from 1 to 65535")]
    Port,
    #[error("nothing but `?transport=udp` or `?transport=tcp` may follow, and only in TURN URLs")]
    Query,
    #[error("it has more than {MAX_URL_BYTES} bytes")]
    Long,
}

/// What is wrong with the settings taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum TurnError {
    #[error(
        "RELAY_ICE_SERVERS names a TURN server and nothing lets browsers in there: set RELAY_TURN_SECRET, or give \
         the server's `username` and `credential` in the JSON form"
    )]
    NoLogin,
    #[error(
        "RELAY_TURN_SECRET is set, and server {server} of RELAY_ICE_SERVERS has a login of its own; keep one of them"
    )]
    TwoLogins { server: usize },
    #[error("RELAY_TURN_SECRET is set, and RELAY_ICE_SERVERS names no TURN server")]
    NoTurn,
}

/// Reads either form.
///
/// # Errors
/// [`ServersError`]: the first thing that is wrong.
pub fn servers(text: &str) -> Result<Vec<IceServer>, ServersError> {
    let text = text.trim();
    if text.starts_with(['[', '{']) { json(text) } else { listed(text) }
}

/// Every TURN server has exactly one way to log in.
///
/// # Errors
/// [`TurnError`].
pub fn check_logins(servers: &[IceServer], secret: bool) -> Result<(), TurnError> {
    if secret {
        if let Some(at) = servers.iter().position(|server| server.login.is_some()) {
            return Err(TurnError::TwoLogins { server: at + 1 });
        }
        if !servers.iter().any(|server| server.turn) {
            return Err(TurnError::NoTurn);
        }
    } else if servers.iter().any(|server| server.turn && server.login.is_none()) {
        return Err(TurnError::NoLogin);
    }
    Ok(())
}

/// URLs between commas. Those of a kind share an entry.
fn listed(text: &str) -> Result<Vec<IceServer>, ServersError> {
    let (mut stun, mut turn) = (Vec::new(), Vec::new());
    for (at, url) in text.split(',').map(str::trim).filter(|url| !url.is_empty()).enumerate() {
        let kind = kind(url).map_err(|fault| ServersError::ListedUrl { url: at + 1, fault })?;
        match kind {
            UrlKind::Stun => stun.push(url.to_owned()),
            UrlKind::Turn => turn.push(url.to_owned()),
        }
    }
    let entries = |urls: Vec<String>, turn: bool| {
        let entries: Vec<_> =
            urls.chunks(MAX_URLS).map(|urls| IceServer { urls: urls.to_vec(), turn, login: None }).collect();
        entries
    };
    let mut servers = entries(stun, false);
    servers.extend(entries(turn, true));
    if servers.len() > MAX_SERVERS { Err(ServersError::TooMany) } else { Ok(servers) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    urls: Urls,
    username: Option<String>,
    credential: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Urls {
    One(String),
    Several(Vec<String>),
}

fn json(text: &str) -> Result<Vec<IceServer>, ServersError> {
    // The parser's own message may quote a credential.
    let entries: Vec<Entry> = serde_json::from_str(text)
        .map_err(|error| ServersError::Json { line: error.line(), column: error.column() })?;
    if entries.len() > MAX_SERVERS {
        return Err(ServersError::TooMany);
    }
    entries.into_iter().enumerate().map(|(at, entry)| server(at + 1, entry)).collect()
}

fn server(server: usize, entry: Entry) -> Result<IceServer, ServersError> {
    let urls = match entry.urls {
        Urls::One(url) => vec![url],
        Urls::Several(urls) => urls,
    };
    if !(1..=MAX_URLS).contains(&urls.len()) {
        return Err(ServersError::Urls { server });
    }
    let mut turn = false;
    for (at, url) in urls.iter().enumerate() {
        let kind = kind(url).map_err(|fault| ServersError::Url { server, url: at + 1, fault })?;
        turn |= kind == UrlKind::Turn;
    }
    let fits = |text: &str| (1..=MAX_LOGIN_BYTES).contains(&text.len());
    let login = match (entry.username, entry.credential) {
        (None, None) => None,
        (Some(_), Some(_)) if !turn => return Err(ServersError::LoginForStun { server }),
        (Some(username), Some(credential)) if fits(&username) && fits(&credential) => {
            Some(Login { username, credential: SecretText(credential.into()) })
        }
        _ => return Err(ServersError::Login { server }),
    };
    Ok(IceServer { urls, turn, login })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UrlKind {
    Stun,
    Turn,
}

/// Checks a URL as browsers do (RFC 7064 section 3.1, RFC 7065 section 3.1).
fn kind(url: &str) -> Result<UrlKind, UrlFault> {
    if url.len() > MAX_URL_BYTES {
        return Err(UrlFault::Long);
    }
    let (scheme, rest) = url.split_once(':').ok_or(UrlFault::Scheme)?;
    let kind = match scheme {
        "stun" | "stuns" => UrlKind::Stun,
        "turn" | "turns" => UrlKind::Turn,
        _ => return Err(UrlFault::Scheme),
    };
    let (authority, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    match (kind, query) {
        (_, None) | (UrlKind::Turn, Some("transport=udp" | "transport=tcp")) => {}
        _ => return Err(UrlFault::Query),
    }
    // The colons of an IPv6 address stand in brackets; outside of them there is one at most.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if (host.contains(':') && !host.starts_with('[')) || listen_host(host).is_none() {
        return Err(UrlFault::Host);
    }
    match port {
        Some(port) if !port_number(port) => Err(UrlFault::Port),
        _ => Ok(kind),
    }
}

fn port_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
#[path = "ice_tests.rs"]
mod tests;
