//! What agents are told of the other relays: who this one is, and where a second tunnel may go.

use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use rand::seq::SliceRandom;
use relay_protocol::headers::{X_RELAY_ID, X_RELAY_OTHERS};
use url::Url;

use crate::backplane::{Backplane, Holder};
use crate::config::Config;
use crate::config::relays::http_base;

/// More relays than an agent would connect to.
const MAX_OTHERS: usize = 8;
/// An agent need not wait for the common knowledge: without it the tunnel is as good.
const WITHIN: Duration = Duration::from_secs(1);

/// The other relays, as tunnels have to do with them.
pub struct Others {
    /// Is told which hosts have tunnels here.
    pub backplane: Backplane,
    own: Option<Url>,
    id: Option<HeaderValue>,
}

impl Others {
    /// For the relay of this name.
    pub fn new(config: &Config, backplane: Backplane, relay_id: &str) -> Self {
        Self {
            backplane,
            own: config.relays.public_ws_base_url.clone(),
            id: HeaderValue::from_str(relay_id).ok(),
        }
    }

    /// Writes it onto the `101`.
    pub async fn tell(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.id {
            headers.insert(X_RELAY_ID, id.clone());
        }
        if self.backplane.is_single() {
            return;
        }
        let Ok(Ok(mut others)) = tokio::time::timeout(WITHIN, self.backplane.others()).await else { return };
        // So that agents spread.
        others.shuffle(&mut rand::rng());
        if let Some(list) = list(&others, self.own.as_ref()) {
            headers.insert(X_RELAY_OTHERS, list);
        }
    }
}

/// Their public addresses, each once, and not the one that this relay has too.
fn list(others: &[Holder], own: Option<&Url>) -> Option<HeaderValue> {
    let mut bases: Vec<String> = Vec::new();
    for address in others.iter().filter_map(|other| other.public_ws.as_ref()) {
        // A comma would be read as the next one's beginning.
        let base = http_base(address).filter(|base| !base.contains(','));
        if let Some(base) = base.filter(|base| Some(address) != own && !bases.contains(base)) {
            bases.push(base);
        }
        if bases.len() == MAX_OTHERS {
            break;
        }
    }
    if bases.is_empty() { None } else { HeaderValue::try_from(bases.join(", ")).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(address: &str) -> Holder {
        Holder { relay: "r".into(), public_ws: Url::parse(address).ok(), internal: None }
    }

    #[test]
    fn bases_for_http_each_once_and_not_our_own() {
        let own = Url::parse("wss://a.example").unwrap();
        for (addresses, expected) in [
            (&[][..], None),
            (&["", "wss://a.example/"], None),
            (&["wss://b.example", "wss://b.example/"], Some("https://b.example")),
            (
                &["ws://b.example:81/under/", "wss://a.example", "wss://c.example"],
                Some("http://b.example:81/under, https://c.example"),
            ),
            (&["wss://b.example/a,https://evil.example"], None),
        ] {
            let others: Vec<_> = addresses.iter().map(|address| holder(address)).collect();
            let found = list(&others, Some(&own));
            assert_eq!(found.as_ref().and_then(|v| v.to_str().ok()), expected, "{addresses:?}");
        }
        let many: Vec<_> = (0..20).map(|n| holder(&format!("wss://r{n}.example"))).collect();
        assert_eq!(list(&many, None).unwrap().to_str().unwrap().split(", ").count(), MAX_OTHERS);
    }
}
