//! Fetching frames from the platform, for ever. An answer that is broken, too long, late or nonsense stops nothing:
//! the next call follows after a wait.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{Platform, failure, said_no};
use crate::backplane::backoff::Backoff;
use crate::backplane::envelope::Envelope;
use crate::backplane::health::Failure;
use crate::backplane::inbox::Inbox;
use crate::backplane::replay::WINDOW_MS;
use crate::clock::unix_ms_i64;
use crate::outbound::CallError;

/// How long the platform may wait for a frame; with its way here and back less than the deadline of a call.
const WAIT_MS: u64 = 1500;
/// Frames in one answer.
const MOST: u64 = 64;
/// Between two calls, whatever the platform says: one that answers at once would be asked without end.
const PACE: Duration = Duration::from_millis(10);
/// Between two calls that brought nothing and did not wait either.
const IDLE_PACE: Duration = Duration::from_millis(250);

/// Beyond this leap the frames that follow are not tried at full speed any more.
const FARTHEST: i64 = 1 << 16;

/// The greatest number that everybody who reads JSON can tell from the next one.
const GREATEST: i64 = (1 << 53) - 1;
/// A leap beyond this is no number that the platform counted to: believing it would make us deaf to all that follow.
const LONGEST_LEAP: i64 = 1 << 32;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pull<'a> {
    relay_id: &'a str,
    since_id: i64,
    limit: u64,
    wait_ms: u64,
}

/// Each frame is read by itself, so that a bad one spoils no other.
#[derive(Deserialize)]
struct Pulled {
    ok: bool,
    #[serde(default)]
    frames: Vec<Box<RawValue>>,
}

/// What is read of a frame before it is believed: its number, which the platform gave it. Whatever else is wrong with
/// it, the next frames stand behind that number.
#[derive(Deserialize)]
struct Numbered {
    id: i64,
    #[serde(default, rename = "issuedAtMs", deserialize_with = "time")]
    issued_at_ms: i64,
}

/// A time that no relay gives counts as none: it would be newer than all that ever follow.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let time = Value::deserialize(deserializer)?.as_i64().unwrap_or_default();
    Ok(if time <= unix_ms_i64().saturating_add(WINDOW_MS) { time } else { 0 })
}

/// Where we are in the platform's numbers. Pure.
#[derive(Debug, PartialEq, Eq)]
struct Position {
    /// Up to here all was had.
    since: i64,
    limit: u64,
    /// How far behind that to look, because no answer can hold what follows.
    ahead: i64,
    /// When the newest frame that was seen was issued.
    newest_ms: i64,
    /// A call failed: the platform may have begun its numbers anew.
    doubtful: bool,
}

impl Position {
    fn new() -> Self {
        Self { since: 0, limit: MOST, ahead: 0, newest_ms: 0, doubtful: false }
    }

    /// Where to ask from.
    fn asks(&self) -> i64 {
        self.since.saturating_add(self.ahead)
    }

    /// Whether a frame may have this number. Where the numbers are is not known before the first one.
    fn believes(&self, id: i64) -> bool {
        let from = self.asks();
        (0..=GREATEST).contains(&id) && (self.since == 0 || id.saturating_sub(from) <= LONGEST_LEAP)
    }

    /// An answer with these frames came. When there are none behind a leap, it may have gone too far, or whatever
    /// made every answer too long is over: back to where all was had.
    fn went_on(&mut self, frames: &[Numbered]) {
        for frame in frames {
            self.since = self.since.max(frame.id);
            self.newest_ms = self.newest_ms.max(frame.issued_at_ms);
        }
        if !frames.is_empty() || self.ahead == 0 {
            self.limit = (self.limit * 2).min(MOST);
        }
        self.ahead = 0;
    }

    /// The answer was too long. Fewer frames fit; when not even one does, one behind it is looked for. Its number is
    /// not known, so the leaps get longer.
    fn too_long(&mut self) {
        if self.limit > 1 {
            self.limit /= 2;
        } else {
            self.ahead = self.ahead.saturating_mul(2).max(1);
        }
    }

    /// Whether every answer is too long, wherever one looks: then it is not a frame that is.
    fn is_lost(&self) -> bool {
        self.ahead > FARTHEST
    }

    /// The oldest frame that there is, asked for after a failure. One that has a number which we have passed, and
    /// that was issued after all that we saw, has a number of a new count.
    fn oldest_is(&mut self, oldest: Option<&Numbered>) {
        self.doubtful = false;
        let anew =
            oldest.is_none_or(|oldest| oldest.id <= self.since && oldest.issued_at_ms > self.newest_ms);
        if anew {
            self.since = 0;
            self.ahead = 0;
        }
    }
}

impl Platform {
    /// Fetches frames until `stop`.
    pub(in crate::backplane) async fn pull(self: Arc<Self>, inbox: Arc<Inbox>, stop: CancellationToken) {
        let mut position = Position::new();
        let mut backoff = Backoff::default();
        loop {
            let begun = tokio::time::Instant::now();
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                result = self.pull_once(&mut position, &inbox) => result,
            };
            let wait = match result {
                Ok(frames) => {
                    self.health.answered();
                    backoff.reset();
                    let idle = frames == 0 && begun.elapsed() < IDLE_PACE;
                    if idle { IDLE_PACE } else { PACE }
                }
                Err(CallError::TooLarge(_)) => {
                    position.too_long();
                    if position.is_lost() { backoff.next(&mut rand::rng()) } else { PACE }
                }
                Err(error) => {
                    position.doubtful = true;
                    self.health.failed(&failure(error));
                    backoff.next(&mut rand::rng())
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One call; how many frames it brought.
    async fn pull_once(&self, position: &mut Position, inbox: &Inbox) -> Result<usize, CallError> {
        if position.doubtful && position.since > 0 {
            let oldest = match self.frames(0, 1, 0).await {
                Ok(frames) => frames.first().and_then(|frame| numbered(frame)),
                // One that no answer can hold. What is read twice is dropped, because it is no news.
                Err(CallError::TooLarge(_)) => None,
                Err(error) => return Err(error),
            };
            position.oldest_is(oldest.as_ref());
        }
        position.doubtful = false;
        let begun = tokio::time::Instant::now();
        let frames = self.frames(position.asks(), position.limit, WAIT_MS).await?;
        self.metrics.took("pull", begun.elapsed());
        let mut known = Vec::with_capacity(frames.len());
        for frame in &frames {
            match numbered(frame) {
                // One that was not asked for is had already. Whether a number is believed depends on those before this
                // answer: in it they have any order.
                Some(number) if number.id <= position.asks() => continue,
                Some(number) if position.believes(number.id) => known.push(number),
                _ => {
                    inbox.malformed();
                    continue;
                }
            }
            match serde_json::from_str::<Envelope>(frame.get()) {
                Ok(envelope) => inbox.take(envelope),
                Err(_) => inbox.malformed(),
            }
        }
        position.went_on(&known);
        Ok(known.len())
    }

    async fn frames(&self, since_id: i64, limit: u64, wait_ms: u64) -> Result<Vec<Box<RawValue>>, CallError> {
        let question = Pull { relay_id: &self.me.relay, since_id, limit, wait_ms };
        let answer: Pulled = self.post("bus/pull", &question).await?;
        if answer.ok { Ok(answer.frames) } else { Err(refused()) }
    }
}

fn numbered(frame: &RawValue) -> Option<Numbered> {
    serde_json::from_str(frame.get()).ok()
}

fn refused() -> CallError {
    match said_no("bus/pull") {
        Failure::Refused(text) => CallError::Failed(text),
        other => CallError::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: i64, issued_at_ms: i64) -> Numbered {
        Numbered { id, issued_at_ms }
    }

    #[test]
    fn numbers_only_grow_and_answers_that_are_too_long_get_shorter() {
        let mut position = Position::new();
        position.went_on(&[frame(7, 100), frame(9, 120), frame(8, 110)]);
        assert_eq!((position.since, position.newest_ms, position.limit), (9, 120, MOST));
        for expected in [32, 16, 8, 4, 2, 1] {
            position.too_long();
            assert_eq!((position.limit, position.since), (expected, 9));
        }
        for expected in [10, 11, 13, 17] {
            position.too_long();
            assert_eq!((position.limit, position.since, position.asks()), (1, 9, expected));
        }
        position.went_on(&[frame(30, 130)]);
        assert_eq!((position.limit, position.ahead, position.since), (2, 0, 30));
    }

    #[test]
    fn answers_that_were_all_too_long_lead_nowhere() {
        let mut position = Position::new();
        position.went_on(&[frame(9, 120)]);
        for _ in 0..1000 {
            position.too_long();
        }
        assert_eq!((position.since, position.asks(), position.is_lost()), (9, i64::MAX, true));
        position.went_on(&[]);
        assert_eq!((position.since, position.asks(), position.is_lost()), (9, 9, false));
        // One that is too long by itself and the last: it is passed over by one, again and again.
        position.too_long();
        assert_eq!(position.asks(), 10);
        position.went_on(&[]);
        position.too_long();
        position.went_on(&[frame(11, 130)]);
        assert_eq!((position.asks(), position.limit), (11, 2));
    }

    #[test]
    fn a_number_that_nobody_counted_to_is_not_believed() {
        let mut position = Position::new();
        for (id, expected) in
            [(0, true), (1 << 40, true), (GREATEST, true), (GREATEST + 1, false), (i64::MAX, false)]
        {
            assert_eq!(position.believes(id), expected, "at first, {id}");
        }
        position.went_on(&[frame(1 << 40, 100)]);
        let since = 1i64 << 40;
        for (id, expected) in [
            (since + 1, true),
            (since + LONGEST_LEAP, true),
            (since + LONGEST_LEAP + 1, false),
            (GREATEST, false),
            (i64::MAX, false),
            (-1, false),
        ] {
            assert_eq!(position.believes(id), expected, "{id}");
        }
    }

    #[test]
    fn a_frame_with_nonsense_around_its_number_has_one() {
        let now = unix_ms_i64();
        for (text, time) in [
            (format!(r#"{{"id":7,"issuedAtMs":{now}}}"#), now),
            (r#"{"id":7}"#.to_owned(), 0),
            (r#"{"id":7,"issuedAtMs":"now","payload":[]}"#.to_owned(), 0),
            (r#"{"id":7,"issuedAtMs":9223372036854775807}"#.to_owned(), 0),
            (r#"{"id":7,"issuedAtMs":1e300}"#.to_owned(), 0),
        ] {
            let raw = RawValue::from_string(text.clone()).unwrap();
            let found = numbered(&raw).map(|frame| (frame.id, frame.issued_at_ms));
            assert_eq!(found, Some((7, time)), "{text}");
        }
        assert!(numbered(&RawValue::from_string("{\"id\":\"7\"}".to_owned()).unwrap()).is_none());
    }

    #[test]
    fn numbers_that_began_anew_are_noticed() {
        let cases = [
            (None, 0),
            (Some(frame(3, 50)), 9),
            (Some(frame(3, 100)), 9),
            (Some(frame(3, 101)), 0),
            (Some(frame(10, 101)), 9),
        ];
        for (oldest, expected) in cases {
            let mut position = Position::new();
            position.went_on(&[frame(9, 100)]);
            position.doubtful = true;
            position.oldest_is(oldest.as_ref());
            assert_eq!((position.since, position.doubtful), (expected, false));
        }
    }
}
