#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::json;

use super::*;

pub(crate) const NOW: i64 = 1_800_000_000;

/// A provider's private keys, one of each kind.
pub(crate) struct Keys {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

/// RSA takes long to generate, so the keys are made once.
pub(crate) static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    ed: Ed25519KeyPair::generate().unwrap(),
});

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Keys {
    pub(crate) fn public(&self, alg: &str) -> Value {
        match alg {
            "RS256" => {
                let key = self.rsa.public_key();
                let (n, e) = (key.modulus(), key.exponent());
                json!({"kty": "RSA", "n": b64(n.big_endian_without_leading_zero()), "e": b64(e.big_endian_without_leading_zero())})
            }
            "ES256" => {
                let point = self.ec.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..])})
            }
            _ => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(self.ed.public_key())}),
        }
    }

    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match alg {
            "RS256" => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            "ES256" => self.ec.sign(&random, message).unwrap().as_ref().to_vec(),
            _ => self.ed.sign(message).as_ref().to_vec(),
        }
    }

    /// Signs whatever the header says with this algorithm's key.
    pub(crate) fn token(&self, alg: &str, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(claims));
        let signature = self.sign(alg, signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }
}

pub(crate) fn with(mut key: Value, more: Value) -> Value {
    key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    key
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::read(&json!({"keys": keys})).unwrap()
}

/// One key of each kind, with names.
fn all() -> KeySet {
    set(&["RS256", "ES256", "EdDSA"].map(|alg| with(KEYS.public(alg), json!({"kid": alg, "use": "sig"}))))
}

fn claims() -> String {
    json!({"sub": "ann", "iss": "https://id.example", "aud": "relay", "exp": NOW + 60}).to_string()
}

fn rules() -> Rules {
    Rules {
        issuer: Some("https://id.example".to_owned()),
        audience: Some("relay".to_owned()),
        leeway_seconds: 60,
    }
}

fn check(set: &KeySet, token: &str) -> Result<Map<String, Value>, BadToken> {
    set.verify(&Token::read(token)?, &rules(), NOW)
}

#[test]
fn a_token_of_each_algorithm_passes() {
    for alg in ["RS256", "ES256", "EdDSA"] {
        let named = KEYS.token(alg, &json!({"alg": alg, "kid": alg}).to_string(), &claims());
        assert_eq!(check(&all(), &named).unwrap()["sub"], "ann", "{alg}");
        // One key of the kind needs no name.
        let nameless = KEYS.token(alg, &json!({"alg": alg}).to_string(), &claims());
        assert!(check(&all(), &nameless).is_ok(), "{alg}");
    }
    let renamed = KEYS.token("EdDSA", r#"{"alg":"Ed25519","kid":"EdDSA"}"#, &claims());
    assert!(check(&all(), &renamed).is_ok());
}

#[test]
fn headers_that_are_refused() {
    use BadToken::*;
    // key that signs, header, reason
    let cases = [
        ("RS256", r#"{"alg":"none"}"#, Algorithm),
        ("RS256", r#"{"alg":"None","kid":"RS256"}"#, Algorithm),
        ("RS256", r#"{"alg":"HS256","kid":"RS256"}"#, Algorithm),
        ("RS256", r#"{"alg":"HS512"}"#, Algorithm),
        ("RS256", r#"{"alg":"PS256","kid":"RS256"}"#, Algorithm),
        ("RS256", r#"{"alg":"RS384","kid":"RS256"}"#, Algorithm),
        ("RS256", r#"{"alg":"rs256","kid":"RS256"}"#, Algorithm),
        ("RS256", r#"{"kid":"RS256"}"#, Malformed),
        ("RS256", r#"{"alg":["RS256"]}"#, Malformed),
        ("RS256", r#"{"alg":"HS256","alg":"RS256"}"#, Malformed),
        ("RS256", r#"{"alg":"RS256","kid":7}"#, Malformed),
        ("RS256", r#"{"alg":"RS256","kid":"RS256","kid":"ES256"}"#, Malformed),
        ("RS256", "[]", Malformed),
        ("RS256", "", Malformed),
        // The key that the header names is of another type than the algorithm.
        ("RS256", r#"{"alg":"RS256","kid":"ES256"}"#, Key),
        ("ES256", r#"{"alg":"ES256","kid":"RS256"}"#, Key),
        ("EdDSA", r#"{"alg":"EdDSA","kid":"ES256"}"#, Key),
        ("RS256", r#"{"alg":"RS256","kid":"rs256"}"#, Key),
        ("RS256", r#"{"alg":"RS256","kid":""}"#, Key),
        ("RS256", r#"{"alg":"RS256","kid":"../../RS256"}"#, Key),
        // Another key than the one that signed.
        ("ES256", r#"{"alg":"RS256","kid":"RS256"}"#, Signature),
        ("RS256", r#"{"alg":"ES256","kid":"ES256"}"#, Signature),
        ("RS256", r#"{"alg":"EdDSA","kid":"EdDSA"}"#, Signature),
        ("RS256", r#"{"alg":"RS256","kid":"RS256","crit":["exp"]}"#, Critical),
        ("RS256", r#"{"alg":"RS256","kid":"RS256","crit":[]}"#, Critical),
        ("RS256", r#"{"alg":"RS256","kid":"RS256","crit":null}"#, Critical),
        ("RS256", r#"{"alg":"RS256","kid":"RS256","b64":false,"crit":["b64"]}"#, Critical),
        ("RS256", r#"{"alg":"RS256","kid":"RS256","b64":true}"#, Critical),
    ];
    for (key, header, reason) in cases {
        assert_eq!(check(&all(), &KEYS.token(key, header, &claims())), Err(reason), "{header}");
    }
    let long = json!({"alg": "RS256", "kid": "k".repeat(MAX_KID + 1)}).to_string();
    assert_eq!(check(&all(), &KEYS.token("RS256", &long, &claims())), Err(Key));
}

#[test]
fn a_key_inside_the_token_is_never_looked_at() {
    let other = Ed25519KeyPair::generate().unwrap();
    let own = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(other.public_key())});
    for header in [
        json!({"alg": "EdDSA", "kid": "EdDSA", "jwk": own}),
        json!({"alg": "EdDSA", "jwk": own, "jku": "https://evil.example/keys"}),
    ] {
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims()));
        let token = format!("{signed}.{}", b64(other.sign(signed.as_bytes())));
        assert_eq!(check(&all(), &token), Err(BadToken::Signature), "{header}");
    }
}

#[test]
fn the_public_key_is_no_secret_of_an_hmac() {
    let rsa = KEYS.public("RS256");
    for secret in [rsa["n"].as_str().unwrap(), &rsa.to_string()] {
        let header = jsonwebtoken::Header { kid: Some("RS256".to_owned()), ..Default::default() };
        let claims: Value = serde_json::from_str(&claims()).unwrap();
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        assert_eq!(check(&all(), &token), Err(BadToken::Algorithm));
        // The same signature under a header that says otherwise.
        let (_, rest) = token.split_once('.').unwrap();
        let token = format!("{}.{rest}", b64(r#"{"alg":"RS256","kid":"RS256"}"#));
        assert_eq!(check(&all(), &token), Err(BadToken::Signature));
    }
}

#[test]
fn claims_that_are_refused() {
    use BadToken::*;
    let iss = r#""iss":"https://id.example""#;
    let aud = r#""aud":"relay""#;
    let exp = format!(r#""exp":{}"#, NOW + 1);
    let cases = [
        (format!("{{{iss},{aud}}}"), Endless),
        (format!("{{{iss},{aud},\"exp\":{}}}", NOW - 61), Expired),
        (format!("{{{iss},{aud},\"exp\":-1}}"), Expired),
        (format!("{{{iss},{aud},\"exp\":\"{}\"}}", NOW + 60), Malformed),
        (format!("{{{iss},{aud},\"exp\":null}}"), Malformed),
        (format!("{{{iss},{aud},\"exp\":[{NOW}]}}"), Malformed),
        (format!("{{{iss},{aud},\"exp\":1e999}}"), Malformed),
        (format!("{{{iss},{aud},{exp},\"nbf\":{}}}", NOW + 61), NotYet),
        (format!("{{{iss},{aud},{exp},\"nbf\":\"now\"}}"), Malformed),
        (format!("{{{aud},{exp}}}"), Issuer),
        (format!("{{{aud},{exp},\"iss\":\"https://id.example/\"}}"), Issuer),
        (format!("{{{aud},{exp},\"iss\":[\"https://id.example\"]}}"), Issuer),
        (format!("{{{iss},{exp}}}"), Audience),
        (format!("{{{iss},{exp},\"aud\":\"Relay\"}}"), Audience),
        (format!("{{{iss},{exp},\"aud\":\"relay other\"}}"), Audience),
        (format!("{{{iss},{exp},\"aud\":[]}}"), Audience),
        (format!("{{{iss},{exp},\"aud\":[[\"relay\"]]}}"), Audience),
        (format!("{{{iss},{exp},\"aud\":{{\"relay\":1}}}}"), Audience),
        ("[1]".to_owned(), Malformed),
        ("\"x\"".to_owned(), Malformed),
        (String::new(), Malformed),
    ];
    for (claims, reason) in cases {
        let token = KEYS.token("EdDSA", r#"{"alg":"EdDSA"}"#, &claims);
        assert_eq!(check(&all(), &token), Err(reason), "{claims}");
    }
    for good in [
        format!("{{{iss},{aud},\"exp\":{}}}", NOW - 60),
        format!("{{{iss},{aud},\"exp\":{}.5}}", NOW + 60),
        format!("{{{iss},{aud},{exp},\"nbf\":{}}}", NOW + 60),
        format!("{{{iss},{exp},\"aud\":[\"x\",\"relay\"]}}"),
    ] {
        assert!(check(&all(), &KEYS.token("EdDSA", r#"{"alg":"EdDSA"}"#, &good)).is_ok(), "{good}");
    }
    // Without rules the time alone counts.
    let token = KEYS.token("EdDSA", r#"{"alg":"EdDSA"}"#, &format!("{{{exp}}}"));
    assert!(all().verify(&Token::read(&token).unwrap(), &Rules::default(), NOW).is_ok());
}

#[test]
fn texts_that_are_no_tokens() {
    let good = KEYS.token("EdDSA", r#"{"alg":"EdDSA"}"#, &claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let mut tampered = claims().into_bytes();
    tampered[2] ^= 1;
    let header = signed.split_once('.').unwrap().0;
    let huge = format!("{signed}.{}", "A".repeat(MAX_TOKEN_BYTES));
    for (text, reason) in [
        (String::new(), BadToken::Malformed),
        ("a.b".to_owned(), BadToken::Malformed),
        ("...".to_owned(), BadToken::Malformed),
        (format!("{good}."), BadToken::Malformed),
        (format!("{good}="), BadToken::Malformed),
        (format!(" {good}"), BadToken::Malformed),
        (format!("{signed}."), BadToken::Signature),
        (signed.to_owned(), BadToken::Malformed),
        (format!("{signed}.{signature}AA"), BadToken::Signature),
        (format!("{header}.{}.{signature}", b64(&tampered)), BadToken::Signature),
        (huge, BadToken::TooLong),
    ] {
        assert_eq!(check(&all(), &text), Err(reason), "{text}");
    }
}

#[test]
fn keys_that_are_not_meant_for_it_do_not_count() {
    let token = |alg: &str| KEYS.token(alg, &json!({"alg": alg, "kid": "k"}).to_string(), &claims());
    let key = |alg: &str, more: Value| with(with(KEYS.public(alg), json!({"kid": "k"})), more);
    let cases = [
        ("RS256", json!({}), true),
        ("RS256", json!({"alg": "RS256", "use": "sig", "key_ops": ["verify"]}), true),
        ("RS256", json!({"use": "enc"}), false),
        ("RS256", json!({"use": ""}), false),
        ("RS256", json!({"use": ["sig"]}), false),
        ("RS256", json!({"alg": "RS512"}), false),
        ("RS256", json!({"alg": "RSA-OAEP"}), false),
        ("RS256", json!({"alg": "HS256"}), false),
        ("RS256", json!({"key_ops": ["encrypt"]}), false),
        ("RS256", json!({"key_ops": []}), false),
        ("RS256", json!({"kty": "oct", "k": "AAAA"}), false),
        ("RS256", json!({"n": "!"}), false),
        ("RS256", json!({"e": null}), false),
        ("RS256", json!({"n": b64([0xff; 64])}), false),
        ("ES256", json!({"alg": "ES256"}), true),
        ("ES256", json!({"alg": "ES384"}), false),
        ("ES256", json!({"crv": "P-384"}), false),
        ("ES256", json!({"crv": "secp256k1"}), false),
        ("ES256", json!({"x": b64([4; 31])}), false),
        ("ES256", json!({"y": b64([4; 32])}), false),
        ("EdDSA", json!({"alg": "EdDSA"}), true),
        ("EdDSA", json!({"alg": "Ed25519"}), true),
        ("EdDSA", json!({"alg": "ES256"}), false),
        ("EdDSA", json!({"crv": "X25519"}), false),
        ("EdDSA", json!({"crv": "Ed448"}), false),
    ];
    for (alg, more, good) in cases {
        let keys = set(&[key(alg, more.clone())]);
        assert_eq!(check(&keys, &token(alg)).is_ok(), good, "{alg} {more}");
        // It is there: asking the provider again would not make it better.
        assert!(!keys.may_lack(&Token::read(&token(alg)).unwrap()), "{alg} {more}");
    }
}

#[test]
fn which_key_is_meant_has_to_be_plain() {
    let nameless = KEYS.token("EdDSA", r#"{"alg":"EdDSA"}"#, &claims());
    let named = KEYS.token("EdDSA", r#"{"alg":"EdDSA","kid":"a"}"#, &claims());
    let key = |kid: &str| with(KEYS.public("EdDSA"), json!({"kid": kid}));
    let two = set(&[key("a"), key("b")]);
    assert!(check(&two, &named).is_ok());
    assert_eq!(check(&two, &nameless), Err(BadToken::Key));
    assert_eq!(check(&set(&[key("a"), key("a")]), &named), Err(BadToken::Key));
    // One name for keys of two types: the algorithm tells.
    assert!(check(&set(&[key("a"), with(KEYS.public("RS256"), json!({"kid": "a"}))]), &named).is_ok());
    assert!(check(&set(&[KEYS.public("EdDSA")]), &nameless).is_ok());
    assert_eq!(check(&set(&[KEYS.public("EdDSA")]), &named), Err(BadToken::Key));
    let lacks = |keys: &KeySet, token: &str| keys.may_lack(&Token::read(token).unwrap());
    assert!(lacks(&set(&[]), &nameless) && lacks(&set(&[key("b")]), &named));
    assert!(!lacks(&two, &nameless) && !lacks(&two, &named));
}

#[test]
fn sets_are_bounded() {
    for bad in [json!({}), json!([]), json!({"keys": {}}), json!(null), json!({"keys": "x"})] {
        assert_eq!(KeySet::read(&bad).err(), Some(BadSet::Malformed), "{bad}");
    }
    let odd = json!({"keys": [1, null, {}, {"kty": 7}, {"kty": "RSA"}, KEYS.public("EdDSA")]});
    assert_eq!(KeySet::read(&odd).unwrap().len(), 1);
    let many = |count| json!({"keys": vec![json!({}); count]});
    assert!(KeySet::read(&many(MAX_KEYS)).is_ok_and(|set| set.is_empty()));
    assert_eq!(KeySet::read(&many(MAX_KEYS + 1)).err(), Some(BadSet::TooMany));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_stumble(text in "[A-Za-z0-9_.{}\":-]{0,200}", payload: Vec<u8>) {
        let _ = check(&all(), &text);
        let _ = claims_unverified(&text);
        let token = format!("{}.{}.{}", b64(r#"{"alg":"EdDSA"}"#), b64(&payload), b64([0; 64]));
        proptest::prop_assert!(check(&all(), &token).is_err());
    }
}
