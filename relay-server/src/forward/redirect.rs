//! Where a browser may be sent instead of its request being passed on.
//!
//! The address comes from the relays' common knowledge, which somebody else may have written: so it has to be one
//! that the operator allowed. And not everybody can follow: a browser follows no redirect of an upgrade; a page that
//! came from here may not read what another origin answers; a paired browser takes no redirect for an answer,
//! because nothing shows who made it.

use http::header::{self, HeaderMap, HeaderValue};
use relay_protocol::AGENT_PREFIX;
use url::Url;

use crate::config::Config;
use crate::config::relays::{Relays, http_base};
use crate::proxy::path;

/// The operator's choice.
#[derive(Debug, Clone)]
pub struct Rules {
    relays: Relays,
    /// Whether addresses without TLS will do.
    dev: bool,
}

impl Rules {
    /// From the configuration.
    pub fn new(config: &Config) -> Self {
        Self { relays: config.relays.clone(), dev: config.frames.dev }
    }

    /// Where this request may be sent to ask again, when its host is at the relay with this public address.
    pub fn location(&self, public_ws: &Url, headers: &HeaderMap, target: &str) -> Option<HeaderValue> {
        if !can_follow(headers, target) || !self.relays.may_redirect_to(public_ws, self.dev) {
            return None;
        }
        HeaderValue::try_from(format!("{}{target}", http_base(public_ws)?)).ok()
    }
}

/// Whether whoever asks can be sent elsewhere.
fn can_follow(headers: &HeaderMap, target: &str) -> bool {
    // Only paired browsers, and those that pair, call the agent itself.
    if path::split(target).is_some_and(|target| target.rest.starts_with(AGENT_PREFIX)) {
        return false;
    }
    let by_page = headers.get("sec-fetch-mode").is_some_and(|mode| mode != "navigate");
    !by_page && !headers.contains_key(header::UPGRADE) && !headers.contains_key("signature")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allowed: &[&str]) -> Rules {
        let relays = Relays {
            public_ws_base_url: Url::parse("wss://a.example").ok(),
            redirect: true,
            redirect_allowed_hosts: allowed.iter().map(|host| (*host).to_owned()).collect(),
            ..Relays::alone()
        };
        Rules { relays, dev: false }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_allowed_addresses() {
        for (address, allowed) in [
            ("wss://b.example", true),
            ("ws://b.example", false),
            ("wss://c.example", false),
            ("wss://a.example", false),
        ] {
            let url = Url::parse(address).unwrap();
            let to = rules(&["b.example"]).location(&url, &HeaderMap::new(), "/x");
            assert_eq!(to.is_some(), allowed, "{address}");
        }
    }

    #[test]
    fn the_same_path_there() {
        for (address, location) in [
            ("wss://b.example", "https://b.example/v1/relay/h/x?q=%20"),
            ("wss://b.example:8443/", "https://b.example:8443/v1/relay/h/x?q=%20"),
            ("wss://b.example/under/", "https://b.example/under/v1/relay/h/x?q=%20"),
        ] {
            let url = Url::parse(address).unwrap();
            let found =
                rules(&["b.example"]).location(&url, &HeaderMap::new(), "/v1/relay/h/x?q=%20").unwrap();
            assert_eq!(found, location);
        }
    }

    #[test]
    fn only_those_who_can_follow() {
        let b = Url::parse("wss://b.example").unwrap();
        for (pairs, follows) in [
            (&[][..], true),
            (&[("accept", "text/html"), ("sec-fetch-mode", "navigate")], true),
            (&[("sec-fetch-mode", "cors")], false),
            (&[("sec-fetch-mode", "no-cors")], false),
            (&[("sec-fetch-mode", "same-origin")], false),
            (&[("sec-fetch-mode", "websocket"), ("upgrade", "websocket")], false),
            (&[("upgrade", "websocket")], false),
            (&[("signature", "a=:AA==:")], false),
        ] {
            let to = rules(&["b.example"]).location(&b, &headers(pairs), "/x");
            assert_eq!(to.is_some(), follows, "{pairs:?}");
        }
    }

    #[test]
    fn what_the_agent_itself_answers_is_never_elsewhere() {
        let b = Url::parse("wss://b.example").unwrap();
        let id = "0d1f0c57-3b4e-4a7f-9e38-0a4b4c5d6e7f";
        for (rest, follows) in
            [("/_relay/pairing/start", false), ("/_relay/exchange", false), ("/x/_relay", true)]
        {
            let target = format!("/v1/relay/h/{id}/s/{id}{rest}");
            let to = rules(&["b.example"]).location(&b, &HeaderMap::new(), &target);
            assert_eq!(to.is_some(), follows, "{rest}");
        }
    }
}
