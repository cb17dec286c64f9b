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

/// Whether what is said there stays between the relay and whoever answers: over TLS, or on this machine; anywhere
/// in development.
pub fn is_safe(url: &Url, dev: bool) -> bool {
    let local = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && (dev || local))
}

pub(super) fn read(values: &Reader) -> Result<Option<Oidc>, ConfigError> {
    let Some(issuer) = values.text(Key::OidcIssuer) else {
        let alone = [Key::OidcAudience, Key::OidcJwksUrl, Key::OidcClientId, Key::OidcClientSecret];
        return match alone.into_iter().find(|key| values.text(*key).is_some()) {
            Some(key) => {
                Err(together(format!("{} is set and RELAY_OIDC_ISSUER is not", key.setting().env.join(", "))))
            }
            None => Ok(None),
        };
    };
    let dev = values.text(Key::Mode).as_deref() == Some("dev");
    let jwks_url = values.optional(Key::OidcJwksUrl, parse::public_url)?;
    let plain = |url: &Url| !is_safe(url, dev);
    if parse::public_url(&issuer).as_ref().is_none_or(plain) || jwks_url.as_ref().is_some_and(plain) {
        return Err(together(
            "RELAY_OIDC_ISSUER and RELAY_OIDC_JWKS_URL have to be https URLs: whoever could answer in the provider's \
             place could be anybody here. http is for this machine, and for RELAY_MODE=dev"
                .to_owned(),
        ));
    }
    if values.text(Key::OidcClientId).is_none() && values.text(Key::OidcClientSecret).is_some() {
        return Err(together("RELAY_OIDC_CLIENT_SECRET is set and RELAY_OIDC_CLIENT_ID is not".to_owned()));
    }
    let scopes = values.text(Key::OidcScopes).unwrap_or_default();
    let client = values.text(Key::OidcClientId).map(|id| Client {
        id,
        secret: values.secret(Key::OidcClientSecret),
        // Without it the provider would not say who it is.
        scopes: std::iter::once("openid")
            .chain(scopes.split_whitespace().filter(|scope| *scope != "openid"))
            .map(str::to_owned)
            .collect(),
    });
    Ok(Some(Oidc {
        issuer,
        jwks_url,
        audience: values.text(Key::OidcAudience),
        client,
        auto_create: values.required(Key::OidcAutoCreate, parse::flag)?,
        name: values.text(Key::OidcName).unwrap_or_default(),
    }))
}

fn together(text: String) -> ConfigError {
    ConfigError::Together(text)
}
