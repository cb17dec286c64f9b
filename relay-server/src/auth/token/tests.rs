#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;

fn secret(byte: u8) -> Secret {
    Secret::from_base64(&STANDARD.encode([byte; 32])).unwrap()
}

fn claims() -> Claims {
    Claims { sub: Uuid::from_u128(1), session_id: Uuid::from_u128(2), iat: NOW, exp: NOW + 3600 }
}

fn body() -> Value {
    json!({"sub": Uuid::from_u128(1), "session_id": Uuid::from_u128(2), "iat": NOW, "exp": NOW + 3600, "aud": "access"})
}

/// A token of any header and body, signed by the algorithm that the key is for.
fn signed(algorithm: Algorithm, body: &Value, byte: u8) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), body, &EncodingKey::from_secret(&[byte; 32])).unwrap()
}

/// A token with an algorithm's name that nobody signs with, and this signature.
fn with_header(header: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(&body()))
}

/// The body with one claim set, or removed by null.
fn with(claim: &str, value: Value) -> Value {
    let mut body = body();
    let claims = body.as_object_mut().unwrap();
    if value.is_null() {
        claims.remove(claim);
    } else {
        claims.insert(claim.to_owned(), value);
    }
    body
}

#[test]
fn what_was_minted_is_verified() {
    let token = mint(&secret(7), &claims()).unwrap();
    assert_eq!(Verifier::new(&secret(7)).verify(&token, NOW), Ok(claims()));
    assert_eq!(Verifier::new(&secret(8)).verify(&token, NOW), Err(TokenError::Signature));
}

#[test]
fn every_other_token_is_refused_for_its_reason() {
    use Algorithm::{HS256, HS384, HS512};
    let verifier = Verifier::new(&secret(7));
    let good = signed(HS256, &body(), 7);
    let parts: Vec<&str> = good.split('.').collect();
    let mut swapped = good.clone();
    swapped.replace_range(
        parts[0].len() + 1..parts[0].len() + 1 + parts[1].len(),
        &URL_SAFE_NO_PAD.encode(with("sub", json!(Uuid::from_u128(9))).to_string()),
    );
    let long = signed(HS256, &with("name", json!("x".repeat(MAX_TOKEN_BYTES))), 7);
    let cases: Vec<(&str, String, Result<(), TokenError>)> = vec![
        ("good", good.clone(), Ok(())),
        ("several audiences", signed(HS256, &with("aud", json!(["other", "access"])), 7), Ok(())),
        ("more claims than we know", signed(HS256, &with("role", json!("x")), 7), Ok(())),
        ("not valid before now", signed(HS256, &with("nbf", json!(NOW)), 7), Ok(())),
        ("another secret", signed(HS256, &body(), 8), Err(TokenError::Signature)),
        ("another body under the same signature", swapped, Err(TokenError::Signature)),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), Err(TokenError::Signature)),
        ("HS384", signed(HS384, &body(), 7), Err(TokenError::Algorithm)),
        ("HS512", signed(HS512, &body(), 7), Err(TokenError::Algorithm)),
        (
            "RS256 with our signature",
            with_header(&json!({"alg": "RS256"}), parts[2]),
            Err(TokenError::Algorithm),
        ),
        ("none", with_header(&json!({"alg": "none"}), ""), Err(TokenError::Malformed)),
        ("None", with_header(&json!({"alg": "None"}), parts[2]), Err(TokenError::Malformed)),
        ("no algorithm", with_header(&json!({"typ": "JWT"}), parts[2]), Err(TokenError::Malformed)),
        ("wrong audience", signed(HS256, &with("aud", json!("refresh")), 7), Err(TokenError::Audience)),
        (
            "wrong audiences",
            signed(HS256, &with("aud", json!(["refresh", "Access"])), 7),
            Err(TokenError::Audience),
        ),
        ("no audience", signed(HS256, &with("aud", Value::Null), 7), Err(TokenError::Malformed)),
        ("no end", signed(HS256, &with("exp", Value::Null), 7), Err(TokenError::Malformed)),
        (
            "an end that is no number",
            signed(HS256, &with("exp", json!("never")), 7),
            Err(TokenError::Malformed),
        ),
        ("no user", signed(HS256, &with("sub", Value::Null), 7), Err(TokenError::Malformed)),
        ("a user that is no id", signed(HS256, &with("sub", json!("root")), 7), Err(TokenError::Malformed)),
        ("no session", signed(HS256, &with("session_id", Value::Null), 7), Err(TokenError::Malformed)),
        ("past its end", signed(HS256, &with("exp", json!(NOW - 61)), 7), Err(TokenError::Expired)),
        ("past its end within the leeway", signed(HS256, &with("exp", json!(NOW - 60)), 7), Ok(())),
        ("an end at the end of numbers", signed(HS256, &with("exp", json!(i64::MAX)), 7), Ok(())),
        ("not valid yet", signed(HS256, &with("nbf", json!(NOW + 61)), 7), Err(TokenError::NotYet)),
        ("too long", long, Err(TokenError::TooLong)),
        ("two parts", format!("{}.{}", parts[0], parts[1]), Err(TokenError::Malformed)),
        ("four parts", format!("{good}.x"), Err(TokenError::Malformed)),
        ("nothing", String::new(), Err(TokenError::Malformed)),
        ("no base64", "a b.c d.e f".to_owned(), Err(TokenError::Malformed)),
    ];
    for (what, token, expected) in cases {
        assert_eq!(verifier.verify(&token, NOW).map(drop), expected, "{what}");
    }
}

#[test]
fn ours_is_what_we_signed_whatever_it_says() {
    let verifier = Verifier::new(&secret(7));
    let cases = [
        (signed(Algorithm::HS256, &body(), 7), true),
        (signed(Algorithm::HS256, &with("exp", json!(1)), 7), true),
        (signed(Algorithm::HS256, &with("aud", json!("refresh")), 7), true),
        (signed(Algorithm::HS256, &json!({}), 7), true),
        (signed(Algorithm::HS256, &body(), 8), false),
        (with_header(&json!({"alg": "none"}), ""), false),
        ("sk-something-of-the-app".to_owned(), false),
    ];
    for (token, ours) in cases {
        assert_eq!(verifier.is_ours(&token), ours, "{token}");
    }
}

#[test]
fn secrets_are_base64_of_32_bytes_or_more() {
    let cases = [
        (STANDARD.encode([0xfb; 32]), None),
        (STANDARD.encode([0xfb; 64]), None),
        (format!("  {}\n", STANDARD.encode([1; 32])), None),
        (STANDARD.encode([1; 32]).trim_end_matches('=').to_owned(), None),
        (STANDARD.encode([1; 31]), Some("31 bytes")),
        (String::new(), Some("0 bytes")),
        ("not base64 at all, is it?".to_owned(), Some("not base64")),
        (URL_SAFE_NO_PAD.encode([0xfb; 32]), Some("not base64")),
    ];
    for (text, error) in cases {
        let got = Secret::from_base64(&text).err().map(|e| e.to_string());
        assert_eq!(got.is_some(), error.is_some(), "{text:?}: {got:?}");
        assert!(got.unwrap_or_default().contains(error.unwrap_or_default()), "{text:?}");
    }
    assert_eq!(format!("{:?}", secret(7)), "Secret(***)");
}

#[test]
fn a_secret_file_is_made_once_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let token = mint(&Secret::load_or_create(&path).unwrap(), &claims()).unwrap();
    let again = Secret::load_or_create(&path).unwrap();
    assert!(Verifier::new(&again).verify(&token, NOW).is_ok(), "the second start reads what the first wrote");
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");

    for damage in ["", "c2hvcnQ=", "\u{fffd}"] {
        std::fs::write(&path, damage).unwrap();
        assert!(Secret::load_or_create(&path).is_err(), "{damage:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damage, "it is left as it is");
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(Secret::load_or_create(&path), Err(SecretError::File { .. })));
}

#[test]
fn two_first_starts_agree_on_one_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let start = std::sync::Barrier::new(8);
    let tokens: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    mint(&Secret::load_or_create(&path).unwrap(), &claims()).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let verifier = Verifier::new(&Secret::load_or_create(&path).unwrap());
    assert!(tokens.iter().all(|token| verifier.is_ours(token)));
}
