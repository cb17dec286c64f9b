//! Tokens as a web app makes them, and as a forger would.

use base64::Engine;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// A secret that is long enough, in base64 as it stands in the environment.
pub const SECRET: &str = "c3lzdGVtLXRlc3RzLXVzZS10aGlzLWFuZC1ub2JvZHktZWxzZS1kb2VzLWV2ZXI=";

/// Unix seconds, now.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the end of time")
}

/// The claims of a good token that lives an hour.
pub fn claims(user: Uuid, session: Uuid) -> Value {
    json!({"sub": user, "session_id": session, "iat": now(), "exp": now() + 3600, "aud": "access"})
}

/// Signs claims with the secret, which is base64 as in the environment.
pub fn sign(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    let key = base64::engine::general_purpose::STANDARD.decode(secret).expect("base64");
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(&key)).expect("a token")
}

/// A good token under [`SECRET`].
pub fn good(user: Uuid, session: Uuid) -> String {
    sign(SECRET, Algorithm::HS256, &claims(user, session))
}

/// The claims inside a token, unverified.
pub fn read(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a JWT has three parts");
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).expect("base64url");
    serde_json::from_slice(&json).expect("JSON")
}

/// A token that says `alg: none` and carries no signature.
pub fn unsigned(claims: &Value) -> String {
    let b64 = |v: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(v.to_string());
    format!("{}.{}.", b64(&json!({"alg": "none", "typ": "JWT"})), b64(claims))
}
