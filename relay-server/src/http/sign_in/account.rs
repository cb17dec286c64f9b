//! A person with a browser: signing in and out, the password, the sessions.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Json};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use relay_protocol::api::{
    AuthSession, AuthSessionKind, AuthSessions, Login, LoginLink, Me, MeUser, NewPassword, SignedIn, UserRef,
};
use relay_protocol::problem::Code;
use uuid::Uuid;

use super::super::api_body::json;
use super::super::caller::{Caller, unauthorized};
use super::super::front::Context;
use super::super::problem::Refusal;
use super::super::routes::{Answer, Api, Id, of_store};
use super::{AUDIT, COOKIE, admit, after, internal, of_password, sign_in_failed, too_often};
use crate::auth::password::{MAX_CHARS, MIN_CHARS, Password};
use crate::auth::{agent_name, credential, opaque};
use crate::clock::unix_now;
use crate::store::{Account, AuthSessionRow, NewSignIn, SignInKind};

/// The longest address (RFC 5321 section 4.5.3.1.3).
const MAX_EMAIL: usize = 254;

pub(super) async fn login(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<Context>,
    request: Request<Body>,
) -> Answer<Response<Body>> {
    admit(&api, &context, request.headers())?;
    let name = browser_name(request.headers());
    let shape = "{\"email\": \"…\", \"password\": \"…\"}";
    let login: Login = json(request.into_body(), api.sign_in.body, shape).await?;
    let email = login.email.trim().to_lowercase();
    let _hashing = api.sign_in.hashing(&context)?;
    let guess = api.sign_in.wrong.take(&email, &context).map_err(|wait| {
        tracing::info!(target: AUDIT, client = %context.client.addr, "sign-in refused: too many wrong passwords");
        too_often(wait)
    })?;
    let new = NewSignIn { id: Uuid::new_v4(), name: &name, expires_at: after(unix_now(), COOKIE) };
    let checked = by_password(&api, &email, Password::new(login.password.0), new).await;
    // Only a password that is known to be wrong was a guess.
    if !matches!(checked, Ok(Checked::Wrong(_))) {
        guess.give_back();
    }
    let account = match checked? {
        Checked::Right(account) => account,
        Checked::Wrong(user) => {
            // What is typed as an address may be a password, so no log tells it.
            let user = user.map(tracing::field::display);
            tracing::info!(target: AUDIT, client = %context.client.addr, user, "sign-in failed: password");
            api.sign_in.counted.password.count(false);
            return Err(sign_in_failed());
        }
    };
    tell_signed_in(&context, &account, new.id, "password");
    api.sign_in.counted.password.count(true);
    welcome(&api, &context, &account, new.id)
}

/// What became of a password.
enum Checked {
    Right(Account),
    /// With the user whose it is not, if there is one.
    Wrong(Option<Uuid>),
}

async fn by_password(api: &Api, email: &str, password: Password, new: NewSignIn<'_>) -> Answer<Checked> {
    let account = match email.len() {
        0..=MAX_EMAIL => api.store.account_by_email(email).await.map_err(of_store)?,
        _ => None,
    };
    let hash = account.as_ref().and_then(|account| account.password_hash.clone());
    let fits = api.sign_in.passwords.verify(password, hash).await.map_err(of_password)?;
    let account = match account {
        Some(account) if fits => account,
        account => return Ok(Checked::Wrong(account.map(|account| account.id))),
    };
    let proof = account.password_hash.as_deref().unwrap_or_default();
    let signed_in = api.store.sign_in_by_password(account.id, proof, new).await.map_err(of_store)?;
    Ok(if signed_in { Checked::Right(account) } else { Checked::Wrong(Some(account.id)) })
}

pub(super) async fn link(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<Context>,
    request: Request<Body>,
) -> Answer<Response<Body>> {
    admit(&api, &context, request.headers())?;
    let name = browser_name(request.headers());
    let link: LoginLink = json(request.into_body(), api.sign_in.body, "{\"token\": \"…\"}").await?;
    let new = NewSignIn { id: Uuid::new_v4(), name: &name, expires_at: after(unix_now(), COOKIE) };
    let account = match opaque::hash(&link.token.0) {
        Some(hash) => api.store.sign_in_by_link(&hash, new).await.map_err(of_store)?,
        None => None,
    };
    let Some(account) = account else {
        tracing::info!(target: AUDIT, client = %context.client.addr, "sign-in failed: link");
        api.sign_in.counted.link.count(false);
        return Err(Refusal::new(
            Code::SignInFailed,
            "This link is used up or has expired. Make another with: relay-server login EMAIL",
        ));
    };
    tell_signed_in(&context, &account, new.id, "link");
    api.sign_in.counted.link.count(true);
    welcome(&api, &context, &account, new.id)
}

pub(super) async fn me(State(api): State<Arc<Api>>, caller: Caller) -> Answer<Json<Me>> {
    let account = account(&api, &caller).await?;
    let has_password = account.password_hash.is_some();
    let user = MeUser { id: account.id, email: account.email, has_password };
    Ok(Json(Me { user, session_id: caller.auth_session, expires_at: caller.expires_at }))
}

pub(super) async fn password(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Extension(context): Extension<Context>,
    request: Request<Body>,
) -> Answer<StatusCode> {
    caller.must_be_a_browser(&api.store).await?;
    let shape = "{\"current\": \"…\", \"new\": \"…\"}";
    let asked: NewPassword = json(request.into_body(), api.sign_in.body, shape).await?;
    let new = Password::new(asked.new.0);
    if !new.is_acceptable() {
        let detail = format!("A password has {MIN_CHARS} to {MAX_CHARS} characters.");
        return Err(Refusal::new(Code::BadRequest, detail));
    }
    let _hashing = api.sign_in.hashing(&context)?;
    let known = account(&api, &caller).await?.password_hash;
    if known.is_some() {
        let current = asked.current.ok_or_else(|| {
            Refusal::new(Code::BadRequest, "There is a password already: `current` has to be it.")
        })?;
        let guess = api.sign_in.wrong.take(&caller.user.to_string(), &context).map_err(too_often)?;
        let fits = api.sign_in.passwords.verify(Password::new(current.0), known.clone()).await;
        if fits != Ok(false) {
            guess.give_back();
        }
        if !fits.map_err(of_password)? {
            tracing::info!(target: AUDIT, client = %context.client.addr, user = %caller.user, "password not changed: the present one is wrong");
            return Err(Refusal::new(Code::SignInFailed, "The present password is wrong."));
        }
    }
    let hash = api.sign_in.passwords.hash(new).await.map_err(of_password)?;
    if !api.store.change_password(caller.user, known.as_deref(), &hash).await.map_err(of_store)? {
        return Err(Refusal::new(Code::SignInFailed, "The password was changed meanwhile."));
    }
    tracing::info!(target: AUDIT, client = %context.client.addr, user = %caller.user, "password changed");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn refresh(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Extension(context): Extension<Context>,
) -> Answer<Response<Body>> {
    let until = after(unix_now(), COOKIE);
    // A token that somebody put into the cookie by hand ends when it was made to end.
    let renewed =
        caller.by_cookie && api.store.extend_sign_in(caller.auth_session, until).await.map_err(of_store)?;
    if !renewed {
        return Err(unauthorized());
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(&api, &context, caller.user, caller.auth_session, &mut response)?;
    Ok(response)
}

pub(super) async fn logout(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Extension(context): Extension<Context>,
) -> Answer<Response<Body>> {
    end(&api, &context, &caller, caller.auth_session).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Some(gone) = credential::set_cookie(api.place.scheme(&context.client), "", 0) {
        response.headers_mut().insert(header::SET_COOKIE, gone);
    }
    Ok(response)
}

pub(super) async fn sessions(State(api): State<Arc<Api>>, caller: Caller) -> Answer<Json<AuthSessions>> {
    let rows = api.store.auth_sessions(caller.user).await.map_err(of_store)?;
    let tell = |row: AuthSessionRow| AuthSession {
        id: row.id,
        name: row.name,
        kind: match row.kind {
            SignInKind::Browser => AuthSessionKind::Browser,
            SignInKind::Device => AuthSessionKind::Device,
            SignInKind::Token => AuthSessionKind::Token,
        },
        created_at: row.created_at,
        last_used_at: row.last_used_at,
        current: row.id == caller.auth_session,
    };
    Ok(Json(AuthSessions { sessions: rows.into_iter().map(tell).collect() }))
}

pub(super) async fn end_session(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Extension(context): Extension<Context>,
    Id(id): Id,
) -> Answer<StatusCode> {
    if id != caller.auth_session {
        caller.must_be_a_browser(&api.store).await?;
    }
    if end(&api, &context, &caller, id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Refusal::new(Code::NotFound, "There is no such session of yours, or it has ended already."))
    }
}

/// Ends an auth session, and here at once what hangs on it.
async fn end(api: &Api, context: &Context, caller: &Caller, session: Uuid) -> Answer<bool> {
    let ended = api.store.end_auth_session(session, caller.user).await.map_err(of_store)?;
    if ended {
        api.live.sign_in_ended(session);
        tracing::info!(target: AUDIT, client = %context.client.addr, user = %caller.user, auth_session = %session, "auth session ended");
    }
    Ok(ended)
}

async fn account(api: &Api, caller: &Caller) -> Answer<Account> {
    // A user who is gone has no session either.
    api.store.account(caller.user).await.map_err(of_store)?.ok_or_else(unauthorized)
}

pub(super) fn browser_name(headers: &HeaderMap) -> String {
    agent_name::describe(headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()))
}

pub(super) fn tell_signed_in(context: &Context, account: &Account, session: Uuid, by: &str) {
    tracing::info!(target: AUDIT, client = %context.client.addr, user = %account.id, auth_session = %session, by, "signed in");
}

/// Who has signed in, and the cookie.
fn welcome(api: &Api, context: &Context, account: &Account, session: Uuid) -> Answer<Response<Body>> {
    let user = UserRef { id: account.id, email: account.email.clone() };
    let mut response = Json(SignedIn { user }).into_response();
    set_cookie(api, context, account.id, session, &mut response)?;
    Ok(response)
}

pub(super) fn set_cookie(
    api: &Api,
    context: &Context,
    user: Uuid,
    session: Uuid,
    response: &mut Response<Body>,
) -> Answer<()> {
    let token = api.sign_in.token(user, session, COOKIE)?;
    let cookie: HeaderValue =
        credential::set_cookie(api.place.scheme(&context.client), &token, COOKIE.as_secs())
            .ok_or_else(|| internal("a token is no header value"))?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(())
}
