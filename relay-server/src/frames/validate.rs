//! Whether a token is good, and what it claims: asked of the key set, of the platform, or of both in this order.
//!
//! Whoever sends tokens may send as many bad ones as the upgrade rate lets them, and the platform may be slow,
//! broken, or somebody else. So no answer is a refusal, what is asked at once is bounded, and what the platform
//! says counts only as the whole of what was expected. With both, the claims are the platform's: it knows what
//! was revoked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use url::Url;

use super::admission::{Asked, Token};
use super::claims::LEEWAY;
use super::metrics_ws::Sockets;
use super::role_name;
use crate::auth::jwks::{Jwks, JwksError, Rules};
use crate::config::SecretText;
use crate::config::frames::{Frames, Platform};
use crate::outbound::{Bounds, CallError, Client};

/// The platform's answer (contract: admission).
const BOUNDS: Bounds = Bounds { within: Duration::from_secs(2), max_bytes: 256 * 1024 };
/// Questions to the platform at once. With an answer within 50 ms that is 5,000 upgrades a second; a platform that
/// hangs is not buried under connections.
const AT_ONCE: usize = 256;

/// How often the log says that the platform went away or came back: tokens may be what makes it fail.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Why a token opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// There is nobody to ask.
    #[error("neither a key set nor a platform is configured")]
    NotConfigured,
    /// Its signature, its time or its form.
    #[error("the token: {0}")]
    Key(#[from] JwksError),
    /// The platform does not vouch for it.
    #[error("the platform does not vouch for the token")]
    Refused,
    /// The platform did not say.
    #[error("the platform: {0}")]
    Platform(#[from] CallError),
}

impl Denied {
    /// Whether that is the token's fault, and not that of whoever should have judged it.
    pub fn is_bad_token(&self) -> bool {
        match self {
            Denied::Key(JwksError::Bad(_)) | Denied::Refused => true,
            // A platform may say no by its status; but not that there is nobody to ask at this address.
            Denied::Platform(CallError::Status(status)) => {
                status.is_client_error() && !is_wrong_address(*status)
            }
            Denied::NotConfigured | Denied::Key(JwksError::Unavailable(_)) | Denied::Platform(_) => false,
        }
    }
}

/// What a wrong RELAY_VALIDATE_URL is answered.
fn is_wrong_address(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
}

/// What the log was told last.
#[derive(Default)]
struct Said {
    away: bool,
    at: Option<Instant>,
}

impl Said {
    /// Whether this is news, and not too much of it.
    fn tells(&mut self, away: bool, now: Instant) -> bool {
        let tells = away != self.away && self.at.is_none_or(|at| now >= at + SAID_EVERY);
        if tells {
            *self = Self { away, at: Some(now) };
        }
        tells
    }
}

/// Whom to ask about tokens.
pub struct Validate {
    keys: Option<Arc<Jwks>>,
    platform: Option<(Url, SecretText)>,
    client: Client,
    at_once: Semaphore,
    rules: Rules,
    said: Mutex<Said>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    relay_token: &'a str,
    role: &'static str,
    workspace_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_target_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Answer {
    ok: bool,
    claims: Option<Map<String, Value>>,
}

impl Validate {
    /// As the configuration says.
    pub fn new(frames: &Frames, platform: &Platform, client: Client) -> Self {
        let keys = frames.jwks_url.clone().map(|url| Jwks::new(url, client.clone()));
        let platform = frames.validate_url.clone().zip(platform.internal_key.clone());
        if keys.is_none() && platform.is_none() {
            tracing::info!(
                "nobody is admitted to /ws: set RELAY_JWKS_URL, or RELAY_VALIDATE_URL or SERVER_URL"
            );
        }
        let rules = Rules {
            issuer: frames.jwks_issuer.clone(),
            audience: frames.jwks_audience.clone(),
            leeway_seconds: LEEWAY.unsigned_abs() as u32,
        };
        Self { keys, platform, client, at_once: Semaphore::new(AT_ONCE), rules, said: Mutex::default() }
    }

    /// What a good token claims.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn claims(
        &self,
        token: &Token,
        asked: &Asked,
        metrics: &Sockets,
    ) -> Result<Map<String, Value>, Denied> {
        let signed = match &self.keys {
            Some(keys) => Some(keys.verify(token.reveal(), &self.rules).await?),
            None => None,
        };
        match (&self.platform, signed) {
            (Some((url, key)), _) => {
                let began = Instant::now();
                let answer = self.ask(url, key, token, asked).await;
                metrics.validated(began.elapsed());
                self.note(&answer);
                let answer = answer?;
                answer.claims.filter(|_| answer.ok).ok_or(Denied::Refused)
            }
            (None, Some(claims)) => Ok(claims),
            (None, None) => {
                if self.said.lock().tells(true, Instant::now()) {
                    tracing::warn!(
                        "nobody is admitted to /ws: set RELAY_JWKS_URL, RELAY_VALIDATE_URL or SERVER_URL, so that \
                         tokens can be checked"
                    );
                }
                Err(Denied::NotConfigured)
            }
        }
    }

    async fn ask(
        &self,
        url: &Url,
        key: &SecretText,
        token: &Token,
        asked: &Asked,
    ) -> Result<Answer, CallError> {
        let question = Question {
            relay_token: token.reveal(),
            role: role_name(asked.role),
            workspace_id: &asked.workspace,
            runtime_target_id: asked.target.as_deref(),
        };
        let whole = async {
            let Ok(_one) = self.at_once.acquire().await else {
                return Err(CallError::TimedOut(BOUNDS.within));
            };
            self.client.post_json(url, key.reveal(), &question, BOUNDS).await
        };
        // The wait for one's turn counts.
        tokio::time::timeout(BOUNDS.within, whole).await.unwrap_or(Err(CallError::TimedOut(BOUNDS.within)))
    }

    /// Tells when the platform stops answering, and when it does again.
    fn note(&self, answer: &Result<Answer, CallError>) {
        let failed = match answer {
            Ok(_) => None,
            Err(CallError::Status(status))
                if status.is_client_error()
                    && *status != StatusCode::FORBIDDEN
                    && !is_wrong_address(*status) =>
            {
                None
            }
            Err(error) => Some(error),
        };
        if !self.said.lock().tells(failed.is_some(), Instant::now()) {
            return;
        }
        match failed {
            Some(error) => {
                tracing::warn!(%error, "the platform does not say whether tokens are good; nobody is admitted to /ws");
            }
            None => tracing::info!("the platform answers again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_hears_of_each_change_and_not_of_every_flip() {
        let (mut said, now) = (Said::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        for (away, seconds, tells) in [
            (false, 0, false),
            (true, 1, true),
            (true, 2, false),
            (false, 3, false),
            (true, 30, false),
            (false, 60, false),
            (false, 61, true),
            (true, 62, false),
            (true, 121, true),
        ] {
            assert_eq!(said.tells(away, at(seconds)), tells, "{away} {seconds}");
        }
    }

    #[test]
    fn whose_fault_a_refusal_is() {
        for (status, bad) in [(400, true), (401, true), (403, true), (404, false), (405, false), (500, false)]
        {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Denied::Platform(CallError::Status(status)).is_bad_token(), bad, "{status}");
        }
        assert!(Denied::Refused.is_bad_token() && !Denied::NotConfigured.is_bad_token());
    }
}
