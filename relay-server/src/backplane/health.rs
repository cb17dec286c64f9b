//! Whether the other side answers: a deadline for each question, and a short pause after a failure, so that not
//! every frame waits for one that is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::metrics::Metrics;

/// How long whoever asks may have to wait.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);
/// How long the other side has of it. Shorter, so that a silence is noticed before whoever asked is gone.
const CALL: Duration = Duration::from_millis(1900);
/// How long nobody is asked after a failure.
const PAUSE: Duration = Duration::from_millis(700);
/// Answers in a row that say that something is wrong with the other side, after which nobody is asked: one alone may
/// be about the one question.
const UNWELL: u32 = 3;
/// After which a try whose end was never told counts as failed: its asker went away.
const FORGOTTEN: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The other side does not answer, or not so that it can be understood.
    #[error("{0}")]
    Away(String),
    /// It was asked of late and did not answer; nobody asks at the moment.
    #[error("it did not answer a moment ago")]
    Paused,
    /// It answers, and would not do this one thing.
    #[error("{0}")]
    Refused(String),
    /// It answers, that it cannot at the moment: this one thing, or anything.
    #[error("{0}")]
    Unwell(String),
}

impl Failure {
    /// Whether it says something of this one thing alone.
    pub(super) fn of_this_alone(&self) -> bool {
        matches!(self, Failure::Refused(_) | Failure::Unwell(_))
    }
}

/// Lets all through, or none, or one that tries. Pure: the time is a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaker {
    Closed,
    Open { until: Instant },
    Trying { until: Instant },
}

impl Breaker {
    fn admits(&mut self, now: Instant) -> bool {
        match *self {
            Breaker::Closed => true,
            Breaker::Open { until } | Breaker::Trying { until } => {
                let admitted = now >= until;
                if admitted {
                    *self = Breaker::Trying { until: now + FORGOTTEN };
                }
                admitted
            }
        }
    }

    fn paused(&self, now: Instant) -> bool {
        matches!(self, Breaker::Open { until } if now < *until)
    }
}

/// One other side's.
pub(super) struct Health {
    /// What it is called in the log.
    name: &'static str,
    breaker: Mutex<Breaker>,
    /// How often in a row it said that it cannot.
    unwell: AtomicU32,
    metrics: Arc<Metrics>,
    /// Told whenever it has come back.
    pub(super) returned: Notify,
}

impl Health {
    pub(super) fn new(name: &'static str, metrics: Arc<Metrics>) -> Self {
        Self {
            name,
            breaker: Mutex::new(Breaker::Closed),
            unwell: AtomicU32::new(0),
            metrics,
            returned: Notify::new(),
        }
    }

    /// Whether it did not answer a moment ago.
    pub(super) fn paused(&self) -> bool {
        self.breaker.lock().paused(Instant::now())
    }

    /// Asks, unless that is of no use at the moment; never for longer than [`CALL`].
    pub(super) async fn ask<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        if !self.breaker.lock().admits(Instant::now()) {
            return Err(Failure::Paused);
        }
        let begun = Instant::now();
        let late = || Err(Failure::Away(format!("no answer within {} ms", CALL.as_millis())));
        let result = tokio::time::timeout(CALL, work).await.unwrap_or_else(|_| late());
        self.metrics.took(operation, begun.elapsed());
        match &result {
            Ok(_) | Err(Failure::Refused(_)) => self.answered(),
            Err(failure) => self.failed(failure),
        }
        result
    }

    /// It gave a sign of life.
    pub(super) fn answered(&self) {
        self.unwell.store(0, Ordering::Relaxed);
        let before = std::mem::replace(&mut *self.breaker.lock(), Breaker::Closed);
        self.metrics.away(before != Breaker::Closed, false);
        if before != Breaker::Closed {
            tracing::info!(with = self.name, "the relays' common knowledge answers again");
            self.returned.notify_one();
        }
    }

    /// It did not, or not well. Whoever tries whether it has come back speaks for all.
    pub(super) fn failed(&self, failure: &Failure) {
        if matches!(failure, Failure::Unwell(_)) {
            let before = self.unwell.fetch_add(1, Ordering::Relaxed);
            if before.saturating_add(1) < UNWELL && *self.breaker.lock() == Breaker::Closed {
                return;
            }
        }
        let open = Breaker::Open { until: Instant::now() + PAUSE };
        let before = std::mem::replace(&mut *self.breaker.lock(), open);
        self.metrics.away(before != Breaker::Closed, true);
        if before == Breaker::Closed {
            tracing::warn!(with = self.name, %failure, "the relays' common knowledge does not answer; local traffic goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_one_tries_and_the_others_hear_at_once() {
        let health = Health::new("test", Arc::new(Metrics::new()));
        let good = || async { Ok::<_, Failure>(()) };
        assert_eq!(health.ask("question", good()).await, Ok(()));
        let begun = Instant::now();
        let never = std::future::pending::<Result<(), Failure>>();
        assert!(matches!(health.ask("question", never).await, Err(Failure::Away(_))));
        assert_eq!(begun.elapsed(), CALL);
        assert_eq!(health.ask("question", good()).await, Err(Failure::Paused));
        assert!(health.paused());
        tokio::time::advance(PAUSE).await;
        assert!(!health.paused());
        let (trying, other) = tokio::join!(
            health.ask("question", async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                good().await
            }),
            health.ask("question", good())
        );
        assert_eq!((trying, other), (Ok(()), Err(Failure::Paused)));
        assert_eq!(health.ask("question", good()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_that_it_cannot_answer_stops_no_others() {
        let health = Health::new("test", Arc::new(Metrics::new()));
        let unwell = || async { Err::<(), _>(Failure::Unwell("500".to_owned())) };
        let good = || async { Ok::<_, Failure>(()) };
        for _ in 0..10 {
            for _ in 1..UNWELL {
                assert!(matches!(health.ask("question", unwell()).await, Err(Failure::Unwell(_))));
                assert!(!health.paused());
            }
            assert_eq!(health.ask("question", good()).await, Ok(()));
        }
        for _ in 0..UNWELL {
            assert!(matches!(health.ask("question", unwell()).await, Err(Failure::Unwell(_))));
        }
        assert!(health.paused(), "that many in a row are not about one question");
        tokio::time::advance(PAUSE).await;
        assert!(matches!(health.ask("question", unwell()).await, Err(Failure::Unwell(_))));
        assert!(health.paused(), "still");
        tokio::time::advance(PAUSE).await;
        assert_eq!(health.ask("question", good()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_an_answer_and_a_try_that_was_dropped_is_forgotten() {
        let health = Health::new("test", Arc::new(Metrics::new()));
        let refused = || async { Err::<(), _>(Failure::Refused("no".to_owned())) };
        assert!(matches!(health.ask("question", refused()).await, Err(Failure::Refused(_))));
        assert!(!health.paused());
        health.failed(&Failure::Paused);
        tokio::time::advance(PAUSE).await;
        let dropped = health.ask("question", std::future::pending::<Result<(), Failure>>());
        assert!(tokio::time::timeout(Duration::from_millis(1), dropped).await.is_err());
        assert_eq!(health.ask("question", async { Ok(()) }).await, Err(Failure::Paused));
        tokio::time::advance(FORGOTTEN).await;
        assert_eq!(health.ask("question", async { Ok(()) }).await, Ok(()));
    }
}
