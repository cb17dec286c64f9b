//! Signing in at a relay that keeps its own users (PROTOCOL.md section 1.1), and keeping what came of it.
//!
//! `token.json` in the state folder holds the access token, and the refresh token that renews it. It is
//! of mode 0600 and replaced as a whole. The running agent renews it; `login` and `logout` may replace or remove
//! it at any time, and the agent follows.

pub mod device;
mod http;

pub use device::Device;

use crate::{
    dial::{RelayUrl, Route},
    state::{self, StateError},
    token::{Token, TokenError},
};
use ::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Mutex;
use zeroize::{Zeroize, Zeroizing};

/// The file in the state folder.
pub(crate) const FILE: &str = "token.json";
/// The form of the file that this version writes, and the only one that it reads.
const FORM: u32 = 1;
/// What the agent is called among the relay's clients.
const CLIENT_ID: &str = "local-agent-client";
/// The relay's path for tokens.
const TOKEN_PATH: &str = "/v1/auth/token";
/// The relay's path to sign out.
const LOGOUT_PATH: &str = "/v1/auth/logout";
/// Bytes of a refresh token; of an access token the relay itself takes no more.
const MAX_TOKEN: usize = 4096;
/// The longest that an access token is believed to live: a year.
const LONGEST: i64 = 365 * 24 * 3600;

/// Why signing in, or staying signed in, failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The relay cannot be reached.
    #[error("the relay cannot be reached: {0}")]
    Unreachable(String),
    /// What answers is something else.
    #[error("what answers is no relay: {0}")]
    NotARelay(&'static str),
    /// The relay keeps no users of its own.
    #[error(
        "this relay signs nobody in by itself: its users come from a web app; get a token there and give it by --token-file"
    )]
    NoSignIn,
    /// The person said no.
    #[error("the sign-in was denied")]
    Denied,
    /// The person did not decide in time.
    #[error("nobody approved the sign-in in time; run `local-agent-client login` again")]
    Expired,
    /// The relay refused for another reason.
    #[error("the relay refused: {0}")]
    Refused(String),
    /// The refresh token is not good any more.
    #[error("the stored login is over: {0}; run `local-agent-client login` again")]
    Over(String),
    /// The file is missing.
    #[error("nobody is signed in: there is no {0}; run `local-agent-client login URL`")]
    NotLoggedIn(PathBuf),
    /// The file is for another relay.
    #[error("the stored login is for {0}; run `local-agent-client login` for this relay, or give a token")]
    OtherRelay(String),
    /// The file holds something else.
    #[error("{0} is not as `login` wrote it; run `local-agent-client login` again")]
    Damaged(PathBuf),
    /// The file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// What the relay or the file gives for a token is none.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// What the relay grants (RFC 6749 section 5.1). Never prints.
pub struct Grant {
    access: Zeroizing<String>,
    refresh: Option<Zeroizing<String>>,
    expires_in: i64,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

impl Grant {
    fn read(body: &[u8]) -> Result<Self, LoginError> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: String,
            token_type: String,
            expires_in: i64,
            refresh_token: Option<String>,
        }
        const MALFORMED: LoginError = LoginError::NotARelay("what it grants is no token");
        let answer: Answer = serde_json::from_slice(body).map_err(|_| MALFORMED)?;
        let grant = Self {
            access: Zeroizing::new(answer.access_token),
            refresh: answer.refresh_token.map(Zeroizing::new),
            expires_in: answer.expires_in,
        };
        let fits = |text: &str| text.len() <= MAX_TOKEN && Token::new(text).is_ok();
        if !answer.token_type.eq_ignore_ascii_case("bearer")
            || !fits(&grant.access)
            || !grant.refresh.as_ref().is_none_or(|text| fits(text))
            || !(1..=LONGEST).contains(&grant.expires_in)
        {
            return Err(MALFORMED);
        }
        Ok(grant)
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: u32,
    relay: String,
    access_token: String,
    refresh_token: Option<String>,
    obtained_at: i64,
    expires_at: i64,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.access_token.zeroize();
        self.refresh_token.zeroize();
    }
}

impl Stored {
    fn token(&self) -> Result<Token, TokenError> {
        Token::new(&self.access_token)
    }

    /// Half of its life is over, or it is of a time that has not come yet.
    fn is_due(&self, now: i64) -> bool {
        let half = self.expires_at.saturating_sub(self.obtained_at) / 2;
        now >= self.obtained_at.saturating_add(half) || now < self.obtained_at.saturating_sub(half)
    }
}

/// The stored login of a state folder. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Login {
    dir: PathBuf,
    /// Refresh tokens may be good for one use: nobody renews while somebody renews.
    renewing: Arc<Mutex<()>>,
}

impl Login {
    /// That of the folder `dir`, whether there is one or not.
    pub fn of(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), renewing: Arc::default() }
    }

    /// The relay that it is for; `None` when nobody is signed in.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn relay(&self) -> Result<Option<String>, LoginError> {
        Ok(self.load()?.map(|stored| stored.relay.clone()))
    }

    /// Keeps what `relay` granted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, relay: &RelayUrl, grant: &Grant, now: i64) -> Result<(), LoginError> {
        self.write(&Stored {
            v: FORM,
            relay: relay.to_string(),
            access_token: grant.access.as_str().to_owned(),
            refresh_token: grant.refresh.as_ref().map(|text| text.as_str().to_owned()),
            obtained_at: now,
            expires_at: now.saturating_add(grant.expires_in),
        })
    }

    /// Forgets the login.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(&self) -> Result<(), LoginError> {
        Ok(state::remove(&self.dir, FILE)?)
    }

    /// The access token as it is stored.
    ///
    /// # Errors
    /// When there is none that can be read.
    pub fn read(&self) -> Result<Token, LoginError> {
        Ok(self.stored()?.token()?)
    }

    /// The access token for `route`'s relay, renewed when half of its life is over, or when it is `refused`. One
    /// that is good still is given although it cannot be renewed.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn fresh(
        &self,
        route: &Route<'_>,
        refused: Option<&Token>,
        now: i64,
    ) -> Result<Token, LoginError> {
        let _renewing = self.renewing.lock().await;
        let stored = self.stored()?;
        if stored.relay != route.relay.to_string() {
            return Err(LoginError::OtherRelay(stored.relay.clone()));
        }
        let token = stored.token()?;
        let is_refused = refused == Some(&token);
        if !stored.is_due(now) && !is_refused {
            return Ok(token);
        }
        match self.renew(route, &stored, now).await {
            Ok(token) => Ok(token),
            Err(error) if !is_refused && now < stored.expires_at => {
                tracing::debug!(%error, "the token could not be renewed; it is good for a while yet");
                Ok(token)
            }
            Err(error) => Err(error),
        }
    }

    async fn renew(&self, route: &Route<'_>, stored: &Stored, now: i64) -> Result<Token, LoginError> {
        let Some(refresh) = &stored.refresh_token else {
            return Err(LoginError::Over("it cannot be renewed".to_owned()));
        };
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", CLIENT_ID)];
        let answer = http::post(route, TOKEN_PATH, None, &form).await?;
        match answer.status.as_u16() {
            200 => {}
            400 | 401 => return Err(LoginError::Over(answer.describe())),
            404 => return Err(LoginError::NoSignIn),
            _ => return Err(LoginError::Refused(answer.describe())),
        }
        let grant = Grant::read(&answer.body)?;
        // Somebody may have signed in anew or out meanwhile; then that is what counts.
        let current = self.stored()?;
        if current.refresh_token != stored.refresh_token || current.relay != stored.relay {
            return Ok(current.token()?);
        }
        self.write(&Stored {
            v: FORM,
            relay: stored.relay.clone(),
            access_token: grant.access.as_str().to_owned(),
            // RFC 6749 section 6: without a new one the old one stays good.
            refresh_token: grant
                .refresh
                .as_ref()
                .map(|text| text.as_str().to_owned())
                .or_else(|| stored.refresh_token.clone()),
            obtained_at: now,
            expires_at: now.saturating_add(grant.expires_in),
        })?;
        Ok(Token::new(&grant.access)?)
    }

    /// Ends the auth session at the relay.
    ///
    /// # Errors
    /// When the relay did not do it.
    pub async fn revoke(&self, route: &Route<'_>, now: i64) -> Result<(), LoginError> {
        let token = self.fresh(route, None, now).await?;
        let answer = http::post(route, LOGOUT_PATH, Some(&token), &[]).await?;
        match answer.status {
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::UNAUTHORIZED => Ok(()),
            _ => Err(LoginError::Refused(answer.describe())),
        }
    }

    fn stored(&self) -> Result<Stored, LoginError> {
        self.load()?.ok_or_else(|| LoginError::NotLoggedIn(self.file()))
    }

    fn load(&self) -> Result<Option<Stored>, LoginError> {
        let Some(text) = state::read(&self.dir, FILE)? else { return Ok(None) };
        let stored: Stored = serde_json::from_slice(&text).map_err(|_| LoginError::Damaged(self.file()))?;
        if stored.v == FORM { Ok(Some(stored)) } else { Err(LoginError::Damaged(self.file())) }
    }

    fn write(&self, stored: &Stored) -> Result<(), LoginError> {
        let text = serde_json::to_vec(stored).map(Zeroizing::new);
        let text = text.map_err(|_| LoginError::Damaged(self.file()))?;
        Ok(state::replace(&self.dir, FILE, &text)?)
    }

    fn file(&self) -> PathBuf {
        Path::new(&self.dir).join(FILE)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_life() {
        let stored = |obtained_at, expires_at| Stored {
            v: FORM,
            relay: String::new(),
            access_token: String::new(),
            refresh_token: None,
            obtained_at,
            expires_at,
        };
        for (now, due) in
            [(1000, false), (1499, false), (1500, true), (3000, true), (600, false), (499, true)]
        {
            assert_eq!(stored(1000, 2000).is_due(now), due, "{now}");
        }
        assert!(stored(1000, 1000).is_due(1000));
    }

    #[test]
    fn grants_are_read_with_care_and_never_print() {
        let good = serde_json::json!({"access_token":"a.b.c","token_type":"bearer","expires_in":60,"refresh_token":"r"});
        let grant = Grant::read(good.to_string().as_bytes()).unwrap();
        assert!(!format!("{grant:?}").contains("a.b.c"));
        for (name, value) in [
            ("access_token", serde_json::json!("")),
            ("access_token", "two words".into()),
            ("access_token", "x".repeat(5000).into()),
            ("access_token", 7.into()),
            ("token_type", "mac".into()),
            ("expires_in", 0.into()),
            ("expires_in", (-5).into()),
            ("expires_in", i64::MAX.into()),
            ("refresh_token", "line\r\nbreak".into()),
            ("refresh_token", "".into()),
        ] {
            let mut bad = good.clone();
            bad[name] = value;
            assert!(Grant::read(bad.to_string().as_bytes()).is_err(), "{bad}");
        }
    }
}
