//! Credentials for TURN servers that share a secret with the relay.
//!
//! The scheme is the one that coturn calls `use-auth-secret` (`draft-uberti-behave-turn-rest`): the user
//! name says until when it is good and whose it is, the password is its HMAC under the secret. Nothing is
//! stored and nothing can be revoked, hence the expiry. SHA-1 is what TURN servers of this kind compute;
//! HMAC does not lean on the collisions that broke it elsewhere.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use relay_protocol::api::SecretString;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Who gets credentials can try secrets against them at home, as fast as machines are: a short one falls.
const MIN_SECRET_CHARS: usize = 16;
/// More is no secret that somebody meant.
const MAX_SECRET_CHARS: usize = 512;

/// The shared secret. Prints as stars and is wiped when dropped.
#[derive(Clone)]
pub struct TurnSecret(Zeroizing<String>);

impl fmt::Debug for TurnSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TurnSecret(***)")
    }
}

/// What a browser shows to the TURN server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnLogin {
    /// `<expiry, Unix seconds>:<user id>`.
    pub username: String,
    /// Base64 of HMAC-SHA1 of the user name.
    pub credential: SecretString,
}

impl TurnSecret {
    /// The text as TURN servers hash it, byte for byte. `None` when it is too short, too long, or has blanks,
    /// which the servers' own configuration files would lose.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (MIN_SECRET_CHARS..=MAX_SECRET_CHARS).contains(&text.chars().count());
        let plain = !text.chars().any(|c| c.is_whitespace() || c.is_control());
        (fits && plain).then(|| Self(text.to_owned().into()))
    }

    /// Credentials of this user until then.
    pub fn login(&self, user: Uuid, expires_at: i64) -> TurnLogin {
        let username = format!("{expires_at}:{user}");
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.0.as_bytes());
        let tag = hmac::sign(&key, username.as_bytes());
        TurnLogin { credential: SecretString(STANDARD.encode(tag)), username }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn credentials_are_those_that_openssl_computes() {
        // printf %s USERNAME | openssl dgst -sha1 -hmac SECRET -binary | base64
        let secret = TurnSecret::new("north-wind-and-the-sun").unwrap();
        let user = Uuid::parse_str("6f1e8b1c-3a54-4a0e-9b53-0c5f3f0f2a11").unwrap();
        let login = secret.login(user, 1_800_000_000);
        assert_eq!(login.username, "1800000000:6f1e8b1c-3a54-4a0e-9b53-0c5f3f0f2a11");
        assert_eq!(login.credential.0, "ettrYDZWojnGiQNpOZU8Q2dYxKo=");
        assert_ne!(secret.login(user, 1_800_000_001).credential, login.credential);
        assert_ne!(secret.login(Uuid::nil(), 1_800_000_000).credential, login.credential);
    }

    #[test]
    fn a_secret_is_long_enough_and_in_one_piece() {
        for (text, good) in [
            ("0123456789abcdef".to_owned(), true),
            ("käse-und-brot-und".to_owned(), true),
            ("x".repeat(MAX_SECRET_CHARS), true),
            ("0123456789abcde".to_owned(), false),
            (String::new(), false),
            ("0123456789 abcdef".to_owned(), false),
            ("0123456789abcdef\n".to_owned(), false),
            ("0123456789abcdef\u{7}".to_owned(), false),
            ("x".repeat(MAX_SECRET_CHARS + 1), false),
        ] {
            assert_eq!(TurnSecret::new(&text).is_some(), good, "{text}");
        }
        let printed = format!("{:?}", TurnSecret::new("0123456789abcdef").unwrap());
        assert!(!printed.contains("0123"), "{printed}");
    }
}
