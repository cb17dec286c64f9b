//! Passwords: argon2id, a few at a time.
//!
//! Each hashing takes 19 MiB and some milliseconds of a processor, and anybody can ask for one. So only
//! [`AT_ONCE`] run, [`WAITING`] others wait their turn for a bounded time, and an unknown address costs as much as a
//! known one: it is verified against a hash that nothing fits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Characters of a password (PROTOCOL.md section 1.1).
pub const MIN_CHARS: usize = 10;
/// The most.
pub const MAX_CHARS: usize = 200;
/// OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Bytes of a salt (RFC 9106 section 3.1 recommends 16).
const SALT: usize = 16;
/// What is verified where there is no hash: the same work, for a password that nobody knows.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Hashings that run at once: 38 MiB, on a relay that is to run in 64.
const AT_ONCE: usize = 2;
/// Those that wait besides. More would only make each of them wait longer: who comes then is told at once, and a
/// retry finds a place within a fraction of a second.
const WAITING: usize = 8;
/// How long one may wait for its turn, on a machine that has stalled: all those before it are done by then.
const TURN: Duration = Duration::from_secs(5);

/// A password as it was typed. Prints as stars and is wiped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes it as it is.
    pub fn new(text: impl Into<Zeroizing<String>>) -> Self {
        Self(text.into())
    }

    /// Whether it may be set: long enough to be worth it, short enough to be one.
    pub fn is_acceptable(&self) -> bool {
        (MIN_CHARS..=MAX_CHARS).contains(&self.0.chars().count())
    }

    /// The text, for whoever asked for a new one.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too many others wait.
    #[error("too many passwords are being checked")]
    Busy,
    /// Hashing itself failed.
    #[error("hashing a password failed: {0}")]
    Failed(String),
}

impl PasswordError {
    fn of(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Hashes and verifies.
#[derive(Clone)]
pub struct Passwords {
    /// Who runs or waits.
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE + WAITING)), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Passwords {
    /// The hash of a password, in the PHC string format.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn hash(&self, password: Password) -> Result<String, PasswordError> {
        self.run(move || hash_now(password.0.as_bytes())).await
    }

    /// Whether the password fits the hash. Without a hash it does not, after as much work.
    ///
    /// # Errors
    /// [`PasswordError`]; a hash that cannot be read is one.
    pub async fn verify(&self, password: Password, hash: Option<String>) -> Result<bool, PasswordError> {
        self.run(move || {
            let known = hash.is_some();
            let hash = hash.as_deref().unwrap_or(NOBODYS);
            let parsed = PasswordHash::new(hash).map_err(PasswordError::of)?;
            match argon2()?.verify_password(password.0.as_bytes(), &parsed) {
                Ok(()) => Ok(known),
                Err(argon2::password_hash::Error::Password) => Ok(false),
                Err(error) => Err(PasswordError::of(error)),
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let turn = tokio::time::timeout(TURN, self.turns.clone().acquire_owned())
            .await
            .map_err(|_| PasswordError::Busy)?
            .map_err(PasswordError::of)?;
        // The turn goes with the work: a caller that leaves does not make room for another before it ends.
        tokio::task::spawn_blocking(move || {
            let _turn = (turn, place);
            work()
        })
        .await
        .map_err(PasswordError::of)?
    }
}

fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(PasswordError::of)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash_now(password: &[u8]) -> Result<String, PasswordError> {
    let mut salt = [0; SALT];
    OsRng.try_fill_bytes(&mut salt).map_err(PasswordError::of)?;
    let salt = SaltString::encode_b64(&salt).map_err(PasswordError::of)?;
    Ok(argon2()?.hash_password(password, &salt).map_err(PasswordError::of)?.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[tokio::test]
    async fn the_right_one_fits_and_no_other() {
        let passwords = Passwords::default();
        let hash = passwords.hash(password("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(hash.len(), NOBODYS.len(), "{hash}");
        assert_ne!(passwords.hash(password("correct horse")).await.unwrap(), hash, "salted");
        for (typed, against, fits) in [
            ("correct horse", Some(hash.clone()), true),
            ("Correct horse", Some(hash.clone()), false),
            ("", Some(hash.clone()), false),
            ("correct horse", None, false),
            ("", None, false),
        ] {
            assert_eq!(passwords.verify(password(typed), against).await, Ok(fits), "{typed}");
        }
        let damaged = passwords.verify(password("correct horse"), Some("plain".to_owned())).await;
        assert!(matches!(damaged, Err(PasswordError::Failed(_))), "a damaged hash lets nobody in");
    }

    #[test]
    fn lengths() {
        for (chars, fine) in [(0, false), (9, false), (10, true), (200, true), (201, false)] {
            assert_eq!(password(&"ü".repeat(chars)).is_acceptable(), fine, "{chars}");
        }
        assert_eq!(format!("{:?}", password("correct horse")), "***");
    }

    #[tokio::test]
    async fn when_all_places_are_taken_nobody_queues() {
        let passwords = Passwords::default();
        let turns = passwords.turns.clone().acquire_many_owned(AT_ONCE as u32).await.unwrap();
        let rest = passwords.places.clone().acquire_many_owned((AT_ONCE + WAITING) as u32 - 1).await.unwrap();
        let waiting = passwords.clone();
        let waiting = tokio::spawn(async move { waiting.verify(password("x"), None).await });
        while passwords.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(passwords.verify(password("x"), None).await, Err(PasswordError::Busy));
        drop((turns, rest));
        assert_eq!(waiting.await.unwrap(), Ok(false), "who waits gets its turn");
        assert_eq!(passwords.verify(password("x"), None).await, Ok(false));
        assert_eq!(passwords.places.available_permits(), AT_ONCE + WAITING);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told() {
        let passwords = Passwords::default();
        let all = passwords.turns.clone().acquire_many_owned(AT_ONCE as u32).await.unwrap();
        assert_eq!(passwords.verify(password("x"), None).await, Err(PasswordError::Busy));
        drop(all);
        assert_eq!(passwords.verify(password("x"), None).await, Ok(false));
    }
}
