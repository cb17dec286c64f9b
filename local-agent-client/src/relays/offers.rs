//! Which of the relays are believed that a relay offers. Pure.
//!
//! Whoever is dialled gets the token, and the agent knocks at addresses that others named: so a relay may
//! offer only what belongs to the host that was configured, by a way no worse. Whatever else there is, people
//! name themselves with `--also-relay`.

use crate::dial::RelayUrl;

/// Bytes of an offer; a longer one is none.
const MAX_TEXT: usize = 4096;
/// Entries of an offer that are looked at. Relays send eight.
const MAX_ENTRIES: usize = 16;
/// Bytes of an entry.
const MAX_ENTRY: usize = 256;
/// Relays that are believed of one offer.
pub const MAX_OFFERED: usize = 8;

/// What an offer comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// The relays to believe, in the order in which they were offered.
    pub relays: Vec<RelayUrl>,
    /// How many entries are not believed.
    pub ignored: usize,
}

/// Reads an `x-relay-others`. Believed is an address
/// * by `http` or `https`, and not by `http` where the configured relay is reached by `https`,
/// * on the configured relay's host with the same port (with whatever port when that host is this machine), or on a
///   name below it,
/// * or that of a relay that was named as `also`.
pub fn read(text: &str, configured: &RelayUrl, also: &[RelayUrl]) -> Offered {
    if text.len() > MAX_TEXT {
        return Offered { relays: Vec::new(), ignored: 1 };
    }
    let mut offered = Offered::default();
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    for (number, entry) in entries.enumerate() {
        match believed(entry, configured, also) {
            Some(relay) if number < MAX_ENTRIES && offered.relays.len() < MAX_OFFERED => {
                if !offered.relays.contains(&relay) {
                    offered.relays.push(relay);
                }
            }
            _ => offered.ignored += 1,
        }
    }
    offered
}

fn believed(entry: &str, configured: &RelayUrl, also: &[RelayUrl]) -> Option<RelayUrl> {
    let by_http = ["http://", "https://"].iter().any(|scheme| entry.starts_with(scheme));
    if entry.len() > MAX_ENTRY || !by_http || entry.bytes().any(|b| !b.is_ascii_graphic() || b == b'\\') {
        return None;
    }
    let relay: RelayUrl = entry.parse().ok()?;
    let downgrade = configured.is_secure() && !relay.is_secure();
    (!downgrade && (relay.is_within(configured) || also.contains(&relay))).then_some(relay)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> RelayUrl {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_belongs_to_the_configured_relay_is_believed() {
        for (configured, entry, good) in [
            ("https://relay.example", "https://relay.example:443", true),
            ("https://relay.example:8443", "https://relay.example:8443/base", true),
            ("https://relay.example", "https://b.relay.example:8443", true),
            ("https://relay.example", "https://RELAY.example/base", true),
            ("https://relay.example", "https://b.relay.example", true),
            ("https://relay.example", "https://a.b.relay.example", true),
            ("https://relay.example", "https://named.test", true),
            ("http://localhost:1", "http://localhost:2", true),
            ("http://relay.example", "https://relay.example", true),
            ("http://127.0.0.1:1", "http://127.0.0.1:2", true),
            ("http://[::1]:1", "http://[::1]:2", true),
            // Somebody else's port of the same machine.
            ("https://relay.example", "https://relay.example:8443", false),
            ("https://relay.example:8443", "https://relay.example", false),
            ("http://relay.example", "http://relay.example:81", false),
            ("http://relay.example", "https://relay.example:80", false),
            ("http://192.0.2.1", "http://192.0.2.1:81", false),
            // A worse way.
            ("https://relay.example", "http://relay.example", false),
            ("https://relay.example", "http://b.relay.example", false),
            ("https://relay.example", "ws://relay.example", false),
            // Somebody else's, however it looks.
            ("https://relay.example", "https://example", false),
            ("https://relay.example", "https://other.example", false),
            ("https://a.relay.example", "https://b.relay.example", false),
            ("https://relay.example", "https://evilrelay.example", false),
            ("https://relay.example", "https://relay.example.evil.test", false),
            ("https://relay.example", "https://relay.example.", false),
            ("https://relay.example", "https://relay.example@evil.test", false),
            ("https://relay.example", "https://relay.example:x@evil.test", false),
            ("https://relay.example", "https://evil.test/relay.example", false),
            ("https://relay.example", "https://evil.test#.relay.example", false),
            ("https://relay.example", "https://evil.test?.relay.example", false),
            ("https://relay.example", "https://evil.test\\.relay.example", false),
            ("https://relay.example", "https:evil.test", false),
            ("https://relay.example", "//relay.example", false),
            ("https://relay.example", "https://169.254.169.254", false),
            ("https://relay.example", "https://named.test:444", false),
            ("http://127.0.0.1:1", "http://127.0.0.2:1", false),
            ("http://127.0.0.1:1", "http://1.127.0.0.1:1", false),
            ("http://127.0.0.1:1", "http://[::ffff:127.0.0.1]:1", false),
            // What is no address.
            ("https://relay.example", "relay.example", false),
            ("https://relay.example", "ftp://relay.example", false),
            ("https://relay.example", "file:///etc/passwd", false),
            ("https://relay.example", "https://relay.example:99999", false),
            ("https://relay.example", "https://relay.example/?token=x", false),
            ("https://relay.example", "https://relay.example/ x", false),
            ("https://relay.example", "https://", false),
        ] {
            let offered = read(entry, &url(configured), &[url("https://named.test")]);
            assert_eq!(offered.relays.len(), usize::from(good), "{configured} {entry}");
            assert_eq!(offered.ignored, usize::from(!good), "{configured} {entry}");
        }
    }

    #[test]
    fn an_offer_is_bounded() {
        let configured = url("https://relay.example");
        let many: Vec<String> = (0..40).map(|i| format!("https://r{i}.relay.example")).collect();
        let offered = read(&many.join(" , "), &configured, &[]);
        assert_eq!((offered.relays.len(), offered.ignored), (MAX_OFFERED, 32));
        let far = format!("{},https://b.relay.example", ["https://evil.test"; 16].join(","));
        assert_eq!(read(&far, &configured, &[]), Offered { relays: vec![], ignored: 17 });
        let long = format!("https://relay.example/{}", "x".repeat(MAX_ENTRY));
        assert_eq!(read(&long, &configured, &[]), Offered { relays: vec![], ignored: 1 });
        let huge = "https://b.relay.example,".repeat(1000);
        assert_eq!(read(&huge, &configured, &[]), Offered { relays: vec![], ignored: 1 });
        let twice = "https://b.relay.example,,https://b.relay.example:443/,";
        assert_eq!(
            read(twice, &configured, &[]),
            Offered { relays: vec![url("https://b.relay.example")], ignored: 0 }
        );
        assert_eq!(read("", &configured, &[]), Offered::default());
    }

    proptest! {
        #[test]
        fn whatever_is_offered_stays_with_the_host(text in "(https?://)?[a-z.@:/?#\\[\\]%, -]{0,60}(relay\\.example)?[a-z.:/@0-9,]{0,20}") {
            let configured = url("https://relay.example");
            for relay in read(&text, &configured, &[]).relays {
                prop_assert!(relay.is_secure());
                let host = relay.host();
                prop_assert!(host == "relay.example" || host.ends_with(".relay.example"), "{}", host);
            }
        }
    }
}
