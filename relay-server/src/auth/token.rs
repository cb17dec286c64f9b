//! Access tokens: JWTs signed with HS256 and one secret that a web app may share.
//!
//! What arrives here was written by anyone. A token is refused unless it is short, says HS256, is
//! signed with our secret, is for the audience `access`, and names its user, its session and its end.
//! A token that passes is no more than a claim: whether its session is still live is asked of the
//! store.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet::STANDARD as STANDARD_ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::metrics::Tokens;

/// The audience of access tokens.
const AUDIENCE: &str = "access";
/// How far the clock of whoever made a token may be from ours, in seconds.
const LEEWAY: i64 = 60;
/// Longer tokens are refused unread. Ours have 300 bytes; a web app may add claims of its own.
const MAX_TOKEN_BYTES: usize = 4096;
/// The shortest secret, in bytes: the size of the hash (RFC 7518 section 3.2).
const MIN_SECRET_BYTES: usize = 32;
/// A secret file that is longer is no secret file.
const MAX_SECRET_FILE_BYTES: u64 = 16 * 1024;

/// Base64 of the standard alphabet; the padding is often lost on the way through shells and files.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD_ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The HS256 secret. Prints as stars and is wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Why there is no secret. Never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Not base64.
    #[error("the secret is not base64 (standard alphabet)")]
    NotBase64,
    /// Too short.
    #[error("the secret has {0} bytes, at least {MIN_SECRET_BYTES} are needed")]
    TooShort(usize),
    /// The secret's file cannot be read or made.
    #[error("the secret file {}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is there and holds something else.
    #[error("the secret file {}: {error}. It is never replaced by itself: repair it, or remove it to end all sessions", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        error: Box<SecretError>,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

impl Secret {
    /// From base64 text; space around it does not count.
    pub fn from_base64(text: &str) -> Result<Self, SecretError> {
        let bytes = BASE64.decode(text.trim()).map(Zeroizing::new).map_err(|_| SecretError::NotBase64)?;
        if bytes.len() < MIN_SECRET_BYTES {
            return Err(SecretError::TooShort(bytes.len()));
        }
        Ok(Self(bytes))
    }

    /// The bytes, for keys of other uses that are derived from them.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret in this file, which is made (mode 0600) only when there is no such file. A file that
    /// cannot be read is an error: another secret would end every session that there is.
    pub fn load_or_create(path: &Path) -> Result<Self, SecretError> {
        let failed =
            |error: std::io::Error| SecretError::File { path: path.to_owned(), reason: error.to_string() };
        for _ in 0..2 {
            match File::open(path) {
                Ok(file) => return read(path, file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
            match create(path)? {
                Some(secret) => return Ok(secret),
                // Another process was first: read what it wrote.
                None => continue,
            }
        }
        Err(failed(ErrorKind::NotFound.into()))
    }
}

fn read(path: &Path, file: File) -> Result<Secret, SecretError> {
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_SECRET_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| SecretError::File { path: path.to_owned(), reason: error.to_string() })?;
    Secret::from_base64(&text)
        .map_err(|error| SecretError::Damaged { path: path.to_owned(), error: Box::new(error) })
}

/// Writes a new secret beside the path and links it there: whoever reads sees all of it or nothing,
/// and a file that has come meanwhile is left alone (none is returned then).
fn create(path: &Path) -> Result<Option<Secret>, SecretError> {
    let failed =
        |error: std::io::Error| SecretError::File { path: path.to_owned(), reason: error.to_string() };
    let mut bytes = Zeroizing::new(vec![0; MIN_SECRET_BYTES]);
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| SecretError::Random(error.to_string()))?;
    let text = Zeroizing::new(BASE64.encode(bytes.as_slice()));
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", Uuid::new_v4().simple()));
    let temporary = PathBuf::from(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary).map_err(failed)?;
    let written =
        file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| std::fs::hard_link(&temporary, path));
    // What remains of it on an error has no use, and nothing else can be done about it.
    let _ = std::fs::remove_file(&temporary);
    match linked {
        Ok(()) => Ok(Some(Secret(bytes))),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The user.
    pub sub: Uuid,
    /// The auth session that must still be live.
    pub session_id: Uuid,
    /// When it was made, Unix seconds.
    pub iat: i64,
    /// When it ends, Unix seconds.
    pub exp: i64,
}

/// The claims as they stand in a token. `aud` may be one text or several (RFC 7519 section 4.1.3).
#[derive(Serialize, Deserialize)]
struct Wire {
    sub: Uuid,
    session_id: Uuid,
    iat: i64,
    exp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    aud: Audience,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn has(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Several(audiences) => audiences.iter().any(|audience| audience == wanted),
        }
    }
}

/// Why a token is refused. For logs and tests; to the caller all of them are one 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than any token of this kind.
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not three parts of base64url with JSON, or a claim is missing or of another kind.
    #[error("the token is malformed")]
    Malformed,
    /// Says an algorithm other than HS256, or none.
    #[error("the token is not signed with HS256")]
    Algorithm,
    /// Not signed with our secret.
    #[error("the token's signature is wrong")]
    Signature,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// Past its end.
    #[error("the token has expired")]
    Expired,
    /// Before its beginning.
    #[error("the token is not valid yet")]
    NotYet,
    /// Signing failed.
    #[error("the token could not be signed")]
    Signing,
}

/// Checks tokens against one secret.
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
    /// What became of those that callers showed.
    pub(crate) metrics: Tokens,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(***)")
    }
}

impl Verifier {
    /// A verifier for tokens that were signed with this secret.
    pub fn new(secret: &Secret) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // The signature alone is checked by the library, which reads the clock by itself; the claims
        // are ours to check.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self { key: DecodingKey::from_secret(&secret.0), validation, metrics: Tokens::new() }
    }

    /// The claims of a good token at this time (Unix seconds).
    pub fn verify(&self, token: &str, now_unix: i64) -> Result<Claims, TokenError> {
        let wire: Wire = self.decode(token)?;
        if !wire.aud.has(AUDIENCE) {
            return Err(TokenError::Audience);
        }
        if now_unix > wire.exp.saturating_add(LEEWAY) {
            return Err(TokenError::Expired);
        }
        if wire.nbf.is_some_and(|nbf| nbf > now_unix.saturating_add(LEEWAY)) {
            return Err(TokenError::NotYet);
        }
        Ok(Claims { sub: wire.sub, session_id: wire.session_id, iat: wire.iat, exp: wire.exp })
    }

    /// Whether the token was signed with our secret, whatever it says: such a token, expired or not,
    /// is not for a local server to see.
    pub fn is_ours(&self, token: &str) -> bool {
        self.decode::<IgnoredAny>(token).is_ok()
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, token: &str) -> Result<T, TokenError> {
        use jsonwebtoken::errors::ErrorKind as Kind;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        match jsonwebtoken::decode::<T>(token, &self.key, &self.validation) {
            Ok(data) => Ok(data.claims),
            Err(error) => Err(match error.kind() {
                Kind::InvalidSignature => TokenError::Signature,
                Kind::InvalidAlgorithm | Kind::InvalidAlgorithmName | Kind::UnsupportedAlgorithm => {
                    TokenError::Algorithm
                }
                _ => TokenError::Malformed,
            }),
        }
    }
}

/// Signs a token with these claims for the audience `access`.
pub fn mint(secret: &Secret, claims: &Claims) -> Result<String, TokenError> {
    let wire = Wire {
        sub: claims.sub,
        session_id: claims.session_id,
        iat: claims.iat,
        exp: claims.exp,
        nbf: None,
        aud: Audience::One(AUDIENCE.to_owned()),
    };
    let key = EncodingKey::from_secret(&secret.0);
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &wire, &key).map_err(|_| TokenError::Signing)
}

#[cfg(test)]
mod tests;
