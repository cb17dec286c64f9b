//! The OpenID Connect provider: what it publishes, its access tokens, and signing people in with it.
//!
//! The provider is trusted to say who somebody is and with nothing else. What it answers is bounded and checked
//! like any other input; what arrives by a browser (codes, states, errors) may come from anybody. A person whom
//! it knows is a user here only when whoever runs the relay linked the two, or lets everybody in
//! (RELAY_OIDC_AUTO_CREATE); an e-mail address alone never makes somebody an existing user.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `discovery` | what the provider publishes about itself, kept at hand |
//! | `access` | what an access token says. Pure |
//! | `flow` | what a browser keeps between leaving for the provider and coming back. Pure |
//! | `exchange` | from a code to who it is |
//! | `people` | from who it is to a user of ours |

pub mod access;
mod discovery;
pub mod exchange;
pub mod flow;
mod people;

use std::sync::Arc;

use serde_json::{Map, Value};

use self::discovery::Discovery;
pub use self::exchange::SignInError;
pub use self::people::{Refused, adopt};
use super::jwks::{Jwks, JwksError, Rules};
use super::jws::{self, BadToken, Token};
use super::metrics::Fetches;
use crate::config::oidc::Oidc;
use crate::outbound::Client;

/// How far the provider's clock may be from ours, in seconds.
const LEEWAY: u32 = 60;

/// The provider.
pub struct Provider {
    config: Oidc,
    http: Client,
    discovery: Discovery,
    /// At the address that was configured; else discovery has it.
    keys: Option<Arc<Jwks>>,
    codes: Fetches,
}

impl Provider {
    /// As configured; `dev` allows addresses without TLS that are not this machine's. Nothing is fetched yet.
    pub fn new(config: Oidc, http: Client, dev: bool) -> Arc<Self> {
        let keys = config.jwks_url.clone().map(|url| Jwks::new(url, http.clone()));
        Arc::new(Self {
            discovery: Discovery::new(&config.issuer, http.clone(), dev),
            codes: Fetches::new("code"),
            config,
            http,
            keys,
        })
    }

    /// How it was configured.
    pub fn config(&self) -> &Oidc {
        &self.config
    }

    async fn keys(&self) -> Result<Arc<Jwks>, JwksError> {
        match &self.keys {
            Some(keys) => Ok(keys.clone()),
            None => match self.discovery.get().await {
                Ok(found) => Ok(found.keys.clone()),
                Err(error) => Err(JwksError::Unavailable(error.to_string())),
            },
        }
    }

    /// The claims of a token that the provider made for this audience.
    async fn verify(&self, token: &Token<'_>, audience: &str) -> Result<Map<String, Value>, JwksError> {
        let rules = Rules {
            issuer: Some(self.config.issuer.clone()),
            audience: Some(audience.to_owned()),
            leeway_seconds: LEEWAY,
        };
        self.keys().await?.verify_token(token, &rules).await
    }

    /// Whether callers may come with the provider's access tokens, and this may be one.
    pub fn may_be_its(&self, token: &str) -> bool {
        self.config.audience.is_some() && Token::read(token).is_ok()
    }

    /// The claims of an access token for the relay.
    ///
    /// # Errors
    /// [`JwksError`].
    pub async fn access_token(&self, token: &str) -> Result<Map<String, Value>, JwksError> {
        let audience = self.config.audience.as_deref().ok_or(BadToken::Audience)?;
        // What says itself that it is another's needs no keys to be refused.
        let says = jws::claims_unverified(token);
        if says.as_ref().and_then(|claims| claims.get("iss")).and_then(Value::as_str)
            != Some(&self.config.issuer)
        {
            return Err(BadToken::Issuer.into());
        }
        let token = Token::read(token)?;
        let claims = self.verify(&token, audience).await?;
        access::check(token.typ.as_deref(), &claims)?;
        Ok(claims)
    }

    /// Whether the token says that it was made by the provider for the relay, good or not: such a one is not for a
    /// local server to see.
    pub fn is_for_us(&self, token: &str) -> bool {
        let Some(audience) = &self.config.audience else { return false };
        jws::claims_unverified(token).is_some_and(|claims| {
            claims.get("iss").and_then(Value::as_str) == Some(&self.config.issuer)
                && jws::is_for(&claims, audience)
        })
    }
}
