//! What an access token says (RFC 9068), once its signature, its time, its issuer and its audience are right. Pure.

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::auth::jws::BadToken;
use crate::store::Grounds;

/// The longest name of a person, a client or a session at the provider (OpenID Connect Core section 2).
pub const MAX_ID: usize = 255;
/// Kinds of tokens that are taken. Many providers still call all of theirs `JWT`.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];
/// Claims that make it something else: an ID token, a logout token, a token that is bound to a key which we do not see.
const OTHERS: [&str; 5] = ["nonce", "at_hash", "c_hash", "events", "cnf"];

/// Refuses what the provider has signed for other ends.
///
/// # Errors
/// [`BadToken`].
pub fn check(typ: Option<&str>, claims: &Map<String, Value>) -> Result<(), BadToken> {
    let typed = typ.is_none_or(|typ| TYPES.iter().any(|known| known.eq_ignore_ascii_case(typ)));
    if !typed || OTHERS.iter().any(|other| claims.contains_key(*other)) {
        return Err(BadToken::Audience);
    }
    Ok(())
}

/// An id of the provider's: a text of some characters, none of them a control character.
pub fn id<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, BadToken> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(id))
            if !id.is_empty() && id.len() <= MAX_ID && !id.chars().any(char::is_control) =>
        {
            Ok(Some(id))
        }
        Some(_) => Err(BadToken::Malformed),
    }
}

/// Who it is.
///
/// # Errors
/// [`BadToken`].
pub fn subject(claims: &Map<String, Value>) -> Result<&str, BadToken> {
    id(claims, "sub")?.ok_or(BadToken::Malformed)
}

/// What the token stands for, and what to call it in lists.
///
/// # Errors
/// [`BadToken`].
pub fn grounds(claims: &Map<String, Value>) -> Result<(Grounds<'_>, &str), BadToken> {
    let client = match id(claims, "client_id")? {
        Some(client) => Some(client),
        None => id(claims, "azp")?,
    };
    let session = id(claims, "sid")?;
    let grounds = match session {
        Some(session) => Grounds::Session(session),
        None => Grounds::Client(client.unwrap_or_default()),
    };
    Ok((grounds, client.unwrap_or("unknown client")))
}

/// When it was made; long ago when it does not say.
pub fn issued_at(claims: &Map<String, Value>) -> i64 {
    claims.get("iat").and_then(Value::as_f64).filter(|iat| iat.is_finite()).map_or(0, |iat| iat as i64)
}

/// When it ends.
pub fn expires_at(claims: &Map<String, Value>) -> i64 {
    claims.get("exp").and_then(Value::as_f64).filter(|exp| exp.is_finite()).map_or(0, |exp| exp as i64)
}

/// The user and the auth session, where both are a web app's (contract: sidecar).
///
/// # Errors
/// [`BadToken`].
pub fn of_web_app(claims: &Map<String, Value>) -> Result<(Uuid, Uuid), BadToken> {
    let read = |name| id(claims, name).ok().flatten().and_then(|id| Uuid::parse_str(id).ok());
    read("sub").zip(read("session_id")).ok_or(BadToken::Malformed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn only_access_tokens_pass() {
        for (typ, more, good) in [
            (None, json!({}), true),
            (Some("JWT"), json!({}), true),
            (Some("at+jwt"), json!({"sid": "x"}), true),
            (Some("Application/AT+JWT"), json!({}), true),
            (Some("logout+jwt"), json!({}), false),
            (Some("dpop+jwt"), json!({}), false),
            (Some(""), json!({}), false),
            (None, json!({"nonce": "x"}), false),
            (None, json!({"at_hash": "x"}), false),
            (None, json!({"events": {}}), false),
            (Some("at+jwt"), json!({"cnf": {"jkt": "x"}}), false),
            (Some("at+jwt"), json!({"nonce": null}), false),
        ] {
            assert_eq!(check(typ, &claims(more.clone())).is_ok(), good, "{typ:?} {more}");
        }
    }

    #[test]
    fn who_it_is_and_what_it_stands_for() {
        let read = |value: Value| {
            let claims = claims(value);
            let who = subject(&claims).ok()?.to_owned();
            let (grounds, name) = grounds(&claims).ok()?;
            Some((who, format!("{grounds:?}"), name.to_owned()))
        };
        let is = |who: &str, grounds: &str, name: &str| {
            Some((who.to_owned(), grounds.to_owned(), name.to_owned()))
        };
        assert_eq!(read(json!({"sub": "a", "client_id": "c"})), is("a", "Client(\"c\")", "c"));
        assert_eq!(read(json!({"sub": "a", "azp": "c", "sid": "s"})), is("a", "Session(\"s\")", "c"));
        assert_eq!(read(json!({"sub": "a"})), is("a", "Client(\"\")", "unknown client"));
        for bad in [
            json!({}),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"sub": "a\nb"}),
            json!({"sub": "a".repeat(MAX_ID + 1)}),
            json!({"sub": "a", "sid": ["s"]}),
            json!({"sub": "a", "sid": ""}),
            json!({"sub": "a", "client_id": {}}),
        ] {
            assert_eq!(read(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn beside_a_web_app_the_token_names_its_rows() {
        let (user, session) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let good = json!({"sub": user, "session_id": session});
        assert_eq!(of_web_app(&claims(good)), Ok((user, session)));
        for bad in [
            json!({"sub": user}),
            json!({"sub": "ann", "session_id": session}),
            json!({"session_id": session}),
        ] {
            assert!(of_web_app(&claims(bad.clone())).is_err(), "{bad}");
        }
        assert_eq!(issued_at(&claims(json!({"iat": 7.9}))), 7);
        assert_eq!(issued_at(&claims(json!({"iat": "7"}))), 0);
    }
}
