//! The token endpoint (RFC 6749 section 3.2): for devices that were let in, and for refresh tokens.
//!
//! A refresh token stays the same for as long as its auth session lives: an answer that gets lost on the
//! way costs the device nothing, and ending the session ends it.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Json};
use http::{Request, Response, StatusCode};
use relay_protocol::api::{SecretString, TokenError, TokenErrorCode, TokenGrant};
use uuid::Uuid;

use super::super::api_body::read;
use super::super::front::Context;
use super::super::problem::Refusal;
use super::super::routes::{Answer, Api, of_store};
use super::{ACCESS_TOKEN, AUDIT, Form, internal};
use crate::auth::opaque::{self, Opaque};
use crate::store::DevicePoll;

/// RFC 8628 section 3.4.
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// RFC 6749 section 6.
const REFRESH_TOKEN: &str = "refresh_token";
/// Characters of a client's id.
const MAX_CLIENT_ID: usize = 64;

/// Why there is no token: as the protocol tells it, or because something failed here.
enum No {
    Token(TokenErrorCode),
    Failed(Refusal),
}

impl From<TokenErrorCode> for No {
    fn from(why: TokenErrorCode) -> Self {
        Self::Token(why)
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal)
    }
}

pub(super) async fn token(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<Context>,
    request: Request<Body>,
) -> Answer<Response<Body>> {
    let body = read(request.into_body(), api.sign_in.body).await?;
    match grant(&api, &context, &body).await {
        Ok(grant) => Ok(Json(grant).into_response()),
        Err(No::Token(why)) => Ok(refuse(why)),
        Err(No::Failed(refusal)) => Err(refusal),
    }
}

async fn grant(api: &Api, context: &Context, body: &[u8]) -> Result<TokenGrant, No> {
    let form = Form::parse(body).ok_or(TokenErrorCode::InvalidRequest)?;
    let field = |name| form.get(name).ok_or(TokenErrorCode::InvalidRequest);
    let kind = field("grant_type")?;
    let client = client_id(&form)?;
    match kind {
        DEVICE_CODE => by_device_code(api, context, client, field("device_code")?).await,
        REFRESH_TOKEN => by_refresh_token(api, context, client, field("refresh_token")?).await,
        _ => Err(TokenErrorCode::UnsupportedGrantType.into()),
    }
}

async fn by_device_code(api: &Api, context: &Context, client: &str, code: &str) -> Result<TokenGrant, No> {
    let hash = opaque::hash(code).ok_or(TokenErrorCode::InvalidGrant)?;
    match api.store.poll_device_login(&hash, client).await.map_err(of_store)? {
        DevicePoll::Unknown => return Err(TokenErrorCode::InvalidGrant.into()),
        DevicePoll::Pending => return Err(TokenErrorCode::AuthorizationPending.into()),
        DevicePoll::SlowDown => return Err(TokenErrorCode::SlowDown.into()),
        DevicePoll::Denied => return Err(TokenErrorCode::AccessDenied.into()),
        DevicePoll::Expired => return Err(TokenErrorCode::ExpiredToken.into()),
        DevicePoll::Approved => {}
    }
    let refresh_token = Opaque::random().map_err(internal)?;
    let granted =
        api.store.grant_device_login(&hash, client, &refresh_token.hash()).await.map_err(of_store)?;
    // Another question with the same code was faster.
    let login = granted.ok_or(TokenErrorCode::InvalidGrant)?;
    tracing::info!(
        target: AUDIT, client = %context.client.addr, user = %login.user, auth_session = %login.auth_session,
        by = "device", "signed in"
    );
    Ok(answer(api, login.user, login.auth_session, refresh_token.reveal())?)
}

async fn by_refresh_token(api: &Api, context: &Context, client: &str, token: &str) -> Result<TokenGrant, No> {
    let hash = opaque::hash(token).ok_or(TokenErrorCode::InvalidGrant)?;
    let Some((user, session)) = api.store.refresh(&hash, client).await.map_err(of_store)? else {
        tracing::info!(target: AUDIT, client = %context.client.addr, "a refresh token was refused");
        return Err(TokenErrorCode::InvalidGrant.into());
    };
    tracing::info!(target: AUDIT, client = %context.client.addr, %user, auth_session = %session, "access token renewed");
    Ok(answer(api, user, session, token)?)
}

fn answer(api: &Api, user: Uuid, session: Uuid, refresh_token: &str) -> Result<TokenGrant, Refusal> {
    Ok(TokenGrant {
        access_token: SecretString(api.sign_in.token(user, session, ACCESS_TOKEN)?),
        token_type: "Bearer".to_owned(),
        expires_in: ACCESS_TOKEN.as_secs(),
        refresh_token: SecretString(refresh_token.to_owned()),
    })
}

/// Which program asks. All are public clients (RFC 6749 section 2.1): the id is no proof of anything, but
/// what was given to one is good for no other.
pub(super) fn client_id(form: &Form) -> Result<&str, TokenErrorCode> {
    let id = form.get("client_id").ok_or(TokenErrorCode::InvalidRequest)?;
    let fine = id.len() <= MAX_CLIENT_ID
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if fine { Ok(id) } else { Err(TokenErrorCode::InvalidClient) }
}

/// The answer that tells why there is no token.
pub(super) fn refuse(error: TokenErrorCode) -> Response<Body> {
    (StatusCode::BAD_REQUEST, Json(TokenError { error })).into_response()
}
