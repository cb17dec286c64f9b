//! Signing in, where the relay keeps its own users (PROTOCOL.md section 1.1).
//!
//! Most of it is asked by somebody who has not proved anything yet. Each such question is cheap or
//! bounded: attempts are counted per address, guesses at one account per account and address (so that a
//! stranger elsewhere locks nobody out), hashing per address and in all, pending devices per address and in
//! all; each of them also per network, where one holder may have many addresses. Who fails learns that it failed, and no more. Who succeeds is told to the log, and no secret is.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `account` | password, link, cookie: a person with a browser |
//! | `devices` | RFC 8628: a device asks, a person decides |
//! | `grants` | the token endpoint of RFC 6749 |
//! | `provider` | leaving for the OpenID Connect provider, and coming back |
//! | `guesses` | how often one thing may be guessed at, from where |

mod account;
mod devices;
mod grants;
mod guesses;
mod provider;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{delete, get, post};
use http::HeaderMap;
use relay_protocol::problem::Code;
use url::form_urlencoded;
use uuid::Uuid;

use super::api_body::BodyLimits;
use super::caller::csrf_refused;
use super::front::Context;
use super::problem::Refusal;
use super::routes::Api;
use crate::auth::credential::from_own_page;
use crate::auth::metrics::SignIns;
use crate::auth::oidc::Provider;
use crate::auth::password::{PasswordError, Passwords};
use crate::auth::token::{Claims, Secret, mint};
use crate::clock::unix_now;
use crate::config::Config;
use crate::limits::{AddrGuard, Open, Rate};
use guesses::{Budget, Guesses};
use provider::FromProvider;

/// What every path of this module begins with.
pub const PREFIX: &str = "/v1/auth/";
/// Those that only the portal asks, and that are not there without it.
pub const NEED_PORTAL: [&str; 6] = [
    "/v1/auth/login",
    "/v1/auth/link",
    "/v1/auth/refresh",
    provider::OFFERED,
    provider::BEGIN,
    provider::BACK,
];
/// The target of the log's lines about who signed in and what was refused.
const AUDIT: &str = "relay::audit";

/// A token and a password of 200 characters, with room to spare.
const MAX_BODY: usize = 8 * 1024;
/// Attempts to sign in, good or bad, per address and minute: an office in the morning.
const ATTEMPTS_PER_MINUTE: u32 = 60;
/// The same for a whole network: four such offices.
const ATTEMPTS_OF_NETWORK: u32 = 240;
/// Wrong passwords in a row that a person may type. After those, one guess in this time: less than three
/// thousand a day for one address and account.
const WRONG: Budget = Budget(5, Duration::from_secs(30));
/// The same for a whole network.
const WRONG_OF_NETWORK: Budget = Budget(20, Duration::from_secs(30));
/// Wrong user codes in a row that a person may type, and how long until the next.
const WRONG_CODES: Budget = Budget(10, Duration::from_secs(10));
/// The same for a whole network.
const WRONG_CODES_OF_NETWORK: Budget = Budget(40, Duration::from_secs(10));
/// Questions of devices per address and minute.
const DEVICES_PER_MINUTE: u32 = 20;
/// Passwords of one address that are hashed or wait for it at once.
const HASHING_PER_ADDRESS: usize = 4;
/// Those of one network: some of the places that there are, so that others find one.
const HASHING_OF_NETWORK: usize = 6;
/// How long until a place to hash is free.
const HASHING_WAIT: Duration = Duration::from_secs(1);
/// Devices that wait are let in, refused or forgotten within minutes.
const PENDING_WAIT: Duration = Duration::from_secs(60);
/// How long the cookie of a browser is good that does not come back. Each visit of the portal renews it.
const COOKIE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long a device's access token is good; it fetches another with its refresh token.
const ACCESS_TOKEN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What signing in needs besides the API's own parts.
pub struct SignIn {
    passwords: Passwords,
    secret: Secret,
    attempts: Rate,
    attempts_of_network: Rate,
    wrong: Guesses,
    wrong_codes: Guesses,
    devices: Rate,
    hashing: Open,
    hashing_of_network: Open,
    body: BodyLimits,
    /// The base of links, when the relay was told it.
    base: Option<String>,
    provider: Option<FromProvider>,
    counted: Counted,
}

/// The counters of each way to sign in.
struct Counted {
    password: SignIns,
    link: SignIns,
    provider: SignIns,
}

impl SignIn {
    /// From the configuration; tokens are signed with this secret.
    pub fn new(config: &Config, secret: Secret, provider: Option<Arc<Provider>>) -> Self {
        let provider = provider.and_then(|provider| FromProvider::new(provider, &secret));
        Self {
            passwords: Passwords::default(),
            secret,
            attempts: Rate::per_minute(ATTEMPTS_PER_MINUTE),
            attempts_of_network: Rate::per_minute(ATTEMPTS_OF_NETWORK),
            wrong: Guesses::new(WRONG, WRONG_OF_NETWORK),
            wrong_codes: Guesses::new(WRONG_CODES, WRONG_CODES_OF_NETWORK),
            devices: Rate::per_minute(DEVICES_PER_MINUTE),
            hashing: Open::new(HASHING_PER_ADDRESS),
            hashing_of_network: Open::new(HASHING_OF_NETWORK),
            body: BodyLimits { bytes: MAX_BODY, within: config.limits.header_timeout },
            base: config.portal_base(),
            provider,
            counted: Counted {
                password: SignIns::new("password"),
                link: SignIns::new("link"),
                provider: SignIns::new("provider"),
            },
        }
    }

    /// The base of links to the portal: as the relay was told, else as the request came.
    fn base(&self, context: &Context) -> Option<String> {
        self.base.clone().or_else(|| {
            let host = context.client.host.as_ref()?;
            Some(format!("{}://{host}", context.client.scheme.as_str()))
        })
    }

    fn token(&self, user: Uuid, session: Uuid, life: Duration) -> Result<String, Refusal> {
        let iat = unix_now();
        let claims = Claims { sub: user, session_id: session, iat, exp: after(iat, life) };
        mint(&self.secret, &claims).map_err(internal)
    }

    /// Counts a password that is to be hashed for this address and its network.
    fn hashing(&self, context: &Context) -> Result<(AddrGuard, Option<AddrGuard>), Refusal> {
        let refused = || too_often(HASHING_WAIT);
        let address = self.hashing.enter(context.rate_key()).ok_or_else(refused)?;
        let network = match context.network_key() {
            Some(key) => Some(self.hashing_of_network.enter(key).ok_or_else(refused)?),
            None => None,
        };
        Ok((address, network))
    }
}

/// The paths.
pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/auth/login", post(account::login))
        .route("/v1/auth/link", post(account::link))
        .route("/v1/auth/me", get(account::me))
        .route("/v1/auth/password", post(account::password))
        .route("/v1/auth/refresh", post(account::refresh))
        .route("/v1/auth/logout", post(account::logout))
        .route("/v1/auth/sessions", get(account::sessions))
        .route("/v1/auth/sessions/{session_id}", delete(account::end_session))
        .route(provider::OFFERED, get(provider::offered))
        .route(provider::BEGIN, get(provider::begin))
        .route(provider::BACK, get(provider::back))
        .route("/v1/auth/device/code", post(devices::ask))
        .route("/v1/auth/device/{user_code}", get(devices::show).post(devices::decide))
        .route("/v1/auth/token", post(grants::token))
}

/// What anybody has to pass who wants to sign in: not a foreign page (it could sign a person in as somebody
/// else), on the portal's own origin if it has one, not too often.
fn admit(api: &Api, context: &Context, headers: &HeaderMap) -> Result<(), Refusal> {
    let own = |origin: &_| api.policy.is_portal(origin, &context.client);
    if !from_own_page(headers, own) || !api.takes_cookies(context) {
        return Err(csrf_refused());
    }
    let of_network = || context.network_key().is_none_or(|key| api.sign_in.attempts_of_network.check(key));
    if !api.sign_in.attempts.check(context.rate_key()) || !of_network() {
        tracing::info!(target: AUDIT, client = %context.client.addr, "sign-in refused: too many attempts");
        return Err(too_often(each(ATTEMPTS_PER_MINUTE)));
    }
    Ok(())
}

/// The wait is the one until there is another try.
fn too_often(wait: Duration) -> Refusal {
    Refusal::new(Code::RateLimited, "Too many attempts from this address. Wait a little, then try again.")
        .after(wait)
}

/// How long it takes until a rate per minute allows another.
fn each(per_minute: u32) -> Duration {
    Duration::from_secs(60) / per_minute.max(1)
}

/// The same for whatever was wrong.
fn sign_in_failed() -> Refusal {
    Refusal::new(Code::SignInFailed, "The address or the password is wrong.")
}

fn of_password(error: PasswordError) -> Refusal {
    match error {
        PasswordError::Busy => {
            Refusal::new(Code::RateLimited, "Too many people sign in at once. Try again in a few seconds.")
                .after(HASHING_WAIT)
        }
        PasswordError::Failed(_) => internal(error),
    }
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    tracing::error!(%error, "signing in failed here");
    Refusal::new(Code::Internal, "The relay could not do this. Its log says why.")
}

fn after(now: i64, life: Duration) -> i64 {
    now.saturating_add(i64::try_from(life.as_secs()).unwrap_or(i64::MAX))
}

/// The fields of a form (RFC 6749 appendix B). A field that stands there twice makes it none (section 3.1).
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let fields: Vec<(String, String)> = form_urlencoded::parse(bytes).into_owned().collect();
        let twice = |(index, (name, _)): (usize, &(String, String))| {
            fields.iter().take(index).any(|(earlier, _)| earlier == name)
        };
        // Quadratic, so the number of fields is bounded too.
        if fields.len() > 32 || fields.iter().enumerate().any(twice) { None } else { Some(Self(fields)) }
    }

    /// The field; an empty one is none (RFC 6749 section 3.1).
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let form = Form::parse(b"a=1&b=&c=%3A+x&=4");
        let get = |name| form.as_ref().and_then(|form| form.get(name));
        assert_eq!([get("a"), get("b"), get("c"), get("d")], [Some("1"), None, Some(": x"), None]);
        assert!(Form::parse(b"a=1&a=1").is_none());
        assert!(Form::parse("x&".repeat(1000).as_bytes()).is_none());
    }
}
