//! Bearer tokens, whoever made them: the relay (or the web app that shares its secret), or the provider.
//!
//! The header's `alg` tells which: HS256 is ours, the rest the provider's where one is configured. Either way a token
//! is good only while the auth session that it hangs on is live, so that everything can be ended here.

use std::sync::Arc;

use uuid::Uuid;

use super::jwks::JwksError;
use super::jws::BadToken;
use super::metrics::ProviderTokens;
use super::oidc::{self, Provider, access};
use super::token::Verifier;
use crate::clock::unix_now;
use crate::store::{Identity, Person, Store, StoreError};
use crate::telemetry::seldom::Seldom;

/// Whose a good token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The user.
    pub user: Uuid,
    /// The auth session.
    pub auth_session: Uuid,
    /// The token's `exp`.
    pub expires_at: i64,
}

/// Why a token is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// Bad, whatever the reason. The text is for the log.
    #[error("{0}")]
    Refused(String),
    /// The provider's keys cannot be had.
    #[error("{0}")]
    Provider(String),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BearerError {
    fn refused(reason: impl ToString) -> Self {
        Self::Refused(reason.to_string())
    }
}

impl From<BadToken> for BearerError {
    fn from(reason: BadToken) -> Self {
        Self::refused(reason)
    }
}

/// Judges tokens.
pub struct Bearers {
    own: Verifier,
    provider: Option<Arc<Provider>>,
    store: Store,
    provider_tokens: ProviderTokens,
    said: Seldom<Said>,
}

/// What the log is told now and then, however many tokens come.
#[derive(PartialEq, Eq, Hash)]
enum Said {
    /// The provider's keys cannot be had.
    Away,
    /// This person has good tokens of the provider and is nobody here.
    Nobody(String),
}

impl Bearers {
    /// With our secret's verifier, and the provider if there is one.
    pub fn new(own: Verifier, provider: Option<Arc<Provider>>, store: Store) -> Self {
        Self { own, provider, store, provider_tokens: ProviderTokens::new(), said: Seldom::default() }
    }

    /// The provider.
    pub fn provider(&self) -> Option<&Arc<Provider>> {
        self.provider.as_ref()
    }

    /// Whether the token was made for the relay, good or not: such a one is not for a local server to see.
    pub fn is_ours(&self, token: &str) -> bool {
        self.own.is_ours(token) || self.provider.as_ref().is_some_and(|provider| provider.is_for_us(token))
    }

    /// Whose the token is.
    ///
    /// # Errors
    /// [`BearerError`].
    pub async fn check(&self, token: &str) -> Result<Holder, BearerError> {
        match self.provider.as_ref().filter(|provider| provider.may_be_its(token)) {
            Some(provider) => {
                let judged = self.of_provider(provider, token).await;
                match &judged {
                    Ok(_) => &self.provider_tokens.ok,
                    Err(BearerError::Refused(_)) => &self.provider_tokens.refused,
                    Err(BearerError::Provider(_) | BearerError::Store(_)) => {
                        &self.provider_tokens.unavailable
                    }
                }
                .increment(1);
                judged
            }
            None => self.own(token).await,
        }
    }

    /// The same for a token that the relay alone makes: the one in the portal's cookie.
    ///
    /// # Errors
    /// [`BearerError`].
    pub async fn own(&self, token: &str) -> Result<Holder, BearerError> {
        let counted = &self.own.metrics;
        let claims = self.own.verify(token, unix_now()).map_err(|reason| {
            counted.refused(&reason);
            BearerError::refused(reason)
        })?;
        let judged = self.live(claims.sub, claims.session_id, claims.exp).await;
        match &judged {
            Ok(_) => &counted.ok,
            Err(BearerError::Store(_)) => &counted.store,
            Err(BearerError::Refused(_) | BearerError::Provider(_)) => &counted.revoked,
        }
        .increment(1);
        judged
    }

    /// A caller came without a token.
    pub fn missing(&self) {
        self.own.metrics.missing.increment(1);
    }

    async fn of_provider(&self, provider: &Provider, token: &str) -> Result<Holder, BearerError> {
        let claims = provider.access_token(token).await.map_err(|error| match error {
            JwksError::Unavailable(reason) => {
                if self.said.is_due(Said::Away) {
                    tracing::warn!(%reason, "tokens of the provider cannot be checked");
                }
                BearerError::Provider(reason)
            }
            JwksError::Bad(reason) => reason.into(),
        })?;
        let expires_at = access::expires_at(&claims);
        if self.store.identity() == Identity::WebApp {
            let (user, session) = access::of_web_app(&claims)?;
            return self.live(user, session, expires_at).await;
        }
        let config = provider.config();
        let who = Person { issuer: &config.issuer, subject: access::subject(&claims)? };
        let (grounds, client) = access::grounds(&claims)?;
        let user = oidc::adopt(&self.store, who, None, config.auto_create).await.map_err(|error| match error {
            oidc::Refused::Store(error) => BearerError::Store(error),
            refused => {
                if self.said.is_due(Said::Nobody(who.subject.to_owned())) {
                    tracing::info!(target: "relay::audit", subject = ?who.subject, reason = %refused, "a token of the provider was refused");
                }
                BearerError::refused(refused)
            }
        })?;
        let name = format!("{client} ({})", config.name);
        let session = self.store.provider_session(who, grounds, access::issued_at(&claims), &name).await?;
        match session {
            Some(session) => self.live(user, session, expires_at).await,
            None => Err(BearerError::refused("the session was ended")),
        }
    }

    async fn live(&self, user: Uuid, auth_session: Uuid, expires_at: i64) -> Result<Holder, BearerError> {
        if self.store.auth_session_live(auth_session, user).await? {
            Ok(Holder { user, auth_session, expires_at })
        } else {
            Err(BearerError::refused("the session has ended"))
        }
    }
}
