//! Answers that are remembered for a moment, and questions that a crowd asks once.
//!
//! Whoever asks takes the lock of the question; who comes meanwhile waits for it and finds the answer there. The
//! lock is given back when its holder goes away, and the next one asks. A failure is not remembered: the pause of
//! [`super::health`] keeps the crowd from asking one after the other.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::health::{DEADLINE, Failure};
use super::{Holder, Pair, Unavailable};

/// Longest that something found is remembered.
const FOUND: Duration = Duration::from_secs(1);
/// Longest that nothing is remembered: who comes should be found soon, and nobody asks without end for who does not.
const NOTHING: Duration = Duration::from_millis(200);
/// Questions that are remembered.
const MOST: usize = 4096;

/// Whether an answer names somebody.
pub(super) trait Answer: Clone {
    fn found(&self) -> bool;
}

impl<T: Clone> Answer for Option<T> {
    fn found(&self) -> bool {
        self.is_some()
    }
}

impl<T: Clone> Answer for Vec<T> {
    fn found(&self) -> bool {
        !self.is_empty()
    }
}

type Slot<A> = Arc<tokio::sync::Mutex<Option<(A, Instant)>>>;

/// Where daemons are.
pub(super) type Daemons = Asked<Pair, Option<Holder>>;

/// Questions of one kind.
pub(super) struct Asked<Q, A> {
    slots: Mutex<HashMap<Q, Slot<A>>>,
    /// Whose answer led nowhere, of late.
    doubted: Mutex<HashSet<Q>>,
}

impl<Q: Clone + Eq + Hash, A: Answer> Asked<Q, A> {
    pub(super) fn new() -> Self {
        Self { slots: Mutex::default(), doubted: Mutex::default() }
    }

    /// What was answered is wrong: whoever asks next asks anew.
    pub(super) fn forget(&self, question: &Q) {
        self.slots.lock().remove(question);
    }

    /// What was answered led nowhere: it is forgotten, and whoever asks next hears that it is not known at the moment.
    pub(super) fn doubt(&self, question: &Q) {
        self.forget(question);
        let mut doubted = self.doubted.lock();
        // Most of these were asked again, and those that were not lose nothing.
        if doubted.len() >= MOST {
            doubted.clear();
        }
        doubted.insert(question.clone());
    }

    /// The answer as it is remembered, else as `ask` finds it. With `fresh`, one that was asked for after this call
    /// began.
    pub(super) async fn ask<F: Future<Output = Result<A, Failure>>>(
        &self,
        question: &Q,
        fresh: bool,
        ask: impl FnOnce() -> F,
    ) -> Result<A, Unavailable> {
        if self.doubted.lock().remove(question) {
            return Err(Unavailable);
        }
        let called = Instant::now();
        let answer = async {
            let slot = self.slot(question);
            let mut known = slot.lock().await;
            if let Some((answer, asked)) = &*known
                && (*asked >= called || !fresh && asked.elapsed() < remembered(answer))
            {
                return Ok(answer.clone());
            }
            let asked = Instant::now();
            *known = None;
            let answer = ask().await.map_err(|_| Unavailable)?;
            *known = Some((answer.clone(), asked));
            Ok(answer)
        };
        tokio::time::timeout(DEADLINE, answer).await.unwrap_or(Err(Unavailable))
    }

    fn slot(&self, question: &Q) -> Slot<A> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(question) {
            return slot.clone();
        }
        if slots.len() >= MOST {
            // Those that somebody waits for stay, so that a crowd stays one.
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1
                    || slot.try_lock().is_ok_and(|known| {
                        known.as_ref().is_some_and(|(answer, asked)| asked.elapsed() < remembered(answer))
                    })
            });
        }
        let slot = Slot::default();
        // All of them are young: this one is asked without being remembered.
        if slots.len() < MOST {
            slots.insert(question.clone(), slot.clone());
        }
        slot
    }
}

fn remembered(answer: &impl Answer) -> Duration {
    if answer.found() { FOUND } else { NOTHING }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Source {
        asked: AtomicUsize,
        answer: Mutex<Result<Option<u8>, Failure>>,
    }

    impl Source {
        fn new(answer: Result<Option<u8>, Failure>) -> Self {
            Self { asked: AtomicUsize::new(0), answer: Mutex::new(answer) }
        }

        async fn ask(&self) -> Result<Option<u8>, Failure> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.answer.lock().clone()
        }

        fn times(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_asks_once_and_again_when_the_time_is_over() {
        let (asked, source) = (Asked::new(), Source::new(Ok(Some(1))));
        let crowd = (0..100).map(|_| asked.ask(&"q", false, || source.ask()));
        let answers = futures_util::future::join_all(crowd).await;
        assert!(answers.iter().all(|answer| *answer == Ok(Some(1))));
        assert_eq!(source.times(), 1);
        *source.answer.lock() = Ok(None);
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Ok(Some(1)));
        tokio::time::advance(FOUND).await;
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Ok(None));
        *source.answer.lock() = Ok(Some(2));
        tokio::time::advance(NOTHING).await;
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Ok(Some(2)), "nothing is forgotten sooner");
    }

    #[tokio::test(start_paused = true)]
    async fn fresh_answers_are_asked_for_after_the_call() {
        let (asked, source) = (Asked::new(), Source::new(Ok(Some(1))));
        asked.ask(&"q", false, || source.ask()).await.unwrap();
        *source.answer.lock() = Ok(Some(2));
        tokio::time::advance(Duration::from_millis(1)).await;
        let crowd = (0..10).map(|_| asked.ask(&"q", true, || source.ask()));
        let answers = futures_util::future::join_all(crowd).await;
        assert!(answers.iter().all(|answer| *answer == Ok(Some(2))));
        assert_eq!(source.times(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_not_remembered_and_nobody_waits_for_ever() {
        let (asked, source) = (Asked::new(), Source::new(Err(Failure::Paused)));
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Err(Unavailable));
        *source.answer.lock() = Ok(Some(1));
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Ok(Some(1)));
        tokio::time::advance(FOUND).await;
        let begun = Instant::now();
        let never = std::future::pending::<Result<Option<u8>, Failure>>;
        let (first, second) = tokio::join!(asked.ask(&"q", false, never), asked.ask(&"q", false, never));
        assert_eq!((first, second), (Err(Unavailable), Err(Unavailable)));
        assert_eq!(begun.elapsed(), DEADLINE);
        // Whoever asked has gone away; the next one asks.
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Ok(Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_led_nowhere_is_forgotten_and_said_to_be_unknown_once() {
        let (asked, source) = (Asked::new(), Source::new(Ok(Some(1))));
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Ok(Some(1)));
        *source.answer.lock() = Ok(Some(2));
        asked.doubt(&"q");
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Err(Unavailable));
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Ok(Some(2)), "the old one is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_wrong_is_asked_for_anew() {
        let (asked, source) = (Asked::new(), Source::new(Ok(Some(1))));
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Ok(Some(1)));
        *source.answer.lock() = Ok(Some(2));
        asked.forget(&"another");
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Ok(Some(1)));
        asked.forget(&"q");
        assert_eq!(asked.ask(&"q", false, || source.ask()).await, Ok(Some(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let asked: Asked<usize, Option<u8>> = Asked::new();
        for question in 0..2 * MOST {
            asked.ask(&question, false, || async { Ok(Some(1)) }).await.unwrap();
        }
        assert_eq!(asked.slots.lock().len(), MOST);
        for question in 0..2 * MOST {
            asked.doubt(&question);
        }
        assert!(asked.doubted.lock().len() <= MOST);
        asked.doubted.lock().clear();
        for question in 0..MOST {
            asked.ask(&question, false, || async { Ok(Some(1)) }).await.unwrap();
        }
        tokio::time::advance(FOUND).await;
        asked.ask(&usize::MAX, false, || async { Ok(Some(1)) }).await.unwrap();
        assert_eq!(asked.slots.lock().len(), 1);
    }
}
