//! Which exchanges of a session have been done: each number is good once.

use crate::problem;
use std::collections::BTreeMap;

/// How many numbers below the highest are remembered one by one; those before them count as used.
pub const WINDOW: u64 = 65_536;

/// How many exchanges a sealed session takes (PROTOCOL.md section 5.1).
pub const MAX_SEALED_EXCHANGES: u64 = 1 << 20;

/// Why a number is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// It was used, or is older than what is remembered.
    #[error("the exchange has been done before")]
    Replayed,
    /// The session has had as many exchanges as it may have.
    #[error("the session takes no more exchanges")]
    UsedUp,
}

impl NumberError {
    /// The code of the problem that tells it.
    pub const fn code(self) -> problem::Code {
        match self {
            Self::Replayed => problem::Code::Replayed,
            Self::UsedUp => problem::Code::SigningSessionExpired,
        }
    }
}

/// The numbers of one session. Begins with nothing and holds at most one bit for each number of the window,
/// in words that are there only when a number of theirs is used.
#[derive(Debug)]
pub struct Numbers {
    words: BTreeMap<u64, u64>,
    highest: u64,
    left: u64,
}

impl Numbers {
    /// Of a sealed session: at most [`MAX_SEALED_EXCHANGES`].
    pub const fn sealed() -> Self {
        Self::with_limit(MAX_SEALED_EXCHANGES)
    }

    /// Of a signed session, which ends by time alone.
    pub const fn signed() -> Self {
        Self::with_limit(u64::MAX)
    }

    /// For at most this many exchanges.
    pub const fn with_limit(limit: u64) -> Self {
        Self { words: BTreeMap::new(), highest: 0, left: limit }
    }

    /// Where a number's bit is.
    const fn place(number: u64) -> (u64, u64) {
        (number / 64, 1 << (number % 64))
    }

    /// Whether a number could still be taken. Takes nothing: another may be faster.
    ///
    /// # Errors
    /// As [`Numbers::take`].
    pub fn check(&self, number: u64) -> Result<(), NumberError> {
        let (word, bit) = Self::place(number);
        let old = number < self.highest.saturating_sub(WINDOW);
        if old || self.words.get(&word).is_some_and(|bits| bits & bit != 0) {
            Err(NumberError::Replayed)
        } else if self.left == 0 {
            Err(NumberError::UsedUp)
        } else {
            Ok(())
        }
    }

    /// Whether no number is good any more.
    pub const fn is_used_up(&self) -> bool {
        self.left == 0
    }

    /// Uses a number. Call it only when the exchange's first record has opened.
    ///
    /// # Errors
    /// [`NumberError::Replayed`] when it was used or is too old to be sure; [`NumberError::UsedUp`] when the
    /// session has had its exchanges.
    pub fn take(&mut self, number: u64) -> Result<(), NumberError> {
        self.check(number)?;
        let (word, bit) = Self::place(number);
        *self.words.entry(word).or_default() |= bit;
        self.left -= 1;
        if number > self.highest {
            self.highest = number;
            let (first, _) = Self::place(number.saturating_sub(WINDOW));
            while self.words.first_key_value().is_some_and(|(word, _)| *word < first) {
                self.words.pop_first();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NumberError::{Replayed, UsedUp};
    use std::collections::HashSet;

    #[test]
    fn each_number_once_in_any_order() {
        let mut numbers = Numbers::sealed();
        for number in [0, 1, 7, 3, 64, 63, 65_536] {
            assert_eq!((numbers.check(number), numbers.take(number)), (Ok(()), Ok(())), "{number}");
            assert_eq!((numbers.check(number), numbers.take(number)), (Err(Replayed), Err(Replayed)));
        }
        assert_eq!(numbers.take(2), Ok(()), "skipped, and still within the window");
        assert_eq!(numbers.take(65_537), Ok(()));
        assert_eq!(numbers.take(4), Ok(()));
        assert_eq!(numbers.take(65_536 + 10), Ok(()));
        for (number, expected) in [(9, Err(Replayed)), (10, Ok(())), (11, Ok(()))] {
            assert_eq!(numbers.take(number), expected, "{number}");
        }
    }

    #[test]
    fn the_ends_of_the_numbers() {
        let mut numbers = Numbers::signed();
        assert_eq!(numbers.take(u64::MAX), Ok(()));
        assert_eq!(numbers.take(u64::MAX), Err(Replayed));
        assert_eq!(numbers.take(0), Err(Replayed));
        assert_eq!(numbers.take(u64::MAX - WINDOW - 1), Err(Replayed));
        assert_eq!(numbers.take(u64::MAX - WINDOW), Ok(()));
        assert_eq!(numbers.take(u64::MAX - WINDOW), Err(Replayed));
    }

    #[test]
    fn used_up() {
        let mut numbers = Numbers::with_limit(3);
        for number in [5, 0, 9] {
            assert_eq!(numbers.take(number), Ok(()));
        }
        assert_eq!(numbers.take(10), Err(UsedUp));
        assert_eq!(numbers.take(9), Err(Replayed), "what was done is still known as done");
        assert_eq!(UsedUp.code(), problem::Code::SigningSessionExpired);
    }

    #[test]
    fn memory_grows_with_use_and_stays_small() {
        let mut numbers = Numbers::sealed();
        assert!(numbers.words.is_empty());
        for number in 0..200_000 {
            assert_eq!(numbers.take(number), Ok(()));
            assert!(numbers.words.len() <= 1026);
        }
        assert_eq!(numbers.take(1 << 40), Ok(()));
        assert_eq!(numbers.words.len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn as_a_set_that_remembers_everything(steps in proptest::collection::vec(0_u64..200_000, 1..200)) {
            let (mut numbers, mut seen) = (Numbers::signed(), HashSet::new());
            let mut highest = 0;
            for step in steps {
                let fresh = step >= u64::saturating_sub(highest, WINDOW) && seen.insert(step);
                proptest::prop_assert_eq!(numbers.take(step).is_ok(), fresh);
                highest = highest.max(step);
            }
        }
    }
}
