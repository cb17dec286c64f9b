//! The OpenID Connect provider.

use url::Url;

use super::settings::Key;
use super::{ConfigError, Reader, SecretText, parse};

/// A provider, and what it is good for.
#[derive(Debug, Clone)]
pub struct Oidc {
    /// Its issuer, exactly as it stands in tokens.
    pub issuer: String,
    /// Its key set, when it is not taken from discovery.
    pub jwks_url: Option<Url>,
    /// What access tokens for the relay have as `aud`; `None` takes none.
    pub audience: Option<String>,
    /// The client as which people sign in; `None` lets nobody.
    pub client: Option<Client>,
    /// Whether unknown people become users.
    pub auto_create: bool,
    /// How the portal calls it.
    pub name: String,
}

/// The relay as the provider's client.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// Its secret, unless it is public.
    pub secret: Option<SecretText>,
    /// What to ask for.
    pub scopes: Vec<String>,
}

pub(super) fn read(values: &Reader) -> Result<Option<Oidc>, ConfigError> {
    let Some(issuer) = values.text(Key::OidcIssuer) else { return Ok(None) };
    let scopes = values.text(Key::OidcScopes).unwrap_or_default();
    let client = values.text(Key::OidcClientId).map(|id| Client {
        id,
        secret: values.secret(Key::OidcClientSecret),
        scopes: scopes.split_whitespace().map(str::to_owned).collect(),
    });
    Ok(Some(Oidc {
        issuer,
        jwks_url: values.optional(Key::OidcJwksUrl, parse::public_url)?,
        audience: values.text(Key::OidcAudience),
        client,
        auto_create: values.required(Key::OidcAutoCreate, parse::flag)?,
        name: values.text(Key::OidcName).unwrap_or_default(),
    }))
}
