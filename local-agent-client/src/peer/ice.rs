//! The ICE servers that a browser names for both ends (RFC 7064, RFC 7065). Pure.
//!
//! A paired browser has signed them, yet what is sent to them is little and bounded: at most sixteen
//! servers, and only while a peer is made.

use serde::Deserialize;
use std::{fmt, net::Ipv6Addr};
use zeroize::Zeroizing;

/// Entries of one offer, and URLs of one entry.
pub const ENTRIES: usize = 4;
/// See [`ENTRIES`].
pub const URLS: usize = 4;
/// Characters of a URL: a name of 255 and what stands around it.
const URL: usize = 300;
/// Characters of a user name or password: RFC 8489 allows 508 and 127 bytes, deployments more.
const CREDENTIAL: usize = 512;

/// A TURN password. Wiped, and never printed.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct Credential(Zeroizing<String>);

impl From<String> for Credential {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl Credential {
    /// For the engine.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// One entry.
#[derive(Clone, Deserialize)]
pub struct IceServer {
    /// `stun:`, `stuns:`, `turn:` and `turns:` URLs.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(default)]
    pub username: Option<String>,
    /// For TURN.
    #[serde(default)]
    pub credential: Option<Credential>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// Why they cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IceError {
    /// Too many of them.
    #[error("at most {ENTRIES} ICE servers of {URLS} URLs each are taken")]
    TooMany,
    /// Not what RFC 7064 and 7065 describe.
    #[error("a URL of an ICE server cannot be read")]
    Url,
    /// Longer than any that works.
    #[error("the credentials of an ICE server are too long")]
    Credential,
    /// TURN needs both.
    #[error("a TURN server needs a user name and a credential")]
    Missing,
}

/// Checks what came. What the engine does not speak (TURN over TCP or TLS) is right, and left out by it.
///
/// # Errors
/// See [`IceError`].
pub fn check(servers: &[IceServer]) -> Result<(), IceError> {
    if servers.len() > ENTRIES || servers.iter().any(|server| server.urls.len() > URLS) {
        return Err(IceError::TooMany);
    }
    for server in servers {
        let user = server.username.as_deref().unwrap_or_default();
        let credential = server.credential.as_ref().map(Credential::expose).unwrap_or_default();
        if user.len() > CREDENTIAL || credential.len() > CREDENTIAL {
            return Err(IceError::Credential);
        }
        for url in &server.urls {
            if is_turn(url)? && (user.is_empty() || credential.is_empty()) {
                return Err(IceError::Missing);
            }
        }
    }
    Ok(())
}

/// Whether a URL is a TURN server's and not a STUN server's. A `stun:` URL has no query (RFC 7064).
fn is_turn(url: &str) -> Result<bool, IceError> {
    let (scheme, rest) = url.split_once(':').ok_or(IceError::Url)?;
    let (server, query) = rest.split_once('?').map_or((rest, None), |(server, query)| (server, Some(query)));
    let turn = match (scheme, query) {
        ("stun" | "stuns", None) => false,
        ("turn" | "turns", None | Some("transport=udp" | "transport=tcp")) => true,
        _ => return Err(IceError::Url),
    };
    if url.len() > URL || !is_server(server) {
        return Err(IceError::Url);
    }
    Ok(turn)
}

/// A name or an address, an IPv6 one in brackets, and perhaps a port.
fn is_server(server: &str) -> bool {
    let (right, port) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, "")) => (ip.parse::<Ipv6Addr>().is_ok(), None),
        Some((ip, port)) => {
            (ip.parse::<Ipv6Addr>().is_ok(), Some(port.strip_prefix(':').unwrap_or_default()))
        }
        None => {
            let (name, port) =
                server.split_once(':').map_or((server, None), |(name, port)| (name, Some(port)));
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            (!name.is_empty() && name.chars().all(plain), port)
        }
    };
    let is_port = |port: &str| {
        port.bytes().all(|digit| digit.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    right && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(urls: &[&str], username: Option<&str>, credential: Option<&str>) -> IceServer {
        IceServer {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            username: username.map(str::to_owned),
            credential: credential.map(|c| c.to_owned().into()),
        }
    }

    #[test]
    fn what_browsers_name_is_taken_and_the_rest_is_not() {
        let long = "x".repeat(CREDENTIAL + 1);
        let far = format!("stun:{}", "x".repeat(URL));
        for (servers, expected) in [
            (vec![], Ok(())),
            (vec![server(&["stun:stun.example"], None, None)], Ok(())),
            (vec![server(&["stun:192.0.2.1:3478", "stun:[2001:db8::1]:3478"], None, None)], Ok(())),
            (vec![server(&["turn:turn.example:3478?transport=udp"], Some("u"), Some("p"))], Ok(())),
            (vec![server(&["turns:turn.example?transport=tcp"], Some("u"), Some("p"))], Ok(())),
            (vec![server(&["turn:turn.example"], Some("u"), None)], Err(IceError::Missing)),
            (vec![server(&["turn:turn.example"], None, Some("p"))], Err(IceError::Missing)),
            (vec![server(&["http://example"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:a b"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:a?x=y"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:a?transport=udp"], None, None)], Err(IceError::Url)),
            (vec![server(&["turn:a?transport=x"], Some("u"), Some("p"))], Err(IceError::Url)),
            (vec![server(&["stun:a:65535", "stun:[::1]"], None, None)], Ok(())),
            (vec![server(&["stun:a:0"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:a:65536"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:a:"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:a:+5"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:a:1:2"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:[::1"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:::1]"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:[a]"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun:[::1]5"], None, None)], Err(IceError::Url)),
            (vec![server(&["stun://a"], None, None)], Err(IceError::Url)),
            (vec![server(&[&far], None, None)], Err(IceError::Url)),
            (vec![server(&["turn:t"], Some(&long), Some("p"))], Err(IceError::Credential)),
            (vec![server(&["stun:a"; URLS + 1], None, None)], Err(IceError::TooMany)),
            (vec![server(&["stun:a"], None, None); ENTRIES + 1], Err(IceError::TooMany)),
            (vec![server(&["stun:a"; URLS], None, None); ENTRIES], Ok(())),
        ] {
            assert_eq!(check(&servers), expected, "{servers:?}");
        }
    }

    #[test]
    fn credentials_are_not_printed() {
        let shown = format!("{:?}", server(&["turn:t"], Some("user-7"), Some("secret-7")));
        assert!(!shown.contains("secret-7") && !shown.contains("user-7"), "{shown}");
    }
}
