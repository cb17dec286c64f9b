//! Who calls the relay's own API: a verified token whose auth session is alive.
//!
//! A tunnel is opened with a Bearer token alone ([`by_bearer`]). The API also takes the portal's cookie
//! ([`crate::auth::credential`] says when), except where a web app owns the users: it has its own cookies,
//! and ours is nobody's.

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;
use relay_protocol::problem::Code;
use std::sync::Arc;
use uuid::Uuid;

use super::front::Context;
use super::problem::Refusal;
use super::routes::{Api, of_store};
use crate::auth::bearer::{BearerError, Bearers, Holder};
use crate::auth::credential::{self, Credential};
use crate::store::Store;

/// Who calls, once the token has been believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user: Uuid,
    /// The auth session of the token.
    pub auth_session: Uuid,
    /// The token's `exp`.
    pub expires_at: i64,
    /// Whether the token came in the cookie.
    pub by_cookie: bool,
}

/// The caller by the Bearer token alone.
///
/// # Errors
/// `unauthorized` for every kind of bad token, so that nobody learns which; `store_unavailable`
/// when the database does not answer, `provider_unavailable` when the provider whose token it is does not.
pub async fn by_bearer(headers: &HeaderMap, bearers: &Bearers) -> Result<Caller, Refusal> {
    let token = credential::bearer(headers).ok_or_else(|| missing(bearers))?;
    told(bearers.check(token).await, false)
}

fn told(judged: Result<Holder, BearerError>, by_cookie: bool) -> Result<Caller, Refusal> {
    match judged {
        Ok(Holder { user, auth_session, expires_at }) => {
            Ok(Caller { user, auth_session, expires_at, by_cookie })
        }
        Err(BearerError::Refused(reason)) => {
            tracing::debug!(%reason, "a token was refused");
            Err(unauthorized())
        }
        Err(BearerError::Provider(reason)) => {
            tracing::debug!(%reason, "a token of the provider could not be checked");
            Err(Refusal::new(
                Code::ProviderUnavailable,
                "The identity provider that made this token does not answer. Try again in a few seconds.",
            ))
        }
        Err(BearerError::Store(error)) => Err(of_store(error)),
    }
}

impl Caller {
    /// Whether a person signed in with a browser, as opposed to a token or a device that was let in: what these
    /// may do ends with them, so they may neither let in others nor lock out the person.
    ///
    /// # Errors
    /// `unauthorized` for all others.
    pub async fn must_be_a_browser(&self, store: &Store) -> Result<(), Refusal> {
        if store.is_browser_sign_in(self.auth_session).await.map_err(of_store)? {
            return Ok(());
        }
        Err(Refusal::new(
            Code::Unauthorized,
            "This takes a person who has signed in with a browser; tokens and devices may not do it.",
        ))
    }
}

fn missing(bearers: &Bearers) -> Refusal {
    bearers.missing();
    unauthorized()
}

/// What everybody gets who has no good token.
pub fn unauthorized() -> Refusal {
    Refusal::new(Code::Unauthorized, "The token is missing, expired or revoked. Sign in again.")
}

/// What a request gets that a foreign page may have made.
pub fn csrf_refused() -> Refusal {
    Refusal::new(
        Code::CsrfRefused,
        "The cookie counts only on requests of the relay's own pages, with the header x-relay-csrf: 1.",
    )
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let context = parts.extensions.get::<Context>().ok_or_else(unauthorized)?;
        let own = |origin: &_| api.policy.is_portal(origin, &context.client);
        match credential::of(&parts.headers, api.place.scheme(&context.client), own) {
            Credential::Bearer(token) => told(api.bearers.check(token.0).await, false),
            // Where it does not count it is as if it were not there.
            Credential::Cookie(_) | Credential::Forged if !api.takes_cookies(context) => Err(unauthorized()),
            Credential::Cookie(token) => told(api.bearers.own(token.0).await, true),
            Credential::Forged => Err(csrf_refused()),
            Credential::Missing => Err(missing(&api.bearers)),
        }
    }
}

impl Api {
    /// Whether the portal and its cookie are good for requests that came so.
    pub(super) fn takes_cookies(&self, context: &Context) -> bool {
        self.place.counts(&self.store, &context.client)
    }
}
