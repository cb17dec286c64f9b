//! The platform's signing keys, one of each kind, and the set of their public halves (RFC 7517).

use std::sync::{Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::{Value, json};

pub use jsonwebtoken::Algorithm;

/// What stands before the RSAPrivateKey in a PKCS #8 document of 2,048 bits: two lengths of four bytes, the
/// version and the algorithm.
const PKCS8_RSA_HEAD: usize = 26;

struct Key {
    id: String,
    algorithm: Algorithm,
    secret: EncodingKey,
    public: Value,
}

impl Key {
    fn new(algorithm: Algorithm, generation: usize) -> Self {
        let id = format!("{algorithm:?}-{generation}");
        let (secret, mut public) = match algorithm {
            Algorithm::RS256 => {
                let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key");
                let secret = EncodingKey::from_rsa_der(&pair.serialize_der()[PKCS8_RSA_HEAD..]);
                let jwk = Jwk::from_encoding_key(&secret, algorithm).expect("an RSA key");
                (secret, serde_json::to_value(jwk).expect("JSON"))
            }
            Algorithm::ES256 => {
                let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
                let point = pair.public_key_raw();
                let coordinate = |from: usize| URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
                let public = json!({"kty": "EC", "crv": "P-256", "x": coordinate(1), "y": coordinate(33)});
                (EncodingKey::from_ec_der(&pair.serialize_der()), public)
            }
            Algorithm::EdDSA => {
                let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
                let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
                (
                    EncodingKey::from_ed_der(&pair.serialize_der()),
                    json!({"kty": "OKP", "crv": "Ed25519", "x": x}),
                )
            }
            other => panic!("the platform does not sign with {other:?}"),
        };
        public["kid"] = json!(id);
        public["use"] = json!("sig");
        public["alg"] = json!(format!("{algorithm:?}"));
        Self { id, algorithm, secret, public }
    }
}

struct Ring {
    generation: usize,
    keys: Vec<Key>,
}

impl Ring {
    fn new(generation: usize) -> Self {
        let kinds = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
        Self { generation, keys: kinds.map(|kind| Key::new(kind, generation)).into() }
    }
}

/// The keys.
pub struct Keys {
    ring: Mutex<Ring>,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self { ring: Mutex::new(Ring::new(1)) }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Signs claims with the present key of this kind.
    pub fn sign(&self, algorithm: Algorithm, claims: &Value) -> String {
        let ring = self.ring();
        let key = ring.keys.iter().find(|key| key.algorithm == algorithm).expect("a key of each kind");
        let header = Header { kid: Some(key.id.clone()), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, claims, &key.secret).expect("a token")
    }

    /// New keys with new ids take the place of all.
    pub fn rotate(&self) {
        let mut ring = self.ring();
        *ring = Ring::new(ring.generation + 1);
    }

    /// The key set.
    pub fn set(&self) -> Value {
        json!({"keys": self.ring().keys.iter().map(|key| key.public.clone()).collect::<Vec<_>>()})
    }
}
