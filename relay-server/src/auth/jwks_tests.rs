#![allow(clippy::unwrap_used)]
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::json;

use super::super::jws::tests::{KEYS, with};
use super::*;

/// A provider whose answer can be changed and who counts how often it is asked.
#[derive(Clone, Default)]
struct Provider {
    answer: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
    slow: Arc<Mutex<Duration>>,
}

impl Source for Provider {
    fn fetch(&self) -> futures_util::future::BoxFuture<'_, Result<Value, CallError>> {
        self.asked.fetch_add(1, SeqCst);
        let slow = *self.slow.lock();
        Box::pin(async move {
            tokio::time::sleep(slow).await;
            self.answer.lock().clone().ok_or(CallError::TimedOut(slow))
        })
    }
}

impl Provider {
    fn has(&self, kids: &[&str]) {
        let keys: Vec<Value> =
            kids.iter().map(|kid| with(KEYS.public("EdDSA"), json!({"kid": kid}))).collect();
        *self.answer.lock() = Some(json!({"keys": keys}));
    }

    fn away(&self) {
        *self.answer.lock() = None;
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

fn start(kids: &[&str]) -> (Provider, Arc<Jwks>) {
    let provider = Provider::default();
    provider.has(kids);
    (provider.clone(), Jwks::of(Box::new(provider)))
}

fn token(kid: &str) -> String {
    let claims = json!({"exp": unix_now() + 60}).to_string();
    KEYS.token("EdDSA", &json!({"alg": "EdDSA", "kid": kid}).to_string(), &claims)
}

async fn good(jwks: &Arc<Jwks>, kid: &str) -> bool {
    jwks.verify(&token(kid), &Rules::default()).await.is_ok()
}

async fn error(jwks: &Arc<Jwks>, kid: &str) -> JwksError {
    jwks.verify(&token(kid), &Rules::default()).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_set_is_fetched_once_and_renewed_in_time() {
    let (provider, jwks) = start(&["a", "b"]);
    for _ in 0..100 {
        assert!(good(&jwks, "a").await);
    }
    assert_eq!(provider.asked(), 1);
    // Withdrawn, which is felt with the renewal.
    provider.has(&["b"]);
    tokio::time::advance(RENEW - Duration::from_secs(1)).await;
    assert!(good(&jwks, "a").await);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!good(&jwks, "a").await);
    assert!(good(&jwks, "b").await);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_asked_for_once_a_minute() {
    let (provider, jwks) = start(&["a"]);
    assert!(good(&jwks, "a").await);
    tokio::time::advance(UNKNOWN_KEY).await;
    provider.has(&["a", "b"]);
    assert!(good(&jwks, "b").await);
    assert_eq!(provider.asked(), 2);
    provider.has(&["c"]);
    for name in 0..1000 {
        assert_eq!(error(&jwks, &format!("x{name}")).await, JwksError::Bad(BadToken::Key));
    }
    assert_eq!(error(&jwks, "c").await, JwksError::Bad(BadToken::Key));
    assert_eq!(provider.asked(), 2);
    tokio::time::advance(UNKNOWN_KEY).await;
    assert!(good(&jwks, "c").await);
    assert!(!good(&jwks, "a").await);
    assert_eq!(provider.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_asked_for_once_a_minute_of_a_provider_that_is_away_too() {
    let (provider, jwks) = start(&["a"]);
    assert!(good(&jwks, "a").await);
    provider.away();
    tokio::time::advance(UNKNOWN_KEY).await;
    assert!(matches!(error(&jwks, "b").await, JwksError::Unavailable(_)));
    assert_eq!(provider.asked(), 2);
    for _ in 0..5 {
        tokio::time::advance(RETRY).await;
        assert!(matches!(error(&jwks, "b").await, JwksError::Unavailable(_)));
        assert!(good(&jwks, "a").await);
    }
    assert_eq!(provider.asked(), 2);
    provider.has(&["a", "b"]);
    tokio::time::advance(RETRY).await;
    assert!(good(&jwks, "b").await);
    assert_eq!(provider.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_good_costs_the_provider_nothing() {
    let (provider, jwks) = start(&["a"]);
    for bad in ["", "x.y.z", &"a".repeat(MAX_TOKEN_BYTES + 1), "eyJhbGciOiJIUzI1NiJ9.e30.AAAA"] {
        assert!(matches!(jwks.verify(bad, &Rules::default()).await, Err(JwksError::Bad(_))));
    }
    assert_eq!(provider.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn while_the_provider_is_away_the_last_set_counts_for_an_hour() {
    let (provider, jwks) = start(&["a"]);
    provider.away();
    for _ in 0..50 {
        assert!(matches!(error(&jwks, "a").await, JwksError::Unavailable(_)));
    }
    assert_eq!(provider.asked(), 1, "a failure counts too");
    provider.has(&["a"]);
    assert!(matches!(error(&jwks, "a").await, JwksError::Unavailable(_)));
    tokio::time::advance(RETRY).await;
    assert!(good(&jwks, "a").await);
    provider.away();
    tokio::time::advance(RENEW).await;
    for _ in 0..50 {
        assert!(good(&jwks, "a").await);
        // Whether there is such a key is not known now.
        assert!(matches!(error(&jwks, "b").await, JwksError::Unavailable(_)));
    }
    assert_eq!(provider.asked(), 3);
    tokio::time::advance(STALE - RENEW - Duration::from_secs(1)).await;
    assert!(good(&jwks, "a").await);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(matches!(error(&jwks, "a").await, JwksError::Unavailable(_)));
    provider.has(&["a"]);
    tokio::time::advance(RETRY).await;
    assert!(good(&jwks, "a").await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_set_does_not_replace_one() {
    let (provider, jwks) = start(&["a"]);
    assert!(good(&jwks, "a").await);
    *provider.answer.lock() = Some(json!({"keys": vec![json!({}); 65]}));
    tokio::time::advance(RENEW).await;
    assert!(good(&jwks, "a").await);
    *provider.answer.lock() = Some(json!({"error": "x"}));
    tokio::time::advance(RETRY).await;
    assert!(good(&jwks, "a").await);
    assert_eq!(provider.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn those_who_come_at_once_share_one_fetch() {
    let (provider, jwks) = start(&["a"]);
    *provider.slow.lock() = Duration::from_secs(1);
    // The first to ask goes away before there is an answer; the others get it.
    let impatient = tokio::spawn({
        let jwks = jwks.clone();
        async move { good(&jwks, "a").await }
    });
    tokio::task::yield_now().await;
    let others: Vec<_> = (0..20)
        .map(|_| {
            let jwks = jwks.clone();
            tokio::spawn(async move { good(&jwks, "a").await })
        })
        .collect();
    tokio::task::yield_now().await;
    impatient.abort();
    for other in others {
        assert!(other.await.unwrap());
    }
    assert_eq!(provider.asked(), 1);
}
