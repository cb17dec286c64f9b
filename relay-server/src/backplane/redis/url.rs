//! Where Redis is: one server, or a name that Sentinels know. Pure.
//!
//! * `redis://[user[:password]@]host[:port][/db]`, `rediss://…` over TLS;
//! * `redis+sentinel://[user[:password]@]host[:port],host[:port]…/name`, `rediss+sentinel://…`. User and password
//!   are those of the servers; `?db=`, `?sentinel_user=` and `?sentinel_password=` say more.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};
use url::Url;

/// The port of Sentinels where none is given.
const SENTINEL_PORT: u16 = 26379;

/// What a URL says. It may hold passwords: never printed.
pub(in crate::backplane) enum Place {
    One(ConnectionInfo),
    Sentinels(Sentinels),
}

/// Several, any of which knows the server.
pub(in crate::backplane) struct Sentinels {
    pub(super) addresses: Vec<ConnectionAddr>,
    pub(super) name: String,
    pub(super) tls: bool,
    pub(super) db: i64,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) sentinel_user: Option<String>,
    pub(super) sentinel_password: Option<String>,
}

impl Place {
    /// Whether connections are encrypted.
    pub(super) fn tls(&self) -> bool {
        match self {
            Place::One(info) => matches!(info.addr(), ConnectionAddr::TcpTls { .. }),
            Place::Sentinels(sentinels) => sentinels.tls,
        }
    }
}

/// Reads it. The error quotes nothing of it.
pub(in crate::backplane) fn parse(text: &str) -> Result<Place, &'static str> {
    // The one fragment that the library knows turns verification off.
    if text.contains('#') {
        return Err("it has a fragment");
    }
    match text.split_once("://") {
        Some(("redis+sentinel", rest)) => sentinels(rest, false).map(Place::Sentinels),
        Some(("rediss+sentinel", rest)) => sentinels(rest, true).map(Place::Sentinels),
        Some(("redis" | "rediss", _)) => {
            text.into_connection_info().map(Place::One).map_err(|_| "it is no URL of a Redis server")
        }
        _ => Err("it begins with none of redis://, rediss://, redis+sentinel://, rediss+sentinel://"),
    }
}

fn sentinels(rest: &str, tls: bool) -> Result<Sentinels, &'static str> {
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(authority_end).ok_or("it is no URL")?;
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    // Everything but the list of hosts is a URL like any other.
    let at = if login.is_empty() { "" } else { "@" };
    let url = Url::parse(&format!("redis://{login}{at}sentinel{path}")).map_err(|_| "it is no URL")?;
    let addresses = hosts.split(',').map(|host| address(host, tls)).collect::<Option<Vec<_>>>();
    let addresses = addresses.ok_or("it needs host:port,host:port before the name")?;
    let name = decoded(url.path().trim_start_matches('/')).ok_or("the name is not UTF-8")?;
    if name.is_empty() || name.contains('/') {
        return Err("it needs the name under which the Sentinels know the server, after a slash");
    }
    let mut sentinels = Sentinels {
        addresses,
        name,
        tls,
        db: 0,
        user: decoded(url.username()).filter(|user| !user.is_empty()),
        password: url.password().and_then(decoded),
        sentinel_user: None,
        sentinel_password: None,
    };
    for (key, value) in url.query_pairs() {
        match &*key {
            "db" => sentinels.db = value.parse().map_err(|_| "db is no number")?,
            "sentinel_user" => sentinels.sentinel_user = Some(value.into_owned()),
            "sentinel_password" => sentinels.sentinel_password = Some(value.into_owned()),
            _ => return Err("it has a parameter other than db, sentinel_user and sentinel_password"),
        }
    }
    Ok(sentinels)
}

fn address(text: &str, tls: bool) -> Option<ConnectionAddr> {
    let url = Url::parse(&format!("redis://{text}")).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && matches!(url.path(), "" | "/");
    if !plain || url.query().is_some() {
        return None;
    }
    // Without the brackets that an IPv6 address has in URLs.
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return None;
    }
    let port = url.port().unwrap_or(SENTINEL_PORT);
    Some(if tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    })
}

/// Percent-decoded, as the library does it for its own URLs.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%').then(|| after.split_at_checked(2)).flatten();
        let value = hex.and_then(|(digits, after)| {
            let digits =
                std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            Some((u8::from_str_radix(digits, 16).ok()?, after))
        });
        let (byte, after) = value.unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let cases: [(&str, Option<(bool, usize)>); 17] = [
            ("redis://localhost", Some((false, 0))),
            ("redis://:secret@[::1]:6380/3", Some((false, 0))),
            ("rediss://user:secret@redis.example.com:6380/0", Some((true, 0))),
            ("redis+sentinel://a:1,b:2,[::1]:3/name", Some((false, 3))),
            ("rediss+sentinel://u:p%40ss@a/my%20name?db=2&sentinel_password=x", Some((true, 1))),
            ("redis+sentinel://a", None),
            ("redis+sentinel://a/", None),
            ("redis+sentinel://a/b/c", None),
            ("redis+sentinel://,/name", None),
            ("redis+sentinel:///name", None),
            ("redis+sentinel://a:99999/name", None),
            ("redis+sentinel://a/name?db=x", None),
            ("redis+sentinel://a/name?insecure=1", None),
            ("rediss://a#insecure", None),
            ("redis://", None),
            ("http://a", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let found = parse(text).ok().map(|place| {
                let sentinels = match &place {
                    Place::One(_) => 0,
                    Place::Sentinels(sentinels) => sentinels.addresses.len(),
                };
                (place.tls(), sentinels)
            });
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_sentinels_are_told_is_decoded() {
        let text = "redis+sentinel://us%3Aer:p%40ss,%2F@a:1,b/the%20name?db=2&sentinel_user=s&sentinel_password=x%26y";
        let Ok(Place::Sentinels(read)) = parse(text) else { panic!("{text}") };
        assert_eq!(read.name, "the name");
        assert_eq!(read.user.as_deref(), Some("us:er"));
        assert_eq!(read.password.as_deref(), Some("p@ss,/"));
        assert_eq!(read.sentinel_password.as_deref(), Some("x&y"));
        assert_eq!((read.db, read.sentinel_user.as_deref()), (2, Some("s")));
        assert_eq!(read.addresses[1], ConnectionAddr::Tcp("b".to_owned(), SENTINEL_PORT));
    }
}
