//! Leaving for the OpenID Connect provider, and coming back.
//!
//! Both are navigations, so whatever goes wrong is told by the portal's own page: the answer is always a redirect
//! to one of few fixed addresses, never to anything that a request names. What ends well ends as a password does,
//! with the same cookie. A page of another site can begin none of it, and an answer counts only in the browser
//! that asked (see [`crate::auth::oidc::flow`]).

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Json;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use relay_protocol::api::{Offered, OfferedProvider};
use relay_protocol::problem::Code;
use uuid::Uuid;

use super::super::front::Context;
use super::super::problem::Refusal;
use super::super::routes::{Answer, Api, not_found, of_store};
use super::account::{browser_name, set_cookie, tell_signed_in};
use super::{AUDIT, COOKIE, admit, after, internal};
use crate::auth::oidc::exchange::CameBack;
use crate::auth::oidc::flow::{self, Kept, LIFE, Sealer};
use crate::auth::oidc::{Provider, Refused, SignInError, adopt};
use crate::auth::token::Secret;
use crate::clock::unix_now;
use crate::store::{NewSignIn, Person};

/// Tells what is offered.
pub(super) const OFFERED: &str = "/v1/auth/providers";
/// Where people leave.
pub(super) const BEGIN: &str = "/v1/auth/oidc";
/// Where they come back; the provider has to be told it.
pub(super) const BACK: &str = "/v1/auth/oidc/callback";
/// The portal's first page.
const IN: &str = "/#/";

/// What became of somebody who did not get in; the portal has a text for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Not begun in this browser, or too long ago.
    Expired,
    /// The person or the provider said no.
    Refused,
    /// Known there, unknown here.
    Unknown,
    /// Somebody else here has the address.
    Taken,
    /// The provider is away or answers nonsense.
    Unavailable,
    /// Too often, or the relay's own fault.
    Busy,
}

impl Outcome {
    fn address(self) -> &'static str {
        match self {
            Self::Expired => "/#/sso/expired",
            Self::Refused => "/#/sso/refused",
            Self::Unknown => "/#/sso/unknown",
            Self::Taken => "/#/sso/taken",
            Self::Unavailable => "/#/sso/unavailable",
            Self::Busy => "/#/sso/busy",
        }
    }
}

impl From<&SignInError> for Outcome {
    fn from(error: &SignInError) -> Self {
        match error {
            SignInError::NotBegun | SignInError::NotOurs(_) => Self::Expired,
            SignInError::Refused(_) => Self::Refused,
            SignInError::Unavailable(_) | SignInError::Token(_) | SignInError::Off => Self::Unavailable,
        }
    }
}

impl From<&Refused> for Outcome {
    fn from(refused: &Refused) -> Self {
        match refused {
            Refused::Unknown => Self::Unknown,
            Refused::EmailTaken => Self::Taken,
            Refused::Store(_) => Self::Busy,
        }
    }
}

/// The provider, where people sign in with it.
pub(super) struct FromProvider {
    provider: Arc<Provider>,
    sealer: Sealer,
}

impl FromProvider {
    pub(super) fn new(provider: Arc<Provider>, secret: &Secret) -> Option<Self> {
        if !provider.signs_in() {
            return None;
        }
        match Sealer::new(secret) {
            Ok(sealer) => Some(Self { provider, sealer }),
            Err(error) => {
                tracing::error!(%error, "nobody can sign in with the provider");
                None
            }
        }
    }
}

/// Which ways there are besides a password; anybody may know.
pub(super) async fn offered(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<Context>,
) -> Answer<Json<Offered>> {
    let of = |from: &FromProvider| OfferedProvider {
        name: from.provider.config().name.clone(),
        path: BEGIN.to_owned(),
    };
    let found = api.sign_in.provider.iter().filter(|_| api.takes_cookies(&context));
    Ok(Json(Offered { providers: found.map(of).collect() }))
}

/// The way for those to whom it is open.
fn way<'a>(api: &'a Api, context: &Context) -> Answer<&'a FromProvider> {
    api.sign_in.provider.as_ref().filter(|_| api.takes_cookies(context)).ok_or_else(not_found)
}

pub(super) async fn begin(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
) -> Answer<Response<Body>> {
    let from = way(&api, &context)?;
    if flow::from_another_site(&headers, |origin| api.policy.is_portal(origin, &context.client)) {
        return Err(Refusal::new(
            Code::CsrfRefused,
            "Signing in begins on the relay's own page. Open it, then try again.",
        ));
    }
    let Some(base) = api.sign_in.base(&context) else { return to(Outcome::Expired.address()) };
    let (address, kept) = match from.provider.begin(&format!("{base}{BACK}")).await {
        Ok(begun) => begun,
        Err(error) => return failed(&api, &context, &error.to_string(), Outcome::from(&error)),
    };
    let sealed = from.sealer.seal(&kept).map_err(internal)?;
    let mut response = to(address.as_str())?;
    keep(&api, &context, &mut response, &sealed, LIFE)?;
    Ok(response)
}

pub(super) async fn back(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<Context>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer<Response<Body>> {
    let from = way(&api, &context)?;
    if !flow::is_navigation(&headers) {
        return Err(Refusal::new(
            Code::CsrfRefused,
            "People come back here from the provider by themselves. Sign in on the relay's own page.",
        ));
    }
    let kept: Option<Kept> = flow::cookie(&headers, api.place.scheme(&context.client))
        .and_then(|cookie| from.sealer.open(cookie, unix_now()));
    let came = CameBack::read(&query.unwrap_or_default());
    let Some((kept, came)) = kept.zip(came).filter(|(kept, came)| came.answers(kept)) else {
        // Any page can send a browser here. It costs nobody's attempts, and a sign-in that is under way goes on.
        tracing::debug!(client = %context.client.addr, "sign-in failed: not begun in this browser, or too long ago");
        return to(Outcome::Expired.address());
    };
    let mut response = match admit(&api, &context, &headers) {
        Ok(()) => finish(&api, &context, from, &headers, (kept, came)).await?,
        Err(_) => to(Outcome::Busy.address())?,
    };
    // Good once, however it ended.
    keep(&api, &context, &mut response, "", 0)?;
    Ok(response)
}

async fn finish(
    api: &Api,
    context: &Context,
    from: &FromProvider,
    headers: &HeaderMap,
    (kept, came): (Kept, CameBack),
) -> Answer<Response<Body>> {
    let config = from.provider.config();
    let someone = match from.provider.finish(came, &kept).await {
        Ok(someone) => someone,
        Err(error) => return failed(api, context, &error.to_string(), Outcome::from(&error)),
    };
    let who = Person { issuer: &config.issuer, subject: &someone.subject };
    // The address is needed only for somebody who is to become a user.
    let mut email = None;
    if config.auto_create && api.store.user_of_identity(who).await.map_err(of_store)?.is_none() {
        email = match from.provider.verified_email(&someone).await {
            Ok(email) => email,
            Err(error) => return failed(api, context, &error.to_string(), Outcome::from(&error)),
        };
    }
    if let Err(refused) = adopt(&api.store, who, email.as_deref(), config.auto_create).await {
        let reason = format!("{refused} (issuer {}, subject {:?})", who.issuer, who.subject);
        return failed(api, context, &reason, Outcome::from(&refused));
    }
    let name = browser_name(headers);
    let new = NewSignIn { id: Uuid::new_v4(), name: &name, expires_at: after(unix_now(), COOKIE) };
    let account = match api.store.sign_in_by_identity(who, new).await {
        Ok(Some(account)) => account,
        // Unlinked this moment.
        Ok(None) => return failed(api, context, "unlinked meanwhile", Outcome::Unknown),
        Err(error) => {
            drop(of_store(error));
            return failed(api, context, "the store failed", Outcome::Busy);
        }
    };
    tell_signed_in(context, &account, new.id, "provider");
    api.sign_in.counted.provider.count(true);
    let mut response = to(IN)?;
    set_cookie(api, context, account.id, new.id, &mut response)?;
    Ok(response)
}

fn failed(api: &Api, context: &Context, reason: &str, outcome: Outcome) -> Answer<Response<Body>> {
    tracing::info!(target: AUDIT, client = %context.client.addr, reason, "sign-in failed: provider");
    api.sign_in.counted.provider.count(false);
    to(outcome.address())
}

/// Sends the browser on. What it came with, a code maybe, goes nowhere else.
fn to(address: &str) -> Answer<Response<Body>> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_str(address).map_err(internal)?);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

fn keep(
    api: &Api,
    context: &Context,
    response: &mut Response<Body>,
    sealed: &str,
    seconds: u64,
) -> Answer<()> {
    let scheme = api.place.scheme(&context.client);
    let cookie =
        flow::set_cookie(scheme, sealed, seconds).ok_or_else(|| internal("the cookie is no header value"))?;
    response.headers_mut().append(header::SET_COOKIE, cookie);
    Ok(())
}
