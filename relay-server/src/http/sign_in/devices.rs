//! A device asks to be let in, a person decides (RFC 8628).

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Json};
use http::{Request, Response, StatusCode};
use relay_protocol::api::{DeviceCode, DeviceDecision, DeviceRequest, SecretString, TokenErrorCode};
use relay_protocol::problem::Code;

use super::super::api_body::{json, read};
use super::super::caller::Caller;
use super::super::front::Context;
use super::super::problem::Refusal;
use super::super::routes::{Answer, Api, of_store};
use super::grants::{client_id, refuse};
use super::{AUDIT, DEVICES_PER_MINUTE, Form, PENDING_WAIT, each, internal, too_often};
use crate::auth::opaque::Opaque;
use crate::auth::user_code;
use crate::store::{Admission, DEVICE_LOGIN, DEVICE_POLL, DeviceRow, NewDevice};

/// Characters of a device's name.
const MAX_NAME: usize = 100;
/// How often another user code is drawn. With all 1,024 pending the first is taken once in 25 million times.
const DRAWS: usize = 3;

pub(super) async fn ask(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<Context>,
    request: Request<Body>,
) -> Answer<Response<Body>> {
    let key = context.rate_key();
    if !api.sign_in.devices.check(key) {
        return Err(too_often(each(DEVICES_PER_MINUTE)));
    }
    let body = read(request.into_body(), api.sign_in.body).await?;
    let Some(form) = Form::parse(&body) else { return Ok(refuse(TokenErrorCode::InvalidRequest)) };
    let client = match client_id(&form) {
        Ok(client) => client,
        Err(why) => return Ok(refuse(why)),
    };
    let Some(name) = device_name(form.get("name").unwrap_or(client)) else {
        return Ok(refuse(TokenErrorCode::InvalidRequest));
    };
    let base = api.sign_in.base(&context).ok_or_else(|| {
        Refusal::new(Code::BadRequest, "The request names no host, and the relay was not told its URL.")
    })?;
    let device_code = Opaque::random().map_err(internal)?;
    let (address, rate_key) = (context.client.addr.to_string(), key.text());
    for _ in 0..DRAWS {
        let code = user_code::random().map_err(internal)?;
        let new = NewDevice {
            device_code_hash: &device_code.hash(),
            user_code: &code,
            client_id: client,
            name,
            address: &address,
            rate_key: &rate_key,
        };
        match api.store.add_device_login(new).await.map_err(of_store)? {
            Admission::Pending => {}
            Admission::TooMany => return Err(too_often(PENDING_WAIT)),
            Admission::CodeTaken => continue,
        }
        tracing::info!(target: AUDIT, client = %address, device = name, "a device asks to be let in");
        let shown = user_code::shown(&code);
        let answer = DeviceCode {
            device_code: SecretString(device_code.reveal().to_owned()),
            verification_uri: format!("{base}/device"),
            verification_uri_complete: format!("{base}/device?user_code={shown}"),
            user_code: shown,
            expires_in: DEVICE_LOGIN.as_secs(),
            interval: DEVICE_POLL.as_secs(),
        };
        return Ok(Json(answer).into_response());
    }
    Err(internal("no user code was free"))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Extension(context): Extension<Context>,
    Path(typed): Path<String>,
) -> Answer<Json<DeviceRequest>> {
    let (code, row) = find(&api, &caller, &context, &typed).await?;
    Ok(Json(DeviceRequest {
        user_code: user_code::shown(&code),
        name: row.name,
        address: row.address,
        created_at: row.created_at,
        expires_at: row.expires_at,
    }))
}

pub(super) async fn decide(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Extension(context): Extension<Context>,
    Path(typed): Path<String>,
    request: Request<Body>,
) -> Answer<StatusCode> {
    let decision: DeviceDecision = json(request.into_body(), api.sign_in.body, "{\"approve\": true}").await?;
    caller.must_be_a_browser(&api.store).await?;
    let (code, row) = find(&api, &caller, &context, &typed).await?;
    if !api.store.decide_device_login(&code, caller.user, decision.approve).await.map_err(of_store)? {
        return Err(unknown());
    }
    tracing::info!(
        target: AUDIT, client = %context.client.addr, user = %caller.user, device = row.name,
        approved = decision.approve, "a device login was decided"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// The pending question that somebody typed the code of. Wrong codes are guesses (RFC 8628 section 5.1).
async fn find(
    api: &Api,
    caller: &Caller,
    context: &Context,
    typed: &str,
) -> Result<(String, DeviceRow), Refusal> {
    let thing = format!("device codes of {}", caller.user);
    let guess = api.sign_in.wrong_codes.take(&thing, context).map_err(too_often)?;
    let code = user_code::parse(typed).ok_or_else(unknown)?;
    let found = api.store.device_login(&code).await;
    // Only a code that is known to be wrong was a guess.
    if !matches!(found, Ok(None)) {
        guess.give_back();
    }
    let row = found.map_err(of_store)?.ok_or_else(unknown)?;
    Ok((code, row))
}

fn unknown() -> Refusal {
    Refusal::new(Code::NotFound, "No device waits with this code. It may be mistyped, decided or expired.")
}

/// A name for people: of bounded length, and nothing in it that alters how the text around it looks.
fn device_name(name: &str) -> Option<&str> {
    let name = name.trim();
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let fine = !name.is_empty() && name.chars().count() <= MAX_NAME && !name.contains(odd);
    fine.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "ä".repeat(MAX_NAME);
        for (name, fine) in [
            ("laptop", Some("laptop")),
            (" My laptop ", Some("My laptop")),
            (long.as_str(), Some(long.as_str())),
            (&format!("{long}x"), None),
            (" ", None),
            ("a\nb", None),
            ("a\u{202e}b", None),
            ("a\u{200b}b", None),
        ] {
            assert_eq!(device_name(name), fine, "{name:?}");
        }
    }
}
