//! A key set that somebody publishes, kept at hand.
//!
//! Whoever sends tokens must not be able to make the relay ask its provider as often as they like, and a
//! provider that is away must not stop what its keys have been known for. So the set is fetched when it is first
//! needed, again after ten minutes (a withdrawn key then ends), and at once for a key that it does not have, but
//! not more often than once a minute; without a set, or with one that is due, the next try after a failure waits ten
//! seconds. Whoever needs the same
//! fetch waits for the one that is under way. While the provider is away the last set goes on counting for an
//! hour, and not longer.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::time::Instant;
use url::Url;

use super::jws::{BadToken, KeySet, Token};
use super::metrics::Fetches;
use crate::clock::unix_now;
use crate::outbound::{Bounds, CallError, Client};

pub use super::jws::{MAX_TOKEN_BYTES, Rules};

/// Key sets have a few KiB. The time is what a person waits who comes first.
const BOUNDS: Bounds = Bounds { within: Duration::from_secs(2), max_bytes: 256 * 1024 };
/// How old a set may be before it is fetched again.
const RENEW: Duration = Duration::from_secs(10 * 60);
/// How often an unknown key may lead to a fetch (contract: frames).
const UNKNOWN_KEY: Duration = Duration::from_secs(60);
/// How long after a failed fetch the next one waits.
const RETRY: Duration = Duration::from_secs(10);
/// How long a set counts that could not be renewed.
const STALE: Duration = Duration::from_secs(60 * 60);

/// Why there are no claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Whether the token is good cannot be found out now.
    #[error("the keys cannot be had: {0}")]
    Unavailable(String),
    /// It is not.
    #[error(transparent)]
    Bad(#[from] BadToken),
}

/// Where keys come from. Tests have one without a network.
trait Source: Send + Sync {
    fn fetch(&self) -> futures_util::future::BoxFuture<'_, Result<Value, CallError>>;
}

struct Published {
    url: Url,
    client: Client,
}

impl Source for Published {
    fn fetch(&self) -> futures_util::future::BoxFuture<'_, Result<Value, CallError>> {
        Box::pin(self.client.get_json(&self.url, BOUNDS))
    }
}

/// The key set of one address.
pub struct Jwks {
    source: Box<dyn Source>,
    state: Mutex<State>,
    /// Held by the fetch that is under way.
    fetching: Arc<tokio::sync::Mutex<()>>,
    fetches: Fetches,
}

#[derive(Default)]
struct State {
    known: Option<(Arc<KeySet>, Instant)>,
    tried: Option<Tried>,
}

/// The last fetch.
struct Tried {
    at: Instant,
    /// Why it brought nothing.
    failed: Option<String>,
}

/// What a token wants of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Any,
    /// A key that the set of then did not have.
    Newer,
}

impl State {
    /// The keys, while they count.
    fn keys(&self, now: Instant) -> Option<(Arc<KeySet>, Duration)> {
        let (keys, at) = self.known.as_ref()?;
        let age = now.saturating_duration_since(*at);
        (age < STALE).then(|| (keys.clone(), age))
    }

    /// Whether to ask the provider now.
    fn may_fetch(&self, need: Need, now: Instant) -> bool {
        let due = self.keys(now).is_none_or(|(_, age)| age >= RENEW);
        let wait = match &self.tried {
            None => Duration::ZERO,
            // Strangers name keys as they like, and a provider in trouble least of all needs their questions.
            Some(_) if !due => UNKNOWN_KEY,
            Some(Tried { failed: Some(_), .. }) => RETRY,
            Some(_) => Duration::ZERO,
        };
        (due || need == Need::Newer)
            && self.tried.as_ref().is_none_or(|tried| now.saturating_duration_since(tried.at) >= wait)
    }

    fn failure(&self) -> Option<String> {
        self.tried.as_ref().and_then(|tried| tried.failed.clone())
    }
}

impl Jwks {
    /// The set at this address. Nothing is fetched yet.
    pub fn new(url: Url, client: Client) -> Arc<Self> {
        Self::of(Box::new(Published { url, client }))
    }

    fn of(source: Box<dyn Source>) -> Arc<Self> {
        Arc::new(Self {
            source,
            state: Mutex::default(),
            fetching: Arc::default(),
            fetches: Fetches::new("keys"),
        })
    }

    /// The claims of a good token.
    ///
    /// # Errors
    /// [`JwksError`].
    pub async fn verify(
        self: &Arc<Self>,
        token: &str,
        rules: &Rules,
    ) -> Result<Map<String, Value>, JwksError> {
        // What cannot be good costs the provider nothing.
        let token = Token::read(token)?;
        self.verify_token(&token, rules).await
    }

    /// The same for a token that was taken apart already.
    ///
    /// # Errors
    /// [`JwksError`].
    pub async fn verify_token(
        self: &Arc<Self>,
        token: &Token<'_>,
        rules: &Rules,
    ) -> Result<Map<String, Value>, JwksError> {
        let mut keys = self.keys(Need::Any).await?;
        if keys.may_lack(token) {
            keys = self.keys(Need::Newer).await?;
            // Whether the key is a new one is not known while the provider is away.
            if let Some(reason) = self.state.lock().failure().filter(|_| keys.may_lack(token)) {
                return Err(JwksError::Unavailable(reason));
            }
        }
        Ok(keys.verify(token, rules, unix_now())?)
    }

    async fn keys(self: &Arc<Self>, need: Need) -> Result<Arc<KeySet>, JwksError> {
        if self.state.lock().may_fetch(need, Instant::now()) {
            let fetching = self.fetching.clone().lock_owned().await;
            // Somebody else's fetch may have ended meanwhile.
            if self.state.lock().may_fetch(need, Instant::now()) {
                let this = self.clone();
                // Goes on when whoever asked has gone: others wait for it.
                let fetch = tokio::spawn(async move {
                    this.fetch().await;
                    drop(fetching);
                });
                let _ = fetch.await;
            }
        }
        let state = self.state.lock();
        let failed = || JwksError::Unavailable(state.failure().unwrap_or_else(|| "not fetched".to_owned()));
        state.keys(Instant::now()).map(|(keys, _)| keys).ok_or_else(failed)
    }

    async fn fetch(&self) {
        let fetched = self.source.fetch().await.map_err(|error| error.to_string());
        let read = fetched.and_then(|set| KeySet::read(&set).map_err(|error| error.to_string()));
        let now = Instant::now();
        self.fetches.count(read.is_ok());
        let mut state = self.state.lock();
        let failed = match read {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "a key set was fetched");
                state.known = Some((Arc::new(keys), now));
                None
            }
            Err(reason) => {
                tracing::warn!(%reason, "a key set could not be fetched");
                Some(reason)
            }
        };
        state.tried = Some(Tried { at: now, failed });
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
