//! The relay's URL, as people write it, and the URL that is dialled.

use std::fmt;
use url::Url;

/// The base URL of a relay: `https`, `http`, `wss` or `ws`, with or without a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelayUrl(Url);

/// A text that is no relay's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayUrlError {
    /// Not a URL.
    #[error("`{0}` is no URL; write https://relay.example")]
    NotAUrl(String),
    /// Some other scheme.
    #[error("a relay is reached by https, http, wss or ws, not by `{0}`")]
    Scheme(String),
    /// Something that would be sent along and must not be, or would be lost.
    #[error("the relay's URL must hold no user, password, query or fragment")]
    Extra,
}

impl std::str::FromStr for RelayUrl {
    type Err = RelayUrlError;

    fn from_str(text: &str) -> Result<Self, RelayUrlError> {
        let mut url = Url::parse(text.trim()).map_err(|_| RelayUrlError::NotAUrl(text.to_owned()))?;
        if !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(RelayUrlError::Extra);
        }
        let scheme = match url.scheme() {
            "https" | "wss" => "https",
            "http" | "ws" => "http",
            other => return Err(RelayUrlError::Scheme(other.to_owned())),
        };
        // All four schemes are special ones to the URL standard, so the change is always allowed.
        url.set_scheme(scheme).map_err(|()| RelayUrlError::Scheme(scheme.to_owned()))?;
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl RelayUrl {
    /// `https://host[:port]`.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// Whether the way to it is encrypted.
    pub fn is_secure(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether it is on this machine, so that nobody on the way can listen.
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            None => false,
        }
    }

    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> String {
        match self.0.host() {
            Some(url::Host::Ipv6(ip)) => ip.to_string(),
            Some(host) => host.to_string(),
            None => String::new(),
        }
    }

    /// Whether it belongs to `other`: the same host and port, or a name below that host. On one host the other ports
    /// may be other people's; on this machine they are as good as the one that was named. The port of a scheme's own
    /// is the same port whatever the scheme.
    pub fn is_within(&self, other: &Self) -> bool {
        let same_port = || self.0.port() == other.0.port() || other.is_loopback();
        match (self.0.host(), other.0.host()) {
            (Some(url::Host::Domain(name)), Some(url::Host::Domain(of))) => {
                name.strip_suffix(of).is_some_and(|rest| match rest {
                    "" => same_port(),
                    rest => rest.len() > 1 && rest.ends_with('.'),
                })
            }
            (Some(ours), Some(of)) => ours == of && same_port(),
            _ => false,
        }
    }

    /// The value of `Host`: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Scheme, host and port, the port always written out, as connectors and proxies want it.
    pub fn destination(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        format!("{}://{host}:{}", self.0.scheme(), self.0.port_or_known_default().unwrap_or(443))
    }

    /// A path below the base.
    pub fn path(&self, below: &str) -> String {
        format!("{}{below}", self.0.path().trim_end_matches('/'))
    }

    /// Path and query of the connect request.
    pub fn connect_path(&self, machine_id: &str, name: &str, version: &str) -> String {
        let mut url = self.0.clone();
        url.set_path(&self.path(&format!("{}/connect", relay_protocol::RELAY_PREFIX)));
        url.query_pairs_mut()
            .append_pair("machine_id", machine_id)
            .append_pair("name", name)
            .append_pair("agent_version", version);
        format!("{}?{}", url.path(), url.query().unwrap_or_default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn relays_are_written_in_many_ways() {
        for (text, shown, origin, authority, destination, path) in [
            (
                "https://relay.example",
                "https://relay.example",
                "https://relay.example",
                "relay.example",
                "https://relay.example:443",
                "/v1/relay/connect",
            ),
            (
                "wss://Relay.Example:443/",
                "https://relay.example",
                "https://relay.example",
                "relay.example",
                "https://relay.example:443",
                "/v1/relay/connect",
            ),
            (
                "http://127.0.0.1:8082",
                "http://127.0.0.1:8082",
                "http://127.0.0.1:8082",
                "127.0.0.1:8082",
                "http://127.0.0.1:8082",
                "/v1/relay/connect",
            ),
            (
                "ws://[::1]:9/base/",
                "http://[::1]:9/base",
                "http://[::1]:9",
                "[::1]:9",
                "http://[::1]:9",
                "/base/v1/relay/connect",
            ),
            (
                "http://relay.example/a/b//",
                "http://relay.example/a/b",
                "http://relay.example",
                "relay.example",
                "http://relay.example:80",
                "/a/b/v1/relay/connect",
            ),
        ] {
            let url: RelayUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(url.origin(), origin, "{text}");
            assert_eq!(url.authority(), authority, "{text}");
            assert_eq!(url.destination(), destination, "{text}");
            assert_eq!(
                url.connect_path("m", "n", "v"),
                format!("{path}?machine_id=m&name=n&agent_version=v"),
                "{text}"
            );
        }
    }

    #[test]
    fn names_are_encoded() {
        let url: RelayUrl = "https://relay.example".parse().unwrap();
        assert_eq!(
            url.connect_path("id", "Zo\u{eb}'s box & co", "0.1"),
            "/v1/relay/connect?machine_id=id&name=Zo%C3%AB%27s+box+%26+co&agent_version=0.1"
        );
    }

    #[test]
    fn what_is_no_relay_is_refused() {
        for text in [
            "",
            "relay.example",
            "ftp://relay.example",
            "https://",
            "https://u:p@relay.example",
            "https://relay.example/?token=x",
            "https://relay.example/#a",
        ] {
            assert!(text.parse::<RelayUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn loopback_is_told_apart() {
        for (text, loopback) in [
            ("http://127.0.0.1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(text.parse::<RelayUrl>().unwrap().is_loopback(), loopback, "{text}");
        }
    }
}
