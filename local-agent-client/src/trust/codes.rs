//! The life of pairing codes (PROTOCOL.md section 3). Pure: the time and the code come in.
//!
//! Whoever asks is unknown until the proof is right, and may be the relay itself guessing. So one
//! code is outstanding at a time, it allows one guess, and it ends in one of the ways of [`Outcome`];
//! what happened to the last ones can be looked up by their number.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Seconds that a code lives.
pub const LIFE: i64 = 300;
/// Codes in an [`HOUR`]: more than a person needs, and few enough that guessing stays hopeless.
pub const PER_HOUR: usize = 10;
/// Seconds; also how long it is told that a code expired.
pub const HOUR: i64 = 3600;
/// Exchanges that may be begun with one code. Each has a state of its own.
pub const STARTS: usize = 8;
/// Seconds that the clock may be set back while a code is out. Further back, its age is not known any more.
const SET_BACK: i64 = 60;

/// Who asked for a code. It is good for no longer than they are.
#[derive(Debug, Clone)]
pub enum Issuer {
    /// The owner, on this machine.
    Owner,
    /// A paired browser; the token is cancelled when it is revoked.
    Browser(CancellationToken),
}

impl Issuer {
    /// Whether it may not pair anybody any more.
    pub fn is_revoked(&self) -> bool {
        match self {
            Self::Owner => false,
            Self::Browser(revoked) => revoked.is_cancelled(),
        }
    }
}

/// How a code ended. In JSON the variant is the field `outcome`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// A browser was paired with it.
    Paired {
        /// The browser's id.
        id: Uuid,
        /// Its name.
        name: String,
        /// What both ends show: `3f2a 91bc 07de 55a1`.
        fingerprint: String,
    },
    /// A proof was wrong: a digit was mistyped, or somebody guessed.
    FailedGuess,
    /// Nobody used it in time.
    Expired,
    /// A newer one took its place.
    Replaced,
    /// Whoever asked for it does not want it any more.
    Withdrawn,
    /// The browser that asked for it was revoked.
    IssuerRevoked,
    /// The proof was right, and the browser could not be added all the same.
    NotAdded {
        /// Why.
        reason: String,
    },
}

/// Wrong proofs since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedGuesses {
    /// How many.
    pub count: u64,
    /// When the last one was, in Unix seconds.
    pub last_at: Option<i64>,
}

/// Too many codes within an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{PER_HOUR} codes were made within an hour; the next one is possible in {} min", (.next_at - .now + 59).max(60) / 60)]
pub struct TooManyCodes {
    /// When the next one is possible, in Unix seconds.
    pub next_at: i64,
    /// When it was asked for.
    pub now: i64,
}

/// Why there is no code to pair with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// None is shown, or the exchange is not one of it.
    NotOpen,
    /// It expired within the last hour.
    Expired,
    /// It was begun with [`STARTS`] times.
    Exhausted,
}

/// The outstanding code and what is remembered of earlier ones. `C` is the code, `S` what is kept of an
/// exchange that was begun.
#[derive(Debug)]
pub struct Codes<C, S> {
    open: Option<Open<C, S>>,
    /// When the codes of the last hour were made.
    made: VecDeque<i64>,
    last_number: u64,
    expired_at: Option<i64>,
    guesses: FailedGuesses,
}

#[derive(Debug)]
struct Open<C, S> {
    number: u64,
    by: Issuer,
    code: C,
    made_at: i64,
    ends_at: i64,
    /// Exchanges so far, finished ones too.
    starts: usize,
    begun: HashMap<Uuid, S>,
}

impl<C, S> Default for Codes<C, S> {
    fn default() -> Self {
        Self {
            open: None,
            made: VecDeque::new(),
            last_number: 0,
            expired_at: None,
            guesses: FailedGuesses::default(),
        }
    }
}

impl<C, S> Codes<C, S> {
    /// Takes `code` as the outstanding one and gives its number; the one before, if any, ends. Call
    /// [`Codes::expire`] first, so that it is known how that ended.
    ///
    /// # Errors
    /// When there were too many within the hour; the outstanding one stays then.
    pub fn issue(&mut self, code: C, now: i64) -> Result<u64, TooManyCodes> {
        self.issue_for(code, Issuer::Owner, LIFE, now)
    }

    /// The same for a code that somebody asked for, and that lives so many seconds, 1 to [`LIFE`].
    ///
    /// # Errors
    /// As [`Codes::issue`].
    pub fn issue_for(&mut self, code: C, by: Issuer, life: i64, now: i64) -> Result<u64, TooManyCodes> {
        // A time a little ahead was made by somebody whose `now` is a little younger, and counts; one far ahead is
        // of before the clock was set back.
        self.made.retain(|at| (-SET_BACK..HOUR).contains(&now.saturating_sub(*at)));
        if self.made.len() >= PER_HOUR {
            let oldest = self.made.iter().min().map_or(now, |at| (*at).min(now));
            return Err(TooManyCodes { next_at: oldest + HOUR, now });
        }
        self.made.push_back(now);
        self.last_number += 1;
        self.expired_at = None;
        self.open = Some(Open {
            number: self.last_number,
            by,
            code,
            made_at: now,
            ends_at: now.saturating_add(life.clamp(1, LIFE)),
            starts: 0,
            begun: HashMap::new(),
        });
        Ok(self.last_number)
    }

    /// Ends the outstanding code when its time is over, and gives its number.
    pub fn expire(&mut self, now: i64) -> Option<u64> {
        let over = self
            .open
            .as_ref()
            .is_some_and(|open| now >= open.ends_at || now < open.made_at.saturating_sub(SET_BACK));
        if !over {
            return None;
        }
        self.expired_at = Some(now);
        self.end()
    }

    /// Ends the outstanding code when who asked for it was revoked, and gives its number.
    pub fn disown(&mut self) -> Option<u64> {
        if self.open.as_ref().is_some_and(|open| open.by.is_revoked()) { self.end() } else { None }
    }

    /// Who asked for the outstanding code.
    pub fn issuer(&self) -> Option<&Issuer> {
        self.open.as_ref().map(|open| &open.by)
    }

    /// Ends the outstanding code, however that came, and gives its number.
    pub fn end(&mut self) -> Option<u64> {
        self.open.take().map(|open| open.number)
    }

    /// Ends the outstanding code because a proof was wrong, and gives its number.
    pub fn burn(&mut self, now: i64) -> Option<u64> {
        self.guesses.count += 1;
        self.guesses.last_at = Some(now);
        self.end()
    }

    /// The code to begin an exchange with.
    ///
    /// # Errors
    /// When there is none, or it has been begun with too often.
    pub fn code(&self, now: i64) -> Result<&C, Closed> {
        let open = self.open.as_ref().ok_or_else(|| self.closed(now))?;
        if open.starts >= STARTS { Err(Closed::Exhausted) } else { Ok(&open.code) }
    }

    /// Keeps what an exchange needs to be finished. Without an outstanding code it is dropped.
    pub fn begin(&mut self, id: Uuid, state: S) {
        if let Some(open) = &mut self.open
            && open.starts < STARTS
        {
            open.starts += 1;
            open.begun.insert(id, state);
        }
    }

    /// Gives what was kept of an exchange, once.
    ///
    /// # Errors
    /// When its code has ended, or there is no such exchange.
    pub fn take(&mut self, id: Uuid, now: i64) -> Result<S, Closed> {
        match &mut self.open {
            Some(open) => open.begun.remove(&id).ok_or(Closed::NotOpen),
            None => Err(self.closed(now)),
        }
    }

    /// The outstanding code's number and when it ends.
    pub fn outstanding(&self) -> Option<(u64, i64)> {
        self.open.as_ref().map(|open| (open.number, open.ends_at))
    }

    /// Wrong proofs so far.
    pub fn guesses(&self) -> FailedGuesses {
        self.guesses
    }

    fn closed(&self, now: i64) -> Closed {
        match self.expired_at {
            Some(at) if now.saturating_sub(at) < HOUR => Closed::Expired,
            _ => Closed::NotOpen,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn open() -> Codes<&'static str, u8> {
        let mut codes = Codes::default();
        assert_eq!(codes.issue("000111", NOW).unwrap(), 1);
        codes
    }

    #[test]
    fn a_code_lives_five_minutes_and_it_is_told_for_an_hour_that_it_expired() {
        // (seconds later, what an exchange finds)
        for (later, expected) in [
            (0, Ok(&"000111")),
            (LIFE - 1, Ok(&"000111")),
            (LIFE, Err(Closed::Expired)),
            (LIFE + HOUR - 1, Err(Closed::Expired)),
            // The clock was set back a little, or so far that the age is unknown.
            (-SET_BACK, Ok(&"000111")),
            (-SET_BACK - 1, Err(Closed::Expired)),
        ] {
            let mut codes = open();
            assert_eq!(codes.expire(NOW + later), expected.is_err().then_some(1), "{later}");
            assert_eq!(codes.code(NOW + later), expected, "{later}");
            assert_eq!(codes.expire(NOW + later), None, "told once");
        }
        let mut codes = open();
        assert_eq!(codes.expire(NOW + LIFE), Some(1));
        assert_eq!(codes.code(NOW + LIFE + HOUR), Err(Closed::NotOpen));
        codes.issue("222333", NOW + LIFE + 1).unwrap();
        assert_eq!(codes.end(), Some(2));
        assert_eq!(codes.code(NOW + LIFE + 2), Err(Closed::NotOpen), "the last one did not expire");
    }

    #[test]
    fn ten_an_hour() {
        let mut codes: Codes<usize, ()> = Codes::default();
        for number in 0..PER_HOUR {
            codes.issue(number, NOW + number as i64).unwrap();
        }
        let refused = codes.issue(99, NOW + 100).unwrap_err();
        assert_eq!(refused.next_at, NOW + HOUR);
        assert!(refused.to_string().contains("possible in 59 min"), "{refused}");
        assert_eq!(codes.code(NOW + 100), Ok(&(PER_HOUR - 1)), "the last one stays");
        assert!(codes.issue(99, NOW + HOUR - 1).is_err());
        assert_eq!(codes.issue(99, NOW + HOUR).unwrap(), PER_HOUR as u64 + 1);
        assert!(codes.issue(99, NOW + HOUR).is_err());
        // A clock that was set back does not lock the owner out.
        assert!(codes.issue(99, NOW - 100 * HOUR).is_ok());
    }

    #[test]
    fn whoever_looked_at_the_clock_a_little_earlier_gets_no_codes_beyond_the_ten() {
        // (seconds earlier, whether there is another code)
        for (earlier, another) in [(0, false), (1, false), (SET_BACK, false), (SET_BACK + 1, true)] {
            let mut codes: Codes<usize, ()> = Codes::default();
            for number in 0..PER_HOUR {
                codes.issue(number, NOW).unwrap();
            }
            let asked = codes.issue(99, NOW - earlier);
            assert_eq!(asked.is_ok(), another, "{earlier}");
            if let Err(refused) = asked {
                assert_eq!(refused.next_at, NOW - earlier + HOUR, "what is ahead counts as made now");
                assert!(codes.issue(99, NOW).is_err(), "nothing was forgotten");
            }
        }
    }

    #[test]
    fn a_code_is_good_for_no_longer_than_who_asked_for_it() {
        let revoked = CancellationToken::new();
        for by in [Issuer::Owner, Issuer::Browser(revoked.clone())] {
            let mut codes: Codes<_, u8> = Codes::default();
            codes.issue_for("000111", by, LIFE, NOW).unwrap();
            assert_eq!(codes.disown(), None);
            assert!(codes.code(NOW).is_ok());
        }
        revoked.cancel();
        let mut codes = open();
        assert_eq!(codes.disown(), None, "the owner is never revoked");
        let id = Uuid::new_v4();
        assert_eq!(codes.issue_for("222333", Issuer::Browser(revoked), LIFE, NOW).unwrap(), 2);
        codes.begin(id, 1);
        assert_eq!(codes.disown(), Some(2));
        assert_eq!((codes.disown(), codes.outstanding()), (None, None), "told once");
        assert_eq!(codes.code(NOW), Err(Closed::NotOpen));
        assert_eq!(codes.take(id, NOW), Err(Closed::NotOpen));
    }

    #[test]
    fn eight_exchanges_a_code_and_all_end_with_it() {
        let mut codes = open();
        let ids: Vec<Uuid> = (0..STARTS).map(|_| Uuid::new_v4()).collect();
        for (state, id) in ids.iter().enumerate() {
            assert!(codes.code(NOW).is_ok());
            codes.begin(*id, state as u8);
        }
        assert_eq!(codes.code(NOW), Err(Closed::Exhausted));
        codes.begin(Uuid::nil(), 9);
        assert_eq!(codes.take(Uuid::nil(), NOW), Err(Closed::NotOpen));
        assert_eq!(codes.take(ids[3], NOW), Ok(3));
        assert_eq!(codes.take(ids[3], NOW), Err(Closed::NotOpen), "there is no second guess");
        assert_eq!(codes.code(NOW), Err(Closed::Exhausted), "and no further start for it");
        let mut burned = codes;
        assert_eq!(burned.burn(NOW + 1), Some(1));
        assert_eq!(burned.take(ids[4], NOW + 1), Err(Closed::NotOpen));
        assert_eq!(burned.guesses(), FailedGuesses { count: 1, last_at: Some(NOW + 1) });
        assert_eq!(burned.outstanding(), None);
    }

    #[test]
    fn the_states_of_a_replaced_or_expired_code_are_gone() {
        let id = Uuid::new_v4();
        let mut codes = open();
        codes.begin(id, 1);
        assert_eq!(codes.issue("222333", NOW + 1).unwrap(), 2);
        assert_eq!(codes.outstanding(), Some((2, NOW + 1 + LIFE)));
        assert_eq!(codes.take(id, NOW + 1), Err(Closed::NotOpen), "it was of the code before");
        codes.begin(id, 1);
        assert_eq!(codes.expire(NOW + 1 + LIFE), Some(2));
        assert_eq!(codes.take(id, NOW + 1 + LIFE), Err(Closed::Expired));
        // Without a code nothing is kept.
        codes.begin(id, 1);
        assert_eq!(codes.take(id, NOW + 1 + LIFE), Err(Closed::Expired));
    }
}
