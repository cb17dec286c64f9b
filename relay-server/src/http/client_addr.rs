//! Who is really calling: the address, scheme and host as the browser used them.
//!
//! Anybody may send `X-Forwarded-*`. They are believed only when the peer of the connection is a
//! proxy that the operator named, and then read from the right, because each proxy appends what it
//! saw itself: the right-most address that is not such a proxy counts. `Forwarded` (RFC 7239) is
//! not read: two headers that can contradict each other are one too many.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use ipnet::IpNet;
use relay_protocol::headers::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};

/// More proxies than anybody has in a row; what lies beyond is not read.
const MAX_HOPS: usize = 32;

/// The scheme that the browser used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS, ended by a proxy in front.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What is known about the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// The address that limits count by and the log tells. Never an IPv4-mapped one.
    pub addr: IpAddr,
    /// The scheme that the browser used, as far as trusted proxies tell.
    pub scheme: Scheme,
    /// The authority that the browser used, when there is a well-formed one.
    pub host: Option<Authority>,
    /// What goes on as `X-Forwarded-For`: the client and the proxies between it and the relay,
    /// without what the client claimed itself.
    pub forwarded_for: HeaderValue,
    /// Whether the peer of the connection is a trusted proxy.
    pub from_trusted: bool,
    /// Whether an untrusted peer on a private address sent `X-Forwarded-For`: most likely a proxy
    /// that the operator forgot to name, behind which all browsers look like one.
    pub looks_like_forgotten_proxy: bool,
}

/// The key by which an address is counted. Whoever has one IPv6 address has its whole /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateKey(IpAddr);

impl RateKey {
    /// The key of this address.
    pub fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V6(v6) => Self(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)))),
            v4 => Self(v4),
        }
    }
}

impl RateKey {
    /// The key of the network that an IPv6 address is one of: providers give a /48 to one customer, who has
    /// 65,536 keys in it. None for IPv4.
    pub fn of_network(addr: IpAddr) -> Option<Self> {
        match addr.to_canonical() {
            IpAddr::V6(v6) => Some(Self(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 80))))),
            IpAddr::V4(_) => None,
        }
    }

    /// The key as text of a fixed length, in which the first [`Self::NETWORK_CHARS`] name the network.
    pub fn text(&self) -> String {
        match self.0 {
            IpAddr::V4(v4) => format!("4:{:012x}:0000", v4.to_bits()),
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                format!("6:{:012x}:{:04x}", bits >> 80, (bits >> 64) & 0xffff)
            }
        }
    }

    /// See [`Self::text`].
    pub const NETWORK_CHARS: usize = 14;
}

impl std::fmt::Display for RateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether the address belongs to one of the networks.
pub fn is_trusted(addr: IpAddr, trusted: &[IpNet]) -> bool {
    let addr = addr.to_canonical();
    trusted.iter().any(|net| net.contains(&addr))
}

/// Puts together what the connection and the headers say. `authority` is the one of the request's
/// target (HTTP/2 has it there), which goes before `Host`.
pub fn client_info(
    peer: SocketAddr,
    authority: Option<&Authority>,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> ClientInfo {
    let peer = peer.ip().to_canonical();
    let own_host = || authority.cloned().or_else(|| parse_authority(headers.get(header::HOST)?.as_bytes()));
    if !is_trusted(peer, trusted) {
        return ClientInfo {
            addr: peer,
            scheme: Scheme::Http,
            host: own_host(),
            forwarded_for: chain(&[peer]),
            from_trusted: false,
            looks_like_forgotten_proxy: is_private(peer) && headers.contains_key(X_FORWARDED_FOR),
        };
    }
    let hops = hops(peer, headers, trusted);
    ClientInfo {
        addr: hops.last().copied().unwrap_or(peer),
        scheme: forwarded_scheme(headers).unwrap_or(Scheme::Http),
        host: last_item(headers, &X_FORWARDED_HOST).and_then(parse_authority).or_else(own_host),
        forwarded_for: chain(&hops),
        from_trusted: true,
        looks_like_forgotten_proxy: false,
    }
}

/// The way from the peer to the client, peer first. Ends at the first address that is no trusted
/// proxy, or where an item is no address: what lies left of it was not written by a proxy of ours.
fn hops(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Vec<IpAddr> {
    let mut hops = vec![peer];
    let lines = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let items = lines.rev().flat_map(|line| line.rsplit(|b| *b == b','));
    for item in items.take(MAX_HOPS) {
        let Some(addr) = parse_hop(item) else { break };
        hops.push(addr);
        if !is_trusted(addr, trusted) {
            break;
        }
    }
    hops
}

/// An address as proxies write it: bare, with a port, IPv6 with or without brackets.
fn parse_hop(item: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(item).ok()?.trim();
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let addr = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(bracketed)?;
    Some(addr.to_canonical())
}

/// Client first, as the header is written.
fn chain(hops: &[IpAddr]) -> HeaderValue {
    let mut text = String::with_capacity(hops.len() * 16);
    for (index, hop) in hops.iter().rev().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{hop}");
    }
    // Digits, dots, colons, commas and blanks make a header value.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// The item that the nearest proxy wrote.
fn last_item<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a [u8]> {
    let line = headers.get_all(name).iter().next_back()?.as_bytes();
    line.rsplit(|b| *b == b',').next().map(<[u8]>::trim_ascii)
}

fn forwarded_scheme(headers: &HeaderMap) -> Option<Scheme> {
    let item = last_item(headers, &X_FORWARDED_PROTO)?;
    // Traefik writes ws and wss for upgrades.
    if [&b"https"[..], b"wss"].iter().any(|name| item.eq_ignore_ascii_case(name)) {
        Some(Scheme::Https)
    } else if [&b"http"[..], b"ws"].iter().any(|name| item.eq_ignore_ascii_case(name)) {
        Some(Scheme::Http)
    } else {
        None
    }
}

fn parse_authority(text: &[u8]) -> Option<Authority> {
    let authority = Authority::try_from(text).ok()?;
    // A user in front of the host has no place in Host (RFC 9110 section 4.2.4).
    (!authority.host().is_empty() && !authority.as_str().contains('@')).then_some(authority)
}

fn is_private(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn info(peer: &str, headers: &[(&str, &str)]) -> ClientInfo {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].iter().map(|n| n.parse().unwrap()).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            map.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        client_info(SocketAddr::new(peer.parse().unwrap(), 4711), None, &map, &trusted)
    }

    #[test]
    fn the_right_most_untrusted_address_counts() {
        // peer, X-Forwarded-For lines, the client, the chain that goes on
        let cases: &[(&str, &[&str], &str, &str)] = &[
            ("203.0.113.9", &[], "203.0.113.9", "203.0.113.9"),
            ("203.0.113.9", &["1.2.3.4"], "203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4"], "1.2.3.4", "1.2.3.4, 10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4", "1.2.3.4, 10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4, 10.9.9.9"], "1.2.3.4", "1.2.3.4, 10.9.9.9, 10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3,10.0.0.2"], "10.0.0.3", "10.0.0.3, 10.0.0.2, 10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4", "1.2.3.4, 10.0.0.1"),
            ("10.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1", "2001:db8::1, 10.0.0.1"),
            ("10.0.0.1", &["\"[2001:db8::1]\""], "2001:db8::1", "2001:db8::1, 10.0.0.1"),
            ("10.0.0.1", &["::ffff:1.2.3.4"], "1.2.3.4", "1.2.3.4, 10.0.0.1"),
            ("::ffff:10.0.0.1", &["1.2.3.4"], "1.2.3.4", "1.2.3.4, 10.0.0.1"),
            ("fd00::1", &["1.2.3.4"], "1.2.3.4", "1.2.3.4, fd00::1"),
            ("10.0.0.1", &["1.2.3.4, unknown"], "10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4, unknown, 10.0.0.2"], "10.0.0.2", "10.0.0.2, 10.0.0.1"),
            ("10.0.0.1", &["", ",,", "ÿ\u{1f600}"], "10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4,"], "10.0.0.1", "10.0.0.1"),
        ];
        for (peer, lines, client, forwarded) in cases {
            let headers: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let info = info(peer, &headers);
            assert_eq!(info.addr, client.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
            assert_eq!(info.forwarded_for, *forwarded, "{peer} {lines:?}");
        }
        let endless = vec!["10.0.0.2"; 10_000].join(",");
        assert_eq!(info("10.0.0.1", &[("x-forwarded-for", &endless)]).addr, IpAddr::from([10, 0, 0, 2]));
    }

    #[test]
    fn scheme_and_host_are_believed_from_trusted_peers_only() {
        let headers =
            [("x-forwarded-proto", "https"), ("x-forwarded-host", "relay.example.com"), ("host", "pod:8082")];
        let behind = info("10.0.0.1", &headers);
        assert_eq!((behind.scheme, behind.host.unwrap().as_str()), (Scheme::Https, "relay.example.com"));
        let direct = info("203.0.113.9", &headers);
        assert_eq!((direct.scheme, direct.host.unwrap().as_str()), (Scheme::Http, "pod:8082"));

        let scheme = |value| info("10.0.0.1", &[("x-forwarded-proto", value)]).scheme;
        assert_eq!(["wss", "WSS", "http, https"].map(scheme), [Scheme::Https; 3]);
        assert_eq!(["ws", "https, http", "gopher", ""].map(scheme), [Scheme::Http; 4]);

        let host = |value| info("10.0.0.1", &[("x-forwarded-host", value), ("host", "own")]).host;
        for bad in ["", "a b", "user@host", "a/b", "ÿ"] {
            assert_eq!(host(bad).unwrap(), "own", "{bad}");
        }
        assert_eq!(host("[::1]:80").unwrap(), "[::1]:80");
        assert_eq!(info("10.0.0.1", &[("host", "bad host")]).host, None);
    }

    #[test]
    fn a_forgotten_proxy_shows() {
        let header = [("x-forwarded-for", "1.2.3.4")];
        assert!(info("192.168.1.1", &header).looks_like_forgotten_proxy);
        assert!(info("::1", &header).looks_like_forgotten_proxy);
        assert!(!info("192.168.1.1", &[]).looks_like_forgotten_proxy);
        assert!(!info("203.0.113.9", &header).looks_like_forgotten_proxy);
        assert!(!info("10.0.0.1", &header).looks_like_forgotten_proxy);
    }

    #[test]
    fn one_ipv6_network_is_one_key() {
        let key = |text: &str| RateKey::of(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:1.2.3.4"), key("1.2.3.4"));
        assert_ne!(key("1.2.3.4"), key("1.2.3.5"));
        let network = |text: &str| RateKey::of_network(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:ffff::"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:2:2::1"));
        assert_eq!((network("1.2.3.4"), network("::ffff:1.2.3.4")), (None, None));
    }

    #[test]
    fn the_text_of_a_key_begins_with_its_network() {
        let text = |text: &str| RateKey::of(text.parse().unwrap()).text();
        assert_eq!(text("2001:db8:1:2::1"), "6:20010db80001:0002");
        assert_eq!(text("203.0.113.1"), "4:0000cb007101:0000");
        let network = |address: &str| text(address).chars().take(RateKey::NETWORK_CHARS).collect::<String>();
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:2:2::1"));
        assert_ne!(network("203.0.113.1"), network("203.0.113.2"));
    }
}
