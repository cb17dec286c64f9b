//! What a provider publishes about itself (OpenID Connect Discovery), kept at hand.
//!
//! It says where people are sent and where codes go, so it has to come from the issuer itself and over TLS, and
//! name that issuer to the letter. It changes seldom: it is fetched when it is first needed and renewed every hour;
//! while the provider is away the last one goes on counting, because all that it leads to is away as well.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::auth::jwks::Jwks;
use crate::auth::metrics::Fetches;
use crate::config::oidc::is_safe;
use crate::config::parse;
use crate::outbound::{Bounds, Client};

/// Such a document has a few KiB.
const BOUNDS: Bounds = Bounds { within: Duration::from_secs(2), max_bytes: 256 * 1024 };
/// How often it is fetched anew.
const RENEW: Duration = Duration::from_secs(60 * 60);
/// How long after a failure the next try waits.
const RETRY: Duration = Duration::from_secs(10);

/// Why nothing is known of the provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the provider's discovery document: {0}")]
pub(super) struct DiscoveryError(String);

/// What matters of it here.
pub(super) struct Found {
    pub(super) authorization: Url,
    pub(super) token: Url,
    pub(super) userinfo: Option<Url>,
    pub(super) keys: Arc<Jwks>,
    /// Whether the client's secret goes into the body of the request.
    pub(super) secret_in_body: bool,
    /// Whether answers to the browser name the issuer (RFC 9207).
    pub(super) names_issuer: bool,
    keys_url: Url,
}

#[derive(Debug, Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    userinfo_endpoint: Option<String>,
    jwks_uri: String,
    code_challenge_methods_supported: Option<Vec<String>>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// The document, checked. Pure.
#[derive(Debug, PartialEq, Eq)]
struct Checked {
    authorization: Url,
    token: Url,
    userinfo: Option<Url>,
    keys: Url,
    secret_in_body: bool,
    names_issuer: bool,
}

impl Document {
    fn check(self, issuer: &str, dev: bool) -> Result<Checked, DiscoveryError> {
        if self.issuer != issuer {
            return Err(DiscoveryError(format!("it is of another issuer than {issuer}")));
        }
        let url = |what: &str, text: &str| {
            endpoint(text)
                .filter(|url| is_safe(url, dev))
                .ok_or_else(|| DiscoveryError(format!("{what} is no https URL")))
        };
        // RFC 8414: without the list nothing is said. With it, PKCE has to be among it.
        if self.code_challenge_methods_supported.is_some_and(|known| !known.iter().any(|one| one == "S256")) {
            return Err(DiscoveryError("the provider does not do PKCE with S256".to_owned()));
        }
        let in_body = |methods: &Vec<String>| {
            let has = |name: &str| methods.iter().any(|method| method == name);
            has("client_secret_post") && !has("client_secret_basic")
        };
        Ok(Checked {
            authorization: url("authorization_endpoint", &self.authorization_endpoint)?,
            token: url("token_endpoint", &self.token_endpoint)?,
            userinfo: self.userinfo_endpoint.map(|text| url("userinfo_endpoint", &text)).transpose()?,
            keys: url("jwks_uri", &self.jwks_uri)?,
            secret_in_body: self.token_endpoint_auth_methods_supported.as_ref().is_some_and(in_body),
            names_issuer: self.authorization_response_iss_parameter_supported,
        })
    }
}

/// An endpoint may have a query, and nothing else besides a path.
fn endpoint(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let mut bare = url.clone();
    bare.set_query(None);
    parse::public_url(bare.as_str()).map(|_| url)
}

#[derive(Default)]
struct State {
    known: Option<(Arc<Found>, Instant)>,
    failed: Option<(DiscoveryError, Instant)>,
}

/// The document of one provider.
pub(super) struct Discovery {
    issuer: String,
    dev: bool,
    http: Client,
    fetches: Fetches,
    /// Held while it is fetched, so that all who need it wait for one answer: two seconds at the most.
    state: tokio::sync::Mutex<State>,
}

impl Discovery {
    pub(super) fn new(issuer: &str, http: Client, dev: bool) -> Self {
        Self {
            issuer: issuer.to_owned(),
            dev,
            http,
            fetches: Fetches::new("discovery"),
            state: tokio::sync::Mutex::default(),
        }
    }

    /// What the provider publishes.
    pub(super) async fn get(&self) -> Result<Arc<Found>, DiscoveryError> {
        let fresh = |(found, at): &(Arc<Found>, Instant)| (at.elapsed() < RENEW).then(|| found.clone());
        let mut state = self.state.lock().await;
        if let Some(found) = state.known.as_ref().and_then(fresh) {
            return Ok(found);
        }
        let known = state.known.as_ref().map(|(found, _)| found.clone());
        if let Some((error, _)) = state.failed.as_ref().filter(|(_, at)| at.elapsed() < RETRY) {
            return known.ok_or_else(|| error.clone());
        }
        let fetched = self.fetch(known.as_ref()).await;
        self.fetches.count(fetched.is_ok());
        match fetched {
            Ok(found) => {
                let found = Arc::new(found);
                state.failed = None;
                state.known = Some((found.clone(), Instant::now()));
                Ok(found)
            }
            Err(error) => {
                tracing::warn!(%error, "the OpenID Connect provider is of no use");
                state.failed = Some((error.clone(), Instant::now()));
                known.ok_or(error)
            }
        }
    }

    async fn fetch(&self, known: Option<&Arc<Found>>) -> Result<Found, DiscoveryError> {
        let at = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let url = Url::parse(&at).map_err(|error| DiscoveryError(error.to_string()))?;
        let document: Document =
            self.http.get_json(&url, BOUNDS).await.map_err(|error| DiscoveryError(error.to_string()))?;
        let checked = document.check(&self.issuer, self.dev)?;
        // The keys at hand stay while they are published at the same place.
        let keys = match known.filter(|known| known.keys_url == checked.keys) {
            Some(known) => known.keys.clone(),
            None => Jwks::new(checked.keys.clone(), self.http.clone()),
        };
        Ok(Found {
            authorization: checked.authorization,
            token: checked.token,
            userinfo: checked.userinfo,
            keys,
            secret_in_body: checked.secret_in_body,
            names_issuer: checked.names_issuer,
            keys_url: checked.keys,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    const ISSUER: &str = "https://id.example/realm";

    fn document(more: Value) -> Document {
        let mut document = json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://id.example/auth?tenant=1",
            "token_endpoint": "https://id.example/token",
            "jwks_uri": "https://keys.example/jwks",
        });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn documents() {
        for (more, good) in [
            (json!({}), true),
            (json!({"code_challenge_methods_supported": ["plain", "S256"]}), true),
            (json!({"userinfo_endpoint": "https://id.example/me", "more": {"x": 1}}), true),
            (json!({"issuer": "https://id.example/realm/"}), false),
            (json!({"issuer": "https://ID.example/realm"}), false),
            (json!({"issuer": "https://evil.example"}), false),
            (json!({"token_endpoint": "http://id.example/token"}), false),
            (json!({"token_endpoint": "http://127.0.0.1:9/token"}), true),
            (json!({"jwks_uri": "file:///etc/passwd"}), false),
            (json!({"jwks_uri": "https://a:b@id.example/jwks"}), false),
            (json!({"authorization_endpoint": "javascript:alert(1)"}), false),
            (json!({"authorization_endpoint": "https://id.example/auth#x"}), false),
            (json!({"userinfo_endpoint": "http://id.example/me"}), false),
            (json!({"code_challenge_methods_supported": ["plain"]}), false),
            (json!({"code_challenge_methods_supported": []}), false),
        ] {
            assert_eq!(document(more.clone()).check(ISSUER, false).is_ok(), good, "{more}");
        }
        assert!(document(json!({"token_endpoint": "http://id.internal/token"})).check(ISSUER, true).is_ok());
    }

    #[test]
    fn how_the_client_shows_its_secret() {
        for (methods, in_body) in [
            (json!(null), false),
            (json!(["client_secret_basic", "client_secret_post"]), false),
            (json!(["client_secret_post", "private_key_jwt"]), true),
            (json!(["none"]), false),
        ] {
            let more = json!({"token_endpoint_auth_methods_supported": methods});
            assert_eq!(document(more).check(ISSUER, false).unwrap().secret_in_body, in_body);
        }
    }
}
