//! Whether a client may be sent to another relay's address. Pure.
//!
//! The address was written by whoever can write presences. A client that follows it shows its token there; so
//! only hosts count that the operator named, and this relay's own, and outside of development only TLS.

use url::Url;

use crate::config::relays::Relays;

/// Whether clients may be sent there.
pub fn may_lead_to(address: &Url, relays: &Relays, dev: bool) -> bool {
    let Some(host) = address.host_str() else { return false };
    let secure = address.scheme() == "wss" || (dev && address.scheme() == "ws");
    let plain = address.username().is_empty()
        && address.password().is_none()
        && address.query().is_none()
        && address.fragment().is_none();
    let own = relays.public_ws_base_url.as_ref();
    // To the very address that the client came by: it would go round in circles.
    let here = own == Some(address);
    relays.redirect
        && secure
        && plain
        && !here
        && (own.and_then(Url::host_str) == Some(host)
            || relays.redirect_allowed_hosts.iter().any(|allowed| matches(allowed, host)))
}

/// A name that begins with a dot stands for all names below it.
fn matches(allowed: &str, host: &str) -> bool {
    if allowed.starts_with('.') {
        let rest = host.len().checked_sub(allowed.len()).and_then(|at| host.split_at_checked(at));
        rest.is_some_and(|(name, suffix)| !name.is_empty() && suffix.eq_ignore_ascii_case(allowed))
    } else {
        host.eq_ignore_ascii_case(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::relays::Mode;

    #[test]
    fn only_to_known_hosts_and_with_tls() {
        let relays = |redirect| Relays {
            mode: Mode::Single,
            hmac_key: None,
            redis_key_prefix: String::new(),
            redis_ca: None,
            public_ws_base_url: Some(Url::parse("wss://own.example/a").unwrap()),
            internal_url: None,
            redirect,
            redirect_allowed_hosts: vec!["relay.example".into(), ".below.example".into()],
        };
        for (address, prod, dev) in [
            ("wss://relay.example", true, true),
            ("wss://RELAY.example:444/x", true, true),
            ("ws://relay.example", false, true),
            ("wss://a.b.below.example", true, true),
            ("wss://below.example", false, false),
            ("wss://xbelow.example", false, false),
            ("wss://sub.relay.example", false, false),
            ("wss://relay.example.evil.example", false, false),
            ("wss://own.example/b", true, true),
            ("wss://own.example/a", false, false),
            ("wss://user@relay.example", false, false),
            ("wss://relay.example@evil.example", false, false),
            ("wss://relay.example/?token=x", false, false),
            ("wss://relay.example/#x", false, false),
            ("https://relay.example", false, false),
            ("wss://127.0.0.1", false, false),
            ("data:relay.example", false, false),
        ] {
            let url = Url::parse(address).unwrap();
            assert_eq!(may_lead_to(&url, &relays(true), false), prod, "{address}");
            assert_eq!(may_lead_to(&url, &relays(true), true), dev, "{address}");
            assert!(!may_lead_to(&url, &relays(false), true), "{address}");
        }
    }
}
