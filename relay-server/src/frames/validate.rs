//! Whether a token is good, and what it claims: asked of the key set, of the platform, or of both in this order.
//!
//! Whoever sends tokens may send as many bad ones as the upgrade rate lets them, and the platform may be slow,
//! broken, or somebody else. So no answer is a refusal, what is asked at once is bounded, and what the platform
//! says counts only as the whole of what was expected. With both, the claims are the platform's: it knows what
//! was revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
            // A platform may say no by its status.
            Denied::Platform(CallError::Status(status)) => status.is_client_error(),
            Denied::NotConfigured | Denied::Key(JwksError::Unavailable(_)) | Denied::Platform(_) => false,
        }
    }
}

/// Whom to ask about tokens.
pub struct Validate {
    keys: Option<Arc<Jwks>>,
    platform: Option<(Url, SecretText)>,
    client: Client,
    at_once: Semaphore,
    /// Whether the last question found nobody to ask or no answer, so that the log says it once.
    away: AtomicBool,
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
        Self { keys, platform, client, at_once: Semaphore::new(AT_ONCE), away: AtomicBool::new(false) }
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
            Some(keys) => {
                let rules = Rules { leeway_seconds: LEEWAY.unsigned_abs() as u32, ..Rules::default() };
                Some(keys.verify(token.reveal(), &rules).await?)
            }
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
                if !self.away.swap(true, Ordering::Relaxed) {
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
            Err(CallError::Status(status)) if status.is_client_error() && *status != 403 => None,
            Err(error) => Some(error),
        };
        let was_away = self.away.swap(failed.is_some(), Ordering::Relaxed);
        match failed {
            Some(error) if !was_away => {
                tracing::warn!(%error, "the platform does not say whether tokens are good; nobody is admitted to /ws");
            }
            None if was_away => tracing::info!("the platform answers again"),
            _ => {}
        }
    }
}
