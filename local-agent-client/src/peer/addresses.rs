//! Which addresses and ports of this machine the agent's ends of peers use.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
    str::FromStr,
    time::Duration,
    vec,
};
use tokio::time::{sleep, timeout};

/// Addresses that are used at the most: each is a socket of every peer, and a candidate.
const MAX_ADDRESSES: usize = 16;

/// How often a port is looked for while there is none.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// UDP ports from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range, if it is one.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// Every port once, from `start` on and round.
    fn from(self, start: u16) -> impl Iterator<Item = u16> {
        let len = u32::from(self.last - self.first) + 1;
        let offset = u32::from(start) % len;
        (0..len).filter_map(move |n| u16::try_from(u32::from(self.first) + (offset + n) % len).ok())
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ports =
            text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        ports.and_then(|(first, last)| Self::new(first, last)).ok_or("it has to be like 40000-40100")
    }
}

/// The addresses of an agent that names none: all that others can reach, and those of this machine alone
/// when the relay is on it too, or when there are no others.
pub fn choose(found: impl IntoIterator<Item = IpAddr>, relay_is_local: bool) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = Vec::new();
    for ip in found {
        if !all.contains(&ip) && !ip.is_unspecified() && !ip.is_multicast() && !is_link_local(&ip) {
            all.push(ip);
        }
    }
    let others = all.iter().any(|ip| !ip.is_loopback());
    all.retain(|ip| !ip.is_loopback() || relay_is_local || !others);
    // Those that others can reach go first, if not all can be used.
    all.sort_by_key(IpAddr::is_loopback);
    all.truncate(MAX_ADDRESSES);
    all
}

/// Without a scope, which a candidate cannot say, nobody reaches these.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Where the sockets of a peer are bound. Looked at anew at every bind: after an ICE restart the machine may
/// be in another network.
#[derive(Debug, Clone)]
pub struct Binding {
    /// The addresses that were named; otherwise those that the machine has.
    pub addresses: Vec<IpAddr>,
    /// From which ports; otherwise the system chooses.
    pub ports: Option<PortRange>,
    /// Whether the relay is on this machine.
    pub relay_is_local: bool,
    /// Finds the machine's addresses.
    pub found: fn() -> Vec<IpAddr>,
}

impl ToSocketAddrs for Binding {
    type Iter = vec::IntoIter<SocketAddr>;

    /// Each address with a port that is free now; those without one are left out.
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        let addresses = match self.addresses.as_slice() {
            [] => choose((self.found)(), self.relay_is_local),
            named => named.to_vec(),
        };
        let bound: Vec<SocketAddr> = addresses
            .into_iter()
            .filter_map(|ip| match self.ports {
                None => Some(SocketAddr::new(ip, 0)),
                Some(range) => {
                    let free = range
                        .from(rand::random())
                        .map(|port| SocketAddr::new(ip, port))
                        .find(|at| is_free(*at));
                    if free.is_none() {
                        tracing::debug!(address = %ip, ports = %range, "no UDP port of the range is free");
                    }
                    free
                }
            })
            .collect();
        Ok(bound.into_iter())
    }
}

impl Binding {
    /// Waits until a port of the range is free, for so long.
    ///
    /// # Errors
    /// With the range when none is.
    pub async fn room(&self, within: Duration) -> Result<(), PortRange> {
        let Some(range) = self.ports else { return Ok(()) };
        let found = async {
            while self.to_socket_addrs().is_ok_and(|mut bound| bound.next().is_none()) {
                sleep(LOOK_AGAIN).await;
            }
        };
        timeout(within, found).await.map_err(|_| range)
    }

    /// Whether a port of the range is free, or there is no range.
    pub fn has_room(&self) -> bool {
        self.ports.is_none() || self.to_socket_addrs().is_ok_and(|mut bound| bound.next().is_some())
    }

    /// The addresses that were named and that this machine does not have.
    pub fn missing(&self) -> Vec<IpAddr> {
        self.addresses.iter().copied().filter(|ip| !is_free(SocketAddr::new(*ip, 0))).collect()
    }
}

fn is_free(address: SocketAddr) -> bool {
    UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn what_others_reach_goes_first_and_loopback_only_where_it_helps() {
        let all = ips(&[
            "127.0.0.1",
            "192.0.2.7",
            "::1",
            "fe80::1",
            "169.254.1.1",
            "2001:db8::7",
            "192.0.2.7",
            "0.0.0.0",
        ]);
        assert_eq!(choose(all.clone(), false), ips(&["192.0.2.7", "2001:db8::7"]));
        assert_eq!(choose(all, true), ips(&["192.0.2.7", "2001:db8::7", "127.0.0.1", "::1"]));
        assert_eq!(choose(ips(&["127.0.0.1", "::1", "fe80::1"]), false), ips(&["127.0.0.1", "::1"]));
        let many = (0..100).map(|n| IpAddr::from([192, 0, 2, n]));
        assert_eq!(choose(many, false).len(), MAX_ADDRESSES);
    }

    #[test]
    fn ranges_are_read_and_gone_through_once() {
        for (text, expected) in [
            ("40000-40100", PortRange::new(40000, 40100)),
            ("1-65535", PortRange::new(1, 65535)),
            ("7-7", PortRange::new(7, 7)),
            ("0-9", None),
            ("9-8", None),
            ("9", None),
            ("-9", None),
            ("1-2-3", None),
            ("a-b", None),
            ("1-65536", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
        let range = PortRange::new(65533, 65535).unwrap();
        for start in [0, 1, 2, 65535] {
            let mut ports: Vec<u16> = range.from(start).collect();
            ports.sort_unstable();
            assert_eq!(ports, [65533, 65534, 65535]);
        }
        assert_eq!(PortRange::new(1, 65535).unwrap().from(9).count(), 65535);
    }

    #[test]
    fn a_port_that_is_taken_is_passed_over() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        let taken = UdpSocket::bind((ip, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let binding = |addresses: Vec<IpAddr>, ports| Binding {
            addresses,
            ports,
            relay_is_local: true,
            found: || vec![IpAddr::from([127, 0, 0, 1])],
        };
        let one = binding(vec![ip], PortRange::new(port, port));
        assert_eq!(one.to_socket_addrs().unwrap().count(), 0);
        drop(taken);
        assert_eq!(one.to_socket_addrs().unwrap().next(), Some(SocketAddr::new(ip, port)));
        assert_eq!(binding(vec![], None).to_socket_addrs().unwrap().next(), Some(SocketAddr::new(ip, 0)));
    }
}
